# SPDX-License-Identifier: MIT
from __future__ import annotations

import copy
import itertools
import pickle
from array import array
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvfio.iova import WHOLE, IovaRange, IovaSet, as_range, as_ranges

LAST = 2**64 - 1
WORLD = 48  # number of addresses in the small worlds in which sets are compared with sets of ints


# IovaRange


def test_a_range_includes_its_last_address() -> None:
    range_ = IovaRange(0x5000, 0x5FFF)

    assert (range_.start, range_.last, range_.size) == (0x5000, 0x5FFF, 0x1000)
    assert 0x4FFF not in range_
    assert 0x5000 in range_
    assert 0x5FFF in range_
    assert 0x6000 not in range_


def test_of_takes_a_size() -> None:
    assert IovaRange.of(0x5000, 0x1000) == IovaRange(0x5000, 0x5FFF)
    assert IovaRange.of(LAST, 1) == IovaRange(LAST, LAST)
    assert IovaRange.of(0, 2**64) == WHOLE


def test_the_whole_of_64_bits_is_a_range() -> None:
    assert WHOLE.size == 2**64
    assert 0 in WHOLE
    assert LAST in WHOLE


@pytest.mark.parametrize(("start", "last"), [(1, 0), (-1, 0), (0, 2**64), (2**64, 2**64)])
def test_what_is_no_range_is_refused(start: int, last: int) -> None:
    with pytest.raises(ValueError, match=r"(start|last|size) must be at "):
        IovaRange(start, last)
    with pytest.raises(ValueError, match=r"(start|last|size) must be at "):
        IovaRange(0, 0)._replace(start=start, last=last)


@pytest.mark.parametrize("size", [0, -1])
def test_a_range_has_a_size(size: int) -> None:
    with pytest.raises(ValueError, match="size must be at least 1"):
        IovaRange.of(0x1000, size)


def test_a_range_does_not_pass_the_last_address() -> None:
    with pytest.raises(ValueError, match=r"(start|last|size) must be at "):
        IovaRange.of(LAST, 2)


def test_a_float_is_no_address() -> None:
    with pytest.raises(TypeError):
        IovaRange(0.0, 1.0)  # type: ignore[arg-type]


def test_numpy_integers_become_ints() -> None:
    range_ = IovaRange(np.uint64(0), np.uint64(LAST))  # type: ignore[arg-type]

    assert range_.size == 2**64
    assert type(range_.start) is int


def test_a_range_reads_as_the_design_prints_it() -> None:
    assert str(IovaRange(0x5000, 0x5FFF)) == "IovaRange(0x00005000..0x00005fff)"
    assert repr(IovaRange(0xFD00000000, 0xFFFFFFFFFF)) == "IovaRange(0xfd00000000..0xffffffffff)"


def test_ranges_are_values() -> None:
    assert {IovaRange(1, 2), IovaRange(1, 2)} == {IovaRange(1, 2)}
    assert sorted([IovaRange(2, 3), IovaRange(1, 9), IovaRange(1, 2)]) == [(1, 2), (1, 9), (2, 3)]
    assert pickle.loads(pickle.dumps(IovaRange(1, 2))) == IovaRange(1, 2)
    assert copy.copy(IovaRange(1, 2)) == IovaRange(1, 2)
    with pytest.raises(AttributeError):
        IovaRange(1, 2).start = 3  # type: ignore[misc]
    start, last = IovaRange(1, 2)
    assert (start, last) == (1, 2)


addresses = st.integers(0, WORLD - 1)
ranges = st.builds(lambda a, b: IovaRange(min(a, b), max(a, b)), addresses, addresses)


def members(range_: IovaRange | None) -> set[int]:
    return set() if range_ is None else set(range(range_.start, range_.last + 1))


@given(ranges, ranges)
def test_ranges_relate_as_their_addresses_do(one: IovaRange, other: IovaRange) -> None:
    assert one.overlaps(other) == bool(members(one) & members(other))
    assert members(one.intersection(other)) == members(one) & members(other)
    assert one.__contains__(other) == (members(other) <= members(one))
    assert one.touches(other) == (one.last + 1 == other.start or other.last + 1 == one.start)


