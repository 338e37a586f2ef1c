"""QEMU's edu: a 4 KiB buffer in the device, and an engine that moves bytes between it and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio import Device, IovaRange

SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
START, TO_MEMORY = 1 << 0, 1 << 1
BUFFER = 0x40000
# The buffer has 4096 bytes, but QEMU before 9.1 aborts when a transfer reaches its last one.
LARGEST = 2048


class Edu:
    reach = IovaRange(0, 2**28 - 1)
    tells = False

    def __init__(self, device: Device) -> None:
        # By read and write, 32 bits at a time: so it is the same on the mock, which sees no store into mapped memory.
        self._registers = device.regions[0]

    def copy(self, destination: int, source: int, size: int) -> None:
        for at in range(0, size, LARGEST):
            count = min(LARGEST, size - at)
            self.read(source + at, count)
            self.write(destination + at, count)

    def read(self, iova: int, size: int) -> None:
        """From memory into the device's buffer."""
        self._transfer(iova, BUFFER, size, START)

    def write(self, iova: int, size: int) -> None:
        """From the device's buffer to memory."""
        self._transfer(BUFFER, iova, size, START | TO_MEMORY)

    def _transfer(self, source: int, destination: int, size: int, command: int) -> None:
        registers = self._registers
        registers.write32(SOURCE, source)
        registers.write32(DESTINATION, destination)
        registers.write32(COUNT, size)
        registers.write32(COMMAND, command)
        limit = time.monotonic() + 10
        while registers.read32(COMMAND) & START:
            # The engine takes 100 ms.
            if time.monotonic() > limit:
                raise TimeoutError("edu: the transfer did not end")
            time.sleep(0.005)


@contextmanager
def driver(device: Device) -> Iterator[Edu]:
    device.config.bus_master = True
    try:
        yield Edu(device)
    finally:
        if not device.closed:
            device.config.bus_master = False
