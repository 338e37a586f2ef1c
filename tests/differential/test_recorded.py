"""The mock answers as a real kernel did: every byte, of every step that is recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compare import disagreements, figures
from conftest import RECORDED

if TYPE_CHECKING:
    from conftest import Replayed


@pytest.mark.parametrize("file", RECORDED, ids=lambda path: path.name.partition(".")[0])
def test_the_mock_answers_as_the_kernel_did(file: Path, replayed: Callable[[Path], Replayed]) -> None:
    record, got, _ = replayed(file)
    found = disagreements(record["episodes"], record["answers"], got)
    print(figures(record["episodes"], record["answers"]))
    assert not found, "\n".join(map(str, found))


def test_something_is_recorded() -> None:
    assert RECORDED
