# SPDX-License-Identifier: MIT
"""Sizes as people read them."""

from __future__ import annotations

_UNITS = ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"))


def size(bytes_: int) -> str:
    """Return a size in the largest unit from KiB on in which it is a whole number, as `4 MiB`; in hex if there is no such unit."""
    for shift, unit in _UNITS:
        if bytes_ >= 1 << shift and not bytes_ & ((1 << shift) - 1):
            return f"{bytes_ >> shift} {unit}"
    return f"{bytes_} bytes" if 0 <= bytes_ < 1024 else f"{bytes_:#x} bytes"


def about(bytes_: int) -> str:
    """Return a size to four digits, in the largest unit that it has one of, as `1.5 GiB`."""
    for shift, unit in _UNITS:
        if bytes_ >= 1 << shift:
            return f"{bytes_ / (1 << shift):.4g} {unit}"
    return f"{bytes_} bytes"
