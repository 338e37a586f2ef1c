# SPDX-License-Identifier: MIT
"""The parts of the mock's VFIO, each by itself: logs and bitmaps of dirty pages, counts of locked pages, usable IOVAs, regions, numbers in sysfs."""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pyvfio._abi import ffi
from pyvfio.iova import IovaRange
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.memlock import Memlock, pinnable
from pyvfio.mock.machine.parameter import number, truth
from pyvfio.mock.machine.profile import LogLimits
from pyvfio.mock.vfio import region
from pyvfio.mock.vfio.feature import ranges_of
from pyvfio.mock.vfio.iova_bitmap import IovaBitmap
from pyvfio.mock.vfio.log import CallersBitmap, Log, LoggedRange
from pyvfio.mock.vfio.logged_ranges import combine, order_base_2
from pyvfio.mock.vfio.mappings import Mappings
from pyvfio.mock.vfio.region import Area, Region
from pyvfio.mock.vfio.type1.dirty import DirtyPages
from pyvfio.mock.vfio.type1.mapping import Type1Mapping
from pyvfio.mock.vfio.type1.space import DomainSpace, EmulatedSpace
from pyvfio.mock.vfio.type1.tracking import Tracking
from pyvfio.mock.vfio.type1.usable import Usable
from tests.mock.errnos import refused, works_or

PAGE = 4096
LAST = 2**64 - 1


class Memory:
    """Pages of the caller's memory.

    :param count: pages
    """

    def __init__(self, count: int = 2) -> None:
        self.view = mmap.mmap(-1, count * PAGE)
        self.address = int(ffi.cast("uintptr_t", ffi.from_buffer(self.view)))

    def protect(self, page: int) -> None:
        """Make a page inaccessible."""
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(self.address + page * PAGE), PAGE, 0) == 0  # PROT_NONE


# --- the log --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "page_size", "found"),
    [
        (((0, PAGE),), PAGE, [(0, PAGE - 1)]),
        (((2 * PAGE, PAGE), (0, 2 * PAGE)), PAGE, [(0, 2 * PAGE - 1), (2 * PAGE, 3 * PAGE - 1)]),
        (((0, PAGE + 1),), PAGE, errno.EINVAL),
        (((1, PAGE),), PAGE, errno.EINVAL),
        (((0, PAGE), (0, PAGE)), PAGE, errno.EINVAL),
        (((0, 2 * PAGE), (PAGE, PAGE)), PAGE, errno.EINVAL),
        (((PAGE, PAGE), (0, 2 * PAGE)), PAGE, errno.EINVAL),
        (((1 << 63, (1 << 63) - PAGE),), PAGE, [(1 << 63, LAST - PAGE)]),
        (((1 << 63, 1 << 63),), PAGE, errno.EOVERFLOW),
        (((0, 0),), PAGE, [(0, LAST)]),  # the kernel's arithmetic: the last of an empty range is start - 1
        (((PAGE, 0),), PAGE, [(PAGE, PAGE - 1)]),
        (((0, 0),), 0, [(0, LAST)]),
        (((0, 1),), 0, errno.EINVAL),
        (((1, 0),), 0, errno.EINVAL),
        (((0, 3),), 1, [(0, 2)]),
        (((0, 3), (0xFF05, 2)), 1, [(0, 2), (0xFF05, 0xFF06)]),
    ],
)  # fmt: skip
def test_ranges_to_log(data: tuple[tuple[int, int], ...], page_size: int, found: Any) -> None:
    packed = b"".join(one.to_bytes(8, "little") for pair in data for one in pair)
    with works_or(found if isinstance(found, int) else None):
        assert ranges_of(packed, page_size) == [LoggedRange(*one) for one in found]


@pytest.mark.parametrize(
    ("most", "kept"),
    [
        (9, [(0, 0), (2, 3), (7, 8), (10, 10), (20, 29)]),
        (5, [(0, 0), (2, 3), (7, 8), (10, 10), (20, 29)]),
        (4, [(0, 3), (7, 8), (10, 10), (20, 29)]),
        (3, [(0, 3), (7, 10), (20, 29)]),
        (2, [(0, 10), (20, 29)]),
        (1, [(0, 29)]),
    ],
)
def test_the_smallest_gaps_are_closed_first(most: int, kept: list[tuple[int, int]]) -> None:
    ranges = [IovaRange(*one) for one in ((20, 29), (0, 0), (10, 10), (2, 3), (7, 8))]
    assert combine(ranges, most) == [IovaRange(*one) for one in kept]


def test_log2_is_rounded_up() -> None:
    assert [order_base_2(size) for size in (0, 1, 2, 3, 4, 5, 1 << 42, (1 << 42) + 1)] == [0, 0, 1, 2, 2, 3, 42, 43]


