# SPDX-License-Identifier: MIT
"""Drive edu's model with the driver of scripts/examples: the factorial, DMA in both directions, INTx and MSI."""

from __future__ import annotations

import os

from examples.edu import Edu

import pyvfio
from pyvfio.spaces.opening import Mode
from tests.vfio_user_guest.programs.guest import address_of, step

MODES: list[Mode] = ["type1", "type1v2", "iommufd-type1", "iommufd-type1v2", "iommufd"]


def drive(address: str, mode: Mode) -> None:
    """Open the device in a mode, compute, and copy memory through it."""
    with pyvfio.open(address, mode=mode) as device:
        assert device.config.read16(2) == 0x11E8
        mapping = device.address_space.alloc(1 << 16, 0x100000)
        view = mapping.buffer.view
        view[:6000] = os.urandom(6000)
        with Edu(device) as edu:
            assert edu.factorial(10) == 3628800
            for at in range(0, 6000, 3000):
                edu.copy(mapping.iova + 0x8000 + at, mapping.iova + at, 3000)
        assert view[0x8000 : 0x8000 + 6000] == view[:6000]


def main() -> None:
    address = address_of("edu")
    with pyvfio.host.bind(address, "vfio-pci"):
        for mode in MODES:
            with step(f"edu by {mode}"):
                drive(address, mode)


if __name__ == "__main__":
    main()
