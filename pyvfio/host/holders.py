"""Which processes have a VFIO device open."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from pyvfio.host.discovery import HostDevice, device
from pyvfio.host.sysfs import attribute, entries
from pyvfio.kernel import Kernel, default

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


def holders_of(where: str | HostDevice, kernel: Kernel | None = None) -> list[Holder]:
    """The processes that have a device open; of other users' processes only root sees them.

    A device opened by its group is told by its descriptor's fdinfo. Kernels whose fdinfo does not say which
    device it is (6.1 and 6.12 are such) are helped by the group's own descriptor being open in the same
    process.

    :raises OSError: ENODEV, no such device
    """
    kernel = kernel or default()
    found = device(where, kernel) if isinstance(where, str) else where
    holders = []
    for pid in sorted(int(name) for name in entries(kernel, "/proc") if name.isdecimal()):
        try:
            opened = _opened(kernel, pid)
        except PermissionError:
            continue
        number = _descriptor_of(kernel, found, pid, opened)
        if number is not None:
            holders.append(Holder(pid, attribute(kernel, f"/proc/{pid}/comm") or "?", number))
    return holders


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
        # An unbind that waits for the close has taken the node away already.
        if found.cdev is not None and target.removesuffix(" (deleted)") == found.cdev:
            return number
        if target != _DEVICE:
            continue
        info = attribute(kernel, f"/proc/{pid}/fdinfo/{number}") or ""
        paths = [
            line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("vfio-device-syspath:")
        ]
        if found.path in paths or (not paths and found.group_path in opened.values()):
            return number
    return None
