# SPDX-License-Identifier: MIT
"""Flags by name: the constants of the ABI that have one bit each."""

from __future__ import annotations

from functools import cache

from pyvfio._abi import lib


@cache
def _bits(prefix: str) -> dict[int, str]:
    """Return bit -> name, from the constants that begin with the prefix and have a single bit; of several names the shortest."""
    found: dict[int, str] = {}
    for name in sorted(dir(lib), key=len, reverse=True):
        if (
            name.startswith(prefix)
            and isinstance(value := getattr(lib, name), int)
            and value > 0
            and not value & (value - 1)
        ):
            found[value] = name.removeprefix(prefix)
    return found


def names(value: int, prefix: str) -> str:
    """Return the flags that are set, as `RESET|PCI`; those without a name in hex, and `0` for none."""
    known = _bits(prefix)
    found = [known[bit] for bit in sorted(known) if value & bit]
    if rest := value & ~sum(known):
        found.append(f"{rest:#x}")
    return "|".join(found) or "0"
