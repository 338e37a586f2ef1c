# SPDX-License-Identifier: MIT
"""Low power: the kernel suspends a device while it is not used, and an access wakes it."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio
from pyvfio import host
from pyvfio.spaces.opening import Mode

if TYPE_CHECKING:
    from pyvfio import Device

pytestmark = pytest.mark.require("linux")
# Waking by an access does not depend on the IOMMU, nor on the version of type1.
on_pci = pytest.mark.only(
    iommu="intel", mode=["type1v2", "iommufd"], device=["edu", "nvme", "e1000e", "igb"], kernel="newest"
)


def power_status(device: Device, wanted: str) -> str:
    """Return the device's power state from sysfs (runtime_status). Wait up to 20 s for the wanted one."""
    file = Path(host.device(device.address).path, "power", "runtime_status")
    limit = time.monotonic() + 60
    while (status := file.read_text().strip()) != wanted and time.monotonic() < limit:
        time.sleep(0.05)
    return status


@on_pci
def test_calls_wake_a_sleeping_device_for_as_long_as_they_take(device: Device) -> None:
    vendor = device.config.vendor
    with device.low_power() as asleep:
        assert power_status(device, "suspended") == "suspended"
        assert device.config.vendor == vendor
        assert power_status(device, "suspended") == "suspended"
        with pytest.raises(OSError, match="in low power already") as caught:
            device.low_power()
        assert caught.value.errno == errno.EINVAL
    assert power_status(device, "active") == "active"
    assert asleep.closed
    with device.low_power():
        pass
    assert device.config.vendor == vendor


@on_pci
def test_who_is_woken_is_told_and_stays_awake(device: Device) -> None:
    with device.low_power_with_wakeup() as asleep:
        assert power_status(device, "suspended") == "suspended"
        with pytest.raises(TimeoutError, match="wakeup"):
            asleep.wakeup.wait(0)
        _ = device.config.vendor
        assert asleep.wakeup.wait(60) == 1
        time.sleep(0.2)
        assert power_status(device, "active") == "active"
        # The device is awake now, so low power can be entered again.
        with device.low_power():
            assert power_status(device, "suspended") == "suspended"
    assert power_status(device, "active") == "active"
    with pytest.raises(pyvfio.Closed):
        asleep.wakeup.fileno()


@on_pci
def test_a_mapped_region_cannot_be_reached_during_low_power(device: Device) -> None:
    bar = device.regions[0].mmap()

    def touched() -> int:
        # Fork with the C library, so that Python's fork handlers do not run: in a child of os.fork() the library
        # removes the mapping.
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            faulthandler.disable()
            ctypes.c_uint32.from_address(bar.address).value  # noqa: B018  # only the access matters
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with device.low_power():
        assert touched() == -signal.SIGBUS
    assert touched() == 0
    bar.read32(0)


@on_pci
def test_a_device_that_is_closed_asleep_can_be_opened_again(address: str, mode: Mode, kernel: Any) -> None:
    for _ in range(2):
        with pyvfio.open(address, mode=mode, kernel=kernel) as device:
            asleep = device.low_power()
        assert asleep.closed
    with pyvfio.open(address, mode=mode, kernel=kernel) as device:
        assert device.config.vendor == host.device(address).vendor
        assert power_status(device, "active") == "active"
