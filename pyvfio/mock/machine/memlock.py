# SPDX-License-Identifier: MIT
"""The kernel's counts of locked pages, and their limit (RLIMIT_MEMLOCK)."""

from __future__ import annotations

import errno

from pyvfio._abi import lib
from pyvfio.mock.machine.errno import Errno


class Memlock:
    """One count of locked memory, limited by RLIMIT_MEMLOCK.

    :ivar pages: the count
    :ivar limit: bytes; None with CAP_IPC_LOCK: pages are counted, but not limited
    """

    def __init__(self, limit: int | None, page_size: int) -> None:
        self.limit = limit
        self.pages = 0
        self._page_size = page_size

    def charge(self, pages: int, *, limited: bool = True) -> None:
        """Add pages to the count.

        :raises Errno: ENOMEM, above the limit
        """
        if limited:
            self.check(pages)
        self.pages += pages

    def check(self, pages: int) -> None:
        """Check that so many more pages can be locked.

        :raises Errno: ENOMEM
        """
        if self.limit is not None and self.pages + pages > self.limit // self._page_size:
            raise Errno(errno.ENOMEM)

    def release(self, pages: int) -> None:
        self.pages -= pages


def check_pinnable(address: int, size: int, *, write: bool) -> None:
    """Check that the caller's memory can be pinned: all of it is mapped, and writable if `write`.

    :raises Errno: EFAULT
    """
    if lib.pyvfio_pinnable(address, size, write):
        raise Errno(errno.EFAULT)


def pinnable(address: int, pages: int, page: int, *, write: bool) -> int:
    """Return the number of pages from `address` on that can be pinned, up to the first that cannot."""
    good, bad = 0, pages + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if lib.pyvfio_pinnable(address, middle * page, write):
            bad = middle
        else:
            good = middle
    return good
