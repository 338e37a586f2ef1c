# SPDX-License-Identifier: MIT
"""The arrays of a ledger sorted by IOVA, so that finding the array that holds an IOVA does not take a look at every array."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Iterator

from pyvfio._core.weak import WeakTable
from pyvfio.spaces.mapping import MappingArray

#: up to this number of arrays, the list itself is searched
FEW = 4


class ArraysByIova:
    """A sorted copy of a list of arrays. It does not keep arrays alive, and may have some that were removed from the list.

    New arrays are appended to the list, so the copy is complete as long as it has the list's last array.
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
        # Another thread may run _sort() meanwhile, which replaces these objects and never changes them.
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
        # Set last: after an interrupt before this line, the next lookup sorts again.
        self._known = WeakTable((one, None) for one in arrays)


def _start(entry: tuple[int, int, weakref.ref[MappingArray]]) -> int:
    return entry[0]
