# SPDX-License-Identifier: MIT
"""Migration: states and their transitions, the data stream, whole transfers, and failures."""

from __future__ import annotations

import errno
import gc
import io
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio
from pyvfio import Closed, DmaBuffer, InvalidRequest, Migration, Unsupported
from pyvfio._abi import ffi, lib
from pyvfio.migration import SAVING, State, path
from pyvfio.spaces.opening import Mode
from tests.contract import guest

if TYPE_CHECKING:
    from vmtest.matrix import Cell

    from pyvfio import Device
    from pyvfio.spaces.base import AddressSpace
    from pyvfio.vfio_mock import VfioMock
    from tests.contract.drivers import Logger

PAGE = 4096
BASE = 0x10_0000
MEMORY = 1
#: Sizes in vfio-mock's stream, in bytes: a record without payload, the header, a record with a page.
RECORD, HEADER, PAGE_RECORD = 32, 64, 32 + PAGE
#: Migration does not depend on the address space, so most tests run in one mode with groups and in one with cdevs.
pytestmark = pytest.mark.only(mode=["type1v2", "iommufd"], device=["vfio-mock", "edu-vfio-pci"])
#: For tests of vfio-mock's memory, DMA engine and stream.
of_vfio_mock = pytest.mark.only(mode=["type1v2", "iommufd"], device="vfio-mock")
everywhere = pytest.mark.only(device="vfio-mock")


@pytest.fixture
def mock(device: Device, migration: Migration) -> VfioMock:
    """The driver of vfio-mock. The device's memory and registers are the state that migrates."""
    from pyvfio.vfio_mock import VfioMock

    return VfioMock(device)


@pytest.fixture
def control(migration: Migration, logger: Logger) -> Logger:
    """The device's driver, which injects failures and reads counters."""
    return logger


@pytest.fixture
def second(space: AddressSpace, migration: Migration) -> Iterator[Device]:
    """Another device of the same kind, in the same address space."""
    with space.attach("vfio-mock.1") as device:
        yield device


@pytest.fixture
def cards(bare_space: AddressSpace, address: str) -> Iterator[list[Device]]:
    """Two devices of the kernel's sample driver mtty: serial cards with two ports."""
    with (
        guest.mtty() as one,
        guest.mtty() as other,
        bare_space.attach(one) as first,
        bare_space.attach(other) as second,
    ):
        yield [first, second]


def saved(device: Device) -> bytes:
    """Save a device's state and return it. The device is RUNNING again afterwards."""
    file = io.BytesIO()
    device.migration.save(file)
    device.migration.state = State.RUNNING
    return file.getvalue()


def load(device: Device, data: bytes) -> None:
    device.migration.load(io.BytesIO(data))
    device.migration.state = State.RUNNING


def descriptors() -> list[str]:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(link) for link in links if os.path.lexists(link))


def streams_open(kernel: Any) -> int:
    if (files := getattr(kernel, "files", None)) is not None:  # the mock, which names its descriptors differently
        return sum(file.kind == "migration" for file in files.values())
    return sum("mig" in name for name in descriptors())


def passed(control: Logger) -> tuple[State, ...]:
    """Return the states that the device passed through in the last request."""
    value = control["MIG_PATH"]
    reached = []
    while value:
        reached.append(State(value & 15))
        value >>= 4
    return tuple(reversed(reached))


def restart(device: Device) -> None:
    """Bring a device back to RUNNING. A device without a reset must not be in ERROR."""
    if device.info.resettable:
        device.reset()
    else:
        device.migration.state = State.RUNNING


def go(device: Device, state: State, data: bytes) -> None:
    """Bring a device from any state into another.

    In RESUMING, write `data`, so that the device can leave the state again.
    """
    restart(device)
    device.migration.state = state
    if state == State.RESUMING:
        device.migration.stream.write(data)


def ask(device: Device, target: State) -> int:
    """Make the request directly, without the library's checks, and return 0 or an errno."""
    change = ffi.new("struct vfio_device_feature_mig_state *", {"device_state": target, "data_fd": -1})
    try:
        device.features.exchange(lib.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | lib.VFIO_DEVICE_FEATURE_SET, change)
    except OSError as error:
        assert (change.device_state, change.data_fd) == (target, -1)  # as in the request; not the reached state
        return error.errno or errno.EIO
    return 0


