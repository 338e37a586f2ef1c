# SPDX-License-Identifier: MIT
"""Sizes, ranges and arguments as messages show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyvfio._core.sizes import size as size
from pyvfio.iova import IovaRange, IovaSet

#: arguments that are numbers of bytes
_SIZES = frozenset({"size", "length", "page_size", "bytes"})
#: arguments that are counted or looked up, not addresses
_DECIMAL = frozenset(
    {"count", "data_fd", "depth", "fd", "index", "num_iovas", "row", "start_vector", "vectors", "width"}
)
#: arguments that read better as words
_WORDS = {"by": "by {}", "from": "from {}", "handled": "{} handled", "row": "row {}", "vectors": "{}"}


def span(range_: IovaRange) -> str:
    """Return a range with its last address, as `[0xfd00000000, 0xffffffffff]`."""
    return f"[{range_.start:#x}, {range_.last:#x}]"


def ranges(set_: Iterable[IovaRange], most: int = 8) -> str:
    """Return the first few ranges, separated by commas, or `none` without ranges."""
    all_ = list(set_)
    text = ", ".join(span(range_) for range_ in all_[:most]) or "none"
    return text + (f", and {len(all_) - most} more" if len(all_) > most else "")


def arguments(values: Mapping[str, object]) -> str:
    """Return the named arguments of a call as text: `iova=0x100000, size=2 MiB`. Arguments that are None are left out."""
    return ", ".join(
        _WORDS.get(name, f"{name}={{}}").format(_shown(name, value))
        for name, value in values.items()
        if value is not None
    )


def _shown(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        if name in _SIZES and value >= 0:
            return size(value) if value >= 1024 else str(value)
        return str(value) if name in _DECIMAL or -10 < value < 10 else hex(value)
    if isinstance(value, IovaRange):
        return span(value)
    if isinstance(value, (list, tuple, IovaSet)) and all(isinstance(one, IovaRange) for one in value):
        return ranges(value)
    return str(value)
