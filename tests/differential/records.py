# SPDX-License-Identifier: MIT
"""The recordings, and their replay on the mock."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tests.differential import reached, replay
from tests.differential.steps import Answer, load

FILES = sorted((Path(__file__).parent / "recorded").glob("*.json.gz"))


class Replayed(NamedTuple):
    """A recording that was replayed on the mock.

    :ivar record: the recording: profile, devices, episodes, answers
    :ivar got: the mock's answers
    :ivar places: files and lines at which the mock raised an Errno
    :ivar left: number of an episode -> pages that stayed pinned after it
    """

    record: dict[str, Any]
    got: list[list[Answer]]
    places: set[tuple[str, int]]
    left: dict[int, int]


def replayed(file: Path) -> Replayed:
    """Return the episodes of a file, replayed on the mock.

    Each test replays for itself: what is kept for another would hide from scripts/mutants which lines a test executes,
    and those that compare every answer with the kernel's would never run.
    """
    record = load(file)
    with (
        reached.noted() as places,
        replay.on_mock(record["devices"], record["profile"], record.get("spaces", ())) as replayer,
    ):
        got = [replayer.episode(episode) for episode in record["episodes"]]
    return Replayed(record, got, places, replayer.left)
