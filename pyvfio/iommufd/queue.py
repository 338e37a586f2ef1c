# SPDX-License-Identifier: MIT
"""Queues of an iommufd: objects with their own descriptor, from which records are read."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

from pyvfio._buffer import Object
from pyvfio._core.fd import Fd
from pyvfio._core.request import Arguments, Request
from pyvfio._core.resource import Attempts
from pyvfio.iommufd.object import IommufdObject

if TYPE_CHECKING:
    from pyvfio.iommufd.iommufd import Iommufd

__all__ = ["Queue"]


class Queue(IommufdObject):
    """A queue with a descriptor for select, poll and epoll."""

    def __init__(self, iommufd: Iommufd, kind: str, *parents: IommufdObject) -> None:
        super().__init__(iommufd, *parents)
        self._queue = Fd.unopened(self._fd.kernel, kind, f"{kind} queue")

    def _allocate(self, request: Request, native: Any, arguments: Arguments, **places: Fd | Object) -> None:
        super()._allocate(request, native, arguments, **places)
        self._queue.check_received(request.label)
        self._queue.name = f"{self._queue.name} {self._id}"

    def fileno(self) -> int:
        """Return the descriptor of the queue: readable when there are records."""
        return self._queue.fileno()

    def _wait_and_read(self, size: int, timeout: float | None) -> bytes:
        """Wait for records and read them, `size` bytes at most; nothing when `timeout` seconds have passed, None for no limit."""
        queue = self._queue
        return queue.call(queue.kernel.read, size) if queue.poll(select.POLLIN, timeout) else b""

    def destroy(self) -> None:
        """Destroy the queue with its unread records. IOMMU_DESTROY.

        :raises OSError: EBUSY while another object reports to it; the note says which
        """
        # The queue's descriptor counts as a user of the object, so it is closed first, unless other users make the kernel refuse.
        _ = self.id
        if not self._users():
            self._queue.close()
        super().destroy()

    def _undo(self) -> None:
        if "_queue" in self.__dict__:
            self._queue.close()
        super()._undo()

    def _release(self) -> None:
        attempts = Attempts()
        attempts.do(self._queue.close, lambda: self._queue.closed)
        attempts.do(super()._release)
        attempts.raise_first(f"closing {self!r}")

    def _has_gone(self) -> bool:
        return self._queue.closed and super()._has_gone()
