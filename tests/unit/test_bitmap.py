# SPDX-License-Identifier: MIT
from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvfio.bitmap import DirtyBitmap, Segment
from pyvfio.errors import BadReply
from pyvfio.iova import WHOLE, IovaRange, IovaSet

LAST = 2**64 - 1
PAGE = 4096


def bitmap_of(*ranges: IovaRange, dirty: Iterable[int] = (), page_size: int = PAGE) -> DirtyBitmap:
    """Return a bitmap in which the pages at these addresses are dirty, written as a kernel writes it."""
    bitmap = DirtyBitmap(ranges, page_size)
    for iova in dirty:
        segment = bitmap.holding(iova)
        assert segment is not None
        page = (iova - segment.range.start) // page_size
        segment.words[page // 64] |= 1 << page % 64
    return bitmap


# A layout: segments of up to a few hundred pages, separate or adjacent, at the lowest or the highest addresses; then
# the numbers of each segment's dirty pages, and arbitrary bits behind the last page, which a kernel may leave there.
@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, list[IovaRange]]:
    page_size = draw(st.sampled_from([4096, 65536, 2 << 20]))
    parts = draw(
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(1, 300) | st.sampled_from([64, 128, 512])), min_size=1, max_size=4
        )
    )
    at = 0
    ranges = []
    for gap, pages in parts:
        ranges.append(IovaRange.of((at + gap) * page_size, pages * page_size))
        at += gap + pages
    if draw(st.booleans()):
        up = LAST - ranges[-1].last
        ranges = [IovaRange(start + up, last + up) for start, last in ranges]
    return page_size, draw(st.permutations(ranges))


@st.composite
def bitmaps(draw: st.DrawFn, layout: tuple[int, list[IovaRange]] | None = None) -> tuple[DirtyBitmap, set[int]]:
    """Draw a bitmap, and the addresses of its dirty pages."""
    page_size, ranges = layout or draw(layouts())
    bitmap = DirtyBitmap(ranges, page_size)
    dirty = set()
    for segment in bitmap.segments:
        words = draw(
            st.lists(
                st.sampled_from([0, 2**64 - 1, 1, 1 << 63]) | st.integers(0, 2**64 - 1),
                min_size=len(segment.words),
                max_size=len(segment.words),
            )
        )
        for i, word in enumerate(words):
            segment.words[i] = word
        bits = sum(word << 64 * i for i, word in enumerate(words))
        dirty |= {segment.range.start + page * page_size for page in range(segment.page_count) if bits >> page & 1}
    return bitmap, dirty


def runs_of(dirty: set[int], page_size: int) -> list[tuple[int, int]]:
    return [(range_.start, range_.last) for range_ in IovaSet(IovaRange.of(iova, page_size) for iova in dirty)]


# queries


@given(bitmaps())
def test_count_runs_and_pages_tell_the_dirty_pages(case: tuple[DirtyBitmap, set[int]]) -> None:
    bitmap, dirty = case

    assert bitmap.count() == len(dirty)
    assert bool(bitmap) == bool(dirty)
    assert list(bitmap.pages()) == sorted(dirty)
    assert [tuple(run) for run in bitmap.runs()] == runs_of(dirty, bitmap.page_size)
    assert sum(segment.count() for segment in bitmap.segments) == len(dirty)
    assert bitmap.runs().total == len(dirty) * bitmap.page_size
    bitmap.check_guards()


