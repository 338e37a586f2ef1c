# SPDX-License-Identifier: MIT
"""Bitmaps of dirty pages in the caller's memory (the kernel's iova_bitmap)."""

from __future__ import annotations

from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno

_CHUNK = 4096


class IovaBitmap:
    """A bit for each page of a range of IOVAs, from the lowest bit of the byte at `address` on. Bits are set, and never cleared.

    :param page_size: what a bit stands for
    """

    def __init__(self, iova: int, size: int, page_size: int, address: int) -> None:
        self._iova = iova
        self._last = iova + size - 1
        self._shift = (page_size & -page_size).bit_length() - 1
        self._address = address
        # The bits that were set, of each part of the bitmap, as a number.
        self._chunks: dict[int, int] = {}

    def set(self, iova: int, size: int) -> None:
        """All pages with a byte of this part of the range are dirty."""
        bit = max(0, iova - self._iova) >> self._shift
        last = min(self._last, iova + size - 1) - self._iova >> self._shift
        width = _CHUNK * 8
        while bit <= last:
            chunk, first = divmod(bit, width)
            number = min(last - bit + 1, width - first)
            self._chunks[chunk] = self._chunks.get(chunk, 0) | ((1 << number) - 1) << first
            bit += number

    def flush(self) -> None:
        """Set the bits. Where that is not possible they are lost, and nobody hears of it."""
        for chunk, bits in self._chunks.items():
            first = (bits & -bits).bit_length() - 1 >> 3
            size = (bits.bit_length() + 7 >> 3) - first
            address = self._address + chunk * _CHUNK + first
            try:
                old = int.from_bytes(caller.read(address, size), "little")
                caller.write(address, (old | bits >> 8 * first).to_bytes(size, "little"))
            except Errno:
                pass
        self._chunks.clear()
