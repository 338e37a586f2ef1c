# SPDX-License-Identifier: MIT
"""A hardware queue: a queue in guest memory that the IOMMU hardware reads directly."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pyvfio._core.request import Request
from pyvfio.iommufd.object import IOMMUFD, IommufdObject

if TYPE_CHECKING:
    from pyvfio.iommufd.viommu import Viommu

__all__ = ["HwQueue"]


ALLOC = Request(
    "IOMMU_HW_QUEUE_ALLOC",
    "iommufd",
    "struct iommu_hw_queue_alloc",
    errnos={
        errno.ENOENT: "the queue's memory is not mapped, or not completely",
        errno.EEXIST: "there is already a queue of that index",
        errno.EOPNOTSUPP: "the virtual IOMMU has no such queues",
        errno.EINVAL: "the hardware does not accept the index, the IOVA or the size",
        errno.EIO: "the queue's memory is not contiguous, or the hardware did not accept the queue",
    },
    otherwise=IOMMUFD,
)


class HwQueue(IommufdObject):
    """A hardware queue. Made by :meth:`Viommu.hw_queue`. Its memory cannot be unmapped while the queue exists."""

    def __init__(self, viommu: Viommu, type: int, index: int, iova: int, size: int) -> None:
        super().__init__(viommu.iommufd, viommu)
        self.index = index
        fields: dict[str, Any] = {
            "viommu_id": viommu.id,
            "type": type,
            "index": index,
            "nesting_parent_iova": iova,
            "length": size,
        }
        self._allocate(ALLOC, ALLOC.new(**fields), fields, out_hw_queue_id=self._object)
