# SPDX-License-Identifier: MIT
"""Parts of a BAR exported as a dma-buf, for DMA by other devices."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyvfio._abi import ffi
from pyvfio._core.fd import Fd
from pyvfio._core.request import Reason
from pyvfio._core.resource import DescriptorResource
from pyvfio.feature import Feature, FeatureFacts

if TYPE_CHECKING:
    from pyvfio.region import Area, Region

__all__ = ["DmaBuf"]

_HEAD = "struct vfio_device_feature_dma_buf"
_RANGE = "struct vfio_region_dma_range"


def _not_built(facts: FeatureFacts) -> Reason:
    return Reason(
        f"{facts.address} has no feature {facts.feature}: the kernel needs CONFIG_VFIO_PCI_DMABUF (Linux 6.19), the device a "
        "driver that exports BARs",
        unsupported=True,
    )


GET_DMA_BUF = Feature(
    "GET DMA_BUF",
    errnos={
        errno.EINVAL: "the parts must be whole pages, must not be empty, and must lie within the BAR",
        errno.ENODEV: "only BARs can be exported, and only those that the device has",
    },
    otherwise={errno.EOPNOTSUPP: "the device's driver does not export its BARs", errno.ENOTTY: _not_built},
)


class DmaBuf(DescriptorResource):
    """A dma-buf of parts of a BAR, VFIO_DEVICE_FEATURE_DMA_BUF. Since Linux 6.19; CONFIG_VFIO_PCI_DMABUF, CONFIG_PCI_P2PDMA.

    :meth:`~pyvfio.Ioas.map_file` maps it into the :class:`pyvfio.Ioas` of another device, which can then access the BAR (peer-to-peer DMA).
    That takes a dma-buf with a single area. Whenever the BAR becomes inaccessible (memory decoding off, a reset, low power, closing the
    device) the kernel removes it from the IOMMU.

    Closing the dma-buf does not unmap it from an Ioas. It closes with its device.

    :ivar areas: the parts, in the order in which they follow each other in the dma-buf
    :ivar size: bytes of all parts together
    """

    def __init__(self, region: Region, areas: Sequence[Area]) -> None:
        super().__init__(region.device)
        self.region = region
        self.areas = tuple(areas)
        self.size = sum(area.size for area in self.areas)
        memory = ffi.new("char[]", ffi.sizeof(_HEAD) + len(areas) * ffi.sizeof(_RANGE))
        asked = ffi.cast(f"{_HEAD} *", memory)
        asked.region_index = region.info.index
        asked.open_flags = os.O_RDWR | os.O_CLOEXEC
        asked.nr_ranges = len(areas)
        for index, area in enumerate(areas):
            asked.dma_ranges[index].offset, asked.dma_ranges[index].length = area
        file = region.device.file
        self._fd = Fd.unopened(file.kernel, "dma-buf", f"dma-buf of {region.name} of {region.device.address}")
        arguments = {"region": region.name, "areas": [tuple(area) for area in areas]}
        GET_DMA_BUF.receive(file, memory, (None, self._fd), arguments)

    def fileno(self) -> int:
        """Return the descriptor of the dma-buf, for `Ioas.map_file()` or to send to another process."""
        return self._fd.fileno()

    def __repr__(self) -> str:
        return f"<DmaBuf of {self.region!r}, {self.size:#x} bytes{' (closed)' if self.closed else ''}>"
