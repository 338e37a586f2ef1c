# SPDX-License-Identifier: MIT
"""Run the cells of one machine, inside it: `python tests/contract/run_cells.py --results DIR [CELL ...]`.

CELL may have wildcards: `*/type1v2/edu/*`. All of the machine's, if none is given.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

# Hypothesis would be imported at the end for nothing, which takes half a minute under emulation; no test logs anything; and each file is
# asked twice whether it is a virtual environment, by a call that the host answers.
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
    # The children of a run come by here, each with the code of its cell.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
