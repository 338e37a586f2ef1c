# SPDX-License-Identifier: MIT
"""The ranges that a real QEMU asks a device to log, for eight guests, are those that pyvfio.guest computes from the same trace."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

import pyvfio
from pyvfio import DirtyLog
from pyvfio.guest import planning, qemu
from pyvfio.guest.sections import MemorySection
from tests.contract.drivers.edu_vfio_pci import driver
from tests.qemu.client import Client
from tests.qemu.conftest import FIRST, SECOND, assigned, containers, ivshmem

Start = Callable[..., Client]
GIB = 1 << 30
BIOS = "0xfffc0000 - 0xffffffff"


def check(client: Client, *addresses: str, bars: int = 1) -> list[MemorySection]:
    """Migrate, compare QEMU's lines with those computed from its own trace, and start logging with pyvfio's plan on the same device.

    :param client: a running QEMU
    :param addresses: the devices
    :param bars: the number of sections that must be recognized as BARs of assigned devices
    """
    assert client.migrate()["status"] == "completed", client.said
    client.close()
    read = qemu.read_sections(client.log)
    tracked = qemu.track(read, version=client.version)
    theirs = re.findall(r"vfio_device_dirty_tracking_\w+ .*", client.log)
    assert [line.strip() for line in theirs] == tracked.log
    assert client.start_line == tracked.start_line
    assert tracked.kernel_errno() == 0
    assert [section.device for section in read if section.device] == [*addresses][:bars]
    plan = planning.plan(read, version=client.version)
    assert [(range_.start, range_.size) for range_ in plan.ranges] == sorted(tracked.ranges)
    with pyvfio.open(FIRST) as device, DirtyLog.planned([device], plan) as log:
        assert log.ranges == plan.ranges
        assert tuple(driver(device).logged_ranges) == plan.ranges
    return read


def test_a_bar_below_4_gib(start: Start) -> None:
    with start(*assigned(FIRST)) as client:
        client.place(4, 0xE0000000)
        check(client, FIRST)
        assert "32:[0x0 - 0xe00fffff]" in client.start_line or client.version < "11"


def test_rom_is_tracked_up_to_10_2_only(start: Start) -> None:
    with start(*assigned(FIRST)) as client:
        check(client, bars=0)
        skipped = f"SKIPPING tracking_update {BIOS}" in client.log
        assert skipped == (
            not qemu.track([MemorySection(0xFFFC0000, 0x40000, readonly=True)], version=client.version).ranges
        )
        assert (f"tracking_update section {BIOS}" in client.log) == (not skipped)
        # The BIOS section is mapped in any case.
        assert f"region_add [ram] {BIOS}" in client.log


def test_memory_above_4_gib(start: Start) -> None:
    with start(*assigned(FIRST), machine="q35,max-ram-below-4g=64M") as client:
        client.place(4, 0xE0000000)
        read = check(client, FIRST)
        assert MemorySection(4 * GIB, 64 << 20) in read


def test_a_dimm_far_up(start: Start) -> None:
    dimm = ("-object", "memory-backend-ram,id=m,size=128M", "-device", "pc-dimm,memdev=m,addr=0x4000000000")
    options = {"machine": "q35,max-ram-below-4g=64M", "memory": "128M,slots=2,maxmem=400G"}
    with start(*assigned(FIRST), *dimm, **options) as client:
        client.place(4, 0xE0000000)
        check(client, FIRST)
        assert "64:[0x100000000 - 0x4007ffffff]" in client.start_line


@pytest.mark.parametrize("iommufd", [False, True], ids=["type1", "iommufd"])
def test_two_devices(start: Start, iommufd: bool) -> None:
    options, of_device = containers(iommufd)
    with start(*options, *assigned(FIRST, **of_device), *assigned(SECOND, 5, **of_device)) as client:
        client.place(4, 0xE0000000)
        client.place(5, 0xE0200000)
        check(client, FIRST, SECOND, bars=2)


@pytest.mark.parametrize("iommufd", [False, True], ids=["type1", "iommufd"])
def test_a_bar_above_4_gib(start: Start, parameters: Callable[..., None], iommufd: bool) -> None:
    parameters(bar64=1)
    options, of_device = containers(iommufd)
    with start(*options, *assigned(FIRST, **of_device)) as client:
        client.place(4, 0x800000000)
        check(client, FIRST)
        assert "pci64:[0x800001000 - 0x8000fffff]" in client.start_line


def test_bars_of_several_devices_above_4_gib(start: Start, parameters: Callable[..., None]) -> None:
    parameters(bar64=1)
    with start(*assigned(FIRST), *assigned(SECOND, 5), *ivshmem(0, 6)) as client:
        client.place(4, 0x800000000)
        client.place(5, 0xA00000000)
        client.place(6, 0xC00000000, bar=2)
        check(client, FIRST, SECOND, bars=2)
        assert "64:[0xc00000000 - 0xc003fffff], pci64:[0x800001000 - 0xa000fffff]" in client.start_line


def test_the_bar_that_the_firmware_places(start: Start) -> None:
    with start(*assigned(FIRST), firmware=True) as client:
        limit = time.monotonic() + 120
        while not re.search(r"region_add \[ram\] 0x[c-f]\w{3}1000 - 0x[c-f]\w{4}fff", client.log):
            assert time.monotonic() < limit, client.log[-2000:]
            time.sleep(0.5)
        client.monitor.execute("stop")
        check(client, FIRST)
