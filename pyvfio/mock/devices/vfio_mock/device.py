# SPDX-License-Identifier: MIT
"""The device vfio-mock.N: its regions, its state, and open, close and reset."""

from __future__ import annotations

import errno
from mmap import mmap
from typing import TYPE_CHECKING, Any

from pyvfio._abi import lib
from pyvfio.mock.devices.vfio_mock import failures, registers
from pyvfio.mock.devices.vfio_mock.engine import Engine
from pyvfio.mock.devices.vfio_mock.failures import Failures
from pyvfio.mock.devices.vfio_mock.irqs import MockIrqs
from pyvfio.mock.devices.vfio_mock.migration import MockMigration
from pyvfio.mock.devices.vfio_mock.parameters import Parameters
from pyvfio.mock.devices.vfio_mock.pins import Pins
from pyvfio.mock.devices.vfio_mock.registers import Registers
from pyvfio.mock.fs.sysfs import text
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.device import Device
from pyvfio.mock.vfio.log import Log, LoggedRange
from pyvfio.mock.vfio.region import MMAP, OFFSET_MASK, OFFSET_SHIFT, READ, WRITE, Area, Region

if TYPE_CHECKING:
    from pyvfio.mock.fs.tree import Text
    from pyvfio.mock.machine.kernel import Kernel

REGISTERS, MEMORY, SPARSE, TYPED, EMPTY, ROM = range(6)
_MSI, _MSIX = 4, 8
_ROM_SIZE = 0x1000


class MockLog(Log):
    """The log of vfio-mock, whose calls fail on demand."""

    def __init__(self, device: VfioMock) -> None:
        super().__init__(device.parameters.limits)
        self._failures = device.failures

    def start(self, ranges: list[LoggedRange], page_size: int) -> int:
        self._failures.check("LOG_START")
        return super().start(ranges, page_size)

    def stop(self) -> None:
        self._failures.check("LOG_STOP")
        super().stop()

    def report(self, iova: int, length: int, page_size: int, address: int) -> None:
        self._failures.check("LOG_REPORT")
        super().report(iova, length, page_size, address)


