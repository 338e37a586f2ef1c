# SPDX-License-Identifier: MIT
"""Limits on pinning: the kernel's counts of locked pages, and the limit on them."""

from __future__ import annotations

import errno

from pyvfio._abi import lib
from pyvfio.mock.machine.errno import Errno


class Memlock:
    """One count of locked memory; RLIMIT_MEMLOCK is its limit.

    :ivar pages: pages that count
    :ivar limit: bytes; None with CAP_IPC_LOCK, which counts all the same
    """

    def __init__(self, limit: int | None, page_size: int) -> None:
        self.limit = limit
        self.pages = 0
        self._page_size = page_size

    def charge(self, pages: int, *, limited: bool = True) -> None:
        """:raises Errno: ENOMEM, above the limit"""
        if limited:
            self.check(pages)
        self.pages += pages

    def check(self, pages: int) -> None:
        """Whether so many more can be locked.

        :raises Errno: ENOMEM
        """
        if self.limit is not None and self.pages + pages > self.limit // self._page_size:
            raise Errno(errno.ENOMEM)

    def release(self, pages: int) -> None:
        self.pages -= pages


def check_pinnable(address: int, size: int, *, write: bool) -> None:
    """Whether the caller's memory could be pinned: all of it there, and writable if the device may write.

    :raises Errno: EFAULT
    """
    if lib.pyvfio_pinnable(address, size, write):
        raise Errno(errno.EFAULT)


def pinnable(address: int, pages: int, page: int, *, write: bool) -> int:
    """Return the number of these pages that could be pinned, one after the other."""
    good, bad = 0, pages + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if lib.pyvfio_pinnable(address, middle * page, write):
            bad = middle
        else:
            good = middle
    return good
