# SPDX-License-Identifier: MIT
"""Devices that the running system uses: those under its file systems, swap, network and console."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.host import diagnosis
from pyvfio.host.discovery import HostDevice
from pyvfio.host.sysfs import attribute, entries
from pyvfio.kernel import Kernel, resolve


class Use(NamedTuple):
    """One use that the system makes of a device.

    :ivar name: `disk:nvme0n1`, `filesystem:TAG` (9p, virtiofs), `network:eth0`, `console:ttyS0`
    :ivar why: for example `mounted at /, /home`
    :ivar path: its place under /sys/devices; losing a device above it in the tree breaks it too
    """

    name: str
    why: str
    path: str

    def carried_by(self, path: str) -> bool:
        """Whether this breaks with the device at a path."""
        return self.path == path or self.path.startswith(f"{path}/")

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def uses(kernel: Kernel | str | None = None) -> list[Use]:
    """Return every use of a device by the running system: mounted disks, swap, default routes, consoles."""
    kernel = resolve(kernel)
    return [*_disks(kernel), *_shared_file_systems(kernel), *_networks(kernel), *_consoles(kernel)]


def refuse_if_in_use(kernel: Kernel, found: HostDevice, allow_in_use: Collection[str]) -> None:
    """Refuse to take a device away from the system.

    :param allow_in_use: names of uses that may break
    :raises OSError: EBUSY, the system uses the device
    """
    allowed = _names(allow_in_use)
    found_uses = {use.name: use.why for use in uses(kernel) if use.carried_by(found.path) and use.name not in allowed}
    if (finding := diagnosis.used_by_system(found.address, found_uses)) is not None:
        raise diagnosis.error(finding)


def _names(allow_in_use: object) -> Collection[str]:
    if isinstance(allow_in_use, str):
        return (allow_in_use,)
    if not isinstance(allow_in_use, Collection) or not all(isinstance(name, str) for name in allow_in_use):
        raise arguments.wrong_type(allow_in_use, "allow_in_use", "the names of uses")
    return allow_in_use


def _mounts(kernel: Kernel) -> list[tuple[str, str, str, str]]:
    """Return device number, mount point, type and source of each mount, as in proc_pid_mountinfo(5)."""
    mounts = []
    for line in (attribute(kernel, "/proc/self/mountinfo") or "").splitlines():
        front, _, back = line.partition(" - ")
        fields, more = front.split(), back.split()
        if len(fields) >= 5 and len(more) >= 2:
            mounts.append((fields[2], _unescaped(fields[4]), more[0], _unescaped(more[1])))
    return mounts


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def _disks(kernel: Kernel) -> Iterator[Use]:
    reasons: dict[str, list[str]] = {}
    for number, point, _, source in _mounts(kernel):
        path = kernel.realpath(f"/sys/dev/block/{number}")
        if number.startswith("0:") or not kernel.exists(path):
            # btrfs and others have anonymous device numbers; their source names the disk.
            if not source.startswith("/dev/"):
                continue
            path = kernel.realpath(f"/sys/class/block/{os.path.basename(kernel.realpath(source))}")
        reasons.setdefault(path, []).append(f"mounted at {point}")
    for line in (attribute(kernel, "/proc/swaps") or "").splitlines()[1:]:
        source = _unescaped(line.split()[0])
        path = kernel.realpath(f"/sys/class/block/{os.path.basename(kernel.realpath(source))}")
        reasons.setdefault(path, []).append("swap")
    for path, why in reasons.items():
        for under in sorted(_below(kernel, path)):
            yield Use(f"disk:{os.path.basename(path)}", ", ".join(dict.fromkeys(why)), under)


def _below(kernel: Kernel, path: str) -> set[str]:
    """Return the paths of the hardware under a block device, through device mapper, md, and NVMe multipath."""
    if not kernel.exists(path):
        return set()
    # A partition's slaves are its disk's.
    disk = os.path.dirname(path) if kernel.exists(f"{path}/partition") else path
    slaves = entries(kernel, f"{path}/slaves") or entries(kernel, f"{disk}/slaves")
    if slaves:
        return set().union(*(_below(kernel, kernel.realpath(f"/sys/class/block/{name}")) for name in slaves))
    if "/nvme-subsystem/" in path:
        subsystem = os.path.dirname(disk)
        return {
            kernel.realpath(f"{subsystem}/{name}")
            for name in entries(kernel, subsystem)
            if re.fullmatch(r"nvme[0-9]+", name)
        }
    return {path}


def _shared_file_systems(kernel: Kernel) -> Iterator[Use]:
    points: dict[str, list[str]] = {}
    for _, point, kind, source in _mounts(kernel):
        if kind in ("9p", "virtiofs"):
            points.setdefault(source, []).append(point)
    if not points:
        return
    for name in entries(kernel, "/sys/bus/virtio/devices"):
        path = kernel.realpath(f"/sys/bus/virtio/devices/{name}")
        tag = (attribute(kernel, f"{path}/mount_tag") or "").rstrip("\0")
        if tag in points:
            yield Use(f"filesystem:{tag}", f"mounted at {', '.join(points[tag])}", path)
    for name in entries(kernel, "/sys/fs/virtiofs"):
        tag = attribute(kernel, f"/sys/fs/virtiofs/{name}/tag") or ""
        if tag in points:
            path = kernel.realpath(f"/sys/fs/virtiofs/{name}/device")
            yield Use(f"filesystem:{tag}", f"mounted at {', '.join(points[tag])}", path)


def _networks(kernel: Kernel) -> Iterator[Use]:
    names = set()
    for line in (attribute(kernel, "/proc/net/route") or "").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == fields[7] == "00000000":
            names.add(fields[0])
    for line in (attribute(kernel, "/proc/net/ipv6_route") or "").splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
            names.add(fields[9])
    for name in sorted(names):
        for path in sorted(_adapters(kernel, name)):
            yield Use(f"network:{name}", "the default route", path)


def _adapters(kernel: Kernel, name: str) -> set[str]:
    """Return the paths of the hardware under a network interface, through bonds, bridges and VLANs."""
    path = kernel.realpath(f"/sys/class/net/{name}")
    lower = [entry[6:] for entry in entries(kernel, path) if entry.startswith("lower_")]
    if not lower:
        return {path}
    return set().union(*(_adapters(kernel, one) for one in lower))


def _consoles(kernel: Kernel) -> Iterator[Use]:
    for console in (attribute(kernel, "/sys/class/tty/console/active") or "").split():
        for path in sorted(_terminals(kernel, console)):
            yield Use(f"console:{console}", "the kernel's console", path)


def _terminals(kernel: Kernel, console: str) -> set[str]:
    if re.fullmatch(r"tty[0-9]+", console):
        # A virtual terminal: on whatever has a frame buffer, and on the VGA device that the firmware started.
        screens = {kernel.realpath(f"/sys/class/graphics/{fb}") for fb in entries(kernel, "/sys/class/graphics")}
        for name in entries(kernel, "/sys/bus/pci/devices"):
            path = kernel.realpath(f"/sys/bus/pci/devices/{name}")
            if attribute(kernel, f"{path}/boot_vga") == "1":
                screens.add(path)
        return screens
    if console.startswith("hvc"):
        # sysfs does not link hvc terminals with the virtio device behind them.
        root = "/sys/bus/virtio/drivers/virtio_console"
        names = [name for name in entries(kernel, root) if re.fullmatch(r"virtio[0-9]+", name)]
        return {kernel.realpath(f"{root}/{name}") for name in names}
    return {kernel.realpath(f"/sys/class/tty/{console}")}
