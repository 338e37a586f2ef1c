# SPDX-License-Identifier: MIT
"""The model of an NVMe disk: registers, queues, commands, refusals. The driver is scripts/examples/nvme.py."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from mmap import mmap
from pathlib import Path
from typing import Any

import pytest
from examples.nvme import COMMAND, DOORBELLS, PAGE, Namespace, Nvme

import pyvfio
from pyvfio import Device, Mapping, mock
from pyvfio.mock import devices

ADDRESS = "0000:00:0a.0"
DELETE_SQ, CREATE_SQ, GET_LOG_PAGE, DELETE_CQ, CREATE_CQ, IDENTIFY, ABORT = 0, 1, 2, 4, 5, 6, 8
SET_FEATURES, GET_FEATURES, EVENT_REQUEST = 9, 10, 12
FLUSH, WRITE, READ, COMPARE, WRITE_ZEROES, DATASET_MANAGEMENT = 0, 1, 2, 5, 8, 9
CONFIGURATION, STATUS = 0x14, 0x1C
DO_NOT_RETRY = 0x4000


@pytest.fixture
def kernel() -> mock.Kernel:
    return mock.Kernel("amd")


@pytest.fixture
def model(kernel: mock.Kernel) -> devices.Nvme:
    return devices.Nvme(kernel, ADDRESS, size=1 << 20, driver="vfio-pci")


@pytest.fixture
def disk(model: devices.Nvme) -> Iterator[Device]:
    with pyvfio.open(ADDRESS, kernel=model.kernel) as device:
        yield device
    assert model.kernel.faults == []


@pytest.fixture
def memory(disk: Device) -> Mapping:
    return disk.address_space.alloc(1 << 20)


@pytest.fixture
def nvme(disk: Device) -> Iterator[Nvme]:
    with Nvme(disk) as nvme:
        yield nvme


Run = Callable[..., int]


@pytest.fixture
def admin(nvme: Nvme) -> Run:
    """A function that runs an admin command, and returns the result in its completion."""

    def run(opcode: int, namespace: int = 0, page: int = 0, *words: int) -> int:
        queue = nvme._admin
        at = 4 * queue._at  # index of the completion, in words of 32 bits
        queue.run(opcode, namespace, page, 0, *words)
        return int(queue.memory.buffer.view[PAGE : 2 * PAGE].cast("I")[at])

    return run


def refused(status: int) -> AbstractContextManager[object]:
    return pytest.raises(OSError, match=f"status {status | DO_NOT_RETRY:#x}$")


# --- registers ------------------------------------------------------------------------------------------------------------


def test_registers_say_what_the_controller_can(disk: Device) -> None:
    registers = disk.regions[0]
    capabilities = registers.read32(4) << 32 | registers.read32(0)
    assert capabilities & 0xFFFF == 2047  # CAP.MQES: entries of a queue, minus 1
    assert capabilities >> 37 & 0xFF == 1  # CAP.CSS: the NVM command set
    assert registers.read32(8) == 0x10400
    assert int.from_bytes(registers.read(0, 8), "little") == capabilities
    assert registers.read16(0) == 2047
    assert registers.read8(9) == 4
    registers.write(0x28, (0x1_2345_6000).to_bytes(8, "little"))
    assert (registers.read32(0x28), registers.read32(0x2C)) == (0x2345_6000, 1)


@pytest.mark.parametrize(
    ("sizes", "configuration"),
    [(0, 0x460001), (0x3F0000, 0x460001), (0x3F003F, 0x000001), (0x3F003F, 0x460781), (0x3F003F, 0x460011)],
    ids=["no queues", "one entry", "no entry sizes", "pages too large", "another command set"],
)
def test_an_impossible_configuration_is_a_fatal_error(disk: Device, sizes: int, configuration: int) -> None:
    registers = disk.regions[0]
    registers.write32(0x24, sizes)
    registers.write32(CONFIGURATION, configuration)
    assert registers.read32(STATUS) == 2
    registers.write32(CONFIGURATION, 0)
    assert registers.read32(STATUS) == 0


def test_pages_can_be_larger(disk: Device, memory: Mapping) -> None:
    """With a page size of 8 KiB, the second PRP entry continues at the next multiple of 8 KiB."""
    registers = disk.regions[0]
    disk.config.bus_master = True
    page = memory.iova + 8192 - memory.iova % 8192
    at = page - memory.iova
    registers.write32(0x24, 1 << 16 | 1)
    for register, iova in (0x28, page), (0x30, page + PAGE):
        registers.write32(register, iova)
        registers.write32(register + 4, iova >> 32)
    registers.write32(CONFIGURATION, 0x460081)
    assert registers.read32(STATUS) == 1
    # Identify data that begins 2 KiB before the end of a page.
    COMMAND.pack_into(memory.buffer.view, at, IDENTIFY, 0, 0, 0, page + 0x4000 - 2048, page + 0x6000, 1, 0, 0)
    registers.write32(DOORBELLS, 1)
    assert bytes(memory.buffer.view[at + 0x4000 - 2048 + 24 :][:14]) == b"QEMU NVMe Ctrl"
    assert bytes(memory.buffer.view[at + 0x4000 - 2048 + 768 :][:4]) == b"nqn."
    assert memory.buffer.view[at + PAGE + 14] == 1  # no error, and the phase bit
    assert not any(memory.buffer.view[at + 0x4000 : at + 0x6000])


def test_a_shutdown_is_done_at_once(disk: Device, nvme: Nvme) -> None:
    registers = disk.regions[0]
    registers.write32(CONFIGURATION, 0x464001)
    assert registers.read32(STATUS) == 1 | 2 << 2


def test_a_reset_forgets_queues_and_keeps_blocks(model: devices.Nvme, disk: Device, memory: Mapping) -> None:
    memory.buffer.view[:512] = data = os.urandom(512)
    with Nvme(disk) as nvme:
        nvme.namespace().write(3, memory.iova)
        disk.reset()
        assert disk.regions[0].read32(STATUS) == 0
        disk.regions[0].write32(DOORBELLS + 8, 1)
        disk.config.bus_master = True
    assert model.storage[3 * 512 : 4 * 512] == data
    with Nvme(disk) as nvme:
        nvme.namespace().read(3, memory.iova + PAGE)
    assert memory.buffer.view[PAGE : PAGE + 512] == data


def test_without_bus_master_no_command_is_read(disk: Device, nvme: Nvme, admin: Run, memory: Mapping) -> None:
    disk.config.bus_master = False
    COMMAND.pack_into(nvme._admin._submitted, 0, IDENTIFY, 0, 0, 0, memory.iova, 0, 1, 0, 0)
    disk.regions[0].write32(DOORBELLS, 1)
    disk.config.bus_master = True
    assert not any(memory.buffer.view[:PAGE])
    disk.regions[0].write32(DOORBELLS, 1)  # the doorbell is written again
    assert bytes(memory.buffer.view[4:11]) == b"pyvfio "


# --- admin commands -------------------------------------------------------------------------------------------------------


def test_identifications(admin: Run, memory: Mapping) -> None:
    view = memory.buffer.view
    admin(IDENTIFY, 0, memory.iova, 1)
    assert bytes(view[:4]) == b"\x36\x1b\xf4\x1a"
    assert bytes(view[4:24]) == b"pyvfio 0000:00:0a.0 "
    assert bytes(view[24:64]).rstrip() == b"QEMU NVMe Ctrl"
    assert bytes(view[768:791]) == b"nqn.2026-01.mock.pyvfio"
    # Largest transfer; I/O controller; aborts, event requests, firmware, logs; temperatures; entries; namespaces;
    # commands; cache.
    numbers = (
        (77, 1, 7),
        (80, 4, 0x10400),
        (111, 1, 1),
        (258, 4, 0x06030303),
        (266, 4, 373 << 16 | 343),
        (512, 2, 0x4466),
    )
    for offset, size, value in (*numbers, (516, 4, 1), (520, 2, 0x0C), (525, 1, 1)):
        assert int.from_bytes(view[offset : offset + size], "little") == value, offset
    admin(IDENTIFY, 1, memory.iova, 0)
    assert (struct.unpack("<3Q", view[:24]), view[130]) == ((2048, 2048, 2048), 9)
    nguid = bytes(view[104:120])
    assert any(nguid)
    admin(IDENTIFY, 1, memory.iova, 3)
    assert bytes(view[:24]) == b"\x02\x10\0\0" + nguid + bytes(4)
    for after, expected in ((0, 1), (1, 0)):
        admin(IDENTIFY, after, memory.iova, 2)
        assert struct.unpack("<2I", view[:8]) == (expected, 0)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ((0x7F,), 0x01),
        ((IDENTIFY, 0, 0x10000, 0x10), 0x02),
        ((IDENTIFY, 2, 0x10000, 0), 0x0B),
        ((IDENTIFY, 0xFFFFFFFF, 0x10000, 2), 0x0B),
        ((IDENTIFY, 0, 0x10002, 1), 0x13),
        ((GET_LOG_PAGE, 0, 0x10000, 0x7F), 0x109),
        ((SET_FEATURES, 0, 0, 0x7E), 0x02),
        ((SET_FEATURES, 0, 0, 1 << 31 | 6, 1), 0x10D),
        ((SET_FEATURES, 0, 0, 7, 0xFFFF), 0x02),
        ((SET_FEATURES, 0, 0, 9, 5), 0x02),
        ((GET_FEATURES, 0, 0, 3 << 8 | 6), 0x02),
        ((DELETE_SQ, 0, 0, 0), 0x101),
        ((DELETE_CQ, 0, 0, 9), 0x101),
        ((CREATE_CQ, 0, 0x10000, 63 << 16, 1), 0x101),
        ((CREATE_CQ, 0, 0x10000, 63 << 16 | 65, 1), 0x101),
        ((CREATE_CQ, 0, 0x10000, 1, 1), 0x102),
        ((CREATE_CQ, 0, 0x10000, 2048 << 16 | 1, 1), 0x102),
        ((CREATE_CQ, 0, 0x10000, 63 << 16 | 1, 0), 0x02),
        ((CREATE_CQ, 0, 0x10800, 63 << 16 | 1, 1), 0x13),
        ((CREATE_CQ, 0, 0x10000, 63 << 16 | 1, 5 << 16 | 3), 0x108),
        ((CREATE_SQ, 0, 0x10000, 63 << 16 | 1, 1 << 16 | 1), 0x100),
        ((CREATE_SQ, 0, 0x10000, 63 << 16 | 1, 1), 0x100),
    ],
)
def test_admin_commands_that_are_refused(disk: Device, admin: Run, command: tuple[int, ...], status: int) -> None:
    with refused(status):
        admin(*command)
    assert admin(GET_FEATURES, 0, 0, 6) == 1  # the controller still works


def test_sgls_and_fused_commands_are_refused(nvme: Nvme, admin: Run) -> None:
    for flags in 1 << 8, 1 << 14:
        with refused(0x02):
            admin(GET_FEATURES | flags, 0, 0, 6)


def test_queues_come_round(admin: Run) -> None:
    for value in range(200):
        admin(SET_FEATURES, 0, 0, 1, value)
        assert admin(GET_FEATURES, 0, 0, 1) == value


def test_features_hold_what_is_set_until_a_reset(nvme: Nvme, admin: Run) -> None:
    assert admin(SET_FEATURES, 0, 0, 7, 0x0003_0003) == 0x0003_0003
    assert admin(GET_FEATURES, 0, 0, 7) == 0x0003_0003
    assert admin(SET_FEATURES, 0, 0, 7, 200 << 16 | 200) == 63 << 16 | 63
    admin(SET_FEATURES, 0, 0, 6, 0)
    assert admin(GET_FEATURES, 0, 0, 6) == 0
    admin(SET_FEATURES, 0, 0, 9, 1 << 16 | 2)
    assert [admin(GET_FEATURES, 0, 0, 9, vector) for vector in (1, 2)] == [1, 1 << 16 | 2]
    admin(SET_FEATURES, 0, 0, 4, 1 << 20 | 300)
    assert [admin(GET_FEATURES, 0, 0, 4, which << 20) for which in (0, 1)] == [343, 1 << 20 | 300]


def test_the_number_of_queues_is_kept(nvme: Nvme, admin: Run) -> None:
    admin(SET_FEATURES, 0, 0, 7, 0)
    with refused(0x101):
        admin(CREATE_CQ, 0, 0x10000, 63 << 16 | 2, 1)
    nvme.namespace()
    with refused(0x0C):
        admin(SET_FEATURES, 0, 0, 7, 3 << 16 | 3)


def test_queues_are_deleted_in_order(nvme: Nvme, admin: Run, memory: Mapping) -> None:
    disk = nvme.namespace()
    with refused(0x101):
        admin(CREATE_SQ, 0, memory.iova, 63 << 16 | 1, 1 << 16 | 1)
    with refused(0x10C):
        admin(DELETE_CQ, 0, 0, 1)
    admin(DELETE_SQ, 0, 0, 1)
    admin(DELETE_CQ, 0, 0, 1)
    with refused(0x101):
        admin(DELETE_CQ, 0, 0, 1)
    # The doorbell of a deleted queue has no effect.
    nvme.registers.write32(disk.queue._tail, 1)
    assert not any(disk.queue._completed)


def test_log_pages(disk: Device, nvme: Nvme, admin: Run, memory: Mapping) -> None:
    nvme.namespace().write(0, memory.iova, 8)
    view = memory.buffer.view
    admin(GET_LOG_PAGE, 0xFFFFFFFF, memory.iova, 127 << 16 | 2)
    assert int.from_bytes(view[1:3], "little") == 323
    units_read, units_written, reads, writes = (int.from_bytes(view[at : at + 16], "little") for at in (32, 48, 64, 80))
    assert (units_read, units_written, reads, writes) == (0, 1, 0, 1)
    admin(GET_LOG_PAGE, 0, memory.iova, 127 << 16 | 3)
    assert (view[0], bytes(view[8:17])) == (1, b"pyvfio  \0")
    admin(GET_LOG_PAGE, 0, memory.iova, 1023 << 16 | 5)
    effects = struct.unpack("<512I", view[:2048])
    assert [n for n in range(256) if effects[n]] == [0, 1, 2, 4, 5, 6, 8, 9, 10, 12]
    assert {n: effects[256 + n] for n in range(256) if effects[256 + n]} == {0: 1, 1: 3, 2: 1, 8: 3, 9: 3}
    admin(GET_LOG_PAGE, 0, memory.iova, 1 << 16 | 5, 0, 1024)  # from an offset
    assert struct.unpack("<2I", view[:8]) == (1, 3)


# --- events and aborts ----------------------------------------------------------------------------------------------------


class Events:
    """A user of the admin queue that does not wait for completions."""

    def __init__(self, nvme: Nvme) -> None:
        self._nvme, self._queue = nvme, nvme._admin
        self._sent = self._seen = 0

    def submit(self, opcode: int, id_: int, word: int = 0) -> None:
        page = self._queue.pages
        COMMAND.pack_into(self._queue._submitted, 64 * self._sent, opcode | id_ << 16, 0, 0, 0, page, 0, word, 0, 0)
        self._sent += 1
        self._nvme.registers.write32(DOORBELLS, self._sent)

    def completed(self) -> list[tuple[int, int, int]]:
        """Return result, identifier and status of the new completions."""
        view = self._queue.memory.buffer.view[PAGE : 2 * PAGE]
        found = []
        while (entry := struct.unpack_from("<IIHHHH", view, 16 * self._seen))[5] & 1:
            found.append((entry[0], entry[4], entry[5] >> 1))
            self._seen += 1
        self._nvme.registers.write32(DOORBELLS + 4, self._seen)
        return found


def test_an_invalid_doorbell_is_an_event(nvme: Nvme) -> None:
    events = Events(nvme)
    events.submit(EVENT_REQUEST, 7)
    assert events.completed() == []
    nvme.registers.write32(DOORBELLS + 8 * 5, 1)  # the doorbell of a queue that does not exist
    assert events.completed() == [(1 << 16, 7, 0)]
    # The next event of that type is reported after the log page has been read, and with a new request.
    nvme.registers.write32(DOORBELLS, 64)
    events.submit(EVENT_REQUEST, 8)
    assert events.completed() == []
    events.submit(GET_LOG_PAGE, 9, 15 << 16 | 1)
    events.completed()
    nvme.registers.write32(DOORBELLS, 64)
    assert events.completed() == [(1 << 16 | 1 << 8, 8, 0)]


def test_an_event_waits_for_room(nvme: Nvme, disk: Device) -> None:
    events = Events(nvme)
    events.submit(EVENT_REQUEST, 62)
    for id_ in range(63):
        COMMAND.pack_into(
            nvme._admin._submitted, 64 * ((id_ + 1) % 64), GET_FEATURES | id_ << 16, 0, 0, 0, 0, 0, 6, 0, 0
        )
    nvme.registers.write32(DOORBELLS, 0)  # all but the first: the completion queue is full
    nvme.registers.write32(DOORBELLS + 8 * 5, 1)
    assert len(events.completed()) == 63
    # The next completion is the first of the second round, in which the phase bit is 0.
    assert struct.unpack_from("<IIHHHH", nvme._admin.memory.buffer.view, PAGE + 16 * 63)[:1] == (1 << 16,)


def test_requests_for_events_are_limited_and_can_be_aborted(nvme: Nvme) -> None:
    events = Events(nvme)
    for id_ in range(5):
        events.submit(EVENT_REQUEST, id_)
    assert events.completed() == [(0, 4, 0x105 | DO_NOT_RETRY)]
    events.submit(ABORT, 20, 2 << 16)
    assert events.completed() == [(0, 2, 0x007), (0, 20, 0)]
    events.submit(ABORT, 21, 2 << 16)
    assert events.completed() == [(1, 21, 0)]


# --- interrupts -----------------------------------------------------------------------------------------------------------


def test_a_vector_for_each_queue(disk: Device, nvme: Nvme, memory: Mapping) -> None:
    vectors = disk.irqs.msix.enable([0, 1, 2])
    one, two = nvme.namespace(1, vectors[1]), nvme.namespace(1, vectors[2])
    assert vectors[0].wait(1) == 6  # the admin queue: 2 queues of each kind, and 2 identifications
    one.read(0, memory.iova)
    two.read(0, memory.iova)
    assert (one.queue.interrupts, two.queue.interrupts) == (1, 1)


def test_intx_stays_until_the_completion_is_taken(model: devices.Nvme, disk: Device, nvme: Nvme) -> None:
    (vector,) = disk.irqs.intx.enable()
    events = Events(nvme)
    events.submit(GET_FEATURES, 1, 6)
    vector.wait(1)
    assert model.irqs.asserted
    nvme.registers.write32(0x0C, 1)  # masked
    assert not model.irqs.asserted
    nvme.registers.write32(0x10, 1)
    assert model.irqs.asserted
    assert nvme.registers.read32(0x0C) == 0
    events.completed()
    assert not model.irqs.asserted


# --- I/O commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def blocks(nvme: Nvme) -> Namespace:
    return nvme.namespace()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ((COMPARE, 1, 0x10000), 0x01),
        ((READ, 2, 0x10000), 0x0B),
        ((READ, 0xFFFFFFFF, 0x10000), 0x0B),
        ((READ, 1, 0x10000, 0, 2048), 0x80),
        ((WRITE, 1, 0x10000, 0, 2047, 0, 1), 0x80),
        ((WRITE_ZEROES, 1, 0, 0, 0, 1), 0x80),
        ((READ, 1, 0x10000, 0, 0, 0, 1024), 0x02),
        ((READ, 1, 0x10000, 0x20800, 0, 0, 15), 0x13),
        ((READ, 1, 0x10000, 0x20004, 0, 0, 23), 0x13),
    ],
)
def test_io_commands_that_are_refused(
    blocks: Namespace, memory: Mapping, command: tuple[int, ...], status: int
) -> None:
    with refused(status):
        blocks.queue.run(*command)
    blocks.read(0, memory.iova)


def test_blocks_become_zeros(model: devices.Nvme, blocks: Namespace, memory: Mapping) -> None:
    model.storage[: 8 * 512] = b"\xff" * 8 * 512
    blocks.queue.run(WRITE_ZEROES, 1, 0, 0, 1, 0, 1)
    assert [any(model.storage[512 * n : 512 * (n + 1)]) for n in range(8)] == [True, *[False] * 2, *[True] * 5]
    struct.pack_into("<IIQIIQ", memory.buffer.view, 0, 0, 1, 4, 0, 2, 6)
    blocks.queue.run(DATASET_MANAGEMENT, 1, memory.iova, 0, 1, 1 << 2)
    assert [any(model.storage[512 * n : 512 * (n + 1)]) for n in range(8)] == [
        True, False, False, True, False, True, False, False,
    ]  # fmt: skip
    blocks.queue.run(FLUSH, 0xFFFFFFFF, 0)


def test_a_list_of_several_pages_is_followed(model: devices.Nvme, blocks: Namespace, memory: Mapping) -> None:
    """A PRP list that begins 16 bytes before the end of its page has one entry and a pointer to the list's next page there."""
    pages = [memory.iova + PAGE * n for n in (9, 4, 7, 5)]
    lists = memory.buffer.view[PAGE * 20 : PAGE * 22].cast("Q")
    lists[510], lists[511] = pages[1], memory.iova + PAGE * 21
    lists[512], lists[513] = pages[2], pages[3]
    data = os.urandom(4 * PAGE)
    for index, page in enumerate(pages):
        at = page - memory.iova
        memory.buffer.view[at : at + PAGE] = data[index * PAGE : (index + 1) * PAGE]
    blocks.queue.run(WRITE, 1, pages[0], memory.iova + PAGE * 20 + 510 * 8, 0, 0, 31)
    assert model.storage[: 4 * PAGE] == data
    # A list whose pointer leads into the middle of a page is refused.
    lists[511] = memory.iova + PAGE * 20 + 511 * 8
    with refused(0x13):
        blocks.queue.run(WRITE, 1, pages[0], memory.iova + PAGE * 20 + 510 * 8, 0, 0, 31)


