# SPDX-License-Identifier: MIT
"""Reads and writes of a device through the mappings of an IOAS."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyvfio.mock.iommufd.area import LAST, READ, WRITE
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.area import Area
    from pyvfio.mock.iommufd.iopt import IoPageTable


def accessible(table: IoPageTable, iova: int, size: int, prot: int) -> Iterator[tuple[Area, int, int]]:
    """Yield the mappings of a range, each with its part of the range.

    An error is raised after the parts before it were yielded.

    :raises Errno: EINVAL, EOVERFLOW; ENOENT, not mapped; EPERM, the mapping forbids the access
    """
    if not size:
        raise Errno(errno.EINVAL)
    last = iova + size - 1
    if last > LAST:
        raise Errno(errno.EOVERFLOW)
    end = iova - 1
    for area, start, end in table.contiguous(iova, last):
        if area.closing:
            raise Errno(errno.EINVAL)
        if not area.prot & prot:
            raise Errno(errno.EPERM)
        yield area, start, end
    if end != last:
        raise Errno(errno.ENOENT)


def writable(table: IoPageTable) -> Iterator[tuple[int, int]]:
    """Return the mappings that a device may write, as (start, last)."""
    return ((area.iova, area.last) for area in table.areas if area.prot & WRITE)


def read(table: IoPageTable, iova: int, size: int, *, copied: bool = False) -> bytes:
    """Read through the mappings.

    :param copied: the kernel copies for a device without an IOMMU, which it cannot do from a dma-buf
    :raises Errno: that of :func:`accessible`, or EFAULT
    """
    data = b""
    for area, start, last in accessible(table, iova, size, READ):
        if copied and area.pages.is_dma_buf:
            raise Errno(errno.EINVAL)
        data += area.pages.read(area.offset(start), last - start + 1)
    return data


def write(table: IoPageTable, iova: int, data: bytes, *, copied: bool = False) -> Iterator[tuple[Area, int, int]]:
    """Write through the mappings, and yield each part after it is written; `copied` as for :func:`read`.

    :raises Errno: that of :func:`accessible`, or EFAULT
    """
    for area, start, last in accessible(table, iova, len(data), WRITE):
        if copied and area.pages.is_dma_buf:
            raise Errno(errno.EINVAL)
        area.pages.write(area.offset(start), data[start - iova : last + 1 - iova])
        yield area, start, last
