# SPDX-License-Identifier: MIT
"""A page table of an IOMMU (struct iommu_domain), which translates the DMA of the devices attached to it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyvfio.mock.iommufd import rw
from pyvfio.mock.iommufd.iopt import IoPageTable
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.space import Space

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.area import Area
    from pyvfio.mock.iommufd.driver import Driver, Shape


class Domain(Space):
    """The mappings of an IOAS as an IOMMU sees them.

    :ivar tracks: the page table supports dirty tracking
    :ivar tracking: dirty tracking is enabled
    """

    def __init__(self, driver: Driver, shape: Shape, table: IoPageTable, processor_page: int, *, tracks: bool) -> None:
        self.table = table
        self._driver = driver
        self.page_sizes, self.aperture = shape
        self.tracks = tracks
        self._page_size = self.page_sizes & -self.page_sizes
        self._processor_page = processor_page
        self.tracking = False
        # Mapping -> numbers of its dirty pages (IOVA / page size).
        self._dirty: dict[Area, set[int]] = {}

    def writable(self) -> Iterator[tuple[int, int]]:
        return rw.writable(self.table)

    def read(self, iova: int, size: int) -> bytes:
        return rw.read(self.table, iova, size)

    def write(self, iova: int, data: bytes) -> None:
        for area, start, last in rw.write(self.table, iova, data):
            if self.tracking:
                self._mark(area, start, last)

    def check(self, area: Area) -> None:
        """Check that the IOMMU can map an area.

        :raises Errno: EINVAL
        """
        if not area.prot and not self._driver.maps_nothing:
            raise Errno(errno.EINVAL)

    # Dirty bits.

    def mark(self, iova: int) -> None:
        """Mark a page dirty, as a write of a device does; do nothing if it is not mapped."""
        area = self.table.areas.at(iova)
        if area is not None:
            self._mark(area, iova, iova)

    def _mark(self, area: Area, start: int, last: int) -> None:
        # A whole CPU page is one entry of the page table, with one dirty bit.
        page = self._processor_page
        if (area.iova - area.at) % page == 0:
            start, last = max(start & -page, area.iova), min(last | page - 1, area.last)
        pages = range(start // self._page_size, last // self._page_size + 1)
        self._dirty.setdefault(area, set()).update(pages)

    def track(self, on: bool) -> None:
        """Enable or disable dirty tracking.

        :raises Errno: EOPNOTSUPP
        """
        if not self.tracks:
            raise Errno(errno.EOPNOTSUPP)
        if on:
            self._dirty.clear()
        self.tracking = on

    def dirty(self, start: int, last: int, *, clear: bool) -> Iterator[tuple[int, int]]:
        """Yield the dirty pages of a range as (IOVA, size), up to the first gap in the mappings."""
        size = self._page_size
        for area, first, end in self.table.contiguous(start, last):
            pages = self._dirty.get(area)
            if not pages:
                continue
            found = [page for page in pages if first <= page * size <= end]
            if clear:
                pages.difference_update(found)
            for page in sorted(found):
                yield page * size, size

    def unmapped(self, area: Area) -> None:
        """Discard the dirty bits of a mapping that has been unmapped."""
        self._dirty.pop(area, None)