def duplicate(kernel: Any, fd: int) -> int:
    copy = os.dup(fd)
    if (files := getattr(kernel, "files", None)) is not None:  # the mock's own table of descriptors
        files[fd].hold()
        files[copy] = files[fd]
    return copy


def is_over(kernel: Any, fd: int, *, saving: bool) -> bool:
    """Whether the kernel has ended the migration session of a descriptor."""
    try:
        kernel.read(fd, 1) if saving else kernel.write(fd, b"")
    except OSError as error:
        return error.errno == errno.ENODEV
    return False


# --- reported properties --------------------------------------------------------------------------------------------------


def test_the_device_says_what_it_can(migration: Migration, cell: Cell) -> None:
    lacking = {State.PRE_COPY, State.PRE_COPY_P2P} if cell.kernel == "6.1" else set()
    pre_copy = 0 if lacking else lib.VFIO_MIGRATION_PRE_COPY
    assert migration.flags == lib.VFIO_MIGRATION_STOP_COPY | lib.VFIO_MIGRATION_P2P | pre_copy
    assert migration.states == set(State) - {State.ERROR} - lacking
    assert migration.state == State.RUNNING
    with pytest.raises(Closed, match="in RUNNING"):
        _ = migration.stream


@pytest.mark.require("functions")
@pytest.mark.only(device=["edu", "nvme", "e1000e", "igb"])
def test_a_device_that_cannot_migrate_says_so(device: Device) -> None:
    with pytest.raises(Unsupported, match="cannot be migrated"):
        _ = device.migration


@pytest.mark.require("pre_copy")
def test_the_data_size_is_what_is_sent(control: Logger, migration: Migration) -> None:
    before = migration.data_size
    assert before > 0
    assert migration.save(io.BytesIO()) == before == control["MIG_SENT"]
    assert migration.data_size == 0


# --- transitions ----------------------------------------------------------------------------------------------------------


def check_every_transition(
    device: Device, data: bytes, reached: Callable[[], tuple[State, ...] | None], kernel: Any
) -> None:
    migration = device.migration
    for origin, target in itertools.product(sorted(migration.states), repeat=2):
        go(device, origin, data)
        stream = migration.stream if origin in SAVING | {State.RESUMING} else None
        # Duplicate the descriptor, so that the session can be checked after the library has closed its own.
        fd = duplicate(kernel, stream.fileno()) if stream is not None else -1
        try:
            if origin == State.STOP_COPY and target in (State.PRE_COPY, State.PRE_COPY_P2P):
                with pytest.raises(InvalidRequest, match="cannot go from"):
                    migration.state = target
                assert migration.state == origin
                continue
            migration.state = target
            way = path(origin, target, migration.flags)
            assert (migration.state, reached()) in ((target, way), (target, None)), (origin, target)
            goes_on = origin == target or {origin, target} <= SAVING
            if stream is not None:
                assert stream.closed != goes_on
                assert is_over(kernel, fd, saving=stream.mode == "rb") != goes_on
            if target in SAVING | {State.RESUMING}:
                assert (migration.stream is stream) == goes_on
                assert migration.stream.writable() == (target == State.RESUMING)
            if target == State.RESUMING != origin:
                migration.stream.write(data)  # the device can leave RESUMING only with complete data
        finally:
            if fd >= 0:
                kernel.close(fd)
    restart(device)


def test_every_transition_goes_the_kernels_way(control: Logger, kernel: Any) -> None:
    gc.collect()  # let an event loop of an earlier test close its descriptors now, not between the two counts
    before = descriptors()
    check_every_transition(control.device, saved(control.device), lambda: passed(control), kernel)
    assert control.device.migration.state == State.RUNNING
    assert descriptors() == before


@of_vfio_mock
@pytest.mark.require("linux")
def test_every_transition_of_the_kernels_sample_works(cards: list[Device], kernel: Any) -> None:
    check_every_transition(cards[0], saved(cards[0]), lambda: None, kernel)
    assert cards[0].migration.state == State.RUNNING
    assert not streams_open(kernel)


