# SPDX-License-Identifier: MIT
"""Sizes as people read them."""

from __future__ import annotations

_UNITS = ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"))


#: a whole number of a unit that is larger than this is harder to read than four digits of a larger unit
_READABLE = 1 << 14


def size(bytes_: int) -> str:
    """Return a size in the largest unit from KiB on in which it is a whole number, as `4 MiB`; in hex if there is no such unit.

    If that whole number is too large to read, the size is rounded: `56.22 TiB` for 58947593 MiB.
    """
    for shift, unit in _UNITS:
        if bytes_ >= 1 << shift and not bytes_ & ((1 << shift) - 1):
            return f"{bytes_ >> shift} {unit}" if bytes_ >> shift <= _READABLE else about(bytes_)
    return about(bytes_) if 0 <= bytes_ < 1024 else f"{bytes_:#x} bytes"


def about(bytes_: int) -> str:
    """Return a size to four digits, in the largest unit that it has one of, as `1.5 GiB`."""
    for shift, unit in _UNITS:
        if bytes_ >= 1 << shift:
            return f"{bytes_ / (1 << shift):.4g} {unit}"
    return "1 byte" if bytes_ == 1 else f"{bytes_} bytes"
