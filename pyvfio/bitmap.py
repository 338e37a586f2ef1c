# SPDX-License-Identifier: MIT
"""Dirty bitmaps: the pages that were written, of one or several ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import pairwise
from operator import attrgetter, index
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
from pyvfio._buffer import Buffer
from pyvfio._core import arguments, html, sizes
from pyvfio.errors import BadReply
from pyvfio.iova import IovaRange, IovaSet, RangeLike, as_ranges

if TYPE_CHECKING:
    from pyvfio._abi import CData

__all__ = ["DirtyBitmap", "Segment"]

# Guard words before and after the bits of each segment: a write beyond the bitmap changes one of them.
_GUARD = 0x6472_6175_6721_2121


class Segment(Buffer):
    """The pages of one range, as a bitmap that the kernel writes to: bit 0 of word 0 is the first page.

    It is a writable buffer of u64, for `numpy.asarray`. The memory belongs to its :class:`DirtyBitmap`, and lives as long as any view of
    it. Copies and unpickled segments have their own memory.

    :ivar range: the addresses it covers
    :ivar page_size: bytes for each bit
    :ivar page_count: the number of bits in use; the bits after them in the last word are ignored
    :ivar words: the bitmap as a writable memoryview of u64, not copied
    :ivar address: the bitmap's address in this process, for the kernel's report
    """

    __slots__ = ("__weakref__", "_guarded", "address", "page_count", "page_size", "range", "words")

    def __init__(self, range_: IovaRange, page_size: int, guarded: memoryview, address: int) -> None:
        self.range = range_
        self.page_size = page_size
        self.page_count = range_.size // page_size
        self.words = guarded[1:-1]
        self.address = address + 8
        self._guarded = guarded
        self._export(guarded, self.address, len(self.words), 0, False)
        guarded[0] = guarded[-1] = _GUARD

    @property
    def nbytes(self) -> int:
        """Bytes of the bitmap: whole words."""
        return self.words.nbytes

    @property
    def bits(self) -> memoryview:
        """The bitmap as bytes, lowest bit first: `numpy.unpackbits(segment.bits, bitorder="little")`."""
        return self.words.cast("B")[: (self.page_count + 7) // 8]

    def count(self) -> int:
        """Return the number of dirty pages."""
        return lib.pyvfio_bitmap_count(self._c, self.page_count)

    def check_guards(self) -> None:
        """Check the guard words around the bitmap.

        :raises BadReply: the kernel wrote beyond the bitmap; only guard words were overwritten
        """
        if self._guarded[0] != _GUARD or self._guarded[-1] != _GUARD:
            where = "before" if self._guarded[0] != _GUARD else "after"
            raise BadReply(f"the kernel wrote {where} the bitmap of {self.range}, page size {self.page_size}")

    def _add(self, other: Segment) -> None:
        """Mark the pages that are dirty in `other` and lie in the range of this one; the page sizes are the same."""
        common = self.range.intersection(other.range)
        if common is not None:
            mine = (common.start - self.range.start) // self.page_size
            theirs = (common.start - other.range.start) // self.page_size
            lib.pyvfio_bitmap_or(self._c, mine, other._c, theirs, common.size // self.page_size)

    def __copy__(self) -> Segment:
        return _segment(*self.__reduce__()[1])

    def __deepcopy__(self, memo: object) -> Segment:
        return self.__copy__()

    def __reduce__(self) -> tuple[Callable[..., Segment], tuple[IovaRange, int, bytes]]:
        return _segment, (self.range, self.page_size, self.words.tobytes())

    @property
    def _c(self) -> CData:
        words: CData = ffi.cast("uint64_t *", self.address)
        return words

    def _repr_html_(self) -> str:
        return _html(f"Segment, pages of {sizes.size(self.page_size)}", [self])

    def __repr__(self) -> str:
        return f"<Segment {self.range}: {self.count()} of {self.page_count} pages dirty>"


class DirtyBitmap:
    """The dirty pages of one or several ranges, which may be terabytes apart.

    There is a bitmap for each range, and none for the gaps. `iova in bitmap` is true if the page of an address is dirty, `bool(bitmap)` if
    any page is. `a |= b` adds b's dirty pages to a, without allocating; a's ranges must cover b's. `a | b` makes a bitmap of the ranges of
    both. For other operations use the sets that :meth:`runs` returns: `second.runs() - first.runs()`. It can be copied and pickled.

    Any number of threads may read at the same time. A thread that writes, by a report or `|=`, must be the only one that uses the bitmap.

    :param ranges: as :func:`pyvfio.iova.as_ranges` takes them: whole pages, none overlapping another; the order is kept
    :param page_size: bytes, a power of two, at most 2^63
    :raises TypeError: ranges or page_size is of a wrong type
    :raises ValueError: page_size is not a power of two, or a range is not made of whole pages, or two overlap

    :ivar segments: a :class:`Segment` for each range, in the order given
    """

    __slots__ = ("__weakref__", "_sorted", "page_size", "segments")

    __hash__ = None  # type: ignore[assignment]  # the way to say that it has no hash

    def __init__(self, ranges: RangeLike | Iterable[RangeLike], page_size: int = 4096) -> None:
        page_size = arguments.page_size(page_size)
        ranges = tuple(as_ranges(ranges, "ranges"))
        for range_ in ranges:
            if range_.start % page_size or range_.size % page_size:
                raise ValueError(
                    f"{range_} is not made of whole pages of page_size={page_size:#x} bytes; "
                    "last is the last address, IovaRange.of(start, size) takes a size"
                )
        ascending = sorted(ranges)
        for low, high in pairwise(ascending):
            if low.overlaps(high):
                raise ValueError(f"{low} and {high} overlap")

        # One block of memory for all segments. Each has a guard word, the bits, and a guard word; the bits begin at a cache line
        # (8 words). For a large block calloc relies on the kernel, which zeroes each page when it is first used.
        lengths = [-(-range_.size // page_size // 64) for range_ in ranges]
        nbytes = 8 * (16 + sum((length + 2 + 7) // 8 * 8 for length in lengths))
        memory = lib.calloc(nbytes, 1) if nbytes < 2**63 else ffi.NULL
        if not memory:
            raise MemoryError(f"no memory for a bitmap of {nbytes} bytes")
        memory = ffi.gc(memory, lib.free, nbytes)
        words = memoryview(ffi.buffer(memory, nbytes)).cast("Q")
        address = int(ffi.cast("uintptr_t", memory))

        self.page_size = page_size
        segments = []
        at = (-address // 8 - 1) % 8
        for range_, length in zip(ranges, lengths, strict=True):
            segments.append(Segment(range_, page_size, words[at : at + length + 2], address + at * 8))
            at += (length + 2 + 7) // 8 * 8
        self.segments = tuple(segments)
        self._sorted = sorted(segments, key=attrgetter("range"))

    @property
    def ranges(self) -> tuple[IovaRange, ...]:
        """The range of each segment."""
        return tuple(segment.range for segment in self.segments)

    def holding(self, iova: int) -> Segment | None:
        """Return the segment in whose range an address lies, or None.

        :param iova: the address
        """
        iova = arguments.integer(iova, "iova")
        at = self._find(iova)
        return self._sorted[at] if at >= 0 and iova in self._sorted[at].range else None

    def _find(self, iova: int) -> int:
        """Return the index of the last segment that starts at or below an address, -1 if none does."""
        return bisect_right(self._sorted, iova, key=lambda segment: segment.range.start) - 1

    def __contains__(self, iova: int) -> bool:
        segment = self.holding(iova)
        if segment is None:
            return False
        page = (index(iova) - segment.range.start) // self.page_size
        return bool(segment.words[page // 64] >> page % 64 & 1)

    def count(self) -> int:
        """Return the number of dirty pages."""
        return sum(segment.count() for segment in self.segments)

    def __bool__(self) -> bool:
        return any(lib.pyvfio_bitmap_any(segment._c, segment.page_count) for segment in self.segments)

    def runs(self) -> IovaSet:
        """Return the dirty addresses: a range for each run of dirty pages, in ascending order.

        The result is a buffer of (start, last) pairs of u64 that iterates as IovaRange. A run that continues from one segment into another
        that touches it is one run.
        """
        return IovaSet._of(self._collect(lib.pyvfio_bitmap_runs))

    def pages(self) -> memoryview:
        """Return the address of each dirty page, in ascending order: a read-only memoryview of u64."""
        return self._collect(lib.pyvfio_bitmap_pages)

    def _collect(self, append: Callable[..., int]) -> memoryview:
        array = ffi.new("pyvfio_array *")
        shift = self.page_size.bit_length() - 1
        for segment in self._sorted:
            if append(array, segment._c, segment.page_count, segment.range.start, shift) < 0:
                lib.pyvfio_array_free(array.values)
                raise MemoryError("no memory for the dirty addresses")
        lib.pyvfio_array_trim(array)
        if not array.count:
            return memoryview(b"").cast("Q")
        values = ffi.gc(array.values, lib.pyvfio_array_free, array.count * 8)
        return memoryview(ffi.buffer(values, array.count * 8)).cast("Q").toreadonly()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return a new numpy array of bool, an entry for each page: `numpy.asarray(bitmap)`. The segments follow each other by address.

        :raises ValueError: `copy` is False; the bits have to be unpacked
        """
        if copy is False:
            raise ValueError("copy must not be False: a bitmap is unpacked into an array of its own")
        import numpy

        each = [
            numpy.unpackbits(numpy.frombuffer(segment.bits, "u1"), bitorder="little", count=segment.page_count)
            for segment in self._sorted
        ]
        pages = numpy.concatenate(each) if each else numpy.empty(0, "u1")
        return pages.view(bool).astype(dtype or bool, copy=False)

    def clear(self) -> None:
        """Make all pages clean."""
        for segment in self.segments:
            lib.pyvfio_bitmap_clear(segment._c, segment.page_count)

    def copy(self) -> DirtyBitmap:
        """Return another bitmap of the same ranges, with the same pages dirty."""
        made = DirtyBitmap(self.ranges, self.page_size)
        made |= self
        return made

    def check_guards(self) -> None:
        """Check the guard words around the bitmaps; to be called after every report.

        :raises BadReply: the kernel wrote beyond a bitmap
        """
        for segment in self.segments:
            segment.check_guards()

    def __ior__(self, other: DirtyBitmap) -> DirtyBitmap:
        if not isinstance(other, DirtyBitmap):
            return NotImplemented
        self._check_page_size(other)
        outside = None if other.ranges == self.ranges else IovaSet(other.ranges) - IovaSet(self.ranges)
        if outside:
            raise ValueError(f"{outside[0]} of the other bitmap is outside the ranges of this one")
        for theirs in other._sorted:
            at = self._find(theirs.range.start)
            while at < len(self._sorted) and self._sorted[at].range.overlaps(theirs.range):
                self._sorted[at]._add(theirs)
                at += 1
        return self

    def _check_page_size(self, other: DirtyBitmap) -> None:
        if other.page_size != self.page_size:
            raise ValueError(f"bitmaps of different page sizes, {self.page_size} and {other.page_size}")

    def __copy__(self) -> DirtyBitmap:
        return self.copy()

    def __deepcopy__(self, memo: object) -> DirtyBitmap:
        return self.copy()

    def __reduce__(self) -> tuple[Callable[..., DirtyBitmap], tuple[tuple[IovaRange, ...], int, tuple[bytes, ...]]]:
        return _bitmap, (self.ranges, self.page_size, tuple(segment.words.tobytes() for segment in self.segments))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DirtyBitmap):
            return NotImplemented
        return (
            self.page_size == other.page_size
            and len(self._sorted) == len(other._sorted)
            and all(
                mine.range == theirs.range and lib.pyvfio_bitmap_equal(mine._c, theirs._c, mine.page_count)
                for mine, theirs in zip(self._sorted, other._sorted, strict=True)
            )
        )

    def __or__(self, other: DirtyBitmap) -> DirtyBitmap:
        if not isinstance(other, DirtyBitmap):
            return NotImplemented
        self._check_page_size(other)
        ranges: Iterable[IovaRange] = self.ranges
        if ranges != other.ranges:
            ranges = IovaSet(self.ranges) | IovaSet(other.ranges)
        made = DirtyBitmap(ranges, self.page_size)
        made |= self
        made |= other
        return made

    def _repr_html_(self) -> str:
        return _html(f"DirtyBitmap, pages of {sizes.size(self.page_size)}", self._sorted)

    def __repr__(self) -> str:
        pages = sum(segment.page_count for segment in self.segments)
        return (
            f"<DirtyBitmap: {self.count()} of {pages} pages of {self.page_size} bytes dirty, "
            f"in {len(self.segments)} range{'s' * (len(self.segments) != 1)}>"
        )


def _html(title: str, segments: Iterable[Segment]) -> str:
    rows = [
        (f"{each.range.start:#x}", f"{each.range.last:#x}", each.page_count, dirty, f"{dirty / each.page_count:.1%}")
        for each in segments
        for dirty in (each.count(),)
    ]
    return html.table(title, ("start", "last", "pages", "dirty", ""), rows)


def _bitmap(ranges: tuple[IovaRange, ...], page_size: int, words: tuple[bytes, ...]) -> DirtyBitmap:
    """Make a bitmap from pickled words."""
    made = DirtyBitmap(ranges, page_size)
    for segment, content in zip(made.segments, words, strict=True):
        segment.words.cast("B")[:] = content
    return made


def _segment(range_: IovaRange, page_size: int, words: bytes) -> Segment:
    """Make a segment from pickled words, in a new bitmap."""
    return _bitmap((range_,), page_size, (words,)).segments[0]
