# SPDX-License-Identifier: MIT
"""Address spaces: the translation of a device's DMA."""

from __future__ import annotations

from collections.abc import Iterator


class Space:
    """The address space of a device's DMA: a type1 container, or an IOAS or a page table of an iommufd.

    `write` and `read` are DMA through an IOMMU, or the kernel's copy for an emulated device (vfio_dma_rw). A failure
    raises :class:`Errno` with the error that vfio_dma_rw returns for this kind of space; a device behind an IOMMU turns
    that into a fault.
    """

    def at_once(self, iova: int, size: int) -> bool:
        """Whether a transfer across pages is a single copy, because no IOMMU translates each page."""
        return False

    def read(self, iova: int, size: int) -> bytes:
        """Read memory.

        :raises Errno: EINVAL (type1) or ENOENT (iommufd), not mapped; EPERM, EFAULT
        """
        raise NotImplementedError

    def write(self, iova: int, data: bytes) -> None:
        """Write memory. On an error the bytes before the failing page may have been written.

        :raises Errno: that of :meth:`read`
        """
        raise NotImplementedError

    def writable(self) -> Iterator[tuple[int, int]]:
        """Yield the mappings that the device may write, as (start, last), in order."""
        raise NotImplementedError

    # For drivers of emulated devices.

    def pin(self, iova: int, *, write: bool) -> int:
        """Pin one page, as vfio_pin_pages does, until `unpin`; return its address in the caller's memory.

        Before the page is unmapped, `Device.dma_unmap` is called, and must unpin it.

        :raises Errno: that of :meth:`read`; or ENOMEM, above the locked-memory limit
        """
        raise NotImplementedError

    def unpin(self, iova: int) -> None:
        """Unpin one page, as vfio_unpin_pages does."""
        raise NotImplementedError
