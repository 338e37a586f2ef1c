# SPDX-License-Identifier: MIT
"""The parts of the busy network card, each by itself: its frames, the log of pds_vfio_pci, and the migration of a variant driver."""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pyvfio import mock
from pyvfio.iova import IovaRange
from pyvfio.mock.devices.network import NetworkFunction, PdsLog
from pyvfio.mock.machine.profile import LogLimits
from pyvfio.mock.vfio.log import LoggedRange
from pyvfio.mock.vfio.migration import (
    ERROR,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    RUNNING_P2P,
    STOP,
    STOP_COPY,
)
from pyvfio.mock.vfio.pci.migration import PciMigration, Resuming, Saving
from tests.mock.errnos import refused, works_or

ADDRESS = "0000:41:10.1"
PAGE = 4096
LAST = 2**64 - 1


# --- frames ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def card() -> NetworkFunction:
    found = mock.Kernel("mlx5").devices[ADDRESS]
    assert isinstance(found, NetworkFunction)
    return found


def test_the_card_is_described(card: NetworkFunction) -> None:
    function = card.function
    assert (function.ids, function.class_code, function.msix, function.table) == (
        (0x15B3, 0x101E),
        0x020000,
        16,
        (0, 0),
    )
    assert function.bars == {0: mock.Bar(1 << 20, wide=True, prefetchable=True, memory=True)}
    assert (function.express, function.reset_methods, card.bus_master) == (True, ("flr",), True)
    assert mock.Kernel("pds").devices[ADDRESS].ids == (0x1DD8, 0x1003)


def splitmix64(count: int) -> Iterator[int]:
    """Yield the numbers of splitmix64 with the seed 0, of which the first are well known."""
    for n in range(1, count + 1):
        z = n * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        yield z ^ z >> 31


def test_places_are_random_and_the_same_in_every_run(card: NetworkFunction) -> None:
    found = [card._random() for _ in range(3)]
    assert found == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert found == list(splitmix64(3))


def written(
    card: NetworkFunction, spans: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[int, bytes]]:
    """Return the frames before one report."""
    frames: list[tuple[int, bytes]] = []
    monkeypatch.setattr(card, "space", SimpleNamespace(writable=lambda: iter(spans)))
    monkeypatch.setattr(card, "dma_write", lambda iova, data: frames.append((iova, data)))
    card.before_report()
    return frames


