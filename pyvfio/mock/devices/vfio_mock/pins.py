# SPDX-License-Identifier: MIT
"""Pages that the device has pinned, until they are unpinned or unmapped, or the device is closed."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.devices.vfio_mock.device import VfioMock

PIN, UNPIN = 1, 2


class Pins:
    """The pinned pages of one device.

    :ivar pages: IOVA / page size -> address of the page in the caller's memory
    """

    def __init__(self, device: VfioMock) -> None:
        self._device = device
        self._page_size = device.kernel.profile.page_size
        self.pages: dict[int, int] = {}

    def command(self, command: int, iova: int, count: int) -> None:
        """Handle a write to PIN_COMMAND.

        :raises Errno: EINVAL; EEXIST, a page is pinned already; or that of pinning
        """
        size = self._page_size
        first = iova // size
        if command not in (PIN, UNPIN) or iova % size or not count or count > 2**64 // size - first:
            raise Errno(errno.EINVAL)
        if command == PIN:
            self._pin(first, first + count - 1)
        else:
            self._unpin(first, first + count - 1)

    def _pin(self, first: int, last: int) -> None:
        """Pin all pages of a range, or none."""
        for page in range(first, last + 1):
            try:
                self._pin_one(page)
            except Errno:
                self._unpin(first, page - 1)
                raise

    def _pin_one(self, page: int) -> None:
        self._device.failures.check("PIN")
        if page in self.pages:
            raise Errno(errno.EEXIST)
        space = self._device.space
        if space is None:
            raise Errno(errno.ENOENT)
        self.pages[page] = space.pin(page * self._page_size, write=True)

    def _unpin(self, first: int, last: int) -> None:
        for page in sorted(page for page in self.pages if first <= page <= last):
            del self.pages[page]
            if self._device.space is not None:
                self._device.space.unpin(page * self._page_size)

    def release(self, iova: int = 0, size: int = 2**64 - 1) -> None:
        """Unpin the pages of a range, at unmap, detach and close."""
        last = min(iova + size - 1, 2**64 - 1)
        self._unpin(iova // self._page_size, last // self._page_size)

    def read(self, iova: int, size: int) -> bytes:
        """Read within one page.

        :raises Errno: EFAULT, the page is not pinned
        """
        return bytes(caller.read(self._address(iova), size))

    def write(self, iova: int, data: bytes) -> None:
        """Write within one page.

        :raises Errno: EFAULT, the page is not pinned
        """
        caller.write(self._address(iova), data)

    def _address(self, iova: int) -> int:
        page, offset = divmod(iova, self._page_size)
        if page not in self.pages:
            raise Errno(errno.EFAULT)
        return self.pages[page] + offset
