# SPDX-License-Identifier: MIT
"""The parts of vfio-mock on the mock, each by itself: registers of a new device, jobs, and both ends of a migration's stream.

The C module in tests/vfio_mock has the same registers, limits and records.
"""

from __future__ import annotations

import errno
import struct
from types import SimpleNamespace
from typing import Any

import pytest

import pyvfio
from pyvfio import mock
from pyvfio.mock.devices.vfio_mock import job as jobs
from pyvfio.mock.devices.vfio_mock import stream
from pyvfio.mock.devices.vfio_mock.job import Job
from pyvfio.mock.devices.vfio_mock.registers import HELD
from pyvfio.mock.devices.vfio_mock.session import Resuming, Saving
from pyvfio.mock.devices.vfio_mock.stream import Record
from pyvfio.mock.machine.errno import Errno
from tests.mock.errnos import refused, works_or

PAGE = 4096
SIZES = (2 * PAGE, PAGE, PAGE)


def test_the_registers_of_a_new_device() -> None:
    with pyvfio.open("vfio-mock.1", kernel=mock.Kernel("intel-48")) as device:
        registers = device.regions[0]
        found: dict[int, int] = {}
        for at in range(0, 0x1000, 4):
            for read in registers.read32, registers.read64:
                try:
                    value = read(at)
                except (OSError, ValueError):  # the register has another width, or there is none
                    continue
                if value and not 0x400 <= at < 0x540:  # without the counters of failures, which count this open
                    found[at] = value
    assert found == {
        0x000: 0x4B434F4D, 0x004: 1, 0x008: 1, 0x00C: 7, 0x130: 4096, 0x144: 0xFFFFFFFF, 0x180: 0xFFFFFFFF, 0x200: 255, 0x208: 4096, 0x210: 2 << 20,
        0x218: 12, 0x21C: 42, 0x380: 2,
    }  # fmt: skip


# --- jobs -----------------------------------------------------------------------------------------------------------------

SIZE = 1 << 16
LOCAL, KEEP, TOP = jobs.LOCAL, jobs.KEEP, 2**64


@pytest.mark.parametrize(
    ("command", "values", "number"),
    [
        (jobs.STOP, {}, errno.EINVAL),
        (8, {"length": 8}, errno.EINVAL),
        (jobs.FILL | 1 << 15, {"length": 8}, errno.EINVAL),
        (jobs.FILL | LOCAL | KEEP, {"length": 8}, errno.EINVAL),
        *[
            (one | way, {"length": 8}, errno.EINVAL)
            for one in (jobs.WRITE, jobs.READ, jobs.COPY)
            for way in (LOCAL, KEEP)
        ],
        *[(one, {"length": 8}, None) for one in (jobs.WRITE, jobs.READ, jobs.FILL, jobs.COPY)],
        *[(one, {"length": 0}, errno.EINVAL) for one in (jobs.WRITE, jobs.READ, jobs.FILL, jobs.COPY)],
        *[(one, {"iova": TOP - 8, "length": 8}, None) for one in (jobs.WRITE, jobs.READ, jobs.FILL, jobs.COPY)],
        *[
            (one, {"iova": TOP - 8, "length": 9}, errno.EOVERFLOW)
            for one in (jobs.WRITE, jobs.READ, jobs.FILL, jobs.COPY)
        ],
        *[(one, {"length": SIZE}, None) for one in (jobs.WRITE, jobs.READ)],
        *[(one, {"length": SIZE + 1}, errno.ERANGE) for one in (jobs.WRITE, jobs.READ)],
        *[(one, {"memory": 8, "length": SIZE - 7}, errno.ERANGE) for one in (jobs.WRITE, jobs.READ)],
        (jobs.COPY, {"source": TOP - 8, "length": 8}, None),
        (jobs.COPY, {"source": TOP - 8, "length": 9}, errno.EOVERFLOW),
        (jobs.COPY, {"length": 4 * SIZE}, None),
        (jobs.FILL, {"source": TOP - 1, "length": 9}, None),
        (jobs.FILL | LOCAL, {"iova": SIZE - 8, "length": 8}, None),
        (jobs.FILL | LOCAL, {"iova": SIZE - 8, "length": 9}, errno.EOVERFLOW),
        (jobs.FILL | KEEP, {"iova": 1 << 40, "memory": SIZE - 8, "length": 8}, None),
        (jobs.FILL | KEEP, {"memory": SIZE - 8, "length": 9}, errno.ERANGE),
        (jobs.LIST, {"count": 1}, None),
        (jobs.LIST, {"count": 0}, errno.EINVAL),
        (jobs.LIST | KEEP, {"count": 1}, errno.EINVAL),
        (jobs.LIST | LOCAL, {"count": 1}, None),
        (jobs.LIST, {"memory": SIZE - 16, "count": 2}, None),
        (jobs.LIST, {"memory": SIZE - 16, "count": 3}, errno.ERANGE),
        (jobs.LIST, {"memory": SIZE - 7, "count": 1}, errno.ERANGE),
        (jobs.LIST, {"memory": SIZE + 1, "count": 1}, errno.ERANGE),
        (jobs.TOUCH, {"length": 1, "stride": 1}, None),
        (jobs.TOUCH, {"length": 1, "stride": 0}, errno.EINVAL),
        (jobs.TOUCH, {"length": 0, "stride": 1}, errno.EINVAL),
        (jobs.SCATTER, {"length": 8, "stride": 8, "count": 1}, None),
        (jobs.SCATTER, {"length": 8, "stride": 8, "count": 0}, errno.EINVAL),
        (jobs.SCATTER, {"length": 8, "stride": 0, "count": 1}, errno.EINVAL),
        (jobs.SCATTER, {"length": 7, "stride": 8, "count": 1}, errno.EINVAL),
        (jobs.SCATTER, {"iova": TOP - 8, "length": 9, "stride": 8, "count": 1}, errno.EOVERFLOW),
    ],
)
def test_jobs_that_can_begin(command: int, values: dict[str, int], number: int | None) -> None:
    with works_or(number):
        Job(command=command, **values).check(SIZE)


