# SPDX-License-Identifier: MIT
"""The processes that have a VFIO device open."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from pyvfio.host.nodes import Nodes, find
from pyvfio.host.sysfs import attribute, entries, link_name
from pyvfio.kernel import Kernel, resolve

_DEVICE = "anon_inode:[vfio-device]"


#: returns the address of the device that a descriptor of this process has open; None if unknown. :mod:`pyvfio._core.fd`, which knows the
#: library's descriptors and imports this module, replaces it
own_device: Callable[[int], str | None] = dict[int, str]().get


class Holder(NamedTuple):
    """A process with a descriptor of a device.

    :ivar name: the name of the process, from /proc/PID/comm
    :ivar descriptor: the number of the descriptor in that process
    """

    pid: int
    name: str
    descriptor: int

    def __str__(self) -> str:
        who = "this process" if self.pid == os.getpid() else f"process {self.pid} ({self.name})"
        return f"{who}, descriptor {self.descriptor}"


def holders_of(where: str | Nodes, kernel: Kernel | str | None = None) -> list[Holder]:
    """Return the processes that have a device open. Other users' processes are seen by root only.

    A descriptor's fdinfo names its device. On kernels where it does not (Linux 6.1 and 6.12), the library knows its own descriptors;
    those of other processes are recognised by the node's name, or by an open node of the device's group in the same process.

    :param where: the device's address, or its nodes (:attr:`HostDevice.nodes`)
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises OSError: ENODEV, no such device
    """
    kernel = resolve(kernel)
    nodes = where if isinstance(where, Nodes) else find(where, kernel)
    holders, _ = _search(kernel, nodes, link_name(kernel, f"{nodes.path}/driver"))
    return holders


def holders_of_node(path: str, kernel: Kernel | str | None = None) -> list[Holder]:
    """Return the processes that have a node open, such as a group's `/dev/vfio/N`. Other users' processes are seen by root only.

    :param path: the path of the node
    """
    kernel = resolve(kernel)
    holders = []
    for pid in sorted(int(name) for name in entries(kernel, "/proc") if name.isdecimal()):
        try:
            opened = _opened(kernel, pid)
        except PermissionError:
            continue
        number = next((number for number, target in opened.items() if target == path), None)
        if number is not None:
            holders.append(Holder(pid, attribute(kernel, f"/proc/{pid}/comm") or "?", number))
    return holders


def unbinding_waits(kernel: Kernel, nodes: Nodes, driver: str | None) -> bool:
    """Whether a device is being unbound from a VFIO driver that waits, holding the device's lock, until it is closed.

    Also True where the processes of other users cannot be seen, since one of them may have it open.
    """
    # The kernel removes the driver's link before it waits, and the group's node after that.
    if driver is not None or nodes.group_path is None:
        return False
    holders, saw_all = _search(kernel, nodes, driver)
    return bool(holders) or not saw_all


def _search(kernel: Kernel, nodes: Nodes, driver: str | None) -> tuple[list[Holder], bool]:
    """Return the device's holders, and whether the descriptors of all processes could be read."""
    holders = []
    saw_all = True
    for pid in sorted(int(name) for name in entries(kernel, "/proc") if name.isdecimal()):
        try:
            number = _descriptor_of(kernel, nodes, driver, pid, _opened(kernel, pid))
        except PermissionError:  # another user's, or one that changes its user meanwhile
            saw_all = False
            continue
        if number is not None:
            holders.append(Holder(pid, attribute(kernel, f"/proc/{pid}/comm") or "?", number))
    return holders, saw_all


def _opened(kernel: Kernel, pid: int) -> dict[int, str]:
    """Return the VFIO descriptors of a process: number -> the target of its link in /proc/PID/fd."""
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


def _descriptor_of(kernel: Kernel, nodes: Nodes, driver: str | None, pid: int, opened: dict[int, str]) -> int | None:
    """Return the number of the descriptor by which a process has the device open; None if it does not."""
    for number, target in opened.items():
        if target != _DEVICE and not target.startswith("/dev/vfio/devices/"):
            continue
        info = attribute(kernel, f"/proc/{pid}/fdinfo/{number}") or ""
        lines = [line.partition(":") for line in info.splitlines()]
        paths = [path.strip() for key, _, path in lines if key == "vfio-device-syspath"]
        if paths:
            holds = nodes.path in paths
        elif pid == os.getpid() and (address := own_device(number)) is not None:
            holds = address == nodes.address
        elif target == _DEVICE:
            holds = nodes.group_path in opened.values()
        elif target.endswith(" (deleted)") and nodes.cdev is None:
            # An unbind that waits for the close has removed the node, and no file says whose node it was: assume this device's.
            holds = driver is None and nodes.group_path is not None
        else:
            holds = target.removesuffix(" (deleted)") == nodes.cdev
        if holds:
            return number
    return None
