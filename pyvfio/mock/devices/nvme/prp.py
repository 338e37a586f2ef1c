# SPDX-License-Identifier: MIT
"""Physical region pages (PRP), which describe the memory of an NVMe command."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from pyvfio.mock.devices.nvme.status import CommandError, Status


def pieces(first: int, second: int, size: int, page: int, read: Callable[[int, int], bytes]) -> list[tuple[int, int]]:
    """Return IOVA and size of each piece of a command's memory, in order. Contiguous pages are one piece.

    :param first: PRP entry 1, with any offset in its page
    :param second: PRP entry 2: the second page, or a list of all further pages
    :param size: bytes of the memory
    :param page: the controller's page size
    :param read: function that reads a PRP list, by IOVA and size
    :raises CommandError: PRP_OFFSET_INVALID
    """
    found: list[tuple[int, int]] = []
    for iova, count in _pages(first, second, size, page, read):
        if found and sum(found[-1]) == iova:
            found[-1] = (found[-1][0], found[-1][1] + count)
        else:
            found.append((iova, count))
    return found


def _pages(
    first: int, second: int, size: int, page: int, read: Callable[[int, int], bytes]
) -> Iterator[tuple[int, int]]:
    if first % 4:
        raise CommandError(Status.PRP_OFFSET_INVALID)
    count = min(size, page - first % page)
    yield first, count
    left = size - count
    for iova in [second] if left <= page else _listed(second, -(-left // page), page, read):
        if not left:
            return
        if iova % page:
            raise CommandError(Status.PRP_OFFSET_INVALID)
        count = min(left, page)
        yield iova, count
        left -= count


def _listed(at: int, count: int, page: int, read: Callable[[int, int], bytes]) -> Iterator[int]:
    """Yield the entries of a list. If more are needed, the last entry in a page points to the next page of the list."""
    if at % 8:
        raise CommandError(Status.PRP_OFFSET_INVALID)
    while count:
        room = (page - at % page) // 8
        here = min(room, count)
        entries = struct.unpack(f"<{here}Q", read(at, 8 * here))
        if count <= room:
            yield from entries
            return
        yield from entries[:-1]
        count -= here - 1
        at = entries[-1]
        # Each further page of the list has more than one entry, so that even a list that points to itself ends.
        if at % page:
            raise CommandError(Status.PRP_OFFSET_INVALID)
