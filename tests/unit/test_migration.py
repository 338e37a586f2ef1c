# SPDX-License-Identifier: MIT
"""Migration: the rules of the states, the stream as a file, and answers that no real kernel gives."""

from __future__ import annotations

import errno
import io
import itertools
import os
import select
from typing import Any

import pytest

import pyvfio
from pyvfio import Container, Device, Migration, mock
from pyvfio._abi import ffi, lib
from pyvfio.migration import State, path, states
from pyvfio.mock.devices.vfio_mock import VfioMock as MockDevice
from pyvfio.vfio_mock import VfioMock
from tests.overriding import Overriding

pytestmark = pytest.mark.vfio(mode="type1v2")
PAGE = 4096
MEMORY = 1

ALL = lib.VFIO_MIGRATION_STOP_COPY | lib.VFIO_MIGRATION_P2P | lib.VFIO_MIGRATION_PRE_COPY


@pytest.fixture
def migration(device: Device) -> Migration:
    return device.migration


@pytest.fixture
def content(space: Container) -> bytes:
    """The migration stream of a newly opened device."""
    file = io.BytesIO()
    with space.attach("vfio-mock.1") as device:
        device.migration.save(file)
    return file.getvalue()


def streams_open(kernel: Overriding) -> int:
    return [file.kind for file in kernel.files.values()].count("migration")


def limit(kernel: Overriding, name: str, flags: int) -> None:
    """Restrict a device to these VFIO_MIGRATION_* flags."""
    device = kernel.devices[name]
    assert isinstance(device, MockDevice)
    device.states.flags = flags


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
def test_path_between_states_is_the_kernels(way: str) -> None:
    origin, *rest = names(way)
    assert path(origin, rest[-1]) == tuple(rest)


def test_a_state_prints_as_its_name_and_counts_as_a_number() -> None:
    assert f"{State.STOP_COPY}|{State.STOP:>5}|{State.RUNNING!s}" == "STOP_COPY| STOP|RUNNING"
    assert f"{State.RUNNING:d} {State.RUNNING:#04x}" == "2 0x02"
    assert int(State.RUNNING) == 2


def test_path_skips_states_that_a_device_lacks() -> None:
    only_stop = lib.VFIO_MIGRATION_STOP_COPY
    assert path(State.RUNNING, State.STOP_COPY, only_stop) == names("STOP STOP_COPY")
    assert path(State.PRE_COPY, State.STOP_COPY, ALL & ~lib.VFIO_MIGRATION_P2P) == names("STOP_COPY")
    assert path(State.RESUMING, State.RUNNING, ALL & ~lib.VFIO_MIGRATION_PRE_COPY) == names("STOP RUNNING_P2P RUNNING")
    assert states(only_stop) == set(names("STOP RUNNING STOP_COPY RESUMING"))
    assert states(0) == frozenset()


def test_path_exists_except_to_error_or_stop_copy_to_pre_copy() -> None:
    none = {(State.STOP_COPY, State.PRE_COPY), (State.STOP_COPY, State.PRE_COPY_P2P)}
    for pair in itertools.product(State, repeat=2):
        if pair in none or State.ERROR in pair:
            with pytest.raises(ValueError, match=r"no path|cannot go"):
                path(*pair)
        elif pair[0] == pair[1]:
            assert path(*pair) == ()
        else:
            assert path(*pair)[-1] == pair[1]


def test_path_to_a_state_that_the_device_lacks_fails() -> None:
    with pytest.raises(ValueError, match="PRE_COPY"):
        path(State.RUNNING, State.PRE_COPY, lib.VFIO_MIGRATION_STOP_COPY)


# --- capabilities ---------------------------------------------------------------------------------------------------------


