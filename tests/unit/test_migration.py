"""Migration with a fake behind the door: the rule of the states, the stream as a file, and what no real kernel does."""

from __future__ import annotations

import errno
import io
import itertools
import os
import select
from collections.abc import Iterator
from typing import Any

import pytest

import pyvfio
from pyvfio import Container, Device, Migration
from pyvfio._abi import ffi, lib
from pyvfio.migration import SAVING, State, path, states
from tests.unit.fake import FIRST_FD, FakeKernel

ALL = lib.VFIO_MIGRATION_STOP_COPY | lib.VFIO_MIGRATION_P2P | lib.VFIO_MIGRATION_PRE_COPY


class MigratingKernel(FakeKernel):
    """Devices that migrate: what they have to send is `state`, and `change` more whenever pre-copy has sent all of it.

    :ivar flags: VFIO_MIGRATION_*; 0 for devices that cannot
    :ivar fail: (state in which the next change ends, -errno)
    """

    def __init__(self) -> None:
        super().__init__()
        self.flags = ALL
        self.states: dict[int, int] = {}
        self.state = b"the state of the device" * 10
        self.change = b""
        self.position: dict[int, int] = {}
        self.received = b""
        self.fail: tuple[State, int] | None = None
        self.give_on_failure = False
        self.piece = 1 << 20
        self.info_flags = 0

    def _VFIO_DEVICE_FEATURE(self, fd: int, argument: int) -> int:
        feature = ffi.cast("struct vfio_device_feature *", argument)
        number, data = feature.flags & lib.VFIO_DEVICE_FEATURE_MASK, ffi.addressof(feature, "data")
        if not self.flags:
            return -errno.ENOTTY
        if number == lib.VFIO_DEVICE_FEATURE_MIGRATION:
            ffi.cast("struct vfio_device_feature_migration *", data).flags = self.flags
            return 0
        if number == lib.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
            ffi.cast("struct vfio_device_feature_mig_data_size *", data).stop_copy_length = len(self.state)
            return 0
        if number == lib.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2:
            return 0
        if number != lib.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
            return super()._VFIO_DEVICE_FEATURE(fd, argument)
        answer = ffi.cast("struct vfio_device_feature_mig_state *", data)
        now = self.states.get(fd, State.RUNNING)
        if feature.flags & lib.VFIO_DEVICE_FEATURE_GET:
            answer.device_state, answer.data_fd = now, -1
            return 0
        target = State(answer.device_state)
        answer.data_fd = -1
        if self.fail is not None:
            (self.states[fd], error), self.fail = self.fail, None
            if self.give_on_failure:
                answer.data_fd = self._new("migration", "given on failure")
            return error
        if target not in states(self.flags):
            return -errno.EINVAL
        self.states[fd] = target
        if target != now and (target == State.RESUMING or (target in SAVING and now not in SAVING)):
            answer.data_fd = self._new("migration", "stream")
            self.position[answer.data_fd] = 0
        return 0

    def _VFIO_DEVICE_RESET(self, fd: int, argument: int) -> int:
        self.states[fd] = State.RUNNING
        return 0

    def _VFIO_MIG_GET_PRECOPY_INFO(self, fd: int, argument: int) -> int:
        info = ffi.cast("struct vfio_precopy_info *", argument)
        assert (info.argsz, info.flags) == (24, 0)
        left = len(self.state) - self.position[fd]
        info.initial_bytes, info.dirty_bytes, info.flags = left, 0, self.info_flags
        return 0

    def _stopped(self) -> bool:
        return State.STOP_COPY in self.states.values()

    def read(self, fd: int, size: int) -> bytes:
        assert self.fds[fd][0] == "migration"
        data = self.state[self.position[fd] :][: min(size, self.piece)]
        self.position[fd] += len(data)
        if not data and not self._stopped():
            self.state += self.change
            raise OSError(errno.ENOMSG, os.strerror(errno.ENOMSG))
        return data

    def write(self, fd: int, data: Any) -> int:
        assert self.fds[fd][0] == "migration"
        part = bytes(data)[: self.piece]
        self.received += part
        return len(part)

    def poll(self, fd: int, events: int, timeout: float | None) -> int:
        assert self.fds[fd][0] == "migration"
        return events


