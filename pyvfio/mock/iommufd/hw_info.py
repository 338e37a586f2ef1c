"""What the IOMMU behind a device tells of itself."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock import caller
from pyvfio.mock.errno import Errno
from pyvfio.mock.iommufd.bound import BoundDevice
from pyvfio.mock.iommufd.command import Command, command

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context

#: type and data of each kind of IOMMU, as QEMU's have them
_DATA = {
    "intel": (lib.IOMMU_HW_INFO_TYPE_INTEL_VTD, struct.pack("=2I2Q", 0, 0, 0xD2008C22260206, 0xF00F4A)),
    "amd": (lib.IOMMU_HW_INFO_TYPE_AMD, struct.pack("=2Q", 0, 0)),
}


@command(lib.IOMMU_GET_HW_INFO, "struct iommu_hw_info", "__reserved")
def _get_hw_info(ctx: Context, cmd: Command) -> None:
    c = cmd.c
    if c.flags & ~lib.IOMMU_HW_INFO_FLAG_INPUT_TYPE or any(c.__reserved):
        raise Errno(errno.EOPNOTSUPP)
    wanted = c.in_data_type if c.flags & lib.IOMMU_HW_INFO_FLAG_INPUT_TYPE else lib.IOMMU_HW_INFO_TYPE_DEFAULT
    ctx.get(c.dev_id, BoundDevice)
    kind, data = _DATA.get(ctx.kernel.profile.iommu, (lib.IOMMU_HW_INFO_TYPE_NONE, b""))
    if data and wanted not in (lib.IOMMU_HW_INFO_TYPE_DEFAULT, kind):
        raise Errno(errno.EOPNOTSUPP)
    size = c.data_len
    caller.write(c.data_uptr, data[:size].ljust(size, b"\0"))
    c.out_data_type = kind
    c.data_len = len(data)
    c.out_capabilities = lib.IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED
    c.out_max_pasid_log2 = 0
    cmd.respond()
