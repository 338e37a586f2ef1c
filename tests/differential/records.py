# SPDX-License-Identifier: MIT
"""The recordings, and their replay on the mock."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.differential import reached, replay
from tests.differential.steps import Answer, load

FILES = sorted((Path(__file__).parent / "recorded").glob("*.json.gz"))


class Replayed(NamedTuple):
    """
    :ivar record: what is recorded: profile, devices, episodes, answers
    :ivar got: the mock's answers
    :ivar places: where it failed: files and lines
    """

    record: dict[str, Any]
    got: list[list[Answer]]
    places: set[tuple[str, int]]


@cache
def replayed(file: Path) -> Replayed:
    """Return the episodes of a file, replayed on the mock, once for all tests."""
    record = load(file)
    with (
        reached.noted() as places,
        replay.on_mock(record["devices"], record["profile"], record.get("spaces", ())) as replayer,
    ):
        got = [replayer.episode(episode) for episode in record["episodes"]]
    return Replayed(record, got, places)
