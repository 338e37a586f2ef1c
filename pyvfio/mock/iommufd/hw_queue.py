# SPDX-License-Identifier: MIT
"""Hardware queues: queues in a guest's memory that the IOMMU reads directly (struct iommufd_hw_queue)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.iommufd import rw
from pyvfio.mock.iommufd.area import LAST, READ, Area
from pyvfio.mock.iommufd.command import Command, command
from pyvfio.mock.iommufd.ioas import Ioas
from pyvfio.mock.iommufd.object import Object
from pyvfio.mock.iommufd.viommu import Viommu
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context


class InternalAccess(Object):
    """A pin on the memory of a queue, which forbids unmapping (iommufd_access_create_internal)."""

    def __init__(self, ioas: Ioas) -> None:
        super().__init__(ioas.ctx)
        self.alignment = ioas.ctx.kernel.profile.page_size
        self._ioas = ioas
        self._pinned: list[tuple[Area, int, int]] = []
        # The queue is a user, so that IOMMU_DESTROY cannot destroy this object.
        self.users += 1

    def pin(self, start: int, last: int) -> None:
        """Pin the memory of the queue.

        :raises Errno: EADDRINUSE; ENOENT, not mapped; EPERM; EFAULT, the pages are not physically contiguous
        """
        self._ioas.table.add_access(self)
        try:
            for area, first, end in rw.accessible(self._ioas.table, start, last - start + 1, READ):
                if self._pinned:
                    raise Errno(errno.EFAULT)
                area.pin_access(first, end)
                area.locks += 1
                self._pinned.append((area, first, end))
        except Errno:
            self.unpin()
            raise
        self._ioas.users += 1

    def unpin(self) -> None:
        for area, first, end in self._pinned:
            area.unpin_access(first, end)
            area.locks -= 1
        self._pinned.clear()
        self._ioas.table.remove_access(self)

    def unmapped(self, iova: int, size: int) -> None:
        """Keep the pin: the range is locked against unmapping."""

    def end(self) -> None:
        self.unpin()
        self._ioas.drop()
        self.forget()

    def forget(self) -> None:
        self.drop()
        self.ctx.remove(self)


class HwQueue(Object):
    """A hardware queue of a virtual IOMMU."""

    def __init__(self, viommu: Viommu) -> None:
        super().__init__(viommu.ctx)
        self.viommu = viommu
        self.index: int | None = None
        self._access: InternalAccess | None = None
        self._needs: HwQueue | None = None
        viommu.users += 1

    def pin(self, iova: int, size: int) -> None:
        page = self.ctx.kernel.profile.page_size
        access = InternalAccess(self.viommu.parent.ioas)
        try:
            access.pin(iova & -page, (iova + size - 1) | page - 1)
        except Errno:
            access.forget()
            raise
        self._access = access

    def depends_on(self, other: HwQueue) -> None:
        other.users += 1
        self._needs = other

    def destroyed(self) -> None:
        if self.index is not None:
            del self.viommu.hw_queues[self.index]
        if self._needs is not None:
            self._needs.drop()
        if self._access is not None:
            self._access.end()
        self.viommu.drop()


@command(lib.IOMMU_HW_QUEUE_ALLOC, "struct iommu_hw_queue_alloc", "length")
def _alloc(ctx: Context, cmd: Command) -> None:
    """Create a hardware queue (iommufd_hw_queue_alloc_ioctl)."""
    c = cmd.c
    if c.flags or c.type == lib.IOMMU_HW_QUEUE_TYPE_DEFAULT:
        raise Errno(errno.EOPNOTSUPP)
    if not c.length:
        raise Errno(errno.EINVAL)
    if c.nesting_parent_iova + c.length - 1 > LAST:
        raise Errno(errno.EOVERFLOW)
    viommu = ctx.get(c.viommu_id, Viommu)
    viommu.driver.check_hw_queue(c.type)
    queue = HwQueue(viommu)
    try:
        page = ctx.kernel.profile.page_size
        end = c.nesting_parent_iova % page + c.length + page - 1
        if end > LAST:
            raise Errno(errno.ERANGE)
        # iommufd_hw_queue_alloc_phys allocates an array of page pointers, 8 bytes each.
        if end // page * 8 >= 1 << 31:
            raise Errno(errno.ENOMEM)
        queue.pin(c.nesting_parent_iova, c.length)
        viommu.driver.init_hw_queue(queue, c.index)
        queue.index = c.index
        viommu.hw_queues[c.index] = queue
        c.out_hw_queue_id = queue.id
        cmd.respond()
    except Errno:
        ctx.remove(queue)
        raise
