# SPDX-License-Identifier: MIT
"""Queues of I/O page faults, which the caller reads and responds to (struct iommufd_fault)."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio.mock.iommufd.command import Command, command
from pyvfio.mock.iommufd.object import Object
from pyvfio.mock.machine.errno import Errno, descriptors
from pyvfio.mock.machine.file import File

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.bound import BoundDevice
    from pyvfio.mock.iommufd.context import Context

_FAULT = struct.Struct("=6IQ2I")
_RESPONSE = struct.Struct("=2I")
assert _FAULT.size == ffi.sizeof("struct iommu_hwpt_pgfault")


class Fault(NamedTuple):
    """One page fault.

    :ivar attached: the PASID, or 0, with which the device is attached to the page table of the fault
    :ivar pasid: the PASID of the DMA; None for DMA without one
    :ivar permissions: the requested IOMMU_PGFAULT_PERM_*
    """

    device: BoundDevice
    attached: int
    pasid: int | None
    group: int
    permissions: int
    address: int


class FaultQueue(Object):
    """A queue of page faults.

    :ivar waiting: groups of faults not yet read; a group gets one response
    :ivar pending: cookie -> a group that was read and waits for its response
    :ivar answers: (group, response), in order
    """

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.waiting: list[list[Fault]] = []
        self.pending: dict[int, list[Fault]] = {}
        self.answers: list[tuple[list[Fault], int]] = []
        self.file: FaultQueueFile | None = None

    def report(self, group: list[Fault]) -> None:
        self.waiting.append(group)
        self.show()

    def show(self) -> None:
        if self.file is not None:
            self.file.show(ready=bool(self.waiting))

    def forget(self, device: BoundDevice, pasid: int) -> None:
        """Respond to the open faults of a device that has been detached with IOMMUFD_PAGE_RESP_INVALID."""

        def of_device(group: list[Fault]) -> bool:
            return group[0].device is device and group[0].attached == pasid

        gone = [group for group in self.waiting if of_device(group)]
        gone += [group for group in self.pending.values() if of_device(group)]
        self.waiting = [group for group in self.waiting if not of_device(group)]
        self.pending = {cookie: group for cookie, group in self.pending.items() if not of_device(group)}
        self.answers += [(group, lib.IOMMUFD_PAGE_RESP_INVALID) for group in gone]
        self.show()

    def take(self, size: int) -> bytes:
        """Take the groups that fit into `size` bytes, and return their faults (iommufd_fault_fops_read).

        :raises Errno: ESPIPE, `size` is not a multiple of the size of a fault; EINVAL, the first group does not fit
        """
        if size % _FAULT.size:
            raise Errno(errno.ESPIPE)
        taken = b""
        while self.waiting:
            group = self.waiting[0]
            if len(taken) + len(group) * _FAULT.size > size:
                if not taken:
                    raise Errno(errno.EINVAL)
                break
            cookie = next(number for number in range(1, len(self.pending) + 2) if number not in self.pending)
            self.pending[cookie] = self.waiting.pop(0)
            for index, fault in enumerate(group):
                flags = lib.IOMMU_PGFAULT_FLAGS_LAST_PAGE if index == len(group) - 1 else 0
                if fault.pasid is not None:
                    flags |= lib.IOMMU_PGFAULT_FLAGS_PASID_VALID
                taken += _FAULT.pack(
                    flags,
                    fault.device.id,
                    fault.pasid or 0,
                    fault.group,
                    fault.permissions,
                    0,
                    fault.address,
                    0,
                    cookie,
                )
        self.show()
        return taken

    def answer(self, data: bytes) -> int:
        """Accept responses (iommufd_fault_fops_write); return the bytes of those accepted.

        :raises Errno: ESPIPE, `data` is not a whole number of responses; EINVAL, an unknown response code or cookie
        """
        if len(data) % _RESPONSE.size:
            raise Errno(errno.ESPIPE)
        done = 0
        for cookie, code in _RESPONSE.iter_unpack(data):
            known = code in (lib.IOMMUFD_PAGE_RESP_SUCCESS, lib.IOMMUFD_PAGE_RESP_INVALID)
            if not known or cookie not in self.pending:
                if not done:
                    raise Errno(errno.EINVAL)
                break
            self.answers.append((self.pending.pop(cookie), code))
            done += _RESPONSE.size
        return done


class FaultQueueFile(File):
    """The descriptor of a fault queue, which keeps the queue in use.

    It is an eventfd, so that poll reports it readable while a fault waits, and always writable.
    """

    kind = "fault"

    def __init__(self, queue: FaultQueue) -> None:
        super().__init__(queue.ctx.kernel)
        self._queue = queue
        with descriptors():
            self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._shown = False
        queue.users += 1
        queue.file = self
        queue.ctx.hold()

    def descriptor(self) -> int:
        return os.dup(self._event)

    def show(self, *, ready: bool) -> None:
        if ready and not self._shown:
            os.eventfd_write(self._event, 1)
        elif self._shown and not ready:
            os.eventfd_read(self._event)
        self._shown = ready

    # The file is not seekable (stream_open).

    def pread(self, size: int, offset: int) -> bytes:
        raise Errno(errno.ESPIPE)

    def pwrite(self, data: bytes, offset: int) -> int:
        raise Errno(errno.ESPIPE)

    def read(self, size: int) -> bytes:
        return self._queue.take(size)

    def write(self, data: bytes) -> int:
        return self._queue.answer(data)

    def release(self) -> None:
        os.close(self._event)
        self._queue.file = None
        self._queue.drop()
        self._queue.ctx.drop()


@command(lib.IOMMU_FAULT_QUEUE_ALLOC, "struct iommu_fault_alloc", "out_fault_fd")
def _alloc(ctx: Context, cmd: Command) -> None:
    """Create a fault queue (iommufd_fault_alloc)."""
    c = cmd.c
    if c.flags:
        raise Errno(errno.EOPNOTSUPP)
    queue = FaultQueue(ctx)
    c.out_fault_id = queue.id
    fd = None
    try:
        fd = c.out_fault_fd = ctx.install(FaultQueueFile(queue))
        cmd.respond()
    except Errno:
        if fd is not None:
            ctx.kernel.close(fd)
        ctx.remove(queue)
        raise
