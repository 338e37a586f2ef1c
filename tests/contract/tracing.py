"""A kernel that notes which requests went through it, in front of another."""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any, NamedTuple

from pyvfio import requests
from pyvfio._abi import ffi, lib
from pyvfio.feature import feature_name
from pyvfio.kernel import Kernel
from pyvfio.migration import State

# Python's name for this one is the other of the two.
_ERRNOS = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}
_STATES = {int(state): state.name for state in State}


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


class TracingKernel:
    """Stands in for `inner` and counts the ioctls. Everything else goes straight through."""

    def __init__(self, inner: Kernel) -> None:
        self._inner = inner
        self._handle = ffi.new_handle(self)
        self._doors: dict[int, tuple[str, Any]] = {}
        self.calls: Counter[Call] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def door(self, fd: int, kind: str) -> Any:
        self._doors[fd] = kind, self._inner.door(fd, kind)
        return ffi.new("pyvfio_door *", (lib.pyvfio_python_ioctl, self._handle, fd))

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        """What `pyvfio_python_ioctl` calls."""
        kind, door = self._doors.get(fd, ("closed", ffi.NULL))
        if not door:
            return -errno.EBADF  # closed: the door's descriptor is -1, and no kernel was asked
        # What is asked is read first: some answers are written over it.
        name = requests.name(kind, request)
        detail = _DETAILS[name](argument) if name in _DETAILS and argument else ""
        result = int(lib.pyvfio_ioctl(door, request, ffi.cast("void *", argument)))
        outcome = "ok" if result >= 0 else _ERRNOS.get(-result, str(-result))
        self.calls[Call(kind, name, detail, outcome)] += 1
        return result


def _flags(argument: int, words: dict[int, str]) -> str:
    # All of these begin with argsz and flags.
    flags = ffi.cast("uint32_t *", argument)[1]
    return " ".join(word for flag, word in words.items() if flags & flag)


def _feature(argument: int) -> str:
    feature = ffi.cast("struct vfio_device_feature *", argument)
    name = feature_name(feature.flags)
    if name == "SET MIG_DEVICE_STATE":
        state = ffi.cast("struct vfio_device_feature_mig_state *", feature.data).device_state
        return f"{name} {_STATES.get(state, state)}"
    return name


_DETAILS = {
    "VFIO_DEVICE_FEATURE": _feature,
    "VFIO_IOMMU_MAP_DMA": lambda argument: _flags(argument, {lib.VFIO_DMA_MAP_FLAG_VADDR: "VADDR"}),
    "VFIO_IOMMU_UNMAP_DMA": lambda argument: _flags(
        argument,
        {
            lib.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: "GET_DIRTY_BITMAP",
            lib.VFIO_DMA_UNMAP_FLAG_ALL: "ALL",
            lib.VFIO_DMA_UNMAP_FLAG_VADDR: "VADDR",
        },
    ),
    "VFIO_IOMMU_DIRTY_PAGES": lambda argument: _flags(
        argument,
        {
            lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_START: "START",
            lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP: "STOP",
            lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: "GET_BITMAP",
        },
    ),
    "VFIO_DEVICE_SET_IRQS": lambda argument: _flags(
        argument,
        {
            lib.VFIO_IRQ_SET_ACTION_MASK: "MASK",
            lib.VFIO_IRQ_SET_ACTION_UNMASK: "UNMASK",
            lib.VFIO_IRQ_SET_ACTION_TRIGGER: "TRIGGER",
        },
    ),
}
