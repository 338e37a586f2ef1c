# SPDX-License-Identifier: MIT
"""Changes to the host's devices as they happen."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

from pyvfio._buffer import Door, in_call
from pyvfio._core import arguments
from pyvfio.errors import Closed
from pyvfio.host.discovery import HostDevice, devices, look
from pyvfio.kernel import Kernel, SysfsDevice, UdevMonitor, resolve


class Change(NamedTuple):
    """A change of one device.

    :ivar action: the action of the kernel's uevent: `add`, `remove`, `bind`, `unbind`, `change`
    :ivar device: the device when the change was read; None if it was gone by then
    """

    action: str
    bus: str
    address: str
    path: str
    device: HostDevice | None


class Changes:
    """The changes, from its construction on, to the devices that :func:`devices` lists.

    Iteration waits for changes, without an end; :meth:`wait` has a time limit; `fileno()` is for poll and asyncio.
    The events are udev's, or the kernel's own where no udevd runs. Only one thread at a time may wait.
    """

    def __init__(self, kernel: Kernel | str | None = None) -> None:
        self._kernel = resolve(kernel)
        self._process = os.getpid()
        # Ends a wait when another thread calls close().
        self._waker = Door(None)
        self._waker.take(os.eventfd, 0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waker.waker(True)
        # Start the monitor before listing the devices: a change in between is reported twice rather than not at all.
        self._monitor: UdevMonitor | None = self._kernel.udev_monitor()
        self._known = {one.path for one in devices(self._kernel)}

    def fileno(self) -> int:
        """Return the descriptor for poll(2) and event loops: it is readable when a change has come."""
        return self._open().fileno()

    def wait(self, timeout: float | None = None) -> Change | None:
        """Return the next change; None if there was none within `timeout` seconds.

        :param timeout: seconds; None waits for ever
        :raises Closed: this is closed, or another thread closed it
        """
        timeout = arguments.seconds_or_none(timeout)
        monitor = self._open()
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            try:
                event: tuple[str, SysfsDevice] | None = self._waker.call(_next, monitor, left)
            finally:
                self._open()
            if event is None:
                return None
            action, one = event
            found = look(self._kernel, one.path)
            if found is not None and (found.bus in ("pci", "mdev") or found.group is not None):
                self._known.add(one.path)
            if one.path in self._known:
                if action == "remove":
                    self._known.discard(one.path)
                return Change(action, one.subsystem, one.name, one.path, found)

    def _open(self) -> UdevMonitor:
        if self._process != os.getpid():
            raise Closed("the host's changes were opened before the fork: in the child they can only be closed")
        if self._monitor is None:
            raise Closed("the host's changes are closed")
        return self._monitor

    def close(self) -> None:
        """Stop listening. No effect if it is closed already."""
        monitor, self._monitor = self._monitor, None
        if self._process != os.getpid():
            self._waker.inherit()
        while not self._waker.shut() and not in_call():
            time.sleep(0.0005)
        if monitor is not None:
            monitor.close()

    def __iter__(self) -> Iterator[Change]:
        while (change := self.wait()) is not None:
            yield change

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _next(waker: int, monitor: Any, timeout: float | None) -> Any:
    """Return the next event, an action and a SysfsDevice; None after `timeout` seconds, or when `waker` becomes readable."""
    if not isinstance(monitor, UdevMonitor) or (timeout is not None and timeout <= 0):
        return monitor.poll(timeout)
    poll = select.poll()
    poll.register(waker, select.POLLIN)
    poll.register(monitor.fileno(), select.POLLIN)
    ready = dict(poll.poll(None if timeout is None else timeout * 1000))
    return monitor.poll(0) if ready and waker not in ready else None
