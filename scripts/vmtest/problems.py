# SPDX-License-Identifier: MIT
"""Why a command of the harness cannot go on, and where it says so."""

from __future__ import annotations

import sys
from pathlib import Path


class Problem(Exception):
    """Something failed. The text is for the user: it is complete without a traceback."""


class Missing(Problem):
    """Something is missing that the harness may not or cannot install. The text names it and the command to run."""


def say(text: str) -> None:
    """Print a line of progress on stderr, with the name of the command in front."""
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)
