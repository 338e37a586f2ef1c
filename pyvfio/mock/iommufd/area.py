# SPDX-License-Identifier: MIT
"""One mapping of an I/O page table."""

from __future__ import annotations

import errno

from pyvfio.mock.iommufd.pages import Pages
from pyvfio.mock.machine.errno import Errno

#: the last IOVA
LAST = 2**64 - 1
#: access rights of devices
READ, WRITE = 1, 2


class Area:
    """One mapping (struct iopt_area).

    :ivar at: offset in the pages at which the mapping starts
    :ivar prot: READ, WRITE: access rights of devices
    :ivar accesses: number of pins by devices without an IOMMU (num_accesses)
    :ivar locks: number of those pins that forbid unmapping (num_locks)
    :ivar closing: the mapping is being unmapped, and refuses further pins (prevent_access)
    """

    __slots__ = ("accesses", "at", "closing", "iova", "last", "locks", "pages", "prot")

    def __init__(self, iova: int, last: int, pages: Pages, at: int, prot: int) -> None:
        self.iova = iova
        self.last = last
        self.pages = pages
        self.at = at
        self.prot = prot
        self.accesses = 0
        self.locks = 0
        self.closing = False

    @property
    def size(self) -> int:
        return self.last - self.iova + 1

    def offset(self, iova: int) -> int:
        """Return the offset in the pages that an IOVA maps to."""
        return iova - self.iova + self.at

    def pin(self) -> None:
        self.pages.pin(self.at, self.offset(self.last))

    def unpin(self) -> None:
        self.pages.unpin(self.at, self.offset(self.last))

    # Pins by devices without an IOMMU.

    def pin_access(self, start: int, last: int) -> None:
        """Pin a part for a device without an IOMMU.

        :raises Errno: EINVAL, a dma-buf; or that of :meth:`Pages.pin`
        """
        if self.pages.is_dma_buf:
            raise Errno(errno.EINVAL)
        self.pages.pin(self.offset(start), self.offset(last))
        self.accesses += 1

    def unpin_access(self, start: int, last: int) -> None:
        self.pages.unpin(self.offset(start), self.offset(last))
        self.accesses -= 1