def test_alignment_is_of_both_ends() -> None:
    assert IovaRange.of(0x1000, 0x2000).is_aligned(0x1000)
    assert not IovaRange.of(0x1000, 0x1800).is_aligned(0x1000)
    assert not IovaRange.of(0x800, 0x1000).is_aligned(0x1000)
    assert WHOLE.is_aligned(4096)


# IovaSet

bases = st.sampled_from([0, 2**63, 2**64 - WORLD])


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, IovaSet, set[int], IovaSet, set[int]]:
    """Draw a base, and two sets, each with the offsets from the base that it contains."""
    base = draw(bases)
    both: list[object] = []
    for _ in range(2):
        parts = draw(st.lists(ranges, max_size=8))
        both.append(IovaSet(IovaRange(base + part.start, base + part.last) for part in parts))
        both.append(set().union(*(members(part) for part in parts)))
    return base, *both  # type: ignore[return-value]


def offsets(set_: IovaSet, base: int) -> set[int]:
    """Assert that a set is normalised, and return its addresses as offsets from a base."""
    for low, high in itertools.pairwise(set_):
        assert low.last + 1 < high.start
    return set().union(*(members(IovaRange(start - base, last - base)) for start, last in set_))


@given(worlds())
def test_sets_behave_as_sets_of_their_addresses(world: tuple[int, IovaSet, set[int], IovaSet, set[int]]) -> None:
    base, one, in_one, other, in_other = world
    whole = IovaRange(base, base + WORLD - 1)

    assert offsets(one, base) == in_one
    assert offsets(one | other, base) == in_one | in_other
    assert offsets(one & other, base) == in_one & in_other
    assert offsets(one - other, base) == in_one - in_other
    assert offsets(one.complement(whole), base) == set(range(WORLD)) - in_one
    assert one.complement().complement() == one
    assert one.total == len(in_one)
    assert one.complement().total == 2**64 - len(in_one)
    assert (one == other) == (in_one == in_other)
    assert (hash(one) == hash(other)) or in_one != in_other
    assert {at for at in range(WORLD) if base + at in one} == in_one
    assert bool(one) == bool(in_one)


@given(worlds(), ranges)
def test_a_range_is_in_a_set_if_all_its_addresses_are(
    world: tuple[int, IovaSet, set[int], IovaSet, set[int]], part: IovaRange
) -> None:
    base, one, in_one, _, _ = world
    range_ = IovaRange(base + part.start, base + part.last)

    assert (range_ in one) == (members(part) <= in_one)
    assert one.overlaps(range_) == bool(members(part) & in_one)
    assert one.holding(range_) == next((each for each in one if each.__contains__(range_)), None)
    assert one.holding(range_.start) == next((each for each in one if range_.start in each), None)


@given(worlds(), ranges)
def test_a_complement_stays_within(world: tuple[int, IovaSet, set[int], IovaSet, set[int]], part: IovaRange) -> None:
    base, one, in_one, _, _ = world

    within = one.complement(IovaRange(base + part.start, base + part.last))

    assert offsets(within, base) == members(part) - in_one


def test_touching_ranges_become_one() -> None:
    assert list(IovaSet([(0, 9), (20, 29), (10, 19)])) == [IovaRange(0, 29)]
    assert list(IovaSet([(0, 9), (11, 19)])) == [IovaRange(0, 9), IovaRange(11, 19)]
    assert list(IovaSet([(0, LAST - 1), (LAST, LAST)])) == [WHOLE]
    assert list(IovaSet([(0, LAST), (0, 0), (5, LAST)])) == [WHOLE]


def test_the_empty_set_and_the_whole_are_complements() -> None:
    assert IovaSet().complement() == IovaSet([WHOLE])
    assert IovaSet([WHOLE]).complement() == IovaSet()
    assert list(IovaSet()) == []
    assert IovaSet().total == 0
    assert IovaSet([WHOLE]).total == 2**64


