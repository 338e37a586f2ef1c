"""Queues of I/O page faults."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.errno import Errno
from pyvfio.mock.file import File
from pyvfio.mock.iommufd.command import Command, command
from pyvfio.mock.iommufd.object import Object

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context


class FaultQueue(Object):
    """What page faults go to."""


class FaultQueueFile(File):
    """Its descriptor, which keeps the queue."""

    kind = "fault"

    def __init__(self, queue: FaultQueue) -> None:
        super().__init__(queue.ctx.kernel)
        self._queue = queue
        queue.users += 1
        queue.ctx.hold()

    def release(self) -> None:
        self._queue.drop()
        self._queue.ctx.drop()

    def descriptor(self) -> int:
        return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def read(self, size: int) -> bytes:
        if size % 40:
            raise Errno(errno.ESPIPE)
        return b""

    def write(self, data: bytes) -> int:
        if len(data) % 8:
            raise Errno(errno.ESPIPE)
        if data:
            # No fault waits for an answer.
            raise Errno(errno.EINVAL)
        return 0


@command(lib.IOMMU_FAULT_QUEUE_ALLOC, "struct iommu_fault_alloc", "out_fault_fd")
def _alloc(ctx: Context, cmd: Command) -> None:
    if cmd.c.flags:
        raise Errno(errno.EOPNOTSUPP)
    queue = FaultQueue(ctx)
    file = FaultQueueFile(queue)
    try:
        fd = ctx.kernel.install(file)
    except Errno:
        file.drop()
        ctx.abort(queue)
        raise
    cmd.c.out_fault_id = queue.id
    cmd.c.out_fault_fd = fd
    try:
        cmd.respond()
    except Errno:
        ctx.kernel.close(fd)
        ctx.abort(queue)
        raise
