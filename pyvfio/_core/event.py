# SPDX-License-Identifier: MIT
"""An eventfd that the kernel signals."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from pyvfio._core.arguments import time_left
from pyvfio._core.fd import Fd
from pyvfio._core.resource import DescriptorResource, Resource
from pyvfio.kernel import Kernel

if TYPE_CHECKING:
    import asyncio


class Event(DescriptorResource):
    """An eventfd of a device. It counts: one wait may return several events, but none is lost."""

    #: the word for such an event in messages
    _noun = "event"

    def __init__(self, parent: Resource, kernel: Kernel, name: str) -> None:
        super().__init__(parent)
        try:
            self._fd = Fd.take(kernel, "eventfd", name, kernel.eventfd, 0, os.EFD_NONBLOCK)
        except OSError as error:
            if error.errno == errno.EMFILE:
                error.add_note(
                    f"each {self._noun} has a descriptor; `ulimit -n` shows and raises how many a process may have"
                )
            raise
        # Closing signals the eventfd itself, so waits end.
        self._fd.door.waker(True)
        #: functions that wake the asyncio tasks that wait for the event
        self._wakers: set[Callable[[], None]] = set()

    def fileno(self) -> int:
        """The eventfd, for select, poll and epoll. Reading it yourself takes the count from :meth:`wait`."""
        return self._fd.fileno()

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the eventfd is signalled.

        :param timeout: seconds; 0 does not wait; None waits for ever
        :returns: how many times it was signalled since the last wait, at least 1
        :raises TimeoutError: not signalled within the timeout
        :raises Closed: it is closed, or another thread closed it
        """
        fd = self._fd
        timeout = time_left(timeout)
        count = fd.call(fd.kernel.wait, timeout)
        fd.check_open()
        if not count:
            late = TimeoutError(errno.ETIMEDOUT, f"{fd.name}: no {self._noun} within {timeout:g} seconds")
            if timeout:
                # Only after a real wait: with timeout=0 programs poll, and the notes would cost a request each time.
                with suppress(OSError):
                    for note in self._why_silent():
                        late.add_note(note)
            raise late
        return count

    def _why_silent(self) -> list[str]:
        """Return sentences on what keeps the kernel from signalling the eventfd, if anything is known."""
        return []

    async def wait_async(self) -> int:
        """Wait in a running asyncio loop; use asyncio.timeout for a limit. See :meth:`wait`.

        Any number of tasks, of any loops, may wait; any thread may close it.

        :raises Closed: it is closed, or has been closed meanwhile
        """
        import asyncio

        fd = self._fd
        loop = asyncio.get_running_loop()
        while not (count := fd.call(fd.kernel.wait, 0)):
            ready: asyncio.Future[None] = loop.create_future()

            def wake(ready: asyncio.Future[None] = ready) -> None:
                if not ready.done():
                    ready.set_result(None)

            def wake_from_any_thread(wake: Callable[[], None] = wake) -> None:
                with suppress(RuntimeError):  # the loop has been closed
                    loop.call_soon_threadsafe(wake)

            # The loop watches a duplicate that belongs to this task. Another thread may close the event, and its number may then
            # belong to another file before the loop stops watching it.
            watched = Fd.take(fd.kernel, "eventfd", fd.name, fd.call, os.dup)
            self._wakers.add(wake_from_any_thread)
            try:
                fd.check_open()
                loop.add_reader(watched.fileno(), wake)
                try:
                    await ready
                finally:
                    loop.remove_reader(watched.fileno())
            finally:
                self._wakers.discard(wake_from_any_thread)
                watched.close()
        return count

    def _release(self) -> None:
        self._dispose()

    def _dispose(self) -> None:
        """Close the eventfd, which VFIO does not signal any more, and wake the asyncio tasks that wait for it."""
        self._closed = True
        try:
            self._fd.close()
        finally:
            for wake in list(self._wakers):
                wake()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._fd.name}{' (closed)' if self.closed else ''}>"
