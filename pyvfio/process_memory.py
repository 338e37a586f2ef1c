# SPDX-License-Identifier: MIT
"""The memory of this process as /proc shows it: the areas at an address, their files, and the free space behind them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

#: file systems in memory, whose pages devices may write
_IN_MEMORY = frozenset({"tmpfs", "devtmpfs", "hugetlbfs", "ramfs"})
_POOLS = "/sys/kernel/mm/hugepages"


class Backing(NamedTuple):
    """One area of this process's address space (a line of /proc/self/maps).

    :ivar start: its first address; `last`: its last
    :ivar path: the path of the mapped file, as the kernel names it; empty for anonymous memory
    :ivar offset: the offset of the area's first byte in the file
    :ivar size: bytes of the file; None if unknown
    :ivar free: free bytes of its file system, or of the pool of huge pages; None if unknown
    :ivar huge: whether it consists of huge pages
    :ivar on_disk: whether it is a file of a file system that is not in memory
    """

    start: int
    last: int
    readable: bool
    writable: bool
    path: str = ""
    offset: int = 0
    size: int | None = None
    free: int | None = None
    huge: bool = False
    on_disk: bool = False

    @property
    def is_device(self) -> bool:
        """Whether it is a region of a VFIO device, which has no pages."""
        return self.path.startswith(("anon_inode:[vfio-device]", "/dev/vfio/"))


def backing(address: int, size: int) -> tuple[Backing, ...]:
    """Return the areas that are mapped at these addresses, in order; gaps between them have no entry."""
    with open("/proc/self/maps") as maps:
        return tuple(found for line in maps if (found := _area(line, address, address + size - 1)) is not None)


def _area(line: str, first: int, last: int) -> Backing | None:
    """Return the area of a line of /proc/self/maps, if it overlaps the addresses from first to last."""
    words = line.rstrip("\n").split(maxsplit=5)
    start, end = (int(word, 16) for word in words[0].split("-"))
    if end <= first or start > last:
        return None
    path = words[5] if len(words) > 5 else ""
    area = Backing(start, end - 1, words[1][0] == "r", words[1][1] == "w", path, int(words[2], 16))
    if path.startswith("/anon_hugepage"):
        return area._replace(huge=True, free=_free_huge(area.start))
    if area.is_device or not int(words[4]):
        return area
    with suppress(OSError):
        major, minor = (int(number, 16) for number in words[3].split(":"))
        area = _of_file(area, major, minor, int(words[4]))
    return area


def _of_file(area: Backing, major: int, minor: int, inode: int) -> Backing:
    """Add the facts about an area's file.

    The path may name another file by now, and an unlinked file has none, so the descriptors of this process are searched too.
    """
    for path in _paths(area.path):
        try:
            found = os.stat(path)
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (os.makedev(major, minor), inode):
            space = os.statvfs(path)
            huge = space.f_bsize > os.sysconf("SC_PAGE_SIZE") and _in_memory(major, minor)
            free = _free_pages(space.f_bsize) if huge else space.f_bavail * space.f_frsize if space.f_blocks else None
            return area._replace(size=found.st_size, free=free, huge=huge, on_disk=not _in_memory(major, minor))
    return area


def _paths(path: str) -> Iterator[str]:
    yield path
    for number in os.listdir("/proc/self/fd"):
        yield f"/proc/self/fd/{number}"


def _in_memory(major: int, minor: int) -> bool:
    """Whether a file system is in memory. One that is not in mountinfo is: the kernel's internal tmpfs, with the files of memfd_create."""
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            left, _, right = line.partition(" - ")
            if left.split()[2] == f"{major}:{minor}":
                return right.split()[0] in _IN_MEMORY
    return True


def _free_huge(start: int) -> int | None:
    """Return the free bytes of the pool of huge pages that an anonymous area takes its pages from."""
    with suppress(OSError), open("/proc/self/smaps") as smaps:
        inside = False
        for line in smaps:
            if "-" in line.split()[0]:
                inside = line.startswith(f"{start:x}-")
            elif inside and line.startswith("KernelPageSize:"):
                return _free_pages(int(line.split()[1]) << 10)
    return None


def _free_pages(size: int) -> int | None:
    with suppress(OSError), open(f"{_POOLS}/hugepages-{size >> 10}kB/free_hugepages") as pool:
        return int(pool.read()) * size
    return None