@given(bitmaps())
def test_an_address_is_in_it_if_its_page_is_dirty(case: tuple[DirtyBitmap, set[int]]) -> None:
    bitmap, dirty = case
    size = bitmap.page_size

    for range_ in bitmap.ranges:
        for page in range(range_.start, range_.last, size):
            assert (page in bitmap) == (page + size - 1 in bitmap) == (page in dirty)
        for outside in {range_.start - 1, range_.last + 1}:
            assert (outside in bitmap) == (outside // size * size in dirty)


def test_a_new_bitmap_is_clean() -> None:
    bitmap = bitmap_of(IovaRange.of(0, 1 << 30), IovaRange.of(1 << 40, 1 << 20))

    assert bitmap.count() == 0
    assert not bitmap
    assert list(bitmap.runs()) == []
    assert list(bitmap.pages()) == []
    assert set(bitmap.segments[0].words) == {0}


def test_segments_are_terabytes_apart_and_take_little_memory() -> None:
    bitmap = bitmap_of(IovaRange.of(0, 1 << 20), IovaRange.of(1 << 62, 1 << 20), dirty=[0xFF000, 1 << 62])

    assert [segment.nbytes for segment in bitmap.segments] == [32, 32]
    assert list(bitmap.runs()) == [IovaRange.of(0xFF000, PAGE), IovaRange.of(1 << 62, PAGE)]


def test_runs_cross_words_and_touching_segments() -> None:
    low, high = IovaRange.of(0, 100 * PAGE), IovaRange.of(100 * PAGE, 100 * PAGE)
    dirty = [page * PAGE for page in range(60, 130)]

    assert list(bitmap_of(high, low, dirty=dirty).runs()) == [IovaRange.of(60 * PAGE, 70 * PAGE)]


def test_segments_keep_the_order_that_was_asked_for() -> None:
    ranges = (IovaRange.of(1 << 30, PAGE), IovaRange.of(0, PAGE), IovaRange.of(1 << 20, PAGE))

    assert DirtyBitmap(ranges).ranges == ranges
    assert tuple(segment.range for segment in DirtyBitmap(ranges).segments) == ranges


def test_bits_behind_the_last_page_never_count() -> None:
    bitmap = bitmap_of(IovaRange.of(0, 3 * PAGE))
    bitmap.segments[0].words[0] = 2**64 - 1 - 0b111

    assert not bitmap
    assert bitmap.count() == 0
    assert list(bitmap.runs()) == []
    assert bitmap == bitmap_of(IovaRange.of(0, 3 * PAGE))
    assert not bitmap_of(IovaRange.of(0, 64 * PAGE)).__ior__(bitmap)
    bitmap.check_guards()


def test_all_dirty_up_to_the_last_address_is_one_run() -> None:
    bitmap = bitmap_of(IovaRange(LAST - (1 << 30) + 1, LAST))
    for i in range(len(bitmap.segments[0].words)):
        bitmap.segments[0].words[i] = 2**64 - 1

    assert list(bitmap.runs()) == list(bitmap.ranges)
    assert bitmap.pages()[-1] == LAST - PAGE + 1


def test_no_ranges_is_an_empty_bitmap() -> None:
    bitmap = DirtyBitmap([])

    assert (bitmap.count(), list(bitmap.runs()), list(bitmap.pages()), bitmap.segments) == (0, [], [], ())


def test_it_reads_as_a_summary() -> None:
    assert repr(bitmap_of(IovaRange.of(0, 8 * PAGE), dirty=[0, PAGE])) == (
        "<DirtyBitmap: 2 of 8 pages of 4096 bytes dirty, in 1 range>"
    )


# large results


def test_every_other_page_of_a_large_bitmap() -> None:
    bitmap = bitmap_of(IovaRange.of(0, (1 << 22) * PAGE))
    np.asarray(bitmap.segments[0].words)[:] = 0xAAAAAAAAAAAAAAAA

    runs = np.asarray(bitmap.runs().array)

    assert len(runs) == 1 << 21
    assert (runs[:, 0] == np.arange(1 << 21, dtype=np.uint64) * 2 * PAGE + PAGE).all()
    assert (runs[:, 1] == runs[:, 0] + (PAGE - 1)).all()
    assert (np.asarray(bitmap.pages()) == runs[:, 0]).all()


def test_results_that_live_at_the_same_time_share_no_memory() -> None:
    bitmap = bitmap_of(IovaRange.of(0, (1 << 22) * PAGE))
    words = np.asarray(bitmap.segments[0].words)
    words[:] = 0x5555555555555555
    del_me, before = bitmap.runs(), bitmap.runs()
    del del_me  # its memory may be used for the next result
    words[:] = 0xAAAAAAAAAAAAAAAA
    after, again = bitmap.runs(), bitmap.runs()

    assert before[0] == IovaRange.of(0, PAGE)
    assert before[-1].last == bitmap.ranges[0].last - PAGE
    assert after == again
    assert after.total == before.total
    assert (before & after).total == 0


def test_threads_may_read_at_once() -> None:
    bitmap = bitmap_of(IovaRange.of(0, (1 << 21) * PAGE))
    np.asarray(bitmap.segments[0].words)[:] = np.random.default_rng(1).integers(0, 2**64, 1 << 15, dtype=np.uint64)
    expected, count = bitmap.runs(), bitmap.count()
    right: list[bool] = []

    def read() -> None:
        right.extend(bitmap.runs() == expected and len(bitmap.pages()) == count for _ in range(20))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert right == [True] * 80


# views


def test_a_segment_is_the_memory_that_the_kernel_writes() -> None:
    bitmap = bitmap_of(IovaRange.of(0x1000000, 70 * PAGE))
    segment = bitmap.segments[0]
    words = np.asarray(segment)
    words[1] = 1 << 5

    assert words.dtype == np.uint64
    assert words.ctypes.data == segment.address
    assert words.nbytes == segment.nbytes == 16
    assert list(bitmap.pages()) == [0x1000000 + 69 * PAGE]
    assert memoryview(segment) == segment.words
    assert np.frombuffer(memoryview(segment), dtype=np.uint64).tolist() == [0, 1 << 5]
    assert np.unpackbits(np.asarray(segment.bits), bitorder="little").nonzero()[0].tolist() == [69]
    assert len(segment.bits) == 9
    assert (segment.page_size, segment.page_count) == (PAGE, 70)


def test_a_bitmap_is_aligned_to_a_cache_line() -> None:
    bitmap = DirtyBitmap([IovaRange.of(i << 30, (i + 1) * 64 * PAGE) for i in range(10)])

    assert {segment.address % 64 for segment in bitmap.segments} == {0}


def test_views_keep_their_memory() -> None:
    words = bitmap_of(IovaRange.of(0, 1 << 30), dirty=[0]).segments[0].words
    pages = bitmap_of(IovaRange.of(0, 1 << 30), dirty=[PAGE]).pages()
    array = bitmap_of(IovaRange.of(0, 1 << 30), dirty=[PAGE]).runs().array
    trash = [bitmap_of(IovaRange.of(0, 1 << 30), dirty=[8 * PAGE]).runs() for _ in range(10)]

    assert words[0] == 1
    assert sum(words) == 1
    assert list(pages) == [PAGE]
    rows: list[object] = list(array.tolist())
    assert rows == [[PAGE, 2 * PAGE - 1]]
    assert len(trash) == 10


def test_results_are_read_only_arrays_of_u64() -> None:
    bitmap = bitmap_of(IovaRange.of(0, 1 << 20), dirty=[0, PAGE, 8 * PAGE])

    assert np.asarray(bitmap.runs()).tolist() == [[0, 2 * PAGE - 1], [8 * PAGE, 9 * PAGE - 1]]
    assert np.asarray(bitmap.pages()).dtype == np.uint64
    assert not np.asarray(bitmap.pages()).flags.writeable
    assert len(np.asarray(bitmap_of(IovaRange.of(0, PAGE)).pages())) == 0


# guards


@pytest.mark.parametrize("pages", [1, 63, 64, 65, 512, 513])
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_write_around_a_bitmap_is_noticed(pages: int, where: str) -> None:
    bitmap = DirtyBitmap([IovaRange.of(0, pages * PAGE), IovaRange.of(1 << 40, pages * PAGE)])
    bitmap.check_guards()
    segment = bitmap.segments[1]
    overwrite(segment, -1 if where == "before" else segment.nbytes)

    with pytest.raises(BadReply, match=f"{where} the bitmap of IovaRange\\(0x10000000000"):
        bitmap.check_guards()


def overwrite(segment: Segment, offset: int) -> None:
    """Change a byte by its address, as a kernel does."""
    from pyvfio._abi import ffi

    ffi.cast("unsigned char *", segment.address)[offset] ^= 1


def test_a_bitmap_that_is_all_written_leaves_its_guards_alone() -> None:
    bitmap = DirtyBitmap([IovaRange.of(i << 30, (i + 1) * PAGE) for i in range(200)])
    for segment in bitmap.segments:
        segment.words[:] = memoryview(b"\xff" * segment.nbytes).cast("Q")

    bitmap.check_guards()
    assert list(bitmap.runs()) == sorted(bitmap.ranges)


# or, and the rest of the algebra


@st.composite
def pairs(draw: st.DrawFn) -> tuple[DirtyBitmap, set[int], DirtyBitmap, set[int]]:
    layout = draw(layouts())
    return *draw(bitmaps(layout)), *draw(bitmaps(layout))


@given(pairs())
def test_or_is_the_union(case: tuple[DirtyBitmap, set[int], DirtyBitmap, set[int]]) -> None:
    one, in_one, other, in_other = case
    both = one | other

    assert set(both.pages()) == in_one | in_other
    assert both.ranges == one.ranges
    assert set(one.pages()) == in_one
    one |= other
    assert one == both
    assert set(other.pages()) == in_other
    one.check_guards()
    both.check_guards()


@given(bitmaps(), st.data())
def test_a_part_is_added_where_it_belongs(case: tuple[DirtyBitmap, set[int]], data: st.DataObject) -> None:
    whole, in_whole = case
    size = whole.page_size
    # Choose a part of one of the ranges that the segments cover. Adjacent segments are one range.
    covered = data.draw(st.sampled_from(list(IovaSet(whole.ranges))))
    first = data.draw(st.integers(0, covered.size // size - 1))
    count = data.draw(st.integers(1, covered.size // size - first))
    part, in_part = data.draw(bitmaps((size, [IovaRange.of(covered.start + first * size, count * size)])))

    whole |= part

    assert set(whole.pages()) == in_whole | in_part
    whole.check_guards()


def test_or_in_place_allocates_no_other_bitmap() -> None:
    bitmap = bitmap_of(IovaRange.of(0, 1 << 20))
    address = bitmap.segments[0].address
    same = bitmap
    bitmap |= bitmap_of(IovaRange.of(0, 1 << 20), dirty=[PAGE])

    assert bitmap is same
    assert bitmap.segments[0].address == address
    assert list(bitmap.pages()) == [PAGE]


def test_what_the_ranges_do_not_cover_is_not_added() -> None:
    bitmap = bitmap_of(IovaRange.of(0, 8 * PAGE))

    with pytest.raises(ValueError, match="0x00008000"):
        bitmap |= bitmap_of(IovaRange.of(4 * PAGE, 8 * PAGE), dirty=[4 * PAGE])
    assert not bitmap


def test_bitmaps_of_different_ranges_make_one_of_all() -> None:
    one = bitmap_of(IovaRange.of(0, 8 * PAGE), dirty=[0])
    other = bitmap_of(IovaRange.of(4 * PAGE, 8 * PAGE), IovaRange.of(1 << 40, PAGE), dirty=[8 * PAGE, 1 << 40])

    both = one | other

    assert both.ranges == (IovaRange.of(0, 12 * PAGE), IovaRange.of(1 << 40, PAGE))
    assert list(both.pages()) == [0, 8 * PAGE, 1 << 40]


def test_bitmaps_of_different_page_sizes_do_not_mix() -> None:
    one, other = DirtyBitmap([IovaRange.of(0, 1 << 20)]), DirtyBitmap([IovaRange.of(0, 1 << 20)], 65536)

    with pytest.raises(ValueError, match="4096 and 65536"):
        one | other
    with pytest.raises(ValueError, match="4096 and 65536"):
        one |= other


def test_what_is_newly_dirty_is_a_difference_of_runs() -> None:
    first = bitmap_of(IovaRange.of(0, 1 << 20), dirty=[0, PAGE])
    second = bitmap_of(IovaRange.of(0, 1 << 20), dirty=[PAGE, 2 * PAGE])

    assert list(second.runs() - first.runs()) == [IovaRange.of(2 * PAGE, PAGE)]


@given(bitmaps())
def test_a_copy_is_equal_and_apart(case: tuple[DirtyBitmap, set[int]]) -> None:
    bitmap, dirty = case
    copy = bitmap.copy()

    assert copy == bitmap
    copy.clear()
    assert not copy
    assert set(bitmap.pages()) == dirty
    assert (copy == bitmap) == (not dirty)
    copy.check_guards()


def test_equality_is_of_page_size_ranges_and_pages() -> None:
    bitmap = bitmap_of(IovaRange.of(0, 1 << 20), dirty=[PAGE])

    assert bitmap == bitmap_of(IovaRange.of(0, 1 << 20), dirty=[PAGE])
    assert bitmap != bitmap_of(IovaRange.of(0, 1 << 20), dirty=[0])
    assert bitmap != bitmap_of(IovaRange.of(0, 1 << 21), dirty=[PAGE])
    assert DirtyBitmap([IovaRange.of(0, 1 << 20)], 65536) != DirtyBitmap([IovaRange.of(0, 1 << 20)])
    assert bitmap != [PAGE]
    with pytest.raises(TypeError, match="unhashable"):
        hash(bitmap)


# bad input


@pytest.mark.parametrize("page_size", [0, -4096, 3, 0x3000])
def test_a_page_size_is_a_power_of_two(page_size: int) -> None:
    with pytest.raises(ValueError, match=r"page_size must be (a power of two|at least 1|at most)"):
        DirtyBitmap([IovaRange.of(0, 0x3000)], page_size)


@pytest.mark.parametrize("range_", [IovaRange.of(0x800, 0x1000), IovaRange.of(0, 0x1800)])
def test_a_range_is_whole_pages(range_: IovaRange) -> None:
    with pytest.raises(ValueError, match="whole pages"):
        DirtyBitmap([range_])


def test_ranges_do_not_overlap() -> None:
    with pytest.raises(ValueError, match=r"0x00001000.*0x00002000.*overlap"):
        DirtyBitmap([IovaRange.of(0x2000, 0x1000), IovaRange.of(0x1000, 0x2000)])


def test_a_bitmap_beyond_all_memory_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        DirtyBitmap([WHOLE])


def test_untouched_memory_is_not_used() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    before = resident()
    bitmap = DirtyBitmap([IovaRange.of(0, 1 << 44)])

    assert bitmap.segments[0].nbytes == 512 << 20
    assert resident() - before < 4096


# copies and arguments


def test_copies_are_independent() -> None:
    bitmap = DirtyBitmap([IovaRange.of(1 << 40, 200 << 12), IovaRange.of(0, 4096)])
    bitmap.segments[0].words[3] = 5
    for copied in (copy.copy(bitmap), copy.deepcopy(bitmap), pickle.loads(pickle.dumps(bitmap)), bitmap.copy()):
        assert copied == bitmap
        assert copied.ranges == bitmap.ranges
        copied.segments[1].words[0] = 1
        assert copied != bitmap
        copied.check_guards()
    assert bitmap.count() == 2


def test_copies_of_a_segment_are_independent() -> None:
    segment = DirtyBitmap([IovaRange.of(1 << 40, 70 << 12)]).segments[0]
    segment.words[1] = 0b11
    for copied in (copy.copy(segment), copy.deepcopy(segment), pickle.loads(pickle.dumps(segment))):
        assert (copied.range, copied.page_size, copied.count()) == (segment.range, 4096, 2)
        gc.collect()
        copied.words[0] = 1
        assert copied.count() == 3
        copied.check_guards()
    assert segment.count() == 2


def test_one_page_may_be_half_of_all_addresses() -> None:
    bitmap = DirtyBitmap([IovaRange(0, 2**64 - 1)], 2**63)
    bitmap.segments[0].words[0] = 0b11
    assert list(bitmap.runs()) == [IovaRange(0, 2**64 - 1)]
    with pytest.raises(ValueError, match=r"page_size must be at most 2\^63, not 2\^64"):
        DirtyBitmap([IovaRange(0, 2**64 - 1)], 2**64)


@pytest.mark.parametrize(
    ("ranges", "page_size", "error", "message"),
    [
        (5, 4096, TypeError, "^ranges must be an IovaRange"),
        (["ab"], 4096, TypeError, "^ranges must be an IovaRange"),
        ([(1, 2, 3)], 4096, ValueError, "^ranges has an item of length 3"),
        ([(0, 4095)], "4096", TypeError, "^page_size must be an integer, not str"),
        ([(0, 4095)], True, TypeError, "^page_size must be an integer, not bool"),
        (
            [(0, 4096)],
            4096,
            ValueError,
            r"whole pages of page_size=0x1000 bytes; last is the last address, IovaRange\.of",
        ),
    ],
)
def test_wrong_arguments_are_named(ranges: Any, page_size: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DirtyBitmap(ranges, page_size)


def test_ranges_may_be_pairs_numpy_pages_or_one_range() -> None:
    assert DirtyBitmap([(0, 4095)]).ranges == (IovaRange(0, 4095),)
    assert DirtyBitmap(IovaRange(0, 4095)).ranges == (IovaRange(0, 4095),)
    page_size: Any = np.uint32(4096)
    assert DirtyBitmap(DirtyBitmap([(0, 4095)]).segments, page_size).page_size == 4096
    with pytest.raises(TypeError, match=r"^iova must be an integer, not str"):
        _ = "0" in DirtyBitmap([(0, 4095)])  # type: ignore[operator]
