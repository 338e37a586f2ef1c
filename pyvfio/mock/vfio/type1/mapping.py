# SPDX-License-Identifier: MIT
"""One mapping of type1's: a range of IOVAs, and the caller's memory behind it."""

from __future__ import annotations

from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.memlock import Memlock, check_pinnable, pinnable
from pyvfio.mock.vfio.type1.dirty import DirtyPages

READ, WRITE = 1, 2


class Type1Mapping:
    """A range of IOVAs and the memory behind it.

    :ivar address: of the caller's memory
    :ivar prot: what devices may do: READ, WRITE
    :ivar limited: who made it had no CAP_IPC_LOCK, so the limit on locked memory holds whenever it is pinned
    :ivar valid: the address has not been invalidated (VFIO_DMA_UNMAP_FLAG_VADDR)
    :ivar pinned: all of it is pinned, for an IOMMU
    :ivar pins: what drivers of emulated devices have pinned: IOVA of a page -> how often
    :ivar dirty: its dirty pages, while they are tracked
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
        """Pin all of it. What a driver has pinned counts already.

        :raises Errno: EFAULT, ENOMEM above the limit
        """
        write = bool(self.prot & WRITE)
        try:
            check_pinnable(self.address, self.size, write=write)
        except Errno:
            # What comes before the page that is not there counts first.
            if self.limited and (there := pinnable(self.address, self.size // page, page, write=write)):
                locked.check(there - len(self.pins or ()))
            raise
        locked.charge(self.size // page - len(self.pins or ()), limited=self.limited)
        self.pinned = True

    def unpin(self, locked: Memlock, page: int) -> None:
        """Let go of what `pin` pinned; a driver's pins stay."""
        if self.pinned:
            locked.release(self.size // page - len(self.pins or ()))
            self.pinned = False
