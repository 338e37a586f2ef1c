# SPDX-License-Identifier: MIT
"""Descriptor rings, through which a network card reads and writes frames in memory."""

from __future__ import annotations

import struct

#: the second half of a legacy receive descriptor, as the card writes it back: length, checksum, status, errors, VLAN
#: tag
RECEIVED = struct.Struct("<HHBBH")
#: bytes of a descriptor
DESCRIPTOR = 16
BASE_LOW, BASE_HIGH, LENGTH, BUFFERS, HEAD, TAIL, CONTROL = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x18, 0x28
ENABLE = 1 << 25  # bit of CONTROL
_LENGTH_MASK = 0xFFF80
_INDEX_MASK = 0xFFFF


class Ring:
    """The registers of a ring.

    :ivar frame: of a transmit ring, the bytes of the unfinished frame so far; None between two frames
    :ivar options: the status of that frame's first descriptor, which alone determines its offloads
    :ivar contexts: index -> context descriptor
    :ivar always: the ring is enabled even without the enable bit in CONTROL
    """

    def __init__(self, *, always: bool = False) -> None:
        self.always = always
        self._registers: dict[int, int] = {}
        self.frame: bytearray | None = None
        self.options = 0
        self.contexts: dict[int, bytes] = {}

    def reset(self) -> None:
        """Disable the ring and empty it."""
        self._registers.clear()
        self.restart()

    def restart(self) -> None:
        """Discard the unfinished frame and the contexts."""
        self.frame = None
        self.contexts.clear()

    def __getitem__(self, register: int) -> int:
        return self._registers.get(register, 0)

    def __setitem__(self, register: int, value: int) -> None:
        mask = {BASE_LOW: ~0x7F, LENGTH: _LENGTH_MASK, HEAD: _INDEX_MASK, TAIL: _INDEX_MASK}.get(register, ~0)
        if register == CONTROL and not value & ENABLE:
            self.restart()
        self._registers[register] = value & mask & 0xFFFFFFFF

    @property
    def enabled(self) -> bool:
        """Whether the ring is enabled and has descriptors."""
        return bool(self.entries and (self.always or self[CONTROL] & ENABLE))

    @property
    def entries(self) -> int:
        """The number of descriptors."""
        return self[LENGTH] // DESCRIPTOR

    @property
    def available(self) -> int:
        """The number of descriptors that the card owns."""
        return (self[TAIL] - self[HEAD]) % self.entries

    @property
    def at(self) -> int:
        """The IOVA of the next descriptor that the card owns."""
        return (self[BASE_HIGH] << 32 | self[BASE_LOW]) + DESCRIPTOR * (self[HEAD] % self.entries)

    def advance(self) -> None:
        """Advance to the next descriptor."""
        self[HEAD] = (self[HEAD] + 1) % self.entries
