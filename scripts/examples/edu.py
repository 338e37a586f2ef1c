# SPDX-License-Identifier: MIT
"""Drive QEMU's edu device: read registers, compute a factorial, copy memory by DMA, receive an interrupt.

    scripts/vm --iommu amd -- .venv/bin/python scripts/examples/edu.py [ADDRESS]

The device is described in QEMU's documentation ("EDU device").
"""

from __future__ import annotations

import os
import sys
import time
from typing import Self

import pyvfio
from pyvfio import Device, IovaRange

VENDOR, DEVICE = 0x1234, 0x11E8

# Registers of BAR0. All accept 32-bit accesses; the DMA registers (from SOURCE on) accept 64-bit ones too.
IDENTIFICATION, LIVENESS, FACTORIAL, STATUS = 0x00, 0x04, 0x08, 0x20
INTERRUPTS, RAISE, ACKNOWLEDGE = 0x24, 0x60, 0x64
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98

COMPUTING, INTERRUPT_WHEN_COMPUTED = 0x01, 0x80  # STATUS
START, TO_MEMORY, INTERRUPT_WHEN_MOVED = 1, 2, 4  # COMMAND

BUFFER = 0x40000  # address of the device's 4 KiB buffer, as its DMA engine sees it
#: Largest transfer, in bytes: half of the buffer. QEMU before 9.1 aborts when a transfer reaches the buffer's last
#: byte.
LARGEST = 2048
#: Timeout in seconds. The DMA engine takes 0.1 s for each transfer.
LIMIT = 10


class Edu:
    """A driver for edu. Use it in a `with` statement, which enables bus mastering and disables it at the end.

    :param interrupt: wait for MSI interrupts instead of polling
    :ivar reach: the IOVAs that the device can address: 28 bits, unless QEMU's option `dma_mask=` says otherwise
    """

    reach = IovaRange(0, 2**28 - 1)

    def __init__(self, device: Device, *, interrupt: bool = False) -> None:
        self.device = device
        bar = device.regions[0]
        # Use loads and stores if the whole BAR can be mapped, else a system call for each access. (A vfio driver that
        # logs the device's DMA does not let programs map the registers.)
        self.registers = bar.mmap() if (0, bar.size) in bar.info.areas else bar
        self.vector = device.irqs.msi.enable()[0] if interrupt else None

    def __enter__(self) -> Self:
        self.device.config.bus_master = True
        return self

    def __exit__(self, *_: object) -> None:
        if not self.device.closed:
            self.device.config.bus_master = False

    @property
    def version(self) -> tuple[int, int]:
        """The device's version: major, minor.

        :raises ValueError: the device is not an edu
        """
        identification = self.registers.read32(IDENTIFICATION)
        if identification & 0xFFFF != 0xED:
            raise ValueError(f"{self.device.address}: {identification:#010x} identifies no edu")
        return identification >> 24, identification >> 16 & 0xFF

    def is_alive(self) -> bool:
        """Whether the liveness register returns the inverse of the word written to it."""
        self.registers.write32(LIVENESS, 0x12345678)
        return self.registers.read32(LIVENESS) == 0x12345678 ^ 0xFFFFFFFF

    def factorial(self, n: int) -> int:
        """Let the device compute n! modulo 2^32."""
        self.registers.write32(STATUS, INTERRUPT_WHEN_COMPUTED if self.vector else 0)
        self.registers.write32(FACTORIAL, n)
        self._finish(STATUS, COMPUTING)
        return self.registers.read32(FACTORIAL)

    def copy(self, destination: int, source: int, size: int) -> None:
        """Copy memory to memory by DMA, through the device's buffer. Both addresses are IOVAs."""
        for at in range(0, size, LARGEST):
            count = min(LARGEST, size - at)
            self.read(source + at, count)
            self.write(destination + at, count)

    def read(self, iova: int, size: int) -> None:
        """Copy from memory into the device's buffer."""
        self._move(iova, BUFFER, size, START)

    def write(self, iova: int, size: int) -> None:
        """Copy from the device's buffer to memory."""
        self._move(BUFFER, iova, size, START | TO_MEMORY)

    def raise_interrupt(self, bits: int) -> None:
        """Make the device interrupt, with these bits set in its interrupt status register."""
        self.registers.write32(RAISE, bits)

    def interrupted(self) -> int:
        """Wait for an interrupt, acknowledge it, and return the bits of the interrupt status register."""
        assert self.vector is not None
        self.vector.wait(LIMIT)
        bits = self.registers.read32(INTERRUPTS)
        self.registers.write32(ACKNOWLEDGE, bits)
        return bits

    def _move(self, source: int, destination: int, size: int, command: int) -> None:
        self.registers.write32(SOURCE, source)
        self.registers.write32(DESTINATION, destination)
        self.registers.write32(COUNT, size)
        self.registers.write32(COMMAND, command | (INTERRUPT_WHEN_MOVED if self.vector else 0))
        self._finish(COMMAND, START)

    def _finish(self, register: int, busy: int) -> None:
        if self.vector is not None:
            self.interrupted()
        limit = time.monotonic() + LIMIT
        while self.registers.read32(register) & busy:
            if time.monotonic() > limit:
                raise TimeoutError(f"{self.device.address}: still busy after {LIMIT} seconds")
            time.sleep(0.005)


def main() -> None:
    found = (d.address for d in pyvfio.host.devices() if (d.vendor, d.device) == (VENDOR, DEVICE))
    address = sys.argv[1] if len(sys.argv) > 1 else next(found)
    with (
        pyvfio.host.bind(address, "vfio-pci"),
        pyvfio.open(address) as device,
        Edu(device, interrupt=True) as edu,
    ):
        print(f"{device}: edu {'.'.join(map(str, edu.version))}, {'alive' if edu.is_alive() else 'NOT ALIVE'}")
        print(f"12! = {edu.factorial(12)}")
        mapping = device.address_space.alloc(2 << 20)
        view = mapping.buffer.view
        view[:6000] = data = os.urandom(6000)
        begun = time.monotonic()
        edu.copy(mapping.iova + 0x10000, mapping.iova, 6000)
        same = view[0x10000 : 0x10000 + 6000] == data
        print(
            f"6000 bytes from {mapping.iova:#x} to {mapping.iova + 0x10000:#x} by DMA in {time.monotonic() - begun:.1f} s: "
            f"{'equal' if same else 'DIFFERENT'}"
        )
        edu.raise_interrupt(0x2A)
        print(f"an interrupt by MSI, with status {edu.interrupted():#x}")


if __name__ == "__main__":
    main()
