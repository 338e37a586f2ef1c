# SPDX-License-Identifier: MIT
"""Errors and progress messages of the harness's commands."""

from __future__ import annotations

import sys
from pathlib import Path


class Problem(Exception):
    """Something failed. The text is for the user and needs no traceback."""


class Missing(Problem):
    """Something is missing that the harness may not or cannot install.

    The text names it, and the command that installs it.
    """


def say(text: str) -> None:
    """Print a line of progress on stderr, with the name of the command in front."""
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)
