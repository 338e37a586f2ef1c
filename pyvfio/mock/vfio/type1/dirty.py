# SPDX-License-Identifier: MIT
"""The dirty pages of a type1 mapping."""

from __future__ import annotations

from pyvfio.mock.machine import caller

#: the most pages of one mapping that are tracked, and the largest bitmap in bytes that is filled in one call
PAGES_MAX = 2**31 - 1
BITMAP_SIZE_MAX = 2**28

_WORD = 2**64 - 1
_ZEROS = bytes(1 << 20)


class DirtyPages:
    """One bit for each page of a mapping, kept as the words that are not zero.

    It is shifted in place for a report that does not begin at a multiple of 64 pages, and bits that were shifted out of the mapping
    stay and show up in the next report, as pages behind the mapping: the real kernel's are like that (7.3).

    :param count: pages
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._words: dict[int, int] = {}

    def mark(self, first: int, last: int) -> None:
        """Pages `first` to `last` are dirty."""
        words = self._words
        for word in range(first // 64, last // 64 + 1):
            low, high = max(first - 64 * word, 0), min(last - 64 * word, 63)
            words[word] = words.get(word, 0) | (2 << high) - (1 << low)

    def mark_all(self) -> None:
        self.mark(0, self._count - 1)

    def clear(self) -> None:
        """No page of the mapping is dirty."""
        whole, rest = divmod(self._count, 64)
        left = {word: bits for word, bits in self._words.items() if word >= whole}
        if rest and whole in left:
            left[whole] &= _WORD << rest
        self._words = {word: bits for word, bits in left.items() if bits}

    def report(self, address: int, offset: int) -> None:
        """Copy the bits into the caller's bitmap, which begins `offset` pages before this mapping.

        Whole words are written, from the one with the mapping's first page on; its bits before that page stay.

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
        """bitmap_shift_left: towards higher pages; of `count` words, and what the last one then holds too much stays in it."""
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
