# SPDX-License-Identifier: MIT
"""The record of the mappings of an address space: single mappings, and arrays of them.

The native part (`_buffer.Ledger`, cdefs/map_dma.c) allocates a record before each request and writes the outcome into it, so that
records and kernel agree whatever signal handlers and other threads do. It handles an unmap of exactly one mapping. This module handles
the other unmaps: those of parts of mappings or of several, and those during which another thread maps.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from pyvfio import _buffer
from pyvfio._buffer import Door, Record
from pyvfio.iova import IovaRange, IovaSet
from pyvfio.spaces.arrays_by_iova import ArraysByIova
from pyvfio.spaces.mapping import GONE, PENDING, PRESENT, Mapping, MappingArray


class Before(NamedTuple):
    """A snapshot, taken before an unmap: the number of maps begun so far, and the records and arrays of those in progress."""

    maps: int
    pending: frozenset[Record]

    def holds(self, record: Record | MappingArray) -> bool:
        """Whether the record or array was mapped at the time of the snapshot."""
        return record._serial <= self.maps and record not in self.pending


class Ledger(_buffer.Ledger):
    """The records of one address space.

    :ivar arrays: the arrays with rows that are mapped and have no Mapping object
    """

    def __init__(self, door: Door, ioas: int) -> None:
        super().__init__(door, ioas)
        self.arrays: list[MappingArray] = []
        self._by_iova = ArraysByIova()

    # Looking up records.

    def _all(self) -> Iterator[Mapping]:
        for top in list(self.at.values()):
            record: Any = top
            while record is not None:
                yield record
                record = record._under

    def present(self) -> list[Mapping]:
        """The single mappings, by IOVA."""
        return sorted((one for one in self._all() if one._state == PRESENT), key=lambda one: one.iova)

    def find(self, iova: int, size: int, held: object) -> Mapping | None:
        """Return the single mapping with exactly this IOVA, size and held object; None if there is none."""
        record: Any = self.at.get(iova)
        while record is not None:
            if record._state == PRESENT and record.size == size and record._held is held:
                found: Mapping = record
                return found
            record = record._under
        return None

    def drop_at(self, iova: int, size: int) -> None:
        """Drop the record with exactly this IOVA and size, if it is mapped."""
        record: Any = self.at.get(iova)
        while record is not None:
            under = record._under
            if record._state == PRESENT and record.size == size:
                self.settle(record, False)
            record = under

    def ranges(self) -> IovaSet:
        """Return the IOVAs of all mappings that exist or are being made."""
        pairs = [(one.iova, one.iova + one.size - 1) for one in self._all() if one._state != GONE and one.size]
        for array_ in list(self.arrays):
            rows = array_.rows
            pairs.extend(
                (rows[3 * row + 1], rows[3 * row + 1] + rows[3 * row + 2] - 1) for row in array_._rows_left().values()
            )
        return IovaSet(IovaRange(*pair) for pair in pairs)

    def count(self) -> int:
        """Return the number of mappings that exist or are being made."""
        single = sum(1 for one in self._all() if one._state != GONE and one.size)
        return single + sum(len(array_._rows_left()) for array_ in list(self.arrays))

    # Recording arrays.

    def begin_array(self, array_: MappingArray) -> None:
        """Record an array that is about to be mapped."""
        array_._serial = self.maps + 1
        self.arrays.append(array_)

    def drop_array(self, array_: MappingArray) -> None:
        """Drop an array: none of its rows is mapped, or all of them have Mapping objects."""
        with suppress(ValueError):
            self.arrays.remove(array_)

    # Recording unmaps.

    def before(self) -> Before:
        """Return the snapshot to take before an unmap."""
        pending: list[Any] = []
        if self.mapping:
            pending.extend(one for one in self._all() if one._state == PENDING)
            pending.extend(one for one in self.arrays if not one._complete)
        return Before(self.maps, frozenset(pending))

    def matching_array(self, rows: memoryview) -> MappingArray | None:
        """Return the array that has exactly these (iova, size) rows, all of them still mapped; None if there is none."""
        for array_ in self._by_iova.holding(self.arrays, rows[0]):
            if array_._index is None and array_._complete and array_.is_at(rows):
                return array_
        return None

    def forget(self, gone: Iterable[tuple[int, int]], bytes_: int, before: Before, *, splits: bool) -> None:
        """Drop the records of the mappings that an unmap removed, unless the native call has dropped them already.

        After an interrupt it can be called again.

        :param gone: (iova, size) of each range that was unmapped
        :param bytes_: bytes unmapped, without those of records that are dropped already
        """
        ranges: list[tuple[int, int]] = []
        for iova, size in gone:
            for array_ in self._by_iova.holding(self.arrays, iova):
                if before.holds(array_) and array_._complete and array_._take(iova, size):
                    bytes_ -= size
                    break
            else:
                ranges.append((iova, size))
        bytes_ -= self._forget_ranges(ranges, before, splits=splits)
        if self.maps == before.maps and not before.pending:
            return  # nothing was mapped meanwhile
        fresh = [one for one in self._all() if one._state != GONE and not before.holds(one)]
        arrays = [one for one in self.arrays if not before.holds(one)]
        if fresh or arrays:
            self._forget_fresh(fresh, arrays, IovaSet(IovaRange.of(*one) for one in ranges if one[1]), bytes_)

    def _forget_ranges(self, ranges: list[tuple[int, int]], before: Before, *, splits: bool) -> int:
        """Drop the records in ranges, and return their bytes."""
        if not ranges:
            return 0
        taken = 0
        for array_ in list(self.arrays):
            if before.holds(array_) and array_._complete:
                low, behind = array_.hull
                if any(low < iova + size and iova < behind for iova, size in ranges):
                    array_[:]
        records = [one for one in self.present() if before.holds(one)]
        for iova, size in ranges:
            at = max(bisect_right(records, iova, key=_start) - 1, 0)
            while at < len(records) and records[at].iova < iova + size:
                record = records[at]
                at += 1
                if record._state != PRESENT or record.iova + record.size <= iova:
                    continue
                if not splits:
                    if record.iova < iova:
                        break  # the kernel stops at a mapping that begins earlier, without an error (type1)
                    taken += record.size
                    self.settle(record, False)
                    continue
                gone = IovaRange.of(iova, size)
                for rest in IovaSet([record.range]) - IovaSet([gone]):
                    address = record._address + rest.start - record.iova
                    self.add(
                        Mapping, record.space, record.buffer, record._held, address, rest.start, rest.size,
                        record._protection,
                    )  # fmt: skip
                taken += min(record.iova + record.size - 1, gone.last) - max(record.iova, iova) + 1
                self.settle(record, False)
        return taken

    def forget_unmapped(self, iova: int, size: int, *, one_too: bool) -> None:
        """After an unmap that failed at one of several mappings, drop the records of those before it, which iommufd has unmapped.

        It stops without the number of bytes at a mapping that it would have to split, or that is in use. So each mapping in the range
        is unmapped again by itself, up to the first that is still there.
        """
        end = iova + size
        for array_ in list(self.arrays):
            low, behind = array_.hull
            if array_._complete and low < end and iova < behind:
                array_[:]
        for one in self.present():
            if one.iova + one.size <= iova:
                continue
            if one.iova < iova or one.iova + one.size > end or (one.size == size and not one_too):
                break
            if (result := self.raw_unmap(one.iova, one.size)) != -errno.ENOENT and result < 0:
                break
            self.settle(one, False)

    def _forget_fresh(self, fresh: list[Mapping], arrays: list[MappingArray], where: IovaSet, bytes_: int) -> None:
        """Drop the mappings that were made during an unmap and removed by it; the bytes not yet accounted for show which."""
        for array_ in arrays:
            low, behind = array_.hull
            if not where.overlaps(IovaRange(low, behind - 1)):
                continue
            if not array_._complete:
                array_._disturbed = True  # the thread that maps it begins again
            elif bytes_ >= (size := sum(array_.rows[2::3])):
                array_._forget()
                bytes_ -= size
            else:  # some of its rows, perhaps: look at each
                fresh += array_[:]
        met = [one for one in fresh if one.size and where.overlaps(one.range)]
        if bytes_ <= 0 or not met:
            return
        if bytes_ != sum(one.size for one in met):
            met = [one for one in met if one.size == bytes_][:1] or met
            if bytes_ != sum(one.size for one in met):
                for one in met:  # the bytes do not show which were removed: unmap all of them
                    self.raw_unmap(one.iova, one.size)
        for one in met:
            self.settle(one, False)

    def forget_all(self) -> None:
        """Drop all records: the address space is gone, or everything in it was unmapped."""
        for one in list(self._all()):
            self.settle(one, False)
        for array_ in list(self.arrays):
            if array_._complete:
                array_._forget()
            else:
                array_._disturbed = True

    def settle_unknown(self) -> None:
        """After a PythonKernel raised in a map request: unmap what it may have mapped."""
        self.unknown = 0
        if self.mapping:
            return
        for one in list(self._all()):
            if one._state == PENDING:
                if not any(
                    other is not one and other._state == PRESENT and other.range.overlaps(one.range)
                    for other in self._all()
                ):
                    self.raw_unmap(one.iova, one.size)
                self.settle(one, False)


def _start(record: Record) -> int:
    return record.iova
