# SPDX-License-Identifier: MIT
"""What devices wanted of memory, and their IOMMU did not let through."""

from __future__ import annotations

from typing import NamedTuple


class DmaFault(NamedTuple):
    """A device's access that its IOMMU did not let through.

    :ivar device: its name
    :ivar errno: what vfio_dma_rw would have said
    """

    device: str
    iova: int
    write: bool
    errno: int
