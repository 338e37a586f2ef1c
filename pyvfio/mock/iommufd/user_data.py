# SPDX-License-Identifier: MIT
"""The data that a request passes on to the driver of the IOMMU: a struct, or an array of them, of a type that only the driver knows."""

from __future__ import annotations

import errno
from typing import NamedTuple

from pyvfio.mock.iommufd.command import check_zero
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno


class UserData(NamedTuple):
    """One struct of the caller's."""

    type: int
    address: int
    size: int

    def read(self, type_: int, least: int, most: int) -> bytes:
        """Its `most` bytes, the last of them zeros if the caller has fewer, but `least` at least.

        :raises Errno: EINVAL, it is of another type or size; EFAULT
        """
        if self.type != type_ or not least <= self.size <= most:
            raise Errno(errno.EINVAL)
        return bytes(caller.read(self.address, self.size)).ljust(most, b"\0")

    def write(self, data: bytes) -> None:
        """Give the struct back, as much of it as the caller has."""
        caller.write(self.address, data[: self.size])


class UserArray(NamedTuple):
    """An array of structs of the caller's."""

    type: int
    address: int
    entry_size: int
    number: int

    def entry(self, index: int, size: int) -> bytes:
        """One of them, as the kernel copies what may be shorter or longer than what it knows.

        :raises Errno: E2BIG, EFAULT
        """
        address = self.address + index * self.entry_size
        if self.entry_size > size:
            check_zero(address + size, self.entry_size - size)
        return bytes(caller.read(address, min(size, self.entry_size))).ljust(size, b"\0")
