# SPDX-License-Identifier: MIT
"""The non-volatile memory of a network card: its MAC address and what it was configured to."""

from __future__ import annotations

import hashlib

#: words, of which the checksum is the last
SIZE = 64
#: the sum of all words
_SUM = 0xBABA
_NO_OTHER_ADDRESS = 0x37


def words(mac: bytes, ids: tuple[int, int], subsystem: tuple[int, int]) -> list[int]:
    """Return the words of a card.

    :param mac: its MAC address
    :param ids: vendor and device; `subsystem` likewise
    """
    found = [0] * SIZE
    found[:3] = (int.from_bytes(mac[at : at + 2], "little") for at in (0, 2, 4))
    found[0x08:0x0A] = 0x4D4F, 0x434B  # the part number
    found[0x0B:0x0F] = subsystem[1], subsystem[0], ids[1], ids[0]
    found[_NO_OTHER_ADDRESS] = 0xFFFF
    found[-1] = (_SUM - sum(found)) & 0xFFFF
    return found


def address(name: str) -> bytes:
    """Return a MAC address of its own for each PCI address, locally administered."""
    return b"\x52\x54\x00" + hashlib.blake2b(name.encode(), digest_size=3).digest()
