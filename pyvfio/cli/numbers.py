# SPDX-License-Identifier: MIT
"""Numbers as users type them: 4096, 0x1000, 64K, 2M."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError

from pyvfio.iova import IovaRange

_SIZE = re.compile(r"(0x[0-9a-f]+|[0-9]+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
#: the size of the page that stands for an address without a size
_PAGE = 4096
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def number(text: str) -> int:
    """Return an integer: decimal, with 0x, 0o or 0b, or with K, M, G or T for powers of 1024.

    :raises ArgumentTypeError: it is not a number
    """
    if text[-1:].lower() in _SHIFTS and _SIZE.fullmatch(text):
        return size(text)
    try:
        return int(text.replace("_", ""), 0)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number: write 4096, 0x1000, or 64K") from None


def size(text: str) -> int:
    """Return a number of bytes, with K, M, G or T for powers of 1024.

    :raises ArgumentTypeError: it is not a size, or zero
    """
    found = _SIZE.fullmatch(text.strip())
    value = int(found[1], 0) << _SHIFTS[found[2].lower()] if found and not re.fullmatch(r"0[0-9]+", found[1]) else 0
    if not value:
        raise ArgumentTypeError(f"{text!r} is not a size: write 4096, 0x1000, 64K, 2M, 1G or 1T")
    return value


def iova_range(text: str) -> IovaRange:
    """Return a range that is written START-LAST or START+SIZE; an address alone, as a kernel log has it, stands for its page of 4 KiB.

    :raises ArgumentTypeError: it is not a range
    """
    for sign in ("+", "-"):
        start, found, rest = text.partition(sign)
        if found:
            first = number(start)
            if sign == "-" and number(rest) < first:
                raise ArgumentTypeError(f"{text!r}: the last address is below the first; for a size write START+SIZE")
            try:
                return IovaRange.of(first, size(rest)) if sign == "+" else IovaRange(first, number(rest))
            except ValueError as error:
                raise ArgumentTypeError(str(error)) from None
    try:
        return IovaRange.of(number(text) & -_PAGE, _PAGE)
    except (ArgumentTypeError, ValueError):
        raise ArgumentTypeError(
            f"{text!r} is not a range: write START+SIZE, such as 0x100000+2M, START-LAST, or an address"
        ) from None
