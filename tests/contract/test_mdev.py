# SPDX-License-Identifier: MIT
"""Mediated devices: the kernel's sample driver mtty, a serial port, is found and opened like any other device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import pyvfio
from pyvfio import host
from pyvfio.spaces.opening import Mode
from tests.contract import guest

pytestmark = [
    pytest.mark.require("linux", "mtty"),
    pytest.mark.only(iommu="intel", mode=["type1v2", "iommufd"], device="vfio-mock"),
]


@pytest.fixture
def mdev() -> Iterator[str]:
    """The UUID of a new mediated device."""
    with guest.mtty() as name:
        yield name
    with pytest.raises(OSError, match=name):
        host.device(name)


def test_one_is_found_by_its_uuid(mdev: str) -> None:
    with host.Changes() as changes:
        found = host.device(mdev.upper())
        assert (found.address, found.bus, found.driver) == (mdev, "mdev", "mtty")
        assert found in host.devices()
        assert found.vfio is not None
        assert found.cdev == f"/dev/vfio/devices/{found.vfio}"
        assert found.group_path == f"/dev/vfio/{found.group}"
        assert not found.no_iommu
        assert host.group_members(mdev) == {mdev: found.driver}
        assert host.reserved_regions(mdev) == []
        with guest.mtty(1) as other:
            seen = []
            while change := changes.wait(2):
                seen.append((change.action, change.bus, change.address))
        assert ("add", "mdev", other) in seen


def test_one_is_opened(mdev: str, mode: Mode, kernel: Any) -> None:
    with pyvfio.open(mdev, mode=mode, kernel=kernel) as device:
        assert device.info.is_pci
        assert device.config.vendor == 0x4348  # mtty's vendor id
        assert device.address_space.alloc(4096).mapped
        assert [holder.pid for holder in host.holders_of(mdev)] == [os.getpid()]
        device.reset()
    with pytest.raises(OSError, match="mdev"), host.bind(mdev, "vfio-pci"):
        pytest.fail("bound")
