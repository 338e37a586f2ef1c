# SPDX-License-Identifier: MIT
"""VFIO's container ioctls on an iommufd (vfio_compat.c)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from pyvfio._abi import ffi, lib
from pyvfio.mock.iommufd.area import LAST, READ, WRITE
from pyvfio.mock.iommufd.bound import bind
from pyvfio.mock.iommufd.command import Command, command
from pyvfio.mock.iommufd.context import Context
from pyvfio.mock.iommufd.ioas import Ioas, unmap_range
from pyvfio.mock.iommufd.pages import UserPages
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.file import request

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.access import Access
    from pyvfio.mock.iommufd.bound import BoundDevice
    from pyvfio.mock.machine.kernel import Kernel
    from pyvfio.mock.vfio.device import Device
    from pyvfio.mock.vfio.group import Group

_INFO_SIZE = ffi.sizeof("struct vfio_iommu_type1_info")


class Iommufd(Context):
    """An open /dev/iommu, including the container ioctls."""

    kind = "iommufd"

    lets_go = True

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self._opened: dict[Device, BoundDevice | Access] = {}
        #: a group without an IOMMU has been added (ictx->no_iommu_mode)
        self._no_iommu = False

    # Groups.

    def attach_group(self, group: Group) -> None:
        if group.no_iommu:
            if self.vfio_ioas is not None:
                raise Errno(errno.EINVAL)
            self._no_iommu = True
        elif self._no_iommu:
            raise Errno(errno.EINVAL)
        elif self.vfio_ioas is None:
            self.vfio_ioas = Ioas(self)

    def detach_group(self, group: Group) -> None:
        pass

    def use(self, device: Device) -> None:
        if device.group.no_iommu:
            self.kernel.check_raw_io(device.group)
            if self.vfio_ioas is not None:
                raise Errno(errno.EPERM)
            return
        bound = bind(self, device)
        try:
            bound.attach(self.compat_ioas().id)
        except Errno:
            bound.unbind()
            raise
        self._opened[device] = bound

    def unuse(self, device: Device) -> None:
        if not device.group.no_iommu:
            self._opened.pop(device).unbind()

    # ioctls.

    @request(lib.VFIO_GET_API_VERSION)
    def _api_version(self, argument: int) -> int:
        """Return the version of VFIO (iommufd_vfio_ioctl)."""
        return lib.VFIO_API_VERSION

    @request(lib.VFIO_CHECK_EXTENSION)
    def _check_extension(self, argument: int) -> int:
        """Return whether an extension is supported (iommufd_vfio_check_extension)."""
        if argument == lib.VFIO_DMA_CC_IOMMU:
            backed = self.compat_ioas().hwpts
            return int(self.kernel.profile.coherent or not backed)
        if argument in (lib.VFIO_TYPE1_IOMMU, lib.VFIO_TYPE1v2_IOMMU, lib.VFIO_UNMAP_ALL):
            return int(not self._no_iommu)
        return int(argument == lib.VFIO_NOIOMMU_IOMMU)

    @request(lib.VFIO_SET_IOMMU)
    def _set_iommu(self, argument: int) -> None:
        """Choose the version of type1 to emulate (iommufd_vfio_set_iommu)."""
        if argument == lib.VFIO_NOIOMMU_IOMMU and self._no_iommu:
            if "CAP_SYS_RAWIO" not in self.kernel.capabilities:
                raise Errno(errno.EPERM)
            return
        if argument not in (lib.VFIO_TYPE1_IOMMU, lib.VFIO_TYPE1v2_IOMMU) or self._no_iommu:
            raise Errno(errno.EINVAL)
        ioas = self.compat_ioas()
        # Type1 v1 can unmap a part of a mapping, which huge pages would prevent (iopt_disable_large_pages).
        if argument == lib.VFIO_TYPE1_IOMMU:
            ioas.table.use_huge_pages(False)

    @request(lib.VFIO_IOMMU_MAP_DMA)
    def _map(self, argument: int) -> None:
        """Map memory as type1 does (iommufd_vfio_map_dma)."""
        native = caller.take("struct vfio_iommu_type1_dma_map", argument)
        flags = native.flags
        if native.argsz < ffi.sizeof(native[0]) or flags & ~(lib.VFIO_DMA_MAP_FLAG_READ | lib.VFIO_DMA_MAP_FLAG_WRITE):
            raise Errno(errno.EINVAL)
        prot = (READ if flags & lib.VFIO_DMA_MAP_FLAG_READ else 0) | (
            WRITE if flags & lib.VFIO_DMA_MAP_FLAG_WRITE else 0
        )
        table = self.compat_ioas().table
        pages = UserPages(self, native.vaddr, native.size, writable=bool(prot & WRITE))
        table.map([(pages, native.vaddr - pages.address, native.size)], native.size, native.iova, prot)

    @request(lib.VFIO_IOMMU_UNMAP_DMA)
    def _unmap(self, argument: int) -> None:
        """Unmap memory as type1 does (iommufd_vfio_unmap_dma)."""
        least = ffi.offsetof("struct vfio_iommu_type1_dma_unmap", "size") + 8
        native = caller.take("struct vfio_iommu_type1_dma_unmap", argument, least)
        if native.argsz < least or native.flags & ~lib.VFIO_DMA_UNMAP_FLAG_ALL:
            raise Errno(errno.EINVAL)
        table = self.compat_ioas().table
        iova, size = native.iova, native.size
        if native.flags & lib.VFIO_DMA_UNMAP_FLAG_ALL:
            if iova or size:
                raise Errno(errno.EINVAL)
            done, error = table.unmap(0, LAST)
        else:
            if not table.huge_pages:
                cuts = [iova + size - 1 & LAST, iova - 1]
                table.cut(cuts if iova else cuts[:1])
            done, error = unmap_range(table, iova, size)
        native.size = done
        caller.give(argument, native, least)
        if error:
            raise Errno(error)

    @request(lib.VFIO_IOMMU_GET_INFO)
    def _get_info(self, argument: int) -> None:
        """Return page sizes and usable ranges as type1 does (iommufd_vfio_iommu_get_info)."""
        least = ffi.offsetof("struct vfio_iommu_type1_info", "iova_pgsizes") + 8
        info = caller.take("struct vfio_iommu_type1_info", argument, least)
        room = info.argsz
        if room < least:
            raise Errno(errno.EINVAL)
        ioas = self.compat_ioas()
        available = struct.pack("=2HII", lib.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, 0, 2**32 - 1)
        usable = list(ioas.table.usable())
        ranges = struct.pack("=2H3I", lib.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, 0, len(usable), 0)
        ranges += b"".join(struct.pack("=2Q", *pair) for pair in usable)
        at = _INFO_SIZE
        previous = 0
        for capability in (available, ranges):
            self._put(argument, room, at, capability)
            if previous and room >= at:
                caller.write(argument + previous + 4, at.to_bytes(4, "little"))
            previous = at
            at += -(-len(capability) // 8) * 8
        info.flags = lib.VFIO_IOMMU_INFO_PGSIZES | lib.VFIO_IOMMU_INFO_CAPS
        info.iova_pgsizes = self._page_sizes(ioas)
        info.cap_offset = _INFO_SIZE if room >= at else 0
        info.argsz = at
        caller.give(argument, info, min(room, _INFO_SIZE))

    @staticmethod
    def _put(argument: int, room: int, at: int, capability: bytes) -> None:
        """Write a capability: all of it, or as many of its ranges as fit."""
        if room - at >= len(capability):
            caller.write(argument + at, capability)
        elif len(capability) > 16:
            for end in range(24 + 8, len(capability) + 1, 16):
                if room - at >= end:
                    caller.write(argument + at + end - 16, capability[end - 16 : end])

    def _page_sizes(self, ioas: Ioas) -> int:
        sizes = LAST
        for domain in ioas.table.domains:
            sizes &= domain.page_sizes
        page = self.kernel.profile.page_size
        if sizes & page - 1:
            sizes = sizes & -page | page
        return max(sizes, ioas.table.alignment)


@command(lib.IOMMU_VFIO_IOAS, "struct iommu_vfio_ioas", "__reserved")
def _vfio_ioas(ctx: Context, cmd: Command) -> None:
    """Get, set or clear the IOAS that the container ioctls use (iommufd_vfio_ioas)."""
    c = cmd.c
    if c.__reserved or c.op > lib.IOMMU_VFIO_IOAS_CLEAR:
        raise Errno(errno.EOPNOTSUPP)
    if c.op == lib.IOMMU_VFIO_IOAS_GET:
        c.ioas_id = ctx.compat_ioas().id
        cmd.respond()
    else:
        ctx.vfio_ioas = ctx.get(c.ioas_id, Ioas) if c.op == lib.IOMMU_VFIO_IOAS_SET else None