def test_completions_wait_for_room(nvme: Nvme, admin: Run, memory: Mapping) -> None:
    """A completion queue of 2 entries has room for one completion: the second command completes after the first is consumed."""
    admin(CREATE_CQ, 0, memory.iova, 1 << 16 | 9, 1)
    admin(CREATE_SQ, 0, memory.iova + PAGE, 7 << 16 | 9, 9 << 16 | 1)
    view = memory.buffer.view
    for at in range(2):
        COMMAND.pack_into(view, PAGE + 64 * at, FLUSH | at + 1 << 16, 1, 0, 0, 0, 0, 0, 0, 0)
    nvme.registers.write32(DOORBELLS + 8 * 9, 2)
    identifiers = [struct.unpack_from("<IIHHHH", view, 16 * at)[4] for at in range(2)]
    assert identifiers == [1, 0]
    nvme.registers.write32(DOORBELLS + 8 * 9 + 4, 1)
    identifiers = [struct.unpack_from("<IIHHHH", view, 16 * at)[4] for at in range(2)]
    assert identifiers == [1, 2]


# --- making one -----------------------------------------------------------------------------------------------------------


def test_its_blocks_can_be_a_file(kernel: mock.Kernel, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("w+b") as file:
        file.truncate(1 << 16)
        storage = mmap(file.fileno(), 1 << 16)
        devices.Nvme(kernel, ADDRESS, storage=storage, block_size=4096, driver="vfio-pci")
        with pyvfio.open(ADDRESS, kernel=kernel) as device, Nvme(device) as nvme:
            blocks = nvme.namespace()
            assert (blocks.blocks, blocks.block_size) == (16, 4096)
            memory = device.address_space.alloc(PAGE)
            memory.buffer.view[:] = data = os.urandom(PAGE)
            blocks.write(3, memory.iova)
        file.seek(3 * PAGE)
        assert file.read(PAGE) == data


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"block_size": 513}, "block_size=513: must be 512 or 4096"),
        ({"storage": bytearray(1000)}, "1000 bytes are not a number of blocks of 512"),
        ({"size": 0}, "0 bytes are not"),
        ({"serial": "x" * 21}, "at most 20 ASCII"),
    ],
)
def test_an_impossible_disk_is_refused(kernel: mock.Kernel, more: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        devices.Nvme(kernel, ADDRESS, **more)
    assert ADDRESS not in kernel.devices


def test_registers_are_read_by_every_width(model: devices.Nvme) -> None:
    plain = {0x00: 0, 0x04: 0, 0x08: 0x00010400, 0x0C: 5, 0x10: 5, 0x14: 0, 0x18: 0, 0x1C: 0, 0x24: 0x001F003F, 0x28: 0x11223000, 0x2C: 0x44, 0x30: 0x55667000,
             0x34: 0x77}  # fmt: skip
    for offset in (0x0C, 0x24):
        model.write(0, offset, 4, plain[offset])
    model.write(0, 0x28, 8, 0x4411223000)
    model.write(0, 0x30, 8, 0x7755667000)
    del plain[0x00], plain[0x04]  # the limits, which other tests look at
    for offset, value in plain.items():
        assert model.read(0, offset, 4) == value, hex(offset)
        assert [model.read(0, offset + at, 1) for at in range(4)] == list(value.to_bytes(4, "little")), hex(offset)
        assert [model.read(0, offset + at, 2) for at in (0, 2)] == [value & 0xFFFF, value >> 16], hex(offset)
    assert (model.read(0, 0x28, 8), model.read(0, 0x30, 8)) == (0x4411223000, 0x7755667000)
    assert model.read(0, 0x00, 8) == model.read(0, 0x00, 4) | model.read(0, 0x04, 4) << 32
    assert model.read(0, 0x20, 4) == 0
    for offset in (0x38, 0xFF8, 0x1000, 0x1004, 0x1FF8):
        assert [model.read(0, offset, width) for width in (1, 2, 4, 8)] == [0] * 4, hex(offset)
    model.write(0, 0x10, 4, 1)
    assert (model.read(0, 0x0C, 4), model.read(0, 0x10, 4)) == (4, 4)
    for width in (1, 2):  # narrower writes do nothing
        model.write(0, 0x0C, width, 0x3)
    assert model.read(0, 0x0C, 4) == 4
