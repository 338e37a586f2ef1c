# SPDX-License-Identifier: MIT
"""Dispatch of iommufd's ioctls to their handlers, and copying of their structs (iommufd_fops_ioctl)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context

Execute = Callable[["Context", "Command"], None]
_E = TypeVar("_E", bound=Execute)


def end_of(struct: str, field: str) -> int:
    """Return the offset of the end of a field."""
    for name, entry in ffi.typeof(struct).fields or ():
        if name == field:
            return int(entry.offset + ffi.sizeof(entry.type))
    raise KeyError(field)


class Request:
    """An entry of the kernel's table iommufd_ioctl_ops.

    :ivar least: minimum size of the caller's struct (min_size)
    """

    def __init__(self, struct: str, last: str, execute: Execute) -> None:
        self.pointer = ffi.typeof(f"{struct} *")
        self.size = ffi.sizeof(struct)
        self.least = end_of(struct, last)
        self._execute = execute

    def __call__(self, ctx: Context, address: int) -> None:
        """Execute the ioctl.

        :raises Errno: the ioctl failed
        """
        self._execute(ctx, Command(self, address))


class Command:
    """One call of an ioctl (struct iommufd_ucmd).

    :ivar address: address of the caller's struct
    :ivar c: a copy of the caller's struct, with zeros in the fields that a shorter struct lacks
    """

    __slots__ = ("_size", "address", "c")

    def __init__(self, request: Request, address: int) -> None:
        self.c: Any = ffi.new(request.pointer)
        self.address = address
        # Fast path: the caller's struct usually has the kernel's size.
        if lib.pyvfio_peek(address, self.c, request.size) == 0 and self.c.size == request.size:
            self._size = request.size
            return
        self.c = ffi.new(request.pointer)
        user_size = int.from_bytes(caller.read(address, 4), "little")
        if user_size < request.least:
            raise Errno(errno.EINVAL)
        self._size = min(user_size, request.size)
        if user_size > request.size:
            check_zero(address + request.size, user_size - request.size)
        if lib.pyvfio_peek(address, self.c, self._size):
            raise Errno(errno.EFAULT)

    def respond(self) -> None:
        """Copy the struct back to the caller, up to the size of the caller's struct.

        :raises Errno: EFAULT
        """
        if lib.pyvfio_poke(self.address, self.c, self._size):
            raise Errno(errno.EFAULT)


def check_zero(address: int, size: int) -> None:
    """Check that the caller's bytes beyond the kernel's struct are zero.

    :raises Errno: E2BIG, EFAULT
    """
    while size:
        part = min(size, 4096 - address % 4096)
        if any(caller.read(address, part)):
            raise Errno(errno.E2BIG)
        address += part
        size -= part


#: ioctl number -> handler; the module of each object adds its own
REQUESTS: dict[int, Callable[[Context, int], None]] = {}


def command(number: int, struct: str, last: str) -> Callable[[_E], _E]:
    """Decorate the handler of an ioctl.

    :param number: the ioctl number
    :param struct: the C type of the argument
    :param last: the last field of the struct in the first kernel with the ioctl; it determines the minimum size
    """

    def mark(execute: _E) -> _E:
        REQUESTS[number] = Request(struct, last, execute)
        return execute

    return mark
