"""The recorded episodes, with what a real kernel answered, and the mock's answers to them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import reached
import replay
from steps import Answer, load

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json.gz"))


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
def _replayed(file: Path) -> Replayed:
    record = load(file)
    with reached.noted() as places, replay.on_mock(record["devices"], record["profile"]) as replayer:
        got = [replayer.episode(episode) for episode in record["episodes"]]
    return Replayed(record, got, places)


@pytest.fixture
def replayed() -> Callable[[Path], Replayed]:
    """What is in a file, replayed on the mock, once for all tests."""
    return _replayed
