# SPDX-License-Identifier: MIT
"""Resolve a device name to its sysfs path, IOMMU group and /dev/vfio nodes.

This is all that opening a device needs. :mod:`pyvfio.host.discovery` has a device's other properties.
"""

from __future__ import annotations

import errno
import os
import re
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.errors import HostError
from pyvfio.host.sysfs import checked_name, entries, link_name, linked
from pyvfio.kernel import Kernel

_PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Nodes(NamedTuple):
    """The part of a :class:`pyvfio.host.HostDevice` that opening it needs; its fields are described there."""

    address: str
    bus: str
    path: str
    group: int | None
    group_path: str | None
    vfio: str | None
    cdev: str | None

    @property
    def no_iommu(self) -> bool:
        """See :attr:`HostDevice.no_iommu`."""
        return without_iommu(self.group_path, self.cdev, self.vfio)


def without_iommu(*nodes: str | None) -> bool:
    """Whether a device's nodes are of no-IOMMU mode, by their names.

    The name of the IOMMU group does not show it: emulated devices' groups are called `vfio-noiommu` too.
    """
    return any("noiommu-" in node for node in nodes if node)


def find(where: str, kernel: Kernel) -> Nodes:
    """Return the nodes of the device of that name, on whichever bus it is; see :func:`pyvfio.host.device`.

    :raises ValueError: not a valid device name
    :raises OSError: ENODEV, no such device; the text lists devices that exist
    """
    name = canonical(where)
    buses = ["pci"] if _PCI.fullmatch(name) else entries(kernel, "/sys/bus")
    found = [
        nodes_of(kernel, bus, path)
        for bus in buses
        if (path := linked(kernel, f"/sys/bus/{bus}/devices/{name}")) is not None
    ]
    if not found:
        raise no_device(kernel, name)
    # Two buses may have a device of that name: prefer the one that VFIO serves.
    return max(found, key=lambda one: (one.vfio is not None, one.group is not None))


def canonical(where: str) -> str:
    """Return a device's name as sysfs spells it.

    :raises ValueError: not a valid device name
    """
    checked_name(arguments.string(where, "where"), "device")
    if pci := _PCI.fullmatch(where):
        return f"{pci[1] or '0000'}:{pci[2]}".lower()
    return where.lower() if _UUID.fullmatch(where) else where


def nodes_of(kernel: Kernel, bus: str, path: str) -> Nodes:
    """Return the nodes of the device at a path under /sys/devices."""
    group = link_name(kernel, f"{path}/iommu_group")
    vfio = next(iter(entries(kernel, f"{path}/vfio-dev")), None)
    return Nodes(
        os.path.basename(path),
        bus,
        path,
        None if group is None else int(group),
        None if group is None else _group_path(kernel, group),
        vfio,
        _cdev(kernel, path, vfio),
    )


def _group_path(kernel: Kernel, group: str) -> str | None:
    for node in (group, f"noiommu-{group}"):
        if kernel.exists(f"/sys/class/vfio/{node}"):
            return f"/dev/vfio/{node}"
    return None


def _cdev(kernel: Kernel, path: str, vfio: str | None) -> str | None:
    # Without CONFIG_VFIO_DEVICE_CDEV the directory exists, but has no file `dev` with a device number.
    if vfio is None or not kernel.exists(f"{path}/vfio-dev/{vfio}/dev"):
        return None
    return f"/dev/vfio/devices/{vfio}"


def no_device(kernel: Kernel, name: str) -> OSError:
    """Return the error for a device that does not exist."""
    if _PCI.fullmatch(name):
        there = entries(kernel, "/sys/bus/pci/devices")
        near = [one for one in there if one.startswith(name[: name.rindex(":")])] or there
        what = "PCI functions there"
    else:
        near = [
            os.path.basename(kernel.realpath(f"/sys/class/vfio-dev/{one}/device"))
            for one in entries(kernel, "/sys/class/vfio-dev")
        ]
        what = "bound to VFIO drivers"
    shown = ", ".join(near[:8]) + (", ..." if len(near) > 8 else "") if near else "none"
    return HostError(errno.ENODEV, f"no device {name} on any bus; {what}: {shown}")
