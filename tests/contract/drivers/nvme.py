# SPDX-License-Identifier: MIT
"""The NVMe driver for the suite: it copies memory by writing it to the disk from one IOVA and reading it back to another."""

from __future__ import annotations

from typing import Self

from examples.nvme import Nvme

PIECE = 1 << 16


class driver(Nvme):
    tells = True  # however, QEMU reports success for DMA that the IOMMU blocked

    def __enter__(self) -> Self:
        super().__enter__()
        self._disk = self.namespace()
        return self

    def copy(self, destination: int, source: int, size: int) -> None:
        """Copy memory through block 0 and the blocks behind it. The size must be a multiple of the block size."""
        for at in range(0, size, PIECE):
            count = min(PIECE, size - at) // self._disk.block_size
            self._disk.write(0, source + at, count)
            self._disk.read(0, destination + at, count)
