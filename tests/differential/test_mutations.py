# SPDX-License-Identifier: MIT
"""The check of the check: what is wrong in the mock is found by what is recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.differential.mutations import MUTATIONS

ROOT = Path(__file__).parents[2]


def outcomes(*numbers: str) -> list[str]:
    """Run mutations.py, which must not have imported the mock when it plants a fault, and return its outcome for each."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.differential.mutations", *numbers],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return ran.stdout.splitlines()


@pytest.mark.slow
def test_every_planted_fault_is_found() -> None:
    missed = [
        mutation for mutation, said in zip(MUTATIONS, outcomes(), strict=True) if said.endswith(": no disagreement")
    ]
    assert not missed, "\n".join(f"{one.file}: {one.old!r} -> {one.new!r}" for one in missed)


def test_nothing_is_found_where_nothing_is_planted() -> None:
    assert outcomes("none") == ["none: no disagreement"]
