"""A kernel that notes which requests went through it, in front of another."""

from __future__ import annotations

import errno
from typing import Any, NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio._core import requests
from pyvfio.feature import feature_name
from pyvfio.kernel import Kernel
from pyvfio.migration import State

# Python's name for this one is the other of the two.
_ERRNOS = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}
_STATES = {int(state): state.name for state in State}


class Call(NamedTuple):
    """One request and what became of it.

    :ivar kind: of descriptor, as in pyvfio._core.requests
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
            detail = _detail(name, *asked) if asked else ""
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
        asked = _asked(argument) if argument and (kind, request) in _MANIFOLD else ()
        result: int = lib.pyvfio_ioctl(door, request, ffi.cast("void *", argument))
        self._noted.add((kind, request, asked, min(result, 0)))
        return result


# Requests that do several things: flag -> what it does.
_FLAGS = {
    "VFIO_IOMMU_MAP_DMA": {lib.VFIO_DMA_MAP_FLAG_VADDR: "VADDR"},
    "VFIO_IOMMU_UNMAP_DMA": {
        lib.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: "GET_DIRTY_BITMAP",
        lib.VFIO_DMA_UNMAP_FLAG_ALL: "ALL",
        lib.VFIO_DMA_UNMAP_FLAG_VADDR: "VADDR",
    },
    "VFIO_IOMMU_DIRTY_PAGES": {
        lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_START: "START",
        lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP: "STOP",
        lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: "GET_BITMAP",
    },
    "VFIO_DEVICE_SET_IRQS": {
        lib.VFIO_IRQ_SET_ACTION_MASK: "MASK",
        lib.VFIO_IRQ_SET_ACTION_UNMASK: "UNMASK",
        lib.VFIO_IRQ_SET_ACTION_TRIGGER: "TRIGGER",
    },
}
_MANIFOLD = {
    (kind, requests.number(name))
    for kind, names in requests.NAMES.items()
    for name in names
    if name in _FLAGS or name == "VFIO_DEVICE_FEATURE"
}
_SET_STATE = lib.VFIO_DEVICE_FEATURE_SET | lib.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE


def _asked(argument: int) -> tuple[int, ...]:
    """The flags of a request of `_MANIFOLD`, and the state of a change of state: each begins with argsz and flags, and that goes on with it."""
    words = ffi.cast("uint32_t *", argument)
    flags = words[1]
    return (flags, words[2]) if flags == _SET_STATE else (flags,)


def _detail(name: str, flags: int, state: int | None = None) -> str:
    """
    :param flags: and `state`: what was asked, as `_asked` tells it
    """
    if name == "VFIO_DEVICE_FEATURE":
        feature = feature_name(flags)
        return feature if state is None else f"{feature} {_STATES.get(state, state)}"
    return " ".join(word for flag, word in _FLAGS.get(name, {}).items() if flags & flag)
