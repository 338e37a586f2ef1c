# SPDX-License-Identifier: MIT
"""The hardware of the kernel's consoles, and of terminals."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pyvfio.host.sysfs import attribute, entries
from pyvfio.host.use import Use
from pyvfio.kernel import Kernel


def consoles_in_use(kernel: Kernel) -> Iterator[Use]:
    """Yield the devices of the kernel's consoles."""
    for console in (attribute(kernel, "/sys/class/tty/console/active") or "").split():
        for path in sorted(terminal_hardware(kernel, console)):
            yield Use(f"console:{console}", "the kernel's console", path)


def terminal_hardware(kernel: Kernel, name: str) -> set[str]:
    """Return the paths of the hardware of a terminal: ttyS0, tty1, hvc0."""
    if re.fullmatch(r"tty[0-9]+", name):
        # A virtual terminal is shown by all devices with a frame buffer, and by the VGA device that the firmware started.
        screens = {kernel.realpath(f"/sys/class/graphics/{fb}") for fb in entries(kernel, "/sys/class/graphics")}
        for address in entries(kernel, "/sys/bus/pci/devices"):
            path = kernel.realpath(f"/sys/bus/pci/devices/{address}")
            if attribute(kernel, f"{path}/boot_vga") == "1":
                screens.add(path)
        return screens
    if name.startswith("hvc"):
        # sysfs does not link hvc terminals with the virtio device behind them.
        root = "/sys/bus/virtio/drivers/virtio_console"
        names = [name for name in entries(kernel, root) if re.fullmatch(r"virtio[0-9]+", name)]
        return {kernel.realpath(f"{root}/{name}") for name in names}
    return {kernel.realpath(f"/sys/class/tty/{name}")}
