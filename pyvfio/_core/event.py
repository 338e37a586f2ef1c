"""An eventfd that the kernel signals."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pyvfio._core.fd import Fd
from pyvfio._core.resource import Resource

if TYPE_CHECKING:
    import asyncio

    from pyvfio.device import Device


class Event(Resource):
    """An eventfd of a device. It counts: what comes together is one wake-up, and none is lost."""

    #: what it stands for
    _noun = "event"

    def __init__(self, device: Device, name: str) -> None:
        super().__init__(device)
        kernel = device._fd.kernel
        self._fd = Fd(kernel, kernel.eventfd(0, os.EFD_NONBLOCK), "eventfd", f"{device.address} {name}")
        #: the asyncio tasks that wait for it
        self._waiting: list[asyncio.Future[None]] = []

    def fileno(self) -> int:
        """The eventfd, for select and its kin. Reading it yourself takes the count from :meth:`wait`."""
        return self._fd.fileno()

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it is signalled.

        :param timeout: seconds; 0 only looks; None waits for ever
        :returns: how often it has been since the last wait, at least 1
        :raises TimeoutError: it has not been
        """
        fd = self._fd
        count = fd.kernel.wait(fd.fileno(), timeout)
        if not count:
            raise TimeoutError(errno.ETIMEDOUT, f"{fd.name}: no {self._noun} within {timeout} seconds")
        return count

    async def wait_async(self) -> int:
        """As :meth:`wait`, in a running asyncio loop; use asyncio.timeout for a limit.

        :raises Closed: it has been closed meanwhile
        """
        import asyncio

        loop = asyncio.get_running_loop()
        while not (count := self._fd.kernel.wait(number := self.fileno(), 0)):
            ready: asyncio.Future[None] = loop.create_future()
            if not self._waiting:
                loop.add_reader(number, self._wake)
            self._waiting.append(ready)
            try:
                await ready
            finally:
                self._waiting.remove(ready)
                if not self._waiting:
                    loop.remove_reader(number)
        return count

    def _wake(self) -> None:
        for ready in self._waiting:
            if not ready.done():
                ready.set_result(None)

    def _release(self) -> None:
        self._dispose()

    def _has_gone(self) -> bool:
        return self._fd.closed

    def _undo(self) -> None:
        if "_fd" in self.__dict__:
            self._fd.close()

    def _dispose(self) -> None:
        """Close the eventfd, of which the kernel's part knows nothing any more."""
        self._closed = True
        self._fd.close()
        self._wake()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._fd.name}{' (closed)' if self.closed else ''}>"
