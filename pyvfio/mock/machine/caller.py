# SPDX-License-Identifier: MIT
"""The memory of the caller, which a request's argument points into.

It is copied by the real kernel (process_vm_readv), so a bad address is EFAULT here too, and not the end of the process.
"""

from __future__ import annotations

import errno
from typing import Any

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine.errno import Errno

#: the highest address of the caller's half, and the page that is kept free there
_USER_LAST = 0x7FFF_FFFF_F000


def read(address: int, size: int) -> bytearray:
    """copy_from_user.

    :raises Errno: EFAULT
    """
    data = bytearray(size)
    if lib.pyvfio_peek(_checked(address), ffi.from_buffer(data), size):
        raise Errno(errno.EFAULT)
    return data


def write(address: int, data: Any) -> None:
    """copy_to_user; `data` is any buffer.

    :raises Errno: EFAULT
    """
    source = ffi.from_buffer(data)
    if lib.pyvfio_poke(_checked(address), source, len(source)):
        raise Errno(errno.EFAULT)


def take(struct: str, address: int, size: int | None = None) -> Any:
    """A new `struct`, its first `size` bytes (all, if None) copied from the caller, the rest zeros.

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
    """strndup_user: up to the first NUL.

    :raises Errno: EFAULT, or EINVAL for one of `limit` bytes or more
    """
    text = bytearray()
    while len(text) < limit:
        # Up to the end of a page, behind which there may be nothing.
        part = read(address + len(text), min(-(address + len(text)) % 4096 or 4096, limit - len(text)))
        end = part.find(0)
        if end >= 0:
            return bytes(text + part[:end])
        text += part
    raise Errno(errno.EINVAL)


def accessible(address: int, size: int) -> bool:
    """access_ok: whether a range could be a caller's at all (x86-64)."""
    return address + size <= _USER_LAST


def _checked(address: int) -> int:
    # As the kernel's access_ok: an address of its own half is no address of the caller's.
    if not 0 <= address < 1 << 63:
        raise Errno(errno.EFAULT)
    return address
