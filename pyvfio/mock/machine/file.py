# SPDX-License-Identifier: MIT
"""Open files of the mock, and how a request finds its handler."""

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
    """Make a method of :class:`Handlers` the handler of a request: it takes the caller's argument, returns what ioctl(2)
    would (None for 0), and raises :class:`Errno` to fail."""

    def mark(handler: _H) -> _H:
        handler._request = number  # type: ignore[attr-defined]  # a mark for Handlers, of no use to callers
        return handler

    return mark


class Handlers:
    """The receiver of requests: subclasses add handlers with :func:`request`."""

    handlers: ClassVar[dict[int, Handler]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {value._request: value for value in vars(cls).values() if hasattr(value, "_request")}
        cls.handlers = {**cls.handlers, **own}

    def ioctl(self, number: int, argument: int) -> int:
        """One request, under the kernel's lock.

        :raises Errno: it failed
        """
        handler = self.handlers.get(number)
        if handler is None:
            raise Errno(errno.ENOTTY)
        return handler(self, argument) or 0


class File(Handlers):
    """An open file of the mock's.

    The kernel counts references: the descriptor is one, and a file that another depends on (a container with a group in it, an
    iommufd with a device bound to it) is held by that one too. `release` runs when the last goes.
    """

    #: as in :mod:`pyvfio.abi`
    kind: ClassVar[str]
    #: what /proc/PID/fd shows that it is, where somebody looks at it
    target: str | None = None

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._references = 1

    def descriptor(self) -> int:
        """A new descriptor of the process for this file: a real one, so that poll, mmap and the like are genuine.

        Memory of size 0 here. A file whose descriptor is to be polled makes it an eventfd, one that is mapped gives it a size.
        """
        return os.memfd_create(f"pyvfio-mock-{self.kind}", os.MFD_CLOEXEC)

    def hold(self) -> None:
        self._references += 1

    def drop(self) -> None:
        self._references -= 1
        if not self._references:
            self.release()

    def release(self) -> None:
        """The last reference is gone."""

    def fdinfo(self) -> bytes:
        """The lines of /proc/PID/fdinfo about it."""
        return b""

    # What the other calls on the descriptor do; EINVAL, as for a file without the operation.

    def read(self, size: int) -> bytes:
        raise Errno(errno.EINVAL)

    def write(self, data: bytes) -> int:
        raise Errno(errno.EINVAL)

    def pread(self, size: int, offset: int) -> bytes:
        raise Errno(errno.EINVAL)

    def pwrite(self, data: bytes, offset: int) -> int:
        raise Errno(errno.EINVAL)

    def check_mmap(self, size: int, offset: int, prot: int) -> None:
        """Whether this part of the file can be mapped.

        :raises Errno: ENODEV for a file that cannot be mapped at all
        """
        raise Errno(errno.ENODEV)

    def mapped(self, memory: mmap, offset: int) -> None:
        """A part of the file has been mapped."""
