# SPDX-License-Identifier: MIT
"""One type1 mapping: a range of IOVAs, and its memory in the calling process (struct vfio_dma)."""

from __future__ import annotations

from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.memlock import Memlock, check_pinnable, pinnable
from pyvfio.mock.vfio.type1.dirty import DirtyPages

READ, WRITE = 1, 2


class Type1Mapping:
    """A range of IOVAs and its memory.

    :ivar address: address of the memory
    :ivar prot: READ, WRITE: access rights of devices
    :ivar limited: created without CAP_IPC_LOCK (lock_cap is false), so that the locked-memory limit applies to every
        pin
    :ivar valid: the address has not been invalidated (VFIO_DMA_UNMAP_FLAG_VADDR)
    :ivar pinned: the whole mapping is pinned, for an IOMMU
    :ivar pins: pins by drivers of emulated devices: IOVA of a page -> number of pins
    :ivar dirty: the dirty pages while tracking is on; else None
    """

    __slots__ = ("address", "dirty", "iova", "last", "limited", "pinned", "pins", "prot", "valid")

    def __init__(self, iova: int, last: int, address: int, prot: int, *, limited: bool) -> None:
        self.iova = iova
        self.last = last
        self.address = address
        self.prot = prot
        self.limited = limited
        self.valid = True
        self.pinned = False
        self.pins: dict[int, int] | None = None
        self.dirty: DirtyPages | None = None

    @property
    def size(self) -> int:
        return self.last - self.iova + 1

    def pin(self, locked: Memlock, page: int) -> None:
        """Pin the whole mapping. Pages that a driver has pinned are charged already.

        :raises Errno: EFAULT; ENOMEM, above the limit
        """
        write = bool(self.prot & WRITE)
        try:
            check_pinnable(self.address, self.size, write=write)
        except Errno:
            # vfio_pin_pages_remote checks the limit for the pages before the missing one first: ENOMEM wins over
            # EFAULT.
            if self.limited and (there := pinnable(self.address, self.size // page, page, write=write)):
                locked.check(there - len(self.pins or ()))
            raise
        locked.charge(self.size // page - len(self.pins or ()), limited=self.limited)
        self.pinned = True

    def unpin(self, locked: Memlock, page: int) -> None:
        """Undo :meth:`pin`; pins of drivers stay."""
        if self.pinned:
            locked.release(self.size // page - len(self.pins or ()))
            self.pinned = False
