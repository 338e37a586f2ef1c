# SPDX-License-Identifier: MIT
"""Address spaces between a device and memory: the translation that its DMA goes through."""

from __future__ import annotations

from collections.abc import Iterator


class Space:
    """The DMA of one device: a type1 container's mappings, or an iommufd's IOAS or page table.

    `write` and `read` are what a device does by itself through its IOMMU, or what the kernel does for an emulated device
    (vfio_dma_rw). What fails raises :class:`Errno` with what vfio_dma_rw returns in this kind of space; for a device behind an
    IOMMU it is the device's business to turn that into a fault.
    """

    def at_once(self, iova: int, size: int) -> bool:
        """Whether a transfer that crosses pages is one copy here, with no IOMMU in between that would see its pages."""
        return False

    def read(self, iova: int, size: int) -> bytes:
        """:raises Errno: EINVAL (type1) or ENOENT (iommufd) where nothing is mapped, EPERM, EFAULT"""
        raise NotImplementedError

    def write(self, iova: int, data: bytes) -> None:
        """:raises Errno: as `read`; what lies before the bad page may have been written"""
        raise NotImplementedError

    def writable(self) -> Iterator[tuple[int, int]]:
        """Yield the mappings that the device may write, as (start, last), in order."""
        raise NotImplementedError

    # For drivers of emulated devices.

    def pin(self, iova: int, *, write: bool) -> int:
        """vfio_pin_pages of one page: its address in the caller's memory, where it stays until `unpin`.

        Before the page is unmapped the driver is told (`Device.dma_unmap`), and must let go of it.

        :raises Errno: as `read`, or ENOMEM above the limit on locked memory
        """
        raise NotImplementedError

    def unpin(self, iova: int) -> None:
        """vfio_unpin_pages of one page."""
        raise NotImplementedError
