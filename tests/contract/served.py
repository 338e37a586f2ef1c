# SPDX-License-Identifier: MIT
"""Models for `pyvfio serve` that stand in for the mock's own devices, as those are."""

from __future__ import annotations

from pyvfio import mock
from pyvfio.mock import devices


def nvme(kernel: mock.Kernel, address: str) -> devices.Nvme:
    """Return the disk, with the serial number that the mock's own has."""
    return devices.Nvme(kernel, address, serial="pyvfio0")
