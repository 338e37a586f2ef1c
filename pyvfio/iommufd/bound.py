# SPDX-License-Identifier: MIT
"""A device that is bound to an iommufd, named by its `dev_id`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio._core.arguments import wrong_type
from pyvfio._core.request import Request
from pyvfio.iommufd.object import IOMMUFD, address

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.iommufd.iommufd import Iommufd

__all__ = ["BoundDevice", "HwInfo"]


GET_HW_INFO = Request(
    "IOMMU_GET_HW_INFO",
    "iommufd",
    "struct iommu_hw_info",
    errnos={
        errno.ENOENT: "the device is emulated and has no IOMMU",
        errno.EOPNOTSUPP: "the IOMMU's driver has no information of that type",
    },
    otherwise=IOMMUFD,
)


class HwInfo(NamedTuple):
    """The IOMMU of a device. IOMMU_GET_HW_INFO, `struct iommu_hw_info`.

    :ivar type: IOMMU_HW_INFO_TYPE_*; 0 when the driver reports nothing
    :ivar capabilities: IOMMU_HW_CAP_*
    :ivar max_pasid_log2: number of bits of the device's PASIDs; 0 without PASIDs
    :ivar data: the type's own struct in full, including fields that this library does not name
    """

    type: int
    capabilities: int
    max_pasid_log2: int
    data: bytes

    @property
    def dirty_tracking(self) -> bool:
        """Whether page tables of this IOMMU can track dirty pages."""
        return bool(self.capabilities & lib.IOMMU_HW_CAP_DIRTY_TRACKING)

    @property
    def decoded(self) -> Any:
        """The data as a pointer to the C struct of its type; None for types without a struct, and when it is too short."""
        kind = _DECODED.get(self.type)
        if kind is None or len(self.data) < ffi.sizeof(kind):
            return None
        return ffi.from_buffer(f"{kind} *", self.data)


_DECODED = {
    lib.IOMMU_HW_INFO_TYPE_INTEL_VTD: "struct iommu_hw_info_vtd",
    lib.IOMMU_HW_INFO_TYPE_ARM_SMMUV3: "struct iommu_hw_info_arm_smmuv3",
    lib.IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV: "struct iommu_hw_info_tegra241_cmdqv",
    lib.IOMMU_HW_INFO_TYPE_AMD: "struct iommu_hw_info_amd",
}


class BoundDevice:
    """A device that is bound to an iommufd until the device's descriptor is closed.

    :ivar iommufd: the Iommufd
    :ivar id: its device id in that Iommufd, the `dev_id` of requests
    :ivar name: its name in messages
    """

    def __init__(self, iommufd: Iommufd, id_: int, name: str) -> None:
        self.iommufd = iommufd
        self.id = id_
        self.name = name

    def hw_info(self, *, input_type: int | None = None) -> HwInfo:
        """Return the properties of the device's IOMMU. IOMMU_GET_HW_INFO, since Linux 6.6.

        :param input_type: ask for the data of that IOMMU_HW_INFO_TYPE_* instead of the default type; since Linux 6.17
        :raises OSError: ENOENT for emulated devices, which have no IOMMU; EOPNOTSUPP for a type that the IOMMU's driver lacks
        """
        size = 256
        while True:
            data = ffi.new("char[]", size)
            fields = {"flags": 0}
            if input_type is not None:
                fields = {"flags": lib.IOMMU_HW_INFO_FLAG_INPUT_TYPE, "in_data_type": input_type}
            native = GET_HW_INFO.call(
                self.iommufd.descriptor,
                dev_id=self.id,
                data_len=size,
                data_uptr=address(data),
                **fields,
            )
            if native.data_len <= size:
                break
            size = native.data_len  # the kernel reports the full length and fills only the given buffer
        return HwInfo(
            native.out_data_type,
            native.out_capabilities,
            native.out_max_pasid_log2,
            ffi.buffer(data, native.data_len)[:],
        )

    def __repr__(self) -> str:
        return f"<BoundDevice {self.id}: {self.name}>"


def bound_of(device: Device | BoundDevice) -> BoundDevice:
    """Return the bound device of a device.

    :raises Unsupported: the device was opened by group
    """
    if isinstance(device, BoundDevice):
        return device
    if not hasattr(device, "bound"):
        raise wrong_type(device, "device", "a pyvfio.Device")
    return device.bound
