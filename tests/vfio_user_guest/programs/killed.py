# SPDX-License-Identifier: MIT
"""The server is killed while the guest uses its device, and the guest survives. Then the device of another server is plugged in, unplugged
while it is in use, and plugged in again.

    ... killed SOCKET FILE      the second server's socket, on the host; a file below the current directory

The program prints `kill` when the first server must be killed; the caller creates FILE after that. In between, the
program does not access the device: QEMU 11.1.3 aborts (error_setv) if a server is killed that has not read all of
QEMU's messages. The second device has only MSI, because QEMU 11.1.3 aborts when a device with MSI-X is unplugged.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyvfio
from tests.contract.monitor import Monitor, monitor
from tests.vfio_user_guest.programs.adder import drive
from tests.vfio_user_guest.programs.guest import LIMIT, address_of, step, wait_until

#: The address below root port 1 of the pluggable device.
PLUGGED = "0000:01:00.0"


def lose(address: str, killed: Path) -> None:
    """Use a device, wait until its server was killed, and close it."""
    with pyvfio.host.bind(address, "vfio-pci"):
        device = pyvfio.open(address)
        mapping = device.address_space.alloc(4096)
        device.regions[0].write32(0x20, 5)
        assert device.regions[0].read32(0x20) == 5
        print("kill", flush=True)
        wait_until(killed.exists, "the server was killed")
        assert device.regions[0].read32(0x20) == 0xFFFFFFFF
        mapping.unmap()
        device.close()


def plug(qemu: Monitor, socket: str) -> None:
    """Plug the second server's device in."""
    qemu.execute(
        "device_add", driver="vfio-user-pci", socket={"type": "unix", "path": socket}, id="pluggable", bus="port1"
    )
    wait_until(lambda: Path(f"/sys/bus/pci/devices/{PLUGGED}/config").exists(), "it is there")
    assert pyvfio.host.device(PLUGGED).device == 0xADD0


def unplug(qemu: Monitor) -> None:
    """Unplug the device, and wait until the guest has released it."""
    qemu.execute("device_del", id="pluggable")
    wait_until(lambda: not Path(f"/sys/bus/pci/devices/{PLUGGED}").exists(), "it is gone")


def unplug_in_use(qemu: Monitor) -> None:
    """Unplug the device while it is open: Linux requests its release by an interrupt, and removes it when it is closed."""
    with pyvfio.host.bind(PLUGGED, "vfio-pci"):
        device = pyvfio.open(PLUGGED)
        (asked,) = device.irqs.req.enable()
        qemu.execute("device_del", id="pluggable")
        asked.wait(timeout=LIMIT)
        device.close()
        wait_until(lambda: not Path(f"/sys/bus/pci/devices/{PLUGGED}").exists(), "it is gone")


def main() -> None:
    with step("the server is killed"):
        lose(address_of("adder"), Path(sys.argv[2]))
    with monitor() as qemu:
        with step("edu is unplugged"):
            unplug(qemu)
        for _ in range(2):
            with step("the second server's device is plugged in and used"):
                plug(qemu, sys.argv[1])
                with pyvfio.host.bind(PLUGGED, "vfio-pci"):
                    drive(PLUGGED, "iommufd")
            with step("it is unplugged in use"):
                unplug_in_use(qemu)


if __name__ == "__main__":
    main()
