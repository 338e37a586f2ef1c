# SPDX-License-Identifier: MIT
"""Migrations that a real QEMU refuses or gives up: each is foretold, in QEMU's words."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyvfio
from pyvfio import DirtyLog, host
from pyvfio.guest import blockers, limits, planning, qemu
from pyvfio.guest.qemu import blocking
from tests.contract.drivers.edu_vfio_pci import driver
from tests.qemu.client import Client, Ended
from tests.qemu.conftest import FIRST, SECOND, assigned, ivshmem

Start = Callable[..., Client]
PLAIN = "0000:00:05.0"
"""Another edu, whose driver is vfio-pci in the test."""
VIOMMU = ("-device", "intel-iommu,caching-mode=on,aw-bits=39")


def knob(address: str, name: str) -> Path:
    """Return the file of an open device by which its driver is told something."""
    return Path("/sys/bus/pci/devices", address, "edu_vfio_pci", name)


def test_a_total_above_the_limit_is_refused_and_the_next_attempt_works(start: Start) -> None:
    with start(*assigned(FIRST)) as client:
        client.place(4, 0xE0000000)
        knob(FIRST, "log_size_max").write_text("31")
        assert client.migrate()["status"] == "failed"
        asked = qemu.read_start(client.log)
        held = planning.fit(asked, limits.Limits("edu", log_max_space=31))
        assert held.answer.errno == errno.EOPNOTSUPP
        assert qemu.start_failure(FIRST, held.answer.errno)[0] in client.said
        knob(FIRST, "log_size_max").write_text("42")
        assert client.migrate()["status"] == "completed"
        assert qemu.count_migrations(client.log) == 2
        assert qemu.read_start(client.log, migration=0) == qemu.read_start(client.log) == asked


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
        assert qemu.start_failure(FIRST, errno.EINVAL)[0] in client.said
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
        assert foretold.messages[0] in client.said
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
        assert all(warning in client.said for warning in foretold.warnings)
    found = blockers.find([guest], version=client.version)
    assert {blocker.qemu for blocker in found} == {*foretold.blockers, *foretold.warnings}


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
