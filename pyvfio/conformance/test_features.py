# SPDX-License-Identifier: MIT
"""Features: each supports the operations that belong to it, and related features come together."""

from __future__ import annotations

import pytest

from pyvfio import Device
from pyvfio._abi import lib
from pyvfio.migration import State

#: features that come together or not at all
TOGETHER = (
    ("DMA_LOGGING_START", "DMA_LOGGING_STOP", "DMA_LOGGING_REPORT"),
    ("MIGRATION", "MIG_DEVICE_STATE"),
    ("LOW_POWER_ENTRY", "LOW_POWER_EXIT"),
)
#: feature -> the operations that it has
OPERATIONS = {
    "MIGRATION": (True, False),
    "MIG_DEVICE_STATE": (True, True),
    "DMA_LOGGING_START": (False, True),
    "DMA_LOGGING_STOP": (False, True),
    "DMA_LOGGING_REPORT": (True, False),
    "LOW_POWER_ENTRY": (False, True),
    "LOW_POWER_EXIT": (False, True),
    "MIG_DATA_SIZE": (True, False),
}
_UNKNOWN = 0xFFF0


def test_a_feature_that_does_not_exist_is_not_there(device: Device) -> None:
    """A probe of a feature number that no kernel has fails."""
    assert not device.features.probe(_UNKNOWN)
    assert not device.features.probe(_UNKNOWN, get=True)


def test_features_come_together(device: Device) -> None:
    """A log that cannot be read, or a state that cannot be set, is of no use."""
    there = set(device.features.available)
    for names in TOGETHER:
        assert {name in there for name in names} in ({True}, {False}), names


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_feature_has_its_operations_and_no_others(device: Device, name: str) -> None:
    """Probes with GET, with SET and with both succeed only for the operations of the feature."""
    if name not in device.features.available:
        pytest.skip(f"the device has no {name}")
    number = getattr(lib, f"VFIO_DEVICE_FEATURE_{name}")
    get, set_ = OPERATIONS[name]
    assert device.features.probe(number, get=True) == get
    assert device.features.probe(number, set=True) == set_
    assert device.features.probe(number, get=True, set=True) == (get and set_)


@pytest.mark.vfio_require("migration")
def test_migration_has_stop_copy(device: Device) -> None:
    """Every device that migrates has at least the stop-copy states, and runs when it is opened."""
    assert {State.RUNNING, State.STOP, State.STOP_COPY, State.RESUMING} <= device.migration.states
    assert device.migration.state == State.RUNNING


@pytest.mark.vfio_require("migration")
def test_pre_copy_states_follow_the_flags(device: Device) -> None:
    """The device has PRE_COPY if its flag is set, RUNNING_P2P if P2P is set, and PRE_COPY_P2P if both are."""
    migration = device.migration
    assert (State.PRE_COPY in migration.states) == migration.has_pre_copy
    assert (State.RUNNING_P2P in migration.states) == migration.has_p2p
    assert (State.PRE_COPY_P2P in migration.states) == (migration.has_p2p and migration.has_pre_copy)
