# SPDX-License-Identifier: MIT
"""QEMU's edu: a 4 KiB buffer in the device, and an engine that copies between it and memory.

The registers are those of QEMU's docs/specs/edu.rst. DMA completes within the register write, while QEMU delays it by
100 ms; so does the factorial, which QEMU computes in a thread.
"""

from __future__ import annotations

from math import factorial
from typing import TYPE_CHECKING, Any

from pyvfio.mock.host.driver import EDU
from pyvfio.mock.vfio.pci.device import PciDevice
from pyvfio.mock.vfio.pci.function import Bar, Function

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel

_IDENTIFICATION = 0x010000ED
_FACTORIAL_INTERRUPT, _DMA_INTERRUPT = 0x001, 0x100
_RAISE_AFTER_FACTORIAL = 0x80
_START, _TO_MEMORY, _RAISE_AFTER_DMA = 1, 2, 4
_BUFFER, _BUFFER_SIZE = 0x40000, 4096
_DMA_MASK = 2**28 - 1
_ALL = 0xFFFFFFFFFFFFFFFF


class Edu(PciDevice):
    function = Function(EDU, 0x00FF00, 0x10, bars={0: Bar(1 << 20)}, msi=1, intx=True)

    def __init__(self, kernel: Kernel, name: str, **more: Any) -> None:
        super().__init__(kernel, name, **more)
        self._buffer = bytearray(_BUFFER_SIZE)
        self.power_on()

    def power_on(self) -> None:
        self._liveness = self._factorial = self._status = self._interrupts = 0
        self._source = self._destination = self._count = self._command = 0

    def read(self, bar: int, offset: int, width: int) -> int:
        # QEMU returns zeros for access widths other than 4 and 8 bytes; edu returns ones for unknown registers.
        if width not in (4, 8):
            return 0
        # Registers below 0x80 have 32 bits.
        if offset < 0x80 and width != 4:
            return _ALL
        value = {
            0x00: _IDENTIFICATION,
            0x04: self._liveness,
            0x08: self._factorial,
            0x20: self._status,
            0x24: self._interrupts,
            0x80: self._source,
            0x88: self._destination,
            0x90: self._count,
            0x98: self._command,
        }.get(offset, _ALL)
        return value & _ALL >> 64 - 8 * width

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        if width not in (4, 8) or (offset < 0x80 and width != 4):
            return
        match offset:
            case 0x04:
                self._liveness = ~value & 0xFFFFFFFF
            case 0x08:
                self._factorial = _factorial(value)
                if self._status & _RAISE_AFTER_FACTORIAL:
                    self._raise(_FACTORIAL_INTERRUPT)
            case 0x20:
                self._status = value & _RAISE_AFTER_FACTORIAL
            case 0x60:
                self._raise(value)
            case 0x64:
                self._interrupts &= ~value
                if not self._interrupts:
                    self.deassert()
            case 0x80:
                self._source = value
            case 0x88:
                self._destination = value
            case 0x90:
                self._count = value
            case 0x98 if value & _START:
                self._transfer(value)

    def _raise(self, value: int) -> None:
        self._interrupts |= value
        if self._interrupts:
            self.interrupt()

    def _transfer(self, command: int) -> None:
        """Copy between memory and the device's buffer; a range outside the buffer is ignored (QEMU aborts)."""
        inside = self._source if command & _TO_MEMORY else self._destination
        start = inside - _BUFFER
        # Behind vfio-user the register is read while the memory is waited for.
        self._command = command
        try:
            if start >= 0 and start + self._count <= _BUFFER_SIZE:
                if command & _TO_MEMORY:
                    self.dma_write(self._destination & _DMA_MASK, bytes(self._buffer[start : start + self._count]))
                else:
                    self._buffer[start : start + self._count] = self.dma_read(self._source & _DMA_MASK, self._count)
        finally:
            self._command = command & ~_START
        if command & _RAISE_AFTER_DMA:
            self._raise(_DMA_INTERRUPT)


def _factorial(n: int) -> int:
    """Return n! modulo 2^32, which is 0 for n >= 34."""
    return factorial(n) & 0xFFFFFFFF if n < 34 else 0
