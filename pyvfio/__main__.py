# SPDX-License-Identifier: MIT
"""`python -m pyvfio`: the same as the command `pyvfio`."""

from __future__ import annotations

from pyvfio.cli.program import run_program

if __name__ == "__main__":
    run_program()
