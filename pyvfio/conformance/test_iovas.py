# SPDX-License-Identifier: MIT
"""Usable IOVAs, page sizes, and mappings at every edge."""

from __future__ import annotations

import errno
import mmap
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from pyvfio import DmaBuffer, IovaRange, IovaSet
from pyvfio.host import HostDevice, reserved_regions
from pyvfio.kernel import Kernel
from pyvfio.spaces.base import AddressSpace

#: the most edges of usable ranges that are tested
_MOST = 16


def usable(space: AddressSpace) -> IovaSet:
    """Return the usable ranges; skip the check if the kernel does not report them."""
    ranges = space.iova_ranges
    if ranges is None:
        pytest.skip("the kernel reports no usable ranges: emulated devices have none")
    return ranges


def page(space: AddressSpace) -> int:
    """Return the smallest page that can be mapped."""
    return max(space.page_sizes & -space.page_sizes, 4096)


def spread(times: list[float]) -> str:
    """Return the distribution of times in microseconds."""
    times = sorted(times)
    named = {"least": 0, "median": len(times) // 2, "99 %": len(times) * 99 // 100, "most": len(times) - 1}
    return ", ".join(f"{name} {times[index] * 1e6:.1f} us" for name, index in named.items())


def test_page_sizes_have_the_hosts(space: AddressSpace, limit: Callable[[str, object], None]) -> None:
    """The smallest page is not larger than the host's pages."""
    sizes = space.page_sizes
    limit("page sizes", f"{sizes:#x}")
    assert sizes
    assert sizes & -sizes <= mmap.PAGESIZE


def test_ranges_are_sorted_and_apart(space: AddressSpace, limit: Callable[[str, object], None]) -> None:
    """No two usable ranges touch; none is empty."""
    ranges = list(usable(space))
    limit("usable IOVAs", ", ".join(f"{one.start:#x}-{one.last:#x}" for one in ranges))
    assert ranges
    for one, following in pairwise(ranges):
        assert one.last + 1 < following.start


def test_usable_ranges_leave_reserved_regions_out(space: AddressSpace, found: HostDevice, kernel: Kernel) -> None:
    """No reserved region in sysfs overlaps the usable ranges, except those of type direct-relaxable."""
    ranges = usable(space)
    for region in reserved_regions(found.address, kernel):
        if region.type != "direct-relaxable":
            assert not ranges.overlaps(region.range), f"{region.range} ({region.type}) is reserved and usable"


def test_the_edges_of_every_range_can_be_mapped(space: AddressSpace) -> None:
    """The first and the last page of each usable range can be mapped."""
    size = page(space)
    for one in list(usable(space))[:_MOST]:
        for start in {-(-one.start // size) * size, (one.last + 1) // size * size - size}:
            if start < one.start or start + size - 1 > one.last:
                continue
            mapping = space.map(DmaBuffer(size), start)
            assert mapping.range == IovaRange.of(start, size)
            mapping.unmap()


def test_nothing_beside_the_ranges_can_be_mapped(space: AddressSpace, refused: Callable[..., Any]) -> None:
    """The page before each usable range, and the page behind it, cannot be mapped."""
    ranges, size = usable(space), page(space)
    buffer = DmaBuffer(size)
    for one in list(ranges)[:_MOST]:
        for start in (one.start - size, one.last + 1):
            if start < 0 or start + size > 1 << 64 or start % size or ranges.overlaps(IovaRange.of(start, size)):
                continue
            with refused(errno.EINVAL, errno.EADDRINUSE):
                space.map(buffer, start)


def test_a_mapping_across_the_end_of_a_range_is_refused(space: AddressSpace, refused: Callable[..., Any]) -> None:
    """A mapping of two pages, the second of which is not usable, is refused."""
    ranges, size = usable(space), page(space)
    buffer = DmaBuffer(2 * size)
    for one in list(ranges)[:_MOST]:
        start = (one.last + 1) // size * size - size
        if start < one.start or start + 2 * size > 1 << 64:
            continue
        with refused(errno.EINVAL, errno.EADDRINUSE, errno.EOVERFLOW):
            space.map(buffer, start)


def test_a_second_mapping_at_a_place_is_refused(space: AddressSpace, refused: Callable[..., Any]) -> None:
    """A second mapping at the start or in the middle of another fails with EEXIST."""
    size = page(space)
    mapping = space.alloc(2 * size)
    with refused(errno.EEXIST):
        space.map(DmaBuffer(size), mapping.iova)
    with refused(errno.EEXIST):
        space.map(DmaBuffer(size), mapping.iova + size)


def test_what_is_not_aligned_is_refused(space: AddressSpace, refused: Callable[..., Any]) -> None:
    """An IOVA 16 bytes into a page is refused with EINVAL."""
    size = page(space)
    mapping = space.alloc(2 * size)
    iova = mapping.iova
    mapping.unmap()
    with refused(errno.EINVAL):
        space.map(DmaBuffer(2 * size), iova + 16)


def test_unmapping_gives_the_place_back(space: AddressSpace, limit: Callable[[str, object], None]) -> None:
    """A page is mapped and unmapped a thousand times at one IOVA."""
    size = page(space)
    buffer = DmaBuffer(size)
    iova = space.alloc(size).iova
    space.unmap_all()
    times = []
    for _ in range(1000):
        begun = time.perf_counter()
        space.map(buffer, iova).unmap()
        times.append(time.perf_counter() - begun)
    assert not space.mappings
    limit("mapping and unmapping a page", spread(times))


def test_each_page_size_can_be_mapped(space: AddressSpace, limit: Callable[[str, object], None]) -> None:
    """Memory of each reported page size, up to 16 MiB, can be mapped."""
    sizes = [1 << bit for bit in range(12, 25) if space.page_sizes >> bit & 1]
    for size in sizes:
        space.alloc(size).unmap()
    limit("page sizes mapped", ", ".join(f"{size:#x}" for size in sizes))


def test_memory_that_is_read_only_can_be_mapped(space: AddressSpace) -> None:
    """A page can be mapped for reading only, and for writing only."""
    size = page(space)
    for read, write in ((True, False), (False, True)):
        space.map(DmaBuffer(size), read=read, write=write).unmap()
