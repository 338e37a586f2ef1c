# SPDX-License-Identifier: MIT
"""Event queues of virtual IOMMUs (struct iommufd_veventq)."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.iommufd.command import Command, command
from pyvfio.mock.iommufd.object import Object
from pyvfio.mock.iommufd.viommu import Viommu
from pyvfio.mock.machine.errno import Errno, descriptors
from pyvfio.mock.machine.file import File

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context

_MOST = 1 << 19
_HEADER = struct.Struct("=2I")


class _Event:
    def __init__(self, data: bytes | None) -> None:
        self.data = data
        self.sequence = 0

    @property
    def packed(self) -> bytes:
        lost = self.data is None
        return _HEADER.pack(lib.IOMMU_VEVENTQ_FLAG_LOST_EVENTS if lost else 0, self.sequence) + (self.data or b"")


class EventQueue(Object):
    """A queue of at most `depth` events.

    When it is full, further events are lost: one header with IOMMU_VEVENTQ_FLAG_LOST_EVENTS, without data, reports
    that.
    """

    def __init__(self, viommu: Viommu, type_: int, depth: int) -> None:
        super().__init__(viommu.ctx)
        self.viommu = viommu
        self.type = type_
        self._depth = depth
        self._events: list[_Event] = []
        self._lost = _Event(None)
        self._sequence = 0
        self.file: EventQueueFile | None = None
        viommu.users += 1
        viommu.event_queues[type_] = self

    def destroyed(self) -> None:
        del self.viommu.event_queues[self.type]
        self.viommu.drop()

    def report(self, data: bytes) -> None:
        """Add an event, or note that it is lost."""
        full = sum(event is not self._lost for event in self._events) == self._depth
        event = self._lost if full else _Event(data)
        if self._events and self._events[-1] is self._lost:
            self._events.pop()
        event.sequence = self._sequence
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        self._events.append(event)
        if self.file is not None:
            self.file.show(ready=True)

    def take(self, size: int) -> bytes:
        """Remove the events that fit into `size` bytes, and return them (iommufd_veventq_fops_read).

        :raises Errno: EINVAL, the first event does not fit
        """
        if size < _HEADER.size:
            raise Errno(errno.EINVAL)
        taken = b""
        while self._events:
            event = self._events[0].packed
            if len(taken) + len(event) > size:
                if not taken:
                    raise Errno(errno.EINVAL)
                if len(self._events) > 1 and self._events[0] is self._lost:
                    self._events.pop(0)
                break
            self._events.pop(0)
            taken += event
        if self.file is not None:
            self.file.show(ready=bool(self._events))
        return taken


class EventQueueFile(File):
    """The descriptor of an event queue, which keeps the queue in use.

    It is the read end of a pipe, which holds a byte while there is an event, so that poll works.
    """

    kind = "event"

    def __init__(self, queue: EventQueue) -> None:
        super().__init__(queue.ctx.kernel)
        self._queue = queue
        self._shown = False
        with descriptors():
            self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        queue.users += 1
        queue.file = self
        queue.ctx.hold()

    def descriptor(self) -> int:
        return os.dup(self._reader)

    def show(self, *, ready: bool) -> None:
        if ready and not self._shown:
            os.write(self._writer, b"!")
        elif self._shown and not ready:
            os.read(self._reader, 1)
        self._shown = ready

    # The file is not seekable (stream_open).

    def pread(self, size: int, offset: int) -> bytes:
        raise Errno(errno.ESPIPE)

    def pwrite(self, data: bytes, offset: int) -> int:
        raise Errno(errno.ESPIPE)

    def read(self, size: int) -> bytes:
        return self._queue.take(size)

    def release(self) -> None:
        os.close(self._reader)
        os.close(self._writer)
        self._queue.file = None
        self._queue.drop()
        self._queue.ctx.drop()


@command(lib.IOMMU_VEVENTQ_ALLOC, "struct iommu_veventq_alloc", "out_veventq_fd")
def _alloc(ctx: Context, cmd: Command) -> None:
    """Create an event queue of a virtual IOMMU (iommufd_veventq_alloc)."""
    c = cmd.c
    if c.flags or c.__reserved or c.type == lib.IOMMU_VEVENTQ_TYPE_DEFAULT:
        raise Errno(errno.EOPNOTSUPP)
    if not 0 < c.veventq_depth <= _MOST:
        raise Errno(errno.EINVAL)
    viommu = ctx.get(c.viommu_id, Viommu)
    if c.type in viommu.event_queues:
        raise Errno(errno.EEXIST)
    queue = EventQueue(viommu, c.type, c.veventq_depth)
    c.out_veventq_id = queue.id
    try:
        c.out_veventq_fd = ctx.install(EventQueueFile(queue))
        cmd.respond()
    except Errno:
        if c.out_veventq_fd:
            ctx.kernel.close(c.out_veventq_fd)
        ctx.remove(queue)
        raise
