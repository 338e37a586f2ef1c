# SPDX-License-Identifier: MIT
"""Faults that were found once do not show any more.

`scripts/old_reproducers` shows that they did before they were fixed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.robustness.reproducers import PROGRAMS, TIMED


@pytest.mark.parametrize("which", sorted(PROGRAMS.keys() - TIMED))
def test_a_fault_that_was_mended_does_not_show(which: str) -> None:
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("reproducers.py")), which]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_each_program_says_what_the_fault_was() -> None:
    assert all(program.__doc__ for program in PROGRAMS.values())
