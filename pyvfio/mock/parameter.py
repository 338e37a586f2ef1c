"""Module parameters, as below /sys/module."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.mock.errno import Errno
from pyvfio.mock.tree import Text

if TYPE_CHECKING:
    from pyvfio.mock.tree import Tree


class Parameter:
    """A module parameter of the type uint, which can be written.

    :ivar value: what it is now
    """

    def __init__(self, tree: Tree, module: str, name: str, value: int) -> None:
        self.value = value
        tree.add(f"/sys/module/{module}/parameters/{name}", Text(self._read, self._write))

    def _read(self) -> bytes:
        return f"{self.value}\n".encode()

    def _write(self, data: bytes) -> None:
        try:
            value = int(data.strip(), 0)
        except ValueError:
            raise Errno(errno.EINVAL) from None
        if not 0 <= value < 1 << 32:
            raise Errno(errno.ERANGE)
        self.value = value


class Flag:
    """A module parameter of the type bool, which can be written.

    :ivar value: what it is now
    """

    def __init__(self, tree: Tree, module: str, name: str, *, value: bool = False) -> None:
        self.value = value
        tree.add(f"/sys/module/{module}/parameters/{name}", Text(self._read, self._write))

    def _read(self) -> bytes:
        return b"Y\n" if self.value else b"N\n"

    def _write(self, data: bytes) -> None:
        self.value = truth(data)


def truth(data: bytes) -> bool:
    """What a word written to sysfs means (kstrtobool).

    :raises Errno: EINVAL
    """
    word = data.strip().lower()
    if word[:1] in (b"y", b"t", b"1") or word[:2] == b"on":
        return True
    if word[:1] in (b"n", b"f", b"0") or word[:2] == b"of":
        return False
    raise Errno(errno.EINVAL)
