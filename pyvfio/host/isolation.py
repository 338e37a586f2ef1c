# SPDX-License-Identifier: MIT
"""The reason why VFIO and iommufd refuse to isolate a device from the kernel and from other programs (EPERM)."""

from __future__ import annotations

from contextlib import suppress

from pyvfio.host import causes, diagnosis
from pyvfio.host.diagnosis import Finding
from pyvfio.host.nodes import find
from pyvfio.host.sysfs import attribute
from pyvfio.kernel import Kernel


def not_isolated(kernel: Kernel, address: str, parameter: str) -> Finding | None:
    """Return the first cause that is visible: a member of the group with a driver of the kernel, another program that has a member open,
    memory that the firmware claims for the device (EPERM before Linux 6.6), interrupts that are not remapped.

    None if the parameter allows such interrupts, and no other cause is visible.

    :param parameter: the module parameter that allows interrupts that are not remapped
    """
    with suppress(OSError, ValueError):
        group = find(address, kernel).group
        seen = (
            causes.group_member(kernel, group)
            or causes.neighbour_holder(kernel, group, address)
            or causes.direct_region(kernel, group)
        )
        if seen is not None:
            return seen
        module, _, name = parameter.partition(".")
        if attribute(kernel, f"/sys/module/{module}/parameters/{name}") == "Y":
            return None
        words = attribute(kernel, "/proc/cmdline") or ""
        if (finding := diagnosis.interrupts_by_command_line(address, words)) is not None:
            return finding
    return diagnosis.interrupts_not_isolated(address, parameter)
