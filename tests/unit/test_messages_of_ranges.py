# SPDX-License-Identifier: MIT
"""Limits of ranges and of numbers that users type: the last accepted value, the first refused one, and its message."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

import pytest

from pyvfio import IovaRange
from pyvfio.cli.numbers import iova_range, number, size

TOP = (1 << 64) - 1


@pytest.mark.parametrize(
    ("start", "length", "last"), [(0, 1, 0), (0, 1 << 64, TOP), (1, TOP, TOP), (TOP, 1, TOP), (0x1000, 0x2000, 0x2FFF)]
)
def test_a_range_of_a_size_ends_where_it_says(start: int, length: int, last: int) -> None:
    made = IovaRange.of(start, length)
    assert (made.start, made.last, made.size) == (start, last, length)


@pytest.mark.parametrize(
    ("start", "length", "most"),
    [(1, 1 << 64, "0xffffffffffffffff"), (TOP, 2, "0x1"), (0x1000, TOP, "0xfffffffffffff000")],
)
def test_a_range_past_the_end_says_how_long_it_may_be(start: int, length: int, most: str) -> None:
    with pytest.raises(
        ValueError, match=f"^size must be at most {most} for a range that begins at {start:#x}, not {length:#x}$"
    ):
        IovaRange.of(start, length)


@pytest.mark.parametrize(
    ("length", "what"), [(0, "at least 1, not 0"), (-1, "at least 1, not -1"), ((1 << 64) + 1, r"at most 2\^64, not")]
)
def test_a_size_of_a_range_is_1_to_2_64(length: int, what: str) -> None:
    with pytest.raises(ValueError, match=f"size must be {what}"):
        IovaRange.of(0, length)


@pytest.mark.parametrize(
    ("page", "aligned"), [(1, True), (0x1000, True), (0x2000, True), (0x4000, False), (0x3000, False), (3, False)]
)
def test_an_aligned_range_has_whole_pages(page: int, aligned: bool) -> None:
    assert IovaRange.of(0x2000, 0x2000).is_aligned(page) == aligned
    assert not IovaRange.of(0x2000, 0x2800).is_aligned(0x1000)
    assert not IovaRange.of(0x2800, 0x1000).is_aligned(0x1000)
    with pytest.raises(ValueError, match="page_size"):
        IovaRange.of(0x2000, 0x2000).is_aligned(0)


def test_ranges_touch_and_overlap_at_their_edges() -> None:
    one = IovaRange(0x1000, 0x1FFF)
    for other, overlaps, touches in (
        ((0x0, 0xFFF), False, True),
        ((0x0, 0x1000), True, False),
        ((0x0, 0xFFE), False, False),
        ((0x1FFF, 0x2FFF), True, False),
        ((0x2000, 0x2FFF), False, True),
        ((0x2001, 0x2FFF), False, False),
        ((0x1800, 0x1800), True, False),
    ):
        assert (one.overlaps(other), one.touches(other)) == (overlaps, touches), other
        assert (IovaRange(*other).overlaps(one), IovaRange(*other).touches(one)) == (overlaps, touches), other
    assert one.intersection((0x0, 0x1000)) == (0x1000, 0x1000)
    assert one.intersection((0x1FFF, 0x3000)) == (0x1FFF, 0x1FFF)
    assert one.intersection((0x2000, 0x3000)) is None
    assert 0x1000 in one
    assert 0x1FFF in one
    assert 0xFFF not in one
    assert 0x2000 not in one
    holds: Callable[[object], bool] = one.__contains__
    assert holds(IovaRange(0x1000, 0x1FFF))
    assert not holds(IovaRange(0xFFF, 0x1FFF))
    assert not holds(IovaRange(0x1000, 0x2000))


@pytest.mark.parametrize(
    ("text", "value"),
    [("4096", 4096), ("0x1000", 4096), ("64K", 65536), ("2m", 2 << 20), ("1G", 1 << 30), ("1T", 1 << 40), ("0", 0), ("0b11", 3),
     ("0o17", 15), ("1_000", 1000), ("-1", -1), ("0x10k", 16384)],
)  # fmt: skip
def test_numbers_are_typed_in_several_ways(text: str, value: int) -> None:
    assert number(text) == value


@pytest.mark.parametrize("text", ["", "k", "xk", "1x", "0x", "10Kx", "1.5", " "])
def test_what_is_no_number_is_told_so(text: str) -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        number(text)
    assert str(caught.value) == f"{text!r} is not a number: write 4096, 0x1000, or 64K"


@pytest.mark.parametrize(
    ("text", "value"),
    [("4096", 4096), ("4096B", 4096), ("2MiB", 2 << 20), ("1 GB", 1 << 30), (" 1T ", 1 << 40), ("0x10", 16)],
)
def test_sizes_may_have_their_unit(text: str, value: int) -> None:
    assert size(text) == value


@pytest.mark.parametrize("text", ["0", "0x0", "00", "010", "-1", "1X", "K", "", "1KK"])
def test_what_is_no_size_is_told_so(text: str) -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        size(text)
    assert str(caught.value) == f"{text!r} is not a size: write 4096, 0x1000, 64K, 2M, 1G or 1T"


def test_ranges_are_typed_by_size_or_by_last_address() -> None:
    assert iova_range("0x100000+2M") == IovaRange.of(0x100000, 2 << 20)
    assert iova_range("1M-0x1fffff") == IovaRange.of(0x100000, 1 << 20)
    assert iova_range("0xfee00abc") == IovaRange(0xFEE00000, 0xFEE00FFF)  # an address stands for its page
    for text, message in (
        ("five", "'five' is not a range: write START+SIZE, such as 0x100000+2M, START-LAST, or an address"),
        ("16E", "'16E' is not a range: write START+SIZE, such as 0x100000+2M, START-LAST, or an address"),
        ("5+0", "'0' is not a size: write 4096, 0x1000, 64K, 2M, 1G or 1T"),
        ("5+", "'' is not a size: write 4096, 0x1000, 64K, 2M, 1G or 1T"),
        ("5-4", "'5-4': the last address is below the first; for a size write START+SIZE"),
    ):
        with pytest.raises(ArgumentTypeError) as caught:
            iova_range(text)
        assert str(caught.value) == message
