# SPDX-License-Identifier: MIT
"""Uevents of the mock's devices, and the udev monitors that receive them."""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING

from pyvfio.kernel import SysfsDevice, UdevMonitor

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel

Event = tuple[str, SysfsDevice]


class Uevents:
    """The open monitors. :meth:`tell` sends a uevent to all of them."""

    def __init__(self) -> None:
        self._monitors: list[Monitor] = []
        self._number = 0

    def listen(self, kernel: Kernel) -> Monitor:
        monitor = Monitor(self, kernel)
        self._monitors.append(monitor)
        return monitor

    def leave(self, monitor: Monitor) -> None:
        self._monitors.remove(monitor)

    def tell(self, action: str, subsystem: str, path: str, **properties: str) -> None:
        """Send a uevent.

        :param action: `add`, `remove`, `bind`, `unbind` or `change`
        :param subsystem: the subsystem of the device
        :param path: path of the device, below /sys
        :param properties: further properties
        """
        self._number += 1
        own = {"ACTION": action, "DEVPATH": path.removeprefix("/sys"), "SUBSYSTEM": subsystem}
        device = SysfsDevice(
            subsystem, os.path.basename(path), path, {**own, "SEQNUM": str(self._number), **properties}
        )
        for monitor in self._monitors:
            monitor.put((action, device))


class Monitor(UdevMonitor):
    """A monitor, which queues the uevents since it was created."""

    def __init__(self, uevents: Uevents, kernel: Kernel) -> None:
        # Do not call the base class's __init__, which would listen to the real host.
        self._uevents = uevents
        self._lock = kernel.lock
        self._events: deque[Event] = deque()
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)

    def fileno(self) -> int:
        return self._ready

    def put(self, event: Event) -> None:
        self._events.append(event)
        os.eventfd_write(self._ready, 1)

    def poll(self, timeout: float | None) -> Event | None:
        if not select.select([self._ready], [], [], timeout)[0]:
            return None
        os.eventfd_read(self._ready)
        with self._lock:
            return self._events.popleft()

    def close(self) -> None:
        with self._lock:
            self._uevents.leave(self)
            os.close(self._ready)
