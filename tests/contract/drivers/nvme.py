# SPDX-License-Identifier: MIT
"""NVMe: what is to be copied is written to the disk from one IOVA, and read back to another."""

from __future__ import annotations

from typing import Self

from examples.nvme import Nvme

PIECE = 1 << 16


class driver(Nvme):
    tells = True  # but QEMU reports success for DMA that the IOMMU stopped

    def __enter__(self) -> Self:
        super().__enter__()
        self._disk = self.namespace()
        return self

    def copy(self, destination: int, source: int, size: int) -> None:
        """Whole blocks."""
        for at in range(0, size, PIECE):
            count = min(PIECE, size - at) // self._disk.block_size
            self._disk.write(0, source + at, count)
            self._disk.read(0, destination + at, count)