@pytest.fixture
def kernel() -> MigratingKernel:
    return MigratingKernel()


@pytest.fixture
def space(kernel: MigratingKernel) -> Iterator[Container]:
    with Container(kernel=kernel) as space:
        yield space


@pytest.fixture
def device(space: Container) -> Device:
    return space.attach("fake.0")


@pytest.fixture
def migration(device: Device) -> Migration:
    return device.migration


def descriptors(kernel: FakeKernel) -> list[str]:
    return [name for kind, name in kernel.fds.values() if kind == "migration"]


# --- the rule of the states ---------------------------------------------------------------------------------------------


def names(text: str) -> tuple[State, ...]:
    return tuple(State[word] for word in text.split())


@pytest.mark.parametrize(
    "way",
    [
        "PRE_COPY PRE_COPY_P2P STOP_COPY",
        "PRE_COPY RUNNING RUNNING_P2P",
        "PRE_COPY RUNNING RUNNING_P2P STOP",
        "PRE_COPY RUNNING RUNNING_P2P STOP RESUMING",
        "PRE_COPY_P2P RUNNING_P2P STOP RESUMING",
        "RESUMING STOP RUNNING_P2P RUNNING PRE_COPY",
        "RUNNING RUNNING_P2P PRE_COPY_P2P",
        "RUNNING RUNNING_P2P STOP STOP_COPY",
        "RUNNING_P2P RUNNING PRE_COPY",
        "STOP_COPY STOP RUNNING_P2P RUNNING",
        "STOP_COPY STOP RESUMING",
    ],
)
def test_a_way_is_the_kernels(way: str) -> None:
    origin, *rest = names(way)
    assert path(origin, rest[-1]) == tuple(rest)


def test_states_that_a_device_lacks_are_passed_over() -> None:
    only_stop = lib.VFIO_MIGRATION_STOP_COPY
    assert path(State.RUNNING, State.STOP_COPY, only_stop) == names("STOP STOP_COPY")
    assert path(State.PRE_COPY, State.STOP_COPY, ALL & ~lib.VFIO_MIGRATION_P2P) == names("STOP_COPY")
    assert path(State.RESUMING, State.RUNNING, ALL & ~lib.VFIO_MIGRATION_PRE_COPY) == names("STOP RUNNING_P2P RUNNING")
    assert states(only_stop) == set(names("STOP RUNNING STOP_COPY RESUMING"))
    assert states(0) == frozenset()


def test_there_is_a_way_between_any_two_states_but_from_stop_copy_to_pre_copy_and_with_error() -> None:
    none = {(State.STOP_COPY, State.PRE_COPY), (State.STOP_COPY, State.PRE_COPY_P2P)}
    for pair in itertools.product(State, repeat=2):
        if pair in none or State.ERROR in pair:
            with pytest.raises(ValueError, match=r"no way|not asked"):
                path(*pair)
        elif pair[0] == pair[1]:
            assert path(*pair) == ()
        else:
            assert path(*pair)[-1] == pair[1]


def test_a_state_that_the_device_lacks_has_no_way() -> None:
    with pytest.raises(ValueError, match="PRE_COPY"):
        path(State.RUNNING, State.PRE_COPY, lib.VFIO_MIGRATION_STOP_COPY)


# --- capabilities ---------------------------------------------------------------------------------------------------------


def test_a_device_says_what_it_can(kernel: MigratingKernel, space: Container, migration: Migration) -> None:
    assert (migration.has_p2p, migration.has_pre_copy, migration.flags) == (True, True, ALL)
    assert repr(migration) == "<Migration of fake.0: STOP_COPY, P2P, PRE_COPY>"
    kernel.flags = lib.VFIO_MIGRATION_STOP_COPY
    plain = space.attach("fake.1").migration
    assert (plain.has_p2p, plain.has_pre_copy) == (False, False)
    assert plain.states == set(names("STOP RUNNING STOP_COPY RESUMING"))
    for refused in (plain.allow_reinit, lambda: next(plain.pre_copy(io.BytesIO()))):
        with pytest.raises(pyvfio.Unsupported, match="no pre-copy"):
            refused()


