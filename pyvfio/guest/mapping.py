"""What the kernel will answer to a DMA mapping, worked out beforehand, by IOMMU backend and by the era of the kernel.

The answers are errnos, 0 for success, in the order in which the kernel's own checks run: those of 7.3
(drivers/vfio/vfio_iommu_type1.c, drivers/iommu/iommufd/), and drivers/iommu/intel/iommu.c as it was before 5.4.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from pyvfio.iova import IovaRange, IovaSet

_U64 = 2**64


class Era(IntEnum):
    """Kernels that answer differently."""

    BEFORE_5_4 = 0
    """type1 does not look at reserved regions: a map into them succeeds and the device's access fails later, unless the
    IOMMU driver itself refuses (Intel: EFAULT beyond its width)."""
    SINCE_5_4 = 1
    """type1 checks the list of usable ranges first: EINVAL."""
    CHECKED_SUMS = 2
    """A wrapping range is EOVERFLOW instead of EINVAL in type1 (series of October 2025; so on 7.3.4)."""


class Space(NamedTuple):
    """What is known of an address space when something is to be mapped."""

    usable: Sequence[IovaRange] | IovaSet | None = None
    """What the kernel reports as usable; None or empty if it reports nothing (emulated devices only): then all is."""
    mapped: IovaSet = IovaSet()
    """What is mapped already."""
    page_sizes: int = 1 << 12
    """The IOMMU's page sizes, a mask; under iommufd the lowest bit is the IOAS's alignment."""
    entries_left: int | None = None
    """Mappings that may still be made (VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 65535 to begin with); None: not limited."""
    intel_width: int | None = None
    """The Intel IOMMU's width, for kernels before 5.4."""


def type1_map(
    space: Space, iova: int, size: int, *, read: bool = True, write: bool = True, era: Era = Era.CHECKED_SUMS
) -> int:
    """The errno of VFIO_IOMMU_MAP_DMA on a type1 container.

    EINVAL: no permission, misaligned, zero size, or not whole within *one* of the usable ranges; EOVERFLOW: wraps;
    EEXIST: overlaps a mapping; ENOSPC: no entries left.
    """
    page = space.page_sizes & -space.page_sizes
    if not size:
        return errno.EINVAL
    if iova + size > _U64:
        return errno.EOVERFLOW if era >= Era.CHECKED_SUMS else errno.EINVAL
    if not (read or write) or (iova | size) & (page - 1):
        return errno.EINVAL
    wanted = IovaRange.of(iova, size)
    if space.mapped.overlaps(wanted):
        return errno.EEXIST
    if space.entries_left == 0:
        return errno.ENOSPC
    if era >= Era.SINCE_5_4:
        if space.usable and not any(each.start <= iova and wanted.last <= each.last for each in space.usable):
            return errno.EINVAL
        return 0
    if space.intel_width is not None:
        return intel_map(space.intel_width, iova, size)
    return 0


def intel_map(width: int, iova: int, size: int) -> int:
    """The errno of the Intel IOMMU driver's own map: EFAULT beyond its width (intel_iommu_map, 2014 to about 6.x).

    The kernel log says "iommu width (N) is not sufficient for the mapped address".
    """
    return errno.EFAULT if iova + size > 1 << width else 0


def iommufd_map(space: Space, iova: int, length: int, *, read: bool = True, write: bool = True) -> int:
    """The errno of IOMMU_IOAS_MAP with a fixed IOVA (Linux 6.2 on).

    EINVAL: no permission, misaligned, zero length, or meets a reserved region; EOVERFLOW: wraps; EEXIST: already mapped.

    Here ``space.usable`` is the complement of the IOAS's reserved regions; unlike type1's, a map may span neighbours.
    """
    alignment = space.page_sizes & -space.page_sizes
    if iova >= _U64 - 1 or length >= _U64 - 1:
        return errno.EOVERFLOW
    if not (read or write) or not length or (iova | length) & (alignment - 1):
        return errno.EINVAL
    if iova + length > _U64:
        return errno.EOVERFLOW
    wanted = IovaRange.of(iova, length)
    if space.usable and wanted not in IovaSet(space.usable):
        return errno.EINVAL
    if space.mapped.overlaps(wanted):
        return errno.EEXIST
    return 0
