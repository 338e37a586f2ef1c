"""NVMe: what is to be copied is written to the disk from one IOVA, and read back to another."""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio import Device, IovaRange

CAPABILITIES, CONFIGURATION, STATUS = 0x00, 0x14, 0x1C
ADMIN_QUEUE_ATTRIBUTES, ADMIN_SUBMISSION_QUEUE, ADMIN_COMPLETION_QUEUE = 0x24, 0x28, 0x30
DOORBELLS = 0x1000
ENABLE, READY = 1, 1
# Sizes of queue entries, as powers of two, where CONFIGURATION has them.
ENTRY_SIZES = 6 << 16 | 4 << 20
CREATE_SUBMISSION_QUEUE, CREATE_COMPLETION_QUEUE = 0x01, 0x05
WRITE, READ = 0x01, 0x02
CONTIGUOUS = 1
PAGE = 4096
BLOCK = 512
ENTRIES = 16


class Queue:
    """A submission and a completion queue in memory, worked off one command at a time."""

    def __init__(self, device: Device, number: int) -> None:
        self._registers = device.regions[0].map(0, 2 * PAGE)
        self.memory = device.address_space.alloc(2 * PAGE)
        self.submissions = self.memory.iova
        self.completions = self.memory.iova + PAGE
        self._doorbell = DOORBELLS + 8 * number  # of CAP.DSTRD 0
        self._at = 0
        self._phase = 1

    def run(self, opcode: int, *, space: int = 0, data: int = 0, words: tuple[int, ...] = ()) -> None:
        """
        :raises OSError: EIO with the controller's status
        """
        view = self.memory.buffer.view
        words = (*words, *[0] * (6 - len(words)))
        command = struct.pack("<IIQQQQ6I", opcode | self._at << 16, space, 0, 0, data, 0, *words)
        view[64 * self._at : 64 * (self._at + 1)] = command
        after = (self._at + 1) % ENTRIES
        self._registers.write32(self._doorbell, after)
        at = PAGE + 16 * self._at + 14
        limit = time.monotonic() + 10
        while ((status := struct.unpack_from("<H", view, at)[0]) & 1) != self._phase:
            if time.monotonic() > limit:
                raise TimeoutError("nvme: no completion")
            time.sleep(0.001)
        self._at = after
        self._phase ^= after == 0
        self._registers.write32(self._doorbell + 4, after)
        if status >> 1:
            raise OSError(errno.EIO, f"nvme: status {status >> 1:#x}")


class Nvme:
    reach = IovaRange(0, 2**64 - 1)
    tells = True

    def __init__(self, device: Device) -> None:
        self._registers = device.regions[0].map(0, PAGE)
        self._enable(False)
        admin = Queue(device, 0)
        self._registers.write32(ADMIN_QUEUE_ATTRIBUTES, (ENTRIES - 1) << 16 | (ENTRIES - 1))
        for register, iova in ((ADMIN_SUBMISSION_QUEUE, admin.submissions), (ADMIN_COMPLETION_QUEUE, admin.completions)):
            self._registers.write32(register, iova & 0xFFFFFFFF)
            self._registers.write32(register + 4, iova >> 32)
        self._enable(True)
        self._queue = Queue(device, 1)
        which = (ENTRIES - 1) << 16 | 1
        admin.run(CREATE_COMPLETION_QUEUE, data=self._queue.completions, words=(which, CONTIGUOUS))
        admin.run(CREATE_SUBMISSION_QUEUE, data=self._queue.submissions, words=(which, 1 << 16 | CONTIGUOUS))
        self._admin = admin

    def copy(self, destination: int, source: int, size: int) -> None:
        """Whole blocks of 512 bytes."""
        if size % BLOCK:
            raise ValueError(f"nvme copies blocks of {BLOCK} bytes")
        done = 0
        while done < size:
            # One page pointer to a command: neither end may cross a page.
            count = min(size - done, PAGE - (source + done) % PAGE, PAGE - (destination + done) % PAGE)
            blocks = (0, 0, count // BLOCK - 1)
            self._queue.run(WRITE, space=1, data=source + done, words=blocks)
            self._queue.run(READ, space=1, data=destination + done, words=blocks)
            done += count

    def close(self) -> None:
        self._enable(False)

    def _enable(self, on: bool) -> None:
        self._registers.write32(CONFIGURATION, ENTRY_SIZES | ENABLE if on else 0)
        limit = time.monotonic() + 10
        while self._registers.read32(STATUS) & READY != on:
            if time.monotonic() > limit:
                raise TimeoutError("nvme: it does not become ready")
            time.sleep(0.001)


@contextmanager
def driver(device: Device) -> Iterator[Nvme]:
    device.config.bus_master = True
    nvme = Nvme(device)
    try:
        yield nvme
    finally:
        if not device.closed:
            nvme.close()
            device.config.bus_master = False
