# SPDX-License-Identifier: MIT
"""Mapped memory: a range of the caller's memory or of a file (struct iopt_pages)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, ClassVar

from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.memlock import check_pinnable

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context

_SIZE_MAX = 2**64 - 1


class Pages:
    """Memory of one or several mappings. Offsets are bytes from the start of its first page.

    :ivar writable: devices may be allowed to write it
    :ivar address: address or file offset of the first page; the kernel aligns an IOVA of its own choice like it
    """

    is_file: ClassVar[bool] = False
    #: memory of a device: the kernel neither copies it nor splits a mapping of it
    is_dma_buf: ClassVar[bool] = False

    def __init__(self, ctx: Context, address: int, offset: int, size: int, *, writable: bool) -> None:
        self._kernel = ctx.kernel
        self._page_size = ctx.kernel.profile.page_size
        if not 0 < size <= _SIZE_MAX - self._page_size:
            raise Errno(errno.EINVAL)
        self.address = address
        self.size = offset + size
        self.writable = writable
        # A process with CAP_IPC_LOCK is not charged: its profile has no memlock limit.
        self._limited = ctx.kernel.profile.memlock is not None
        self._locked = ctx.kernel.locked if ctx.account_by_process else ctx.kernel.locked_by_user
        self._pinned: list[tuple[int, int]] = []
        self._counted = 0

    # Pins. The pages of a mapping are pinned once, however many page tables of IOMMUs map them.

    def pin(self, start: int, last: int) -> None:
        """Pin the pages from `start` to `last`.

        :raises Errno: EFAULT, EINVAL: no memory is there; ENOMEM: more than the locked-memory limit
        """
        self.check(start, last)
        first, end = start // self._page_size, last // self._page_size
        self._pinned.append((first, end))
        try:
            self._count()
        except Errno:
            self._pinned.pop()
            raise
        self._kernel.pins += end - first + 1

    def unpin(self, start: int, last: int) -> None:
        first, end = start // self._page_size, last // self._page_size
        self._pinned.remove((first, end))
        self._count()
        self._kernel.pins -= end - first + 1

    def holds(self, start: int, last: int) -> bool:
        """Whether these bytes are pinned."""
        return any(first <= start // self._page_size and last // self._page_size <= end for first, end in self._pinned)

    def _count(self) -> None:
        if not self._limited:
            return
        pages, end = 0, -1
        for first, last in sorted(self._pinned):
            pages += max(0, last - max(first, end + 1) + 1)
            end = max(end, last)
        if pages > self._counted:
            self._locked.charge(pages - self._counted)
        else:
            self._locked.release(self._counted - pages)
        self._counted = pages

    def check(self, start: int, last: int) -> None:
        """Check that pages can be pinned.

        :raises Errno: the error of pinning
        """
        raise NotImplementedError

    # Accesses of a device.

    def read(self, offset: int, size: int) -> bytes:
        """Read for a device.

        :raises Errno: EFAULT
        """
        raise NotImplementedError

    def write(self, offset: int, data: bytes) -> None:
        """Write for a device.

        :raises Errno: EFAULT
        """
        raise NotImplementedError


class UserPages(Pages):
    """Memory of the calling process."""

    def __init__(self, ctx: Context, address: int, size: int, *, writable: bool) -> None:
        if address + size > _SIZE_MAX:
            raise Errno(errno.EOVERFLOW)
        offset = address % ctx.kernel.profile.page_size
        super().__init__(ctx, address - offset, offset, size, writable=writable)

    def check(self, start: int, last: int) -> None:
        first = start - start % self._page_size
        # pin_user_pages refuses device memory, such as a BAR that the caller has mapped.
        if self._kernel.device_memory(self.address + first, last - first + 1) is not None:
            raise Errno(errno.EFAULT)
        check_pinnable(self.address + first, last - first + 1, write=self.writable)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(caller.read(self.address + offset, size))

    def write(self, offset: int, data: bytes) -> None:
        caller.write(self.address + offset, data)


class FilePages(Pages):
    """A part of a file, which stays mapped after the descriptor is closed."""

    is_file = True

    def __init__(self, ctx: Context, fd: int, start: int, size: int, *, writable: bool) -> None:
        try:
            self._fd = os.dup(fd)
        except (OSError, OverflowError):
            raise Errno(errno.EBADF) from None
        # A descriptor of the mock is not a memory file, even if the mock implements it with a memfd.
        self._in_memory = fd not in ctx.kernel.files and _in_memory(fd)
        offset = start % ctx.kernel.profile.page_size
        super().__init__(ctx, start - offset, offset, size, writable=writable)

    def check(self, start: int, last: int) -> None:
        end = self.address + (last // self._page_size + 1) * self._page_size
        if not self._in_memory or end > os.fstat(self._fd).st_size:
            raise Errno(errno.EINVAL)

    def read(self, offset: int, size: int) -> bytes:
        self.check(offset, offset + size - 1)
        return os.pread(self._fd, size, self.address + offset)

    def write(self, offset: int, data: bytes) -> None:
        self.check(offset, offset + len(data) - 1)
        os.pwrite(self._fd, data, self.address + offset)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


def _in_memory(fd: int) -> bool:
    """Whether the file is on shmem (tmpfs, devtmpfs) or hugetlbfs: memfd_pin_folios accepts no others."""
    if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):
        return True
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            left, _, right = line.partition(" - ")
            if left.split()[2] == number:
                return right.split()[0] in ("tmpfs", "hugetlbfs", "devtmpfs")
    return False
