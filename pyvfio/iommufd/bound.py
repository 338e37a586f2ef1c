"""A device as an iommufd knows it: what requests call `dev_id`."""

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


GET_HW_INFO = Request(
    "IOMMU_GET_HW_INFO",
    "iommufd",
    "struct iommu_hw_info",
    errnos={
        errno.ENOENT: "the device is emulated and has no IOMMU",
        errno.EOPNOTSUPP: "the IOMMU has no information of that type",
    },
    otherwise=IOMMUFD,
)


class HwInfo(NamedTuple):
    """IOMMU_GET_HW_INFO: the IOMMU behind a device, `struct iommu_hw_info`.

    :ivar type: IOMMU_HW_INFO_TYPE_*; 0 when the driver tells nothing
    :ivar capabilities: IOMMU_HW_CAP_*
    :ivar max_pasid_log2: the device's PASIDs have this many bits; 0 for none
    :ivar data: all bytes of the type's own struct, those too that this library has no name for
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
        """`data` as the C struct of its type (a pointer); None for types without one, and when it is too short."""
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
    """A device that is bound to an iommufd, until its own descriptor is closed.

    :ivar iommufd: the file
    :ivar id: its number there
    :ivar name: what messages call it
    """

    def __init__(self, iommufd: Iommufd, id_: int, name: str) -> None:
        self.iommufd = iommufd
        self.id = id_
        self.name = name

    def hw_info(self, *, input_type: int | None = None) -> HwInfo:
        """IOMMU_GET_HW_INFO, since Linux 6.6.

        :param input_type: ask for the data of that type (IOMMU_HW_INFO_TYPE_*) instead of the default one; since Linux 6.17
        :raises OSError: ENOENT for emulated devices, which have no IOMMU; EOPNOTSUPP for a type that it has not
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
            size = native.data_len  # it says how much there is, and has filled what there was room for
        return HwInfo(
            native.out_data_type,
            native.out_capabilities,
            native.out_max_pasid_log2,
            ffi.buffer(data, native.data_len)[:],
        )

    def __repr__(self) -> str:
        return f"<BoundDevice {self.id}: {self.name}>"


def bound_of(device: Device | BoundDevice) -> BoundDevice:
    """The bound device of a device.

    :raises Unsupported: it was opened by group
    """
    if isinstance(device, BoundDevice):
        return device
    if not hasattr(device, "bound"):
        raise wrong_type(device, "device", "a pyvfio.Device")
    return device.bound
