# SPDX-License-Identifier: MIT
"""The host's memory by its physical addresses, which the DMA of a device without an IOMMU takes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.space import Space

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.pages import Pages

#: of the first page that somebody asks for, and how far the next one is from it: no two lie side by side
_FIRST, _STRIDE = 0x100_0000, 2


class PhysicalMemory(Space):
    """Of all memory only those pages are there whose address somebody has been told, as long as they are pinned: a device that is given
    any other address does no harm here."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._pages: list[tuple[Pages, int]] = []
        self._numbers: dict[tuple[Pages, int], int] = {}

    def address(self, pages: Pages, offset: int) -> int:
        """Return the physical address of a byte of pinned memory."""
        number, rest = divmod(offset, self._page_size)
        key = pages, number
        if key not in self._numbers:
            self._numbers[key] = len(self._pages)
            self._pages.append(key)
        return _FIRST + self._numbers[key] * _STRIDE * self._page_size + rest

    def _at(self, address: int, size: int) -> tuple[Pages, int]:
        """Return the pages that have these bytes, which lie in one page, and the offset there.

        :raises Errno: EFAULT, nobody
        """
        number, rest = divmod(address - _FIRST, self._page_size)
        index, between = divmod(number, _STRIDE)
        if address < _FIRST or between or index >= len(self._pages):
            raise Errno(errno.EFAULT)
        pages, page = self._pages[index]
        offset = page * self._page_size + rest
        if not pages.holds(offset, offset + size - 1):
            raise Errno(errno.EFAULT)
        return pages, offset

    def read(self, iova: int, size: int) -> bytes:
        pages, offset = self._at(iova, size)
        return bytes(pages.read(offset, size))

    def write(self, iova: int, data: bytes) -> None:
        pages, offset = self._at(iova, len(data))
        pages.write(offset, data)

    def writable(self) -> Iterator[tuple[int, int]]:
        # Where a device may write is not known here; nobody but its driver can tell it.
        return iter(())