def test_a_failing_step_leaves_the_device_in_the_state_before_it(
    control: Logger, migration: Migration, kernel: Any
) -> None:
    data = saved(control.device)
    for origin, target in itertools.product(sorted(migration.states), repeat=2):
        try:
            way = path(origin, target, migration.flags)
        except ValueError:
            continue
        for nth, before in enumerate((origin, *way[:-1]) if way else (), start=1):
            go(control.device, origin, data)
            control.fail("MIG_SET_STATE", nth=nth)
            with pytest.raises(
                OSError, match=f"{target.name} on .*from {origin.name}.* the device is (still )?in {before.name}"
            ) as caught:
                migration.state = target
            assert caught.value.errno == errno.EIO
            assert migration.state == before
            assert passed(control) == way[: nth - 1]
            # Only the stream of the current state, if it has one, is still open.
            assert streams_open(kernel) == (before in SAVING | {State.RESUMING})
            migration.state = target
            assert migration.state == target
            if target == State.RESUMING:
                migration.stream.write(data)
    restart(control.device)
    assert (migration.state, streams_open(kernel)) == (State.RUNNING, 0)


def test_what_the_library_refuses_the_kernel_refuses_too(control: Logger, migration: Migration) -> None:
    for origin in (State.RUNNING, State.STOP_COPY):
        migration.state = origin
        assert ask(control.device, State.ERROR) == errno.EINVAL
    for target in (State.PRE_COPY, State.PRE_COPY_P2P):
        assert ask(control.device, target) == errno.EINVAL
    assert migration.state == State.STOP_COPY
    with pytest.raises(InvalidRequest, match="ERROR cannot be requested"):
        migration.state = State.ERROR


# In releases before 6.12.96 and 6.1.193, mtty loops for ever.
@pytest.mark.only(mode=["type1v2", "iommufd"], device="vfio-mock", kernel="newest")
def test_the_kernels_own_sample_refuses_what_has_no_way(cards: list[Device]) -> None:
    card = cards[0]
    assert ask(card, State.ERROR) == errno.EINVAL
    card.migration.state = State.STOP_COPY
    for target in (State.PRE_COPY, State.PRE_COPY_P2P, State.ERROR):
        assert ask(card, target) == errno.EINVAL
    assert card.migration.state == State.STOP_COPY


@of_vfio_mock
def test_only_a_reset_leads_out_of_error(mock: VfioMock, migration: Migration) -> None:
    mock.fail("MIG_SET_STATE", nth=2, error=errno.ENOTRECOVERABLE)
    with pytest.raises(OSError, match="the device is in ERROR") as caught:
        migration.state = State.STOP
    assert caught.value.errno == errno.ENOTRECOVERABLE
    assert any("Device.reset()" in note for note in caught.value.__notes__)
    for target in (State.RUNNING, State.STOP, State.RESUMING):
        with pytest.raises(InvalidRequest, match="only a reset"):
            migration.state = target
        assert ask(mock.device, target) == errno.EINVAL
    mock.device.reset()
    assert migration.state == State.RUNNING
    load(mock.device, saved(mock.device))


@everywhere
def test_the_device_works_in_running_and_pre_copy_alone(mock: VfioMock, migration: Migration) -> None:
    data = saved(mock.device)
    for state in sorted(migration.states):
        go(mock.device, state, data)
        if state != State.RESUMING:
            mock.start("TOUCH", "REPEAT", "LOCAL", iova=0, length=PAGE)
            works = state in (State.RUNNING, State.PRE_COPY)
            limit = time.monotonic() + (60 if works else 0.1)
            while not mock["DMA_STEPS"] and time.monotonic() < limit:
                time.sleep(0.005)
            assert (mock["DMA_STEPS"] > 0) == works
    mock.device.reset()


def test_a_second_session_ends_the_first(control: Logger, migration: Migration, kernel: Any) -> None:
    migration.state = State.STOP_COPY
    first = duplicate(kernel, migration.stream.fileno())
    try:
        assert kernel.read(first, 10)
        migration.state = State.STOP
        migration.state = State.STOP_COPY
        assert len(migration.stream.read(10) or b"") == 10
        assert is_over(kernel, first, saving=True)
        # poll() does not block: it reports that a read would return at once.
        assert migration.stream.poll(0)
    finally:
        kernel.close(first)
    migration.state = State.RUNNING


