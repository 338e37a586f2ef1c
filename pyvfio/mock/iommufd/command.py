# SPDX-License-Identifier: MIT
"""The dispatch of an iommufd's requests to their handlers, and the copying of their structs."""

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
    """The size of a struct that ends with a field."""
    for name, entry in ffi.typeof(struct).fields or ():
        if name == field:
            return int(entry.offset + ffi.sizeof(entry.type))
    raise KeyError(field)


class Request:
    """The entry of a request in the kernel's table, used before the arguments are read.

    :ivar least: bytes that the caller's struct must have
    """

    def __init__(self, struct: str, last: str, execute: Execute) -> None:
        self.pointer = ffi.typeof(f"{struct} *")
        self.size = ffi.sizeof(struct)
        self.least = end_of(struct, last)
        self._execute = execute

    def __call__(self, ctx: Context, address: int) -> None:
        """:raises Errno: it failed"""
        self._execute(ctx, Command(self, address))


class Command:
    """One request under way.

    :ivar address: where the caller has the struct
    :ivar c: the struct, as the caller gave it, with zeros where it knows less than the kernel
    """

    __slots__ = ("_size", "address", "c")

    def __init__(self, request: Request, address: int) -> None:
        self.c: Any = ffi.new(request.pointer)
        self.address = address
        # As a rule the caller's struct is the kernel's.
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
        """Copy the struct back to the caller, as much of it as the caller knows.

        :raises Errno: EFAULT
        """
        if lib.pyvfio_poke(self.address, self.c, self._size):
            raise Errno(errno.EFAULT)


def check_zero(address: int, size: int) -> None:
    """Check that the fields which the caller knows and the kernel does not are zero.

    :raises Errno: E2BIG, EFAULT
    """
    while size:
        part = min(size, 4096 - address % 4096)
        if any(caller.read(address, part)):
            raise Errno(errno.E2BIG)
        address += part
        size -= part


#: request number -> what answers it; each object's module adds its own
REQUESTS: dict[int, Callable[[Context, int], None]] = {}


def command(number: int, struct: str, last: str) -> Callable[[_E], _E]:
    """Make a function the handler of a request.

    :param struct: its argument
    :param last: the field of the struct that the first kernel with the request ended with
    """

    def mark(execute: _E) -> _E:
        REQUESTS[number] = Request(struct, last, execute)
        return execute

    return mark
