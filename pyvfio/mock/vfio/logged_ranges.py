# SPDX-License-Identifier: MIT
"""The ranges of a DMA_LOGGING_START as the kernel's drivers take them, written after the kernel and not after :mod:`pyvfio.guest`."""

from __future__ import annotations

import itertools

from pyvfio.iova import IovaRange


def combine(ranges: list[IovaRange], most: int) -> list[IovaRange]:
    """Close the smallest gap, of equal ones the lowest, until there are no more than `most` ranges: vfio_combine_iova_ranges()."""
    combined = sorted(ranges)
    while len(combined) > most:
        gaps = [after.start - before.last for before, after in itertools.pairwise(combined)]
        at = gaps.index(min(gaps))
        combined[at : at + 2] = [IovaRange(combined[at].start, combined[at + 1].last)]
    return combined


def order_base_2(size: int) -> int:
    """The kernel's order_base_2(): log2 of a size, rounded up."""
    order = 0
    while 1 << order < size:
        order += 1
    return order
