# SPDX-License-Identifier: MIT
"""A virtual device (vdevice): a device behind a guest's virtual IOMMU."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pyvfio._core.request import Request
from pyvfio.iommufd.bound import BoundDevice, bound_of
from pyvfio.iommufd.object import IOMMUFD, IommufdObject

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.iommufd.viommu import Viommu

__all__ = ["Vdevice"]


ALLOC = Request(
    "IOMMU_VDEVICE_ALLOC",
    "iommufd",
    "struct iommu_vdevice_alloc",
    errnos={errno.EEXIST: "the device already has a virtual id, or another device has this virtual id"},
    otherwise=IOMMUFD,
)


class Vdevice(IommufdObject):
    """A device behind a virtual IOMMU. Made by :meth:`Viommu.vdevice`.

    :ivar virtual_id: the id that the guest uses for the device
    """

    def __init__(self, viommu: Viommu, device: Device | BoundDevice, virtual_id: int) -> None:
        super().__init__(viommu.iommufd, viommu)
        self.virtual_id = virtual_id
        fields: dict[str, Any] = {"viommu_id": viommu.id, "dev_id": bound_of(device).id, "virt_id": virtual_id}
        self._allocate(ALLOC, ALLOC.new(**fields), fields, out_vdevice_id=self._object)