def test_ranges_of_a_set_are_indexed_in_order() -> None:
    set_ = IovaSet([(30, 39), (10, 19), (50, 59)])

    assert len(set_) == 3
    assert set_[0] == IovaRange(10, 19)
    assert set_[-1] == IovaRange(50, 59)
    assert set_[1:] == IovaSet([(30, 39), (50, 59)])
    assert set_[::-2] == IovaSet([(10, 19), (50, 59)])
    with pytest.raises(IndexError):
        set_[3]


def test_iteration_gives_ranges() -> None:
    assert {type(range_) for range_ in IovaSet([(0, 1), (5, 6)])} == {IovaRange}


@pytest.mark.parametrize("pair", [(2, 1), (-1, 0), (0, 2**64)])
def test_a_set_refuses_what_is_no_range(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"^ranges.*(start <= last|must be at )"):
        IovaSet([(5, 5), pair])


def test_sets_mix_with_nothing_else() -> None:
    for name in ("__or__", "__and__", "__sub__", "__eq__"):
        assert getattr(IovaSet(), name)([(0, 1)]) is NotImplemented


def test_a_set_reads_as_its_ranges() -> None:
    assert repr(IovaSet([(0, 0xFEDFFFFF), (0xFEF00000, LAST)])) == (
        "IovaSet(0x00000000..0xfedfffff, 0xfef00000..0xffffffffffffffff)"
    )
    many = repr(IovaSet((i * 16, i * 16) for i in range(1000)))
    assert "993 more" in many
    assert many.endswith("0x00003e70..0x00003e70)")


@given(worlds())
def test_a_set_comes_back_from_a_pickle(world: tuple[int, IovaSet, set[int], IovaSet, set[int]]) -> None:
    assert pickle.loads(pickle.dumps(world[1])) == world[1]


# arrays


@given(worlds())
def test_arrays_go_in_and_come_out(world: tuple[int, IovaSet, set[int], IovaSet, set[int]]) -> None:
    pairs = [tuple(range_) for range_ in world[1]]
    exported: Any = np.asarray(world[1])  # before Python 3.12, numpy's type hints do not accept a Buffer

    assert exported.shape == (len(pairs), 2)
    assert exported.dtype == np.uint64
    assert [tuple(pair) for pair in exported.tolist()] == pairs
    assert IovaSet.from_array(exported[::-1].copy()) == world[1]
    assert IovaSet.from_array(array("Q", itertools.chain(*pairs))) == world[1]
    assert IovaSet.from_array(exported.tobytes()) == world[1]


def test_the_array_of_a_set_is_read_only_and_no_copy() -> None:
    set_ = IovaSet([(0, 9)])

    with pytest.raises(TypeError):
        set_.array[0, 0] = 1
    assert np.shares_memory(np.asarray(set_.array), np.asarray(set_))


def test_a_set_is_a_buffer() -> None:
    set_ = IovaSet([(0, 9), (20, 29)])

    rows: list[object] = list(memoryview(set_).tolist())
    assert rows == [[0, 9], [20, 29]]
    assert memoryview(set_) == set_.array
    assert np.frombuffer(memoryview(set_), dtype=np.uint64).tolist() == [0, 9, 20, 29]
    assert bytes(set_) == array("Q", [0, 9, 20, 29]).tobytes()
    assert memoryview(IovaSet()).shape == (0, 2)
    assert IovaSet.from_array(set_) == set_


def test_an_array_outlives_its_set() -> None:
    exported = np.asarray(IovaSet([(0, 9), (20, 29)]).array)

    assert exported.tolist() == [[0, 9], [20, 29]]


def test_the_array_that_a_set_is_made_of_is_not_touched() -> None:
    pairs: Any = np.array([[20, 29], [0, 9]], dtype=np.uint64)
    set_ = IovaSet.from_array(pairs)
    pairs[:] = 0

    assert list(set_) == [(0, 9), (20, 29)]


