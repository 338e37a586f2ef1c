# SPDX-License-Identifier: MIT
"""The non-volatile memory of a network card: its MAC address and configuration."""

from __future__ import annotations

import hashlib

#: number of words; the last one is the checksum
SIZE = 64
#: the sum of all words, modulo 2^16
_SUM = 0xBABA
_NO_OTHER_ADDRESS = 0x37


def words(mac: bytes, ids: tuple[int, int], subsystem: tuple[int, int]) -> list[int]:
    """Return the words of a card.

    :param mac: the MAC address
    :param ids: vendor ID and device ID; `subsystem`: those of the subsystem
    """
    found = [0] * SIZE
    found[:3] = (int.from_bytes(mac[at : at + 2], "little") for at in (0, 2, 4))
    found[0x08:0x0A] = 0x4D4F, 0x434B  # the part number
    found[0x0B:0x0F] = subsystem[1], subsystem[0], ids[1], ids[0]
    found[_NO_OTHER_ADDRESS] = 0xFFFF
    found[-1] = (_SUM - sum(found)) & 0xFFFF
    return found


def address(name: str) -> bytes:
    """Return a locally administered MAC address derived from a PCI address."""
    return b"\x52\x54\x00" + hashlib.blake2b(name.encode(), digest_size=3).digest()
