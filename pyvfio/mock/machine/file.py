# SPDX-License-Identifier: MIT
"""Open files of the mock, and the dispatch of their ioctls."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from mmap import mmap
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel

Handler = Callable[[Any, int], "int | None"]
_H = TypeVar("_H", bound=Handler)


def request(number: int) -> Callable[[_H], _H]:
    """Decorate a method of :class:`Handlers` that handles an ioctl.

    The method takes the caller's argument, returns the value of ioctl(2) (None for 0), and raises :class:`Errno` to
    fail.
    """

    def mark(handler: _H) -> _H:
        handler._request = number  # type: ignore[attr-defined]  # read by Handlers.__init_subclass__ only
        return handler

    return mark


class Handlers:
    """The base class of everything that handles ioctls: subclasses add handlers with :func:`request`."""

    handlers: ClassVar[dict[int, Handler]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {value._request: value for value in vars(cls).values() if hasattr(value, "_request")}
        cls.handlers = {**cls.handlers, **own}

    def ioctl(self, number: int, argument: int) -> int:
        """Execute an ioctl, under the kernel's lock.

        :raises Errno: the ioctl failed
        """
        handler = self.handlers.get(number)
        if handler is None:
            raise Errno(errno.ENOTTY)
        return handler(self, argument) or 0


class File(Handlers):
    """An open file of the mock.

    References are counted as in the kernel. The descriptor is one; a file that another one depends on (a container with
    a group in it, an iommufd with a device bound to it) has a reference by that one too. `release` runs when the last
    reference is dropped.
    """

    #: kind of descriptor, as in :mod:`pyvfio.abi`
    kind: ClassVar[str]
    #: target of the link in /proc/PID/fd; None: not shown there
    target: str | None = None

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._references = 1

    def descriptor(self) -> int:
        """Return a new descriptor of the process for this file: a real one, so that poll, mmap and others work.

        By default it is a memfd of size 0. Subclasses return an eventfd for a file to poll, and a memfd with a size for
        one to map.
        """
        return os.memfd_create(f"pyvfio-mock-{self.kind}", os.MFD_CLOEXEC)

    def hold(self) -> None:
        self._references += 1

    def drop(self) -> None:
        self._references -= 1
        if not self._references:
            self.release()

    def release(self) -> None:
        """Release the file's resources, when the last reference is dropped."""

    def fdinfo(self) -> bytes:
        """Return the file's own lines in /proc/PID/fdinfo."""
        return b""

    # Other calls on the descriptor. The default is EINVAL, as for a file without the operation.

    def read(self, size: int) -> bytes:
        raise Errno(errno.EINVAL)

    def write(self, data: bytes) -> int:
        raise Errno(errno.EINVAL)

    def pread(self, size: int, offset: int) -> bytes:
        raise Errno(errno.EINVAL)

    def pwrite(self, data: bytes, offset: int) -> int:
        raise Errno(errno.EINVAL)

    def check_mmap(self, size: int, offset: int, prot: int) -> None:
        """Check that a part of the file can be mapped.

        :raises Errno: ENODEV, the file has no mmap
        """
        raise Errno(errno.ENODEV)

    def mapped(self, memory: mmap, offset: int) -> None:
        """Called after a part of the file has been mapped."""
