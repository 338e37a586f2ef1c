# SPDX-License-Identifier: MIT
"""The arrays of a ledger in the order of their IOVAs, so that the one that holds an IOVA is found without looking at all."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Iterator

from pyvfio._core.weak import WeakTable
from pyvfio.spaces.mapping import MappingArray

#: up to so many arrays are looked at one by one
FEW = 4


class ArraysByIova:
    """A sorted copy of a list of arrays. It holds no array alive, and may have some that the list has no more.

    New arrays are appended to the list: so the copy has all of the list as long as it has the last one.
    """

    def __init__(self) -> None:
        self._known: WeakTable[MappingArray, None] = WeakTable()
        self._sorted: list[tuple[int, int, weakref.ref[MappingArray]]] = []
        self._widest = 0

    def holding(self, arrays: list[MappingArray], iova: int) -> Iterator[MappingArray]:
        """Yield the arrays of a list that may have a row at an IOVA."""
        if len(arrays) <= FEW:
            for one in list(arrays):
                low, behind = one.hull
                if low <= iova < behind:
                    yield one
            return
        last = arrays[-1:]
        if not last:
            return
        if last[0] not in self._known or len(self._sorted) > 2 * len(arrays) + 16:
            self._sort(list(arrays))
        # Another thread may sort meanwhile: what is read here stays as it is.
        sorted_, widest = self._sorted, self._widest
        at = bisect_right(sorted_, iova, key=_start)
        while at and sorted_[at - 1][0] > iova - widest:
            at -= 1
            _, behind, reference = sorted_[at]
            array = reference()
            if iova < behind and array is not None:
                yield array

    def _sort(self, arrays: list[MappingArray]) -> None:
        found = sorted(((*one.hull, weakref.ref(one)) for one in arrays), key=_start)
        self._widest = max(behind - start for start, behind, _ in found)
        self._sorted = found
        # Last, so that an interrupt before has it sorted again.
        self._known = WeakTable((one, None) for one in arrays)


def _start(entry: tuple[int, int, weakref.ref[MappingArray]]) -> int:
    return entry[0]
