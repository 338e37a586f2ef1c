# SPDX-License-Identifier: MIT
"""Migrations that a real QEMU refuses or aborts: pyvfio.guest predicts each, with QEMU's message."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyvfio
from pyvfio import DirtyLog, IovaRange, host
from pyvfio._abi import lib
from pyvfio.guest import blockers, limits, planning, qemu
from pyvfio.guest.qemu import blocking
from tests.contract.drivers.edu_vfio_pci import driver
from tests.contract.guest import mtty
from tests.qemu.client import Client, Ended
from tests.qemu.conftest import FIRST, SECOND, assigned, ivshmem

Start = Callable[..., Client]
PLAIN = "0000:00:05.0"
"""Another edu, whose driver is vfio-pci in the test."""
VIOMMU = ("-device", "intel-iommu,caching-mode=on,aw-bits=39")


FORCED = ("enable-migration=on", "x-device-dirty-page-tracking=off")


def knob(address: str, name: str) -> Path:
    """Return a control file of the driver for an open device."""
    return Path("/sys/bus/pci/devices", address, "edu_vfio_pci", name)


def test_a_total_above_the_limit_is_refused_once(start: Start) -> None:
    with start(*assigned(FIRST)) as client:
        client.place(4, 0xE0000000)
        knob(FIRST, "log_size_max").write_text("31")
        assert client.migrate()["status"] == "failed"
        asked = qemu.read_start(client.log)
        held = planning.fit(asked, limits.Limits("edu", log_max_space=31))
        assert held.answer.errno == errno.EOPNOTSUPP
        assert client.says(qemu.start_failure(FIRST, held.answer.errno)[0])
        knob(FIRST, "log_size_max").write_text("42")
        assert client.migrate()["status"] == "completed"
        assert qemu.count_migrations(client.log) == 2
        assert qemu.read_start(client.log, migration=0) == qemu.read_start(client.log) == asked


def test_the_command_says_why_a_start_fails_and_what_would_do(
    start: Start, parameters: Callable[..., None], tmp_path: Path
) -> None:
    parameters(log_size_max=31)
    log = tmp_path / "log"
    with start(*assigned(FIRST)) as client:
        client.place(4, 0xE0000000)
        assert client.migrate()["status"] == "failed"
        assert client.says("Failed to start DMA logging: Operation not supported")
        log.write_text(client.log)
    command = [sys.executable, "-m", "pyvfio", "qemu-log", "--json", str(log), "--max-space", "31", "--open", FIRST]
    answered = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answered.returncode == 1, answered.stderr
    document = json.loads(answered.stdout)
    assert "2^32" in document["explanation"]
    assert document["device"] == document["device"] | {"address": FIRST, "accepted": False}
    assert "more than the device can log" in document["device"]["reason"]
    exact = next(each for each in document["strategies"] if each["name"] == "exact")
    assert exact["accepted"]
    with pyvfio.open(FIRST) as device:
        device.dirty_log([IovaRange(int(each["start"], 0), int(each["last"], 0)) for each in exact["ranges"]]).close()


def test_memory_on_both_sides_of_a_bar_makes_ranges_overlap(start: Start, parameters: Callable[..., None]) -> None:
    parameters(bar64=1)
    with start(*assigned(FIRST), *ivshmem(0, 6), *ivshmem(1, 7)) as client:
        client.place(4, 0x800000000)
        client.place(6, 0x700000000, bar=2)
        client.place(7, 0x900000000, bar=2)
        assert client.migrate()["status"] == "failed"
        client.close()
        read = qemu.read_sections(client.log)
        tracked = qemu.track(read, version=client.version)
        assert tracked.start_line == client.start_line
        assert "64:[0x700000000 - 0x9003fffff], pci64:[0x800001000 - 0x8000fffff]" in client.start_line
        assert tracked.kernel_errno() == errno.EINVAL
        assert client.says(qemu.start_failure(FIRST, errno.EINVAL)[0])
        plan = planning.plan(read, version=client.version)
        with pyvfio.open(FIRST) as device, DirtyLog.planned([device], plan):
            assert tuple(driver(device).logged_ranges) == plan.ranges


@pytest.mark.parametrize("refusing", [FIRST, SECOND])
def test_a_device_that_refuses_stops_those_that_log(start: Start, refusing: str) -> None:
    with start(*assigned(FIRST), *assigned(SECOND, 5)) as client:
        knob(refusing, "fail").write_text(f"log_start 1 {errno.EOPNOTSUPP}")
        assert client.migrate()["status"] == "failed"
        order = qemu.start_order([FIRST, SECOND])
        devices = [qemu.Device(name, start=errno.EOPNOTSUPP if name == refusing else 0) for name in order]
        foretold = qemu.start_all(devices)
        assert client.says(foretold.messages[0])
        assert [knob(name, "log_ranges").read_text() for name in (FIRST, SECOND)] == ["", ""]
        assert client.migrate()["status"] == "completed"


@pytest.mark.parametrize(
    ("options", "more", "device"),
    [
        ({}, (), {}),
        ({"enable_migration": "off"}, (), {"enable_migration": "off"}),
        ({"x_device_dirty_page_tracking": "off"}, (), {"device_tracking": False}),
        ({}, VIOMMU, {"address_space": "vtd"}),
        (
            {"enable_migration": "on", "x_device_dirty_page_tracking": "off"},
            (),
            {"enable_migration": "on", "device_tracking": False},
        ),
    ],
    ids=["none", "off", "tracking off", "virtual IOMMU", "forced"],
)
def test_qemus_blockers_are_foretold(
    start: Start, options: dict[str, Any], more: tuple[str, ...], device: dict[str, Any]
) -> None:
    guest = blockers.GuestDevice(FIRST, type1=True)._replace(**device)
    with start(*more, *assigned(FIRST, **options)) as client:
        foretold = blocking.migration_blockers([guest], version=client.version)
        assert foretold.error is None
        assert client.monitor.execute("query-migrate").get("blocked-reasons", []) == foretold.blockers
        assert all(client.says(warning) for warning in foretold.warnings)
    found = blockers.find([guest], version=client.version)
    assert {blocker.qemu for blocker in found} == {*foretold.blockers, *foretold.warnings}


@pytest.fixture
def without_p2p() -> Iterator[None]:
    """Reload the driver with a parameter, so that the devices' migration has no peer-to-peer states."""
    load(migration=lib.VFIO_MIGRATION_STOP_COPY)
    yield
    load()