def test_frames_before_a_report(card: NetworkFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = [(0x1000, 0x1000 + 16 * 2048 - 1), (0x80000, 0x80000 + 2046), (0x100000, 0x100000 + 5 * 2048 - 1)]
    frames = written(card, spans, monkeypatch)
    assert len(frames) == 24
    buffers = [spans[0], spans[2]]  # the second is too small for a frame
    numbers, expected = list(splitmix64(40)), []
    received = 0
    for _ in range(4):
        first, last = buffers[numbers[received] % 2]
        at = first + numbers[received + 1] % ((last - first + 1) // 2048) * 2048
        received += 2
        for _ in range(6):
            received += 1
            frame = bytes.fromhex("0c42a10000010c42a10000020800") + received.to_bytes(4, "big") * 375
            if at + len(frame) - 1 > last:
                at = first
            expected.append((at, frame))
            at += 2048
    assert frames == expected


def test_a_buffer_of_one_frame_is_enough(card: NetworkFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {at for at, _ in written(card, [(0x1000, 0x17FF)], monkeypatch)} == {0x1000}
    assert written(card, [(0x1000, 0x17FE)], monkeypatch) == []
    assert written(card, [], monkeypatch) == []


def test_the_first_64_mappings_are_buffers(card: NetworkFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = [(0x10000 * n, 0x10000 * n + 2047) for n in range(1, 200)]
    found = set()
    for _ in range(200):
        found |= {at // 0x10000 for at, _ in written(card, spans, monkeypatch)}
    assert found == set(range(1, 65))


@pytest.mark.parametrize("state", [STOP, RUNNING, PRE_COPY, STOP_COPY, RUNNING_P2P, PRE_COPY_P2P, ERROR])
def test_a_card_that_does_not_run_receives_nothing(
    card: NetworkFunction, state: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(card.migration, PciMigration)
    card.migration.state = state
    assert bool(written(card, [(0, 0xFFFF)], monkeypatch)) == (state in (RUNNING, PRE_COPY))


def test_the_number_of_frames_is_migrated(card: NetworkFunction) -> None:
    card._received = 0x0102030405
    card.write(0, 0x100, 4, 0x11223344)
    state = card.save_state()
    assert state[:8] == bytes((5, 4, 3, 2, 1, 0, 0, 0))
    assert len(state) > PAGE
    card._received = 0
    card.write(0, 0x100, 4, 0)
    card.restore_state(state)
    assert (card._received, card.read(0, 0x100, 4)) == (0x0102030405, 0x11223344)


# --- the log of pds -------------------------------------------------------------------------------------------------------


class TestPdsLog:
    @pytest.mark.parametrize(
        ("ranges", "page_size", "tracked", "own"),
        [
            ([(0, PAGE - 1)], PAGE, [(0, PAGE - 1)], PAGE),
            (
                [(0, PAGE - 1)],
                3 * PAGE,
                [(0, 3 * PAGE - 1)],
                2 * PAGE,
            ),  # the size is used as it is, and covers whole pages
            ([(PAGE, PAGE - 1), (0, 2 * PAGE)], PAGE, [(0, 3 * PAGE - 1)], PAGE),
            ([(0, PAGE - 1), (4 * PAGE, 5 * PAGE - 1)], PAGE, [(0, 5 * PAGE - 1)], PAGE),  # one range
            ([(0, PAGE * 2**32 - 1)], PAGE, [], PAGE),  # 2^32 pages are none
            ([(0, PAGE * (2**32 + 3) - 1)], PAGE, [(0, 3 * PAGE - 1)], PAGE),
            ([(0, LAST)], PAGE, [], PAGE),
        ],
    )
    def test_ranges_that_it_tracks(
        self, ranges: list[tuple[int, int]], page_size: int, tracked: list[tuple[int, int]], own: int
    ) -> None:
        log = PdsLog(LogLimits(ranges=1))
        assert log.start([LoggedRange(*one) for one in ranges], page_size) == page_size
        assert log.ranges == [IovaRange(*one) for one in tracked]
        assert (log.page_size, log.active) == (own, True)
        with refused(errno.EINVAL):
            log.start([LoggedRange(0, PAGE - 1)], PAGE)

    def test_a_page_size_of_zero_is_refused(self) -> None:
        with refused(errno.EINVAL):
            PdsLog(LogLimits()).start([LoggedRange(0, PAGE - 1)], 0)

    @pytest.mark.parametrize(
        ("iova", "length", "number"),
        [
            (PAGE, 2 * PAGE, None),
            (PAGE, PAGE, None),
            (2 * PAGE, PAGE, None),
            (0, PAGE, errno.EINVAL),
            (0, 2 * PAGE, errno.EINVAL),
            (2 * PAGE, 2 * PAGE, errno.EINVAL),
            (3 * PAGE, PAGE, errno.EINVAL),
        ],
    )
    def test_a_report_is_within_one_range(self, iova: int, length: int, number: int | None) -> None:
        log = PdsLog(LogLimits(ranges=2))
        log.start([LoggedRange(PAGE, 3 * PAGE - 1), LoggedRange(8 * PAGE, 9 * PAGE - 1)], PAGE)
        log.mark(2 * PAGE, 1)
        with works_or(number):
            log.report(iova, length, PAGE, 0)  # no bitmap: the bit is lost
        covered = number is None and iova <= 2 * PAGE < iova + length
        assert log.dirty == (0 if covered else 1)


# --- migration ------------------------------------------------------------------------------------------------------------


class Migrating:
    """The part of a function that a migration uses."""

    def __init__(self) -> None:
        self.kernel = mock.Kernel("none")
        self.ids = (0x1234, 0x5678)
        self.state = b"state"

    def save_state(self) -> bytes:
        return self.state

    def restore_state(self, state: bytes) -> None:
        self.state = state

    def record(self) -> bytes:
        return struct.pack("<4sHHQI", b"PVMG", 0x1234, 0x5678, len(self.state), zlib.crc32(self.state)) + self.state


class TestSaving:
    def test_the_state_is_read_in_parts(self) -> None:
        device = Migrating()
        saving = Saving(device, pre_copy=False)  # type: ignore[arg-type]  # what it uses of a function
        whole = device.record()
        assert saving.remaining == len(whole) == 25
        assert saving.read(3) + saving.read(100) == whole
        assert saving._readable
        assert saving.read(1) == b""

    def test_in_pre_copy_it_is_sent_once_more_at_the_end(self) -> None:
        device = Migrating()
        saving = Saving(device, pre_copy=True)  # type: ignore[arg-type]  # what it uses of a function
        first = device.record()
        assert saving.read(24) == first[:24]
        assert saving._readable
        assert saving.read(24) == first[24:]
        assert not saving._readable
        with refused(errno.ENOMSG):
            saving.read(1)
        assert saving.read(0) == b""
        device.state = b"another"
        saving.stop()
        assert saving._readable
        assert saving.read(100) == device.record()
        assert saving.read(1) == b""
        saving.end()
        with refused(errno.ENODEV):
            saving.read(1)


class TestResuming:
    @pytest.mark.parametrize("part", [1, 7, 24, 100])
    def test_the_last_record_counts(self, part: int) -> None:
        source, target = Migrating(), Migrating()
        data = source.record()
        source.state = b"the last one"
        data += source.record()
        resuming = Resuming(target)  # type: ignore[arg-type]  # what it uses of a function
        for at in range(0, len(data), part):
            assert resuming.write(data[at : at + part]) == len(data[at : at + part])
        assert resuming.whole
        assert resuming.state == b"the last one"
        resuming.write(b"x")
        assert not resuming.whole

    @pytest.mark.parametrize("at", [0, 4, 6, 16, 20, 24])
    def test_damaged_records_are_refused(self, at: int) -> None:
        data = bytearray(Migrating().record())
        data[at] ^= 0x40
        with refused(errno.EINVAL):
            Resuming(Migrating()).write(bytes(data))  # type: ignore[arg-type]  # what it uses of a function

    def test_an_ended_session_is_enodev(self) -> None:
        resuming = Resuming(Migrating())  # type: ignore[arg-type]  # what it uses of a function
        assert not resuming.whole
        resuming.end()
        with refused(errno.ENODEV):
            resuming.write(b"")


ALL = 7


class TestStates:
    @pytest.fixture(autouse=True)
    def _make(self) -> None:
        self.device = Migrating()
        self.migration = PciMigration(self.device, ALL)  # type: ignore[arg-type]  # what it uses of a function

    @pytest.mark.parametrize(
        ("way", "file"),
        [((STOP, STOP_COPY), Saving), ((STOP_COPY,), Saving), ((PRE_COPY,), Saving), ((RUNNING_P2P, PRE_COPY_P2P), Saving), ((RESUMING,), Resuming), ((STOP,), None), ((RUNNING_P2P,), None), ((RUNNING,), None), ((PRE_COPY, STOP_COPY), None), ((PRE_COPY, RUNNING), None)],
    )  # fmt: skip
    def test_arcs_that_start_a_stream(self, way: tuple[int, ...], file: type | None) -> None:
        found = [self.migration.set_state(state) for state in way][-1]
        assert (None if found is None else type(found)) is file
        assert self.migration.get_state() == way[-1]

    def test_a_stream_ends_with_its_states(self) -> None:
        saving = self.migration.set_state(PRE_COPY)
        assert isinstance(saving, Saving)
        record = 25
        assert (saving.pre_copy, self.migration.data_size()) == (True, 2 * record)
        saving.read(record)
        assert self.migration.data_size() == record
        self.migration.set_state(PRE_COPY_P2P)
        self.migration.set_state(STOP_COPY)
        assert (saving.pre_copy, saving.remaining, self.migration.data_size()) == (False, record, record)
        assert not saving.ended
        self.migration.set_state(STOP)
        assert saving.ended
        assert self.migration.data_size() == record

    def test_a_stream_is_loaded(self) -> None:
        resuming = self.migration.set_state(RESUMING)
        assert isinstance(resuming, Resuming)
        source = Migrating()
        source.state = b"from elsewhere"
        resuming.write(source.record())
        self.migration.set_state(RUNNING)
        assert (self.device.state, resuming.ended) == (b"from elsewhere", True)

    @pytest.mark.parametrize("data", [b"", b"x" * 10])
    def test_an_unfinished_stream_is_an_error(self, data: bytes) -> None:
        resuming = self.migration.set_state(RESUMING)
        assert isinstance(resuming, Resuming)
        resuming.write(Migrating().record()[:0] + data)
        with refused(errno.EINVAL):
            self.migration.set_state(STOP)
        assert (self.migration.state, resuming.ended) == (ERROR, True)
        for state in STOP, RUNNING, ERROR:
            with refused(errno.EINVAL):
                self.migration.set_state(state)
        self.migration.restart()
        assert self.migration.state == RUNNING
        with refused(errno.EINVAL):
            self.migration.set_state(ERROR)

    def test_a_restart_ends_the_stream(self) -> None:
        saving = self.migration.set_state(STOP_COPY)
        assert isinstance(saving, Saving)
        self.migration.restart()
        assert (saving.ended, self.migration.state, self.migration.running) == (True, RUNNING, True)
