# SPDX-License-Identifier: MIT
"""Opening the nodes of VFIO and iommufd: /dev/vfio/vfio, /dev/vfio/N, /dev/vfio/devices/vfioN and /dev/iommu."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from pyvfio._core.fd import Fd
from pyvfio._core.request import Call, Reason
from pyvfio.host import diagnosis
from pyvfio.host.caller import calling_process
from pyvfio.host.diagnosis import Finding
from pyvfio.kernel import Kernel


def _nothing() -> None:
    """Return no reason."""


class Node(NamedTuple):
    """The facts about a node that could not be opened.

    :ivar errno: the kernel's answer
    :ivar absent: returns the reason for ENOENT: why there is no such node
    :ivar busy: returns the reason for EBUSY: the process that has the node open
    """

    kernel: Kernel
    path: str
    errno: int
    absent: Callable[[], Reason | Finding | None]
    busy: Callable[[], Reason | Finding | None]


def _not_permitted(node: Node) -> Finding:
    process = calling_process(node.kernel)
    owner = group = mode = None
    with suppress(OSError):
        owner, group, mode = node.kernel.owner(node.path)
    return diagnosis.not_permitted(
        node.path,
        node.errno,
        user=process.user,
        owner=owner,
        group=group,
        mode=mode,
        groups=process.groups,
        raw_io=process.raw_io,
    )


OPEN = Call(
    "open",
    errnos={
        errno.ENOENT: lambda node: node.absent(),
        errno.EBUSY: lambda node: node.busy(),
        errno.EACCES: _not_permitted,
        errno.EPERM: _not_permitted,
    },
)


def open_node(
    kernel: Kernel,
    path: str,
    kind: str,
    *,
    device: str | None = None,
    absent: Callable[[], Reason | Finding | None] = _nothing,
    busy: Callable[[], Reason | Finding | None] = _nothing,
) -> Fd:
    """Open a node for reading and writing.

    :param kind: the kind of descriptor, as in :mod:`pyvfio.abi`
    :param device: the device that the node belongs to, for the message
    :param absent: returns the reason for ENOENT
    :param busy: returns the reason for EBUSY
    :raises RequestError: the node cannot be opened
    """
    with OPEN.explained(path, {"device": device}, lambda number: Node(kernel, path, number, absent, busy)):
        return Fd.open(kernel, path, kind)
