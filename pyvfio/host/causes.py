# SPDX-License-Identifier: MIT
"""Likely causes of a refusal that sysfs and /proc show: processes that hold a group, claims of the firmware, open virtual functions.

Each function is called when an exception is made, and returns a finding of the catalogue, or None if it finds no cause.
"""

from __future__ import annotations

import os
from contextlib import suppress

from pyvfio.host import diagnosis
from pyvfio.host.diagnosis import Finding
from pyvfio.host.holders import holders_of, holders_of_node
from pyvfio.host.iommu_group import group as group_info
from pyvfio.host.iommu_group import group_members
from pyvfio.host.nodes import find
from pyvfio.host.sysfs import entries
from pyvfio.kernel import Kernel


def direct_region(kernel: Kernel, group: int | None) -> Finding | None:
    """Return the firmware's claim on memory for a group, if it has one."""
    with suppress(OSError, ValueError):
        if group is not None:
            facts = group_info(group, kernel)
            address = next(iter(facts.members), f"group {group}")
            direct = [
                (region.range.start, region.range.last) for region in facts.reserved_regions if region.type == "direct"
            ]
            return diagnosis.direct_region(address, direct)
    return None


def group_member(kernel: Kernel, group: int | None) -> Finding | None:
    """Return the member of a group whose driver keeps VFIO from it, if there is one."""
    with suppress(OSError, ValueError):
        if group is not None:
            return diagnosis.group_not_viable(group, group_members(group, kernel))
    return None


def group_holder(kernel: Kernel, path: str) -> Finding | None:
    """Return the finding that a process has a group's node open; None if no such process is visible."""
    with suppress(OSError):
        if holders := [str(one) for one in holders_of_node(path, kernel)]:
            return diagnosis.held(path, holders, group=True)
    return None


def device_holder(kernel: Kernel, address: str, *, but: int | None = None) -> Finding | None:
    """Return the finding that a process has a device open; None if no such process is visible.

    :param but: a descriptor of this process to ignore
    """
    with suppress(OSError, ValueError):
        holders = [str(one) for one in holders_of(address, kernel) if (one.pid, one.descriptor) != (os.getpid(), but)]
        if holders:
            return diagnosis.held(address, holders)
    return None


def neighbour_holder(kernel: Kernel, group: int | None, address: str) -> Finding | None:
    """Return the finding that a process has another device of a group open; None if no such process is visible.

    :param address: the device to leave out; empty for none
    """
    with suppress(OSError, ValueError):
        for member in {} if group is None else group_members(group, kernel):
            if member != address and (held := device_holder(kernel, member)) is not None:
                return held._replace(
                    reason=f"{held.reason}; it is in the same IOMMU group, which has one owner at a time"
                )
    return None


def open_virtual_functions(kernel: Kernel, address: str) -> list[str]:
    """Return the virtual functions of a device that a visible process has open."""
    found: list[str] = []
    with suppress(OSError, ValueError):
        path = find(address, kernel).path
        for name in entries(kernel, path):
            if name.startswith("virtfn"):
                function = os.path.basename(kernel.realpath(f"{path}/{name}"))
                if holders_of(function, kernel):
                    found.append(function)
    return found
