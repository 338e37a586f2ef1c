# SPDX-License-Identifier: MIT
"""The names of ioctl numbers, for failures on demand: by kind of descriptor, from the compiled declarations."""

from __future__ import annotations

from functools import cache

from pyvfio._abi import lib

#: the ioctl type of VFIO and of iommufd
_TYPE = ord(";")
_CONTAINER = ("VFIO_GET_API_VERSION", "VFIO_CHECK_EXTENSION", "VFIO_SET_IOMMU", "VFIO_IOMMU_")
_PREFIXES = {
    "container": _CONTAINER,
    "group": ("VFIO_GROUP_",),
    "device": ("VFIO_DEVICE_",),
    "migration": ("VFIO_MIG_",),
    "iommufd": ("IOMMU_", *_CONTAINER),
}


@cache
def _names(kind: str) -> dict[int, str]:
    names = [name for name in dir(lib) if name.startswith(_PREFIXES.get(kind, ()))]
    numbers = {name: number for name in names if isinstance(number := getattr(lib, name), int)}
    return {number: name for name, number in numbers.items() if number >> 8 == _TYPE}


def name(kind: str, request: int) -> str:
    """Return the name of an ioctl number for a kind of descriptor; the number in hex if it has no name."""
    return _names(kind).get(request, f"{request:#x}")
