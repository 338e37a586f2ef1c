# SPDX-License-Identifier: MIT
"""The kernel's choice of an IOVA for a mapping without IOMMU_IOAS_MAP_FIXED_IOVA (iopt_alloc_iova)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from pyvfio.mock.iommufd.area import LAST, Area
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.vfio.mappings import Mappings

_HUGE = 2 << 20
_Fit = Callable[[int, int], "int | None"]
#: limits of the search cache: kinds of mappings, and ranges unmapped since
_KINDS, _FREED = 64, 4096


class _Known:
    """The search cache for one kind of mapping.

    :ivar frontier: no free place is below this IOVA, except in `freed`
    :ivar freed: ranges unmapped since, a heap of (IOVA, last)
    """

    def __init__(self) -> None:
        self.frontier = 0
        self.freed: list[tuple[int, int]] = []


class Places:
    """Finds the lowest free, usable and allowed IOVA, aligned like the memory, so that huge pages can map it.

    The kernel walks all mappings for each search. The mock caches the IOVA below which no place is free.
    """

    def __init__(self, areas: Mappings[Area], page_size: int) -> None:
        self._areas = areas
        self._page_size = page_size
        self._reserved: list[tuple[int, int]] = []
        self._allowed: list[tuple[int, int]] = []
        self._known: dict[tuple[int, int], _Known] = {}

    def limit(self, reserved: list[tuple[int, int]], allowed: list[tuple[int, int]]) -> None:
        """Set the reserved and the allowed ranges, both sorted."""
        # iopt_alloc_iova never chooses the first and the last page.
        lowest, highest = self._page_size, LAST - self._page_size
        self._reserved = reserved
        self._allowed = [(max(first, lowest), min(last, highest)) for first, last in allowed or [(lowest, highest)]]
        self._known.clear()

    def find(self, address: int, size: int, least: int) -> int:
        """Return an IOVA for a mapping.

        :param address: address of the memory
        :param size: bytes
        :param least: the required alignment
        :raises Errno: EOVERFLOW; EINVAL, the memory is not aligned to `least`; ENOSPC
        """
        if not 0 < size < LAST // 2:
            raise Errno(errno.EOVERFLOW)
        alignment = 1 << (size - 1).bit_length()
        if address:
            alignment = min(alignment, address & -address)
        alignment = min(alignment, max(_HUGE, self._page_size))
        if alignment < least:
            raise Errno(errno.EINVAL)
        offset = address % self._page_size

        def fit(start: int, last: int) -> int | None:
            start = (start + alignment - 1 & -alignment) | offset
            return start if start < last and last - start >= size - 1 else None

        # For an alignment below a page the result depends on where a gap begins, so the search cannot start at the
        # frontier.
        found = self._find_known(fit, alignment, size) if alignment >= self._page_size else self._search(fit, 0, LAST)
        if found is None:
            raise Errno(errno.ENOSPC)
        return found

    def freed(self, area: Area) -> None:
        """Note that an area has been unmapped."""
        if not len(self._areas):
            self._known.clear()
        for (size, _), known in self._known.items():
            if area.iova - size < known.frontier:
                heappush(known.freed, (area.iova, area.last))
                if len(known.freed) > _FREED:
                    known.frontier = max(0, known.freed[0][0] - size)
                    known.freed.clear()

    def _find_known(self, fit: _Fit, alignment: int, size: int) -> int | None:
        known = self._known.get((size, alignment))
        if known is None:
            if len(self._known) >= _KINDS:
                self._known.clear()
            known = self._known[size, alignment] = _Known()
        while known.freed:
            iova, last = known.freed[0]
            # A place that has become free overlaps the unmapped range.
            found = self._search(fit, max(0, iova - size + 1), min(last + size - 1, LAST))
            if found is not None:
                return found
            heappop(known.freed)
        found = self._search(fit, known.frontier, LAST)
        if found is not None:
            known.frontier = found
        return found

    def _search(self, fit: _Fit, start: int, last: int) -> int | None:
        """Return the first place between `start` and `last`."""
        for first, end in self._allowed:
            begin = fit(first, end)
            if begin is None:
                continue
            for hole in holes(self._reserved, max(begin, start), min(end, last)):
                for gap in self._gaps(*hole):
                    found = fit(*gap)
                    if found is not None:
                        return found
        return None

    def _gaps(self, start: int, last: int) -> Iterator[tuple[int, int]]:
        while start <= last:
            area = self._areas.first(start, last)
            if area is None:
                yield start, last
                return
            if area.iova > start:
                yield start, area.iova - 1
            start = area.last + 1


def holes(spans: list[tuple[int, int]], start: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the gaps that sorted spans leave between `start` and `last`."""
    for first, end in spans:
        if first > last:
            break
        if first > start:
            yield start, first - 1
        start = max(start, end + 1)
    if start <= last:
        yield start, last
