# SPDX-License-Identifier: MIT
"""One use of a device by the running system."""

from __future__ import annotations

from typing import NamedTuple


class Use(NamedTuple):
    """One use of a device by the running system.

    :ivar name: `disk:nvme0n1`, `filesystem:TAG` (9p, virtiofs), `network:eth0`, `console:ttyS0`, `node:snd/controlC0` (a node under /dev
        that a process has open), `registers:ADDRESS` (a BAR that a process has open or mapped through sysfs), `dma:dma0chan0`,
        `vfio:ADDRESS` (a device below it, or a virtual function, that a process has open through VFIO)
    :ivar why: for example `mounted at /, /home`, or `/dev/hvc0 is open in process 1 (init), descriptor 0`
    :ivar path: its place under /sys/devices; losing a device above it in the tree breaks it too
    """

    name: str
    why: str
    path: str

    def carried_by(self, path: str) -> bool:
        """Whether this breaks with the device at a path.

        :param path: the device's path in sysfs
        """
        return self.path == path or self.path.startswith(f"{path}/")

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"
