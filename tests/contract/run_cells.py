# SPDX-License-Identifier: MIT
"""Run the cells of one machine, inside it: `python tests/contract/run_cells.py --results DIR [CELL ...]`.

CELL may have wildcards: `*/type1v2/edu/*`. Without CELL, all cells of the machine run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

# These options save time under emulation. no:hypothesispytest: the plugin would import Hypothesis at the end without
# need, which takes half a minute. no:logging: no test logs anything. --collect-in-virtualenv: otherwise pytest checks
# each path twice for a virtual environment, by a call that the host answers (9p).
OPTIONS = (
    "-q", "--no-header", "--tb=short", "-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-p", "no:logging", "--collect-in-virtualenv",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, metavar="DIR")
    parser.add_argument("-k", metavar="EXPRESSION", help="as for pytest")
    parser.add_argument("cells", nargs="*", metavar="CELL")
    arguments = parser.parse_args()
    command = [str(Path(__file__).parent), *OPTIONS, f"--results={arguments.results}"]
    command += [f"--cell={cell}" for cell in arguments.cells]
    if arguments.k:
        command += ["-k", arguments.k]
    return int(pytest.main(command))


if __name__ == "__main__":
    code = main()
    # A forked child returns from main() too, with the exit code of its cell.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
