# SPDX-License-Identifier: MIT
"""The mock gives the same answers as a real kernel: every byte of every recorded step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.differential.compare import disagreements, figures
from tests.differential.records import FILES, replayed


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name.partition(".")[0])
def test_the_mock_answers_as_the_kernel_did(file: Path) -> None:
    record, got, _, left = replayed(file)
    found = disagreements(record["episodes"], record["answers"], got)
    print(figures(record["episodes"], record["answers"]))
    assert not found, "\n".join(map(str, found))
    assert not left, f"pages stay pinned: {left}"


def test_something_is_recorded() -> None:
    assert FILES
