# SPDX-License-Identifier: MIT
"""DMA logging: the pages that a device wrote, and the limits of the log."""

from __future__ import annotations

import errno
from typing import NamedTuple

from pyvfio.iova import IovaRange
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.profile import LogLimits
from pyvfio.mock.vfio.logged_ranges import combine, order_base_2

LARGEST = 2**64 - 1
#: log2 of the log's unit in bytes: no report is finer
_UNIT_SHIFT = 12
#: units in one word of the log: 16 MiB
_WORD = 4096
_PAGE = 4096


class LoggedRange(NamedTuple):
    """A range as VFIO's core passes it to a driver; `last` of an empty range is `start` - 1."""

    start: int
    last: int


class Log:
    """The log of one device, as vfio-mock implements it.

    The log has units of 4 KiB, for any negotiated page size. A write marks all units of each tracked page that it
    touches, within the tracked ranges. A report clears the units that it reports, and no others.

    :ivar limits: limits of the log; a change takes effect at the next start
    :ivar ranges: the tracked ranges, after combining
    :ivar page_size: the negotiated page size
    :ivar dirty: number of units that are dirty now
    :ivar marked: number of units that have become dirty since the log was created
    """

    def __init__(self, limits: LogLimits) -> None:
        self.limits = limits
        self.active = False
        self.ranges: list[IovaRange] = []
        self.page_size = 0
        self.dirty = 0
        self.marked = 0
        self._words: dict[int, int] = {}

    def start(self, ranges: list[LoggedRange], page_size: int) -> int:
        """Start the log (the driver's log_start).

        :param ranges: the ranges, sorted
        :param page_size: the requested page size
        :returns: the page size that the log uses
        :raises Errno: EINVAL, the log is active, or the page size is 0; E2BIG, EOPNOTSUPP: beyond the limits
        """
        limits = self.limits
        if self.active or not page_size:
            raise Errno(errno.EINVAL)
        wanted = [IovaRange(*range_) for range_ in ranges if range_.last != (range_.start - 1) & LARGEST]
        if len(wanted) > limits.ranges:
            if limits.refuse:
                raise Errno(errno.E2BIG)
            wanted = combine(wanted, limits.ranges)
        total = sum(range_.size for range_ in wanted)
        if not limits.log2_size_min <= order_base_2(total) <= limits.log2_size_max:
            raise Errno(errno.EOPNOTSUPP)
        # VFIO's core accepts page sizes that are not a power of two: round them down.
        page_size = 1 << page_size.bit_length() - 1
        self.page_size = min(max(page_size, limits.page_size_min), max(limits.page_size_min, limits.page_size_max))
        self.ranges = wanted
        self.active = True
        return self.page_size

    def stop(self) -> None:
        """Stop the log (the driver's log_stop); do nothing if it is off."""
        self.off()

    def off(self) -> None:
        self.active = False
        self.ranges = []
        self.page_size = 0
        self.dirty = 0
        self._words = {}

    def mark(self, iova: int, size: int) -> None:
        """Record a write of the device."""
        if not self.active:
            return
        start = iova & ~(self.page_size - 1)
        last = (iova + size - 1) | (self.page_size - 1)
        for range_ in self.ranges:
            if range_.start <= last and range_.last >= start:
                self._mark(max(start, range_.start) >> _UNIT_SHIFT, min(last, range_.last) >> _UNIT_SHIFT)

    def _mark(self, unit: int, last: int) -> None:
        for word in range(unit // _WORD, last // _WORD + 1):
            before = self._words.get(word, 0)
            after = self._words[word] = before | _bits(word, unit, last)
            fresh = (before ^ after).bit_count()
            self.dirty += fresh
            self.marked += fresh

    def report(self, iova: int, length: int, page_size: int, address: int) -> None:
        """Set the bits of dirty pages in the caller's bitmap, and clear the log there.

        As in the kernel, bits that cannot be stored are lost without an error.

        :param iova: first IOVA of the report
        :param length: bytes
        :param page_size: bytes per bit of the bitmap
        :param address: address of the bitmap, whose first bit is the page at `iova`
        :raises Errno: EINVAL, the log is off, or `length` is 0
        """
        if not length or not self.active:
            raise Errno(errno.EINVAL)
        bitmap = CallersBitmap(address)
        shift = page_size.bit_length() - 1
        for start, last in self._take(iova >> _UNIT_SHIFT, (iova + length - 1) >> _UNIT_SHIFT):
            first = max(start << _UNIT_SHIFT, iova)
            end = min((last << _UNIT_SHIFT) + (1 << _UNIT_SHIFT) - 1, iova + length - 1)
            bitmap.set(first - iova >> shift, end - iova >> shift)
        bitmap.flush()

    def _take(self, unit: int, last: int) -> list[tuple[int, int]]:
        """Clear the dirty units of a range, both ends included, and return them as runs."""
        runs: list[tuple[int, int]] = []
        for word in sorted(word for word in self._words if unit // _WORD <= word <= last // _WORD):
            held = self._words[word]
            taken = held & _bits(word, unit, last)
            if not taken:
                continue
            self.dirty -= taken.bit_count()
            if held == taken:
                del self._words[word]
            else:
                self._words[word] = held ^ taken
            at = word * _WORD
            while taken:
                skip = (taken & -taken).bit_length() - 1
                taken >>= skip
                ones = (~taken & (taken + 1)).bit_length() - 1
                taken >>= ones
                at += skip
                runs.append((at, at + ones - 1))
                at += ones
        return runs


def _bits(word: int, unit: int, last: int) -> int:
    """Return the bits of a word of the log for a range of units, both ends included."""
    low = max(unit - word * _WORD, 0)
    high = min(last - word * _WORD, _WORD - 1)
    return (1 << high + 1) - (1 << low)


class CallersBitmap:
    """A bitmap in the caller's memory (the kernel's iova_bitmap). Bits are collected and stored one page at a time."""

    def __init__(self, address: int) -> None:
        self._address = address
        #: the page of memory of the collected bits, and whether it is writable
        self._page: int | None = None
        self._there = False
        self._bits = 0
        self._lowest = 0

    def set(self, first: int, last: int) -> None:
        """Set a run of bits, both ends included.

        Runs come in ascending order; at a page that is not writable the rest of a run is lost.
        """
        while first <= last:
            page = (self._address + first // 8) // _PAGE
            if page != self._page:
                self._turn_to(page, first)
            if not self._there:
                return
            # The last bit in this page of memory.
            end = min(last, ((page + 1) * _PAGE - self._address) * 8 - 1)
            self._bits |= (2 << end - self._lowest) - (1 << first - self._lowest)
            first = end + 1

    def _turn_to(self, page: int, first: int) -> None:
        self.flush()
        self._page = page
        self._lowest = first & ~7
        at = self._address + first // 8
        try:
            caller.write(at, caller.read(at, 1))
        except Errno:
            self._there = False
        else:
            self._there = True

    def flush(self) -> None:
        if not self._bits:
            return
        at = self._address + self._lowest // 8
        size = (self._bits.bit_length() + 7) // 8
        # Touch only the bytes that get bits: their neighbours may not belong to the bitmap.
        before = int.from_bytes(caller.read(at, size), "little")
        caller.write(at, (before | self._bits).to_bytes(size, "little"))
        self._bits = 0
