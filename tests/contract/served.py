# SPDX-License-Identifier: MIT
"""Models for `pyvfio serve` that are equal to the mock's own devices, and replace them."""

from __future__ import annotations

from pyvfio import mock
from pyvfio.mock import devices


def nvme(kernel: mock.Kernel, address: str) -> devices.Nvme:
    """Return the disk, with the serial number of the mock's own disk."""
    return devices.Nvme(kernel, address, serial="pyvfio0")
