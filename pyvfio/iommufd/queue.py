"""Queues of an iommufd: objects with a descriptor of their own that records are read from."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from pyvfio._core.fd import Fd
from pyvfio._core.resource import Attempts
from pyvfio.iommufd.object import IommufdObject

if TYPE_CHECKING:
    from pyvfio.iommufd.iommufd import Iommufd


class Queue(IommufdObject):
    """A queue, with a descriptor for select and its kin."""

    def __init__(self, iommufd: Iommufd, id_: int, fd: Fd, *parents: IommufdObject) -> None:
        super().__init__(iommufd, id_, *parents)
        self._queue = fd

    def fileno(self) -> int:
        """The descriptor of the queue: readable when something has come."""
        return self._queue.fileno()

    def _wait_and_read(self, size: int, timeout: float | None) -> bytes:
        """Wait for records and read them, `size` bytes at most; nothing when `timeout` seconds have passed, None for no limit."""
        queue = self._queue
        return queue.call(queue.kernel.read, size) if queue.poll(select.POLLIN, timeout) else b""

    def destroy(self) -> None:
        """Destroy the queue (IOMMU_DESTROY), and with it what it holds unread.

        :raises OSError: EBUSY: something that reports to it is alive; the note says which
        """
        # The queue's own descriptor is one of its users. It stays open if the kernel is going to refuse for another's sake.
        _ = self.id
        if not self._in_the_way():
            self._queue.close()
        super().destroy()

    def _release(self) -> None:
        attempts = Attempts()
        attempts.do(self._queue.close)
        attempts.do(super()._release)
        attempts.raise_first(f"closing {self!r}")