def test_abilities_of_the_device_are_reported(kernel: Overriding, space: Container, migration: Migration) -> None:
    assert (migration.has_p2p, migration.has_pre_copy, migration.flags) == (True, True, ALL)
    assert repr(migration) == "<Migration of vfio-mock.0: STOP_COPY, P2P, PRE_COPY>"
    limit(kernel, "vfio-mock.1", lib.VFIO_MIGRATION_STOP_COPY)
    plain = space.attach("vfio-mock.1").migration
    assert (plain.has_p2p, plain.has_pre_copy) == (False, False)
    assert plain.states == set(names("STOP RUNNING STOP_COPY RESUMING"))
    for refused in (plain.allow_reinit, lambda: next(plain.pre_copy(io.BytesIO()))):
        with pytest.raises(pyvfio.Unsupported, match="does not support pre-copy"):
            refused()


# --- the stream as a file -------------------------------------------------------------------------------------------------


def test_saving_stream_is_a_file_to_read(kernel: Overriding, migration: Migration, content: bytes) -> None:
    migration.state = State.STOP_COPY
    stream = migration.stream
    assert (stream.readable(), stream.writable(), stream.seekable()) == (True, False, False)
    assert (stream.name, stream.mode) == ("vfio-mock.0's migration stream", "rb")
    assert kernel.files[stream.fileno()].kind == "migration"
    assert stream.read(7) == content[:7]
    buffer = bytearray(10)
    assert stream.readinto(memoryview(buffer)[:4]) == 4
    assert buffer == content[7:11] + bytes(6)
    kernel.failures.shorten(5, call="read")
    assert stream.read(100) == content[11:16]
    assert io.BufferedReader(stream, 64).read() == content[16:]


def test_loading_stream_is_a_file_to_write(
    kernel: Overriding, device: Device, migration: Migration, content: bytes
) -> None:
    migration.state = State.RESUMING
    stream = migration.stream
    assert (stream.readable(), stream.writable(), stream.mode) == (False, True, "wb")
    kernel.failures.shorten(3, call="write")
    assert stream.write(content[:6]) == 3
    assert VfioMock(device)["MIG_RECEIVED"] == 3
    assert stream.poll(0)


def test_stream_in_the_wrong_direction_is_unsupported(migration: Migration) -> None:
    migration.state = State.STOP_COPY
    with pytest.raises(io.UnsupportedOperation, match="saving its state"):
        migration.stream.write(b"x")
    migration.state = State.RESUMING
    with pytest.raises(io.UnsupportedOperation, match="loading its state"):
        migration.stream.read(1)


def test_read_without_data_is_none_and_the_end_is_empty(migration: Migration, content: bytes) -> None:
    migration.state = State.PRE_COPY
    stream = migration.stream
    first = stream.read() or b""
    assert content.startswith(first)
    assert stream.read(1) is None
    migration.state = State.STOP_COPY
    assert migration.stream is stream
    assert stream.read() == content[len(first) :]
    assert stream.read(1) == b""


def test_non_blocking_stream_returns_none(kernel: Overriding, migration: Migration) -> None:
    for call in ("read", "write", "write"):
        kernel.failures.fail(errno.EAGAIN, call=call)
    migration.state = State.STOP_COPY
    assert migration.stream.read(1) is None
    migration.state = State.RESUMING
    assert migration.stream.write(b"x") is None
    with pytest.raises(BlockingIOError, match="blocks when it is full"):
        migration.load(io.BytesIO(b"data"))


def test_poll_waits_for_the_direction_of_the_stream(
    kernel: Overriding, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, float | None]] = []

    def poll(fd: int, events: int, timeout: float | None, waker: int) -> int:
        asked.append((events, timeout))
        return 0

    monkeypatch.setattr(kernel, "poll_with_waker", poll)
    migration.state = State.STOP_COPY
    assert not migration.stream.poll(2)
    migration.state = State.RESUMING
    assert not migration.stream.poll()
    assert asked == [(select.POLLIN, 2), (select.POLLOUT, None)]


# --- sessions and what becomes of their descriptors -----------------------------------------------------------------------


def test_stream_is_closed_when_its_session_ends(kernel: Overriding, migration: Migration) -> None:
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
    assert not streams_open(kernel)


