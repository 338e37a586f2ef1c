# SPDX-License-Identifier: MIT
"""A table of weak references that removes a dead object without running Python code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from operator import attrgetter
from typing import Generic, TypeVar
from weakref import ref

_K = TypeVar("_K")
_V = TypeVar("_V")


class _Entry(ref[_K], Generic[_K, _V]):
    """A weak reference to an object, with the value and the serial number that the table keeps for it."""

    __slots__ = ("serial", "value")

    serial: int
    value: _V


_serial = attrgetter("serial")


class WeakTable(Generic[_K, _V]):
    """Objects, each with a value, in the order in which they were added. A value keeps its object alive if it refers to it.

    The weak tables of the standard library run Python code when an object dies. If a signal handler raises in there, the exception is
    lost: a Ctrl-C has no effect. Here the callback is `set.discard`, which is C.
    """

    def __init__(self, items: Iterable[tuple[_K, _V]] = ()) -> None:
        self._entries: set[_Entry[_K, _V]] = set()
        self._serials = count()
        for key, value in items:
            self[key] = value

    def __setitem__(self, key: _K, value: _V) -> None:
        entry: _Entry[_K, _V] = _Entry(key, self._entries.discard)
        entry.serial = next(self._serials)
        entry.value = value
        self._entries.discard(entry)  # an older entry of the same object, which is equal to this one
        self._entries.add(entry)

    def discard(self, key: _K) -> None:
        """Remove an object, if it is there."""
        self._entries.discard(ref(key))  # equal to the entry, and of the same hash

    def items(self) -> list[tuple[_K, _V]]:
        """Return the objects that are alive, and their values."""
        entries = sorted(self._entries, key=_serial)
        return [(key, entry.value) for entry in entries if (key := entry()) is not None]

    def __iter__(self) -> Iterator[_K]:
        return iter([key for key, _ in self.items()])

    def __contains__(self, key: _K) -> bool:
        return ref(key) in self._entries
