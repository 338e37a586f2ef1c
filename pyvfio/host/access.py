# SPDX-License-Identifier: MIT
"""Giving a device's nodes to a user, by a udev rule that lasts until the next boot."""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.errors import HostError
from pyvfio.host.discovery import HostDevice, device
from pyvfio.host.nodes import canonical
from pyvfio.kernel import Kernel, resolve

DIRECTORY = "/run/udev/rules.d"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Grant(NamedTuple):
    """Nodes that were given to a user.

    :ivar rule: the file of the udev rule; None where the host has no udev
    :ivar nodes: the nodes whose owner was changed
    """

    rule: str | None
    nodes: tuple[str, ...]


def grant(
    where: str | HostDevice,
    user: int,
    group: int,
    /,
    *,
    names: tuple[str, str] | None = None,
    kernel: Kernel | str | None = None,
) -> Grant:
    """Give a device's nodes to a user and a group, now and, by a udev rule, whenever they are created again until the next boot.

    A user who can open the group's node, or the device's node and /dev/iommu, controls the DMA of the whole IOMMU group. The permissions
    of /dev/iommu do not change.

    :param where: a device that is bound to a VFIO driver: its address, or what :func:`device` returned
    :param user: the user's number (uid)
    :param group: the group's number (gid)
    :param names: the names of the user and the group, for the rule; None writes the numbers there
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises OSError: ENODEV, the device has no nodes; EPERM or EACCES without root
    """
    kernel = resolve(kernel)
    found = device(where.address if isinstance(where, HostDevice) else where, kernel)
    user, group = arguments.u32(user, "user"), arguments.u32(group, "group")
    if names is not None:
        names = _names(names)
    nodes = tuple(path for path in (found.group_path, found.cdev) if path is not None and kernel.exists(path))
    if not nodes:
        raise HostError(errno.ENODEV, f"{found.address} has no nodes: it is not bound to a VFIO driver")
    owner, owning = names if names is not None else (str(user), str(group))
    for node in nodes:
        kernel.chown(node, user, group)
    rule = None
    if kernel.exists(os.path.dirname(DIRECTORY)):
        rule = _path(found.address)
        _write(kernel, rule, _rule(found, owner, owning))
    return Grant(rule, nodes)


def revoke(where: str, kernel: Kernel | str | None = None) -> bool:
    """Remove the udev rule of a device; return whether there was one. Existing nodes keep their owner until they are created again.

    :param where: the device's address, "0000:00:03.0", or its name on another bus
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    """
    kernel = resolve(kernel)
    path = _path(canonical(where))
    if not kernel.exists(path):
        return False
    with suppress(FileNotFoundError):
        kernel.unlink(path)
    return True


def _names(names: object) -> tuple[str, str]:
    """Return the names of a user and a group, after checking that a rule can hold them."""
    if not isinstance(names, tuple | list) or len(names) != 2:
        raise arguments.wrong_type(names, "names", "the names of a user and a group")
    user, group = (arguments.string(name, "names") for name in names)
    for name in (user, group):
        if not _NAME.fullmatch(name):
            raise ValueError(f"names: {name!r} is not a valid user or group name")
    return user, group


def _path(address: str) -> str:
    return f"{DIRECTORY}/70-pyvfio-{address}.rules"


def _rule(found: HostDevice, user: str, group: str) -> str:
    """Return the text of the rule. It matches the group's node by its name, and the device's node by its parent device."""
    more = f'OWNER="{user}", GROUP="{group}", MODE="0660"'
    lines = [f"# The DMA of IOMMU group {found.group} for {user}:{group}, by pyvfio."]
    if found.group_path is not None:
        lines.append(f'SUBSYSTEM=="vfio", KERNEL=="{os.path.basename(found.group_path)}", {more}')
    lines.append(f'SUBSYSTEM=="vfio-dev", KERNELS=="{found.address}", {more}')
    return "\n".join(lines) + "\n"


def _write(kernel: Kernel, path: str, text: str) -> None:
    fd = kernel.create(path)
    try:
        data = text.encode()
        kernel.truncate(fd, 0)
        if kernel.pwrite(fd, data, 0) != len(data):
            raise HostError(errno.ENOSPC, f"{path} could not be written whole")
    finally:
        kernel.close(fd)
