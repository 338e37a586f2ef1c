"""Devices without an IOMMU, which VFIO serves if the host's administrator says so and the program does too."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

from pyvfio.errors import InvalidRequest, NoIommuWarning

if TYPE_CHECKING:
    from pyvfio.host.nodes import Nodes

_GIVEN_UP = (
    "no IOMMU stands between it and the host. Its DMA takes physical addresses and reaches all memory, the kernel's too: one wrong address "
    "can destroy the running system and what is on its disks. It cannot be given to a virtual machine, and the kernel counts as tainted"
)


def admit(found: Nodes, *, allowed: bool) -> None:
    """Let a device without an IOMMU pass if the caller has asked for that, with a warning.

    :raises InvalidRequest: it has none, and the caller has not
    """
    if not found.no_iommu:
        return
    if not allowed:
        raise InvalidRequest(f"{found.address}: {_GIVEN_UP}. With no_iommu=True it is opened all the same")
    # The line to be shown is the program's own, through however many of ours the way went.
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pyvfio."):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"{found.address}: {_GIVEN_UP}", NoIommuWarning, stacklevel=level)
