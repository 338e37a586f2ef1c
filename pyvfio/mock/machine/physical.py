# SPDX-License-Identifier: MIT
"""Physical memory, which the DMA of a device without an IOMMU addresses."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.space import Space

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.pages import Pages

#: physical address of the first page, and distance of the next page in pages: no two pages are adjacent
_FIRST, _STRIDE = 0x100_0000, 2


class PhysicalMemory(Space):
    """The pages whose physical address IOMMU_IOAS_NOIOMMU_GET_PA has reported, while they are pinned.

    DMA to any other address fails, so that a wrong address does no harm in the mock.
    """

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
        """Return the pages of a physical address, and the offset in them. The range must be within one page.

        :raises Errno: EFAULT, no page has the address
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
        # Unknown: only the program that drives the device knows which addresses the device may write.
        return iter(())
