# SPDX-License-Identifier: MIT
"""References to the caller's eventfds: devices signal them, or the kernel waits for their signals."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from threading import RLock, Thread

from pyvfio.mock.machine.errno import Errno, descriptors

_EVENTFD = "anon_inode:[eventfd]"


class Eventfd:
    """A reference to an eventfd, which stays valid after the caller closes its descriptor.

    :raises Errno: EBADF; EINVAL, not an eventfd
    """

    def __init__(self, fd: int) -> None:
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            raise Errno(errno.EBADF) from None
        if target != _EVENTFD:
            raise Errno(errno.EINVAL)
        with descriptors():
            self._fd = os.dup(fd)

    def fileno(self) -> int:
        return self._fd

    def signal(self) -> None:
        # The counter saturates, as in eventfd_signal: a write would block.
        if select.select([], [self._fd], [], 0)[1]:
            os.eventfd_write(self._fd, 1)

    def take(self) -> bool:
        """Reset the counter; return whether it was nonzero."""
        if not select.select([self._fd], [], [], 0)[0]:
            return False
        os.eventfd_read(self._fd)
        return True

    def close(self) -> None:
        os.close(self._fd)


class Watcher:
    """Runs callbacks when eventfds are signalled (the kernel's virqfd).

    Its thread lives while there is an eventfd to watch.

    :param lock: held while a callback runs
    """

    def __init__(self, lock: RLock) -> None:
        self._lock = lock
        self._watched: dict[int, tuple[Eventfd, Callable[[], object]]] = {}
        self._epoll: select.epoll | None = None
        self._end = -1

    def watch(self, fd: int, act: Callable[[], object]) -> Eventfd:
        """Call `act` whenever the caller's `fd` is signalled, until :meth:`leave`; also if it is signalled already.

        :raises Errno: EBADF, EINVAL
        """
        eventfd = Eventfd(fd)
        if self._epoll is None:
            self._epoll = select.epoll()
            self._end = os.eventfd(0, os.EFD_CLOEXEC)
            self._epoll.register(self._end, select.EPOLLIN)
            thread = Thread(target=self._run, args=(self._epoll, self._end), name="pyvfio.mock: eventfds", daemon=True)
            thread.start()
        self._watched[eventfd.fileno()] = eventfd, act
        self._epoll.register(eventfd.fileno(), select.EPOLLIN)
        return eventfd

    def leave(self, eventfd: Eventfd) -> None:
        if self._epoll is not None:
            self._epoll.unregister(eventfd.fileno())
        self._watched.pop(eventfd.fileno())
        eventfd.close()
        if not self._watched and self._epoll is not None:
            # The thread closes both descriptors, because it may be waiting on them.
            os.eventfd_write(self._end, 1)
            self._epoll = None

    def settle(self) -> None:
        """Run the callbacks of all signalled eventfds now, as the kernel runs them at the signal."""
        if self._epoll is not None:
            with self._lock:
                self._act(self._epoll.poll(0))

    def _act(self, ready: list[tuple[int, int]]) -> None:
        for fd, _ in ready:
            eventfd, act = self._watched.get(fd, (None, None))
            if eventfd is not None and act is not None and eventfd.take():
                act()

    def _run(self, epoll: select.epoll, end: int) -> None:
        with epoll:
            while True:
                ready = epoll.poll()
                if any(fd == end for fd, _ in ready):
                    break
                with self._lock:
                    self._act(ready)
        os.close(end)
