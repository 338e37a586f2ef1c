# SPDX-License-Identifier: MIT
"""The host: the devices that VFIO can serve, their groups and drivers, and binding devices to other drivers, reversibly.

Functions that read sysfs return snapshots: named tuples that own nothing. Changes of bindings are restored at the end of the `with` of
:func:`bind`, or later by :func:`restore`, even if the program was killed. No shell is used, and no name is written to sysfs unchecked.
"""

from __future__ import annotations

from pyvfio.host.access import grant, revoke
from pyvfio.host.binding import NO_DRIVER, Binding, Write, bind, restore, unbind
from pyvfio.host.changes import Change, Changes
from pyvfio.host.diagnosis import Finding
from pyvfio.host.discovery import HostDevice, device, devices
from pyvfio.host.examination import Examination, diagnose, diagnose_host, examine
from pyvfio.host.holders import Holder, holders_of
from pyvfio.host.in_use import uses
from pyvfio.host.iommu_group import GroupInfo, ReservedRegion, group, group_members, groups, reserved_regions
from pyvfio.host.journal import JournalEntry, bindings
from pyvfio.host.power import set_d3cold_allowed, set_reset_methods
from pyvfio.host.sriov import create_vfs, remove_vfs
from pyvfio.host.use import Use

__all__ = [
    "NO_DRIVER",
    "Binding",
    "Change",
    "Changes",
    "Examination",
    "Finding",
    "GroupInfo",
    "Holder",
    "HostDevice",
    "JournalEntry",
    "ReservedRegion",
    "Use",
    "Write",
    "bind",
    "bindings",
    "create_vfs",
    "device",
    "devices",
    "diagnose",
    "diagnose_host",
    "examine",
    "grant",
    "group",
    "group_members",
    "groups",
    "holders_of",
    "remove_vfs",
    "reserved_regions",
    "restore",
    "revoke",
    "set_d3cold_allowed",
    "set_reset_methods",
    "unbind",
    "uses",
]
