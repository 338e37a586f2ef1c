# SPDX-License-Identifier: MIT
"""Disks in use: mounted file systems, swap, and block devices that are made of others (device mapper, md, btrfs, loop)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from pyvfio.host.sysfs import attribute, entries
from pyvfio.host.use import Use
from pyvfio.kernel import Kernel

_BLOCKS = "/sys/class/block"


def disks_in_use(kernel: Kernel) -> Iterator[Use]:
    """Yield the disks under mounts, swap, and active device mapper and md devices."""
    reasons: dict[str, list[str]] = {}
    for number, point, kind, source in mounts(kernel):
        for path in _mounted(kernel, number, kind, source):
            reasons.setdefault(path, []).append(f"mounted at {point}")
    for line in (attribute(kernel, "/proc/swaps") or "").splitlines()[1:]:
        source = _unescaped(line.split()[0])
        reasons.setdefault(_named(kernel, source), []).append("swap")
    for name in entries(kernel, _BLOCKS):
        path = kernel.realpath(f"{_BLOCKS}/{name}")
        # A block device with holders is a part of them. The holders are in this list themselves, and lead to the hardware.
        if path in reasons or entries(kernel, f"{path}/holders"):
            continue
        if (what := _assembled(kernel, name, path)) is not None:
            reasons[path] = [what]
    for path, why in reasons.items():
        for under in sorted(hardware_of(kernel, path)):
            yield Use(f"disk:{os.path.basename(path)}", ", ".join(dict.fromkeys(why)), under)


def _mounted(kernel: Kernel, number: str, kind: str, source: str) -> Iterator[str]:
    """Yield the block devices of a mounted file system."""
    path = kernel.realpath(f"/sys/dev/block/{number}")
    if not number.startswith("0:") and kernel.exists(path):
        yield path
        return
    # btrfs and others have anonymous device numbers; their source names one disk.
    if not source.startswith("/dev/"):
        return
    path = _named(kernel, source)
    yield path
    if kind != "btrfs":
        return
    for one in entries(kernel, "/sys/fs/btrfs"):
        members = [kernel.realpath(f"/sys/fs/btrfs/{one}/devices/{name}") for name in _members(kernel, one)]
        if path in members:
            yield from (member for member in members if member != path)


def _members(kernel: Kernel, file_system: str) -> list[str]:
    return entries(kernel, f"/sys/fs/btrfs/{file_system}/devices")


def _named(kernel: Kernel, source: str) -> str:
    return kernel.realpath(f"{_BLOCKS}/{os.path.basename(kernel.realpath(source))}")


def _assembled(kernel: Kernel, name: str, path: str) -> str | None:
    """Describe the use of a block device that is made of others; None for any other block device."""
    if (title := attribute(kernel, f"{path}/dm/name")) is not None:
        return f"device mapper's {title} is active"
    if (level := attribute(kernel, f"{path}/md/level")) is not None and entries(kernel, f"{path}/slaves"):
        return f"a member of the array {name} ({level})"
    if (backing := attribute(kernel, f"{path}/loop/backing_file")) is not None and backing.startswith("/dev/"):
        return f"{name} is set up on {backing}"
    if entries(kernel, f"{path}/bcache") and entries(kernel, f"{path}/slaves"):
        return f"a member of {name}"
    return None


def hardware_of(kernel: Kernel, path: str) -> set[str]:
    """Return the paths of the hardware under a block device, through device mapper, md, loop and NVMe multipath."""
    if not kernel.exists(path):
        return set()
    # sysfs lists the slaves of a partition at its disk.
    disk = os.path.dirname(path) if kernel.exists(f"{path}/partition") else path
    slaves = entries(kernel, f"{path}/slaves") or entries(kernel, f"{disk}/slaves")
    if slaves:
        return set().union(*(hardware_of(kernel, kernel.realpath(f"{_BLOCKS}/{name}")) for name in slaves))
    backing = attribute(kernel, f"{disk}/loop/backing_file") or ""
    if backing.startswith("/dev/"):
        return hardware_of(kernel, _named(kernel, backing))
    if "/nvme-subsystem/" in path:
        subsystem = os.path.dirname(disk)
        return {
            kernel.realpath(f"{subsystem}/{name}")
            for name in entries(kernel, subsystem)
            if re.fullmatch(r"nvme[0-9]+", name)
        }
    return {path}


def claimed_disks(kernel: Kernel, path: str) -> Iterator[Use]:
    """Yield the disks below a device that something holds exclusively: ZFS, bcache, an iSCSI target, another mount namespace.

    sysfs does not show every such holder, so each disk is opened for a moment, for reading, with O_EXCL.
    """
    for name in entries(kernel, _BLOCKS):
        disk = kernel.realpath(f"{_BLOCKS}/{name}")
        if kernel.exists(f"{disk}/partition") or not any(
            one == path or one.startswith(f"{path}/") for one in hardware_of(kernel, disk)
        ):
            continue
        if kernel.claimed(f"/dev/{name.replace('!', '/')}"):
            yield Use(f"disk:{name}", f"/dev/{name} is held exclusively by the kernel or a process", path)


def mounts(kernel: Kernel) -> list[tuple[str, str, str, str]]:
    """Return device number, mount point, type and source of each mount, as in proc_pid_mountinfo(5)."""
    found = []
    for line in (attribute(kernel, "/proc/self/mountinfo") or "").splitlines():
        front, _, back = line.partition(" - ")
        fields, more = front.split(), back.split()
        if len(fields) >= 5 and len(more) >= 2:
            found.append((fields[2], _unescaped(fields[4]), more[0], _unescaped(more[1])))
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def shared_file_systems_in_use(kernel: Kernel) -> Iterator[Use]:
    """Yield the virtio devices of mounted 9p and virtiofs file systems."""
    points: dict[str, list[str]] = {}
    for _, point, kind, source in mounts(kernel):
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
