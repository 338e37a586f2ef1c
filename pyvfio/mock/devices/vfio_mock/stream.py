# SPDX-License-Identifier: MIT
"""The stream of a migration: records that carry memory, registers and the engine's job.

The order is HEADER, PAGES (the last record of a page wins), REGISTERS, END. Each record has a checksum, and END holds
the number of records, so that truncated, modified and foreign streams are refused. The module in tests/vfio_mock uses
the same format.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

MAGIC = 0x6B636F6D6F696676
VERSION = 1
PAGE = 4096
HEADER, PAGES, REGISTERS, END = 1, 2, 3, 4

_RECORD = struct.Struct("<QIIQQ")
#: type of record -> bytes of its payload
_LENGTHS = {HEADER: 32, PAGES: PAGE, REGISTERS: 256, END: 8}
_U64 = 2**64


def length(type_: int) -> int:
    """Return the bytes of a record of a type."""
    return _RECORD.size + _LENGTHS[type_]


#: bytes of the head of a record, before its payload
HEAD = _RECORD.size


class Record(NamedTuple):
    """A record of the stream.

    :ivar number: of PAGES, the number of the page; of END, the number of records before it; else 0
    """

    type: int
    number: int
    payload: bytes

    def encoded(self) -> bytes:
        check = _checksum(self.type, self.number, self.payload)
        return _RECORD.pack(MAGIC, self.type, len(self.payload), self.number, check) + self.payload


def size_by_head(head: bytes) -> int | None:
    """Return the size of the record with this head; None if it is not the head of a record."""
    magic, type_, size, _, _ = _RECORD.unpack(head)
    if magic != MAGIC or _LENGTHS.get(type_) != size:
        return None
    return HEAD + int(size)


def decoded(data: bytes) -> Record | None:
    """Decode a complete record; return None if its checksum is wrong."""
    _, type_, _, number, check = _RECORD.unpack_from(data)
    payload = data[HEAD:]
    return Record(type_, number, payload) if check == _checksum(type_, number, payload) else None


def header(sizes: tuple[int, ...]) -> Record:
    """Return the HEADER record.

    :param sizes: sizes of the memory regions
    """
    return Record(HEADER, 0, struct.pack("<4Q", VERSION, *sizes))


# Cached, because the receiver checks the pages that the sender has just encoded: in Python a checksum takes 0.1 ms per
# page.
@lru_cache(1024)
def _checksum(type_: int, number: int, payload: bytes) -> int:
    mask, factor = _U64 - 1, 0x9E3779B97F4A7C15
    check = 0xCBF29CE484222325 ^ type_ ^ len(payload) << 32
    check = (check ^ number) * 0x100000001B3 & mask
    for word in memoryview(payload).cast("Q"):
        check = ((check << 23 & mask | check >> 41) ^ word) * factor & mask
    return check ^ check >> 32