@pytest.mark.parametrize(
    ("command", "end"),
    [(jobs.WRITE, 100), (jobs.FILL, 100), (jobs.COPY, 100), (jobs.LIST, 7), (jobs.SCATTER, 7), (jobs.TOUCH, 13)],
)
def test_the_end_of_a_round(command: int, end: int) -> None:
    assert Job(command=command | jobs.REPEAT, length=100, count=7, stride=8).round_end == end


def test_a_job_is_packed_field_by_field() -> None:
    names = Job.__slots__
    values = {name: index + 1 for index, name in enumerate(names) if name != "reserved"}
    packed = Job(**values).packed()
    assert packed == struct.pack("<6I14Q", 1, 2, 3, 4, 5, 0, *range(7, 21))
    assert Job.unpacked(packed).packed() == packed
    assert names[:5] == ("command", "delay", "irq", "status", "error")
    assert names[6:] == (
        "iova",
        "length",
        "source",
        "memory",
        "pattern",
        "count",
        "stride",
        "seed",
        "position",
        "random",
        "rounds",
        "steps",
        "bytes_moved",
        "fault",
    )


@pytest.mark.parametrize(("position", "size"), [(0, 16), (3, 1), (7, 2), (8, 8), (13, 20), (0, 0)])
def test_the_bytes_of_a_fill(position: int, size: int) -> None:
    pattern, rounds = 0xFFFFFFFFFFFFFFF0, 5
    whole = struct.pack("<16Q", *((pattern + rounds + k) % TOP for k in range(16)))
    counting = Job(command=jobs.FILL | jobs.COUNTING, pattern=pattern, rounds=rounds, position=position)
    assert counting.filling(size) == whole[position : position + size]
    plain = Job(command=jobs.FILL, pattern=0x0807060504030201, rounds=rounds, position=position)
    assert plain.filling(size) == (bytes(range(1, 9)) * 16)[position : position + size]


# --- the stream -----------------------------------------------------------------------------------------------------------


class Migrating:
    """The part of a device that the ends of a stream use: four pages, registers, and failures that are called for."""

    def __init__(self) -> None:
        self.memory = {number: bytes([number + 1]) * PAGE for number in range(4)}
        self.fails: set[str] = set()
        self.states = SimpleNamespace(
            num_pages=4, sizes=SIZES, sent=0, received=0, second_info=False, page=self.memory.__getitem__, set_page=self._set,
            packed_registers=lambda: b"r" * 256,
        )  # fmt: skip
        self.failures = SimpleNamespace(check=self._check)
        self.kernel = mock.Kernel("none")

    def _set(self, number: int, data: bytes) -> None:
        if number > 3:
            raise Errno(errno.EINVAL)
        self.memory[number] = data

    def _check(self, kind: str) -> None:
        if kind in self.fails:
            raise Errno(errno.EIO)

    def stream(self) -> list[Record]:
        """Return the records of this device's stream."""
        return [
            stream.header(SIZES),
            *(Record(stream.PAGES, number, self.memory[number]) for number in range(4)),
            Record(stream.REGISTERS, 0, b"r" * 256),
            Record(stream.END, 6, bytes(8)),
        ]


