# SPDX-License-Identifier: MIT
"""QEMU's IOVA tree (util/iova-tree.c), on which dirty tracking by a record of every mapping was to be built.

Proposed for VFIO in 2023 and dropped for two, then three, ranges; in QEMU 10.2 only vhost-vdpa's shadow queues use the
tree. Its sizes are *inclusive*: an entry of size 0xfff is one page.
"""

from __future__ import annotations

import errno
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.guest.sections import MemorySection

_LAST = 2**64 - 1


class Permission(IntEnum):
    """IOMMUAccessFlags."""

    NONE = 0
    RO = 1
    WO = 2
    RW = 3


class Result(IntEnum):
    """The result of an insertion."""

    IOVA_OK = 0
    IOVA_ERR_INVALID = -1
    IOVA_ERR_OVERLAP = -2
    IOVA_ERR_NOMEM = -3

    @property
    def errno(self) -> int:
        """The errno that the v2 series of VFIO returned for it."""
        return {0: 0, -1: errno.EINVAL, -2: errno.EEXIST, -3: errno.ENOMEM}[self.value]

    def __str__(self) -> str:
        return f"{self.name}({self.value})"


class Entry(NamedTuple):
    """One mapping."""

    iova: int
    size: int
    """Inclusive: bytes less one."""
    permission: Permission = Permission.RW

    @property
    def last(self) -> int:
        """The last address."""
        return self.iova + self.size


class IovaTree:
    """The record of mappings that the v2 series kept: each DMA map inserts, each unmap removes."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def insert(self, iova: int, size: int, permission: Permission = Permission.RW) -> Result:
        """Add a mapping of `size + 1` bytes.

        INVALID if it wraps or has no permission, OVERLAP if any byte of it is there already.
        """
        iova, size = arguments.u64(iova, "iova"), arguments.u64(size, "size")
        permission = arguments.member(permission, "permission", Permission)
        entry = Entry(iova, size, permission)
        if iova + size > _LAST or permission is Permission.NONE:
            return Result.IOVA_ERR_INVALID
        first, end = self._overlapping(entry.iova, entry.last)
        if first < end:
            return Result.IOVA_ERR_OVERLAP
        self._entries.insert(first, entry)
        return Result.IOVA_OK

    def remove(self, iova: int, size: int) -> list[Entry]:
        """Drop every entry that overlaps these `size + 1` bytes, whole: nothing is split. Return the dropped ones."""
        iova, size = arguments.u64(iova, "iova"), arguments.u64(size, "size")
        first, end = self._overlapping(iova, iova + size)
        gone = self._entries[first:end]
        del self._entries[first:end]
        return gone

    def _overlapping(self, iova: int, last: int) -> tuple[int, int]:
        """Return the slice of the entries that overlap these addresses; they are sorted, and none overlaps another."""
        first = bisect_left(self._entries, iova, key=lambda entry: entry.last)
        return first, max(first, bisect_right(self._entries, last, key=lambda entry: entry.iova))

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


class WipSection(NamedTuple):
    """A section as the work in progress of 2 March 2023 saw it."""

    out_end: int
    """The helper's end: *exclusive* in this patch, inclusive in the merged version."""
    tree_size: int
    """The size that the tree variant inserted, inclusive."""
    range_min: int
    """The lowest address of the single-range variant: it began at 0 and so never moved."""
    range_max: int
    """The highest address of the single-range variant: an exclusive end."""
    mapping_add: str
    """The tree variant's trace line."""


def wip_section(section: MemorySection, page_size: int = 4096) -> WipSection:
    """Return one section as both work-in-progress patches of 2 March 2023 saw it."""
    section = arguments.instance(section, "section", MemorySection)
    page_size = arguments.integer(page_size, "page_size", 1, 2**63)
    start = -(-section.iova // page_size) * page_size
    end = (section.iova + section.size) // page_size * page_size
    return WipSection(end, end - start - 1, 0, end, f"mapping_add 0x{start:x} - 0x{end - 1:x} err=0")
