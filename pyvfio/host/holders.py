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


#: Returns the address of the device that a descriptor of this process stands for. The library's descriptors, which stand above,
#: put their own function here.
own_device: Callable[[int], str | None] = dict[int, str]().get


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


def holders_of(where: str | Nodes, kernel: Kernel | str | None = None) -> list[Holder]:
    """Return the processes that have a device open. Other users' processes are seen by root only.

    A descriptor's fdinfo says which device it stands for. Where it does not (Linux 6.1 and 6.12) the library knows its own
    descriptors; of others, the name of the node tells, or the group's descriptor in the same process.

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

    :param path: the node's
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
    # The driver's link goes before the waiting, the group's node after it.
    if driver is not None or nodes.group_path is None:
        return False
    holders, saw_all = _search(kernel, nodes, driver)
    return bool(holders) or not saw_all


def _search(kernel: Kernel, nodes: Nodes, driver: str | None) -> tuple[list[Holder], bool]:
    """Return the device's holders, and whether all processes could be looked into."""
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
    """Return a process's descriptors and what they stand for, as far as they concern VFIO."""
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
    """Return the descriptor of a process that stands for the device."""
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
            # An unbind that waits for the close has removed the node already, and nothing says which device had it.
            holds = driver is None and nodes.group_path is not None
        else:
            holds = target.removesuffix(" (deleted)") == nodes.cdev
        if holds:
            return number
    return None
