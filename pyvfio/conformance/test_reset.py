# SPDX-License-Identifier: MIT
"""Resets of the function, and the devices that a reset of the bus would affect."""

from __future__ import annotations

import pytest

from pyvfio import Device, Unsupported
from pyvfio.host import HostDevice
from pyvfio.host.sysfs import attribute
from pyvfio.kernel import Kernel


def test_the_flag_agrees_with_sysfs(device: Device, found: HostDevice, kernel: Kernel) -> None:
    """A device without a reset method has no VFIO_DEVICE_FLAGS_RESET."""
    methods = attribute(kernel, f"{found.path}/reset_method") if found.bus == "pci" else None
    if methods is None:
        pytest.skip("sysfs shows no reset methods")
    # A bus with one function has a reset that sysfs calls `bus`, which VFIO offers as hot reset.
    if not methods.split():
        assert not device.info.resettable
    if "flr" in methods.split():
        assert device.info.resettable


@pytest.mark.vfio_require("pci")
def test_a_hot_reset_affects_the_device_itself(device: Device) -> None:
    """The list of affected devices has the device itself."""
    try:
        affected = device.hot_reset_info.devices
    except Unsupported:
        pytest.skip("the device cannot be hot reset")
    assert device.address in [one.address for one in affected]


@pytest.mark.vfio_destructive
def test_a_reset_succeeds_where_the_flag_says_so(device: Device) -> None:
    """VFIO_DEVICE_RESET succeeds with VFIO_DEVICE_FLAGS_RESET and fails without it."""
    if device.info.resettable:
        device.reset()
        return
    with pytest.raises(OSError):  # noqa: PT011 (any: there is no reset)
        device.reset()


@pytest.mark.vfio_destructive
@pytest.mark.vfio_require("reset")
def test_mappings_survive_a_reset(device: Device) -> None:
    """A reset of the device does not change the mappings of its address space."""
    mapping = device.address_space.alloc(1 << 16)
    device.reset()
    assert mapping.mapped
    mapping.unmap()


@pytest.mark.vfio_destructive
@pytest.mark.vfio_require("reset", "pci")
def test_the_device_answers_after_a_reset(device: Device, found: HostDevice) -> None:
    """Its vendor and device ids read the same as before."""
    device.reset()
    assert (device.config.vendor, device.config.device_id) == (found.vendor, found.device)
