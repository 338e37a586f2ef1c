# SPDX-License-Identifier: MIT
"""The ioctls of page tables (hw_pagetable.c). This module knows all objects on which a page table can be created."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pyvfio._abi import lib
from pyvfio.mock.iommufd.area import LAST
from pyvfio.mock.iommufd.bound import BoundDevice
from pyvfio.mock.iommufd.command import Command, command
from pyvfio.mock.iommufd.fault_queue import FaultQueue
from pyvfio.mock.iommufd.hwpt import Hwpt, PagingHwpt
from pyvfio.mock.iommufd.ioas import Ioas
from pyvfio.mock.iommufd.nested import NestedHwpt
from pyvfio.mock.iommufd.object import Object
from pyvfio.mock.iommufd.user_data import UserArray, UserData
from pyvfio.mock.iommufd.viommu import Viommu
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.iova_bitmap import IovaBitmap

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context

_MOST_ENTRIES = 1 << 19
_FAULT, _NEST, _PASID = lib.IOMMU_HWPT_FAULT_ID_VALID, lib.IOMMU_HWPT_ALLOC_NEST_PARENT, lib.IOMMU_HWPT_ALLOC_PASID


@command(lib.IOMMU_HWPT_ALLOC, "struct iommu_hwpt_alloc", "__reserved")
def _alloc(ctx: Context, cmd: Command) -> None:
    """Create a page table (iommufd_hwpt_alloc)."""
    c = cmd.c
    if c.__reserved:
        raise Errno(errno.EOPNOTSUPP)
    if (c.data_type == lib.IOMMU_HWPT_DATA_NONE) != (not c.data_len):
        raise Errno(errno.EINVAL)
    device = ctx.get(c.dev_id, BoundDevice)
    try:
        parent = ctx.get(c.pt_id)
    except Errno:
        raise Errno(errno.EINVAL) from None
    hwpt = _made(parent, device, c)
    try:
        if c.flags & _FAULT:
            hwpt.fault_queue = ctx.get(c.fault_id, FaultQueue)
            hwpt.fault_queue.users += 1
        c.out_hwpt_id = hwpt.id
        cmd.respond()
    except Errno:
        ctx.remove(hwpt)
        raise


def _made(parent: Object, device: BoundDevice, c: Any) -> Hwpt:
    driver = device.driver
    data = UserData(c.data_type, c.data_uptr, c.data_len)
    if isinstance(parent, Ioas):
        if c.flags & _FAULT and c.flags & _NEST:
            raise Errno(errno.EOPNOTSUPP)
        # iommufd_hwpt_paging_alloc clears IOMMU_HWPT_FAULT_ID_VALID before it calls domain_alloc_paging_flags. A driver
        # without that function accepts no flags at all.
        driver.check_paging(c.flags & ~_FAULT if driver.flags else c.flags, data)
        return PagingHwpt(parent, c.flags, device, data=data)
    if not isinstance(parent, PagingHwpt | Viommu) or (
        isinstance(parent, Viommu) and type(parent.driver) is not type(driver)
    ):
        raise Errno(errno.EINVAL)
    if c.flags & ~(_FAULT | _PASID) or not c.data_len or not driver.nests:
        raise Errno(errno.EOPNOTSUPP)
    if isinstance(parent, PagingHwpt) and (
        parent.automatic or not parent.nest_parent or type(parent.driver) is not type(driver)
    ):
        raise Errno(errno.EINVAL)
    return NestedHwpt(parent, c.flags, driver.nested(data))


@command(lib.IOMMU_HWPT_SET_DIRTY_TRACKING, "struct iommu_hwpt_set_dirty_tracking", "__reserved")
def _set_dirty_tracking(ctx: Context, cmd: Command) -> None:
    """Enable or disable dirty tracking (iommufd_hwpt_set_dirty_tracking)."""
    c = cmd.c
    if c.flags & ~lib.IOMMU_HWPT_DIRTY_TRACKING_ENABLE:
        raise Errno(errno.EOPNOTSUPP)
    hwpt = ctx.get(c.hwpt_id, PagingHwpt)
    hwpt.domain.track(bool(c.flags))


@command(lib.IOMMU_HWPT_GET_DIRTY_BITMAP, "struct iommu_hwpt_get_dirty_bitmap", "data")
def _get_dirty_bitmap(ctx: Context, cmd: Command) -> None:
    """Report dirty pages (iommufd_hwpt_get_dirty_bitmap)."""
    c = cmd.c
    if c.flags & ~lib.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR or c.__reserved:
        raise Errno(errno.EOPNOTSUPP)
    hwpt = ctx.get(c.hwpt_id, PagingHwpt)
    iova, size, page_size = c.iova, c.length, c.page_size
    if not size:
        raise Errno(errno.EINVAL)
    last = iova + size - 1
    if last > LAST:
        raise Errno(errno.EOVERFLOW)
    ends = iova | (last + 1 & LAST)
    if ends & hwpt.ioas.table.alignment - 1 or not page_size or ends & page_size - 1:
        raise Errno(errno.EINVAL)
    if not hwpt.domain.tracks:
        raise Errno(errno.EOPNOTSUPP)
    # If the bitmap is not writable, the ioctl still succeeds, and the dirty bits are lost.
    bitmap = IovaBitmap(iova, size, page_size, c.data)
    for start, length in hwpt.domain.dirty(iova, last, clear=not c.flags):
        bitmap.set(start, length)
    bitmap.flush()


@command(lib.IOMMU_HWPT_INVALIDATE, "struct iommu_hwpt_invalidate", "__reserved")
def _invalidate(ctx: Context, cmd: Command) -> None:
    """Invalidate caches of a nested page table or of a virtual IOMMU (iommufd_hwpt_invalidate)."""
    c = cmd.c
    done = 0
    try:
        if c.__reserved:
            raise Errno(errno.EOPNOTSUPP)
        page_size = ctx.kernel.profile.page_size
        if c.entry_num and (not c.data_uptr or not 0 < c.entry_len <= page_size or c.entry_num > _MOST_ENTRIES):
            raise Errno(errno.EINVAL)
        done, error = _invalidated(ctx.get(c.hwpt_id), UserArray(c.data_type, c.data_uptr, c.entry_len, c.entry_num))
        if error:
            raise Errno(error)
    finally:
        c.entry_num = done
        cmd.respond()


def _invalidated(object_: Object, array: UserArray) -> tuple[int, int]:
    if isinstance(object_, NestedHwpt):
        return object_.driver.invalidate_nested(object_, array)
    if isinstance(object_, Viommu):
        return object_.driver.invalidate_viommu(object_, array)
    return 0, errno.EINVAL
