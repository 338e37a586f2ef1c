"""I/O virtual addresses: :class:`IovaRange`, an inclusive range, and :class:`IovaSet`, a set of them.

Everything else speaks in these two.  ``last`` is inclusive, as in iommufd and in type1's range capability, so
that a range may reach 2^64-1; there is no ``end``.  All addresses and sizes are bytes.
"""

from __future__ import annotations

import errno
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from operator import index
from typing import TYPE_CHECKING, NamedTuple, Self, overload

from pyvfio._abi import ffi, lib
from pyvfio._buffer import Buffer, pinned

if TYPE_CHECKING:
    from typing_extensions import Buffer as AnyBuffer

    from pyvfio._abi import CData

_LAST = 2**64 - 1


class _Pair(NamedTuple):
    start: int
    last: int


class IovaRange(_Pair):
    """The addresses from ``start`` to ``last``, both included; never empty.

    It is a tuple: it unpacks into ``start, last``, sorts by them and equals the plain pair.  ``in``, however,
    asks for an address (``0x1000 in range``) or for a whole other range.

    :raises ValueError: unless 0 <= start <= last < 2^64.
    """

    __slots__ = ()

    def __new__(cls, start: int, last: int) -> Self:
        # index() turns numpy's integers, whose arithmetic wraps, into Python's.
        start = index(start)
        last = index(last)
        if not 0 <= start <= last <= _LAST:
            raise ValueError(f"not a range of 64-bit addresses: start {start:#x}, last {last:#x}")
        return super().__new__(cls, start, last)

    @classmethod
    def _make(cls, iterable: Iterable[int]) -> Self:  # type: ignore[override]
        return cls(*iterable)  # checked in _replace() too

    @classmethod
    def of(cls, start: int, size: int) -> Self:
        """The ``size`` bytes from ``start`` on.

        :raises ValueError: if ``size`` is zero or negative, or the range passes 2^64.
        """
        start = index(start)
        size = index(size)
        if size <= 0:
            raise ValueError(f"a range at {start:#x} cannot have size {size:#x}")
        return cls(start, start + size - 1)

    @property
    def size(self) -> int:
        """Bytes in the range, 1 to 2^64."""
        return self.last - self.start + 1

    def __contains__(self, what: object) -> bool:
        if isinstance(what, IovaRange):
            return self.start <= what.start and what.last <= self.last
        return self.start <= index(what) <= self.last  # type: ignore[arg-type]

    def overlaps(self, other: IovaRange) -> bool:
        """Whether the two share an address."""
        return self.start <= other.last and other.start <= self.last

    def touches(self, other: IovaRange) -> bool:
        """Whether one begins right after the other's last address."""
        return self.last + 1 == other.start or other.last + 1 == self.start

    def intersection(self, other: IovaRange) -> IovaRange | None:
        """The addresses in both, or None."""
        if not self.overlaps(other):
            return None
        return IovaRange(max(self.start, other.start), min(self.last, other.last))

    def is_aligned(self, page_size: int) -> bool:
        """Whether start and size are multiples of ``page_size``."""
        return not (self.start % page_size or self.size % page_size)

    def __repr__(self) -> str:
        return f"IovaRange({_span(self)})"

    __str__ = __repr__


WHOLE = IovaRange(0, _LAST)
"""All 64-bit addresses."""


