# SPDX-License-Identifier: MIT
"""Accesses of devices to memory that did not succeed."""

from __future__ import annotations

from typing import NamedTuple


class DmaFault(NamedTuple):
    """A device's access that its IOMMU did not let through, or that its bus master bit kept from being made.

    :ivar device: its name
    :ivar errno: what vfio_dma_rw would have said; 0 where no access was made
    """

    device: str
    iova: int
    write: bool
    errno: int
