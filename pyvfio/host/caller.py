# SPDX-License-Identifier: MIT
"""The calling process as the kernel sees it: its user, its capabilities, its locked memory."""

from __future__ import annotations

import os
import resource
from typing import NamedTuple

from pyvfio.host.sysfs import attribute
from pyvfio.kernel import Kernel

_CAP_IPC_LOCK = 1 << 14
_CAP_SYS_RAWIO = 1 << 17


class Caller(NamedTuple):
    """The calling process.

    :ivar user: the effective user; `groups`: its groups
    :ivar capabilities: CapEff of /proc/self/status, a bit for each capability
    :ivar limit: RLIMIT_MEMLOCK in bytes; None for no limit
    :ivar locked: VmLck in bytes
    :ivar pinned: VmPin in bytes
    """

    user: int
    capabilities: int
    limit: int | None
    locked: int
    pinned: int
    groups: frozenset[int] = frozenset()

    @property
    def unlimited(self) -> bool:
        """Whether CAP_IPC_LOCK lifts the limit on locked memory."""
        return bool(self.capabilities & _CAP_IPC_LOCK)

    @property
    def raw_io(self) -> bool:
        """Whether the process has CAP_SYS_RAWIO, which devices without an IOMMU require."""
        return bool(self.capabilities & _CAP_SYS_RAWIO)


def calling_process(kernel: Kernel) -> Caller:
    """Return the calling process as /proc/self/status and getrlimit(2) show it; a missing line counts as 0.

    :raises OSError: the file cannot be read
    """
    limit, _ = kernel.getrlimit(resource.RLIMIT_MEMLOCK)
    lines = (attribute(kernel, "/proc/self/status") or "").splitlines()
    fields = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}

    def first(name: str) -> str:
        return (fields.get(name) or ["0"])[0]

    locked, pinned = (int(first(name)) << 10 for name in ("VmLck", "VmPin"))
    return Caller(
        os.geteuid(),
        int(first("CapEff"), 16),
        None if limit == resource.RLIM_INFINITY else limit,
        locked,
        pinned,
        frozenset((os.getegid(), *os.getgroups())),
    )