class VfioMock(Device):
    """The device vfio-mock.N.

    :param parameters: the module parameters
    :param memory_size: bytes of the memory region (the module parameter `memory`)
    """

    bus = "platform"
    emulated = True
    flags = lib.VFIO_DEVICE_FLAGS_PLATFORM | lib.VFIO_DEVICE_FLAGS_RESET
    num_regions = 6
    num_irqs = 5

    number: int
    irqs: MockIrqs
    log: MockLog
    log_selected: int
    pins: Pins
    engine: Engine
    states: MockMigration
    transfer_max: int
    bytes_written: int
    bytes_read: int
    unmaps: int
    resets: int

    def __init__(
        self, kernel: Kernel, name: str, *, parameters: Parameters, memory_size: int = 1 << 20, **more: Any
    ) -> None:
        super().__init__(kernel, name, **more)
        self.parameters = parameters
        self.number = int(name.rpartition(".")[2])
        self.memory_size = memory_size
        self.regions = self._regions()
        self.failures = Failures()
        self.irqs = MockIrqs(kernel, (1, _MSI, _MSIX, 1, 1))
        self.log = MockLog(self)
        self.log_selected = 0
        self.pins = Pins(self)
        self.registers = Registers(self)
        self.engine = Engine(self)
        self.migration = self.states = MockMigration(self)
        self.transfer_max = 0
        self.bytes_written = self.bytes_read = self.unmaps = self.resets = 0

    def _regions(self) -> dict[int, Region]:
        sparse = (Area(0x1000, 0x2000), Area(0x8000, 0x1000))
        return {
            REGISTERS: Region(registers.SIZE, READ | WRITE),
            MEMORY: Region(self.memory_size, READ | WRITE | MMAP),
            SPARSE: Region(0x10000, READ | WRITE | MMAP, sparse),
            TYPED: Region(0x4000, READ | WRITE | MMAP, (Area(0x2000, 0x1000),), (0x6D6F636B, 1)),
            EMPTY: Region(),
            ROM: Region(_ROM_SIZE, READ),
        }

    def attributes(self) -> dict[str, Text]:
        return {"modalias": text("platform:vfio-mock"), "uevent": text("DRIVER=vfio-mock\nMODALIAS=platform:vfio-mock")}

    # Open, close, reset.

    def check_token(self, given: bytes | None) -> None:
        self.parameters.check_token(given)

    def open(self) -> None:
        self.failures.check("OPEN")
        self._power_on()
        self.failures.reset()
        self.log.limits = self.parameters.limits
        self.log_selected = 0
        self.log.marked = 0
        self.irqs.signalled = 0
        self.transfer_max = 0
        self.bytes_written = self.bytes_read = self.unmaps = self.resets = 0
        self.states.sent = self.states.received = 0

    def close(self) -> None:
        self.engine.stop()
        self.states.restart()
        super().close()
        self.pins.release()

    def reset(self) -> None:
        self._power_on()

    def _power_on(self) -> None:
        """Return to the state after power-on, except for logging, interrupts, limits and failures, which stay."""
        self.engine.stop()
        self.engine.reset()
        self.registers.reset()
        for index in (MEMORY, SPARSE, TYPED):
            memory = self.memory(index)
            memory[:] = bytes(len(memory))
        self.resets += 1
        self.states.restart()
        self.irqs.deassert()

    def dma_unmap(self, iova: int, size: int) -> None:
        self.unmaps += 1
        self.pins.release(iova, size)

    def check_call(self, kind: str) -> None:
        self.failures.check(kind)

    # Regions.

    def region(self, index: int) -> Region:
        if index not in self.regions:
            raise Errno(errno.EINVAL)
        return self.regions[index]

    def store(self, offset: int, data: bytes, index: int = MEMORY) -> None:
        """Write a memory region, for the engine or for a program."""
        self.memory(index)[offset : offset + len(data)] = data
        self.states.touch(index, offset, len(data))

    def pread(self, size: int, position: int) -> bytes:
        index, offset = position >> OFFSET_SHIFT, position & OFFSET_MASK
        if not failures.START <= position < failures.END:
            self.failures.check("REGION_READ")
        if not size:
            return b""
        if index == REGISTERS:
            _check_register(size)
            return self.registers.read(offset, size).to_bytes(size, "little")
        if index == ROM:
            if offset >= _ROM_SIZE:
                raise Errno(errno.EINVAL)
            return bytes(n & 0xFF for n in range(offset, min(offset + size, _ROM_SIZE)))
        size = self._clipped(index, offset, size)
        return self.memory(index)[offset : offset + size]

    def pwrite(self, data: bytes, position: int) -> int:
        index, offset = position >> OFFSET_SHIFT, position & OFFSET_MASK
        if not failures.START <= position < failures.END:
            self.failures.check("REGION_WRITE")
        if not data:
            return 0
        if index == REGISTERS:
            _check_register(len(data))
            self.registers.write(offset, len(data), int.from_bytes(data, "little"))
            return len(data)
        size = self._clipped(index, offset, len(data))
        self.store(offset, data[:size], index)
        return size

    def _clipped(self, index: int, offset: int, size: int) -> int:
        """Return the number of bytes that a transfer moves, limited by the end of the region and by TRANSFER_MAX."""
        if index not in (MEMORY, SPARSE, TYPED) or offset >= self.regions[index].size:
            raise Errno(errno.EINVAL)
        size = min(size, self.regions[index].size - offset)
        return min(size, self.transfer_max) if self.transfer_max else size

    def check_mmap(self, index: int, offset: int, size: int) -> None:
        self.failures.check("REGION_MMAP")
        super().check_mmap(index, offset, size)

    def mapped(self, index: int, memory: mmap) -> None:
        self.states.mapped(index, memory)


def _check_register(size: int) -> None:
    if size > 8:
        raise Errno(errno.EINVAL)