def test_a_device_that_cannot_migrate_says_so(kernel: MigratingKernel, device: Device) -> None:
    kernel.flags = 0
    with pytest.raises(pyvfio.Unsupported, match="cannot be migrated"):
        _ = device.migration


# --- the stream as a file -------------------------------------------------------------------------------------------------


def test_a_stream_reads_as_a_file(kernel: MigratingKernel, migration: Migration) -> None:
    migration.state = State.STOP_COPY
    stream = migration.stream
    assert (stream.readable(), stream.writable(), stream.seekable()) == (True, False, False)
    assert (stream.name, stream.mode) == ("fake.0's migration stream", "rb")
    assert stream.fileno() >= FIRST_FD
    assert stream.read(7) == kernel.state[:7]
    buffer = bytearray(10)
    assert stream.readinto(memoryview(buffer)[:4]) == 4
    assert buffer == kernel.state[7:11] + bytes(6)
    kernel.piece = 5
    assert stream.read(100) == kernel.state[11:16]
    assert io.BufferedReader(stream, 64).read() == kernel.state[16:]


def test_a_stream_is_written_as_a_file(kernel: MigratingKernel, migration: Migration) -> None:
    migration.state = State.RESUMING
    stream = migration.stream
    assert (stream.readable(), stream.writable(), stream.mode) == (False, True, "wb")
    kernel.piece = 3
    assert stream.write(b"abcdef") == 3
    assert kernel.received == b"abc"
    assert stream.poll(0)


def test_the_wrong_direction_is_an_unsupported_operation(migration: Migration) -> None:
    migration.state = State.STOP_COPY
    with pytest.raises(io.UnsupportedOperation, match="saving its state"):
        migration.stream.write(b"x")
    migration.state = State.RESUMING
    with pytest.raises(io.UnsupportedOperation, match="loading its state"):
        migration.stream.read(1)


def test_nothing_for_now_is_none_and_the_end_is_empty(kernel: MigratingKernel, migration: Migration) -> None:
    migration.state = State.PRE_COPY
    stream = migration.stream
    assert stream.read() == kernel.state
    assert stream.read(1) is None
    migration.state = State.STOP_COPY
    assert migration.stream is stream
    assert stream.read(1) == b""


def test_a_non_blocking_stream_has_nothing_for_now(kernel: MigratingKernel, migration: Migration) -> None:
    def blocked(*_: object) -> Any:
        raise BlockingIOError(errno.EAGAIN, "")

    kernel.read = kernel.write = blocked  # type: ignore[method-assign,assignment]
    migration.state = State.STOP_COPY
    assert migration.stream.read(1) is None
    migration.state = State.RESUMING
    assert migration.stream.write(b"x") is None
    with pytest.raises(BlockingIOError, match="must block when it is full"):
        migration.load(io.BytesIO(b"data"))


def test_waiting_is_for_what_the_stream_is_for(kernel: MigratingKernel, migration: Migration) -> None:
    asked: list[tuple[int, float | None]] = []

    def poll(fd: int, events: int, timeout: float | None) -> int:
        asked.append((events, timeout))
        return 0

    kernel.poll = poll  # type: ignore[method-assign]
    migration.state = State.STOP_COPY
    assert not migration.stream.poll(2)
    migration.state = State.RESUMING
    assert not migration.stream.poll()
    assert asked == [(select.POLLIN, 2), (select.POLLOUT, None)]


# --- sessions and what becomes of their descriptors -----------------------------------------------------------------------


def test_a_stream_is_closed_when_its_session_ends(kernel: MigratingKernel, migration: Migration) -> None:
    migration.state = State.PRE_COPY
    first = migration.stream
    migration.state = State.STOP_COPY
    assert not first.closed
    migration.state = State.STOP
    assert first.closed
    with pytest.raises(pyvfio.Closed, match="in STOP"):
        _ = migration.stream
    with pytest.raises(pyvfio.Closed, match="migration stream is closed"):
        first.read(1)
    assert descriptors(kernel) == []


def test_a_second_session_has_a_stream_of_its_own(kernel: MigratingKernel, migration: Migration) -> None:
    migration.state = State.STOP_COPY
    first = migration.stream
    migration.state = State.RESUMING
    second = migration.stream
    assert (first.closed, second.closed) == (True, False)
    assert descriptors(kernel) == ["stream"]


