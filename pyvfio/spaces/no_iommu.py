# SPDX-License-Identifier: MIT
"""Opt-in and warning for devices without an IOMMU."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

from pyvfio.errors import InvalidRequest, NoIommuWarning
from pyvfio.host import diagnosis

if TYPE_CHECKING:
    from pyvfio.host.nodes import Nodes

_GIVEN_UP = (
    "the device has no IOMMU. Its DMA uses physical addresses and reaches all memory, the kernel's too: one wrong address can destroy "
    "the running system and the data on its disks. It cannot be given to a virtual machine, and opening it taints the kernel"
)


def admit(found: Nodes, *, allowed: bool) -> None:
    """Refuse a device without an IOMMU, or only warn if the caller allows it.

    :raises InvalidRequest: the device has no IOMMU, and `allowed` is False
    """
    if not found.no_iommu:
        return
    if not allowed:
        raise InvalidRequest(str(diagnosis.no_iommu_refused(found.address, enabled=True)))
    # Point the warning at the program's own line, behind all frames of this package.
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pyvfio."):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"{found.address}: {_GIVEN_UP}", NoIommuWarning, stacklevel=level)
