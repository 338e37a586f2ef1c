"""One owner per descriptor."""

from __future__ import annotations

import errno
import os
import warnings
import weakref
from typing import Any

from pyvfio._abi import ffi, lib
from pyvfio.errors import Closed
from pyvfio.host import holders
from pyvfio.kernel import Kernel
from pyvfio.uncopyable import Uncopyable

_ioctl = lib.pyvfio_ioctl
_live: weakref.WeakSet[Fd] = weakref.WeakSet()


class Fd(Uncopyable):
    """A descriptor, the kernel that it belongs to, and its door.

    :ivar kind: which requests it takes, one of :data:`pyvfio._core.requests.NAMES`
    :ivar name: what messages call it, for example `/dev/vfio/7`
    :ivar door: a `pyvfio_door` for native code; its `fd` is -1 once this is closed

    Calls may be made from any thread. A call that is under way when another thread closes the descriptor finishes.
    """

    __slots__ = ("__weakref__", "_number", "door", "forked", "kernel", "kind", "name")

    def __init__(self, kernel: Kernel, number: int, kind: str, name: str) -> None:
        self._number = number
        self.kernel = kernel
        self.kind = kind
        self.name = name
        self.forked = False
        self.door = kernel.door(number, kind)
        _live.add(self)

    @classmethod
    def open(cls, kernel: Kernel, path: str, kind: str) -> Fd:
        """Open a device file for reading and writing."""
        number = kernel.open(path)
        try:
            return cls(kernel, number, kind, path)
        except BaseException:
            kernel.close(number)
            raise

    @property
    def closed(self) -> bool:
        """Whether it was closed, here or by the fork that this process comes from."""
        return bool(self.door.fd < 0)

    def fileno(self) -> int:
        """
        :raises Closed: it is closed
        """
        if self.door.fd < 0:
            raise self.closed_error()
        return self._number

    def check_open(self) -> None:
        """
        :raises Closed: it is closed, or was opened by the parent of this process
        """
        if self.door.fd < 0:
            raise self.closed_error()

    def closed_error(self) -> Closed:
        """What a call on it raises now that it is closed."""
        if self.forked:
            return Closed(f"{self.name} was opened before the fork: in the child it can only be closed")
        return Closed(f"{self.name} is closed")

    def ioctl(self, request: int, argument: Any = ffi.NULL) -> int:
        """One ioctl: its result, or -errno (-EBADF once closed). Begun again after a signal's handler has run."""
        while (result := _ioctl(self.door, request, argument)) == -errno.EINTR:
            pass
        return result

    def close(self) -> None:
        """Close the descriptor; it is forgotten first, so that a failing close is not tried on another's number."""
        number, self._number = self._number, -1
        self.door.fd = -1
        if number >= 0:
            self.kernel.close(number)

    def __repr__(self) -> str:
        return f"<Fd {'closed' if self.closed else self._number}: {self.name}>"

    def __del__(self) -> None:
        if getattr(self, "_number", -1) >= 0:
            if not self.forked:
                warnings.warn(f"{self.name} was never closed", ResourceWarning, stacklevel=2, source=self)
            self.close()


def device_of(number: int) -> str | None:
    """The address of the device that a descriptor of this process stands for; None if it is none of the library's."""
    # A name may go on with the token that it was opened with.
    return next((fd.name.partition(" ")[0] for fd in list(_live) if fd.kind == "device" and fd._number == number), None)


def _after_fork() -> None:
    # What the parent's descriptors stand for (mappings of *its* memory, its locked pages) is not the child's to use.
    for fd in list(_live):
        fd.forked = True
        fd.door.fd = -1


holders.own_device = device_of
os.register_at_fork(after_in_child=_after_fork)
