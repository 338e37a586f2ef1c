"""The Linux VFIO and iommufd interfaces from Python.

::

    with pyvfio.open("0000:41:10.1") as device:
        mapping = device.address_space.alloc(2 << 20)
        with device.dirty_log([mapping.range]) as log:
            ...                                        # the device works
            for run in log.read().runs():
                print(run)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvfio import host as host
    from pyvfio import migration as migration
    from pyvfio.bitmap import DirtyBitmap as DirtyBitmap
    from pyvfio.container import Container as Container
    from pyvfio.device import Device as Device
    from pyvfio.dirty import DirtyLog as DirtyLog
    from pyvfio.dirty import dirty_log as dirty_log
    from pyvfio.errors import BadReply as BadReply
    from pyvfio.errors import Closed as Closed
    from pyvfio.errors import Error as Error
    from pyvfio.errors import NoIommuWarning as NoIommuWarning
    from pyvfio.errors import NotInMode as NotInMode
    from pyvfio.errors import NotViable as NotViable
    from pyvfio.errors import Refused as Refused
    from pyvfio.errors import Unsupported as Unsupported
    from pyvfio.group import Group as Group
    from pyvfio.iommufd import Hwpt as Hwpt
    from pyvfio.iommufd import Ioas as Ioas
    from pyvfio.iommufd import Iommufd as Iommufd
    from pyvfio.iova import IovaRange as IovaRange
    from pyvfio.iova import IovaSet as IovaSet
    from pyvfio.memory import DmaBuffer as DmaBuffer
    from pyvfio.migration import Migration as Migration
    from pyvfio.opening import address_space as address_space
    from pyvfio.opening import open as open
    from pyvfio.space import AddressSpace as AddressSpace
    from pyvfio.space import Mapping as Mapping

#: public name -> the module that has it; loaded when first used
_HOMES = {
    "AddressSpace": "space",
    "BadReply": "errors",
    "Closed": "errors",
    "Container": "container",
    "Device": "device",
    "DirtyBitmap": "bitmap",
    "DirtyLog": "dirty",
    "DmaBuffer": "memory",
    "Error": "errors",
    "Group": "group",
    "Hwpt": "iommufd",
    "Ioas": "iommufd",
    "Iommufd": "iommufd",
    "IovaRange": "iova",
    "IovaSet": "iova",
    "Mapping": "space",
    "Migration": "migration",
    "NoIommuWarning": "errors",
    "NotInMode": "errors",
    "NotViable": "errors",
    "Refused": "errors",
    "Unsupported": "errors",
    "address_space": "opening",
    "dirty_log": "dirty",
    "open": "opening",
}
_MODULES = frozenset({"host", "migration"})

__all__ = [*_HOMES, *_MODULES]  # noqa: PLE0604 (strings, all of them)


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"pyvfio.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'pyvfio' has no attribute {name!r}")
    value = getattr(import_module(f"pyvfio.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
