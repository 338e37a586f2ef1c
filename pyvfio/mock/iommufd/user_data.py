# SPDX-License-Identifier: MIT
"""Driver-specific data of an ioctl: one struct (struct iommu_user_data) or an array (struct iommu_user_data_array)."""

from __future__ import annotations

import errno
from typing import NamedTuple

from pyvfio.mock.iommufd.command import check_zero
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno


class UserData(NamedTuple):
    """One struct in the caller's memory."""

    type: int
    address: int
    size: int

    def read(self, type_: int, least: int, most: int) -> bytes:
        """Copy the struct, padded with zeros to `most` bytes.

        :param type_: the expected type
        :param least: minimum size of the caller's struct
        :param most: maximum size of the caller's struct
        :raises Errno: EINVAL, another type or size; EFAULT
        """
        if self.type != type_ or not least <= self.size <= most:
            raise Errno(errno.EINVAL)
        return bytes(caller.read(self.address, self.size)).ljust(most, b"\0")

    def write(self, data: bytes) -> None:
        """Write the struct back, up to the caller's size."""
        caller.write(self.address, data[: self.size])


class UserArray(NamedTuple):
    """An array of structs in the caller's memory."""

    type: int
    address: int
    entry_size: int
    number: int

    def entry(self, index: int, size: int) -> bytes:
        """Copy one entry as copy_struct_from_user does: pad a shorter one with zeros.

        :param index: index of the entry
        :param size: size of the kernel's struct
        :raises Errno: E2BIG, the bytes beyond `size` are not zero; EFAULT
        """
        address = self.address + index * self.entry_size
        if self.entry_size > size:
            check_zero(address + size, self.entry_size - size)
        return bytes(caller.read(address, min(size, self.entry_size))).ljust(size, b"\0")
