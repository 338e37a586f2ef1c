# SPDX-License-Identifier: MIT
"""Bind devices at boot, or check after a reboot that they are bound, and undo it. Runs in a machine of scripts/vm.

The nvme is bound and restored by :mod:`pyvfio.host`, the edu by the command.

    bound_at_boot.py bind|check FOLDER

FOLDER stands for what a reboot leaves alone: in it are /etc/udev/rules.d and /var/lib/pyvfio. Everything else of a
machine is new.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyvfio
from pyvfio import host

NVME, EDU = "0000:00:04.0", "0000:00:03.0"
DAEMONS = ("/lib/systemd/systemd-udevd", "/usr/lib/systemd/systemd-udevd")


def keep(folder: Path) -> None:
    """Put the folder's parts in the place of the machine's."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib"], check=True)
    for name, place in (("rules", Path("/etc/udev/rules.d")), ("state", Path("/var/lib/pyvfio"))):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["mount", "--bind", folder / name, place], check=True)


def announce() -> None:
    """Make udev process all PCI devices, as at boot."""
    subprocess.run(["udevadm", "trigger", "--action=add", "--subsystem-match=pci"], check=True)
    subprocess.run(["udevadm", "settle", "--timeout=60"], check=True)


def state(address: str) -> tuple[str | None, str | None]:
    """Return a device's driver and driver_override."""
    found = host.device(address)
    return found.driver, found.driver_override


def command(*arguments: str) -> Any:
    """Run the command `pyvfio` as a program, and return its JSON document."""
    done = subprocess.run(
        [sys.executable, "-m", "pyvfio", "--json", *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def main() -> None:
    """Do what the command line says."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    keep(folder)
    assert (state(NVME), state(EDU)) == (("nvme", None), (None, None))
    if what == "bind":
        host.bind(NVME, "vfio-pci", at_boot=True)
        (bound,) = command("bind", EDU, "--at-boot")["devices"]
        assert (bound["driver"], bound["previous_driver"]) == ("vfio-pci", None)
        assert (state(NVME), state(EDU)) == (("vfio-pci", "vfio-pci"),) * 2
        return
    assert [(one.address, one.previous_driver) for one in host.bindings()] == [(EDU, None), (NVME, "nvme")]
    subprocess.run([next(daemon for daemon in DAEMONS if Path(daemon).exists()), "--daemon"], check=True)
    announce()
    assert (state(NVME), state(EDU)) == (("vfio-pci", "vfio-pci"),) * 2
    with pyvfio.open(NVME) as device:
        assert device.config.vendor == 0x1B36
    # After the boot that bound it, too, the journal says what was there before.
    listed = command("restore", "--list")["bindings"]
    assert sorted((one["address"], one["previous_driver"]) for one in listed) == [(EDU, None), (NVME, "nvme")]
    assert command("doctor", EDU)["findings"] == []
    command("restore", EDU)
    assert (state(NVME), state(EDU)) == (("vfio-pci", "vfio-pci"), (None, None))
    assert host.restore() == [NVME]
    assert (state(NVME), state(EDU)) == (("nvme", None), (None, None))
    # Nothing binds them again. udev looks only every three seconds whether its rules have changed.
    subprocess.run(["udevadm", "control", "--reload"], check=True)
    announce()
    assert (state(NVME), state(EDU)) == (("nvme", None), (None, None))
    assert host.bindings() == []


if __name__ == "__main__":
    main()
