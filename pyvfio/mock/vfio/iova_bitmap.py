# SPDX-License-Identifier: MIT
"""Bitmaps of dirty pages in the caller's memory (the kernel's iova_bitmap)."""

from __future__ import annotations

from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno

_CHUNK = 4096


class IovaBitmap:
    """One bit per page of a range of IOVAs; the first is the lowest bit of the byte at `address`.

    Bits are set, never cleared.

    :param page_size: bytes per bit
    """

    def __init__(self, iova: int, size: int, page_size: int, address: int) -> None:
        self._iova = iova
        self._last = iova + size - 1
        self._shift = (page_size & -page_size).bit_length() - 1
        self._address = address
        # Index of a part of the bitmap -> the bits to set in it, as a number.
        self._chunks: dict[int, int] = {}

    def set(self, iova: int, size: int) -> None:
        """Mark all pages that a part of the range touches."""
        bit = max(0, iova - self._iova) >> self._shift
        last = min(self._last, iova + size - 1) - self._iova >> self._shift
        width = _CHUNK * 8
        while bit <= last:
            chunk, first = divmod(bit, width)
            number = min(last - bit + 1, width - first)
            self._chunks[chunk] = self._chunks.get(chunk, 0) | ((1 << number) - 1) << first
            bit += number

    def flush(self) -> None:
        """Set the bits in the caller's memory.

        Bits that cannot be stored are lost without an error, as in the kernel.
        """
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