def load(**parameters: int) -> None:
    """Reload the driver with parameters. It binds to its devices again, because of their driver_override."""
    subprocess.run(["rmmod", "edu_vfio_pci"], check=True)
    words = [f"{name}={value}" for name, value in parameters.items()]
    subprocess.run(["insmod", os.environ["PYVFIO_EDU_MODULE"], *words], check=True)


def test_several_devices_without_p2p_states_are_one_blocker(start: Start, without_p2p: None) -> None:
    guests = [blockers.GuestDevice(name, type1=True, p2p=False) for name in (FIRST, SECOND)]
    with start(*assigned(FIRST), *assigned(SECOND, 5)) as client:
        foretold = blocking.migration_blockers(guests, version=client.version)
        assert client.monitor.execute("query-migrate")["blocked-reasons"] == foretold.blockers
        assert len(foretold.blockers) == 1
    guests[1] = guests[1]._replace(enable_migration="on")
    with pytest.raises(Ended) as ended:
        start(*assigned(FIRST), *assigned(SECOND, 5, enable_migration="on"))
    assert (blocking.migration_blockers(guests).error or "?") in str(ended.value)


def test_more_memory_than_a_bitmap_covers_is_an_error_from_11_on(start: Start) -> None:
    """mtty does no DMA, so no memory is pinned for it. This is why its guest can have 9 TiB."""
    size = 9 << 40
    memory = ("-cpu", "qemu64,phys-bits=48", "-object", f"memory-backend-ram,id=m,size={size},reserve=off")
    with mtty() as name:
        guest = blockers.GuestDevice(name, device_tracking=False, type1=True, enable_migration="on")
        card = ("-device", f"vfio-pci,sysfsdev=/sys/bus/mdev/devices/{name},{','.join(FORCED)}")
        version = "11.1"
        try:
            with start(*memory, *card, machine="q35,memory-backend=m", memory=f"{size}B") as client:
                version = client.version
                client.close()
                said = client.said
        except Ended as ended:
            said = str(ended)
        foretold = blocking.migration_blockers([guest], guest_memory=size, version=version)
        assert (foretold.error is not None) == (version == "11.1")
        assert (foretold.error or foretold.warnings[0]) in said


def test_a_virtual_iommu_blocks_other_tracking_up_to_10_2(start: Start) -> None:
    forced: dict[str, Any] = {"enable_migration": "on", "x_device_dirty_page_tracking": "off"}
    guest = blockers.GuestDevice(FIRST, type1=True, address_space="vtd", device_tracking=False, enable_migration="on")
    for version in ("10.2", "11.1"):
        assert (blocking.migration_blockers([guest], version=version).error is None) == (version == "11.1")
    try:
        with start(*VIOMMU, *assigned(FIRST, **forced)) as client:
            version = client.version
            reasons = client.monitor.execute("query-migrate").get("blocked-reasons", [])
    except Ended as ended:
        version, reasons = "10.0", [str(ended)]
    error = blocking.migration_blockers([guest], version=version).error
    assert bool(reasons) == (error is not None)
    assert error is None or error in reasons[0]


def test_a_device_without_migration_is_a_blocker_or_ends_qemu(start: Start) -> None:
    guest = blockers.GuestDevice(PLAIN, migrates=False, type1=True)
    with host.bind(PLAIN, "vfio-pci"):
        with start(*assigned(PLAIN)) as client:
            reasons = client.monitor.execute("query-migrate")["blocked-reasons"]
            version = client.version
            assert reasons == blocking.migration_blockers([guest], version=version).blockers
        with pytest.raises(Ended) as ended:
            start(*assigned(PLAIN, enable_migration="on"))
    error = blocking.migration_blockers([guest._replace(enable_migration="on")], version=version).error
    assert error is not None
    assert error in str(ended.value)
