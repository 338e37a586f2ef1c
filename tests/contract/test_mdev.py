"""Mediated devices: the kernel's sample, a serial port (mtty), found and opened as any other."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyvfio
from pyvfio import host

pytestmark = pytest.mark.only(iommu="intel", mode=["type1v2", "iommufd"], device="vfio-mock")

PARENT = Path("/sys/devices/virtual/mtty/mtty")


@pytest.fixture
def mdev() -> Iterator[str]:
    """The UUID of a new mediated device."""
    for name, variable in (("mdev", "PYVFIO_MDEV_MODULE"), ("mtty", "PYVFIO_MTTY_MODULE")):
        if not Path("/sys/module", name).exists():
            subprocess.run(["insmod", os.environ[variable]], check=True)
    name = str(uuid.uuid4())
    (PARENT / "mdev_supported_types" / "mtty-2" / "create").write_text(name)
    yield name
    (PARENT / name / "remove").write_text("1")
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
        other = str(uuid.uuid4())
        (PARENT / "mdev_supported_types" / "mtty-1" / "create").write_text(other)
        seen = []
        while change := changes.wait(2):
            seen.append((change.action, change.bus, change.address))
        (PARENT / other / "remove").write_text("1")
        assert ("add", "mdev", other) in seen


def test_one_is_opened(mdev: str, mode: str, kernel: Any) -> None:
    with pyvfio.open(mdev, mode=mode, kernel=kernel) as device:
        assert device.info.is_pci
        assert device.config.vendor == 0x4348  # the sample's
        assert device.address_space.alloc(4096).mapped
        assert [holder.pid for holder in host.holders_of(mdev)] == [os.getpid()]
        device.reset()
    with pytest.raises(OSError, match="mdev"), host.bind(mdev, "vfio-pci"):
        pytest.fail("bound")
