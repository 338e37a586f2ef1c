# SPDX-License-Identifier: MIT
"""Queues of an NVMe controller, and their entries."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple, Self

#: opcode, flags, identifier, namespace, words 2 and 3, metadata, PRP entries 1 and 2, words 10 to 15
_COMMAND = struct.Struct("<BBHIQQQQ6I")
#: result, reserved, head and number of the submission queue, identifier, status and phase
_COMPLETION = struct.Struct("<IIHHHH")
COMMAND_SIZE, COMPLETION_SIZE = _COMMAND.size, _COMPLETION.size


class Command(NamedTuple):
    """An entry of a submission queue.

    :ivar first: PRP entry 1; `second`: PRP entry 2
    :ivar w10: word 10, the first whose meaning depends on the opcode
    """

    opcode: int
    flags: int
    id: int
    namespace: int
    reserved: int
    metadata: int
    first: int
    second: int
    w10: int
    w11: int
    w12: int
    w13: int
    w14: int
    w15: int

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Decode the 64 bytes of an entry."""
        return cls(*_COMMAND.unpack(data))


@dataclass
class CompletionQueue:
    """A completion queue.

    :ivar iova: IOVA of the entries; `entries`: their number
    :ivar vector: the interrupt vector; None without interrupts
    :ivar head: index of the next entry that the host reads, set by its doorbell; `tail`: of the next that the
        controller writes
    :ivar phase: the phase tag of the entries of this pass
    """

    number: int
    iova: int
    entries: int
    vector: int | None
    head: int = 0
    tail: int = 0
    phase: int = 1

    @property
    def full(self) -> bool:
        """Whether the queue has no free entry."""
        return (self.tail + 1) % self.entries == self.head

    @property
    def pending(self) -> bool:
        """Whether there are entries that the host has not consumed."""
        return self.head != self.tail

    def advance(self) -> None:
        """Advance to the next entry; the phase tag changes with each pass."""
        self.tail = (self.tail + 1) % self.entries
        self.phase ^= not self.tail


@dataclass
class SubmissionQueue:
    """A submission queue.

    :ivar iova: IOVA of the entries; `entries`: their number
    :ivar completions: the completion queue of its commands
    :ivar head: index of the next entry that the controller reads; `tail`: of the next that the host writes, set by its
        doorbell
    """

    number: int
    iova: int
    entries: int
    completions: CompletionQueue
    head: int = 0
    tail: int = 0

    def completion(self, command: int, result: int, status: int) -> bytes:
        """Return the completion entry (16 bytes) of a command of this queue."""
        return _COMPLETION.pack(result, 0, self.head, self.number, command, status << 1 | self.completions.phase)