class IovaSet(Buffer):
    """An immutable set of addresses, kept as sorted ranges of which no two overlap or touch.

    It iterates, and is indexed, as :class:`IovaRange`; those objects are made only when asked for.  What it
    holds is one array of (start, last) pairs of u64, so a million ranges are 16 MB and no objects; and it is a
    read-only buffer of them, (n, 2), for ``numpy.asarray``.  ``a | b``, ``a & b``, ``a - b`` and ``==`` work on
    the addresses; ``in`` asks for an address or for a whole range.

    :param ranges: IovaRanges, or (start, last) pairs, in any order
    :raises ValueError: a pair is no range of 64-bit addresses
    """

    __slots__ = ("_lasts", "_pairs", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        try:
            pairs = array("Q", chain.from_iterable(ranges))
        except OverflowError:
            raise ValueError("not a 64-bit address among the ranges") from None
        self._hold(_normalised(pairs))

    @classmethod
    def from_array(cls, pairs: AnyBuffer) -> IovaSet:
        """The set of the (start, last) pairs in an array, in any order; the array is copied.

        :param pairs: u64, (n, 2) or flat, contiguous: a numpy array, an ``array("Q")``, or the bytes of one
        :raises TypeError: the items are not unsigned 64-bit integers of this machine's byte order
        :raises ValueError: the numbers do not come in pairs, or a pair has start > last
        """
        view = memoryview(pairs)
        if view.format not in ("Q", "L", "=Q", "@Q", "@L", "<Q", "B"):
            raise TypeError(f"(start, last) pairs must be u64 (numpy.uint64), not of format {view.format!r}")
        if view.nbytes % 16:
            raise ValueError(f"{view.nbytes} bytes are no whole number of (start, last) pairs of u64")
        return cls._of(_normalised(array("Q", bytes(view))))

    @classmethod
    def _of(cls, pairs: AnyBuffer) -> IovaSet:
        """The set that holds these normalised pairs, without a copy."""
        made = cls.__new__(cls)
        made._hold(pairs)
        return made

    def _hold(self, pairs: AnyBuffer) -> None:
        self._pairs = memoryview(pairs).toreadonly()
        self._starts = self._pairs[0::2]
        self._lasts = self._pairs[1::2]
        # Not by cffi: the collector of CPython 3.11 to 3.13 may crash on a memoryview that C code keeps an export of.
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
        # The pairs are known to be good, so the check of IovaRange.__new__ is passed by.
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
        return self.holding(what) is not None  # type: ignore[arg-type]

    def holding(self, what: int | IovaRange) -> IovaRange | None:
        """The range of this set that holds an address, or the whole of another range; None if none does."""
        start, last = what if isinstance(what, IovaRange) else (index(what), index(what))
        at = bisect_right(self._starts, start) - 1
        return self[at] if at >= 0 and last <= self._lasts[at] else None

    def overlaps(self, other: IovaRange) -> bool:
        """Whether any address of ``other`` is in the set."""
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

    def complement(self, within: IovaRange = WHOLE) -> IovaSet:
        """The addresses of ``within`` that are not in this set."""
        made = array("Q", bytes(16 * (len(self) + 1)))
        count = lib.pyvfio_ranges_complement(_u64(made), _u64(self._pairs), len(self), *within)
        return self._of(memoryview(made)[: 2 * count])

    def coalesce(self, limit: int) -> IovaSet:
        """At most ``limit`` ranges that cover this set: the smallest gaps are closed, of equal ones the lowest.

        No other cover of so few ranges adds fewer bytes.  It is what drivers do with too many DMA-logging ranges
        (the kernel's vfio_combine_iova_ranges), but in linear time.

        :raises ValueError: ``limit`` is less than 1
        """
        if limit < 1:
            raise ValueError(f"a set cannot be coalesced to {limit} ranges")
        pairs = array("Q", self._pairs.tobytes())
        count = lib.pyvfio_ranges_coalesce(_u64(pairs), len(self), limit)
        return self._of(memoryview(pairs)[: 2 * count])

    def align(self, page_size: int) -> IovaSet:
        """The whole pages in this set: each range shrunk inwards to multiples of ``page_size``, or dropped.

        :raises ValueError: ``page_size`` is no power of two
        """
        if page_size < 1 or page_size & (page_size - 1):
            raise ValueError(f"page size {page_size:#x} is no power of two")
        shrunk = (
            (-(-start // page_size) * page_size, (last + 1) // page_size * page_size - 1)
            for start, last in zip(self._starts, self._lasts, strict=True)
        )
        return self._of(array("Q", chain.from_iterable(pair for pair in shrunk if pair[0] <= pair[1])))

    def first_fit(self, size: int, alignment: int = 1, within: IovaRange = WHOLE) -> IovaRange | None:
        """The lowest ``size`` bytes in the set and in ``within``, at a multiple of ``alignment``; or None."""
        _check_fit(size, alignment)
        for at in range(bisect_left(self._lasts, within.start), len(self)):
            start = max(self._starts[at], within.start)
            start += -start % alignment
            if start + size - 1 > within.last:
                break
            if start + size - 1 <= self._lasts[at]:
                return IovaRange.of(start, size)
        return None

    def last_fit(self, size: int, alignment: int = 1, within: IovaRange = WHOLE) -> IovaRange | None:
        """The highest ``size`` bytes in the set and in ``within``, at a multiple of ``alignment``; or None."""
        _check_fit(size, alignment)
        for at in range(bisect_right(self._starts, within.last) - 1, -1, -1):
            start = min(self._lasts[at], within.last) - size + 1
            start -= start % alignment
            if start < within.start:
                break
            if start >= self._starts[at]:
                return IovaRange.of(start, size)
        return None

    def nearest(self, wanted: IovaRange, alignment: int = 1) -> tuple[IovaRange, ...]:
        """The places in the set nearest to ``wanted``, of its size, at multiples of ``alignment``.

        At most two: the nearest that starts below it and the nearest above, in this order.  Just ``wanted``
        itself, if it is in the set and aligned.
        """
        size = wanted.size
        above = self.first_fit(size, alignment, IovaRange(wanted.start, _LAST))
        if above == wanted:
            return (wanted,)
        below = self.last_fit(size, alignment, IovaRange(0, wanted.last))
        return tuple(place for place in (below, above) if place is not None)

    def __reduce__(self) -> tuple[object, ...]:
        return IovaSet.from_array, (self._pairs.tobytes(),)

    def __repr__(self) -> str:
        shown = [_span(range_) for range_ in (self if len(self) <= 8 else self[:6])]
        if len(self) > 8:
            shown += [f"... {len(self) - 7} more ...", _span(self[-1])]
        return f"IovaSet({', '.join(shown)})"


def _span(range_: IovaRange) -> str:
    return f"0x{range_.start:08x}..0x{range_.last:08x}"


def _check_fit(size: int, alignment: int) -> None:
    if size < 1:
        raise ValueError(f"a place of size {size}")
    if alignment < 1:
        raise ValueError(f"an alignment of {alignment} bytes")


def _u64(buffer: AnyBuffer) -> CData:
    return ffi.from_buffer("uint64_t[]", buffer)


def _normalised(pairs: array[int]) -> memoryview:
    """The pairs, sorted and merged in place."""
    count = ffi.new("size_t *", len(pairs) // 2)
    error = lib.pyvfio_ranges_normalise(_u64(pairs), count)
    if error == -errno.EINVAL:
        start, last = pairs[2 * count[0] : 2 * count[0] + 2]
        raise ValueError(f"not a range: start {start:#x}, last {last:#x}")
    if error:
        raise MemoryError(f"no memory to sort {len(pairs) // 2} ranges")
    return memoryview(pairs)[: 2 * count[0]]
