# SPDX-License-Identifier: MIT
"""Compare two kernels' answers to the same episodes."""

from __future__ import annotations

import errno
from collections import Counter
from typing import NamedTuple

from tests.differential.steps import Answer, Episode, Step

#: The value of VFIO_REGION_INFO_FLAG_MMAP.
_MMAP = 4


class Disagreement(NamedTuple):
    """The first step of an episode that two kernels answer differently. Later steps of the episode are not compared."""

    episode: int
    step: int
    what: Step
    expected: Answer
    got: Answer

    def __str__(self) -> str:
        return f"episode {self.episode}, step {self.step}: {described(self.what)}\n  kernel {self.expected}\n  mock   {self.got}"


def disagreements(episodes: list[Episode], expected: list[list[Answer]], got: list[list[Answer]]) -> list[Disagreement]:
    found = []
    for number, (steps, ours, theirs) in enumerate(zip(episodes, expected, got, strict=True)):
        for index, (step, one, other) in enumerate(zip(steps, ours, theirs, strict=True)):
            if differ(step, one, other):
                found.append(Disagreement(number, index, step, one, other))
                break
    return found


def differ(step: Step, kernel: Answer, mock: Answer) -> bool:
    """Whether a kernel and the mock answer a step differently.

    One difference is intended: the mock does not report VFIO_REGION_INFO_FLAG_MMAP for registers, because it could not
    see stores there.
    """
    if kernel != mock and step.get("request") == "VFIO_DEVICE_GET_REGION_INFO" and "out" in kernel and "out" in mock:
        data = bytearray.fromhex(kernel["out"])
        data[4] &= ~_MMAP
        return {**kernel, "out": data.hex()} != mock
    return kernel != mock


def described(step: Step) -> str:
    return ", ".join(f"{key}={value}" for key, value in step.items() if key != "look")


class Figures(NamedTuple):
    """Statistics of episodes and their answers.

    :ivar calls: number of calls, by name
    :ivar errnos: number of failures, by call and errno
    """

    steps: int
    calls: Counter[str]
    errnos: Counter[tuple[str, str]]

    def __str__(self) -> str:
        errnos = {name for _, name in self.errnos}
        return (
            f"{self.steps} steps, {len(self.calls)} distinct calls, {len(errnos)} distinct errnos "
            f"({' '.join(sorted(errnos))}), {len(self.errnos)} pairs of call and errno"
        )


def figures(episodes: list[Episode], answers: list[list[Answer]]) -> Figures:
    calls: Counter[str] = Counter()
    errnos: Counter[tuple[str, str]] = Counter()
    for steps, results in zip(episodes, answers, strict=True):
        for step, answer in zip(steps, results, strict=True):
            name = str(step.get("request", step["do"]))
            calls[name] += 1
            if answer["r"] < 0:
                errnos[name, errno.errorcode.get(-answer["r"], str(answer["r"]))] += 1
    return Figures(sum(calls.values()), calls, errnos)
