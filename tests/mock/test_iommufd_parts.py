# SPDX-License-Identifier: MIT
"""The parts of the mock's iommufd, each by itself: the I/O page table, transfers through it, pins, dirty pages, the choice of IOVAs."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from pyvfio.mock.iommufd import rw
from pyvfio.mock.iommufd.area import LAST, READ, WRITE, Area
from pyvfio.mock.iommufd.domain import Domain
from pyvfio.mock.iommufd.iopt import IoPageTable
from pyvfio.mock.iommufd.pages import Pages
from pyvfio.mock.iommufd.places import Places, holes
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.memlock import Memlock
from pyvfio.mock.vfio.mappings import Mappings
from tests.mock.errnos import refused, works_or

PAGE = 4096
BOTH = READ | WRITE


def context(*, limit: int | None = None, by_process: bool = True) -> Any:
    """Return what pages use of an iommufd."""
    profile = SimpleNamespace(page_size=PAGE, memlock=limit)
    kernel = SimpleNamespace(profile=profile, locked=Memlock(limit, PAGE), locked_by_user=Memlock(limit, PAGE), pins=0)
    return SimpleNamespace(kernel=kernel, account_by_process=by_process)


class Bytes(Pages):
    """Memory that is a bytearray. Pages from `missing` on cannot be pinned."""

    def __init__(
        self, size: int, *, offset: int = 0, writable: bool = True, ctx: Any = None, missing: int = 1 << 40
    ) -> None:
        super().__init__(ctx or context(), 1 << 32, offset, size, writable=writable)
        self.data = bytearray(offset + size)
        self._missing = missing

    def check(self, start: int, last: int) -> None:
        if last // PAGE >= self._missing:
            raise Errno(errno.EFAULT)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data


class Iommu:
    """A page table of an IOMMU, which records what it is told."""

    def __init__(self, page_sizes: int = PAGE, aperture: tuple[int, int] = (0, LAST)) -> None:
        self.page_sizes, self.aperture = page_sizes, aperture
        self.gone: list[int] = []
        self.refuses = False

    def check(self, area: Area) -> None:
        if self.refuses:
            raise Errno(errno.EINVAL)

    def unmapped(self, area: Area) -> None:
        self.gone.append(area.iova)


class User:
    """A device without an IOMMU."""

    def __init__(self, alignment: int = 1) -> None:
        self.alignment = alignment
        self.told: list[tuple[int, int]] = []
        self.area: Area | None = None

    def unmapped(self, iova: int, size: int) -> None:
        self.told.append((iova, size))
        if self.area is not None and len(self.told) > 3:
            self.area.accesses = 0


@pytest.fixture
def table() -> IoPageTable:
    return IoPageTable(SimpleNamespace(page_size=PAGE))  # type: ignore[arg-type]  # what it uses of a profile


def put(table: IoPageTable, iova: int | None, size: int, *, prot: int = BOTH, start: int = 0, **more: Any) -> int:
    return table.map([(Bytes(start + size, **more), start, size)], size, iova, prot)


def spans(table: IoPageTable) -> list[tuple[int, int]]:
    return [(area.iova, area.last) for area in table.areas]


# --- the I/O page table ---------------------------------------------------------------------------------------------------


class TestUsable:
    def test_reserved_ranges_are_merged(self, table: IoPageTable) -> None:
        assert list(table.usable()) == [(0, LAST)]
        for start, last in ((100, 199), (200, 249), (0, 9), (300, 399), (350, 360), (251, 251)):
            table.reserve(start, last, start)
        assert list(table.usable()) == [(10, 99), (250, 250), (252, 299), (400, LAST)]
        for owner in (200, 350, 0):
            table.unreserve(owner)
        assert list(table.usable()) == [(0, 99), (200, 250), (252, 299), (400, LAST)]
        table.reserve(400, LAST, "rest")
        assert list(table.usable())[-1] == (252, 299)

    @pytest.mark.parametrize(
        ("start", "last", "free"),
        [(0, PAGE - 1, True), (PAGE, PAGE, False), (2 * PAGE - 1, LAST, False), (2 * PAGE, LAST, True)],
    )
    def test_what_is_mapped_cannot_be_reserved(self, table: IoPageTable, start: int, last: int, free: bool) -> None:
        put(table, PAGE, PAGE)
        with works_or(None if free else errno.EADDRINUSE):
            table.reserve(start, last, None)
        assert list(table.usable()) == ([(0, LAST)] if not free else list(holes([(start, last)], 0, LAST)))

    @pytest.mark.parametrize(
        ("start", "last", "free"),
        [(0, 99, True), (0, 100, False), (199, 300, False), (200, 300, True), (120, 130, False)],
    )
    def test_what_is_allowed_cannot_be_reserved(self, table: IoPageTable, start: int, last: int, free: bool) -> None:
        table.allow([(100, 199)])
        with works_or(None if free else errno.EADDRINUSE):
            table.reserve(start, last, None)

    @pytest.mark.parametrize(
        ("start", "last", "free"),
        [(0, 99, True), (0, 100, False), (199, 300, False), (200, 300, True), (120, 130, False)],
    )
    def test_what_is_reserved_cannot_be_allowed(self, table: IoPageTable, start: int, last: int, free: bool) -> None:
        table.reserve(100, 199, None)
        with works_or(None if free else errno.EADDRINUSE):
            table.allow([(1000, 2000), (start, last)])

    def test_an_iova_is_chosen_in_an_allowed_range(self, table: IoPageTable) -> None:
        table.allow([(0x80000, 0x8FFFF), (0x20000, 0x20FFF)])
        assert [put(table, None, PAGE) for _ in range(3)] == [0x20000, 0x80000, 0x81000]
        with refused(errno.ENOSPC):
            put(table, None, 0x10000)


class TestMap:
    @pytest.mark.parametrize(
        ("iova", "size", "number"),
        [
            (0, PAGE, None),
            (0, 0, errno.EINVAL),
            (1 << 30, PAGE, errno.EEXIST),
            ((1 << 30) - 1, 1, None),
            ((1 << 30) - 1, 2, errno.EEXIST),
            ((1 << 30) + 2 * PAGE - 1, 1, errno.EEXIST),
            ((1 << 30) + 2 * PAGE, 1, None),
            (1 << 40, PAGE, errno.EINVAL),
            ((1 << 40) - 1, 1, None),
            ((1 << 40) - 1, 2, errno.EINVAL),
            ((1 << 40) + 99, 1, errno.EINVAL),
            ((1 << 40) + 100, 1, None),
            (LAST - PAGE + 1, PAGE, None),
            (LAST - PAGE + 2, PAGE, errno.EOVERFLOW),
        ],
    )
    def test_a_fixed_iova_must_be_free(self, table: IoPageTable, iova: int, size: int, number: int | None) -> None:
        put(table, 1 << 30, 2 * PAGE)
        table.reserve(1 << 40, (1 << 40) + 99, None)
        with works_or(number):
            table.map([(Bytes(size or 1), 0, size)], size, iova, BOTH)
        assert len(table.areas) == (2 if number is None else 1)

    @pytest.mark.parametrize(
        ("iova", "size", "start", "number"),
        [
            (0, 2 * PAGE, 0, None),
            (0, PAGE // 2, 0, errno.EINVAL),
            (PAGE // 2, PAGE, 0, errno.EINVAL),
            (0, PAGE, PAGE // 2, errno.EINVAL),
            (PAGE, PAGE, PAGE, None),
        ],
    )
    def test_everything_is_aligned_to_the_iommus_pages(
        self, table: IoPageTable, iova: int, size: int, start: int, number: int | None
    ) -> None:
        table.add_domain(Iommu())
        with works_or(number):
            put(table, iova, size, start=start)

    def test_memory_that_is_read_only_is_not_mapped_writable(self, table: IoPageTable) -> None:
        put(table, 0, PAGE, prot=READ, writable=False)
        with refused(errno.EPERM):
            put(table, PAGE, PAGE, prot=WRITE, writable=False)
        assert spans(table) == [(0, PAGE - 1)]

    def test_slices_follow_each_other(self, table: IoPageTable) -> None:
        one, other = Bytes(2 * PAGE), Bytes(3 * PAGE)
        table.map([(one, PAGE, PAGE), (other, 0, 2 * PAGE)], 3 * PAGE, 0x10000, READ)
        found = [(area.iova, area.last, area.pages, area.at, area.prot) for area in table.areas]
        assert found == [(0x10000, 0x10FFF, one, PAGE, READ), (0x11000, 0x12FFF, other, 0, READ)]
        assert table.slices(0x10800, 0x1000) == [(one, PAGE + 0x800, 0x800), (other, 0, 0x800)]

    def test_nothing_stays_pinned_after_a_failure(self, table: IoPageTable) -> None:
        iommu, good = Iommu(), Bytes(PAGE)
        table.add_domain(iommu)
        with refused(errno.EFAULT):
            table.map([(good, 0, PAGE), (Bytes(PAGE, missing=0), 0, PAGE)], 2 * PAGE, 0, BOTH)
        iommu.refuses = True
        with refused(errno.EINVAL):
            table.map([(good, 0, PAGE)], PAGE, 0, BOTH)
        assert not good.holds(0, 0)
        assert spans(table) == []


class TestUnmap:
    @pytest.fixture(autouse=True)
    def _map(self, table: IoPageTable) -> None:
        self.iommu = Iommu()
        table.add_domain(self.iommu)
        for index in range(4):
            put(table, 2 * index * PAGE, PAGE)

    @pytest.mark.parametrize(
        ("start", "last", "done", "number"),
        [
            (0, PAGE - 1, PAGE, 0),
            (0, LAST, 4 * PAGE, 0),
            (PAGE, 2 * PAGE - 1, 0, 0),
            (PAGE, 5 * PAGE - 1, 2 * PAGE, 0),
            (PAGE, 4 * PAGE, PAGE, errno.ENOENT),
            (1, 3 * PAGE - 1, 0, errno.ENOENT),
            (0, PAGE - 2, 0, errno.ENOENT),
            (0, 2 * PAGE + 5, PAGE, errno.ENOENT),
        ],
    )
    def test_whole_mappings_are_unmapped(
        self, table: IoPageTable, start: int, last: int, done: int, number: int
    ) -> None:
        assert table.unmap(start, last) == (done, number)
        assert len(table.areas) == 4 - done // PAGE
        assert len(self.iommu.gone) == done // PAGE

    def test_a_locked_mapping_stays(self, table: IoPageTable) -> None:
        list(table.areas)[2].locks = 1
        assert table.unmap(0, LAST) == (2 * PAGE, errno.EBUSY)
        assert spans(table)[0][0] == 4 * PAGE

    def test_users_are_asked_to_let_go(self, table: IoPageTable) -> None:
        user, other = User(), User()
        table.add_access(user)
        table.add_access(other)
        user.area = list(table.areas)[1]
        user.area.accesses = 1
        assert table.unmap(0, 3 * PAGE - 1) == (2 * PAGE, 0)
        assert user.told == other.told == [(2 * PAGE, PAGE)] * 4

    def test_users_that_do_not_let_go_are_edeadlk(self, table: IoPageTable) -> None:
        user = User()
        table.add_access(user)
        area = list(table.areas)[1]
        area.accesses = 1
        assert table.unmap(0, LAST) == (PAGE, errno.EDEADLK)
        assert area.closing
        assert len(user.told) == 101
        table.remove_access(user)
        area.accesses = 0
        assert table.unmap(0, LAST) == (3 * PAGE, 0)

    def test_unmapping_unpins(self, table: IoPageTable) -> None:
        pages = next(iter(table.areas)).pages
        assert pages.holds(0, PAGE - 1)
        table.unmap(0, PAGE - 1)
        assert not pages.holds(0, 0)


class TestCut:
    def test_a_mapping_is_split_behind_an_iova(self, table: IoPageTable) -> None:
        pages = Bytes(5 * PAGE)
        table.map([(pages, PAGE, 4 * PAGE)], 4 * PAGE, 0x10000, READ)
        for iova in (0x9000, 0x10000, 0x13FFF, 0x14000):  # outside, its first and its last byte
            table.cut([iova])
        assert spans(table) == [(0x10000, 0x13FFF)]
        table.cut([0x10FFF, 0x12FFF])
        assert [(one.iova, one.last, one.pages, one.at, one.prot) for one in table.areas] == [
            (0x10000, 0x10FFF, pages, PAGE, READ), (0x11000, 0x12FFF, pages, 2 * PAGE, READ), (0x13000, 0x13FFF, pages, 4 * PAGE, READ),
        ]  # fmt: skip
        assert table.unmap(0x11000, 0x12FFF) == (2 * PAGE, 0)

    @pytest.mark.parametrize(
        ("cut", "number"),
        [(PAGE - 1, None), (PAGE - 2, errno.EINVAL), (PAGE, errno.EINVAL), (PAGE // 2 - 1, errno.EINVAL)],
    )
    def test_it_is_split_where_both_halves_are_aligned(self, table: IoPageTable, cut: int, number: int | None) -> None:
        put(table, 0, 2 * PAGE)
        table.use_huge_pages(False)
        table.add_domain(Iommu())
        with works_or(number):
            table.cut([cut])
        assert len(table.areas) == (2 if number is None else 1)

    def test_memory_that_is_not_aligned_is_not_split(self, table: IoPageTable) -> None:
        put(table, 0, PAGE, start=100)
        table.add_access(User(1))
        table.cut([99])
        assert spans(table) == [(0, 99), (100, PAGE - 1)]
        table.unmap(0, LAST)
        table.alignment = 2
        put(table, 0, PAGE, start=2)
        next(iter(table.areas)).at = 3
        with refused(errno.EINVAL):
            table.cut([99])

    @pytest.mark.parametrize(("on", "number"), [(True, errno.EINVAL), (False, None)])
    def test_huge_pages_are_not_split(self, table: IoPageTable, on: bool, number: int | None) -> None:
        table.use_huge_pages(on)
        table.add_domain(Iommu())
        put(table, 0, 2 * PAGE)
        pages = next(iter(table.areas)).pages
        with works_or(number):
            table.cut([PAGE - 1])
        assert pages.holds(0, PAGE - 1)
        assert pages.holds(PAGE, 2 * PAGE - 1)
        assert pages.holds(0, 2 * PAGE - 1) == on
        table.unmap(0, LAST)
        assert not pages.holds(0, 0)
        assert not pages.holds(PAGE, PAGE)

    def test_what_is_in_use_is_not_split(self, table: IoPageTable) -> None:
        put(table, 0, 2 * PAGE)
        area = next(iter(table.areas))
        area.accesses = 1
        with refused(errno.EINVAL):
            table.cut([PAGE - 1])
        area.accesses, area.closing = 0, True
        with refused(errno.EBUSY):
            table.cut([PAGE - 1])
        area.closing = False
        area.pages = SimpleNamespace(is_dma_buf=True)  # type: ignore[assignment]  # what it uses of pages
        with refused(errno.EOPNOTSUPP):
            table.cut([PAGE - 1])


class TestLookup:
    @pytest.mark.parametrize(
        ("start", "size", "found"),
        [
            (0, PAGE, [(0, PAGE)]),
            (100, 2 * PAGE - 100, [(100, PAGE - 100), (0, PAGE)]),
            (PAGE - 1, 2, [(PAGE - 1, 1), (0, 1)]),
            (0, 0, errno.EINVAL),
            (LAST, 2, errno.EOVERFLOW),
            (LAST, 1, errno.ENOENT),
            (0, 2 * PAGE + 1, errno.ENOENT),
            (PAGE, PAGE + 1, errno.ENOENT),
            (3 * PAGE - 1, 2, errno.ENOENT),
        ],
    )
    def test_slices_of_a_range(self, table: IoPageTable, start: int, size: int, found: Any) -> None:
        for iova in (0, PAGE, 3 * PAGE):
            put(table, iova, PAGE)
        with works_or(found if isinstance(found, int) else None):
            assert [one[1:] for one in table.slices(start, size)] == found


class TestDomains:
    def test_the_largest_of_the_smallest_pages_counts(self, table: IoPageTable) -> None:
        one, other = Iommu(512 | PAGE), Iommu(1 << 30 | PAGE)
        table.add_domain(one)
        assert table.alignment == 512
        table.add_domain(other)
        assert table.alignment == PAGE
        table.remove_domain(other)
        assert table.alignment == 512
        user = User(2048)
        table.add_access(user)
        assert table.alignment == 2048
        table.remove_access(user)
        table.remove_domain(one)
        assert table.alignment == 1
        with refused(errno.EINVAL):
            table.add_domain(Iommu(2 * PAGE))
        assert table.domains == []

    @pytest.mark.parametrize(("iova", "size", "start"), [(100, PAGE, 0), (0, 100, 0), (0, PAGE, 100)])
    def test_mappings_must_fit_its_pages(self, table: IoPageTable, iova: int, size: int, start: int) -> None:
        put(table, iova, size, start=start)
        with refused(errno.EADDRINUSE):
            table.add_domain(Iommu())
        with refused(errno.EADDRINUSE):
            table.add_access(User(PAGE))
        with refused(errno.EADDRINUSE):
            table.use_huge_pages(False)
        assert (table.alignment, table.huge_pages, table.accesses, table.domains) == (1, True, [], [])

    @pytest.mark.parametrize(
        ("aperture", "usable"),
        [
            ((0, LAST), [(0, LAST)]),
            ((PAGE, LAST), [(PAGE, LAST)]),
            ((0, 0xFFFFF), [(0, 0xFFFFF)]),
            ((0x1000, 0xFFFFF), [(0x1000, 0xFFFFF)]),
        ],
    )
    def test_iovas_outside_of_its_aperture_are_reserved(
        self, table: IoPageTable, aperture: tuple[int, int], usable: list[tuple[int, int]]
    ) -> None:
        iommu = Iommu(aperture=aperture)
        table.add_domain(iommu)
        assert list(table.usable()) == usable
        table.remove_domain(iommu)
        assert list(table.usable()) == [(0, LAST)]

    def test_a_mapping_outside_of_its_aperture_is_refused(self, table: IoPageTable) -> None:
        put(table, 0x100000, PAGE)
        with refused(errno.EADDRINUSE):
            table.add_domain(Iommu(aperture=(0x1000, 0xFFFFF)))
        assert list(table.usable()) == [(0, LAST)]

    def test_the_first_pins_and_the_last_unpins(self, table: IoPageTable) -> None:
        put(table, 0, PAGE)
        pages = next(iter(table.areas)).pages
        one, other = Iommu(), Iommu()
        table.add_domain(one)
        table.add_domain(other)
        assert pages.holds(0, 0)
        table.remove_domain(one)
        assert pages.holds(0, 0)
        table.remove_domain(other)
        assert not pages.holds(0, 0)

    def test_memory_that_cannot_be_pinned_is_refused(self, table: IoPageTable) -> None:
        put(table, 0, PAGE)
        put(table, PAGE, PAGE, missing=0)
        with refused(errno.EFAULT):
            table.add_domain(Iommu(aperture=(0, 1 << 40)))
        assert not next(iter(table.areas)).pages.holds(0, 0)
        assert (list(table.usable()), table.domains, table.alignment) == ([(0, LAST)], [], 1)

    def test_huge_pages_are_switched_without_mappings(self, table: IoPageTable) -> None:
        table.use_huge_pages(False)
        assert (table.huge_pages, table.alignment) == (False, PAGE)
        table.use_huge_pages(False)
        table.use_huge_pages(True)
        assert (table.huge_pages, table.alignment) == (True, 1)
        table.add_domain(Iommu())
        table.use_huge_pages(False)
        table.use_huge_pages(True)
        put(table, 0, PAGE)
        table.use_huge_pages(True)
        with refused(errno.EINVAL):
            table.use_huge_pages(False)
        assert table.huge_pages


# --- transfers ------------------------------------------------------------------------------------------------------------


class TestTransfers:
    def test_they_cross_mappings(self, table: IoPageTable) -> None:
        one, other = Bytes(2 * PAGE), Bytes(PAGE)
        table.map([(one, PAGE, PAGE), (other, 0, PAGE)], 2 * PAGE, 0x10000, BOTH)
        parts = list(rw.write(table, 0x10FFE, b"abcd"))
        assert [(start, last) for _, start, last in parts] == [(0x10FFE, 0x10FFF), (0x11000, 0x11001)]
        assert bytes(one.data[-2:] + other.data[:3]) == b"abcd\0"
        assert rw.read(table, 0x10FFD, 6) == b"\0abcd\0"

    @pytest.mark.parametrize(
        ("iova", "size", "read", "write"),
        [
            (0, PAGE, None, errno.EPERM),
            (PAGE, PAGE, errno.EPERM, None),
            (PAGE - 1, 2, errno.EPERM, errno.EPERM),
            (0, 0, errno.EINVAL, errno.EINVAL),
            (LAST, 2, errno.EOVERFLOW, errno.EOVERFLOW),
            (LAST, 1, errno.ENOENT, errno.ENOENT),
            (2 * PAGE, 1, errno.ENOENT, errno.ENOENT),
            (2 * PAGE - 1, 2, errno.EPERM, errno.ENOENT),
            (4 * PAGE, 1, errno.EINVAL, errno.EINVAL),
        ],
    )
    def test_refusals(self, table: IoPageTable, iova: int, size: int, read: int | None, write: int | None) -> None:
        for index, prot in ((0, READ), (1, WRITE), (4, BOTH)):
            put(table, index * PAGE, PAGE, prot=prot)
        list(table.areas)[2].closing = True
        with works_or(read):
            rw.read(table, iova, size)
        with works_or(write):
            list(rw.write(table, iova, bytes(size)))
        assert list(rw.writable(table)) == [(PAGE, 2 * PAGE - 1), (4 * PAGE, 5 * PAGE - 1)]

    def test_the_kernel_does_not_copy_from_a_dma_buf(self, table: IoPageTable) -> None:
        pages = Bytes(PAGE)
        table.map([(pages, 0, PAGE)], PAGE, 0, BOTH)
        pages.is_dma_buf = True  # type: ignore[misc]  # a class's attribute
        rw.read(table, 0, 1)
        list(rw.write(table, 0, b"x"))
        for copied in (lambda: rw.read(table, 0, 1, copied=True), lambda: list(rw.write(table, 0, b"y", copied=True))):
            with refused(errno.EINVAL):
                copied()
        assert pages.data[0] == ord("x")


# --- pages ----------------------------------------------------------------------------------------------------------------


class TestPages:
    def test_pages_are_counted_once_however_often_they_are_pinned(self) -> None:
        ctx = context(limit=8 * PAGE)
        pages = Bytes(10 * PAGE, ctx=ctx)
        locked = ctx.kernel.locked
        for start, last, count in (
            (0, 0, 1),
            (0, PAGE - 1, 1),
            (0, PAGE, 2),
            (4 * PAGE, 6 * PAGE - 1, 4),
            (PAGE, 5 * PAGE, 6),
            (8 * PAGE, 8 * PAGE, 7),
        ):
            pages.pin(start, last)
            assert locked.pages == count
        with refused(errno.ENOMEM):
            pages.pin(6 * PAGE, 10 * PAGE - 1)
        assert locked.pages == 7
        pages.pin(7 * PAGE, 7 * PAGE)
        for start, last, count in (
            (PAGE, 5 * PAGE, 6),
            (0, PAGE, 5),
            (0, 5, 5),
            (0, PAGE - 1, 4),
            (4 * PAGE, 6 * PAGE - 1, 2),
        ):
            pages.unpin(start, last)
            assert locked.pages == count
        assert ctx.kernel.locked_by_user.pages == 0

    def test_pages_are_charged_to_the_user_by_default(self) -> None:
        ctx = context(limit=PAGE, by_process=False)
        Bytes(PAGE, ctx=ctx).pin(0, 0)
        assert (ctx.kernel.locked.pages, ctx.kernel.locked_by_user.pages) == (0, 1)

    def test_without_a_limit_nothing_is_counted(self) -> None:
        ctx = context()
        pages = Bytes(PAGE, ctx=ctx)
        pages.pin(0, 0)
        assert ctx.kernel.locked.pages == 0
        assert pages.holds(0, PAGE - 1)

    def test_each_pin_of_a_page_is_in_the_kernels_count(self) -> None:
        ctx = context(limit=3 * PAGE)
        pages = Bytes(8 * PAGE, ctx=ctx)
        for start, last, count in ((0, 0, 1), (0, PAGE, 3), (PAGE - 1, 3 * PAGE - 1, 6)):
            pages.pin(start, last)
            assert ctx.kernel.pins == count
        with refused(errno.ENOMEM):
            pages.pin(0, 4 * PAGE)
        for start, last, count in ((PAGE - 1, 3 * PAGE - 1, 3), (0, PAGE, 1), (0, 0, 0)):
            pages.unpin(start, last)
            assert ctx.kernel.pins == count

    @pytest.mark.parametrize(
        ("start", "last", "held"),
        [
            (PAGE, PAGE, True),
            (PAGE, 3 * PAGE - 1, True),
            (PAGE - 1, PAGE, False),
            (PAGE, 3 * PAGE, False),
            (0, 0, False),
        ],
    )
    def test_bytes_that_are_pinned(self, start: int, last: int, held: bool) -> None:
        pages = Bytes(4 * PAGE)
        pages.pin(PAGE + 100, 3 * PAGE - 100)
        assert pages.holds(start, last) is held

    @pytest.mark.parametrize(
        ("size", "number"), [(0, errno.EINVAL), (1, None), (2**64 - 1 - PAGE, None), (2**64 - PAGE, errno.EINVAL)]
    )
    def test_sizes(self, size: int, number: int | None) -> None:
        with works_or(number):
            pages = Pages(context(), 0, 5, size, writable=True)
            assert pages.size == size + 5

    def test_an_area_pins_its_part(self) -> None:
        pages = Bytes(4 * PAGE)
        area = Area(0x10000, 0x10000 + 2 * PAGE - 1, pages, PAGE, BOTH)
        assert (area.size, area.offset(0x10000), area.offset(0x10FFF)) == (2 * PAGE, PAGE, 2 * PAGE - 1)
        area.pin()
        assert [pages.holds(n * PAGE, n * PAGE) for n in range(4)] == [False, True, True, False]
        area.unpin()
        area.pin_access(0x11000, 0x11000)
        assert [pages.holds(n * PAGE, n * PAGE) for n in range(4)] == [False, False, True, False]
        assert area.accesses == 1
        area.unpin_access(0x11000, 0x11000)
        assert (area.accesses, pages.holds(2 * PAGE, 2 * PAGE)) == (0, False)
        pages.is_dma_buf = True  # type: ignore[misc]  # a class's attribute
        with refused(errno.EINVAL):
            area.pin_access(0x11000, 0x11000)
        assert area.accesses == 0


# --- dirty pages ----------------------------------------------------------------------------------------------------------


class TestDirty:
    @staticmethod
    def domain(table: IoPageTable, page: int = PAGE, *, tracks: bool = True, maps_nothing: bool = False) -> Domain:
        driver = SimpleNamespace(maps_nothing=maps_nothing)
        return Domain(driver, (page, (0, LAST)), table, PAGE, tracks=tracks)  # type: ignore[arg-type]  # what it uses

    def test_writes_mark_pages_while_tracking_is_on(self, table: IoPageTable) -> None:
        domain = self.domain(table)
        put(table, 0, 4 * PAGE)
        put(table, 4 * PAGE, 4 * PAGE)
        domain.write(0, b"x")
        domain.mark(0)
        domain.track(True)
        domain.write(PAGE - 1, b"xx")
        domain.write(4 * PAGE - 1, b"xx")
        domain.mark(7 * PAGE + 5)
        domain.mark(8 * PAGE)
        found = [(n * PAGE, PAGE) for n in (0, 1, 3, 4, 7)]
        assert list(domain.dirty(0, 8 * PAGE - 1, clear=False)) == found
        assert list(domain.dirty(PAGE, 4 * PAGE - 1, clear=True)) == found[1:3]
        assert list(domain.dirty(0, LAST, clear=False)) == [found[0], *found[3:]]
        domain.unmapped(list(table.areas)[1])
        assert list(domain.dirty(0, LAST, clear=False)) == found[:1]
        domain.track(False)
        domain.write(2 * PAGE, b"x")
        assert list(domain.dirty(0, LAST, clear=False)) == found[:1]
        domain.track(True)
        assert list(domain.dirty(0, LAST, clear=False)) == []

    def test_a_report_ends_at_the_first_gap(self, table: IoPageTable) -> None:
        domain = self.domain(table)
        for iova in (0, PAGE, 3 * PAGE):
            put(table, iova, PAGE)
        domain.track(True)
        for iova in (PAGE, 3 * PAGE):
            domain.mark(iova)
        assert list(domain.dirty(0, LAST, clear=False)) == [(PAGE, PAGE)]

    @pytest.mark.parametrize(("start", "found"), [(0, range(8)), (1024, (2, 3, 4))])
    def test_small_pages_are_marked_by_the_processors_page(self, table: IoPageTable, start: int, found: Any) -> None:
        """A CPU page is one entry of the page table, unless the mapping begins elsewhere in its page than its memory."""
        domain = self.domain(table, 512)
        put(table, 0, PAGE + 512, start=start)
        domain.track(True)
        domain.write(1200, bytes(1000))
        assert list(domain.dirty(0, PAGE - 1, clear=False)) == [(n * 512, 512) for n in found]

    def test_without_tracking_it_is_refused(self, table: IoPageTable) -> None:
        with refused(errno.EOPNOTSUPP):
            self.domain(table, tracks=False).track(True)

    @pytest.mark.parametrize(
        ("prot", "maps_nothing", "number"),
        [(0, False, errno.EINVAL), (0, True, None), (READ, False, None), (WRITE, False, None)],
    )
    def test_mappings_that_an_iommu_takes(
        self, table: IoPageTable, prot: int, maps_nothing: bool, number: int | None
    ) -> None:
        with works_or(number):
            self.domain(table, maps_nothing=maps_nothing).check(Area(0, PAGE - 1, Bytes(PAGE), 0, prot))


# --- the choice of an IOVA ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spans_", "start", "last", "found"),
    [
        ([], 0, 9, [(0, 9)]),
        ([(0, 3)], 0, 9, [(4, 9)]),
        ([(3, 5)], 0, 9, [(0, 2), (6, 9)]),
        ([(3, 9)], 0, 9, [(0, 2)]),
        ([(9, 9)], 0, 9, [(0, 8)]),
        ([(0, 9)], 0, 9, []),
        ([(10, 12)], 0, 9, [(0, 9)]),
        ([(0, 2), (4, 4), (20, 30)], 1, 9, [(3, 3), (5, 9)]),
    ],
)
def test_holes_between_spans(
    spans_: list[tuple[int, int]], start: int, last: int, found: list[tuple[int, int]]
) -> None:
    assert list(holes(spans_, start, last)) == found


@pytest.mark.parametrize(
    ("address", "size", "least", "found"),
    [
        (0x10000, 0, 1, errno.EOVERFLOW),
        (0x10000, LAST // 2, 1, errno.EOVERFLOW),
        (0, (1 << 63) - 2, 1, 2 << 20),
        (0x10000, PAGE, 1, PAGE),
        (0x10000, PAGE, 2 * PAGE, errno.EINVAL),
        (0x10000, 2 * PAGE, 2 * PAGE, 2 * PAGE),
        (0x11000, 2 * PAGE, 1, PAGE),
        (0x10000, 3 * PAGE, 1, 4 * PAGE),
        (1 << 40, 4 << 20, 1, 2 << 20),  # at most 2 MiB
        (0, PAGE, 1, PAGE),
        (0x10234, 100, 1, PAGE + 0x234),
    ],
)
def test_the_place_of_a_first_mapping(address: int, size: int, least: int, found: int) -> None:
    places = Places(Mappings(), PAGE)
    places.limit([], [])
    with works_or(found if found < PAGE else None):
        assert places.find(address, size, least) == found
