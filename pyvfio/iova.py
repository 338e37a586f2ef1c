# SPDX-License-Identifier: MIT
"""I/O virtual addresses: :class:`IovaRange`, an inclusive range, and :class:`IovaSet`, a set of them.

All other modules use these two. `last` is inclusive, as in iommufd and in type1's range capability, so that a range can reach
2^64-1; there is no `end`. All addresses and sizes are bytes.

Where the package takes ranges it takes an IovaRange, a (start, last) pair, an object with such a `range` (a Mapping, a Segment), or an
iterable of them: :func:`as_range`, :func:`as_ranges`.
"""

from __future__ import annotations

import errno
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeAlias, overload

from pyvfio._abi import ffi, lib
from pyvfio._buffer import Buffer, pinned
from pyvfio._core import arguments, html, sizes

if TYPE_CHECKING:
    from typing_extensions import Buffer as AnyBuffer

    from pyvfio._abi import CData

__all__ = ["WHOLE", "HasRange", "IovaRange", "IovaSet", "RangeLike", "as_range", "as_ranges"]

_LAST = 2**64 - 1


class _Pair(NamedTuple):
    start: int
    last: int


class IovaRange(_Pair):
    """The addresses from `start` to `last`, both included; never empty.

    It is a tuple: it unpacks into `start, last`, sorts by them and equals the plain pair. `in`, however, asks for an address
    (`0x1000 in range`) or for a whole other range.

    :raises TypeError: start or last is not an integer
    :raises ValueError: unless 0 <= start <= last < 2^64
    """

    __slots__ = ()

    def __new__(cls, start: int, last: int) -> Self:
        # The usual case first, since ranges are made very often. numpy's integers, whose arithmetic wraps, become Python's.
        if not (type(start) is int and type(last) is int and 0 <= start <= last <= _LAST):
            start = arguments.u64(start, "start")
            last = arguments.u64(last, "last")
            if start > last:
                raise ValueError(
                    f"last must be at least start: start {start:#x}, last {last:#x}; for a size there is IovaRange.of(start, size)"
                )
        return super().__new__(cls, start, last)

    @classmethod
    def _make(cls, iterable: Iterable[int]) -> Self:  # type: ignore[override]  # typeshed declares more parameters
        return cls(*iterable)  # checked in _replace() too

    @classmethod
    def of(cls, start: int, size: int) -> Self:
        """Return the range of `size` bytes that begins at `start`.

        :param start: the first address
        :param size: bytes, 1 to 2^64
        :raises ValueError: `size` is not 1 to 2^64, or the range passes the end of the 64-bit addresses
        """
        start = arguments.u64(start, "start")
        size = arguments.size(size)
        if start + size - 1 > _LAST:
            raise ValueError(
                f"size must be at most {_LAST - start + 1:#x} for a range that begins at {start:#x}, not {size:#x}"
            )
        return cls(start, start + size - 1)

    @property
    def size(self) -> int:
        """Bytes in the range, 1 to 2^64."""
        return self.last - self.start + 1

    def __contains__(self, what: object) -> bool:
        if isinstance(what, IovaRange):
            return self.start <= what.start and what.last <= self.last
        return self.start <= arguments.integer(what, "address") <= self.last

    def overlaps(self, other: RangeLike) -> bool:
        """Whether the two share an address.

        :param other: a range, a pair, or an object with a range
        """
        other = as_range(other, "other")
        return self.start <= other.last and other.start <= self.last

    def touches(self, other: RangeLike) -> bool:
        """Whether one begins right after the other's last address.

        :param other: a range, a pair, or an object with a range
        """
        other = as_range(other, "other")
        return self.last + 1 == other.start or other.last + 1 == self.start

    def intersection(self, other: RangeLike) -> IovaRange | None:
        """Return the addresses in both ranges, or None if they share none.

        :param other: a range, a pair, or an object with a range
        """
        other = as_range(other, "other")
        if not self.overlaps(other):
            return None
        return IovaRange(max(self.start, other.start), min(self.last, other.last))

    def is_aligned(self, page_size: int) -> bool:
        """Whether start and size are multiples of `page_size`.

        :param page_size: bytes
        """
        page_size = arguments.integer(page_size, "page_size", 1)
        return not (self.start % page_size or self.size % page_size)

    def __repr__(self) -> str:
        return f"IovaRange({_span(self)})"

    __str__ = __repr__


WHOLE = IovaRange(0, _LAST)
"""All 64-bit addresses."""


class HasRange(Protocol):
    """An object that has a range of addresses, as a Mapping, a Segment or a reserved region."""

    @property
    def range(self) -> IovaRange:
        """The addresses of the object."""


