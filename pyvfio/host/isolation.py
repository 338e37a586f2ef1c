# SPDX-License-Identifier: MIT
"""The reason why VFIO and iommufd refuse to isolate a device from the kernel and from other programs (EPERM)."""

from __future__ import annotations

from contextlib import suppress

from pyvfio.host import diagnosis
from pyvfio.host.diagnosis import Finding
from pyvfio.host.discovery import device
from pyvfio.host.holders import holders_of
from pyvfio.host.iommu_group import group_members
from pyvfio.host.sysfs import attribute
from pyvfio.kernel import Kernel


def not_isolated(kernel: Kernel, address: str, parameter: str) -> Finding:
    """Return the first of what can be seen: a member of the group with a driver of the kernel, another program that has a member open,
    interrupts that are not remapped.

    :param parameter: the one that allows interrupts that are not remapped
    """
    with suppress(OSError, ValueError):
        group = device(address, kernel).group
        members = {} if group is None else group_members(group, kernel)
        if group is not None and (finding := diagnosis.group_not_viable(group, members)) is not None:
            return finding
        for member in members:
            if member != address and (holders := holders_of(device(member, kernel).nodes, kernel)):
                return diagnosis.held(member, [str(one) for one in holders])
        words = attribute(kernel, "/proc/cmdline") or ""
        if (finding := diagnosis.interrupts_by_command_line(address, words)) is not None:
            return finding
    return diagnosis.interrupts_not_isolated(address, parameter)
