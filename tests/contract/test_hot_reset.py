# SPDX-License-Identifier: MIT
"""Hot reset of a bus, and ioeventfds (stores that an eventfd triggers)."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio

if TYPE_CHECKING:
    from pyvfio import Device
    from pyvfio.spaces.base import AddressSpace

pytestmark = pytest.mark.only(device="edu")


def test_a_device_on_the_root_bus_cannot_be_hot_reset(device: Device) -> None:
    with pytest.raises(pyvfio.Unsupported, match="root bus"):
        _ = device.hot_reset_info


def test_a_device_alone_behind_a_port_is_hot_reset(other: Callable[[str], str], bare_space: AddressSpace) -> None:
    with bare_space.attach(other("0000:01:00.0")) as device:
        info = device.hot_reset_info
        assert [one.address for one in info.devices] == ["0000:01:00.0"]
        bar = device.regions[0]
        bar.write32(0x04, 0x1234)
        assert bar.read32(0x04) == ~0x1234 & 0xFFFFFFFF
        device.hot_reset()
        assert bar.read32(0x00) == 0x010000ED


# In mode type1v2 the devices are identified by groups, in mode iommufd by device ids.
@pytest.mark.only(device="edu", mode=["type1v2", "iommufd"])
def test_the_devices_of_a_bus_are_listed_whoever_has_them(
    other: Callable[[str], str], bare_space: AddressSpace
) -> None:
    one, two = other("0000:02:00.0"), other("0000:02:00.1")
    with bare_space.attach(one) as first, bare_space.attach(two):
        assert [device.address for device in first.hot_reset_info.devices] == [one, two]
        # Linux 7.3 lists the devices of this bus (an 82574L and an edu), but has no reset for it: ENOTTY.
        with pytest.raises(pyvfio.Unsupported, match="ENOTTY"):
            first.hot_reset()


@pytest.mark.only(device="edu", mode="type1v2")
def test_a_group_that_is_left_out_is_named(other: Callable[[str], str], device: Device) -> None:
    from pyvfio import hot_reset

    with device.address_space.attach(other("0000:01:00.0")) as behind:
        for groups in ([device.group.fileno()], []):  # type: ignore[union-attr]  # type1v2 has groups
            with pytest.raises(OSError, match="not all of the affected") as caught:
                hot_reset.reset(behind.file, groups)
            assert caught.value.errno == errno.EINVAL
            assert any("0000:01:00.0" in note for note in caught.value.__notes__)
        behind.hot_reset()


@pytest.mark.only(device="edu", mode="iommufd")
def test_by_cdev_no_group_is_proof_of_ownership(other: Callable[[str], str], space: AddressSpace, kernel: Any) -> None:
    from pyvfio import hot_reset

    with (
        pyvfio.open(other("nvme"), mode="type1v2", kernel=kernel) as by_group,
        space.attach(other("0000:01:00.0")) as behind,
    ):
        with pytest.raises(OSError, match="VFIO_DEVICE_PCI_HOT_RESET") as caught:
            hot_reset.reset(behind.file, [by_group.group.fileno()])  # type: ignore[union-attr]  # as above
        assert caught.value.errno == errno.EINVAL
        assert behind.hot_reset_info.owned
        behind.hot_reset()


def test_an_eventfd_stores_a_value(device: Device) -> None:
    region = device.regions[0]
    event = os.eventfd(0)
    try:
        region.add_ioeventfd(event, 0x04, 4, 0xCAFE0001)
        with pytest.raises(FileExistsError):
            region.add_ioeventfd(event, 0x04, 4, 0xCAFE0001)
        os.eventfd_write(event, 1)
        limit = time.monotonic() + 60
        while region.read32(0x04) != ~0xCAFE0001 & 0xFFFFFFFF and time.monotonic() < limit:
            time.sleep(0.01)
        assert region.read32(0x04) == ~0xCAFE0001 & 0xFFFFFFFF
        region.remove_ioeventfd(0x04, 4, 0xCAFE0001)
        with pytest.raises(pyvfio.InvalidRequest):
            region.add_ioeventfd(event, 0x04, 3, 0)
    finally:
        os.close(event)