@pytest.mark.parametrize("kind", ["i8", "u4", "f8", ">u8"])
def test_an_array_of_other_numbers_is_refused(kind: str) -> None:
    pairs: Any = np.array([[0, 9]], dtype=kind)
    with pytest.raises(TypeError, match="u64"):
        IovaSet.from_array(pairs)


def test_an_array_without_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="not a whole number"):
        IovaSet.from_array(array("Q", [0, 1, 2]))
    with pytest.raises(ValueError, match="start 0x2, last 0x1"):
        IovaSet.from_array(array("Q", [0, 0, 2, 1]))


def test_a_million_ranges_in_any_order_make_one_set() -> None:
    starts = np.random.default_rng(1).permutation(10**6).astype(np.uint64) << np.uint64(21)
    pairs: Any = np.stack([starts, starts + np.uint64(4095)], axis=1)

    set_ = IovaSet.from_array(pairs)

    assert len(set_) == 10**6
    assert set_.total == 10**6 * 4096
    assert set_[12345] == IovaRange.of(12345 << 21, 4096)
    assert set_.coalesce(256)[0] == IovaRange(0, (10**6 - 256 << 21) + 4095)


# coalesce


def combined(ranges: list[IovaRange], limit: int) -> list[IovaRange]:
    """Combine ranges as the kernel's vfio_combine_iova_ranges does: repeatedly close the smallest gap, of equal ones the lowest."""
    ranges = list(ranges)
    while len(ranges) > limit:
        gaps = [high.start - low.last for low, high in itertools.pairwise(ranges)]
        at = gaps.index(min(gaps))
        ranges[at : at + 2] = [IovaRange(ranges[at].start, ranges[at + 1].last)]
    return ranges


gapped = st.lists(st.tuples(st.integers(2, 5) | st.integers(2, 2**56), st.integers(0, 3)), min_size=1, max_size=9)


def laid_out(steps: list[tuple[int, int]]) -> IovaSet:
    made, at = [], 0
    for gap, length in steps:
        made.append(IovaRange(at + gap, at + gap + length))
        at += gap + length
    return IovaSet(made)


@given(gapped, st.integers(1, 10))
def test_coalesce_gives_what_the_kernel_gives(steps: list[tuple[int, int]], limit: int) -> None:
    assert list(laid_out(steps).coalesce(limit)) == combined(list(laid_out(steps)), limit)


@given(gapped, st.integers(1, 10))
def test_no_cover_of_so_few_ranges_is_smaller(steps: list[tuple[int, int]], limit: int) -> None:
    set_ = laid_out(steps)
    covers = (
        sum(
            set_[last].last - set_[first].start + 1
            for first, last in itertools.pairwise([*cuts, len(set_)])
            for last in [last - 1]
        )
        for count in range(min(limit, len(set_)))
        for cuts in ([0, *rest] for rest in itertools.combinations(range(1, len(set_)), count))
    )

    coalesced = set_.coalesce(limit)

    assert len(coalesced) <= limit
    assert set_ - coalesced == IovaSet()
    assert coalesced.total == min(covers)


def test_coalesce_leaves_alone_what_is_within_the_limit() -> None:
    set_ = IovaSet([(0, 9), (20, 29)])

    assert set_.coalesce(2) == set_
    assert set_.coalesce(100) == set_
    assert IovaSet().coalesce(1) == IovaSet()


def test_coalesce_to_one_reaches_from_the_first_to_the_last() -> None:
    set_ = IovaSet([(0, 0x807FFFFF), (0x100000000, 0x27FFFFFFF), (0x383800000000, 0x3838000FFFFF)])

    assert list(set_.coalesce(1)) == [IovaRange(0, 0x3838000FFFFF)]
    assert list(set_.coalesce(2)) == [IovaRange(0, 0x27FFFFFFF), IovaRange(0x383800000000, 0x3838000FFFFF)]


