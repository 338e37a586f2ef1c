# SPDX-License-Identifier: MIT
"""The dirty pages of a type1 mapping."""

from __future__ import annotations

from pyvfio.mock.machine import caller

#: maximum number of tracked pages of a mapping (DIRTY_BITMAP_PAGES_MAX), and bytes of the largest bitmap of one call
#: (DIRTY_BITMAP_SIZE_MAX)
PAGES_MAX = 2**31 - 1
BITMAP_SIZE_MAX = 2**28

_WORD = 2**64 - 1
_ZEROS = bytes(1 << 20)


class DirtyPages:
    """The dirty bitmap of a mapping, one bit per page, as a dict of its nonzero words.

    A report that does not start at a multiple of 64 pages shifts the bitmap in place. Bits shifted past the end of the
    mapping remain, and the next report shows them as pages after the mapping. The kernel does the same (7.3).

    :param count: pages of the mapping
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._words: dict[int, int] = {}

    def mark(self, first: int, last: int) -> None:
        """Mark pages `first` to `last` as dirty."""
        words = self._words
        for word in range(first // 64, last // 64 + 1):
            low, high = max(first - 64 * word, 0), min(last - 64 * word, 63)
            words[word] = words.get(word, 0) | (2 << high) - (1 << low)

    def mark_all(self) -> None:
        self.mark(0, self._count - 1)

    def clear(self) -> None:
        """Clear the bits of the mapping's pages; bits past its end stay."""
        whole, rest = divmod(self._count, 64)
        left = {word: bits for word, bits in self._words.items() if word >= whole}
        if rest and whole in left:
            left[whole] &= _WORD << rest
        self._words = {word: bits for word, bits in left.items() if bits}

    def report(self, address: int, offset: int) -> None:
        """Copy the bits into the caller's bitmap, which starts `offset` pages before this mapping.

        Whole words are written, from the one with the mapping's first page on. The bits before that page in this word
        are kept.

        :param address: address of the caller's bitmap
        :param offset: pages from the start of the bitmap to the mapping
        :raises Errno: EFAULT
        """
        skipped, shift = divmod(offset, 64)
        address += 8 * skipped
        count = -(-(self._count + shift) // 64)
        if shift:
            self._shift(shift, count)
            before = int.from_bytes(caller.read(address, 8), "little")
            if before:
                self._words[0] = self._words.get(0, 0) | before
        written = 0
        for word in sorted(self._words):
            if word >= count:
                break
            _zero(address + 8 * written, 8 * (word - written))
            caller.write(address + 8 * word, self._words[word].to_bytes(8, "little"))
            written = word + 1
        _zero(address + 8 * written, 8 * (count - written))

    def _shift(self, shift: int, count: int) -> None:
        """Shift `count` words towards higher pages (bitmap_shift_left); surplus bits of the last word stay in it."""
        old, new = self._words, {word: bits for word, bits in self._words.items() if word >= count}
        for word, bits in old.items():
            if word >= count:
                continue
            new[word] = new.get(word, 0) | bits << shift & _WORD
            if word + 1 < count and (carry := bits >> 64 - shift):
                new[word + 1] = new.get(word + 1, 0) | carry
        self._words = {word: bits for word, bits in new.items() if bits}


def _zero(address: int, size: int) -> None:
    while size:
        part = min(size, len(_ZEROS))
        caller.write(address, memoryview(_ZEROS)[:part])
        address, size = address + part, size - part
