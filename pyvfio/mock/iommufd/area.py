# SPDX-License-Identifier: MIT
"""One mapping of an I/O page table."""

from __future__ import annotations

import errno

from pyvfio.mock.iommufd.pages import Pages
from pyvfio.mock.machine.errno import Errno

#: the last IOVA that there is
LAST = 2**64 - 1
#: what devices may do
READ, WRITE = 1, 2


class Area:
    """One mapping.

    :ivar at: the byte of the pages that it starts with
    :ivar prot: READ, WRITE, by devices
    :ivar accesses: how many times parts of it are pinned by devices without an IOMMU
    :ivar locks: how many of these forbid unmapping
    :ivar closing: it is being unmapped: nothing more is pinned
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
        """The byte of the pages that an IOVA shows."""
        return iova - self.iova + self.at

    def pin(self) -> None:
        self.pages.pin(self.at, self.offset(self.last))

    def unpin(self) -> None:
        self.pages.unpin(self.at, self.offset(self.last))

    # Pins by devices without an IOMMU.

    def pin_access(self, start: int, last: int) -> None:
        """:raises Errno: EINVAL; what pinning the pages fails with"""
        if self.pages.is_dma_buf:
            raise Errno(errno.EINVAL)
        self.pages.pin(self.offset(start), self.offset(last))
        self.accesses += 1

    def unpin_access(self, start: int, last: int) -> None:
        self.pages.unpin(self.offset(start), self.offset(last))
        self.accesses -= 1
