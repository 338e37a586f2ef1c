"""The caller's eventfds, as the kernel holds them: signalled by devices, and watched for what a signal is to do."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from threading import RLock, Thread

from pyvfio.mock.errno import Errno

_EVENTFD = "anon_inode:[eventfd]"


class Eventfd:
    """One eventfd, for as long as it is needed: the caller may close its own descriptor.

    :raises Errno: EBADF, EINVAL for what is no eventfd
    """

    def __init__(self, fd: int) -> None:
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            raise Errno(errno.EBADF) from None
        if target != _EVENTFD:
            raise Errno(errno.EINVAL)
        self._fd = os.dup(fd)

    def fileno(self) -> int:
        return self._fd

    def signal(self) -> None:
        # At its largest count it stays there, as the kernel has it.
        if select.select([], [self._fd], [], 0)[1]:
            os.eventfd_write(self._fd, 1)

    def take(self) -> bool:
        """Take the count; whether there was any."""
        if not select.select([self._fd], [], [], 0)[0]:
            return False
        os.eventfd_read(self._fd)
        return True

    def close(self) -> None:
        os.close(self._fd)


class Watcher:
    """A thread that acts when eventfds are signalled (the kernel's virqfd); it lives while there is something to watch.

    :param lock: held while something is done
    """

    def __init__(self, lock: RLock) -> None:
        self._lock = lock
        self._watched: dict[int, tuple[Eventfd, Callable[[], object]]] = {}
        self._epoll: select.epoll | None = None

    def watch(self, fd: int, act: Callable[[], object]) -> Eventfd:
        """Call `act` whenever the caller's `fd` is signalled, and now if it has been, until :meth:`leave`.

        :raises Errno: EBADF, EINVAL
        """
        eventfd = Eventfd(fd)
        if self._epoll is None:
            self._epoll = select.epoll()
            Thread(target=self._run, args=(self._epoll,), name="pyvfio.mock: eventfds", daemon=True).start()
        self._watched[eventfd.fileno()] = eventfd, act
        self._epoll.register(eventfd.fileno(), select.EPOLLIN)
        return eventfd

    def leave(self, eventfd: Eventfd) -> None:
        if self._epoll is not None:
            self._epoll.unregister(eventfd.fileno())
        self._watched.pop(eventfd.fileno())
        eventfd.close()

    def _run(self, epoll: select.epoll) -> None:
        while True:
            # Woken now and then to see whether there is still something to do.
            ready = epoll.poll(1)
            with self._lock:
                if not self._watched:
                    epoll.close()
                    self._epoll = None
                    return
                for fd, _ in ready:
                    eventfd, act = self._watched.get(fd, (None, None))
                    if eventfd is not None and act is not None and eventfd.take():
                        act()
