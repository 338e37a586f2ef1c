# SPDX-License-Identifier: MIT
"""PCI base address registers: the addresses that one decodes, and those that a guest maps by accident while it sizes one.

The decoding is QEMU's PCI core's (hw/pci/pci.c; the rule for memory BARs is the same from 2014 to 11.1). Linux sizes
BARs with memory decoding switched on, so that half-written values are decoded too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.iova import IovaRange, IovaSet

__all__ = ["MEM_TYPE_64", "PC_FIRMWARE", "Bar", "Event", "decode", "replay"]

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1

MEM_TYPE_64 = 0x4
"""Bit of a memory BAR's low register: a second register holds the upper half."""

PC_FIRMWARE = IovaSet([IovaRange(0xFFFC0000, UINT32_MAX)])
"""The addresses of a PC's firmware (256 KiB). In flash, as OVMF's usually is, it hides a BAR there; a ROM (SeaBIOS, -bios) does not."""


def decode(low: int, high: int | None, size: int, *, memory_enabled: bool = True) -> IovaRange | None:
    """Return the addresses that a memory BAR with these register values decodes; None if it decodes none.

    It decodes none if decoding is switched off, if the address is 0, if the end is past 2^64 or the last byte at 2^64-1, and for a 32-bit
    BAR if the last byte is at or above 2^32-1. A half-written value of a 64-bit BAR looks like a real one.

    :param low: the lower register's value; its bits below the size are ignored
    :param high: the upper register; None for a 32-bit BAR
    :param size: the BAR's size, a power of two
    :param memory_enabled: whether the command register lets the function decode memory
    """
    low, size = arguments.u32(low, "low"), arguments.power_of_two(size, "size")
    high = None if high is None else arguments.u32(high, "high")
    if not arguments.boolean(memory_enabled, "memory_enabled"):
        return None
    start = (low | (high or 0) << 32) & ~(size - 1)
    last = start + size - 1
    if start == 0 or last >= UINT64_MAX:
        return None
    if high is None and last >= UINT32_MAX:
        return None
    return IovaRange(start, last)


class Event(NamedTuple):
    """A change of the guest's address space."""

    added: bool
    """True: a section appeared; False: one disappeared."""
    range: IovaRange

    def __str__(self) -> str:
        """Return the text that the VFIO listener of QEMU 1.7 printed."""
        return f"region_{'add' if self.added else 'del'} {self.range.start:08x} - {self.range.last:08x}"


class Bar:
    """A memory BAR in a PCI function whose memory decoding is on: its registers, and the addresses that they map.

    :param low: the lower register's value; its four lowest bits are the read-only ones, unless `flags` is given
    :param high: the upper register's value; None for a 32-bit BAR
    :param size: the BAR's size, a power of two
    :param flags: the low register's read-only bits
    :param covered: addresses where a memory region of higher priority hides the BAR: as in the trace of 2014, and with firmware in flash
        (pflash) under QEMU 10.0 and 11.1.3. A BAR is in front of a ROM (-bios), so pass `IovaSet()` for that: then the BAR is visible
        while its lower register is all ones
    """

    def __init__(
        self, low: int, high: int | None, size: int, *, flags: int | None = None, covered: IovaSet = PC_FIRMWARE
    ) -> None:
        low, size = arguments.u32(low, "low"), arguments.power_of_two(size, "size")
        high = None if high is None else arguments.u32(high, "high")
        self.size = size
        self.covered = arguments.instance(covered, "covered", IovaSet)
        self.flags = low & 0xF if flags is None else arguments.integer(flags, "flags", 0, 0xF)
        self._address = self._writable(low | (high or 0) << 32)
        self._wide = high is not None

    @property
    def low(self) -> int:
        """The value that the lower register reads."""
        return self._address & UINT32_MAX | self.flags

    @property
    def high(self) -> int | None:
        """The value that the upper register reads; None for a 32-bit BAR."""
        return self._address >> 32 if self._wide else None

    @property
    def range(self) -> IovaRange | None:
        """The addresses that the BAR decodes, hidden or not."""
        return decode(self.low & ~0xF, self.high, self.size)

    @property
    def visible(self) -> IovaSet:
        """The addresses at which the guest's address space shows the BAR."""
        range_ = self.range
        return IovaSet([range_] if range_ else []) - self.covered

    def write_low(self, value: int) -> list[Event]:
        """Write the lower register; the read-only bits stay.

        :param value: 32 bits
        """
        value = arguments.u32(value, "value")
        return self._move(self._address & ~UINT32_MAX | value)

    def write_high(self, value: int) -> list[Event]:
        """Write the upper register of a 64-bit BAR.

        :param value: 32 bits
        :raises ValueError: the BAR has 32 bits
        """
        value = arguments.u32(value, "value")
        if not self._wide:
            raise ValueError("a 32-bit BAR has no upper register")
        return self._move(self._address & UINT32_MAX | value << 32)

    def write(self, offset: int, value: int) -> list[Event]:
        """Write by the register's offset in the BAR: 0 is the lower, 4 the upper.

        :param offset: 0 for the lower register, 4 for the upper
        :param value: 32 bits
        """
        offset, value = self._write(offset, value)
        return self.write_high(value) if offset else self.write_low(value)

    def size_it(self) -> list[list[Event]]:
        """Size the BAR as Linux does: write all ones to each register, and the old value back. Return the events of each write."""
        low, high = self.low, self.high
        steps = [self.write_low(UINT32_MAX), self.write_low(low)]
        if high is not None:
            steps += [self.write_high(UINT32_MAX), self.write_high(high)]
        return steps

    def _write(self, offset: int, value: int) -> tuple[int, int]:
        """Check the arguments of a write, and return them as plain integers."""
        offset = arguments.integer(offset, "offset")
        if offset not in (0, 4):
            raise ValueError(f"no register of this BAR is at offset {offset:#x}")
        if offset and not self._wide:
            raise ValueError("a 32-bit BAR has no upper register, which offset 4 is")
        return offset, arguments.u32(value, "value")

    def _writable(self, value: int) -> int:
        return value & ~(self.size - 1) & ~0xF & UINT64_MAX

    def _move(self, address: int) -> list[Event]:
        before = self.visible
        self._address = self._writable(address)
        after = self.visible
        if before == after:
            return []
        return [Event(False, gone) for gone in before] + [Event(True, came) for came in after]


def replay(bar: Bar, writes: Iterable[tuple[int, int]]) -> list[Event]:
    """Return the changes of the address space by a series of (register offset in the BAR, value) writes.

    :param bar: the BAR; it keeps the values of the last writes
    :param writes: pairs of an offset (0 or 4) and a value of 32 bits, in order
    """
    bar = arguments.instance(bar, "bar", Bar)
    checked = [bar._write(*write) for write in arguments.every(_pair)(writes, "writes")]
    return [event for offset, value in checked for event in bar.write(offset, value)]


def _pair(value: object, name: str) -> tuple[int, int]:
    pair = arguments.every(arguments.u32)(value, name)
    if len(pair) != 2:
        raise ValueError(f"{name} must have (offset, value) pairs only, not {len(pair)} numbers")
    return pair[0], pair[1]
