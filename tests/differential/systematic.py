# SPDX-License-Identifier: MIT
"""Episodes that are not random."""

from __future__ import annotations

from tests.differential import systematic_devices, systematic_host, systematic_iommufd, systematic_registers
from tests.differential.steps import Episode

_PARTS = (systematic_iommufd, systematic_devices, systematic_host, systematic_registers)
#: Devices that must be bound to VFIO drivers for these episodes.
DEVICES = sorted({name for part in _PARTS for name in part.DEVICES})


def episodes() -> list[Episode]:
    return [episode for part in _PARTS for episode in part.episodes()]
