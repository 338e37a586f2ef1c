# SPDX-License-Identifier: MIT
"""A job of the DMA engine: its parameters and its progress."""

from __future__ import annotations

import errno
import struct

from pyvfio.mock.machine.errno import Errno

STOP, WRITE, READ, FILL, COPY, LIST, TOUCH, SCATTER = range(8)
OPERATION = 0xFF
BACKGROUND, REPEAT, RAISE, COUNTING, LOCAL, PINNED, KEEP = (1 << bit for bit in range(8, 15))
_KNOWN = OPERATION | BACKGROUND | REPEAT | RAISE | COUNTING | LOCAL | PINNED | KEEP
IDLE, BUSY, DONE, FAILED = range(4)

_U64 = 2**64
_WORDS = ("command", "delay", "irq", "status", "error", "reserved")
_LONGS = (
    "iova", "length", "source", "memory", "pattern", "count", "stride", "seed", "position", "random", "rounds", "steps",
    "bytes_moved", "fault",
)  # fmt: skip


class Job:
    """A transfer: its parameters as of its start, and its progress.

    :ivar position: position in the round, in bytes; in writes for LIST, TOUCH and SCATTER
    """

    LAYOUT = struct.Struct("<6I14Q")

    command: int
    delay: int
    irq: int
    status: int
    error: int
    iova: int
    length: int
    source: int
    memory: int
    pattern: int
    count: int
    stride: int
    seed: int
    position: int
    random: int
    rounds: int
    steps: int
    bytes_moved: int
    fault: int

    __slots__ = (*_WORDS, *_LONGS)

    def __init__(self, **values: int) -> None:
        for name in self.__slots__:
            setattr(self, name, values.get(name, 0))

    def packed(self) -> bytes:
        return self.LAYOUT.pack(*(getattr(self, name) for name in self.__slots__))

    @classmethod
    def unpacked(cls, data: bytes) -> Job:
        return cls(**dict(zip(cls.__slots__, cls.LAYOUT.unpack(data), strict=True)))

    @property
    def operation(self) -> int:
        return self.command & OPERATION

    def check(self, memory_size: int) -> None:
        """Check the parameters of the job before it begins.

        :raises Errno: EINVAL, EOVERFLOW, ERANGE
        """
        local, keep = bool(self.command & LOCAL), bool(self.command & KEEP)
        if self.command & ~_KNOWN or (keep and local) or not WRITE <= self.operation <= SCATTER:
            raise Errno(errno.EINVAL)
        if self.operation in (WRITE, READ, COPY) and (local or keep):
            raise Errno(errno.EINVAL)
        if self.operation == LIST:
            if not self.count or keep:
                raise Errno(errno.EINVAL)
            if self.memory > memory_size or self.count > (memory_size - self.memory) // 8:
                raise Errno(errno.ERANGE)
            return
        if self.operation == SCATTER:
            lacking = not self.count or not self.stride or self.length < self.stride
        else:
            lacking = not self.length or (self.operation == TOUCH and not self.stride)
        if lacking:
            raise Errno(errno.EINVAL)
        if self.iova + self.length > (memory_size if local else _U64):
            raise Errno(errno.EOVERFLOW)
        if self.operation == COPY and self.source + self.length > _U64:
            raise Errno(errno.EOVERFLOW)
        if (self.operation in (WRITE, READ) or keep) and self.memory + self.length > memory_size:
            raise Errno(errno.ERANGE)

    @property
    def round_end(self) -> int:
        """The position at the end of a round."""
        if self.operation in (LIST, SCATTER):
            return self.count
        if self.operation == TOUCH:
            return -(-self.length // self.stride)
        return self.length

    def word(self, k: int) -> int:
        """Return word k of the pattern in this round."""
        return (self.pattern + k + self.rounds) % _U64 if self.command & COUNTING else self.pattern

    def filling(self, size: int) -> bytes:
        """Return the next bytes of a FILL: byte n of the transfer is byte n % 8 of word n / 8."""
        first, skip = divmod(self.position, 8)
        count = (skip + size + 7) // 8
        if self.command & COUNTING:
            words = b"".join(self.word(first + k).to_bytes(8, "little") for k in range(count))
        else:
            words = self.pattern.to_bytes(8, "little") * count
        return words[skip : skip + size]
