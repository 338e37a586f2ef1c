# SPDX-License-Identifier: MIT
"""The usable IOVAs of a type1 container."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pyvfio.iova import IovaRange, IovaSet
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.vfio.group import Group
    from pyvfio.mock.vfio.mappings import Mappings
    from pyvfio.mock.vfio.type1.mapping import Type1Mapping

_WHOLE = IovaRange(0, 2**64 - 1)


class Usable:
    """The usable IOVAs.

    :ivar ranges: the usable ranges, ascending; empty until the first group with an IOMMU: all IOVAs are usable then
    """

    def __init__(self) -> None:
        self.ranges: tuple[IovaRange, ...] = ()

    def allows(self, iova: int, last: int) -> bool:
        ranges = self.ranges
        return not ranges or any(range_.start <= iova and last <= range_.last for range_ in ranges)

    def narrowed(self, aperture: IovaRange, group: Group, mappings: Mappings[Type1Mapping]) -> tuple[IovaRange, ...]:
        """Return the usable ranges after a group with this aperture is added.

        :raises Errno: EINVAL, a mapping would be outside them, or no range is left
        """
        if self.ranges:
            last = self.ranges[-1].last
            if aperture.last < last and mappings.first(aperture.last + 1, last) is not None:
                raise Errno(errno.EINVAL)
        reserved = _reserved([group])
        if any(mappings.first(range_.start, range_.last) is not None for range_ in reserved):
            raise Errno(errno.EINVAL)
        usable = IovaSet([aperture]) - reserved
        if self.ranges:
            usable &= IovaSet(self.ranges)
        if not usable:
            raise Errno(errno.EINVAL)
        return tuple(usable)

    def refresh(self, groups: list[Group]) -> None:
        """Recompute the ranges after a group with an IOMMU has left; `groups` are the remaining ones.

        After the last group the list is not empty again, but one range of all 64 bits (vfio_iommu_aper_expand).
        """
        if self.ranges:
            ends = IovaRange(self.ranges[0].start, self.ranges[-1].last) if groups else _WHOLE
            if usable := IovaSet([ends]) - _reserved(groups):
                self.ranges = tuple(usable)


def _reserved(groups: Iterable[Group]) -> IovaSet:
    return IovaSet(
        IovaRange(region.start, region.last)
        for group in groups
        for region in group.reserved
        if region.type != "direct-relaxable"
    )