def test_a_set_is_not_coalesced_to_nothing() -> None:
    with pytest.raises(ValueError, match="limit must be at least 1, not 0"):
        IovaSet([(0, 1)]).coalesce(0)


# align, fits


@given(worlds(), st.sampled_from([1, 2, 4, 8]))
def test_align_leaves_the_whole_pages(world: tuple[int, IovaSet, set[int], IovaSet, set[int]], page: int) -> None:
    base, one, in_one, _, _ = world

    aligned = one.align(page)

    pages = (set(range(at, at + page)) for at in range(0, WORLD, page))
    assert offsets(aligned, base) == set().union(*(each for each in pages if each <= in_one))


@pytest.mark.parametrize("page", [0, 3, -4096])
def test_pages_are_powers_of_two(page: int) -> None:
    with pytest.raises(ValueError, match=r"page_size must be (a power of two|at least 1)"):
        IovaSet().align(page)


@given(worlds(), st.integers(1, 12), st.sampled_from([1, 2, 4, 8]), ranges)
def test_fits_are_the_lowest_and_the_highest(
    world: tuple[int, IovaSet, set[int], IovaSet, set[int]], size: int, alignment: int, part: IovaRange
) -> None:
    base, one, in_one, _, _ = world
    places = [
        IovaRange.of(base + at, size)
        for at in range(part.start, part.last + 2 - size)
        if (base + at) % alignment == 0 and set(range(at, at + size)) <= in_one
    ]
    within = IovaRange(base + part.start, base + part.last)

    assert one.first_fit(size, alignment, within) == (places[0] if places else None)
    assert one.last_fit(size, alignment, within) == (places[-1] if places else None)


@given(worlds(), ranges, st.sampled_from([1, 2, 4, 8]))
def test_the_nearest_places_are_next_to_what_was_wanted(
    world: tuple[int, IovaSet, set[int], IovaSet, set[int]], part: IovaRange, alignment: int
) -> None:
    base, one, in_one, _, _ = world
    wanted = IovaRange(base + part.start, base + part.last)
    starts = [
        at
        for at in range(WORLD - part.size + 1)
        if (base + at) % alignment == 0 and set(range(at, at + part.size)) <= in_one
    ]

    nearest = one.nearest(wanted, alignment)

    below = [at for at in starts if at < part.start][-1:]
    above = [at for at in starts if at >= part.start][:1]
    expected = above if above == [part.start] else below + above
    assert [(place.start - base, place.size) for place in nearest] == [(at, part.size) for at in expected]


def test_the_nearest_places_around_the_amd_hole() -> None:
    usable = IovaSet([(0, 0xFCFFFFFFFF), (0x10000000000, LAST)])

    assert usable.nearest(IovaRange.of(0xFCFFE00000, 4 << 20), 4096) == (
        IovaRange.of(0xFCFFC00000, 4 << 20),
        IovaRange.of(0x10000000000, 4 << 20),
    )


@pytest.mark.parametrize(("size", "alignment"), [(0, 1), (-1, 1), (1, 0), (1, -8)])
def test_nothing_fits_nowhere(size: int, alignment: int) -> None:
    for fit in (IovaSet([WHOLE]).first_fit, IovaSet([WHOLE]).last_fit):
        with pytest.raises(ValueError, match=r"size|alignment"):
            fit(size, alignment)


# arguments


class Held:
    """An object with a range, as a Mapping is."""

    def __init__(self, start: int, last: int) -> None:
        self.range = IovaRange(start, last)


