"""The host: which devices VFIO can serve, how they are grouped, who drives them; and changing that safely.

What is read here are snapshots (named tuples that own nothing). What is changed is put back: by
:func:`bind` at the end of its `with`, or by :func:`restore` later for a program that was killed. No shell
is used, and no name reaches sysfs unchecked.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyvfio.host.discovery import HostDevice, device, devices
from pyvfio.host.iommu_group import GroupInfo, ReservedRegion, group, group_members, groups, reserved_regions

if TYPE_CHECKING:
    from pyvfio.host.binding import bind, restore
    from pyvfio.host.changes import Change, Changes
    from pyvfio.host.holders import Holder, holders_of
    from pyvfio.host.in_use import Use, uses
    from pyvfio.host.journal import Binding, bindings
    from pyvfio.host.sriov import create_vfs, remove_vfs

__all__ = [
    "Binding",
    "Change",
    "Changes",
    "GroupInfo",
    "Holder",
    "HostDevice",
    "ReservedRegion",
    "Use",
    "bind",
    "bindings",
    "create_vfs",
    "device",
    "devices",
    "group",
    "group_members",
    "groups",
    "holders_of",
    "remove_vfs",
    "reserved_regions",
    "restore",
    "uses",
]

# Opening a device needs discovery only; the rest is loaded by the programs that use it.
_LAZY = {
    "bind": "binding",
    "restore": "binding",
    "Use": "in_use",
    "uses": "in_use",
    "Holder": "holders",
    "holders_of": "holders",
    "Binding": "journal",
    "bindings": "journal",
    "create_vfs": "sriov",
    "remove_vfs": "sriov",
    "Change": "changes",
    "Changes": "changes",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