def encoded(records: list[Record]) -> bytes:
    return b"".join(one.encoded() for one in records)


def test_records_are_encoded_and_decoded() -> None:
    one = Record(stream.END, 0x1122, b"12345678")
    data = one.encoded()
    assert data[:24] == struct.pack("<QIIQ", 0x6B636F6D6F696676, 4, 8, 0x1122)
    assert data[32:] == b"12345678"
    assert stream.decoded(data) == one
    for at in (8, 16, 24, 31, 32, 39):
        damaged = bytearray(data)
        damaged[at] ^= 1
        assert stream.decoded(bytes(damaged)) is None
    assert [stream.length(type_) for type_ in (1, 2, 3, 4)] == [64, 4128, 288, 40]
    assert stream.header((1, 2, 3)) == Record(stream.HEADER, 0, struct.pack("<4Q", 1, 1, 2, 3))


@pytest.mark.parametrize(
    ("magic", "type_", "size", "found"),
    [(stream.MAGIC, 1, 32, 64), (stream.MAGIC, 2, PAGE, 4128), (stream.MAGIC, 4, 8, 40), (stream.MAGIC, 4, 16, None), (stream.MAGIC, 0, 0, None), (stream.MAGIC, 5, 8, None), (stream.MAGIC + 1, 4, 8, None)],
)  # fmt: skip
def test_the_size_of_a_record_is_in_its_head(magic: int, type_: int, size: int, found: int | None) -> None:
    assert stream.size_by_head(struct.pack("<QIIQQ", magic, type_, size, 0, 0)) == found


class TestSaving:
    @pytest.mark.parametrize("part", [1 << 20, 4128, 100, 33])
    def test_the_whole_stream_in_parts(self, part: int) -> None:
        device = Migrating()
        saving = Saving(device, pre_copy=False)  # type: ignore[arg-type]  # what it uses of a device
        found = b""
        while data := saving.read(part):
            found += data
            assert device.states.sent == len(found)
            assert saving._readable
        assert found == encoded(device.stream())
        assert saving.read(part) == b""

    def test_in_pre_copy_registers_are_not_sent(self) -> None:
        device = Migrating()
        saving = Saving(device, pre_copy=True)  # type: ignore[arg-type]  # what it uses of a device
        pages = encoded(device.stream()[:5])
        assert saving.remaining() == (len(pages), 0)
        assert saving.tail_size == 328
        assert saving.read(100) == pages[:100]
        assert saving.remaining() == (len(pages) - 100, 0)
        assert saving.read(len(pages) - 101) == pages[100:-1]
        assert saving._readable, "the last byte of a record is left"
        assert saving.remaining() == (1, 0)
        assert saving.read(100) == pages[-1:]
        assert not saving._readable
        with refused(errno.ENOMSG):
            saving.read(1)
        saving.dirty.update((3, 1))
        saving.show()
        assert saving._readable
        assert saving.remaining() == (0, 2 * 4128)
        again = encoded([Record(stream.PAGES, number, device.memory[number]) for number in (1, 3)])
        assert saving.read(1 << 20) == again
        saving.pre_copy = False
        saving.show()
        assert saving._readable
        assert saving.read(1 << 20) == encoded(
            [Record(stream.REGISTERS, 0, b"r" * 256), Record(stream.END, 8, bytes(8))]
        )
        assert saving.tail_size == 0

    def test_a_page_that_was_not_sent_yet_is_sent_once(self) -> None:
        saving = Saving(Migrating(), pre_copy=True)  # type: ignore[arg-type]  # what it uses of a device
        saving.read(64 + 4128)
        saving.dirty.update((0, 2))
        assert saving.remaining() == (3 * 4128, 4128)
        assert len(saving.read(1 << 20)) == 4 * 4128
        assert saving.remaining() == (0, 0)

    def test_it_is_readable_until_its_header_is_read(self) -> None:
        device = Migrating()
        device.states.num_pages = 0
        saving = Saving(device, pre_copy=True)  # type: ignore[arg-type]  # what it uses of a device
        assert saving._readable
        assert saving.read(1 << 20) == stream.header(SIZES).encoded()
        assert not saving._readable

    def test_failures(self) -> None:
        device = Migrating()
        saving = Saving(device, pre_copy=False)  # type: ignore[arg-type]  # what it uses of a device
        device.fails.add("MIG_READ")
        with refused(errno.EIO):
            saving.read(8)
        device.fails.clear()
        saving.end()
        saving.show()
        assert saving._readable
        with refused(errno.ENODEV):
            saving.read(8)


