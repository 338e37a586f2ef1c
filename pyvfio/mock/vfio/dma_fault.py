# SPDX-License-Identifier: MIT
"""Records of failed DMA."""

from __future__ import annotations

from typing import NamedTuple


class DmaFault(NamedTuple):
    """A DMA access that the IOMMU blocked, or that the device did not issue because bus master was off.

    :ivar device: name of the device
    :ivar errno: the error that vfio_dma_rw would return; 0 for an access that was not issued
    """

    device: str
    iova: int
    write: bool
    errno: int
