# SPDX-License-Identifier: MIT
"""IOMMU_GET_HW_INFO: information about the IOMMU of a device."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.iommufd.bound import BoundDevice
from pyvfio.mock.iommufd.command import Command, command
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context


@command(lib.IOMMU_GET_HW_INFO, "struct iommu_hw_info", "__reserved")
def _get_hw_info(ctx: Context, cmd: Command) -> None:
    """Return type, data and capabilities of a device's IOMMU (iommufd_get_hw_info)."""
    c = cmd.c
    if c.flags & ~lib.IOMMU_HW_INFO_FLAG_INPUT_TYPE or any(c.__reserved):
        raise Errno(errno.EOPNOTSUPP)
    wanted = c.in_data_type if c.flags & lib.IOMMU_HW_INFO_FLAG_INPUT_TYPE else lib.IOMMU_HW_INFO_TYPE_DEFAULT
    driver = ctx.get(c.dev_id, BoundDevice).driver
    kind, data = driver.hw_info(wanted)
    caller.write(c.data_uptr, data[: c.data_len])
    fill(c.data_uptr + len(data), c.data_len - len(data))
    c.out_data_type = kind
    c.data_len = len(data)
    c.out_capabilities = lib.IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED
    if driver.dirty_tracking:
        c.out_capabilities |= lib.IOMMU_HW_CAP_DIRTY_TRACKING
    c.out_max_pasid_log2 = driver.pasid_bits
    cmd.respond()


def fill(address: int, size: int) -> None:
    """Write zeros to the caller's memory, as clear_user does."""
    while size > 0:
        part = min(size, 4096 - address % 4096)
        caller.write(address, bytes(part))
        address, size = address + part, size - part