class TestResuming:
    @pytest.mark.parametrize("part", [1 << 20, 4128, 100, 31, 33])
    def test_a_stream_arrives_in_parts(self, part: int) -> None:
        source, target = Migrating(), Migrating()
        target.memory = {}
        resuming = Resuming(target)  # type: ignore[arg-type]  # what it uses of a device
        data = encoded(source.stream())
        for at in range(0, len(data), part):
            assert not resuming.whole
            size = len(data[at : at + part])
            assert resuming.write(data[at : at + part]) == size
            assert target.states.received == at + size
        assert resuming.whole
        assert (target.memory, resuming.registers) == (source.memory, b"r" * 256)
        assert resuming.write(b"x") == 1
        assert not resuming.whole, "a byte follows"

    @pytest.mark.parametrize(
        "change",
        [
            lambda records: records[1:],  # no header
            lambda records: [records[0], *records],  # two of them
            lambda records: [stream.header((1, 2, 3)), *records[1:]],
            lambda records: [Record(stream.HEADER, 1, records[0].payload), *records[1:]],
            lambda records: [*records[:1], Record(stream.PAGES, 4, bytes(PAGE)), *records[1:]],
            lambda records: [*records[:6], *records[5:]],  # registers twice
            lambda records: [*records[:5], records[6]],  # no registers
            lambda records: [*records[:6], Record(stream.END, 5, bytes(8))],
            lambda records: [*records[:6], Record(stream.END, 7, bytes(8))],
            lambda records: [*records, records[1]],  # something behind the end
        ],
    )
    def test_wrong_records_are_refused(self, change: Any) -> None:
        device = Migrating()
        resuming = Resuming(device)  # type: ignore[arg-type]  # what it uses of a device
        records = change(device.stream())
        with refused(errno.EINVAL):
            resuming.write(encoded(records))
        assert resuming.error == errno.EINVAL
        with refused(errno.EINVAL):
            resuming.write(b"")
        assert device.states.received == 0

    @pytest.mark.parametrize("at", [0, 8, 12, 24, 32, 64 + 32])
    def test_damaged_records_are_refused(self, at: int) -> None:
        device = Migrating()
        data = bytearray(encoded(device.stream()))
        data[at] ^= 0x40
        with refused(errno.EINVAL):
            Resuming(device).write(bytes(data))  # type: ignore[arg-type]  # what it uses of a device

    def test_failures(self) -> None:
        device = Migrating()
        resuming = Resuming(device)  # type: ignore[arg-type]  # what it uses of a device
        device.fails.add("MIG_WRITE")
        with refused(errno.EIO):
            resuming.write(b"x")
        assert resuming.error is None
        device.fails.clear()
        resuming.end()
        with refused(errno.ENODEV):
            resuming.write(b"x")


def test_the_registers_of_a_stream_have_their_places() -> None:
    """HELD in its order, each in its own width, 5 bytes of padding, the job, and INTx."""
    with pyvfio.open("vfio-mock.0", kernel=(kernel := mock.Kernel("intel-48"))):
        model: Any = kernel.devices["vfio-mock.0"]
        for index, name in enumerate(HELD):
            model.registers.held[name] = index + 1
        model.engine.job = Job(command=3, fault=9)
        model.irqs.asserted = True
        data = model.states.packed_registers()
    at, values = 0, []
    for one in HELD.values():
        values.append(int.from_bytes(data[at : at + one.width], "little"))
        at += one.width
    assert values == list(range(1, len(HELD) + 1))
    assert data[at : at + 5] == bytes(5)
    assert data[at + 5 : -8] == Job(command=3, fault=9).packed()
    assert data[-8:] == b"\x01" + bytes(7)
    assert len(data) == 256
