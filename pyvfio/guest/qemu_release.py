# SPDX-License-Identifier: MIT
"""The releases of QEMU that the computations know, as `version=` takes them.

A version is a text such as "10.2" or "10.2.2". As far as is known, the results depend only on a release's first two numbers; stable
updates were compared where a docstring names three numbers. The sources of 7.2, 10.0.13 and 10.2.2 were read. 8.0 to 9.2 are known from
the commits and pull requests that are named, 11.0 and 11.1 from those of January 2026 and from a running 11.1.3.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pyvfio._core import arguments

__all__ = ["NEWEST", "Release", "release"]

NEWEST = "11.1"
"""The newest QEMU that is known, which every `version=` is by default."""
_OLDEST = (1, 7)


class Release(NamedTuple):
    """A release of QEMU; compares with pairs: `release("10.2.2") >= (10, 2)`."""

    major: int
    minor: int
    micro: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.micro}" if self.micro else f"{self.major}.{self.minor}"


def release(version: str = NEWEST, since: tuple[int, int] = _OLDEST, name: str = "version") -> Release:
    """Return the release that a version means.

    :param version: two or three numbers with dots between them
    :param since: the first release that has the feature in question
    :param name: the argument's name, for messages
    :raises ValueError: not a version, older than `since`, or newer than :data:`NEWEST`
    """
    arguments.string(version, name)
    first = arguments.every(arguments.u32)(since, "since")
    if len(first) != 2:
        raise ValueError(f"since must have two numbers, not {len(first)}")
    found = re.fullmatch(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?", version, re.ASCII)
    if not found:
        raise ValueError(f'{name} must be a QEMU version such as "{NEWEST}", not {version!r}')
    made = Release(int(found[1]), int(found[2]), int(found[3] or 0))
    newest = tuple(map(int, NEWEST.split(".")))
    if not first <= made[:2] <= newest:
        raise ValueError(
            f"{name} must be {first[0]}.{first[1]} to {NEWEST}, the QEMU versions that are known, not {version}"
        )
    return made
