# SPDX-License-Identifier: MIT
"""Access to the caller's memory, which the argument of an ioctl points to.

The real kernel copies it (process_vm_readv), so that a bad address is EFAULT instead of a crash of the process.
"""

from __future__ import annotations

import errno
from typing import Any

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine.errno import Errno

#: end of the user addresses on x86-64: 2^47, less one guard page
_USER_LAST = 0x7FFF_FFFF_F000


def read(address: int, size: int) -> bytearray:
    """Read the caller's memory, as copy_from_user does.

    :raises Errno: EFAULT
    """
    data = bytearray(size)
    if lib.pyvfio_peek(_checked(address), ffi.from_buffer(data), size):
        raise Errno(errno.EFAULT)
    return data


def write(address: int, data: Any) -> None:
    """Write the caller's memory, as copy_to_user does; `data` is any buffer.

    :raises Errno: EFAULT
    """
    with ffi.from_buffer(data) as source:  # which releases `data` in any case: see pyvfio.memory.address_of
        if lib.pyvfio_poke(_checked(address), source, len(source)):
            raise Errno(errno.EFAULT)


def take(struct: str, address: int, size: int | None = None) -> Any:
    """Return a new `struct` with its first `size` bytes (all, if None) copied from the caller, and zeros in the rest.

    :raises Errno: EFAULT
    """
    value = ffi.new(f"{struct} *")
    if lib.pyvfio_peek(_checked(address), value, ffi.sizeof(value[0]) if size is None else size):
        raise Errno(errno.EFAULT)
    return value


def give(address: int, value: Any, size: int | None = None) -> None:
    """Copy the first `size` bytes (all, if None) of a struct that `take` made to the caller.

    :raises Errno: EFAULT
    """
    if lib.pyvfio_poke(_checked(address), value, ffi.sizeof(value[0]) if size is None else size):
        raise Errno(errno.EFAULT)


def string(address: int, limit: int) -> bytes:
    """Read a string up to its NUL, as strndup_user does.

    :raises Errno: EFAULT; EINVAL, the string has `limit` bytes or more
    """
    text = bytearray()
    while len(text) < limit:
        # Read up to the end of a page: the next one may not be mapped.
        part = read(address + len(text), min(-(address + len(text)) % 4096 or 4096, limit - len(text)))
        end = part.find(0)
        if end >= 0:
            return bytes(text + part[:end])
        text += part
    raise Errno(errno.EINVAL)


def accessible(address: int, size: int) -> bool:
    """Whether a range consists of user addresses, as access_ok checks (x86-64)."""
    return address + size <= _USER_LAST


def _checked(address: int) -> int:
    # access_ok refuses kernel addresses.
    if not 0 <= address < 1 << 63:
        raise Errno(errno.EFAULT)
    return address