def test_a_reset_ends_the_session(kernel: MigratingKernel, device: Device, migration: Migration) -> None:
    migration.state = State.RESUMING
    stream = migration.stream
    device.reset()
    assert migration.state == State.RUNNING
    assert stream.closed
    assert descriptors(kernel) == []


def test_closing_the_device_closes_the_stream_first(
    kernel: MigratingKernel, device: Device, migration: Migration
) -> None:
    migration.state = State.STOP_COPY
    device.close()
    assert kernel.closed[:2] == ["stream", "fake.0"]
    with pytest.raises(pyvfio.Closed):
        _ = migration.state


def test_a_stream_that_was_closed_is_gone(kernel: MigratingKernel, migration: Migration) -> None:
    migration.state = State.STOP_COPY
    with migration.stream as stream:
        pass
    assert descriptors(kernel) == []
    with pytest.raises(pyvfio.Closed, match="migration stream is closed"):
        stream.read(1)
    assert repr(stream).endswith("saving (closed)>")
    migration.state = State.RUNNING


def test_a_failing_close_of_the_ended_stream_does_not_lose_the_new_one(
    kernel: MigratingKernel, migration: Migration
) -> None:
    migration.state = State.STOP_COPY
    close = kernel.close

    def fails_once(fd: int) -> None:
        kernel.close = close  # type: ignore[method-assign]
        close(fd)
        raise OSError(errno.EIO, "close")

    kernel.close = fails_once  # type: ignore[method-assign]
    with pytest.raises(OSError, match="close"):
        migration.state = State.RESUMING
    assert migration.stream.writable()
    assert descriptors(kernel) == ["stream"]


# --- failures ---------------------------------------------------------------------------------------------------------------


def test_a_failed_change_says_where_the_device_is(kernel: MigratingKernel, migration: Migration) -> None:
    kernel.fail = (State.RUNNING_P2P, -errno.EIO)
    with pytest.raises(
        OSError, match=r"STOP_COPY on fake\.0 \(from RUNNING, by RUNNING_P2P, STOP\).* it is in RUNNING_P2P now"
    ) as caught:
        migration.state = State.STOP_COPY
    assert caught.value.errno == errno.EIO
    assert caught.value.__notes__ == ["from RUNNING_P2P it can be asked for STOP_COPY again, or for RUNNING"]
    assert migration.state == State.RUNNING_P2P


def test_a_change_that_ends_in_error_points_to_the_reset(
    kernel: MigratingKernel, device: Device, migration: Migration
) -> None:
    kernel.fail = (State.ERROR, -errno.ENOTRECOVERABLE)
    with pytest.raises(OSError, match="it is in ERROR now") as caught:
        migration.state = State.STOP
    assert "Device.reset()" in caught.value.__notes__[0]
    with pytest.raises(pyvfio.InvalidRequest, match="only a reset"):
        migration.state = State.RUNNING
    device.reset()
    migration.state = State.STOP


def test_a_failed_change_gives_no_descriptor_away(kernel: MigratingKernel, migration: Migration) -> None:
    kernel.fail, kernel.give_on_failure = (State.STOP, -errno.EIO), True
    with pytest.raises(OSError, match="in STOP now"):
        migration.state = State.STOP_COPY
    assert descriptors(kernel) == []
    assert kernel.closed == ["given on failure"]