@pytest.mark.parametrize(
    "ranges",
    [
        [(1, 2, 3), (4,)], [(1,)], [(1, 2), (3,)], [b"ab"], ["ab"], [{1, 2}], [{1: 2, 3: 4}], [None], [(1, 2), 3], "ab", b"ab", 5, None,
        [(1.0, 2)], [("1", 2)], [(True, 2)], [(np.bool_(True), 2)], [()], [[]],
    ],
)  # fmt: skip
def test_a_set_refuses_malformed_pairs(ranges: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^ranges[: ]"):
        IovaSet(ranges)


@pytest.mark.parametrize(
    "ranges",
    [
        [IovaRange(4, 7), (9, 9)], ((4, 7), (9, 9)), iter([(4, 7), (9, 9)]), [Held(4, 7), Held(9, 9)], [[4, 7], [9, 9]],
        np.array([[4, 7], [9, 9]]), np.array([[4, 7], [9, 9]], "u8"), [(np.int32(4), np.uint64(7)), (9, 9)],
        IovaSet([(4, 7), (9, 9)]), {IovaRange(4, 7), IovaRange(9, 9)},
    ],
)  # fmt: skip
def test_a_set_takes_whatever_holds_ranges(ranges: Any) -> None:
    assert list(IovaSet(ranges)) == [IovaRange(4, 7), IovaRange(9, 9)]


@pytest.mark.parametrize("one", [IovaRange(4, 7), (4, 7), [4, 7], Held(4, 7), np.array([4, 7])])
def test_a_single_range_may_stand_for_several(one: Any) -> None:
    assert as_ranges(one, "ranges") == [IovaRange(4, 7)]
    assert list(IovaSet(one)) == [IovaRange(4, 7)]
    assert as_range(one, "range") == IovaRange(4, 7)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: IovaRange("0", 5), TypeError, "^start must be an integer, not str"),  # type: ignore[arg-type]
        (lambda: IovaRange(0, True), TypeError, "^last must be an integer, not bool"),
        (lambda: IovaRange(0, 5.0), TypeError, "^last must be an integer, not float"),  # type: ignore[arg-type]
        (lambda: IovaRange.of(0, None), TypeError, "^size must be an integer, not NoneType"),  # type: ignore[arg-type]
        (lambda: IovaRange.of(2**64, 1), ValueError, r"^start must be at most 2\^64-1, not 2\^64"),
        (lambda: IovaRange(0, 5).overlaps(7), TypeError, "^other must be an IovaRange"),  # type: ignore[arg-type]
        (lambda: IovaRange(0, 5).is_aligned(0), ValueError, "^page_size must be at least 1"),
        (lambda: "x" in cast("Any", IovaRange(0, 5)), TypeError, "^address must be an integer, not str"),
        (lambda: 1.5 in IovaSet([(0, 5)]), TypeError, "^address must be an integer, not float"),
        (lambda: IovaSet().coalesce("3"), TypeError, "^limit must be an integer, not str"),  # type: ignore[arg-type]
        (lambda: IovaSet().align(2**64), ValueError, r"^page_size must be at most 2\^63, not 2\^64"),
        (lambda: IovaSet().first_fit(0), ValueError, "^size must be at least 1"),
        (lambda: IovaSet().last_fit(1, 0), ValueError, "^alignment must be at least 1"),
        (lambda: IovaSet().complement("x"), TypeError, "^within must be an IovaRange"),  # type: ignore[arg-type]
        (lambda: IovaSet().nearest((5, 4)), ValueError, "^wanted: last must be at least start"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_an_address_beyond_64_bits_is_in_no_set() -> None:
    assert 2**64 not in IovaSet([WHOLE])
    assert -1 not in IovaSet([WHOLE])


def test_other_ranges_may_be_pairs_or_objects() -> None:
    assert IovaRange(0, 5).overlaps((5, 6))
    assert IovaRange(0, 5).touches(Held(6, 7))
    assert IovaRange(0, 5).intersection(Held(3, 9)) == (3, 5)
    assert IovaSet([(0, 5)]).overlaps(Held(5, 5))
    assert IovaSet([(0, 5)]).complement((0, 9)) == IovaSet([(6, 9)])


def test_a_limit_beyond_64_bits_is_no_limit() -> None:
    assert IovaSet([(0, 5), (9, 9)]).coalesce(2**70) == IovaSet([(0, 5), (9, 9)])