@of_vfio_mock
@pytest.mark.require("pre_copy")
def test_a_reset_ends_the_session(mock: VfioMock, migration: Migration, kernel: Any) -> None:
    migration.state = State.PRE_COPY
    stream = migration.stream
    mock.device.reset()
    with pytest.raises(OSError, match="the stream has ended") as caught:
        stream.read(1)
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(OSError, match="the stream has ended") as caught:
        _ = migration.precopy_info
    assert caught.value.errno == errno.ENODEV
    assert stream.poll(0)
    assert migration.state == State.RUNNING
    assert (stream.closed, streams_open(kernel)) == (True, 0)


def test_a_closed_device_has_no_stream_and_runs_when_reopened(
    bare_space: AddressSpace, address: str, device: Device, migration: Migration, kernel: Any
) -> None:
    migration.state = State.STOP_COPY
    assert streams_open(kernel) == 1
    device.close()
    assert streams_open(kernel) == 0
    with bare_space.attach(address) as again:
        assert again.migration.state == State.RUNNING


@pytest.mark.require("pre_copy")
@pytest.mark.parametrize(
    ("call", "make"),
    [
        ("MIG_GET_STATE", lambda migration: migration.state),
        ("MIG_DATA_SIZE", lambda migration: migration.data_size),
        ("MIG_PRECOPY_INFO", lambda migration: migration.precopy_info),
        ("MIG_READ", lambda migration: migration.stream.read(100)),
    ],
    ids=["state", "data-size", "precopy-info", "read"],
)
def test_a_call_that_fails_once_works_afterwards(
    control: Logger, migration: Migration, call: str, make: Callable[[Migration], Any]
) -> None:
    migration.state = State.PRE_COPY
    control.fail(call, error=errno.EIO)
    with pytest.raises(OSError, match=control.device.address) as caught:
        make(migration)
    assert caught.value.errno == errno.EIO
    assert make(migration)
    migration.state = State.RUNNING


# --- the stream -----------------------------------------------------------------------------------------------------------


@everywhere
def test_what_one_device_saves_another_loads(mock: VfioMock, second: Device) -> None:
    from pyvfio.vfio_mock import VfioMock

    memory, target = mock.device.regions[MEMORY], VfioMock(second)
    content = random.Random(1).randbytes(memory.size)
    memory.write(0, content)
    mock["SCRATCH64"] = 0x1122334455667788
    mock["DMA_SEED"] = 77
    load(second, saved(mock.device))
    assert second.regions[MEMORY].read(0, memory.size) == content
    assert (target["SCRATCH64"], target["DMA_SEED"], target["MIG_STATE"]) == (0x1122334455667788, 77, State.RUNNING)


@of_vfio_mock
@pytest.mark.require("linux")
def test_the_kernels_own_sample_saves_and_loads(cards: list[Device]) -> None:
    scratch = 7  # the scratch register of the serial port, which has no function
    for port, value in ((0, 0x5A), (1, 0xA5)):
        cards[0].regions[port].write8(scratch, value)
        cards[1].regions[port].write8(scratch, 0)
    file = io.BytesIO()
    for left in cards[0].migration.pre_copy(file):
        if not left.pending:  # until it is stopped, mtty has only a header to send; further reads return 0, not ENOMSG
            break
    assert cards[0].migration.stream.read(1) == b""
    assert file.tell() > 0
    cards[0].migration.save(file)
    assert file.tell() <= cards[0].migration.data_size
    load(cards[1], file.getvalue())
    assert [cards[1].regions[port].read8(scratch) for port in (0, 1)] == [0x5A, 0xA5]


@of_vfio_mock
def test_pieces_mean_nothing(mock: VfioMock, second: Device, migration: Migration) -> None:
    content = random.Random(2).randbytes(mock.device.regions[MEMORY].size)
    mock.device.regions[MEMORY].write(0, content)
    sizes = itertools.cycle((1, 7, 4096, 31, 65537, 4127, 300_000))
    migration.state = State.STOP_COPY
    data = b""
    while piece := migration.stream.read(next(sizes)):
        data += piece
    second.migration.state = State.RESUMING
    at = 0
    while at < len(data):
        at += second.migration.stream.write(data[at : at + next(sizes)]) or 0
    second.migration.state = State.RUNNING
    assert second.regions[MEMORY].read(0, len(content)) == content


