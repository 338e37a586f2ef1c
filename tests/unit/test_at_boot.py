# SPDX-License-Identifier: MIT
"""Bindings that survive a reboot: the files that are written, the state after a reboot, and how bindings are undone."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from pyvfio import host
from pyvfio.errors import BadReply
from tests.unit.test_host import EDU, NVME, PATH, FakeHost, machine

__all__ = ["machine"]

RULE = f"/etc/udev/rules.d/05-pyvfio-pci-{NVME}.rules"
OVERRIDE = f"/etc/driverctl.d/pci-{NVME}"
RECORD = f"/var/lib/pyvfio/pci:{NVME}"


@pytest.fixture
def with_driverctl(machine: FakeHost) -> FakeHost:
    """The machine with driverctl's udev rule."""
    machine.file("/lib/udev/rules.d/05-driverctl.rules", "")
    return machine


def boot(machine: FakeHost, driver: str | None) -> None:
    """Simulate a reboot: /run is empty, and the device is bound to the driver that it gets at boot."""
    shutil.rmtree(f"{machine.root}/run", ignore_errors=True)
    machine.detach("pci", NVME)
    machine.file(f"{PATH}{NVME}/driver_override", f"{driver or '(null)'}\n")
    machine.attach("pci", NVME, driver or "nvme")


def state(machine: FakeHost) -> tuple[str | None, str | None]:
    found = host.device(NVME, machine)
    return found.driver, found.driver_override


def text(machine: FakeHost, path: str) -> str:
    return Path(machine.root + path).read_text()


def nothing_is_left(machine: FakeHost) -> bool:
    return not any(machine.exists(path) for path in (RULE, OVERRIDE, RECORD, f"/run/pyvfio/pci:{NVME}"))


def test_the_rule_names_device_and_driver(machine: FakeHost) -> None:
    host.bind(NVME, "vfio-pci", at_boot=True, kernel=machine)
    comment, rule = text(machine, RULE).splitlines()
    assert f"pyvfio.host.restore({NVME!r})" in comment
    assert rule.startswith(f'ACTION=="add", SUBSYSTEM=="pci", KERNEL=="{NVME}", ATTR{{driver_override}}="vfio-pci", ')
    assert 'RUN{builtin}+="kmod load vfio-pci"' in rule
    assert not machine.exists(OVERRIDE)
    assert [(one.address, one.at_boot) for one in host.bindings(machine)] == [(NVME, RULE)]


def test_driverctls_file_is_used_where_it_is_installed(with_driverctl: FakeHost) -> None:
    host.bind(NVME, "vfio-pci", at_boot=True, kernel=with_driverctl)
    assert text(with_driverctl, OVERRIDE) == "vfio-pci\n"
    assert not with_driverctl.exists(RULE)
    assert host.restore(NVME, kernel=with_driverctl) == [NVME]
    assert nothing_is_left(with_driverctl)


def test_the_end_of_with_undoes_it(machine: FakeHost) -> None:
    with host.bind(NVME, "vfio-pci", at_boot=True, kernel=machine):
        assert machine.exists(RULE)
        assert machine.exists(RECORD)
    assert state(machine) == ("nvme", None)
    assert nothing_is_left(machine)


def test_it_is_undone_after_a_reboot(machine: FakeHost) -> None:
    host.bind(NVME, "vfio-pci", at_boot=True, kernel=machine)
    boot(machine, "vfio-pci")
    (entry,) = host.bindings(machine)
    assert (entry.previous_driver, entry.at_boot) == ("nvme", RULE)
    assert host.restore(kernel=machine) == [NVME]
    assert state(machine) == ("nvme", None)
    assert nothing_is_left(machine)
    assert host.bindings(machine) == []


def test_a_boot_at_which_it_was_not_bound_is_undone_too(machine: FakeHost) -> None:
    host.bind(NVME, "vfio-pci", at_boot=True, kernel=machine)
    boot(machine, None)
    assert host.restore(NVME, kernel=machine) == [NVME]
    assert state(machine) == ("nvme", None)
    assert nothing_is_left(machine)


def test_a_later_with_leaves_a_device_bound_as_at_boot(machine: FakeHost) -> None:
    host.bind(NVME, "vfio-pci", at_boot=True, kernel=machine)
    for rebooted in (False, True):
        if rebooted:
            boot(machine, "vfio-pci")
        with host.bind(NVME, "vfio-pci", kernel=machine):
            pass
        assert state(machine) == ("vfio-pci", "vfio-pci")
        with host.bind(NVME, "nvme", kernel=machine):
            assert state(machine)[0] == "nvme"
        assert state(machine) == ("vfio-pci", "vfio-pci")
        assert machine.exists(RULE)
    assert host.restore(NVME, kernel=machine) == [NVME]
    assert state(machine) == ("nvme", None)


