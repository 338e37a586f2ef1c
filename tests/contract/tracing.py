"""A kernel that notes which requests went through it, in front of another."""

from __future__ import annotations

import errno
from typing import Any, NamedTuple

from pyvfio import requests
from pyvfio._abi import ffi, lib
from pyvfio._core.request import DECLARED
from pyvfio.kernel import Kernel

# Python's name for this one is the other of the two.
_ERRNOS = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}


class Call(NamedTuple):
    """One request and what became of it.

    :ivar kind: of descriptor, as in pyvfio.requests
    :ivar detail: which of a request's several operations it was
    :ivar result: `ok`, or the errno's name
    """

    kind: str
    request: str
    detail: str
    result: str


class TracingKernel(Kernel):
    """A kernel that notes the ioctls and leaves everything to `inner`."""

    def __init__(self, inner: Kernel) -> None:
        self._inner = inner
        # What the base class has would otherwise be found there, and not by __getattr__.
        names = set(dir(Kernel)) - set(vars(TracingKernel))
        self.__dict__.update((name, getattr(inner, name)) for name in names if not name.startswith("_"))
        self._handle = ffi.new_handle(self)
        self._doors: dict[int, tuple[str, Any]] = {}
        # In numbers, which are given their names at the end: under emulation each step of a call counts.
        self._noted: set[tuple[str, int, tuple[int, ...], int]] = set()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if callable(value):
            self.__dict__[name] = value  # a method stays what it is
        return value

    def told(self) -> list[Call]:
        """Every different call since this was last asked."""
        noted, self._noted = self._noted, set()
        calls = set()
        for kind, request, asked, error in noted:
            name = requests.name(kind, request)
            detail = _detail(name, asked) if asked else ""
            calls.add(Call(kind, name, detail, _ERRNOS.get(-error, str(-error)) if error else "ok"))
        return sorted(calls)

    def door(self, fd: int, kind: str) -> Any:
        self._doors[fd] = kind, self._inner.door(fd, kind)
        return ffi.new("pyvfio_door *", (lib.pyvfio_python_ioctl, self._handle, fd))

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        """What `pyvfio_python_ioctl` calls."""
        kind, door = self._doors.get(fd, ("closed", ffi.NULL))
        if not door:
            return -errno.EBADF  # closed: the door's descriptor is -1, and no kernel was asked
        # What is asked is read first: some answers are written over it.
        asked = _asked(request, argument) if argument and (kind, request) in _MANIFOLD else ()
        result: int = lib.pyvfio_ioctl(door, request, ffi.cast("void *", argument))
        self._noted.add((kind, request, asked, min(result, 0)))
        return result


#: (kind, number) of the requests that do several things
_MANIFOLD = {
    (kind, requests.number(name))
    for kind, names in requests.NAMES.items()
    for name in names
    if DECLARED[name].tell is not None
}
_SET_STATE = lib.VFIO_DEVICE_FEATURE_SET | lib.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE


def _asked(request: int, argument: int) -> tuple[int, ...]:
    """The words of a request of `_MANIFOLD` that tell what it does: the flags behind its size, and what follows them if that matters."""
    words = ffi.cast("uint32_t *", argument)
    flags = words[1]
    return (flags, words[2]) if request == lib.IOMMU_OPTION or flags == _SET_STATE else (flags,)


def _detail(name: str, asked: tuple[int, ...]) -> str:
    """
    :param asked: as `_asked` tells it
    """
    request = DECLARED[name]
    assert request.tell is not None
    struct = bytearray(64)
    native = ffi.from_buffer(f"{request.struct} *", struct)
    ffi.cast("uint32_t *", native)[1 : 1 + len(asked)] = list(asked)
    return request.tell(native)
