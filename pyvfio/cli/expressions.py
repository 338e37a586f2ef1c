# SPDX-License-Identifier: MIT
"""Numbers and registers in the lines of `run`: 0x10, 64K, $buffer+0x100, 0x20.w, 0x1:0x3."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Mapping

from pyvfio.cli import numbers
from pyvfio.cli.call import UsageError
from pyvfio.cli.pci_registers import WIDTHS

_TERM = re.compile(r"\s*([+-]?)\s*(\$[A-Za-z_?][A-Za-z0-9_]*|[0-9][0-9A-Za-z_]*)\s*")
_U64_LAST = 2**64 - 1


def evaluate(text: str, names: Mapping[str, int], what: str = "a number") -> int:
    """Return the value of a sum of numbers and names.

    :param names: the values of $NAME
    :param what: the kind of value that is expected, for the message
    :raises UsageError: the text is malformed, or a name is not known
    """
    value, at = 0, 0
    while at < len(text):
        found = _TERM.match(text, at)
        if found is None or (at and not found[1]):
            raise UsageError(f"{text!r} is not {what}: write 4096, 0x1000, 64K, or $name+0x10")
        term = _term(found[2], names)
        value += -term if found[1] == "-" else term
        at = found.end()
    if not text.strip():
        raise UsageError(f"{what} is missing")
    if not 0 <= value <= _U64_LAST:
        raise UsageError(f"{text} is {value}, outside of 64 bits")
    return value


def _term(text: str, names: Mapping[str, int]) -> int:
    if text.startswith("$"):
        if text[1:] not in names:
            known = ", ".join(f"${name}" for name in names) or "none yet"
            raise UsageError(f"{text} is not known here; there are: {known}")
        return names[text[1:]]
    try:
        return numbers.number(text)
    except ArgumentTypeError as error:
        raise UsageError(str(error)) from None


def register(text: str, names: Mapping[str, int]) -> tuple[int, int]:
    """Return the offset and the width in bytes of OFFSET[.WIDTH]; the width is 4 unless .b, .w, .l or .q is given.

    :raises UsageError: it is malformed
    """
    offset, dot, letter = text.partition(".")
    if dot and letter.lower() not in WIDTHS:
        raise UsageError(f"{text!r}: the width is .b, .w, .l or .q, for 8, 16, 32 or 64 bits")
    return evaluate(offset, names, "an offset"), WIDTHS[letter.lower()] if dot else 4


def masked(text: str, names: Mapping[str, int], width: int) -> tuple[int, int | None]:
    """Return the value and the mask of VALUE[:MASK]; without a mask it is None.

    :param width: bytes of the register
    :raises UsageError: it is malformed, or does not fit the width
    """
    value_text, colon, mask_text = text.partition(":")
    value = evaluate(value_text, names, "a value")
    mask = evaluate(mask_text, names, "a mask") if colon else None
    for name, number in (("value", value), ("mask", mask)):
        if number is not None and number >> 8 * width:
            raise UsageError(f"the {name} {number:#x} does not fit {8 * width} bits")
    return value, mask


def seconds(text: str) -> float:
    """Return a time in seconds.

    :raises UsageError: it is not a number of seconds
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"{text!r} is not a time: write seconds, such as 0.5")
    return value