RangeLike: TypeAlias = "IovaRange | tuple[int, int] | HasRange"
"""An argument of :func:`as_range`."""


def as_range(value: RangeLike, name: str) -> IovaRange:
    """Return the range of an argument: an IovaRange, a (start, last) pair, or an object with such a `range`.

    :param value: a range, a pair of first and last address, or an object with a `range`
    :param name: the argument's name, for messages
    :raises TypeError: it is not one of these
    :raises ValueError: a pair is not a range of 64-bit addresses
    """
    if isinstance(value, IovaRange):
        return value
    if isinstance(found := getattr(value, "range", None), IovaRange):
        return found
    pair: Any = value
    if isinstance(pair, str | bytes | bytearray | Set | Mapping) or not hasattr(pair, "__len__"):
        raise arguments.wrong_type(value, name, "an IovaRange, a (start, last) pair, or an object with a range")
    if len(pair) != 2:
        raise ValueError(f"{name} has an item of length {len(pair)}, which is not a (start, last) pair")
    try:
        return IovaRange(*pair)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def as_ranges(value: RangeLike | Iterable[RangeLike], name: str) -> list[IovaRange]:
    """Return the ranges of an argument: those of an iterable, or a single one.

    :param value: such values, or one of them
    :param name: the argument's name, for messages
    :raises TypeError: it is neither a range nor an iterable of ranges
    :raises ValueError: a pair is not a range of 64-bit addresses
    """
    if isinstance(value, IovaRange):
        return [value]
    if isinstance(found := getattr(value, "range", None), IovaRange):
        return [found]
    several: Any = value
    if isinstance(several, str | bytes) or not isinstance(several, Iterable):
        raise arguments.wrong_type(value, name, "an IovaRange, an object with a range, or an iterable of them")
    items: list[Any] = list(several)
    if len(items) == 2 and _are_integers(items):
        return [as_range((items[0], items[1]), name)]
    return [as_range(item, name) for item in items]


def _are_integers(items: Iterable[object]) -> bool:
    return all(hasattr(item, "__index__") and not hasattr(item, "__len__") for item in items)


