# SPDX-License-Identifier: MIT
"""Drive an NVMe disk: identify it over the admin queue, then read and write over queue pairs, polling or with MSI-X.

    scripts/vm --iommu amd -- .venv/bin/python scripts/examples/nvme.py [ADDRESS]

The program OVERWRITES the first MiB of the disk. Registers, commands and structures are those of the NVM Express base
specification 1.4 and its NVM command set. Each queue executes one command at a time.
"""

from __future__ import annotations

import errno
import random
import struct
import sys
import time
from typing import NamedTuple, Self

import pyvfio
from pyvfio import Device, IovaRange
from pyvfio.irq import Vector

CLASS = 0x010802

# Registers of BAR0. A 64-bit register is written in two halves of 32 bits.
CAPABILITIES, CONFIGURATION, STATUS = 0x00, 0x14, 0x1C
ADMIN_SIZES, ADMIN_SUBMISSIONS, ADMIN_COMPLETIONS, DOORBELLS = 0x24, 0x28, 0x30, 0x1000
ENABLE = READY = 1
ENTRY_SIZES = 6 << 16 | 4 << 20  # CONFIGURATION: log2 of the sizes of a submission (64 bytes) and a completion (16)

# Opcodes: five admin commands (with the two kinds of IDENTIFY), then WRITE and READ of the NVM command set.
DELETE_SUBMISSION_QUEUE, CREATE_SUBMISSION_QUEUE, DELETE_COMPLETION_QUEUE, CREATE_COMPLETION_QUEUE = 0, 1, 4, 5
IDENTIFY, IDENTIFY_NAMESPACE, IDENTIFY_CONTROLLER = 6, 0, 1
WRITE, READ = 1, 2
CONTIGUOUS, INTERRUPTS = 1, 2  # flags of the commands that create a queue

PAGE = 4096
ENTRIES = 64
#: Timeout of a command in seconds.
LIMIT = 10
#: Number of polls for a completion before the loop reads the clock and yields the processor.
LOOKS = 1000

#: A command: opcode and command id, namespace, 2 reserved words, metadata, PRP entries 1 and 2, words 10 to 12. Words
#: 13 to 15 are 0.
COMMAND = struct.Struct("<IIQQQQ3I12x")


class Controller(NamedTuple):
    """Identify data of a controller. `largest` is the largest transfer of one command, in bytes."""

    serial: str
    model: str
    firmware: str
    namespaces: int
    largest: int


class Queue:
    """A submission queue and its completion queue, in memory that the device reads and writes by DMA.

    :ivar interrupts: number of interrupts received so far
    """

    def __init__(self, nvme: Nvme, number: int, vector: Vector | None = None) -> None:
        self.number = number
        self.interrupts = 0
        # One page each: the submissions, the completions, and the PRP list of the current command.
        self.memory = nvme.device.address_space.alloc(3 * PAGE)
        self.submissions, self.completions, self.pages = (self.memory.iova + n * PAGE for n in range(3))
        self._submitted = self.memory.buffer.view[:PAGE]
        self._completed = self.memory.buffer.view[PAGE : 2 * PAGE].cast("H")
        self._pages = self.memory.buffer.view[2 * PAGE :].cast("Q")
        self._registers = nvme.registers
        self._tail = DOORBELLS + 2 * number * nvme.doorbell_stride
        self._head = self._tail + nvme.doorbell_stride
        self._vector = vector
        self._at = 0
        self._phase = 1  # the phase bit of a new completion; it inverts each time the queue wraps

    def run(
        self, opcode: int, namespace: int, page: int, more: int = 0, w10: int = 0, w11: int = 0, w12: int = 0
    ) -> None:
        """Submit one command and wait for its completion.

        :param page: the first PRP entry: the IOVA of the data
        :param more: the second PRP entry, see :meth:`data`
        :raises OSError: EIO: the command failed; the message has the device's status
        """
        at = self._at
        COMMAND.pack_into(self._submitted, 64 * at, opcode | at << 16, namespace, 0, 0, page, more, w10, w11, w12)
        self._at = following = (at + 1) % ENTRIES
        self._registers.write32(self._tail, following)
        status = self._status(8 * at + 7)
        # Do not read the data before the status that announces it.
        pyvfio.barrier()
        if not following:
            self._phase ^= 1
        self._registers.write32(self._head, following)
        if status >> 1:
            raise OSError(errno.EIO, f"nvme: queue {self.number}, opcode {opcode}: status {status >> 1:#x}")

    def _status(self, at: int) -> int:
        """Wait until the phase bit of the current completion is new, and return its status."""
        completed, phase = self._completed, self._phase
        if self._vector is not None:
            self.interrupts += self._vector.wait(LIMIT)
        for _ in range(LOOKS):
            if (status := int(completed[at])) & 1 == phase:
                return status
        limit = time.monotonic() + LIMIT
        while (status := int(completed[at])) & 1 != phase:
            if time.monotonic() > limit:
                raise TimeoutError(errno.ETIMEDOUT, f"nvme: queue {self.number}: no completion within {LIMIT} seconds")
            time.sleep(0)
        return status

    def data(self, iova: int, size: int) -> tuple[int, int]:
        """Return both PRP entries for data at an IOVA: the first page, and the second page or a list of all further pages.

        The data is contiguous in IOVAs, but PRP entries name each page by itself.
        """
        second = (iova & -PAGE) + PAGE
        if iova + size <= second + PAGE:
            return iova, second if iova + size > second else 0
        rest = range(second, iova + size, PAGE)
        for index, page in enumerate(rest):
            self._pages[index] = page
        return iova, self.pages


