# SPDX-License-Identifier: MIT
"""VFIO_IOMMU_DIRTY_PAGES: the dirty pages of a type1 container."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.type1.dirty import BITMAP_SIZE_MAX, PAGES_MAX, DirtyPages

if TYPE_CHECKING:
    from pyvfio.mock.vfio.type1.iommu import Type1
    from pyvfio.mock.vfio.type1.mapping import Type1Mapping


class Tracking:
    """Dirty tracking of a container.

    Writes through an IOMMU are not visible to type1, so all pages pinned for one count as dirty.

    :ivar on: tracking is enabled: between START and STOP
    """

    def __init__(self, iommu: Type1) -> None:
        self._iommu = iommu
        self.on = False

    def start(self) -> None:
        """Start tracking.

        :raises Errno: EINVAL, a mapping is too large
        """
        if self.on:
            return
        self.on = True
        try:
            for mapping in self._iommu.mappings:
                self.add(mapping)
        except Errno:
            self.stop()
            raise

    def stop(self) -> None:
        for mapping in self._iommu.mappings:
            mapping.dirty = None
        self.on = False

    def add(self, mapping: Type1Mapping) -> None:
        """Start tracking a mapping; do nothing if tracking is off.

        :raises Errno: EINVAL, the mapping is too large
        """
        if self.on:
            pages = mapping.size // self._iommu.granule
            if pages > PAGES_MAX:
                raise Errno(errno.EINVAL)
            mapping.dirty = DirtyPages(pages)
            self._mark_pins(mapping, mapping.dirty)

    def mark_all(self) -> None:
        """Mark all pages, when a group has left whose writes are not tracked."""
        if self.on:
            for mapping in self._iommu.mappings:
                if mapping.dirty is not None:
                    mapping.dirty.mark_all()

    def request(self, argument: int) -> None:
        size = ffi.sizeof("struct vfio_iommu_type1_dirty_bitmap")
        call = caller.take("struct vfio_iommu_type1_dirty_bitmap", argument)
        if call.argsz < size:
            raise Errno(errno.EINVAL)
        if call.flags == lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_START:
            self.start()
        elif call.flags == lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP:
            self.stop()
        elif call.flags == lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP:
            if call.argsz < size + ffi.sizeof("struct vfio_iommu_type1_dirty_bitmap_get"):
                raise Errno(errno.EINVAL)
            self._get_bitmap(caller.take("struct vfio_iommu_type1_dirty_bitmap_get", argument + size))
        else:
            raise Errno(errno.EINVAL)

    def _get_bitmap(self, get: Any) -> None:
        iova, size, granule = get.iova, get.size, self._iommu.granule
        if not size:
            raise Errno(errno.EINVAL)
        last = iova + size - 1
        if last >= 1 << 64:
            raise Errno(errno.EOVERFLOW)
        address = self.bitmap(get.bitmap, size)
        if (iova | size) & granule - 1 or not self.on:
            raise Errno(errno.EINVAL)
        self._iommu.check_uncut(iova, last)
        for mapping in list(self._iommu.mappings.within(iova, last)):
            self.report(mapping, address, iova)
            dirty = mapping.dirty
            assert dirty is not None
            dirty.clear()
            self._mark_pins(mapping, dirty)

    def bitmap(self, bitmap: Any, size: int) -> int:
        """Check a caller's bitmap for a range of `size` bytes, and return its address.

        :raises Errno: EINVAL, the bitmap is too small or too large, not accessible, or its page size is not the
            smallest one
        """
        address = int(ffi.cast("uintptr_t", bitmap.data))
        pages = size // (bitmap.pgsize & -bitmap.pgsize or 1)
        if not caller.accessible(address, bitmap.size) or not pages:
            raise Errno(errno.EINVAL)
        if not -(-pages // 64) * 8 <= bitmap.size <= BITMAP_SIZE_MAX or bitmap.pgsize != self._iommu.granule:
            raise Errno(errno.EINVAL)
        return address

    def report(self, mapping: Type1Mapping, bitmap: int, start: int) -> None:
        """Write the dirty pages of a mapping to the caller's bitmap, which starts at the IOVA `start`.

        :raises Errno: EFAULT
        """
        assert mapping.dirty is not None
        if mapping.pinned:
            mapping.dirty.mark_all()
        mapping.dirty.report(bitmap, (mapping.iova - start) // self._iommu.granule)

    def _mark_pins(self, mapping: Type1Mapping, dirty: DirtyPages) -> None:
        # A page that a driver has pinned can be written at any time, so it is always dirty.
        for iova in mapping.pins or ():
            page = (iova - mapping.iova) // self._iommu.granule
            dirty.mark(page, page)