def test_second_session_has_its_own_stream(kernel: Overriding, migration: Migration) -> None:
    migration.state = State.STOP_COPY
    first = migration.stream
    migration.state = State.RESUMING
    second = migration.stream
    assert (first.closed, second.closed) == (True, False)
    assert streams_open(kernel) == 1


def test_device_close_closes_the_stream_first(
    kernel: Overriding, device: Device, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    def close(fd: int) -> None:
        closed.append(kernel.files[fd].kind)
        mock.Kernel.close(kernel, fd)

    monkeypatch.setattr(kernel, "close", close)
    migration.state = State.STOP_COPY
    device.close()
    assert closed[:2] == ["migration", "device"]
    with pytest.raises(pyvfio.Closed):
        _ = migration.state


def test_closed_stream_leaves_no_descriptor(kernel: Overriding, migration: Migration) -> None:
    migration.state = State.STOP_COPY
    with migration.stream as stream:
        pass
    assert not streams_open(kernel)
    with pytest.raises(pyvfio.Closed, match="migration stream is closed"):
        stream.read(1)
    assert repr(stream).endswith("saving (closed)>")
    migration.state = State.RUNNING


def test_failed_close_of_a_stream_does_not_lose_the_next(
    kernel: Overriding, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration.state = State.STOP_COPY
    errors = [OSError(errno.EIO, "close")]

    def fails_once(fd: int) -> None:
        mock.Kernel.close(kernel, fd)
        if errors:
            raise errors.pop()

    monkeypatch.setattr(kernel, "close", fails_once)
    with pytest.raises(OSError, match="close"):
        migration.state = State.RESUMING
    assert migration.stream.writable()
    assert streams_open(kernel) == 1


# --- failures ---------------------------------------------------------------------------------------------------------------


def test_failed_state_change_names_the_current_state(device: Device, migration: Migration) -> None:
    VfioMock(device).fail("MIG_SET_STATE", nth=2)
    with pytest.raises(
        OSError,
        match=r"STOP_COPY on vfio-mock\.0 \(from RUNNING, by RUNNING_P2P, STOP\).* the device is in RUNNING_P2P",
    ) as caught:
        migration.state = State.STOP_COPY
    assert caught.value.errno == errno.EIO
    assert caught.value.__notes__ == ["from RUNNING_P2P the device can be set to STOP_COPY again, or back to RUNNING"]
    assert migration.state == State.RUNNING_P2P


def test_failed_state_change_leaks_no_descriptor(kernel: Overriding, migration: Migration) -> None:
    given: list[int] = []

    def fail(argument: int) -> int:
        given.append(kernel.eventfd())
        feature = ffi.cast("struct vfio_device_feature *", argument)
        ffi.cast("struct vfio_device_feature_mig_state *", ffi.addressof(feature, "data")).data_fd = given[0]
        return -errno.EIO

    kernel.answers["VFIO_DEVICE_FEATURE SET MIG_DEVICE_STATE STOP_COPY"] = fail
    with pytest.raises(OSError, match="in RUNNING"):
        migration.state = State.STOP_COPY
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given[0])


def test_stream_that_cannot_be_wrapped_is_closed(
    kernel: Overriding, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pyvfio._core.fd.Fd._connect", no_memory)
    with pytest.raises(MemoryError):
        migration.state = State.STOP_COPY
    assert not streams_open(kernel)


def test_refusal_names_the_state_that_the_device_lacks(kernel: Overriding, migration: Migration) -> None:
    migration.flags = lib.VFIO_MIGRATION_STOP_COPY
    limit(kernel, "vfio-mock.0", migration.flags)
    with pytest.raises(OSError, match="the device does not support PRE_COPY") as caught:
        migration.state = State.PRE_COPY
    assert caught.value.errno == errno.EINVAL


def test_changes_that_hang_older_kernels_are_refused(kernel: Overriding, migration: Migration) -> None:
    with pytest.raises(pyvfio.InvalidRequest, match="cannot be requested"):
        migration.state = State.ERROR
    migration.state = State.STOP_COPY
    asked = len(kernel.calls)
    for target in (State.PRE_COPY, State.PRE_COPY_P2P):
        with pytest.raises(pyvfio.InvalidRequest, match="set RUNNING first and start again"):
            migration.state = target
    assert len(kernel.calls) - asked == 2  # the state was read, and nothing set
    with pytest.raises(ValueError, match="99"):
        migration.state = 99  # type: ignore[assignment]


def test_unknown_state_is_a_bad_reply(kernel: Overriding, migration: Migration) -> None:
    def unknown(argument: int) -> int:
        feature = ffi.cast("struct vfio_device_feature *", argument)
        ffi.cast("struct vfio_device_feature_mig_state *", ffi.addressof(feature, "data")).device_state = 12
        return 0

    kernel.answers["VFIO_DEVICE_FEATURE GET MIG_DEVICE_STATE"] = unknown
    with pytest.raises(pyvfio.BadReply, match="12"):
        _ = migration.state


def test_failed_read_says_that_the_session_is_over(kernel: Overriding, migration: Migration) -> None:
    kernel.failures.fail(errno.ENODEV, call="read")
    migration.state = State.STOP_COPY
    with pytest.raises(OSError, match=r"read vfio-mock\.0's migration stream.*the stream has ended") as caught:
        migration.stream.read(1)
    assert caught.value.errno == errno.ENODEV


def test_failed_write_blames_the_data(migration: Migration) -> None:
    with pytest.raises(OSError, match=r"write vfio-mock\.0.*does not accept the data") as caught:
        migration.load(io.BytesIO(b"of another device".ljust(100)))
    assert caught.value.errno == errno.EINVAL
    assert migration.state == State.RESUMING


# --- pre-copy and whole transfers -----------------------------------------------------------------------------------------


def test_precopy_flags_are_ignored_without_the_opt_in(kernel: Overriding, migration: Migration) -> None:
    def answer(argument: int) -> int:
        info = ffi.cast("struct vfio_precopy_info *", argument)
        assert (info.argsz, info.flags) == (24, 0)
        info.initial_bytes, info.dirty_bytes, info.flags = 70, 7, 0xFFFFFFFF
        return 0

    kernel.answers["VFIO_MIG_GET_PRECOPY_INFO"] = answer
    migration.state = State.PRE_COPY
    info = migration.precopy_info
    assert info == (70, 7, False)
    assert info.pending == 77
    migration.allow_reinit()
    assert migration.precopy_info.reinit


def test_pre_copy_and_save_make_one_stream_for_load(space: Container, device: Device, migration: Migration) -> None:
    file = io.BytesIO()
    for rounds, _ in enumerate(migration.pre_copy(file)):
        device.regions[MEMORY].write(rounds * PAGE, bytes([rounds + 1]) * PAGE)
        if rounds == 5:
            break
    before = file.tell()
    states = [migration.state]
    assert migration.save(file) == len(file.getvalue()) - before > 0
    assert [*states, migration.state] == [State.PRE_COPY, State.STOP_COPY]
    file.seek(0)
    target = space.attach("vfio-mock.1")
    assert target.migration.load(file) == len(file.getvalue())
    assert target.migration.state == State.STOP
    assert target.regions[MEMORY].read(0, 6 * PAGE) == device.regions[MEMORY].read(0, 6 * PAGE)


def test_pre_copy_keeps_the_p2p_state(migration: Migration) -> None:
    migration.state = State.PRE_COPY_P2P
    next(migration.pre_copy(io.BytesIO()))
    assert migration.state == State.PRE_COPY_P2P


def test_short_writes_lose_nothing(migration: Migration, content: bytes) -> None:
    class Short(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:1000])

    file = Short()
    assert migration.save(file) == len(content)
    assert file.getvalue() == content
