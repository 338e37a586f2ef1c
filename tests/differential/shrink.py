# SPDX-License-Identifier: MIT
"""Shrink episodes on which two kernels disagree.

The real kernel runs in a machine that starts slowly, so each round starts it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.differential.compare import Disagreement, disagreements
from tests.differential.steps import Answer, Episode

#: Number of rounds. Each round starts a machine.
ROUNDS = 4


def shrunk(
    episodes: list[Episode],
    machine: Callable[[list[Episode]], list[list[Answer]]],
    mock: Callable[[Episode], list[Answer]],
) -> Iterator[tuple[Episode, Disagreement]]:
    """Yield shorter versions of the episodes that still have a disagreement, each with that disagreement."""
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
    """Yield the episode without one part: for parts of decreasing size, at every position."""
    size = len(episode) // 2
    while size:
        for start in range(0, len(episode), size):
            if rest := episode[:start] + episode[start + size :]:
                yield rest
        size //= 2
