# SPDX-License-Identifier: MIT
"""I/O address spaces (struct iommufd_ioas) and their ioctls."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
from pyvfio.mock.iommufd.area import LAST, READ, WRITE
from pyvfio.mock.iommufd.command import Command, command
from pyvfio.mock.iommufd.dma_buf_pages import DmaBufPages
from pyvfio.mock.iommufd.iopt import IoPageTable
from pyvfio.mock.iommufd.object import Object
from pyvfio.mock.iommufd.pages import FilePages, Pages, UserPages
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.pci.dma_buf import DmaBuf

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context
    from pyvfio.mock.iommufd.hwpt import PagingHwpt

_FIXED, _WRITEABLE, _READABLE = (
    lib.IOMMU_IOAS_MAP_FIXED_IOVA, lib.IOMMU_IOAS_MAP_WRITEABLE, lib.IOMMU_IOAS_MAP_READABLE
)  # fmt: skip


class Ioas(Object):
    """An I/O address space.

    :ivar table: the mappings
    :ivar hwpts: the page tables of IOMMUs that map them
    """

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.table = IoPageTable(ctx.kernel.profile)
        self.hwpts: list[PagingHwpt] = []

    def destroyed(self) -> None:
        self.table.unmap(0, LAST)


@command(lib.IOMMU_IOAS_ALLOC, "struct iommu_ioas_alloc", "out_ioas_id")
def _alloc(ctx: Context, cmd: Command) -> None:
    """Create an address space (iommufd_ioas_alloc_ioctl)."""
    if cmd.c.flags:
        raise Errno(errno.EOPNOTSUPP)
    ioas = Ioas(ctx)
    cmd.c.out_ioas_id = ioas.id
    try:
        cmd.respond()
    except Errno:
        ctx.abort(ioas)
        raise


# Usable IOVAs.


@command(lib.IOMMU_IOAS_IOVA_RANGES, "struct iommu_ioas_iova_ranges", "out_iova_alignment")
def _iova_ranges(ctx: Context, cmd: Command) -> None:
    """Return the usable ranges (iommufd_ioas_iova_ranges)."""
    c = cmd.c
    if c.__reserved:
        raise Errno(errno.EOPNOTSUPP)
    table = ctx.get(c.ioas_id, Ioas).table
    room = c.num_iovas
    c.out_iova_alignment = table.alignment
    number = 0
    for start, last in table.usable():
        if number < room:
            entry = start.to_bytes(8, "little") + last.to_bytes(8, "little")
            caller.write(c.allowed_iovas + 16 * number, entry)
        number += 1
    c.num_iovas = number
    cmd.respond()
    if number > room:
        raise Errno(errno.EMSGSIZE)


@command(lib.IOMMU_IOAS_ALLOW_IOVAS, "struct iommu_ioas_allow_iovas", "allowed_iovas")
def _allow_iovas(ctx: Context, cmd: Command) -> None:
    """Limit the kernel's choice of IOVAs to ranges, and keep these from being reserved (iommufd_ioas_allow_iovas)."""
    c = cmd.c
    if c.__reserved:
        raise Errno(errno.EOPNOTSUPP)
    ioas = ctx.get(c.ioas_id, Ioas)
    ranges: list[tuple[int, int]] = []
    for index in range(c.num_iovas):
        entry = caller.take("struct iommu_iova_range", c.allowed_iovas + 16 * index)
        start, last = entry.start, entry.last
        if start >= last or any(a <= last and start <= b for a, b in ranges):
            raise Errno(errno.EINVAL)
        ranges.append((start, last))
    ioas.table.allow(ranges)


# Mapping.


def _checked_prot(flags: int, *numbers: int) -> int:
    if flags & ~(_FIXED | _WRITEABLE | _READABLE):
        raise Errno(errno.EOPNOTSUPP)
    if LAST in numbers:
        raise Errno(errno.EOVERFLOW)
    prot = (READ if flags & _READABLE else 0) | (WRITE if flags & _WRITEABLE else 0)
    if not prot:
        raise Errno(errno.EINVAL)
    return prot


@command(lib.IOMMU_IOAS_MAP, "struct iommu_ioas_map", "iova")
def _map(ctx: Context, cmd: Command) -> None:
    """Map memory (iommufd_ioas_map)."""
    c = cmd.c
    if c.__reserved:
        raise Errno(errno.EOPNOTSUPP)
    prot = _checked_prot(c.flags, c.iova, c.length)
    table = ctx.get(c.ioas_id, Ioas).table
    size, address = c.length, c.user_va
    pages = UserPages(ctx, address, size, writable=bool(prot & WRITE))
    place = c.iova if c.flags & _FIXED else None
    c.iova = table.map([(pages, address - pages.address, size)], size, place, prot)
    cmd.respond()


@command(lib.IOMMU_IOAS_MAP_FILE, "struct iommu_ioas_map_file", "iova")
def _map_file(ctx: Context, cmd: Command) -> None:
    """Map a memory file (iommufd_ioas_map_file)."""
    c = cmd.c
    prot = _checked_prot(c.flags, c.iova, c.length)
    table = ctx.get(c.ioas_id, Ioas).table
    size, start = c.length, c.start
    if not size:
        raise Errno(errno.EINVAL)
    if start + size - 1 > LAST:
        raise Errno(errno.EOVERFLOW)
    exported = ctx.kernel.files.get(c.fd)
    pages: Pages
    if isinstance(exported, DmaBuf):
        pages = DmaBufPages(ctx, exported, start, size, writable=bool(prot & WRITE))
    else:
        pages = FilePages(ctx, c.fd, start, size, writable=bool(prot & WRITE))
    place = c.iova if c.flags & _FIXED else None
    c.iova = table.map([(pages, start - pages.address, size)], size, place, prot)
    cmd.respond()