class Nvme:
    """A driver for the controller.

    Use it in a `with` statement, which enables the controller and disables it at the end.

    :ivar reach: the IOVAs that the controller can address
    """

    reach = IovaRange(0, 2**64 - 1)

    def __init__(self, device: Device) -> None:
        self.device = device
        bar = device.regions[0]
        # Use loads and stores if the BAR can be mapped, else a system call for each access.
        self.registers = bar.mmap() if bar.mmappable else bar
        self.doorbell_stride = 4 << (self.registers.read32(CAPABILITIES + 4) & 15)
        self._queues: list[Queue] = []

    def __enter__(self) -> Self:
        self.device.config.bus_master = True
        try:
            self._enable(0)
            self._admin = admin = self._queue()
            self.registers.write32(ADMIN_SIZES, (ENTRIES - 1) << 16 | (ENTRIES - 1))
            for register, iova in (ADMIN_SUBMISSIONS, admin.submissions), (ADMIN_COMPLETIONS, admin.completions):
                self.registers.write32(register, iova & 0xFFFFFFFF)
                self.registers.write32(register + 4, iova >> 32)
            self._enable(ENABLE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.closed:
            return
        try:
            self._enable(0)
        finally:
            self.device.config.bus_master = False
            for queue in self._queues:
                queue.memory.unmap()

    def controller(self) -> Controller:
        """Identify the controller."""
        data = self._identify(IDENTIFY_CONTROLLER)
        serial, model, firmware = (data[a:b].decode("ascii").strip() for a, b in ((4, 24), (24, 64), (64, 72)))
        # Byte 77 (MDTS): log2 of the largest transfer in pages; 0 means no limit. This driver's PRP list is one page
        # long.
        largest = min(PAGE << data[77] if data[77] else 2**64, PAGE // 8 * PAGE)
        return Controller(serial, model, firmware, int.from_bytes(data[516:520], "little"), largest)

    def namespace(self, number: int = 1, vector: Vector | None = None) -> Namespace:
        """Identify a namespace and create a queue pair for it.

        :param vector: the MSI-X vector whose interrupts announce completions; None to poll
        """
        queue = self._queue(vector)
        which = (ENTRIES - 1) << 16 | queue.number
        how = CONTIGUOUS if vector is None else vector.index << 16 | INTERRUPTS | CONTIGUOUS
        self._admin.run(CREATE_COMPLETION_QUEUE, 0, queue.completions, 0, which, how)
        self._admin.run(CREATE_SUBMISSION_QUEUE, 0, queue.submissions, 0, which, queue.number << 16 | CONTIGUOUS)
        data = self._identify(IDENTIFY_NAMESPACE, number)
        blocks, format_ = int.from_bytes(data[:8], "little"), data[26] & 15
        return Namespace(number, queue, blocks, 1 << data[128 + 4 * format_ + 2])

    def _identify(self, what: int, namespace: int = 0) -> bytes:
        with self.device.address_space.alloc(PAGE) as mapping:
            self._admin.run(IDENTIFY, namespace, mapping.iova, 0, what)
            return bytes(mapping.buffer.view)

    def _queue(self, vector: Vector | None = None) -> Queue:
        queue = Queue(self, len(self._queues), vector)
        self._queues.append(queue)
        return queue

    def _enable(self, on: int) -> None:
        self.registers.write32(CONFIGURATION, ENTRY_SIZES | ENABLE if on else 0)
        limit = time.monotonic() + LIMIT
        while self.registers.read32(STATUS) & READY != on:
            if time.monotonic() > limit:
                raise TimeoutError(errno.ETIMEDOUT, f"nvme: not {'ready' if on else 'off'} after {LIMIT} seconds")
            time.sleep(0.001)


class Namespace(NamedTuple):
    """A namespace (a disk) and the queue pair for its reads and writes."""

    number: int
    queue: Queue
    blocks: int
    block_size: int

    def read(self, block: int, iova: int, count: int = 1) -> None:
        """Read `count` blocks from the disk into memory at an IOVA."""
        self._move(READ, block, iova, count)

    def write(self, block: int, iova: int, count: int = 1) -> None:
        """Write `count` blocks to the disk from memory at an IOVA."""
        self._move(WRITE, block, iova, count)

    def _move(self, opcode: int, block: int, iova: int, count: int) -> None:
        page, more = self.queue.data(iova, count * self.block_size)
        self.queue.run(opcode, self.number, page, more, block & 0xFFFFFFFF, block >> 32, count - 1)


def exercise(disk: Namespace, device: Device, times: int, seed: int = 0, *, area: int = 1 << 20, most: int = 16) -> int:
    """Do random reads and writes of up to `most` blocks, compare what is read, and return the number of writes.

    :param area: size of the area at the beginning of the disk that is overwritten, in bytes
    :raises AssertionError: a read returned wrong data
    """
    chance = random.Random(seed)
    size, blocks = disk.block_size, area // disk.block_size
    writes = 0
    with device.address_space.alloc(area) as mapping:
        view = mapping.buffer.view
        written = bytearray(area)
        largest = 1 << 16
        for at in range(0, area, largest):  # fill the area with zeros, so that its contents are known
            disk.write(at // size, mapping.iova + at, largest // size)
        for turn in range(times):
            count = chance.randint(1, most)
            block = chance.randrange(blocks - count + 1)
            at, length, there = chance.randrange(blocks - count + 1) * size, count * size, block * size
            if chance.random() < 0.5:
                view[at : at + length] = written[there : there + length] = chance.randbytes(length)
                disk.write(block, mapping.iova + at, count)
                writes += 1
            else:
                disk.read(block, mapping.iova + at, count)
                assert view[at : at + length] == written[there : there + length], (
                    f"turn {turn}: {count} at block {block}"
                )
    return writes


def main() -> None:
    found = (d.address for d in pyvfio.host.devices() if d.class_code == CLASS)
    address = sys.argv[1] if len(sys.argv) > 1 else next(found)
    with pyvfio.host.bind(address, "vfio-pci"), pyvfio.open(address) as device, Nvme(device) as nvme:
        print(f"{device}: {nvme.controller()}")
        (vector,) = device.irqs.msix.enable([1])
        for how, disk in ("polling", nvme.namespace(1)), ("MSI-X", nvme.namespace(1, vector)):
            begun = time.monotonic()
            writes = exercise(disk, device, 1000)
            print(
                f"{disk.blocks} blocks of {disk.block_size} bytes, by {how}: 1000 random transfers, {writes} of them writes, as they "
                f"should be; {disk.queue.interrupts} interrupts; {time.monotonic() - begun:.1f} s"
            )


if __name__ == "__main__":
    main()
