# SPDX-License-Identifier: MIT
"""Lanes, which select the tests of a run, and the suites that need no virtual machine."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Lane(enum.IntEnum):
    """A lane: a selection of the tests. Each lane includes every lane before it."""

    QUICK = 0
    FULL = 1
    SLOW = 2

    @classmethod
    def parse(cls, text: str) -> Lane:
        """Return the lane called `text`.

        :raises ValueError: there is no such lane
        """
        try:
            return cls[text.upper()]
        except KeyError:
            names = ", ".join(lane.name.lower() for lane in cls)
            raise ValueError(f"lane {text!r} does not exist; the lanes are {names}") from None

    def __str__(self) -> str:
        return self.name.lower()


class Suite(NamedTuple):
    """Checks that run on the host.

    :ivar minutes: its duration on an idle machine with two processors
    :ivar pytest: arguments of pytest, if the suite consists of tests
    :ivar commands: otherwise: programs of the virtual environment, each of which must return 0
    :ivar beside: the suite mostly waits, so it runs in parallel with the other suites
    :ivar needs_kernel: the suite waits until scripts/build_kernel has built the newest kernel
    """

    name: str
    lane: Lane
    minutes: float
    pytest: tuple[str, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()
    beside: bool = False
    needs_kernel: bool = False


def suites(data: Mapping[str, Any]) -> Iterator[Suite]:
    """Yield the suites of tests/matrix.toml.

    :raises ValueError: a suite has neither tests nor commands, or has both
    """
    for entry in data.get("suites", ()):
        suite = Suite(
            name=entry["name"],
            lane=Lane.parse(entry["lane"]),
            minutes=entry["minutes"],
            pytest=tuple(entry.get("pytest", ())),
            commands=tuple(tuple(command) for command in entry.get("commands", ())),
            beside=entry.get("beside", False),
            needs_kernel=entry.get("needs_kernel", False),
        )
        if bool(suite.pytest) == bool(suite.commands):
            raise ValueError(f"suite {suite.name}: give either `pytest` or `commands`")
        yield suite
