# SPDX-License-Identifier: MIT
"""The capability chain of VFIO_IOMMU_GET_INFO."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.vfio.type1.dirty import BITMAP_SIZE_MAX

if TYPE_CHECKING:
    from pyvfio.mock.vfio.type1.iommu import Type1


def capabilities(iommu: Type1, offset: int) -> bytes:
    """Return the chain for a position `offset` bytes after the start of the struct."""
    bodies = [
        (lib.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, struct.pack("=IxxxxQQ", 0, iommu.granule, BITMAP_SIZE_MAX)),
        (lib.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, struct.pack("=Ixxxx", iommu.available)),
    ]
    if iommu.usable.ranges:
        pairs = b"".join(struct.pack("=QQ", *range_) for range_ in iommu.usable.ranges)
        bodies.append(
            (lib.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, struct.pack("=Ixxxx", len(iommu.usable.ranges)) + pairs)
        )
    chain = bytearray()
    for id, body in bodies:
        following = offset + len(chain) + 8 + len(body) if id != bodies[-1][0] else 0
        chain += struct.pack("=HHI", id, 1, following) + body
    return bytes(chain)
