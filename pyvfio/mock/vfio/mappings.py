# SPDX-License-Identifier: MIT
"""A sorted map of mappings by IOVA, which do not overlap."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

#: half the maximum size of a block. An insertion moves the tail of one block, so this bounds its cost
_BLOCK = 512


class Range(Protocol):
    """A range of IOVAs, `last` included."""

    @property
    def iova(self) -> int: ...
    @property
    def last(self) -> int: ...


T = TypeVar("T", bound=Range)


class Mappings(Generic[T]):
    """A map from IOVA to the mapping that covers it, as blocks of sorted lists: fast even with a million mappings.

    The items are the caller's objects. Their IOVAs must not change while they are in the map.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        # The first IOVA of each block; the first IOVA of each item, per block; the items, per block.
        self._heads: list[int] = []
        self._keys: list[list[int]] = []
        self._items: list[list[T]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """Iterate in ascending order. To change the map meanwhile, use :meth:`within`."""
        for block in self._items:
            yield from block

    def at(self, iova: int) -> T | None:
        """Return the mapping that covers an IOVA; None without one."""
        block = bisect_right(self._heads, iova) - 1
        if block < 0:
            return None
        item = self._items[block][bisect_right(self._keys[block], iova) - 1]
        return item if iova <= item.last else None

    def first(self, start: int, last: int) -> T | None:
        """Return the lowest mapping that overlaps a range; None without one."""
        block = bisect_right(self._heads, start) - 1
        index = 0
        if block < 0:
            block = 0
        else:
            index = bisect_right(self._keys[block], start) - 1
            if self._items[block][index].last < start:
                index += 1
                if index == len(self._keys[block]):
                    block, index = block + 1, 0
        if block == len(self._heads):
            return None
        item = self._items[block][index]
        return item if item.iova <= last else None

    def within(self, start: int, last: int) -> Iterator[T]:
        """Yield the mappings that overlap a range, in ascending order; a yielded mapping may be removed meanwhile."""
        while start <= last and (item := self.first(start, last)) is not None:
            following = item.last + 1
            yield item
            start = following

    def insert(self, item: T) -> None:
        """Add a mapping that overlaps no other."""
        self._count += 1
        key = item.iova
        block = max(bisect_right(self._heads, key) - 1, 0)
        if not self._heads:
            self._heads.append(key)
            self._keys.append([key])
            self._items.append([item])
            return
        keys, items = self._keys[block], self._items[block]
        index = bisect_right(keys, key)
        keys.insert(index, key)
        items.insert(index, item)
        self._heads[block] = keys[0]
        if len(keys) > 2 * _BLOCK:
            self._heads.insert(block + 1, keys[_BLOCK])
            self._keys.insert(block + 1, keys[_BLOCK:])
            self._items.insert(block + 1, items[_BLOCK:])
            del keys[_BLOCK:], items[_BLOCK:]

    def remove(self, item: T) -> None:
        """Remove a mapping of this map."""
        self._count -= 1
        block = bisect_right(self._heads, item.iova) - 1
        keys, items = self._keys[block], self._items[block]
        index = bisect_right(keys, item.iova) - 1
        assert items[index] is item
        del keys[index], items[index]
        if keys:
            self._heads[block] = keys[0]
        else:
            del self._heads[block], self._keys[block], self._items[block]
