"""The mock answers as a real kernel did: every byte, of every step that is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import replay
from compare import disagreements, figures
from steps import load

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json.gz"))


@pytest.mark.parametrize("file", RECORDED, ids=lambda path: path.name.partition(".")[0])
def test_the_mock_answers_as_the_kernel_did(file: Path) -> None:
    record = load(file)
    with replay.on_mock(record["devices"], record["profile"]) as replayer:
        got = [replayer.episode(episode) for episode in record["episodes"]]
    found = disagreements(record["episodes"], record["answers"], got)
    print(figures(record["episodes"], record["answers"]))
    assert not found, "\n".join(map(str, found))


def test_something_is_recorded() -> None:
    assert RECORDED
