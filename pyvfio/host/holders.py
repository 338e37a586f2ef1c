"""Which processes have a VFIO device open."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from pyvfio._core.fd import device_of
from pyvfio.host.discovery import HostDevice, device
from pyvfio.host.sysfs import attribute, entries
from pyvfio.kernel import Kernel, resolve

_DEVICE = "anon_inode:[vfio-device]"


class Holder(NamedTuple):
    """A process with a descriptor of a device.

    :ivar name: its `comm`
    :ivar descriptor: the number there
    """

    pid: int
    name: str
    descriptor: int

    def __str__(self) -> str:
        who = "this process" if self.pid == os.getpid() else f"process {self.pid} ({self.name})"
        return f"{who}, descriptor {self.descriptor}"


def holders_of(where: str | HostDevice, kernel: Kernel | str | None = None) -> list[Holder]:
    """The processes that have a device open; of other users' processes only root sees them.

    Which device it is, the descriptor's fdinfo tells. Where it does not (Linux 6.1 and 6.12 are such) the library knows its own;
    else the node's name does, or the group's own descriptor in the same process.

    :raises OSError: ENODEV, no such device
    """
    kernel = resolve(kernel)
    found = device(where, kernel) if isinstance(where, str) else where
    holders, _ = _search(kernel, found)
    return holders


def unbinding_waits(kernel: Kernel, found: HostDevice) -> bool:
    """Whether a device is being unbound from a VFIO driver, which waits, the device's lock in its hand, until it is closed.

    True also where that cannot be ruled out: in doubt, for who may not see the processes of others.
    """
    # The driver's link goes before the waiting, the group's node after it.
    if found.driver is not None or found.group_path is None:
        return False
    holders, saw_all = _search(kernel, found)
    return bool(holders) or not saw_all


def _search(kernel: Kernel, found: HostDevice) -> tuple[list[Holder], bool]:
    """The device's holders, and whether all processes could be looked into."""
    holders = []
    saw_all = True
    for pid in sorted(int(name) for name in entries(kernel, "/proc") if name.isdecimal()):
        try:
            opened = _opened(kernel, pid)
        except PermissionError:
            saw_all = False
            continue
        number = _descriptor_of(kernel, found, pid, opened)
        if number is not None:
            holders.append(Holder(pid, attribute(kernel, f"/proc/{pid}/comm") or "?", number))
    return holders, saw_all


def _opened(kernel: Kernel, pid: int) -> dict[int, str]:
    """A process's descriptors and what they stand for, as far as they concern VFIO."""
    opened = {}
    for name in entries(kernel, f"/proc/{pid}/fd"):
        try:
            target = kernel.readlink(f"/proc/{pid}/fd/{name}")
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):
                continue
            raise
        if target == _DEVICE or target.startswith("/dev/vfio/"):
            opened[int(name)] = target
    return opened


def _descriptor_of(kernel: Kernel, found: HostDevice, pid: int, opened: dict[int, str]) -> int | None:
    for number, target in opened.items():
        if target != _DEVICE and not target.startswith("/dev/vfio/devices/"):
            continue
        info = attribute(kernel, f"/proc/{pid}/fdinfo/{number}") or ""
        lines = [line.partition(":") for line in info.splitlines()]
        paths = [path.strip() for key, _, path in lines if key == "vfio-device-syspath"]
        if paths:
            holds = found.path in paths
        elif pid == os.getpid() and (address := device_of(number)) is not None:
            holds = address == found.address
        elif target == _DEVICE:
            holds = found.group_path in opened.values()
        elif target.endswith(" (deleted)") and found.cdev is None:
            # An unbind that waits for the close has taken the node away already, and which device had it is not told.
            holds = found.driver is None and found.group_path is not None
        else:
            holds = target.removesuffix(" (deleted)") == found.cdev
        if holds:
            return number
    return None
