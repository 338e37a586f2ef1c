# SPDX-License-Identifier: MIT
"""The data descriptor of a migration: the part common to all drivers."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from pyvfio.mock.machine.errno import Errno, descriptors
from pyvfio.mock.machine.file import File

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel


class MigrationFile(File):
    """The data file of a migration session.

    :ivar ended: the session is over: the device has left its states, and accesses fail with ENODEV
    """

    kind = "migration"
    _poll = -1

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.ended = False
        self._readable = False

    def descriptor(self) -> int:
        # The descriptor is an eventfd, whose counter makes poll report the file as readable or not.
        with descriptors():
            self._poll = os.eventfd(int(self._readable), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return os.dup(self._poll)

    def __del__(self) -> None:
        if self._poll >= 0:
            os.close(self._poll)

    def end(self) -> None:
        self.ended = True
        self.show_readable(True)

    def show_readable(self, readable: bool) -> None:
        self._readable = readable
        if self._poll < 0:
            return
        with suppress(BlockingIOError):
            os.eventfd_read(self._poll)
        if readable:
            os.eventfd_write(self._poll, 1)

    def check_alive(self) -> None:
        if self.ended:
            raise Errno(errno.ENODEV)

    # The file is not seekable (stream_open), and is open either for reading or for writing.

    def read(self, size: int) -> bytes:
        raise Errno(errno.EBADF)

    def write(self, data: bytes) -> int:
        raise Errno(errno.EBADF)

    def pread(self, size: int, offset: int) -> bytes:
        raise Errno(errno.ESPIPE)

    def pwrite(self, data: bytes, offset: int) -> int:
        raise Errno(errno.ESPIPE)