@pytest.mark.parametrize(
    ("limits", "asked", "given"),
    [
        ({}, 1, 4096),
        ({}, 4095, 4096),
        ({}, 4096, 4096),
        ({}, 8191, 4096),
        ({}, 8192, 8192),
        ({}, 2 << 20, 2 << 20),
        ({}, 4 << 20, 2 << 20),
        ({}, LAST, 2 << 20),
        ({"page_size_min": 1 << 16, "page_size_max": 1 << 14}, 4096, 1 << 16),
        ({"page_size_min": 1 << 16, "page_size_max": 1 << 14}, 1 << 20, 1 << 16),
    ],
)
def test_the_page_size_is_negotiated(limits: dict[str, int], asked: int, given: int) -> None:
    log = Log(LogLimits(**limits))  # type: ignore[arg-type]  # no limit here is a bool
    assert log.start([LoggedRange(0, PAGE - 1)], asked) == log.page_size == given
    assert log.active


@pytest.mark.parametrize(
    ("limits", "ranges", "number"),
    [
        ({"ranges": 2}, 2, None),
        ({"ranges": 2, "refuse": True}, 2, None),
        ({"ranges": 2, "refuse": True}, 3, errno.E2BIG),
        ({"log2_size_min": 13}, 2, None),
        ({"log2_size_min": 13}, 1, errno.EOPNOTSUPP),
        ({"log2_size_max": 13}, 2, None),
        ({"log2_size_max": 13}, 3, errno.EOPNOTSUPP),
        ({"log2_size_max": 12}, 0, errno.EOPNOTSUPP),
    ],
)
def test_limits_of_the_log(limits: dict[str, int], ranges: int, number: int | None) -> None:
    log = Log(LogLimits(**limits))  # type: ignore[arg-type]  # no limit here is a bool
    with works_or(number):
        log.start([LoggedRange(2 * n * PAGE, 2 * n * PAGE + PAGE - 1) for n in range(ranges)], PAGE)
    assert log.active == (number is None)


def test_a_page_size_of_zero_is_refused() -> None:
    with refused(errno.EINVAL):
        Log(LogLimits()).start([LoggedRange(0, PAGE - 1)], 0)


def test_combined_ranges_are_tracked_with_their_gap() -> None:
    log = Log(LogLimits(ranges=1))
    log.start([LoggedRange(0, PAGE - 1), LoggedRange(2 * PAGE, 3 * PAGE - 1)], PAGE)
    assert log.ranges == [IovaRange(0, 3 * PAGE - 1)]


def test_pages_are_counted_once_until_they_are_reported() -> None:
    log, memory = Log(LogLimits()), Memory()
    log.mark(0, PAGE)
    assert (log.dirty, log.marked) == (0, 0), "the log is off"
    log.start([LoggedRange(0, (1 << 26) - 1)], PAGE)
    # On both sides of a word of the log, 16 MiB.
    for iova, size in ((PAGE - 1, 2), ((1 << 24) - 1, 2), (0, 1), ((1 << 26) - 1, 100)):
        log.mark(iova, size)
    assert (log.dirty, log.marked) == (5, 5)
    log.report(1 << 24, 1 << 24, PAGE, memory.address)
    assert (log.dirty, log.marked, memory.view[0]) == (4, 5, 1)
    log.mark(1 << 24, 1)
    assert (log.dirty, log.marked) == (5, 6)
    log.stop()
    assert (log.dirty, log.marked, log.active, log.ranges, log.page_size) == (0, 6, False, [], 0)
    with refused(errno.EINVAL):
        log.report(0, PAGE, PAGE, memory.address)
    log.start([LoggedRange(0, PAGE - 1)], PAGE)
    with refused(errno.EINVAL):
        log.report(0, 0, PAGE, memory.address)


# --- bitmaps --------------------------------------------------------------------------------------------------------------


