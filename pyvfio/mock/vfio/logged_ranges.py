# SPDX-License-Identifier: MIT
"""Combining the ranges of DMA_LOGGING_START as the kernel's drivers do.

This follows the kernel, and shares no code with the library.
"""

from __future__ import annotations

import itertools

from pyvfio.iova import IovaRange


def combine(ranges: list[IovaRange], most: int) -> list[IovaRange]:
    """Close the smallest gap, the lowest of equal ones, until `most` ranges are left (vfio_combine_iova_ranges)."""
    combined = sorted(ranges)
    while len(combined) > most:
        gaps = [after.start - before.last for before, after in itertools.pairwise(combined)]
        at = gaps.index(min(gaps))
        combined[at : at + 2] = [IovaRange(combined[at].start, combined[at + 1].last)]
    return combined


def order_base_2(size: int) -> int:
    """Return log2 of a size, rounded up, as the kernel's order_base_2() does."""
    order = 0
    while 1 << order < size:
        order += 1
    return order
