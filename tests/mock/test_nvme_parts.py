# SPDX-License-Identifier: MIT
"""The parts of the NVMe model: every byte of its data structures, PRP entries, queue entries, and each limit of its commands."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest

from pyvfio import mock
from pyvfio.mock import devices
from pyvfio.mock.devices.nvme import prp, structures
from pyvfio.mock.devices.nvme.queue import Command, CompletionQueue, SubmissionQueue
from pyvfio.mock.devices.nvme.status import CommandError, Status

PAGE = 4096
DELETE_SQ, CREATE_SQ, GET_LOG_PAGE, DELETE_CQ, CREATE_CQ, IDENTIFY, ABORT = 0, 1, 2, 4, 5, 6, 8
SET_FEATURES, GET_FEATURES, EVENT_REQUEST = 9, 10, 12
FLUSH, WRITE, READ, WRITE_ZEROES, DATASET_MANAGEMENT = 0, 1, 2, 8, 9


def laid_out(size: int, *parts: tuple[int, bytes]) -> bytes:
    """Return `size` bytes: the parts at their offsets, and zeros."""
    data = bytearray(size)
    for at, part in parts:
        data[at : at + len(part)] = part
    return bytes(data)


# --- data structures ------------------------------------------------------------------------------------------------------


def test_the_whole_identification_of_the_controller() -> None:
    found = structures.controller((0x1B36, 0x0010), (0x1AF4, 0x1100), 0x10400, ("serial", "a model", "firmware"))
    assert found == laid_out(
        4096, (0, b"\x36\x1b\xf4\x1a"), (4, b"serial".ljust(20)), (24, b"a model".ljust(40)), (64, b"firmware"), (72, b"\x06"),
        (77, b"\x07"), (80, b"\0\x04\x01\0"), (111, b"\x01"), (258, b"\x03\x03\x03\x06"), (266, struct.pack("<HH", 343, 373)),
        (512, b"\x66\x44"), (516, b"\x01"), (520, b"\x0c"), (525, b"\x01"), (768, b"nqn.2026-01.mock.pyvfio:serial"),
    )  # fmt: skip


def test_texts_are_cut_to_their_room() -> None:
    found = structures.controller((0, 0), (0, 0), 0, ("s" * 30, "m" * 50, "f" * 10))
    assert found[:72] == bytes(4) + b"s" * 20 + b"m" * 40 + b"f" * 8


@pytest.mark.parametrize(("block_size", "shift"), [(512, 9), (4096, 12)])
def test_the_whole_identification_of_the_namespace(block_size: int, shift: int) -> None:
    nguid = bytes(range(1, 17))
    size = struct.pack("<Q", 0x123456789)
    assert structures.namespace(0x123456789, block_size, nguid) == laid_out(
        4096, (0, size), (8, size), (16, size), (104, nguid), (130, bytes([shift]))
    )


def test_lists_of_namespaces_and_descriptors_are_padded() -> None:
    assert structures.namespace_list([]) == bytes(4096)
    assert structures.namespace_list([1, 0x01020304]) == laid_out(4096, (0, b"\x01\0\0\0\x04\x03\x02\x01"))
    nguid = structures.identifier("a disk")
    assert nguid == hashlib.blake2b(b"a disk", digest_size=16).digest()
    assert structures.descriptors(nguid) == laid_out(4096, (0, b"\x02\x10\0\0"), (4, nguid))


@pytest.mark.parametrize(
    ("size", "units"), [(0, 0), (1, 1), (511_999, 1), (512_000, 1), (512_001, 2), (1 << 50, 2199023256)]
)
def test_the_whole_health_page(size: int, units: int) -> None:
    numbers = [(n).to_bytes(16, "little") for n in (units, 7, 3, 1 << 70)]
    assert structures.health((size, 3), (7 * 512_000, 1 << 70)) == laid_out(
        512, (1, struct.pack("<H", 323)), (3, b"\x64\x0a"), (32, numbers[0]), (48, numbers[1]), (64, numbers[2]), (80, numbers[3])
    )  # fmt: skip


def test_the_whole_firmware_and_effects_pages() -> None:
    assert structures.firmware_slots("1.0") == laid_out(512, (0, b"\x01"), (8, b"1.0     "))
    admin = [(4 * opcode, b"\x01") for opcode in (0, 1, 2, 4, 5, 6, 8, 9, 10, 12)]
    commands = [(1024 + 4 * opcode, bytes([effect])) for opcode, effect in ((0, 1), (1, 3), (2, 1), (8, 3), (9, 3))]
    assert structures.effects() == laid_out(4096, *admin, *commands)


def test_status_codes_are_the_specifications() -> None:
    assert {one.name: one.value for one in Status} == {
        "SUCCESS": 0, "INVALID_OPCODE": 1, "INVALID_FIELD": 2, "ABORT_REQUESTED": 7, "INVALID_NAMESPACE": 0xB, "SEQUENCE_ERROR": 0xC,
        "PRP_OFFSET_INVALID": 0x13, "LBA_OUT_OF_RANGE": 0x80, "COMPLETION_QUEUE_INVALID": 0x100, "INVALID_QUEUE": 0x101,
        "INVALID_QUEUE_SIZE": 0x102, "TOO_MANY_EVENT_REQUESTS": 0x105, "INVALID_VECTOR": 0x108, "INVALID_LOG_PAGE": 0x109,
        "INVALID_QUEUE_DELETION": 0x10C, "FEATURE_NOT_SAVEABLE": 0x10D, "FEATURE_NOT_CHANGEABLE": 0x10E,
    }  # fmt: skip


# --- PRP entries ----------------------------------------------------------------------------------------------------------

LISTS = 0x100000


def lists(*entries: tuple[int, int]) -> bytearray:
    """Return the memory from LISTS on: entries (index of the word of 64 bits, value)."""
    memory = bytearray(4 * PAGE)
    for index, value in entries:
        struct.pack_into("<Q", memory, 8 * index, value)
    return memory


def pieces(first: int, second: int, size: int, memory: bytearray, page: int = PAGE) -> list[tuple[int, int]]:
    return prp.pieces(first, second, size, page, lambda at, count: bytes(memory[at - LISTS : at - LISTS + count]))


@pytest.mark.parametrize(
    ("first", "second", "size", "found"),
    [
        (0x1000, 1, 1, [(0x1000, 1)]),
        (0x1000, 1, PAGE, [(0x1000, PAGE)]),  # the second entry is not used
        (0x1004, 1, PAGE - 4, [(0x1004, PAGE - 4)]),
        (0x1004, 0x8000, PAGE - 3, [(0x1004, PAGE - 4), (0x8000, 1)]),
        (0x1000, 0x8000, 2 * PAGE, [(0x1000, PAGE), (0x8000, PAGE)]),
        (0x1800, 0x8000, PAGE + 0x800, [(0x1800, 0x800), (0x8000, PAGE)]),
        (0x1000, 0x2000, 2 * PAGE, [(0x1000, 2 * PAGE)]),  # contiguous pages are one piece
        (0x1000, LISTS, 2 * PAGE + 1, [(0x1000, PAGE), (0x20000, PAGE), (0x30000, 1)]),
        (0x1800, LISTS, 3 * PAGE + 0x800, [(0x1800, 0x800), (0x20000, PAGE), (0x30000, PAGE), (0x50000, PAGE)]),
        (0x1800, LISTS, 4 * PAGE, [(0x1800, 0x800), (0x20000, PAGE), (0x30000, PAGE), (0x50000, PAGE + 0x800)]),
    ],
)
def test_pieces_of_a_commands_memory(first: int, second: int, size: int, found: list[tuple[int, int]]) -> None:
    memory = lists((0, 0x20000), (1, 0x30000), (2, 0x50000), (3, 0x51000))
    assert pieces(first, second, size, memory) == found


def test_pieces_have_the_controllers_page_size() -> None:
    assert pieces(0x11000, 0x20000, 0x6000, lists(), 0x4000) == [(0x11000, 0x3000), (0x20000, 0x3000)]


@pytest.mark.parametrize(
    ("start", "pages"), [(0, 512), (0, 513), (0, 1023), (0, 1024), (1, 511), (1, 512), (511, 2), (510, 2), (510, 3)]
)
def test_the_last_entry_of_a_full_page_of_a_list_points_on(start: int, pages: int) -> None:
    """A list of `pages` entries that begins `start` entries into its page. If it does not fit there, it goes on in the next page."""
    wanted = [0x1000000 + 0x2000 * n for n in range(pages)]
    memory, at, left = lists(), start, wanted
    while left:
        room = 512 - at % 512
        here = left if len(left) <= room else [*left[: room - 1], LISTS + PAGE * (at // 512 + 1)]
        struct.pack_into(f"<{len(here)}Q", memory, 8 * at, *here)
        left = [] if len(left) <= room else left[room - 1 :]
        at = (at // 512 + 1) * 512
    found = pieces(0x1000, LISTS + 8 * start, (pages + 1) * PAGE, memory)
    assert found == [(0x1000, PAGE), *((one, PAGE) for one in wanted)]


@pytest.mark.parametrize(
    ("first", "second", "size", "words"),
    [
        (0x1002, 0, 1, ()),
        (0x1001, 0, 1, ()),
        (0x1000, 0x8004, PAGE + 1, ()),
        (0x1000, 0x8800, 2 * PAGE, ()),
        (0x1000, LISTS + 4, 2 * PAGE + 1, ()),
        (0x1000, LISTS, 3 * PAGE, ((0, 0x20000), (1, 0x30800))),
        (0x1000, LISTS, 3 * PAGE, ((0, 0x20008), (1, 0x30000))),
        (0x1000, LISTS + 511 * 8, 3 * PAGE, ((511, LISTS + 0x1008),)),
    ],
)
def test_misaligned_entries_are_refused(first: int, second: int, size: int, words: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(CommandError) as caught:
        pieces(first, second, size, lists(*words))
    assert caught.value.status == Status.PRP_OFFSET_INVALID


# --- queues ---------------------------------------------------------------------------------------------------------------


def test_a_command_is_decoded_field_by_field() -> None:
    data = bytes(range(1, 65))
    numbers = [int.from_bytes(data[at : at + size], "little") for at, size in (
        (0, 1), (1, 1), (2, 2), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 4), (52, 4), (56, 4), (60, 4),
    )]  # fmt: skip
    assert Command.unpack(data) == Command(*numbers)
    assert Command._fields[-8:] == ("first", "second", "w10", "w11", "w12", "w13", "w14", "w15")


def test_a_completion_is_encoded_field_by_field() -> None:
    completions = CompletionQueue(2, 0, 4, None)
    queue = SubmissionQueue(0x0708, 0, 16, completions, head=0x0506)
    assert queue.completion(0x0910, 0x01020304, 0x4002) == struct.pack(
        "<IIHHHH", 0x01020304, 0, 0x0506, 0x0708, 0x0910, 0x8005
    )
    completions.phase = 0
    assert queue.completion(0, 0, 0x4002)[14:] == b"\x04\x80"


def test_a_completion_queue_comes_round() -> None:
    queue = CompletionQueue(1, 0, 3, 0)
    seen = []
    for _ in range(7):
        seen.append((queue.tail, queue.phase, queue.full, queue.pending))
        queue.advance()
    assert [one[:2] for one in seen] == [(0, 1), (1, 1), (2, 1), (0, 0), (1, 0), (2, 0), (0, 1)]
    assert [one[2:] for one in seen[:3]] == [(False, False), (False, True), (True, True)]


# --- commands -------------------------------------------------------------------------------------------------------------


class Bench(devices.Nvme):
    """A disk whose DMA goes to a buffer and whose interrupts are recorded. It has the admin queues at 0 and 0x1000."""

    def __init__(self, kernel: mock.Kernel, **more: Any) -> None:
        self.ram = bytearray(1 << 20)
        self.sent: list[int] = []
        self.calmed = 0
        self.master = True
        super().__init__(kernel, "0000:00:0a.0", **more)
        self.write(0, 0x24, 4, 31 << 16 | 31)
        self.write(0, 0x30, 4, 0x1000)
        self.write(0, 0x14, 4, 0x460001)
        self.submitted = self.completed = 0

    @property
    def bus_master(self) -> bool:
        return self.master

    def dma_read(self, iova: int, size: int) -> bytes:
        return bytes(self.ram[iova : iova + size])

    def dma_write(self, iova: int, data: bytes) -> None:
        self.ram[iova : iova + len(data)] = data

    def interrupt(self, vector: int = 0) -> None:
        self.sent.append(vector)

    def deassert(self) -> None:
        self.calmed += 1

    def put(
        self,
        opcode: int,
        namespace: int = 0,
        first: int = 0x4000,
        second: int = 0,
        *words: int,
        flags: int = 0,
        id_: int = 5,
    ) -> None:
        """Put a command into the admin queue."""
        more = (*words, *[0] * (6 - len(words)))
        struct.pack_into(
            "<BBHIQQQQ6I",
            self.ram,
            64 * (self.submitted % 32),
            opcode,
            flags,
            id_,
            namespace,
            0,
            0,
            first,
            second,
            *more,
        )
        self.submitted += 1

    def run(self, opcode: int, namespace: int = 0, first: int = 0x4000, *words: int, flags: int = 0) -> tuple[int, int]:
        """Run an admin command; return its result and its status, without DNR."""
        self.put(opcode, namespace, first, 0, *words, flags=flags)
        self.write(0, 0x1000, 4, self.submitted % 32)
        result, _, head, queue, id_, status = struct.unpack_from(
            "<IIHHHH", self.ram, 0x1000 + 16 * (self.completed % 32)
        )
        assert (head, queue, id_) == (self.submitted % 32, 0, 5)
        assert status & 1 == (self.completed // 32 + 1) % 2
        assert bool(status >> 15) == bool(status >> 1 & 0x3FFF), "an error has Do Not Retry"
        self.completed += 1
        self.write(0, 0x1004, 4, self.completed % 32)
        return result, status >> 1 & 0x3FFF


@pytest.fixture
def disk() -> Bench:
    return Bench(mock.Kernel("amd"), size=4 << 20)


def test_the_limits_of_the_controller(disk: Bench) -> None:
    # MQES 2047, CQR, TO 15 of 500 ms, DSTRD 0, CSS NVM, MPSMIN 4 KiB, MPSMAX 64 KiB
    assert disk.read(0, 0, 8) == 2047 | 1 << 16 | 15 << 24 | 1 << 37 | 4 << 52
    assert disk.function.bars == {0: mock.Bar(1 << 14, wide=True)}
    function = disk.function
    assert (function.ids, function.class_code, function.revision) == ((0x1B36, 0x10), 0x010802, 2)
    assert (function.msix, function.table, function.pending) == (5, (0, 0x2000), (0, 0x3000))
    assert (function.intx, function.express, function.reset_methods) == (True, True, ("flr",))
    assert (function.virtual, function.virtual_device, function.virtual_at) == (2, 0x10, (1, 1))


@pytest.mark.parametrize(
    ("offset", "kept"),
    [(0x24, 0x0FFF0FFF), (0x28, 0xFFFFF000), (0x2C, 0xFFFFFFFF), (0x30, 0xFFFFF000), (0x34, 0xFFFFFFFF), (0x0C, 0xFFFFFFFF), (0x00, None), (0x08, None),
     (0x1C, None), (0x18, None), (0x20, None), (0x38, None)],
)  # fmt: skip
def test_registers_store_their_bits(disk: Bench, offset: int, kept: int | None) -> None:
    before = [disk.read(0, at, 4) for at in range(0, 0x40, 4)]
    disk.write(0, offset, 4, 0xFFFFFFFF)
    after = [disk.read(0, at, 4) for at in range(0, 0x40, 4)]
    expected = list(before)
    if kept is not None:
        expected[offset // 4] = kept
        if offset == 0x0C:
            expected[0x10 // 4] = kept
    assert after == expected
    disk.write(0, offset, 4, 0)
    if kept is not None and offset != 0x0C:
        assert disk.read(0, offset, 4) == 0


@pytest.mark.parametrize(
    ("configuration", "status"),
    [(0x460001, 1), (0x464001, 9), (0x468001, 9), (0x46C001, 9), (0x460000, 0), (0x464000, 8), (0x460201, 1), (0x460281, 2), (0x460081, 1),
     (0x460011, 2), (0x460021, 2), (0x460041, 2), (0x450001, 2), (0x470001, 2), (0x360001, 2), (0x560001, 2)],
)  # fmt: skip
def test_status_after_a_configuration(disk: Bench, configuration: int, status: int) -> None:
    disk.write(0, 0x14, 4, 0)
    assert disk.read(0, 0x1C, 4) == 0
    disk.write(0, 0x14, 4, configuration)
    assert (disk.read(0, 0x14, 4), disk.read(0, 0x1C, 4)) == (configuration, status)


def test_a_shutdown_that_is_taken_back_is_not_reported(disk: Bench) -> None:
    for configuration, status in (0x464001, 9), (0x460001, 1):
        disk.write(0, 0x14, 4, configuration)
        assert disk.read(0, 0x1C, 4) == status
    assert disk.run(GET_FEATURES, 0, 0, 6) == (1, 0), "the queues are still there"


@pytest.mark.parametrize(("sizes", "status"), [(1 << 16 | 1, 1), (1, 2), (1 << 16, 2), (0xFFF0FFF, 1)])
def test_admin_queues_have_two_entries_at_least(disk: Bench, sizes: int, status: int) -> None:
    disk.write(0, 0x14, 4, 0)
    disk.write(0, 0x24, 4, sizes)
    disk.write(0, 0x14, 4, 0x460001)
    assert disk.read(0, 0x1C, 4) == status


WORKS = 0
CONTIGUOUS, INTERRUPTS = 1, 2


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ((CREATE_CQ, 0, 0x8000, 1 << 16 | 64, CONTIGUOUS), WORKS),
        ((CREATE_CQ, 0, 0x8000, 1 << 16 | 65, CONTIGUOUS), 0x101),
        ((CREATE_CQ, 0, 0x8000, 1 << 16 | 0, CONTIGUOUS), 0x101),
        ((CREATE_CQ, 0, 0x8000, 2047 << 16 | 1, CONTIGUOUS), WORKS),
        ((CREATE_CQ, 0, 0x8000, 2048 << 16 | 1, CONTIGUOUS), 0x102),
        ((CREATE_CQ, 0, 0x8000, 1, CONTIGUOUS), 0x102),
        ((CREATE_CQ, 0, 0x8000, 1 << 16 | 1, 4 << 16 | CONTIGUOUS | INTERRUPTS), WORKS),
        ((CREATE_CQ, 0, 0x8000, 1 << 16 | 1, 5 << 16 | CONTIGUOUS | INTERRUPTS), 0x108),
        ((CREATE_CQ, 0, 0x8000, 1 << 16 | 1, INTERRUPTS), 0x02),
        ((CREATE_CQ, 0, 0x8800, 1 << 16 | 1, CONTIGUOUS), 0x13),
        ((CREATE_SQ, 0, 0x8000, 1 << 16 | 1, 2 << 16 | CONTIGUOUS), 0x100),
        ((CREATE_SQ, 0, 0x8000, 1 << 16 | 1, CONTIGUOUS), 0x100),
        ((DELETE_SQ, 0, 0, 0), 0x101),
        ((DELETE_SQ, 0, 0, 1), 0x101),
        ((DELETE_CQ, 0, 0, 0), 0x101),
        ((DELETE_CQ, 0, 0, 1), 0x101),
        ((0x03,), 0x01),
        ((0x07,), 0x01),
        ((0x0B,), 0x01),
        ((0x0D,), 0x01),
        ((0x80, 1), 0x01),
        ((IDENTIFY, 0, 0x4000, 0), 0x0B),
        ((IDENTIFY, 1, 0x4000, 0), WORKS),
        ((IDENTIFY, 0xFFFFFFFF, 0x4000, 0), 0x0B),
        ((IDENTIFY, 0, 0x4000, 0x10001), WORKS),
        ((IDENTIFY, 0xFFFFFFFD, 0x4000, 2), WORKS),
        ((IDENTIFY, 0xFFFFFFFE, 0x4000, 2), 0x0B),
        ((IDENTIFY, 0, 0x4000, 3), 0x0B),
        ((IDENTIFY, 2, 0x4000, 3), 0x0B),
        ((IDENTIFY, 0, 0x4000, 4), 0x02),
        ((IDENTIFY, 0, 0x4000, 5), 0x02),
        ((IDENTIFY, 0, 0x4000, 6), WORKS),
        ((IDENTIFY, 0, 0x4000, 6, 0x00FFFFFF), WORKS),
        ((IDENTIFY, 0, 0x4000, 6, 1 << 24), 0x02),
        ((IDENTIFY, 0, 0x4000, 7), 0x02),
        ((SET_FEATURES, 0, 0, 7, 0xFFFE), WORKS),
        ((SET_FEATURES, 0, 0, 7, 0xFFFF), 0x02),
        ((SET_FEATURES, 0, 0, 7, 0xFFFF << 16), 0x02),
        ((SET_FEATURES, 0, 0, 9, 4), WORKS),
        ((SET_FEATURES, 0, 0, 9, 5), 0x02),
        ((SET_FEATURES, 0, 0, 6 | 1 << 30, 1), WORKS),
        ((SET_FEATURES, 0, 0, 6 | 1 << 31, 1), 0x10D),
        ((SET_FEATURES, 0, 0, 6 | 7 << 8, 1), WORKS),
        ((SET_FEATURES, 0, 0, 0, 1), 0x02),
        ((SET_FEATURES, 0, 0, 3, 1), 0x02),
        ((SET_FEATURES, 0, 0, 12, 1), 0x02),
        ((GET_FEATURES, 0, 0, 12), 0x02),
        ((GET_FEATURES, 0, 0, 6 | 1 << 8), 0x02),
        ((GET_FEATURES, 0, 0, 6 | 4 << 8), 0x02),
        ((GET_FEATURES, 0, 0, 6 | 8 << 8), WORKS),
        ((GET_FEATURES, 0, 0, 9, 5), 0x02),
        ((GET_LOG_PAGE, 0, 0x4000, 0), 0x109),
        ((GET_LOG_PAGE, 0, 0x4000, 4), 0x109),
        ((GET_LOG_PAGE, 0, 0x4000, 6), 0x109),
        ((GET_LOG_PAGE, 0, 0x4000, 2, 0, 512), WORKS),
        ((GET_LOG_PAGE, 0, 0x4000, 2, 0, 516), 0x02),
        ((GET_LOG_PAGE, 0, 0x4000, 2, 0, 2), 0x02),
        ((GET_LOG_PAGE, 0, 0x4000, 2, 0, 0, 1), 0x02),
        ((GET_LOG_PAGE, 0, 0x4000, 2, 2), 0x02),  # one word more than MDTS lets the controller transfer
        ((ABORT, 0, 0, 0), WORKS),
    ],
)  # fmt: skip
def test_each_limit_of_the_admin_commands(disk: Bench, command: tuple[int, ...], status: int) -> None:
    assert disk.run(*command)[1] == status
    assert disk.run(GET_FEATURES, 0, 0, 8) == (0, 0)


@pytest.mark.parametrize(("flags", "status"), [(0, 0), (1, 2), (2, 2), (0x40, 2), (0x80, 2), (0x3C, 0)])
def test_fused_commands_and_sgls_are_refused(disk: Bench, flags: int, status: int) -> None:
    assert disk.run(GET_FEATURES, 0, 0, 8, flags=flags)[1] == status


def test_features_have_their_defaults(disk: Bench) -> None:
    numbers = (1, 2, 4, 5, 6, 7, 8, 9, 10, 11)
    assert [disk.run(GET_FEATURES, 0, 0, one) for one in numbers] == [
        (value, 0) for value in (0, 0, 343, 0, 1, 63 * 0x10001, 0, 0, 0, 0)
    ]
    assert [disk.run(GET_FEATURES, 0, 0, 9, vector) for vector in range(5)] == [(vector, 0) for vector in range(5)]


def test_features_hold_what_is_set(disk: Bench) -> None:
    for one in (1, 2, 5, 6, 8, 10, 11):
        assert disk.run(SET_FEATURES, 0, 0, one, 0xA5A50000 | one) == (0, 0)
    assert [disk.run(GET_FEATURES, 0, 0, one)[0] & 0xFF for one in (1, 2, 5, 6, 8, 10, 11)] == [1, 2, 5, 6, 8, 10, 11]
    # The temperature thresholds of over and under, and of each sensor.
    for select in (0, 1, 0x10, 0x3F):
        disk.run(SET_FEATURES, 0, 0, 4, select << 16 | 300 + select)
    assert [disk.run(GET_FEATURES, 0, 0, 4, select << 16)[0] & 0xFFFF for select in (0, 1, 0x10, 0x3F, 2)] == [
        300,
        301,
        316,
        363,
        343,
    ]
    assert disk.run(GET_FEATURES, 0, 0, 4, 0x41 << 16)[0] & 0xFFFF == 301  # bits above the selector are ignored


@pytest.mark.parametrize(
    ("asked", "given"),
    [(0, 0), (62 << 16 | 62, 62), (63 << 16 | 1, 63), (1 << 16 | 63, 63), (64, 63), (5 << 16 | 2, 5)],
)
def test_as_many_queues_as_are_asked_for(disk: Bench, asked: int, given: int) -> None:
    assert disk.run(SET_FEATURES, 0, 0, 7, asked) == (given * 0x10001, 0)
    assert disk.run(GET_FEATURES, 0, 0, 7) == (given * 0x10001, 0)
    for number, status in (given + 1, 0), (given + 2, 0x101):
        assert disk.run(CREATE_CQ, 0, 0x8000, 1 << 16 | number, CONTIGUOUS)[1] == status
    assert disk.run(SET_FEATURES, 0, 0, 7, 0) == (0, 0x0C)


def test_log_pages_are_padded_with_zeros(disk: Bench) -> None:
    disk.ram[0x4000:0xA000] = b"\xff" * 0x6000
    assert disk.run(GET_LOG_PAGE, 0, 0x4000, 255 << 16 | 1) == (0, 0)
    assert disk.ram[0x4000:0x4401] == bytes(1024) + b"\xff"
    assert disk.run(GET_LOG_PAGE, 0, 0x5000, 3 << 16 | 3, 0, 504) == (0, 0)
    assert disk.ram[0x5000:0x5011] == bytes(16) + b"\xff"
    assert disk.run(GET_LOG_PAGE, 0, 0x5000, 1 << 16 | 3, 0, 8) == (0, 0)
    assert disk.ram[0x5000:0x5008] == b"pyvfio  "


def test_an_abort_names_an_outstanding_request(disk: Bench) -> None:
    for id_ in (7, 8):
        disk.put(EVENT_REQUEST, id_=id_)
    disk.write(0, 0x1000, 4, disk.submitted)
    for words in (1 | 7 << 16,), (9 << 16,), (7,):  # another queue, another command
        assert disk.run(ABORT, 0, 0, *words) == (1, 0)
    disk.put(ABORT, 0, 0, 0, 8 << 16)
    disk.write(0, 0x1000, 4, disk.submitted)
    found = [struct.unpack_from("<IIHHHH", disk.ram, 0x1000 + 16 * at)[0::4] for at in (3, 4)]
    assert found == [(0, 8), (0, 5)]
    assert struct.unpack_from("<H", disk.ram, 0x1000 + 16 * 3 + 14)[0] == 0x07 << 1 | 1


def with_queues(disk: Bench, vector: int, flags: int = CONTIGUOUS | INTERRUPTS, entries: int = 4) -> None:
    """Create the completion queue 2 at 0x8000 and the submission queue 3 at 0x9000."""
    assert disk.run(CREATE_CQ, 0, 0x8000, entries - 1 << 16 | 2, vector << 16 | flags) == (0, 0)
    assert disk.run(CREATE_SQ, 0, 0x9000, 7 << 16 | 3, 2 << 16 | CONTIGUOUS) == (0, 0)
    disk.sent.clear()


def io(
    disk: Bench, index: int, opcode: int, namespace: int = 1, first: int = 0x4000, second: int = 0, *words: int
) -> tuple[int, int]:
    """Run command `index` (from 0 on) of the submission queue 3; return its status, and the head in its completion."""
    struct.pack_into(
        "<BBHIQQQQ6I",
        disk.ram,
        0x9000 + 64 * (index % 8),
        opcode,
        0,
        9,
        namespace,
        0,
        0,
        first,
        second,
        *words,
        *[0] * (6 - len(words)),
    )
    disk.write(0, 0x1000 + 8 * 3, 4, (index + 1) % 8)
    _, _, head, queue, id_, status = struct.unpack_from("<IIHHHH", disk.ram, 0x8000 + 16 * (index % 4))
    assert (queue, id_) == (3, 9)
    disk.write(0, 0x1004 + 8 * 2, 4, (index + 1) % 4)
    return status >> 1 & 0x3FFF, head


def test_a_queue_interrupts_with_its_vector(disk: Bench) -> None:
    with_queues(disk, 4)
    assert io(disk, 0, FLUSH) == (0, 1)
    assert disk.sent == [4]
    disk.write(0, 0x0C, 4, 1 << 4)
    assert io(disk, 1, FLUSH) == (0, 2)
    assert disk.sent == [4], "INTMS masks it"
    disk.write(0, 0x10, 4, 1 << 4)
    assert disk.sent == [4], "nothing is pending"


def test_unmasking_sends_what_is_pending(disk: Bench) -> None:
    with_queues(disk, 0)
    disk.write(0, 0x0C, 4, 1)
    struct.pack_into("<BBHIQQQQ6I", disk.ram, 0x9000, FLUSH, 0, 9, 1, *[0] * 10)
    disk.write(0, 0x1018, 4, 1)
    assert disk.sent == []
    disk.write(0, 0x10, 4, 1)
    assert disk.sent == [0]
    calmed = disk.calmed
    disk.write(0, 0x0C, 4, 1)
    assert disk.calmed == calmed + 1


def test_a_queue_without_interrupts_sends_none(disk: Bench) -> None:
    with_queues(disk, 4, CONTIGUOUS)
    assert io(disk, 0, FLUSH) == (0, 1)
    assert disk.sent == []


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ((FLUSH, 1), WORKS),
        ((FLUSH, 0xFFFFFFFF), WORKS),
        ((FLUSH, 0), 0x0B),
        ((FLUSH, 2), 0x0B),
        ((READ, 0), 0x0B),
        ((READ, 0xFFFFFFFF), 0x0B),
        ((3, 1), 0x01),
        ((5, 1), 0x01),
        ((0x0A, 1), 0x01),
        ((READ, 1, 0x10000, 0, 8191), WORKS),
        ((READ, 1, 0x10000, 0, 8192), 0x80),
        ((READ, 1, 0x10000, 0x11000, 8190, 0, 1), WORKS),
        ((READ, 1, 0x10000, 0x11000, 8190, 0, 2), 0x80),
        ((READ, 1, 0x10000, 0, 0, 1), 0x80),
        ((WRITE_ZEROES, 1, 0, 0, 0, 0, 0x1FFF), WORKS),  # MDTS does not limit it
        ((WRITE_ZEROES, 1, 0, 0, 0, 0, 0x2000), 0x80),
        ((READ, 1, 0x10000, LISTS // 2, 0, 0, 1023), WORKS),  # MDTS: 512 KiB
        ((READ, 1, 0x10000, LISTS // 2, 0, 0, 1024), 0x02),
        ((READ, 1, 0x10000, 0, 0, 0, 1 << 16), WORKS),  # the number of blocks has 16 bits
        ((READ, 1, 0x10002, 0, 0, 0, 0), 0x13),
        ((DATASET_MANAGEMENT, 1, 0x10000, 0, 0, 4), WORKS),
        ((DATASET_MANAGEMENT, 1, 0x10000, 0, 1, 4), 0x80),
        ((DATASET_MANAGEMENT, 1, 0x10000, 0, 1, 3), 0x80),
        ((DATASET_MANAGEMENT, 1, 0x10000, 0, 0x100, 4), WORKS),
    ],
)
def test_each_limit_of_the_io_commands(disk: Bench, command: tuple[int, ...], status: int) -> None:
    with_queues(disk, 1)
    # The list of a transfer of 512 KiB, and two ranges, of which the second ends behind the last block.
    struct.pack_into("<127Q", disk.ram, LISTS // 2, *[0x11000] * 127)
    struct.pack_into("<IIQIIQ", disk.ram, 0x10000, 0, 1, 8191, 0, 2, 8191)
    assert io(disk, 0, *command) == (status, 1)


def test_reads_and_writes_are_counted(disk: Bench) -> None:
    with_queues(disk, 1)
    for index in range(8):
        assert io(disk, index, READ if index < 3 else WRITE, 1, 0x20000, 0x21000, 0, 0, 8)[0] == 0
    assert disk.run(GET_LOG_PAGE, 0, 0x4000, 127 << 16 | 2) == (0, 0)
    assert disk.ram[0x4000:0x4200] == structures.health((3 * 9 * 512, 3), (5 * 9 * 512, 5))
    disk.write(0, 0x14, 4, 0)
    disk.power_on()
    assert (disk._read, disk._written) == ((0, 0), (0, 0))


def test_blocks_are_where_they_were_written(disk: Bench) -> None:
    with_queues(disk, 1)
    disk.ram[0x20000:0x22000] = bytes(range(256)) * 32
    assert io(disk, 0, WRITE, 1, 0x20200, 0x21000, 5, 0, 7)[0] == 0
    assert disk.storage[: 5 * 512] == bytes(5 * 512)
    assert disk.storage[5 * 512 : 13 * 512] == disk.ram[0x20200:0x21200]
    assert disk.storage[13 * 512 : 14 * 512] == bytes(512)
    assert io(disk, 1, READ, 1, 0x30E00, 0x31000, 4, 0, 2)[0] == 0
    assert disk.ram[0x30E00:0x31400] == bytes(512) + disk.ram[0x20200:0x20600]
    assert disk.ram[0x31400:0x31500] == bytes(256)


def test_events_are_reported_once_until_their_page_is_read(disk: Bench) -> None:
    def events(count: int) -> list[int]:
        found = [struct.unpack_from("<I", disk.ram, 0x1000 + 16 * (disk.completed + at))[0] for at in range(count)]
        disk.completed += count
        disk.write(0, 0x1004, 4, disk.completed)
        return found

    disk.write(0, 0x1000, 4, 32)  # a tail that the queue does not have: it waits for a request
    disk.write(0, 0x1008, 4, 0)  # a queue that does not exist: of the same type
    disk.put(EVENT_REQUEST)
    disk.put(EVENT_REQUEST)
    disk.write(0, 0x1000, 4, disk.submitted)
    assert events(1) == [1 << 16 | 1 << 8]
    disk.write(0, 0x1008, 4, 0)
    assert not any(disk.ram[0x1000 + 16 * disk.completed :][:16])
    assert disk.run(GET_LOG_PAGE, 0, 0x4000, 15 << 16 | 1 << 15 | 1) == (0, 0)  # RAE: the events stay masked
    disk.write(0, 0x1008, 4, 0)
    assert not any(disk.ram[0x1000 + 16 * disk.completed :][:16])
    assert disk.run(GET_LOG_PAGE, 0, 0x4000, 15 << 16 | 1) == (0, 0)
    disk.write(0, 0x100C, 4, 0)  # the head of a completion queue that does not exist
    assert events(1) == [1 << 16]
