# SPDX-License-Identifier: MIT
"""Sequences of the parts of a device that have an index: regions and interrupts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, TypeVar, overload

from pyvfio._core.arguments import named_index
from pyvfio._core.device_file import DeviceFile
from pyvfio.errors import Error

T = TypeVar("T")


class Indexed(Sequence[T]):
    """Parts of a device by index, on PCI also by name. Each is made when it is first used.

    :cvar pci_names: the names of the first ones of a PCI device; all others are called by their number
    """

    pci_names: ClassVar[tuple[str, ...]]

    def __init__(self, file: DeviceFile) -> None:
        self._file = file
        self._known: dict[int, T] = {}

    def _make(self, index: int, name: str) -> T:
        """Ask the kernel for a part, and return it."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int | str) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | str | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        names = self.pci_names if self._file.info.is_pci else ()
        index = named_index(index, "index", len(self), names)
        if index not in self._known:
            self._known[index] = self._make(index, names[index] if index < len(names) else str(index))
        return self._known[index]

    def __iter__(self) -> Iterator[T]:
        return (self[index] for index in range(len(self)))

    def _shown(self) -> list[T]:
        """Return all parts for a display; only those already made if the kernel cannot be asked, such as after close()."""
        try:
            return list(self)
        except Error:
            return list(self._known.values())