def bits(data: bytes) -> list[int]:
    return [at for at in range(8 * len(data)) if data[at // 8] >> at % 8 & 1]


@pytest.mark.parametrize(
    ("runs", "offset"),
    [
        ([(0, 0)], 0),
        ([(7, 8)], 0),
        ([(63, 64)], 0),
        ([(3, 5), (6, 6), (100, 300)], 0),
        ([(8 * PAGE - 1, 8 * PAGE)], 0),
        ([(5, 8 * PAGE + 20)], 0),
        ([(0, 3), (8 * PAGE - 9, 8 * PAGE - 2), (8 * PAGE + 1, 8 * PAGE + 1)], 0),
        ([(2, 2), (25, 25)], PAGE - 3),
        ([(23, 24)], PAGE - 3),
    ],
)
def test_bits_of_the_callers_bitmap(runs: list[tuple[int, int]], offset: int) -> None:
    memory = Memory(3)
    memory.view[offset] = 0x80
    bitmap = CallersBitmap(memory.address + offset)
    for first, last in runs:
        bitmap.set(first, last)
    bitmap.flush()
    bitmap.flush()
    expected = {7} | {bit for first, last in runs for bit in range(first, last + 1)}
    assert bits(memory.view[offset:]) == sorted(expected)
    assert not any(memory.view[:offset])


def test_bits_of_pages_that_cannot_be_written_are_lost() -> None:
    memory = Memory(4)
    memory.protect(1)
    bitmap = CallersBitmap(memory.address)
    for first, last in ((8, 8), (8 * PAGE - 1, 8 * PAGE + 5), (8 * PAGE + 100, 8 * PAGE + 200), (16 * PAGE, 16 * PAGE)):
        bitmap.set(first, last)
    bitmap.flush()
    assert bits(memory.view[:PAGE]) == [8, 8 * PAGE - 1]
    assert bits(memory.view[2 * PAGE :]) == [0]


@pytest.mark.parametrize(
    ("page_size", "parts", "found"),
    [
        (PAGE, [(0x10000, PAGE)], [0]),
        (PAGE, [(0x10000, 1)], [0]),
        (PAGE, [(0x10FFF, 2)], [0, 1]),
        (PAGE, [(0x12000, 3 * PAGE), (0x1F000, PAGE)], [2, 3, 4, 15]),
        (2 * PAGE, [(0x12000, 3 * PAGE)], [1, 2]),
        (3 << 13, [(0x12000, PAGE)], [1]),  # the lowest bit of the page size counts
        (PAGE, [(0, 0x11000)], [0]),  # only the part in the range
        (PAGE, [(0x0F000, 0x100000)], list(range(16))),
    ],
)
def test_bits_of_an_iova_bitmap(page_size: int, parts: list[tuple[int, int]], found: list[int]) -> None:
    memory = Memory()
    bitmap = IovaBitmap(0x10000, 0x10000, page_size, memory.address + 5)
    for iova, size in parts:
        bitmap.set(iova, size)
    assert not any(memory.view[:])
    bitmap.flush()
    assert bits(memory.view[5:]) == found
    assert not any(memory.view[:5])
    memory.view[:] = bytes(len(memory.view))
    bitmap.flush()
    assert not any(memory.view[:]), "each bit is stored once"


def test_an_iova_bitmap_sets_bits_and_clears_none() -> None:
    memory = Memory(3)
    memory.view[:] = b"\x0f" * len(memory.view)
    bitmap = IovaBitmap(0, 3 * 8 * PAGE * PAGE, PAGE, memory.address)
    bitmap.set((8 * PAGE - 1) * PAGE, 2 * PAGE)  # the last bit of the first page of memory, and the first of the second
    bitmap.set(4 * PAGE, PAGE)
    memory.protect(2)
    bitmap.set(16 * PAGE * PAGE, PAGE)
    bitmap.flush()
    assert memory.view[: 2 * PAGE] == b"\x1f" + b"\x0f" * (PAGE - 2) + b"\x8f" + b"\x0f" * PAGE


class TestDirtyPages:
    """The bitmap of a type1 mapping."""

    @staticmethod
    def reported(pages: DirtyPages, offset: int, before: bytes = b"", size: int = 64) -> bytes:
        memory = Memory(1)
        memory.view[:size] = before.ljust(size, b"\xee")
        pages.report(memory.address, offset)
        return memory.view[:size]

    @pytest.mark.parametrize(
        ("count", "first", "last"),
        [(64, 0, 0), (64, 63, 63), (65, 63, 64), (200, 5, 150), (200, 64, 127), (128, 0, 127), (130, 128, 129)],
    )
    def test_whole_words_are_written(self, count: int, first: int, last: int) -> None:
        pages = DirtyPages(count)
        pages.mark(first, last)
        words = -(-count // 64) * 8
        found = self.reported(pages, 0)
        assert bits(found[:words]) == list(range(first, last + 1))
        assert found[words:] == b"\xee" * (64 - words)

    def test_what_is_clear_is_written_as_zeros(self) -> None:
        assert self.reported(DirtyPages(129), 0) == bytes(24) + b"\xee" * 40
        pages = DirtyPages(256)
        pages.mark(130, 130)
        assert self.reported(pages, 0) == bytes(16) + b"\x04" + bytes(15) + b"\xee" * 32

    @pytest.mark.parametrize("offset", [64, 128])
    def test_whole_words_before_a_mapping_are_kept(self, offset: int) -> None:
        pages = DirtyPages(64)
        pages.mark_all()
        before = offset // 8
        assert self.reported(pages, offset) == b"\xee" * before + b"\xff" * 8 + b"\xee" * (56 - before)

    @pytest.mark.parametrize(("offset", "count"), [(1, 63), (1, 64), (3, 100), (63, 1), (63, 66), (70, 60)])
    def test_bits_before_a_mapping_are_kept(self, offset: int, count: int) -> None:
        pages = DirtyPages(count)
        pages.mark(0, 0)
        pages.mark(count - 1, count - 1)
        start = offset % 64
        before = ((1 << start) - 1 & 0x5555555555555555).to_bytes(8, "little")
        found = self.reported(pages, offset, b"\xee" * (offset // 64 * 8) + before)
        at = offset // 64 * 8
        words = -(-(start + count) // 64) * 8
        kept = [bit for bit in range(start) if not bit % 2]
        assert bits(found[at : at + words]) == [*kept, *sorted({start, start + count - 1})]
        assert found[:at] == b"\xee" * at
        assert found[at + words :] == b"\xee" * (64 - at - words)

    def test_clearing_leaves_what_a_shift_moved_past_the_end(self) -> None:
        pages = DirtyPages(64)
        pages.mark_all()
        assert self.reported(pages, 4, bytes(8))[:16] == b"\xf0" + b"\xff" * 7 + b"\x0f" + bytes(7)
        pages.clear()
        assert bits(self.reported(pages, 0)[:8]) == []
        pages = DirtyPages(10)
        pages.mark_all()
        assert bits(self.reported(pages, 4, bytes(8))[:8]) == list(range(4, 14))
        pages.clear()
        assert bits(self.reported(pages, 0)[:8]) == [10, 11, 12, 13]
        pages.mark_all()
        assert bits(self.reported(pages, 0)[:8]) == list(range(14))

    def test_a_bitmap_that_is_not_there_is_efault(self) -> None:
        with refused(errno.EFAULT):
            DirtyPages(64).report(0, 0)

    def test_a_refused_report_can_be_collected(self) -> None:
        """No memoryview in its traceback has an export: CPython may crash when it collects such a cycle (pyvfio.memory.address_of)."""
        with pytest.raises(Errno) as caught:
            DirtyPages(64).report(0, 0)
        exports = []
        traceback = caught.value.__traceback__
        while traceback is not None:
            exports += [value for value in traceback.tb_frame.f_locals.values() if isinstance(value, memoryview)]
            traceback = traceback.tb_next
        assert exports
        for view in exports:
            view.release()  # BufferError if it has an export

    def test_many_clear_pages_are_written_in_parts(self) -> None:
        count = 3 << 20
        memory = Memory(1024)
        memory.view[:] = b"\xee" * len(memory.view)
        pages = DirtyPages(8 * count)
        pages.mark(8 * count - 1, 8 * count - 1)
        pages.report(memory.address, 0)
        assert memory.view[: count + 1] == bytes(count - 1) + b"\x80\xee"


# --- type1 ----------------------------------------------------------------------------------------------------------------


class Container:
    """The part of a container that type1's classes use.

    :param mappings: (IOVA, size, prot) of each mapping, with memory of its own
    """

    def __init__(self, *mappings: tuple[int, int, int], v2: bool = True, limit: int | None = None) -> None:
        self.v2, self.granule, self.page = v2, PAGE, PAGE
        self.locked = Memlock(limit, PAGE)
        self.mappings: Mappings[Type1Mapping] = Mappings()
        self.memory = []
        for iova, size, prot in mappings:
            memory = Memory(size // PAGE)
            self.memory.append(memory)
            self.mappings.insert(Type1Mapping(iova, iova + size - 1, memory.address, prot, limited=limit is not None))

    def mapping(self, iova: int) -> Type1Mapping:
        found = self.mappings.at(iova)
        assert found is not None
        return found


READ, WRITE, BOTH = 1, 2, 3
SPACES: dict[str, Callable[[Any], Any]] = {"emulated": EmulatedSpace, "domain": DomainSpace}


@pytest.mark.parametrize("kind", SPACES)
class TestSpaces:
    def test_transfers_cross_mappings(self, kind: str) -> None:
        container = Container((0, PAGE, BOTH), (PAGE, 2 * PAGE, BOTH), (3 * PAGE, PAGE, BOTH))
        space = SPACES[kind](container)
        data = bytes(index * 7 & 0xFF for index in range(3 * PAGE))
        space.write(100, data)
        assert [container.memory[index].view[:] for index in range(3)] == [
            bytes(100) + data[: PAGE - 100], data[PAGE - 100 : 3 * PAGE - 100], data[3 * PAGE - 100 :] + bytes(PAGE - 100),
        ]  # fmt: skip
        assert space.read(100, 3 * PAGE) == data
        assert space.read(PAGE - 1, 2) == data[PAGE - 101 : PAGE - 99]
        assert space.read(0, 0) == b""

    @pytest.mark.parametrize(
        ("prot", "read", "write"),
        [
            (BOTH, None, None),
            (READ, None, errno.EPERM),
            (WRITE, errno.EPERM, errno.EPERM),
            (0, errno.EPERM, errno.EPERM),
        ],
    )
    def test_access_rights(self, kind: str, prot: int, read: int | None, write: int | None) -> None:
        space = SPACES[kind](Container((0, PAGE, prot)))
        with works_or(read):
            space.read(0, 8)
        with works_or(None if kind == "domain" and prot == WRITE else write):  # an emulated device's write needs both
            space.write(0, bytes(8))

    def test_a_gap_is_einval(self, kind: str) -> None:
        space = SPACES[kind](Container((PAGE, PAGE, BOTH)))
        for iova, size in ((0, 8), (2 * PAGE, 1), (2 * PAGE - 1, 2), (PAGE - 1, 2)):
            with refused(errno.EINVAL):
                space.read(iova, size)
            with refused(errno.EINVAL):
                space.write(iova, bytes(size))

    def test_writable_mappings(self, kind: str) -> None:
        space = SPACES[kind](Container((0, PAGE, READ), (PAGE, PAGE, BOTH), (4 * PAGE, 2 * PAGE, WRITE)))
        assert list(space.writable()) == [(PAGE, 2 * PAGE - 1), (4 * PAGE, 6 * PAGE - 1)]


def pages_of(container: Container, iova: int) -> list[int]:
    """Return the dirty pages of the mapping at an IOVA."""
    memory = Memory(1)
    dirty = container.mapping(iova).dirty
    assert dirty is not None
    dirty.report(memory.address, 0)
    return bits(memory.view[:])


def test_writes_of_an_emulated_device_mark_the_pages_that_they_touch() -> None:
    container = Container((0, 4 * PAGE, BOTH), (4 * PAGE, 4 * PAGE, BOTH))
    container.mapping(0).dirty, container.mapping(4 * PAGE).dirty = DirtyPages(4), DirtyPages(4)
    space = EmulatedSpace(container)  # type: ignore[arg-type]  # a part of a container
    space.write(PAGE - 1, b"xx")
    space.write(4 * PAGE - 1, bytes(PAGE + 1))
    assert (pages_of(container, 0), pages_of(container, 4 * PAGE)) == ([0, 1, 3], [0])


def test_pins_of_a_driver_are_counted_once_per_page() -> None:
    container = Container((0, 4 * PAGE, BOTH), (4 * PAGE, PAGE, READ), limit=2 * PAGE)
    space = EmulatedSpace(container)  # type: ignore[arg-type]  # a part of a container
    mapping = container.mapping(0)
    mapping.dirty = DirtyPages(4)
    assert space.pin(PAGE, write=True) == container.memory[0].address + PAGE
    space.pin(PAGE, write=True)
    assert (container.locked.pages, mapping.pins) == (1, {PAGE: 2})
    assert pages_of(container, 0) == [1]
    space.pin(4 * PAGE, write=False)
    assert container.locked.pages == 2
    with refused(errno.EPERM):
        space.pin(4 * PAGE, write=True)
    with refused(errno.ENOMEM):
        space.pin(2 * PAGE, write=True)
    with refused(errno.EINVAL):
        space.pin(5 * PAGE, write=False)
    space.unpin(PAGE)
    assert (container.locked.pages, mapping.pins) == (2, {PAGE: 1})
    space.unpin(PAGE)
    assert (container.locked.pages, mapping.pins) == (1, {})
    for nothing in (PAGE, 3 * PAGE, 9 * PAGE):
        space.unpin(nothing)
    assert container.locked.pages == 1
    with refused(errno.EACCES):
        EmulatedSpace(Container((0, PAGE, BOTH), v2=False)).pin(0, write=False)  # type: ignore[arg-type]  # what it uses of a container


def test_pinned_mappings_charge_the_pages_that_no_driver_has_pinned() -> None:
    container = Container((0, 4 * PAGE, BOTH), limit=4 * PAGE)
    space, mapping = EmulatedSpace(container), container.mapping(0)  # type: ignore[arg-type]  # a part of a container
    space.pin(0, write=True)
    mapping.pin(container.locked, PAGE)
    assert (container.locked.pages, mapping.pinned) == (4, True)
    space.pin(PAGE, write=True)
    assert container.locked.pages == 4
    mapping.unpin(container.locked, PAGE)
    mapping.unpin(container.locked, PAGE)
    assert (container.locked.pages, mapping.pinned) == (2, False)
    container.locked.pages = 3
    with refused(errno.ENOMEM):
        mapping.pin(container.locked, PAGE)
    assert container.locked.pages == 3


@pytest.mark.parametrize(
    ("limit", "number"), [(2 * PAGE, errno.EFAULT), (2 * PAGE - 1, errno.ENOMEM), (None, errno.EFAULT)]
)
def test_the_limit_counts_before_a_missing_page(limit: int | None, number: int) -> None:
    container = Container((0, 4 * PAGE, BOTH), limit=limit)
    container.memory[0].protect(2)
    with refused(number):
        container.mapping(0).pin(container.locked, PAGE)
    assert not container.mapping(0).pinned


@pytest.mark.parametrize("missing", range(5))
def test_pages_up_to_the_first_that_cannot_be_pinned(missing: int) -> None:
    memory = Memory(4)
    if missing < 4:
        memory.protect(missing)
    assert pinnable(memory.address, 4, PAGE, write=True) == missing


@pytest.mark.parametrize(
    ("limit", "there", "pages", "number"),
    [(4 * PAGE, 0, 4, None), (4 * PAGE, 0, 5, errno.ENOMEM), (4 * PAGE, 3, 1, None), (4 * PAGE, 3, 2, errno.ENOMEM), (5 * PAGE - 1, 3, 2, errno.ENOMEM), (None, 3, 999, None)],
)  # fmt: skip
def test_locked_pages_have_a_limit(limit: int | None, there: int, pages: int, number: int | None) -> None:
    locked = Memlock(limit, PAGE)
    locked.pages = there
    with works_or(number):
        locked.charge(pages)
    assert locked.pages == there + (pages if number is None else 0)
    locked.charge(pages, limited=False)
    locked.release(there)
    assert locked.pages == (2 * pages if number is None else pages)


class TestUsable:
    @staticmethod
    def group(*regions: tuple[int, int, str]) -> Any:
        return SimpleNamespace(reserved=[SimpleNamespace(start=a, last=b, type=kind) for a, b, kind in regions])

    @staticmethod
    def mapped(*spans: tuple[int, int]) -> Mappings[Any]:
        found: Mappings[Any] = Mappings()
        for iova, last in spans:
            found.insert(SimpleNamespace(iova=iova, last=last))
        return found

    def test_all_is_usable_before_the_first_group(self) -> None:
        assert Usable().allows(0, LAST)

    @pytest.mark.parametrize(
        ("mapped", "refuses"),
        [((), False), (((0, 99),), False), (((100, 100),), True), (((199, 300),), True), (((200, 300),), False), (((1023, 1023),), False)],
    )  # fmt: skip
    def test_reserved_regions_must_be_free(self, mapped: tuple[tuple[int, int], ...], refuses: bool) -> None:
        group = self.group((100, 199, "msi"), (500, 599, "direct-relaxable"))
        with works_or(errno.EINVAL if refuses else None):
            found = Usable().narrowed(IovaRange(0, 1023), group, self.mapped(*mapped))
            assert found == (IovaRange(0, 99), IovaRange(200, 1023))

    @pytest.mark.parametrize(
        ("mapped", "refuses"), [((0, 499), False), ((0, 500), True), ((999, 999), True), ((1000, 1001), False)]
    )
    def test_a_narrower_aperture_must_hold_the_mappings(self, mapped: tuple[int, int], refuses: bool) -> None:
        usable = Usable()
        usable.ranges = (IovaRange(0, 99), IovaRange(200, 999))
        with works_or(errno.EINVAL if refuses else None):
            found = usable.narrowed(IovaRange(0, 499), self.group(), self.mapped(mapped))
            assert found == (IovaRange(0, 99), IovaRange(200, 499))

    def test_a_wider_aperture_adds_nothing(self) -> None:
        usable = Usable()
        usable.ranges = (IovaRange(10, 99),)
        assert usable.narrowed(IovaRange(0, 1023), self.group(), self.mapped((500, 600))) == (IovaRange(10, 99),)

    def test_no_range_left_is_refused(self) -> None:
        with refused(errno.EINVAL):
            Usable().narrowed(IovaRange(0, 99), self.group((0, 99, "reserved")), self.mapped())

    @pytest.mark.parametrize(
        ("span", "allowed"),
        [
            ((0, 99), True),
            ((0, 100), False),
            ((199, 200), False),
            ((200, 999), True),
            ((200, 1000), False),
            ((150, 160), False),
        ],
    )
    def test_a_mapping_is_within_one_range(self, span: tuple[int, int], allowed: bool) -> None:
        usable = Usable()
        usable.ranges = (IovaRange(0, 99), IovaRange(200, 999))
        assert usable.allows(*span) is allowed

    def test_ranges_after_a_group_has_left(self) -> None:
        usable = Usable()
        usable.refresh([])
        assert usable.ranges == ()
        usable.ranges = (IovaRange(10, 99), IovaRange(200, 999))
        usable.refresh([self.group((300, 399, "msi")), self.group((50, 59, "direct"))])
        found: tuple[IovaRange, ...] = usable.ranges
        assert found == (IovaRange(10, 49), IovaRange(60, 299), IovaRange(400, 999))
        usable.refresh([self.group((10, 999, "reserved"))])
        assert len(usable.ranges) == 3, "if nothing would be left, the ranges stay"
        usable.refresh([])
        assert usable.ranges == (IovaRange(0, LAST),)


@pytest.mark.parametrize(
    ("pages", "size", "granule", "number"),
    [
        (64, 8, PAGE, None),
        (65, 8, PAGE, errno.EINVAL),
        (65, 16, PAGE, None),
        (1, 7, PAGE, errno.EINVAL),
        (1, 1 << 28, PAGE, None),
        (1, (1 << 28) + 1, PAGE, errno.EINVAL),
        (0, 8, PAGE, errno.EINVAL),
        (64, 8, 2 * PAGE, errno.EINVAL),
        (64, 4096, 0, errno.EINVAL),
    ],
)  # fmt: skip
def test_a_callers_bitmap_is_checked(pages: int, size: int, granule: int, number: int | None) -> None:
    tracking = Tracking(Container())  # type: ignore[arg-type]  # a part of a container
    given = SimpleNamespace(data=ffi.cast("uint64_t *", 0x10000), size=size, pgsize=granule)
    with works_or(number):
        assert tracking.bitmap(given, pages * PAGE) == 0x10000


def test_a_bitmap_of_kernel_addresses_is_refused() -> None:
    tracking = Tracking(Container())  # type: ignore[arg-type]  # a part of a container
    for address, error in ((0x7FFF_FFFF_F000 - 8, None), (0x7FFF_FFFF_F000 - 7, errno.EINVAL)):
        given = SimpleNamespace(data=ffi.cast("uint64_t *", address), size=8, pgsize=PAGE)
        with works_or(error):
            tracking.bitmap(given, PAGE)


def test_mappings_are_tracked_from_their_creation() -> None:
    container = Container((0, 4 * PAGE, BOTH))
    tracking = Tracking(container)  # type: ignore[arg-type]  # a part of a container
    mapping = container.mapping(0)
    tracking.add(mapping)
    tracking.mark_all()
    assert mapping.dirty is None
    mapping.pins = {2 * PAGE: 1}
    tracking.start()
    assert pages_of(container, 0) == [2]
    tracking.start()
    tracking.mark_all()
    assert pages_of(container, 0) == [0, 1, 2, 3]
    tracking.stop()
    assert (mapping.dirty, tracking.on) == (None, False)


@pytest.mark.parametrize(("size", "number"), [((2**31 - 1) * PAGE, None), (2**31 * PAGE, errno.EINVAL)])
def test_a_mapping_that_is_too_large_is_not_tracked(size: int, number: int | None) -> None:
    container = Container()
    tracking = Tracking(container)  # type: ignore[arg-type]  # a part of a container
    container.mappings.insert(Type1Mapping(0, size - 1, 0, BOTH, limited=False))
    with works_or(number):
        tracking.start()
    assert tracking.on == (number is None)
    assert (container.mapping(0).dirty is None) == (number is not None)


# --- the caller's memory, regions, numbers --------------------------------------------------------------------------------


class TestCaller:
    def test_addresses_are_the_callers(self) -> None:
        memory = Memory()
        memory.view[:4] = b"abc\0"
        assert caller.read(memory.address, 4) == b"abc\0"
        caller.write(memory.address + 1, b"BC")
        assert memory.view[:4] == b"aBC\0"
        memory.protect(1)
        for address in (0, 1 << 63, -1, memory.address + PAGE):
            with refused(errno.EFAULT):
                caller.read(address, 1)
            with refused(errno.EFAULT):
                caller.write(address, b"x")
        with refused(errno.EFAULT):
            caller.read(memory.address + PAGE - 1, 2)

    @pytest.mark.parametrize(
        ("at", "limit", "found"), [(0, 10, b"abcd"), (0, 5, b"abcd"), (0, 4, None), (4, 1, b""), (3, 1, None)]
    )
    def test_strings_end_before_their_limit(self, at: int, limit: int, found: bytes | None) -> None:
        memory = Memory()
        memory.view[:5] = b"abcd\0"
        with works_or(errno.EINVAL if found is None else None):
            assert caller.string(memory.address + at, limit) == found

    def test_a_string_is_read_up_to_its_page(self) -> None:
        memory = Memory(3)
        memory.view[PAGE - 4 : PAGE] = b"abc\0"
        memory.view[PAGE : PAGE + 4] = b"abc\0"
        memory.protect(2)
        assert caller.string(memory.address + PAGE - 4, 4096) == b"abc"
        memory.view[PAGE - 1 : 2 * PAGE] = b"x" * (PAGE + 1)
        with refused(errno.EFAULT):
            caller.string(memory.address + PAGE - 1, 2 * PAGE)
        memory.view[2 * PAGE - 1] = 0
        for limit in PAGE + 1, 2 * PAGE:
            assert caller.string(memory.address + PAGE - 1, limit) == b"x" * PAGE
        with refused(errno.EINVAL):
            caller.string(memory.address + PAGE - 1, PAGE)

    @pytest.mark.parametrize(
        ("address", "size", "found"), [(0, 0x7FFF_FFFF_F000, True), (1, 0x7FFF_FFFF_F000, False), (1 << 63, 0, False)]
    )
    def test_user_addresses(self, address: int, size: int, found: bool) -> None:
        assert caller.accessible(address, size) is found


@pytest.mark.parametrize(
    ("flags", "areas", "offset", "size", "found"),
    [
        (region.MMAP, (), 0, 0x4000, True),
        (region.MMAP, (), 0x3000, 0x1000, True),
        (region.MMAP, (), 0x3000, 0x2000, False),
        (region.MMAP, (), 0x4000, 0x1000, False),
        (region.MMAP, (), 0x4000, 0, False),
        (region.READ | region.WRITE, (), 0, 0x1000, False),
        (region.MMAP, ((0x1000, 0x1000), (0x3000, 0x1000)), 0x1000, 0x1000, True),
        (region.MMAP, ((0x1000, 0x1000), (0x3000, 0x1000)), 0x3000, 0x1000, True),
        (region.MMAP, ((0x1000, 0x1000), (0x3000, 0x1000)), 0x0000, 0x1000, False),
        (region.MMAP, ((0x1000, 0x1000), (0x3000, 0x1000)), 0x1000, 0x2000, False),
        (region.MMAP, ((0x1000, 0x2000),), 0x0000, 0x2000, False),
        (region.MMAP, ((0x1000, 0x2000),), 0x2000, 0x1000, True),
    ],
)
def test_parts_of_a_region_that_can_be_mapped(
    flags: int, areas: tuple[tuple[int, int], ...], offset: int, size: int, found: bool
) -> None:
    assert Region(0x4000, flags, tuple(Area(*one) for one in areas)).may_map(offset, size) is found


def test_capabilities_of_a_region_are_chained() -> None:
    made = Region(0x4000, region.MMAP, (Area(1, 2), Area(3, 4)), type=(0x80001234, 5), msix_mappable=True)
    sizes = [(one.id, one.version, len(one.data)) for one in made.capabilities()]
    assert sizes == [(2, 1, 8), (1, 1, 40), (3, 1, 0)]
    chain = region.chained([*made.capabilities(), region.Capability(9, b"abc", 7)], 32)
    longs = [int.from_bytes(chain[at : at + 8], "little") for at in range(0, len(chain), 8)]
    assert longs == [
        2 | 1 << 16 | 48 << 32, 0x80001234 | 5 << 32, 1 | 1 << 16 | 96 << 32, 2, 1, 2, 3, 4, 3 | 1 << 16 | 104 << 32, 9 | 7 << 16, 0x636261,
    ]  # fmt: skip
    assert region.chained([], 32) == b""
    assert Region().capabilities() == []


class TestRegionFile:
    def test_pages_with_contents_are_found(self) -> None:
        file = region.RegionFile("test")
        assert list(file.contents(1, 4 * PAGE)) == []
        file.clear(1, 4 * PAGE)
        file.write(1, 0x1FFF, b"ab")
        file.write(1, 0x4000, b"c")
        file.write(2, 0, b"d")
        file.write(0, 0, bytes(8))
        found = {at: data.strip(b"\0") for at, data in file.contents(1, 0x4000)}
        assert found == {0x1000: b"a", 0x2000: b"b"}
        assert [len(data) for _, data in file.contents(1, 0x2800)] == [0x1000, 0x800]
        assert dict(file.contents(0, 0x1000)) == {}, "a page of zeros"
        assert (file.read(1, 0x1FFE, 4), file.memory(2, PAGE)[:2]) == (b"\0ab\0", b"d\0")
        file.clear(1, 0x4000)
        assert list(file.contents(1, 0x4000)) == []
        assert (file.read(1, 0x4000, 1), file.read(2, 0, 1)) == (b"c", b"d")


@pytest.mark.parametrize(
    ("text", "width", "found"),
    [
        (b"0", 32, 0), (b"7\n", 32, 7), (b"+7", 32, 7), (b"010", 32, 8), (b"0x1F", 32, 31), (b"0X1f\n", 32, 31), (b"00", 32, 0), (b"4294967295", 32, 2**32 - 1),
        (b"4294967296", 64, 2**32), (b"65535", 16, 65535),
    ],
)  # fmt: skip
def test_numbers_that_are_written_to_sysfs(text: bytes, width: int, found: int) -> None:
    assert number(text, width) == found


@pytest.mark.parametrize(
    ("text", "width", "error"),
    [
        (b"4294967296", 32, errno.ERANGE), (b"65536", 16, errno.ERANGE), (b"0x10000", 16, errno.ERANGE), (b"", 32, errno.EINVAL), (b" 7", 32, errno.EINVAL),
        (b"7 ", 32, errno.EINVAL), (b"-1", 32, errno.EINVAL), (b"08", 32, errno.EINVAL), (b"0x", 32, errno.EINVAL), (b"7\n\n", 32, errno.EINVAL),
        (b"+-7", 32, errno.EINVAL),
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(text: bytes, width: int, error: int) -> None:
    with refused(error):
        number(text, width)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((b"y", b"Y\n", b"yes", b"true", b"T", b"1", b"10", b"on", b"ON\n"), True),
        ((b"n", b"N\n", b"no", b"false", b"F", b"0", b"01", b"of", b"off", b"OFF"), False),
        ((b"", b"\n", b"o", b"ox", b"2", b"-", b" y"), None),
    ],
)
def test_words_that_are_written_to_sysfs(words: tuple[bytes, ...], found: bool | None) -> None:
    for word in words:
        with works_or(errno.EINVAL if found is None else None):
            assert truth(word) is found
