# SPDX-License-Identifier: MIT
"""A check of the differential tests: the recorded episodes find faults that are planted in the mock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.differential.mutations import MUTATIONS

ROOT = Path(__file__).parents[2]


def outcomes(*numbers: str) -> list[str]:
    """Run mutations.py in a new process (the mock must not be imported before a fault is planted), and return the outcome for each fault."""
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