class IovaSet(Buffer):
    """An immutable set of addresses, kept as sorted ranges of which no two overlap or touch.

    It iterates, and is indexed, as :class:`IovaRange`; those objects are made only when asked for. It holds one array of (start, last)
    pairs of u64, so a million ranges are 16 MB and no objects; and it is a read-only buffer of them, (n, 2), for `numpy.asarray`.
    `a | b`, `a & b`, `a - b` and `==` work on the addresses; `in` asks for an address or for a whole range.

    :param ranges: as :func:`as_ranges` takes them, in any order
    :raises TypeError: an item is not a range
    :raises ValueError: a pair is not a range of 64-bit addresses
    """

    __slots__ = ("_lasts", "_pairs", "_starts")

    def __init__(self, ranges: RangeLike | Iterable[RangeLike] = ()) -> None:
        if isinstance(ranges, IovaSet):
            self._hold(ranges._pairs)
            return
        # A sequence of IovaRanges, or of pairs of plain integers, is checked as a whole: there may be a million.
        items: Any = (
            list(ranges) if isinstance(ranges, Iterable) and not isinstance(ranges, IovaRange | str | bytes) else ranges
        )
        kinds = set(map(type, items)) if type(items) is list else {None}
        if kinds != {IovaRange} and not (kinds <= {IovaRange, tuple} and _are_pairs(items)):
            items = as_ranges(items, "ranges")
        try:
            pairs = array("Q", chain.from_iterable(items))
        except OverflowError:
            as_ranges(items, "ranges")
            raise
        self._hold(_normalised(pairs))

    @classmethod
    def from_array(cls, pairs: AnyBuffer) -> IovaSet:
        """Return the set of the (start, last) pairs in an array, in any order; the array is copied.

        :param pairs: u64, (n, 2) or flat, contiguous: a numpy array, an `array("Q")`, or the bytes of one
        :raises TypeError: the items are not unsigned 64-bit integers of this machine's byte order
        :raises ValueError: the numbers do not come in pairs, or a pair has start > last
        """
        try:
            view = memoryview(pairs)
        except TypeError:
            raise arguments.wrong_type(pairs, "pairs", "an object with a buffer, such as an array") from None
        if view.format not in ("Q", "L", "=Q", "@Q", "@L", "<Q", "B"):
            raise TypeError(f"pairs must be (start, last) as u64 (numpy.uint64), not of format {view.format!r}")
        if view.nbytes % 16:
            raise ValueError(f"{view.nbytes} bytes are not a whole number of (start, last) pairs of u64")
        return cls._of(_normalised(array("Q", bytes(view))))

    @classmethod
    def _of(cls, pairs: AnyBuffer) -> IovaSet:
        """Return the set that holds these normalised pairs, without a copy."""
        made = cls.__new__(cls)
        made._hold(pairs)
        return made

    def _hold(self, pairs: AnyBuffer) -> None:
        self._pairs = memoryview(pairs).toreadonly()
        self._starts = self._pairs[0::2]
        self._lasts = self._pairs[1::2]
        # pinned(), not ffi.from_buffer(): the collector of CPython 3.11 to 3.13 may crash on a memoryview that C code keeps an export of.
        address, _, _ = pinned(self._pairs, False)
        self._export(self._pairs, address, len(self._starts), 2, True)

    @property
    def array(self) -> memoryview:
        """The (start, last) pairs as a read-only memoryview of u64, (n, 2), not copied."""
        return memoryview(self)

    @property
    def total(self) -> int:
        """Bytes in all ranges together, 0 to 2^64."""
        return sum(self._lasts) - sum(self._starts) + len(self)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[IovaRange]:
        # The pairs are known to be valid, so the check of IovaRange.__new__ is not needed.
        return map(partial(tuple.__new__, IovaRange), zip(self._starts, self._lasts, strict=True))

    @overload
    def __getitem__(self, item: int) -> IovaRange: ...
    @overload
    def __getitem__(self, item: slice) -> IovaSet: ...
    def __getitem__(self, item: int | slice) -> IovaRange | IovaSet:
        if isinstance(item, slice):
            return IovaSet(zip(self._starts[item], self._lasts[item], strict=True))
        return IovaRange(self._starts[item], self._lasts[item])

    def __contains__(self, what: object) -> bool:
        return self.holding(what) is not None  # type: ignore[arg-type]  # `in` may ask about anything; holding() judges it

    def holding(self, what: int | IovaRange) -> IovaRange | None:
        """Return the range of this set that holds an address, or the whole of another range; None if none does.

        :param what: an address or a range
        """
        if isinstance(what, IovaRange):
            start, last = what
        else:
            start = last = what if type(what) is int else arguments.integer(what, "address")
        at = bisect_right(self._starts, start) - 1
        return self[at] if at >= 0 and last <= self._lasts[at] else None

    def overlaps(self, other: RangeLike) -> bool:
        """Whether any address of `other` is in the set.

        :param other: a range, a pair, or an object with a range
        """
        other = as_range(other, "other")
        at = bisect_left(self._lasts, other.start)
        return at < len(self) and self._starts[at] <= other.last

    def __eq__(self, other: object) -> bool:
        return self._pairs == other._pairs if isinstance(other, IovaSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._pairs.tobytes())

    def __or__(self, other: IovaSet) -> IovaSet:
        if not isinstance(other, IovaSet):
            return NotImplemented
        both = array("Q", self._pairs.tobytes())
        both.frombytes(other._pairs.cast("B"))
        return self._of(_normalised(both))

    def __and__(self, other: IovaSet) -> IovaSet:
        if not isinstance(other, IovaSet):
            return NotImplemented
        made = array("Q", bytes(16 * (len(self) + len(other))))
        count = lib.pyvfio_ranges_intersect(_u64(made), _u64(self._pairs), len(self), _u64(other._pairs), len(other))
        return self._of(memoryview(made)[: 2 * count])

    def __sub__(self, other: IovaSet) -> IovaSet:
        if not isinstance(other, IovaSet):
            return NotImplemented
        return self & other.complement()

    def complement(self, within: RangeLike = WHOLE) -> IovaSet:
        """Return the addresses of `within` that are not in this set.

        :param within: the addresses to consider; by default all of 64 bits
        """
        within = as_range(within, "within")
        made = array("Q", bytes(16 * (len(self) + 1)))
        count = lib.pyvfio_ranges_complement(_u64(made), _u64(self._pairs), len(self), *within)
        return self._of(memoryview(made)[: 2 * count])

    def coalesce(self, limit: int) -> IovaSet:
        """Return at most `limit` ranges that cover this set: the smallest gaps are closed, and of gaps of one size the lowest.

        No other cover of at most `limit` ranges adds fewer bytes. Drivers do this with too many DMA-logging ranges (the kernel's
        vfio_combine_iova_ranges), but not in linear time.

        :param limit: the most ranges, at least 1
        :raises ValueError: `limit` is less than 1
        """
        limit = min(arguments.integer(limit, "limit", 1), len(self) + 1)
        pairs = array("Q", self._pairs.tobytes())
        count = lib.pyvfio_ranges_coalesce(_u64(pairs), len(self), limit)
        return self._of(memoryview(pairs)[: 2 * count])

    def align(self, page_size: int) -> IovaSet:
        """Return the whole pages in this set: each range shrunk inwards to multiples of `page_size`, or dropped.

        :param page_size: bytes, a power of two
        :raises ValueError: `page_size` is not a power of two, or above 2^63
        """
        page_size = arguments.page_size(page_size)
        shrunk = (
            (-(-start // page_size) * page_size, (last + 1) // page_size * page_size - 1)
            for start, last in zip(self._starts, self._lasts, strict=True)
        )
        return self._of(array("Q", chain.from_iterable(pair for pair in shrunk if pair[0] <= pair[1])))

    def first_fit(self, size: int, alignment: int = 1, within: RangeLike = WHOLE) -> IovaRange | None:
        """Return the lowest `size` bytes in the set and in `within`, at a multiple of `alignment`; or None.

        :param size: bytes
        :param alignment: bytes
        :param within: the addresses to consider
        """
        size, alignment = arguments.size(size), arguments.size(alignment, "alignment")
        within = as_range(within, "within")
        for at in range(bisect_left(self._lasts, within.start), len(self)):
            start = max(self._starts[at], within.start)
            start += -start % alignment
            if start + size - 1 > within.last:
                break
            if start + size - 1 <= self._lasts[at]:
                return IovaRange.of(start, size)
        return None

    def last_fit(self, size: int, alignment: int = 1, within: RangeLike = WHOLE) -> IovaRange | None:
        """Return the highest `size` bytes in the set and in `within`, at a multiple of `alignment`; or None.

        :param size: bytes
        :param alignment: bytes
        :param within: the addresses to consider
        """
        size, alignment = arguments.size(size), arguments.size(alignment, "alignment")
        within = as_range(within, "within")
        for at in range(bisect_right(self._starts, within.last) - 1, -1, -1):
            start = min(self._lasts[at], within.last) - size + 1
            start -= start % alignment
            if start < within.start:
                break
            if start >= self._starts[at]:
                return IovaRange.of(start, size)
        return None

    def nearest(self, wanted: RangeLike, alignment: int = 1) -> tuple[IovaRange, ...]:
        """Return the places in the set nearest to `wanted`, of its size, at multiples of `alignment`.

        The result has at most two: the nearest that starts below `wanted` and the nearest above it, in this order. If `wanted` itself is in
        the set and aligned, the result is `wanted` alone.

        :param wanted: the range that was asked for
        :param alignment: bytes, for the start
        """
        wanted = as_range(wanted, "wanted")
        size = wanted.size
        above = self.first_fit(size, alignment, IovaRange(wanted.start, _LAST))
        if above == wanted:
            return (wanted,)
        below = self.last_fit(size, alignment, IovaRange(0, wanted.last))
        return tuple(place for place in (below, above) if place is not None)

    def __reduce__(self) -> tuple[object, ...]:
        return IovaSet.from_array, (self._pairs.tobytes(),)

    def _repr_html_(self) -> str:
        rows = [(f"{start:#x}", f"{last:#x}", sizes.about(last - start + 1)) for start, last in self]
        return html.table("IovaSet", ("start", "last", "size"), rows)

    def __repr__(self) -> str:
        shown = [_span(range_) for range_ in (self if len(self) <= 8 else self[:6])]
        if len(self) > 8:
            shown += [f"... {len(self) - 7} more ...", _span(self[-1])]
        return f"IovaSet({', '.join(shown)})"


def _span(range_: IovaRange) -> str:
    return f"0x{range_.start:08x}..0x{range_.last:08x}"


def _are_pairs(items: list[tuple[int, ...]]) -> bool:
    """Whether all items are pairs of plain integers; the values are checked later."""
    return set(map(len, items)) <= {2} and set(map(type, chain.from_iterable(items))) <= {int}


def _u64(buffer: AnyBuffer) -> CData:
    return ffi.from_buffer("uint64_t[]", buffer)


def _normalised(pairs: array[int]) -> memoryview:
    """Sort and merge the pairs in place, and return those that are left."""
    count = ffi.new("size_t *", len(pairs) // 2)
    error = lib.pyvfio_ranges_normalise(_u64(pairs), count)
    if error == -errno.EINVAL:
        start, last = pairs[2 * count[0] : 2 * count[0] + 2]
        raise ValueError(f"ranges must be (start, last) pairs with start <= last, not start {start:#x}, last {last:#x}")
    if error:
        raise MemoryError(f"no memory to sort {len(pairs) // 2} ranges")
    return memoryview(pairs)[: 2 * count[0]]
