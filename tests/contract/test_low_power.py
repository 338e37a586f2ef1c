# SPDX-License-Identifier: MIT
"""Low power: the host puts a device to sleep while nobody uses it, and whoever uses it wakes it."""

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
# Who is woken by a call does not depend on the IOMMU, nor on how type1 unmaps.
on_pci = pytest.mark.only(
    iommu="intel", mode=["type1v2", "iommufd"], device=["edu", "nvme", "e1000e", "igb"], kernel="newest"
)


def power_status(device: Device, wanted: str) -> str:
    """Return the power state of the device by sysfs; it gets time to reach the wanted one."""
    file = Path(host.device(device.address).path, "power", "runtime_status")
    limit = time.monotonic() + 20
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
        assert asleep.wakeup.wait(10) == 1
        time.sleep(0.2)
        assert power_status(device, "active") == "active"
        # It is awake: low power can be entered anew.
        with device.low_power():
            assert power_status(device, "suspended") == "suspended"
    assert power_status(device, "active") == "active"
    with pytest.raises(pyvfio.Closed):
        asleep.wakeup.fileno()


@on_pci
def test_a_mapped_region_cannot_be_reached_during_low_power(device: Device) -> None:
    bar = device.regions[0].mmap()

    def touched() -> int:
        # A child of os.fork() has no such mapping any more: the library takes it away there. This is one behind Python's back.
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            faulthandler.disable()
            ctypes.c_uint32.from_address(bar.address).value  # noqa: B018  # the access is what is tried
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
