# SPDX-License-Identifier: MIT
"""The Linux VFIO and iommufd interfaces from Python.

::

    with pyvfio.open("0000:41:10.1") as device:
        mapping = device.address_space.alloc(2 << 20)
        with device.dirty_log([mapping.range]) as log:
            ...                                        # the device works
            for run in log.read().runs():
                print(run)

Names are loaded when they are first used, so that `import pyvfio` costs next to nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from pyvfio import kernel as _kernel

if TYPE_CHECKING:
    from pyvfio import abi as abi
    from pyvfio import guest as guest
    from pyvfio import host as host
    from pyvfio import iommufd as iommufd
    from pyvfio import migration as migration
    from pyvfio import mock as mock
    from pyvfio import tracing as tracing
    from pyvfio.bitmap import DirtyBitmap as DirtyBitmap
    from pyvfio.device import Device as Device
    from pyvfio.dirty.log import DirtyLog as DirtyLog
    from pyvfio.dirty.log import dirty_log as dirty_log
    from pyvfio.dirty.tracker import DirtyTracker as DirtyTracker
    from pyvfio.errors import BadReply as BadReply
    from pyvfio.errors import Closed as Closed
    from pyvfio.errors import Error as Error
    from pyvfio.errors import InvalidRequest as InvalidRequest
    from pyvfio.errors import NoIommuWarning as NoIommuWarning
    from pyvfio.errors import NotViable as NotViable
    from pyvfio.errors import RequestError as RequestError
    from pyvfio.errors import Unsupported as Unsupported
    from pyvfio.iommufd.hwpt import Hwpt as Hwpt
    from pyvfio.iommufd.ioas import Ioas as Ioas
    from pyvfio.iommufd.iommufd import Iommufd as Iommufd
    from pyvfio.iova import IovaRange as IovaRange
    from pyvfio.iova import IovaSet as IovaSet
    from pyvfio.irq import Irq as Irq
    from pyvfio.irq import Vector as Vector
    from pyvfio.kernel import Kernel as Kernel
    from pyvfio.memory import DmaBuffer as DmaBuffer
    from pyvfio.memory import barrier as barrier
    from pyvfio.migration import Migration as Migration
    from pyvfio.pci import PciConfig as PciConfig
    from pyvfio.region import Region as Region
    from pyvfio.spaces.base import AddressSpace as AddressSpace
    from pyvfio.spaces.container import Container as Container
    from pyvfio.spaces.group import Group as Group
    from pyvfio.spaces.mapping import Mapping as Mapping
    from pyvfio.spaces.opening import address_space as address_space
    from pyvfio.spaces.opening import open as open

__version__ = "0.1.0"

#: module -> its public names; the empty string stands for submodules
_PUBLIC = {
    "": ("abi", "guest", "host", "iommufd", "migration", "mock", "tracing"),
    "bitmap": ("DirtyBitmap",),
    "device": ("Device",),
    "dirty.log": ("DirtyLog", "dirty_log"),
    "dirty.tracker": ("DirtyTracker",),
    "errors": (
        "BadReply",
        "Closed",
        "Error",
        "InvalidRequest",
        "NoIommuWarning",
        "NotViable",
        "RequestError",
        "Unsupported",
    ),
    "iommufd.hwpt": ("Hwpt",),
    "iommufd.ioas": ("Ioas",),
    "iommufd.iommufd": ("Iommufd",),
    "iova": ("IovaRange", "IovaSet"),
    "irq": ("Irq", "Vector"),
    "kernel": ("Kernel",),
    "memory": ("DmaBuffer", "barrier"),
    "migration": ("Migration",),
    "pci": ("PciConfig",),
    "region": ("Region",),
    "spaces.base": ("AddressSpace",),
    "spaces.mapping": ("Mapping",),
    "spaces.container": ("Container",),
    "spaces.group": ("Group",),
    "spaces.opening": ("address_space", "open"),
}
_HOMES = {name: module for module, names in _PUBLIC.items() for name in names}

# `open` is left out: `from pyvfio import *` would hide the builtin.
__all__ = ["__version__", *(name for name in _HOMES if name != "open")]  # noqa: PLE0604 (strings, all of them)


def _load(name: str) -> object:
    module = _HOMES[name]
    if not module:
        return import_module(f"pyvfio.{name}")
    value: object = getattr(import_module(f"pyvfio.{module}"), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # with this function type checkers would accept every name

    def __getattr__(name: str) -> object:
        """Load a public name when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module 'pyvfio' has no attribute {name!r}")
        return _load(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def _kernel_named(name: str) -> Kernel:
    """Return the kernel of a name from :mod:`pyvfio.kernels`, which :mod:`pyvfio.kernel` cannot import: that would be a cycle."""
    kernels = import_module("pyvfio.kernels")
    found: Kernel = kernels.named(name)
    return found


_kernel.resolver = _kernel_named

if _trace := os.environ.get("PYVFIO_TRACE"):
    import_module("pyvfio.tracing").trace_program(_trace)
