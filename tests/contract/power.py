# SPDX-License-Identifier: MIT
"""The power state of a PCI device under test, by its power management capability."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvfio import Device

#: power states in PMCSR
D0, D3HOT = 0, 3
_POWER_MANAGEMENT = 1
_CONTROL = 4  # PMCSR, within the capability
_STATE = 3


def set_power_state(device: Device, state: int) -> int:
    """Write a power state to PMCSR; return the one that is read back."""
    capability = device.config.capability(_POWER_MANAGEMENT)
    assert capability is not None
    control = capability.offset + _CONTROL
    device.config.write16(control, device.config.read16(control) & ~_STATE | state)
    return device.config.read16(control) & _STATE
