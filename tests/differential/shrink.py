# SPDX-License-Identifier: MIT
"""Shrinking episodes on which two kernels disagree. The real one is a machine that takes long to start, so each round asks it once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.differential.compare import Disagreement, disagreements
from tests.differential.steps import Answer, Episode

#: rounds, each of which is a machine's start
ROUNDS = 4


def shrunk(
    episodes: list[Episode],
    machine: Callable[[list[Episode]], list[list[Answer]]],
    mock: Callable[[Episode], list[Answer]],
) -> Iterator[tuple[Episode, Disagreement]]:
    """The episodes with as few steps as a disagreement takes, as far as some rounds bring it, each with what it then is."""
    best = episodes
    for _ in range(ROUNDS):
        candidates = [list(shorter(episode)) for episode in best]
        flat = [one for several in candidates for one in several]
        found = {one.episode: one for one in disagreements(flat, machine(flat), [mock(episode) for episode in flat])}
        at = 0
        following = []
        for episode, several in zip(best, candidates, strict=True):
            still = [flat[at + n][: found[at + n].step + 1] for n in range(len(several)) if at + n in found]
            following.append(min([*still, episode], key=len))
            at += len(several)
        if following == best:
            break
        best = following
    for one in disagreements(best, machine(best), [mock(episode) for episode in best]):
        yield best[one.episode][: one.step + 1], one


def shorter(episode: Episode) -> Iterator[Episode]:
    """The episode without each of its parts, of every size."""
    size = len(episode) // 2
    while size:
        for start in range(0, len(episode), size):
            if rest := episode[:start] + episode[start + size :]:
                yield rest
        size //= 2
