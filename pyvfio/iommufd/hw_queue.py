"""A queue in a guest's memory that the IOMMU's hardware reads by itself."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._core.request import Request
from pyvfio.iommufd.object import IOMMUFD, IommufdObject

if TYPE_CHECKING:
    from pyvfio.iommufd.viommu import Viommu


ALLOC = Request(
    "IOMMU_HW_QUEUE_ALLOC",
    "iommufd",
    "struct iommu_hw_queue_alloc",
    errnos={
        errno.ENOENT: "nothing is mapped at the queue's IOVA, or not all of it",
        errno.EEXIST: "there is a queue of that index already",
        errno.EOPNOTSUPP: "the virtual IOMMU has no such queues",
        errno.EINVAL: "the index, the IOVA or the size is not what the hardware accepts",
        errno.EIO: "the queue's memory is not contiguous, or the hardware did not accept the queue",
    },
    otherwise=IOMMUFD,
)


class HwQueue(IommufdObject):
    """Made by :meth:`Viommu.hw_queue`. The memory of the queue cannot be unmapped while it is there."""

    def __init__(self, viommu: Viommu, type: int, index: int, iova: int, size: int) -> None:
        native = ALLOC.call(
            viommu.iommufd.descriptor,
            viommu_id=viommu.id,
            type=type,
            index=index,
            nesting_parent_iova=iova,
            length=size,
        )
        super().__init__(viommu.iommufd, native.out_hw_queue_id, viommu)
        self.index = index