@of_vfio_mock
@pytest.mark.require("pre_copy")
def test_a_stream_is_a_file_to_the_standard_library(mock: VfioMock, migration: Migration, kernel: Any) -> None:
    migration.state = State.STOP_COPY
    size = migration.data_size
    assert size > mock.device.regions[MEMORY].size
    with io.BufferedReader(migration.stream) as reader:
        assert reader.read(HEADER)[:8] == b"vfiomock"
        assert len(reader.read()) == size - HEADER
    assert streams_open(kernel) == 0
    migration.state = State.RUNNING


def test_a_stream_in_the_wrong_direction_is_refused(control: Logger, migration: Migration, kernel: Any) -> None:
    migration.state = State.STOP_COPY
    with pytest.raises(io.UnsupportedOperation):
        migration.stream.write(b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.write(migration.stream.fileno(), b"x")
    migration.state = State.RESUMING
    with pytest.raises(io.UnsupportedOperation):
        migration.stream.read(1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.read(migration.stream.fileno(), 1)
    control.device.close()  # out of RESUMING without data


# --- pre-copy -------------------------------------------------------------------------------------------------------------


@of_vfio_mock
@pytest.mark.require("pre_copy")
def test_pre_copy_has_nothing_for_now_until_the_device_writes(mock: VfioMock, migration: Migration) -> None:
    migration.state = State.PRE_COPY
    stream = migration.stream
    before = migration.precopy_info
    assert before.initial_bytes > mock.device.regions[MEMORY].size
    assert before.dirty_bytes == 0
    assert stream.read(HEADER) is not None
    assert migration.precopy_info.initial_bytes == before.initial_bytes - HEADER
    assert stream.read() is not None
    assert migration.precopy_info == (0, 0, False)
    assert stream.read(1) is None
    assert not stream.poll(0)
    mock.start("TOUCH", "LOCAL", iova=0, length=3 * PAGE)
    mock.finish()
    assert stream.poll(10)
    assert migration.precopy_info == (0, 3 * PAGE_RECORD, False)
    assert len(stream.read() or b"") == 3 * PAGE_RECORD
    assert stream.read(1) is None
    migration.state = State.STOP_COPY
    assert stream.read(1)
    assert stream.read()
    assert (stream.read(1), stream.poll(0)) == (b"", True)
    migration.state = State.RUNNING


@pytest.mark.require("pre_copy")
def test_precopy_info_is_for_pre_copy(control: Logger, migration: Migration) -> None:
    with pytest.raises(Closed):
        _ = migration.precopy_info
    migration.state = State.PRE_COPY_P2P
    assert migration.precopy_info.initial_bytes > 0
    migration.state = State.STOP_COPY
    with pytest.raises(OSError, match="only in PRE_COPY and PRE_COPY_P2P") as caught:
        _ = migration.precopy_info
    assert caught.value.errno == errno.EINVAL
    migration.state = State.RESUMING
    with pytest.raises(OSError, match="loading its state") as caught:
        _ = migration.precopy_info
    assert caught.value.errno == errno.ENOTTY
    control.device.close()  # out of RESUMING without data


@of_vfio_mock
@pytest.mark.require("reinit")
def test_new_initial_data_is_told_once_to_who_allows_it(mock: VfioMock, migration: Migration) -> None:
    migration.state = State.PRE_COPY
    stream = migration.stream
    whole = migration.precopy_info.initial_bytes - HEADER
    stream.read()
    mock["MIG_REINIT"] = 1
    assert migration.precopy_info == (0, whole, False)
    stream.read()
    migration.allow_reinit()
    assert migration.precopy_info == (0, 0, False)
    mock["MIG_REINIT"] = 1
    assert migration.precopy_info == (whole, 0, True)
    assert migration.precopy_info == (whole, 0, False)
    migration.state = State.RUNNING


@everywhere
@pytest.mark.require("pre_copy")
def test_pre_copy_leaves_little_for_the_stop(
    mock: VfioMock, space: AddressSpace, migration: Migration, mode: Mode, kernel: Any
) -> None:
    """The engine keeps writing to the device's memory and to the host's.

    Both are copied, and the engine continues in the other device.
    """
    from pyvfio.vfio_mock import VfioMock

    size = mock.device.regions[MEMORY].size
    ram = space.map(DmaBuffer(size), BASE)
    with pyvfio.address_space(mode, kernel=kernel) as elsewhere, elsewhere.attach("vfio-mock.1") as target:
        copy = elsewhere.map(DmaBuffer(size), BASE)
        mock.start("FILL", "KEEP", "COUNTING", iova=BASE, length=size, memory=0, pattern=1 << 32)
        mock.finish()
        copy.buffer.view[:] = ram.buffer.view
        with mock.device.dirty_log([ram.range]) as log:
            mock.start(
                "SCATTER", "KEEP", "REPEAT", "COUNTING",
                iova=BASE + 8 * PAGE, memory=8 * PAGE, length=16 * PAGE, stride=8, count=1000, seed=5, delay=100,
            )  # fmt: skip

            def copy_dirty_memory() -> None:
                for run in log.read().runs():
                    part = slice(run.start - BASE, run.last + 1 - BASE)
                    copy.buffer.view[part] = ram.buffer.view[part]

            target.migration.state = State.RESUMING
            for left in migration.pre_copy(target.migration.stream):
                copy_dirty_memory()
                if left.initial_bytes == 0 and left.dirty_bytes <= 16 * PAGE_RECORD:
                    break
            running = mock["MIG_SENT"]
            stopped = migration.save(target.migration.stream)
            copy_dirty_memory()
        steps = mock["DMA_STEPS"]
        target.migration.state = State.STOP
        assert running > size
        assert stopped < size // 8
        assert (
            target.regions[MEMORY].read(0, size) == mock.device.regions[MEMORY].read(0, size) == bytes(ram.buffer.view)
        )
        assert copy.buffer.view == ram.buffer.view
        twin = VfioMock(target)
        assert twin["DMA_STEPS"] == steps
        target.migration.state = State.RUNNING
        limit = time.monotonic() + 60
        while twin["DMA_STEPS"] < steps + 100 and time.monotonic() < limit:
            time.sleep(0.005)
        twin.stop()
        assert (mock["DMA_STEPS"], twin["DMA_STEPS"] >= steps + 100) == (steps, True)
        assert target.regions[MEMORY].read(0, size) == bytes(copy.buffer.view)
        assert copy.buffer.view != ram.buffer.view
        migration.state = State.RUNNING
        mock.stop()


# --- invalid streams ------------------------------------------------------------------------------------------------------


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_between_records(data: bytes) -> bytes:
    return data[: HEADER + 3 * PAGE_RECORD]


def nothing(data: bytes) -> bytes:
    return b""


def changed_page(data: bytes) -> bytes:
    at = HEADER + 5 * PAGE_RECORD + RECORD + 100
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def changed_header(data: bytes) -> bytes:
    return b"X" + data[1:]


def changed_number(data: bytes) -> bytes:
    at = HEADER + 16
    return data[:at] + b"\xff" * 8 + data[at + 8 :]


def twice_over(data: bytes) -> bytes:
    return data * 2


def without_a_record(data: bytes) -> bytes:
    return data[:HEADER] + data[HEADER + PAGE_RECORD :]


def from_the_middle(data: bytes) -> bytes:
    return data[HEADER:]


@of_vfio_mock
@pytest.mark.parametrize(
    ("spoil", "shows_at_write"),
    [
        (cut, False),
        (cut_between_records, False),
        (nothing, False),
        (changed_page, True),
        (changed_header, True),
        (changed_number, True),
        (twice_over, True),
        (without_a_record, True),
        (from_the_middle, True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)).replace("_", "-"),
)
def test_a_bad_stream_is_refused_and_the_device_can_be_reset(
    mock: VfioMock, second: Device, spoil: Callable[[bytes], bytes], shows_at_write: bool, kernel: Any
) -> None:
    good = saved(mock.device)
    with pytest.raises(OSError, match=r"does not accept the data|incomplete, damaged") as caught:
        second.migration.load(io.BytesIO(spoil(good)))
    assert caught.value.errno == errno.EINVAL
    assert ("write vfio" in str(caught.value)) == shows_at_write
    assert any("Device.reset()" in note for note in caught.value.__notes__)
    assert second.migration.state == (State.RESUMING if shows_at_write else State.ERROR)
    if shows_at_write:
        # The load cannot be completed either.
        with pytest.raises(OSError, match="the device is in ERROR"):
            second.migration.state = State.STOP
    assert streams_open(kernel) == 0
    second.reset()
    load(second, good)
    assert second.migration.state == State.RUNNING


@of_vfio_mock
@pytest.mark.require("linux")
def test_streams_of_other_devices_are_refused(mock: VfioMock, second: Device, cards: list[Device], kernel: Any) -> None:
    foreign, own = saved(cards[0]), saved(mock.device)
    with pytest.raises(OSError, match="does not accept the data") as caught:
        second.migration.load(io.BytesIO(foreign))
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="does not accept the data") as caught:
        cards[1].migration.load(io.BytesIO(own))
    assert caught.value.errno == errno.ENOMEM  # more data than a state has
    cards[1].reset()
    with pytest.raises(OSError, match="does not accept the data") as caught:
        cards[1].migration.load(io.BytesIO(own[:60]))
    assert caught.value.errno == errno.EFAULT
    for device, data in ((second, own), (cards[1], foreign)):
        device.reset()
        load(device, data)
    assert streams_open(kernel) == 0


@of_vfio_mock
@pytest.mark.require("linux")
def test_the_kernels_own_sample_refuses_what_is_no_good(
    cards: list[Device], bare_space: AddressSpace, kernel: Any
) -> None:
    migration, good = cards[1].migration, saved(cards[0])
    with guest.mtty(ports=1) as one_port, bare_space.attach(one_port) as smaller:
        of_one_port = saved(smaller)
    for bad, error in (
        (cut(good), errno.EINVAL),
        (b"", errno.EINVAL),
        (changed_header(good), errno.EFAULT),
        (twice_over(good), errno.ENOMEM),
        (of_one_port, errno.EFAULT),
    ):
        with pytest.raises(OSError, match=r"does not accept the data|incomplete") as caught:
            migration.load(io.BytesIO(bad))
        assert caught.value.errno == error
        assert migration.state == State.RESUMING  # mtty never goes to ERROR
        cards[1].reset()
        load(cards[1], good)
    assert streams_open(kernel) == 0


@of_vfio_mock
def test_a_write_that_the_device_fails_can_be_repeated(mock: VfioMock, second: Device) -> None:
    from pyvfio.vfio_mock import VfioMock

    good = saved(mock.device)
    VfioMock(second).fail("MIG_WRITE", error=errno.ENOMEM)
    second.migration.state = State.RESUMING
    with pytest.raises(OSError, match="write ") as caught:
        second.migration.stream.write(good)
    assert caught.value.errno == errno.ENOMEM
    assert second.migration.stream.write(good) == len(good)
    second.migration.state = State.RUNNING


# --- processes that end during a migration --------------------------------------------------------------------------------


def migrate_for_ever(mode: Mode, ready: int) -> None:
    """Migrate from one device to the other and back, without end."""
    first, second = (pyvfio.open(f"vfio-mock.{index}", mode=mode) for index in (0, 1))
    os.write(ready, b".")
    while True:
        ram = first.address_space.alloc(16 * PAGE)
        with first.dirty_log([ram.range]) as log:
            second.migration.state = State.RESUMING
            for left in first.migration.pre_copy(second.migration.stream):
                log.read()
                if not left.pending:
                    break
            first.migration.save(second.migration.stream)
        second.migration.state = State.RUNNING
        first.migration.state = State.RUNNING
        ram.unmap()
        first, second = second, first


@of_vfio_mock
@pytest.mark.require("linux", "pre_copy")
def test_devices_are_usable_after_a_kill_within_a_migration(address: str, mode: Mode, kernel: Any) -> None:
    rng = random.Random(9)
    for _ in range(8):
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                migrate_for_ever(mode, writable)
            finally:
                os._exit(1)
        os.close(writable)
        assert os.read(readable, 1) == b"."
        os.close(readable)
        time.sleep(rng.random() / 2)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with (
            pyvfio.address_space(mode, kernel=kernel) as space,
            space.attach(address) as one,
            space.attach("vfio-mock.1") as two,
        ):
            assert (one.migration.state, two.migration.state) == (State.RUNNING, State.RUNNING)
            one.regions[MEMORY].write(0, b"still works")
            load(two, saved(one))
            assert two.regions[MEMORY].read(0, 11) == b"still works"