@command(lib.IOMMU_IOAS_COPY, "struct iommu_ioas_copy", "src_iova")
def _copy(ctx: Context, cmd: Command) -> None:
    """Map the memory that another address space has mapped (iommufd_ioas_copy)."""
    c = cmd.c
    prot = _checked_prot(c.flags, c.length, c.src_iova, c.dst_iova)
    slices = ctx.get(c.src_ioas_id, Ioas).table.slices(c.src_iova, c.length)
    table = ctx.get(c.dst_ioas_id, Ioas).table
    place = c.dst_iova if c.flags & _FIXED else None
    c.dst_iova = table.map(slices, c.length, place, prot)
    cmd.respond()


@command(lib.IOMMU_IOAS_UNMAP, "struct iommu_ioas_unmap", "length")
def _unmap(ctx: Context, cmd: Command) -> None:
    """Unmap a range (iommufd_ioas_unmap)."""
    c = cmd.c
    table = ctx.get(c.ioas_id, Ioas).table
    iova, size = c.iova, c.length
    if iova == 0 and size == LAST:
        done, error = table.unmap(0, LAST)
    else:
        if LAST in (iova, size):
            raise Errno(errno.EOVERFLOW)
        done, error = unmap_range(table, iova, size)
        if not error and not done:
            error = errno.ENOENT
    if error:
        raise Errno(error)
    c.length = done
    cmd.respond()


def unmap_range(table: IoPageTable, iova: int, size: int) -> tuple[int, int]:
    """Check a range that the caller gave, and unmap it; return the same as :meth:`IoPageTable.unmap`."""
    if not size:
        return 0, errno.EINVAL
    if iova + size - 1 > LAST:
        return 0, errno.EOVERFLOW
    return table.unmap(iova, iova + size - 1)


@command(lib.IOMMU_IOAS_NOIOMMU_GET_PA, "struct iommu_ioas_noiommu_get_pa", "out_phys")
def _get_pa(ctx: Context, cmd: Command) -> None:
    """Return the physical address of a page, without an IOMMU (iommufd_ioas_noiommu_get_pa)."""
    c = cmd.c
    if "CAP_SYS_RAWIO" not in ctx.kernel.capabilities:
        raise Errno(errno.EPERM)
    if c.flags or c.__reserved:
        raise Errno(errno.EOPNOTSUPP)
    if not c.length:
        raise Errno(errno.EINVAL)
    if c.iova == LAST:
        raise Errno(errno.EOVERFLOW)
    table = ctx.get(c.ioas_id, Ioas).table
    area = table.areas.at(c.iova)
    if area is None:
        raise Errno(errno.ENOENT)
    # Only the page tables of a machine without an IOMMU report physical addresses.
    if ctx.kernel.physical is None or not table.domains:
        raise Errno(errno.EOPNOTSUPP)
    page = ctx.kernel.profile.page_size
    c.out_phys = ctx.kernel.physical.address(area.pages, area.offset(c.iova))
    c.length = min(c.length, page - c.iova % page, area.last - c.iova + 1)
    cmd.respond()


@command(lib.IOMMU_IOAS_CHANGE_PROCESS, "struct iommu_ioas_change_process", "__reserved")
def _change_process(ctx: Context, cmd: Command) -> None:
    """Charge the locked pages of mapped files to this process (iommufd_ioas_change_process)."""
    if cmd.c.__reserved:
        raise Errno(errno.EOPNOTSUPP)
    for object_ in ctx.objects.values():
        if isinstance(object_, Ioas) and not all(area.pages.is_file for area in object_.table.areas):
            raise Errno(errno.EINVAL)
    # Nothing to charge: the mock has only one process.


# Options.


@command(lib.IOMMU_OPTION, "struct iommu_option", "val64")
def _option(ctx: Context, cmd: Command) -> None:
    """Get or set an option (iommufd_option)."""
    c = cmd.c
    if c.__reserved or c.option_id not in (lib.IOMMU_OPTION_RLIMIT_MODE, lib.IOMMU_OPTION_HUGE_PAGES):
        raise Errno(errno.EOPNOTSUPP)
    if c.option_id == lib.IOMMU_OPTION_RLIMIT_MODE:
        _rlimit_mode(ctx, c)
    else:
        _huge_pages(ctx.get(c.object_id, Ioas), c)
    caller.write(cmd.address + ffi.offsetof("struct iommu_option", "val64"), c.val64.to_bytes(8, "little"))


def _rlimit_mode(ctx: Context, c: Any) -> None:
    if c.object_id:
        raise Errno(errno.EOPNOTSUPP)
    if c.op == lib.IOMMU_OPTION_OP_GET:
        c.val64 = ctx.account_by_process
    elif c.op == lib.IOMMU_OPTION_OP_SET:
        if "CAP_SYS_RESOURCE" not in ctx.kernel.capabilities:
            raise Errno(errno.EPERM)
        if ctx.objects:
            raise Errno(errno.EBUSY)
        if c.val64 > 1:
            raise Errno(errno.EINVAL)
        ctx.account_by_process = bool(c.val64)
    else:
        raise Errno(errno.EOPNOTSUPP)


def _huge_pages(ioas: Ioas, c: Any) -> None:
    if c.op == lib.IOMMU_OPTION_OP_GET:
        c.val64 = ioas.table.huge_pages
    elif c.op == lib.IOMMU_OPTION_OP_SET:
        if c.val64 > 1:
            raise Errno(errno.EINVAL)
        ioas.table.use_huge_pages(bool(c.val64))
    else:
        raise Errno(errno.EOPNOTSUPP)
