# SPDX-License-Identifier: MIT
"""Ranges of a BAR exported as a dma-buf, which other devices can access (vfio_pci_dmabuf.c)."""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING

from pyvfio._abi import ffi
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.file import File
from pyvfio.mock.vfio.feature import GET
from pyvfio.mock.vfio.region import Area

if TYPE_CHECKING:
    from pyvfio.mock.vfio.feature import Feature
    from pyvfio.mock.vfio.pci.device import PciDevice

_HEAD, _RANGE = "struct vfio_device_feature_dma_buf", "struct vfio_region_dma_range"
_BARS = 6
_LAST = 2**64 - 1
#: bytes of the largest array that memdup_array_user can allocate
_ARRAY = 1 << 22


class DmaBuf(File):
    """A dma-buf of one BAR.

    :ivar areas: the ranges of the BAR, in the dma-buf's order
    :ivar size: bytes of all ranges
    :ivar asleep: revoked by a request for low power. VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, a reset, and a write of the
        power state or of the command register end that, if memory is accessible then; an access that wakes the device
        does not
    """

    kind = "dma-buf"

    def __init__(self, device: PciDevice, bar: int, areas: tuple[Area, ...], *, writable: bool) -> None:
        super().__init__(device.kernel)
        self._device = device
        self._bar = bar
        self.asleep = False
        self._writable = writable
        device.dma_bufs[self] = None
        self.areas = areas
        self.size = sum(area.size for area in areas)

    def check_mmap(self, size: int, offset: int, prot: int) -> None:
        """Refuse to map: vfio_pci_dmabuf_ops has no mmap.

        A writable mapping of a read-only descriptor is EACCES first.
        """
        if prot & mmap.PROT_WRITE and not self._writable:
            raise Errno(errno.EACCES)
        raise Errno(errno.EINVAL)

    @property
    def era(self) -> int | None:
        """The device's era, or None while the dma-buf is revoked.

        An importer whose era is older has lost its access.
        """
        there = self._device.files and self._device.decodes_memory and not self.asleep
        return self._device.era if there else None

    def load(self, offset: int, size: int) -> bytes:
        """Read for another device. iommufd imports only dma-bufs of one range (vfio_pci_dma_buf_iommufd_map)."""
        return self._device.bar_read(self._bar, self.areas[0].offset + offset, size)

    def store(self, offset: int, data: bytes) -> None:
        """Write for another device; see :meth:`load`."""
        self._device.bar_write(self._bar, self.areas[0].offset + offset, data)


def export(device: PciDevice, asked: Feature) -> int | None:
    """Export ranges of a BAR: VFIO_DEVICE_FEATURE_DMA_BUF (vfio_pci_core_feature_dma_buf).

    :returns: a new descriptor; None for a probe
    :raises Errno: EINVAL, ranges that are not whole pages or not within the BAR; ENODEV, no such BAR; EOVERFLOW, a
        range ends beyond 64 bits; ENOMEM, too many ranges
    """
    if not asked.is_meant(GET, ffi.sizeof(_HEAD)):
        return None
    head = asked.take(_HEAD)
    if not head.nr_ranges or head.flags:
        raise Errno(errno.EINVAL)
    if head.region_index >= _BARS or not device.region(head.region_index).size:
        raise Errno(errno.ENODEV)
    each = ffi.sizeof(_RANGE)
    if head.nr_ranges * each > _ARRAY:
        raise Errno(errno.ENOMEM)
    words = memoryview(caller.read(asked.address + ffi.sizeof(_HEAD), head.nr_ranges * each)).cast("Q")
    areas = tuple(Area(*words[at : at + 2]) for at in range(0, len(words), 2))
    page = device.kernel.profile.page_size
    if (
        any(not area.size or area.offset % page or area.size % page for area in areas)
        or sum(area.size for area in areas) >> 63
    ):
        raise Errno(errno.EINVAL)
    for area in areas:
        if area.offset + area.size > _LAST:
            raise Errno(errno.EOVERFLOW)
        if area.offset + area.size > device.region(head.region_index).size:
            raise Errno(errno.EINVAL)
    writable = head.open_flags & os.O_ACCMODE == os.O_RDWR
    return device.kernel.install(DmaBuf(device, head.region_index, areas, writable=writable))
