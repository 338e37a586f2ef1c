# SPDX-License-Identifier: MIT
"""Migration: every transition, a round trip, pre-copy, and data from elsewhere. The device runs again at the end."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyvfio import Device, InvalidRequest
from pyvfio.migration import Migration, State, path

pytestmark = [pytest.mark.vfio_require("migration"), pytest.mark.vfio_destructive]


def recover(device: Device) -> None:
    """Take a device out of ERROR by a reset. If it has none, closing it after the check does the same."""
    if device.info.resettable:
        device.reset()
        assert device.migration.state == State.RUNNING


@pytest.fixture
def migration(device: Device) -> Iterator[Migration]:
    """The device's migration; whatever happens, the device runs afterwards."""
    yield device.migration
    state = device.migration.state
    if state in (State.ERROR, State.RESUMING):  # leaving RESUMING with incomplete data leads to ERROR
        recover(device)
    elif state != State.RUNNING:
        device.migration.state = State.RUNNING


def test_every_state_is_reached_and_left(migration: Migration, device: Device) -> None:
    """The device goes from RUNNING to each state and back, through the states between. RESUMING without data may end in ERROR."""
    for target in sorted(migration.states - {State.ERROR, State.RUNNING}, key=lambda state: state == State.RESUMING):
        migration.state = target
        assert migration.state == target
        try:
            migration.state = State.RUNNING
        except OSError:
            assert target == State.RESUMING
            recover(device)
        else:
            assert migration.state == State.RUNNING


def test_each_step_of_a_path_can_be_made_alone(migration: Migration) -> None:
    """The device reaches STOP_COPY by setting each state of the path in turn."""
    for step in path(State.RUNNING, State.STOP_COPY, migration.flags):
        migration.state = step
        assert migration.state == step


def test_error_cannot_be_asked_for(migration: Migration) -> None:
    """ERROR is entered only by failures: a request for it is refused, and the device keeps running."""
    with pytest.raises(InvalidRequest):
        migration.state = State.ERROR
    assert migration.state == State.RUNNING


def test_a_round_trip(migration: Migration, limit: Callable[[str, object], None]) -> None:
    """Save the state and load it again."""
    saved = io.BytesIO()
    size = migration.save(saved)
    limit("state", f"{size} bytes")
    migration.state = State.RUNNING
    assert size == len(saved.getvalue()) > 0
    migration.load(io.BytesIO(saved.getvalue()))
    assert migration.state == State.STOP
    migration.state = State.RUNNING


def test_the_estimate_is_not_zero(migration: Migration, device: Device) -> None:
    """MIG_DATA_SIZE, if the driver has it, reports more than 0 bytes."""
    if "MIG_DATA_SIZE" not in device.features.available:
        pytest.skip("the driver does not estimate the size")
    assert migration.data_size > 0


def test_pre_copy_sends_before_the_stop(migration: Migration) -> None:
    """Data sent in pre-copy and the rest sent after the stop load as one state."""
    if not migration.has_pre_copy:
        pytest.skip("the device has no pre-copy")
    saved = io.BytesIO()
    for _, left in zip(range(64), migration.pre_copy(saved), strict=False):
        if not left.pending:
            break
    migration.save(saved)
    migration.state = State.RUNNING
    migration.load(io.BytesIO(saved.getvalue()))
    migration.state = State.RUNNING


def test_pre_copy_can_be_given_up(migration: Migration) -> None:
    """The device returns from PRE_COPY to RUNNING while data is unread."""
    if not migration.has_pre_copy:
        pytest.skip("the device has no pre-copy")
    migration.state = State.PRE_COPY
    migration.stream.read(1)
    migration.state = State.RUNNING
    assert migration.state == State.RUNNING


def test_saving_can_be_given_up(migration: Migration) -> None:
    """The device returns from STOP_COPY to RUNNING while data is unread."""
    migration.state = State.STOP_COPY
    migration.stream.read(1)
    migration.state = State.RUNNING
    assert migration.state == State.RUNNING


def test_data_of_something_else_is_refused(migration: Migration, device: Device, refused: Callable[..., Any]) -> None:
    """Data that no device has saved is refused, and a reset lets the device run again."""
    with refused(errno.EINVAL, errno.EIO, errno.ENOTSUP, errno.ENOENT, errno.EPROTO, errno.EBADMSG, errno.EMSGSIZE):
        migration.load(io.BytesIO(b"this is no state of a device " * 4096))
    recover(device)


def test_a_stream_that_is_cut_off_is_refused(migration: Migration, device: Device) -> None:
    """Half of a saved state is refused on leaving RESUMING at the latest, or accepted by a device whose data has no length."""
    saved = io.BytesIO()
    migration.save(saved)
    migration.state = State.RUNNING
    half = saved.getvalue()[: len(saved.getvalue()) // 2]
    try:
        migration.load(io.BytesIO(half))
    except OSError:
        recover(device)
    else:
        assert migration.state == State.STOP


def test_a_reset_ends_a_migration(migration: Migration, device: Device) -> None:
    """VFIO_DEVICE_RESET takes the device from every state to RUNNING."""
    if not device.info.resettable:
        pytest.skip("the device has no reset of its own")
    for target in sorted(migration.states - {State.ERROR, State.RUNNING}):
        migration.state = target
        device.reset()
        assert migration.state == State.RUNNING, target