def test_another_driver_at_boot_takes_the_place_of_the_first(machine: FakeHost) -> None:
    machine.directory("/sys/bus/pci/drivers/nvme_vfio_pci")
    host.bind(NVME, "vfio-pci", at_boot=True, kernel=machine)
    boot(machine, "vfio-pci")
    host.bind(NVME, "nvme_vfio_pci", at_boot=True, kernel=machine)
    assert "nvme_vfio_pci" in text(machine, RULE)
    host.restore(NVME, kernel=machine)
    assert state(machine) == ("nvme", None)
    assert nothing_is_left(machine)


def test_a_dry_run_lists_the_file(machine: FakeHost) -> None:
    planned = host.bind(NVME, "vfio-pci", at_boot=True, dry_run=True, kernel=machine)
    assert nothing_is_left(machine)
    assert planned.writes[-1].path == RULE
    assert str(planned.writes[-1]).startswith("printf %s '# pyvfio")
    made = host.bind(NVME, "vfio-pci", at_boot=True, kernel=machine)
    assert made.writes == planned.writes
    assert text(machine, RULE) == made.writes[-1].text
    made.restore()


def test_a_file_that_cannot_be_written_leaves_nothing(machine: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    create = machine.create

    def read_only(path: str) -> int:
        if path.endswith(f"{EDU}.rules"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return create(path)

    monkeypatch.setattr(machine, "create", read_only)
    with pytest.raises(OSError, match=rf"bound at boot: .*{EDU}\.rules: Read-only") as caught:
        host.bind([NVME, EDU], "vfio-pci", at_boot=True, kernel=machine)
    assert caught.value.errno == errno.EROFS
    assert not hasattr(caught.value, "__notes__")
    assert state(machine) == ("nvme", None)
    assert host.device(EDU, machine).driver is None
    assert nothing_is_left(machine)
    assert host.bindings(machine) == []


def test_a_failed_change_leaves_the_first_driver_at_boot(machine: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.bind(NVME, "vfio-pci", at_boot=True, kernel=machine)
    before = text(machine, RULE), text(machine, RECORD)
    boot(machine, "vfio-pci")
    machine.directory("/sys/bus/pci/drivers/nvme_vfio_pci")
    pwrite = machine.pwrite
    monkeypatch.setattr(
        machine, "pwrite", lambda fd, data, at: pwrite(fd, data[:10] if b'nvme_vfio_pci", RUN' in data else data, at)
    )
    with pytest.raises(OSError, match="No space left"):
        host.bind(NVME, "nvme_vfio_pci", at_boot=True, kernel=machine)
    assert (text(machine, RULE), text(machine, RECORD)) == before
    assert state(machine) == ("vfio-pci", "vfio-pci")


def test_a_file_that_somebody_has_changed_since_is_left_alone(with_driverctl: FakeHost) -> None:
    host.bind(NVME, "vfio-pci", at_boot=True, kernel=with_driverctl)
    Path(with_driverctl.root + OVERRIDE).write_text("uio_pci_generic\n")
    host.restore(NVME, kernel=with_driverctl)
    assert text(with_driverctl, OVERRIDE) == "uio_pci_generic\n"
    assert not with_driverctl.exists(RECORD)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", 5, f"/etc/driverctl.d/pci-{EDU}"])
def test_a_record_that_names_another_file_removes_nothing(machine: FakeHost, path: object) -> None:
    entry = {
        "bus": "pci", "address": NVME, "driver": "vfio-pci", "previous_driver": "nvme", "previous_override": None, "pid": 1, "at_boot": path,
    }  # fmt: skip
    machine.file(RECORD, json.dumps(entry) + "\n")
    with pytest.raises(BadReply, match=r"/var/lib/pyvfio/.* is damaged"):
        host.restore(kernel=machine)


def test_an_entry_of_before_is_still_read(machine: FakeHost) -> None:
    entry = {
        "bus": "pci",
        "address": NVME,
        "driver": "vfio-pci",
        "previous_driver": "nvme",
        "previous_override": None,
        "pid": 1,
    }
    machine.file(f"/run/pyvfio/pci:{NVME}", json.dumps(entry) + "\n")
    assert [one.at_boot for one in host.bindings(machine)] == [None]
