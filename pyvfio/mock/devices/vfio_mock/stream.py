# SPDX-License-Identifier: MIT
"""The stream of a migration: records that carry memory, registers and the engine's job.

It is HEADER, PAGEs (a later one of the same page wins), REGISTERS, END; each has a checksum, and END the number of records, so that
cut, changed and foreign streams are refused. The module of tests/vfio_mock reads and writes the same.
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
#: payloads by type
_LENGTHS = {HEADER: 32, PAGES: PAGE, REGISTERS: 256, END: 8}
_U64 = 2**64


def length(type_: int) -> int:
    """Of a whole record of that type, in bytes."""
    return _RECORD.size + _LENGTHS[type_]


#: of what comes before each payload
HEAD = _RECORD.size


class Record(NamedTuple):
    """
    :ivar number: PAGES: of the page; END: of the records before it
    """

    type: int
    number: int
    payload: bytes

    def encoded(self) -> bytes:
        check = _checksum(self.type, self.number, self.payload)
        return _RECORD.pack(MAGIC, self.type, len(self.payload), self.number, check) + self.payload


def size_by_head(head: bytes) -> int | None:
    """The size of the record that starts so; None for what starts no record."""
    magic, type_, size, _, _ = _RECORD.unpack(head)
    if magic != MAGIC or _LENGTHS.get(type_) != size:
        return None
    return HEAD + int(size)


def decoded(data: bytes) -> Record | None:
    """A whole record; None if it was changed on the way."""
    _, type_, _, number, check = _RECORD.unpack_from(data)
    payload = data[HEAD:]
    return Record(type_, number, payload) if check == _checksum(type_, number, payload) else None


def header(sizes: tuple[int, ...]) -> Record:
    """
    :param sizes: of the memory regions
    """
    return Record(HEADER, 0, struct.pack("<4Q", VERSION, *sizes))


# What is sent is read again, mostly unchanged pages: in Python each takes a tenth of a millisecond.
@lru_cache(1024)
def _checksum(type_: int, number: int, payload: bytes) -> int:
    mask, factor = _U64 - 1, 0x9E3779B97F4A7C15
    check = 0xCBF29CE484222325 ^ type_ ^ len(payload) << 32
    check = (check ^ number) * 0x100000001B3 & mask
    for word in memoryview(payload).cast("Q"):
        check = ((check << 23 & mask | check >> 41) ^ word) * factor & mask
    return check ^ check >> 32