def test_a_descriptor_that_cannot_be_kept_is_closed(
    kernel: MigratingKernel, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pyvfio.migration.Fd", no_memory)
    with pytest.raises(MemoryError):
        migration.state = State.STOP_COPY
    assert descriptors(kernel) == []


def test_a_state_that_the_device_lacks_is_named(kernel: MigratingKernel, migration: Migration) -> None:
    kernel.flags = migration.flags = lib.VFIO_MIGRATION_STOP_COPY
    with pytest.raises(OSError, match="the device has no PRE_COPY") as caught:
        migration.state = State.PRE_COPY
    assert caught.value.errno == errno.EINVAL


def test_what_older_kernels_never_return_from_is_refused(kernel: MigratingKernel, migration: Migration) -> None:
    with pytest.raises(pyvfio.InvalidRequest, match="cannot be asked for"):
        migration.state = State.ERROR
    migration.state = State.STOP_COPY
    asked = len(kernel.calls)
    for target in (State.PRE_COPY, State.PRE_COPY_P2P):
        with pytest.raises(pyvfio.InvalidRequest, match="set RUNNING and begin again"):
            migration.state = target
    assert len(kernel.calls) - asked == 2  # the state was read, and nothing set
    with pytest.raises(ValueError, match="99"):
        migration.state = 99  # type: ignore[assignment]


def test_a_state_that_there_is_not_is_a_bad_reply(
    kernel: MigratingKernel, device: Device, migration: Migration
) -> None:
    kernel.states[device.fileno()] = 12
    with pytest.raises(pyvfio.BadReply, match="12"):
        _ = migration.state


def test_a_failing_read_says_why(
    kernel: MigratingKernel, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over(*_: object) -> Any:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(kernel, "read", over)
    migration.state = State.STOP_COPY
    with pytest.raises(OSError, match=r"read fake\.0's migration stream.*session of the stream is over") as caught:
        migration.stream.read(1)
    assert caught.value.errno == errno.ENODEV


def test_a_failing_write_points_to_the_data(
    kernel: MigratingKernel, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> Any:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(kernel, "write", refused)
    with pytest.raises(OSError, match=r"write fake.*does not accept the data") as caught:
        migration.load(io.BytesIO(b"of another device"))
    assert caught.value.errno == errno.EINVAL
    assert migration.state == State.RESUMING


# --- pre-copy and whole transfers -----------------------------------------------------------------------------------------


def test_flags_of_precopy_info_mean_nothing_without_the_opt_in(kernel: MigratingKernel, migration: Migration) -> None:
    kernel.info_flags = 0xFFFFFFFF
    migration.state = State.PRE_COPY
    info = migration.precopy_info
    assert info == (len(kernel.state), 0, False)
    assert info.pending == len(kernel.state)
    migration.allow_reinit()
    assert migration.precopy_info.reinit


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EINVAL, "PRE_COPY_P2P only"), (errno.ENOTTY, "loading"), (errno.ENODEV, "over")]
)
def test_precopy_info_that_fails_says_why(
    kernel: MigratingKernel, migration: Migration, number: int, words: str
) -> None:
    kernel.answers["migration", "VFIO_MIG_GET_PRECOPY_INFO"] = lambda fd, argument: -number
    migration.state = State.PRE_COPY
    with pytest.raises(OSError, match=words) as caught:
        _ = migration.precopy_info
    assert caught.value.errno == number


def test_precopy_info_without_a_session_says_so(migration: Migration) -> None:
    with pytest.raises(pyvfio.Closed, match="in RUNNING"):
        _ = migration.precopy_info


def test_pre_copy_and_save_make_one_stream_and_load_takes_it(
    kernel: MigratingKernel, space: Container, migration: Migration
) -> None:
    kernel.piece, kernel.change = 7, b"changed"
    file = io.BytesIO()
    for rounds, _ in enumerate(migration.pre_copy(file)):
        if rounds == 50:
            break
    before = file.tell()
    states = [migration.state]
    kernel.state += b"what changed last"
    kernel.change = b""
    assert migration.save(file) == len(kernel.state) - before > 0
    assert [*states, migration.state] == [State.PRE_COPY, State.STOP_COPY]
    assert file.getvalue() == kernel.state
    file.seek(0)
    target = space.attach("fake.1").migration
    assert target.load(file) == len(kernel.state)
    assert target.state == State.STOP
    assert kernel.received == kernel.state


def test_pre_copy_stays_where_it_is(migration: Migration) -> None:
    migration.state = State.PRE_COPY_P2P
    next(migration.pre_copy(io.BytesIO()))
    assert migration.state == State.PRE_COPY_P2P


def test_short_writes_lose_nothing(kernel: MigratingKernel, migration: Migration) -> None:
    class Short(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:3])

    file = Short()
    assert migration.save(file) == len(file.getvalue()) == len(kernel.state)


def test_data_size_is_the_kernels(kernel: MigratingKernel, migration: Migration) -> None:
    assert migration.data_size == len(kernel.state)
