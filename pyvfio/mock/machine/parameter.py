# SPDX-License-Identifier: MIT
"""Module parameters below /sys/module."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from pyvfio.mock.fs.tree import Text
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.fs.tree import Tree


class Parameter:
    """A writable module parameter of type uint or ulong.

    :param bits: width of the type
    :ivar value: the current value
    """

    def __init__(self, tree: Tree, module: str, name: str, value: int, bits: int = 32) -> None:
        self.value = value
        self._bits = bits
        tree.add(f"/sys/module/{module}/parameters/{name}", Text(self._read, self._write))

    def _read(self) -> bytes:
        return f"{self.value}\n".encode()

    def _write(self, data: bytes) -> None:
        self.value = number(data, self._bits)


class Flag:
    """A writable module parameter of type bool.

    :ivar value: the current value
    """

    def __init__(self, tree: Tree, module: str, name: str, *, value: bool = False) -> None:
        self.value = value
        tree.add(f"/sys/module/{module}/parameters/{name}", Text(self._read, self._write))

    def _read(self) -> bytes:
        return b"Y\n" if self.value else b"N\n"

    def _write(self, data: bytes) -> None:
        self.value = truth(data)


_NUMBER = re.compile(rb"\+?(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))\n?")


def number(data: bytes, bits: int) -> int:
    """Parse a number written to sysfs (kstrtouint and the like): hexadecimal, octal or decimal as in C.

    :raises Errno: EINVAL, it is not a number; ERANGE, it has more bits
    """
    found = _NUMBER.fullmatch(data)
    if found is None:
        raise Errno(errno.EINVAL)
    value = next(int(digits, base) for digits, base in zip(found.groups(), (16, 8, 10), strict=True) if digits)
    if value >> bits:
        raise Errno(errno.ERANGE)
    return value


def truth(data: bytes) -> bool:
    """Parse a word written to sysfs (kstrtobool).

    :raises Errno: EINVAL
    """
    word = data.lower()
    if word[:1] in (b"y", b"t", b"1") or word[:2] == b"on":
        return True
    if word[:1] in (b"n", b"f", b"0") or word[:2] == b"of":
        return False
    raise Errno(errno.EINVAL)
