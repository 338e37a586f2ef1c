# SPDX-License-Identifier: MIT
"""Run the contract suite: the commands for the cells of one machine (or of the mock), and their results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vmtest import junit
from vmtest.environment import PYTHON, ROOT
from vmtest.matrix import DEBUG, NEWEST, Cell, Machine

#: Time limit of a machine, in seconds.
TIME_LIMIT = 3000
#: The same with the debug kernel.
DEBUG_TIME_LIMIT = 4 * 3600
#: Exit codes of scripts/vm that say nothing about the tests: the machine ended before the command did, or it stalled.
ENDED_EARLY, STALLED = 202, 204
MAY_RUN_AGAIN = (ENDED_EARLY, STALLED)
#: exit code of scripts/vm: something is missing on this host
CANNOT_RUN = 203

RUN_CELLS = "tests/contract/run_cells.py"


def short_release(release: str) -> str:
    """Return a kernel release's name in a cell: `7.3` for `7.3.4+deb14`."""
    return ".".join(release.split(".")[:2])


def on_kernel(cells: Iterable[Cell], name: str) -> list[Cell]:
    """Return the cells with the kernel's actual name, such as `7.3` in place of `newest`."""
    return [cell._replace(kernel=name) for cell in cells]


def run_cells(results: Path, cells: Sequence[Cell]) -> list[str]:
    """Return the command that runs the suite in these cells, to be run inside their machine."""
    return [str(PYTHON.relative_to(ROOT)), RUN_CELLS, "--results", str(results), *map(str, cells)]


def boot_and_run(machine: Machine, results: Path, cells: Sequence[Cell]) -> list[str]:
    """Return the command that boots the machine and runs the suite in these cells."""
    command = ["scripts/vm", "--iommu", machine.iommu]
    if machine.kernel != NEWEST:
        command += ["--kernel", machine.kernel]
    if machine.qemu:
        command += ["--qemu", machine.qemu]
    # With two processors, QEMU 7.2 crashed now and then, apparently when one accessed memory (such as a BAR) that the
    # other was removing from the memory map. One processor is as fast.
    command += ["--cpus", "1"]
    if machine.kernel == DEBUG:
        command += ["--timeout", str(DEBUG_TIME_LIMIT), "--silence", "180"]
    else:
        command += ["--timeout", str(TIME_LIMIT)]
    for folder in ("pyvfio", "tests", "scripts"):
        command += ["--frozen", folder]
    return [*command, "--", *run_cells(results, cells)]


def variables(machine: Machine) -> dict[str, str]:
    """Return additional environment variables of that command: the kernel's name in cells, if it does not follow from the release."""
    return {"PYVFIO_CELL_KERNEL": DEBUG} if machine.kernel == DEBUG else {}


class Results:
    """The folder in which each cell leaves a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def unfinished(self, cells: Iterable[Cell]) -> list[Cell]:
        """Return the cells that left no readable file."""
        return [cell for cell in cells if self._load(cell) is None]

    def count(self, cell: Cell) -> junit.Counts:
        """Count the tests of a cell, and write them as JUnit XML beside the cell's file.

        A cell whose exit code is neither 0 nor 1 counts as one more failure.
        """
        result = self._load(cell)
        if result is None:
            return junit.Counts()
        outcomes = dict(result["tests"])
        if result["exit"] not in (0, 1):
            outcomes[f"cell::ended with {result['exit']}"] = "failed"
        file = (self.folder / cell.file_name).with_suffix(".xml")
        junit.write(file, str(cell), outcomes, result["messages"])
        return junit.count(file)

    def failures(self, cell: Cell) -> list[str]:
        """Return the failed tests of a cell that was counted."""
        file = (self.folder / cell.file_name).with_suffix(".xml")
        return junit.failures(file) if file.exists() else []

    def seconds(self, cell: Cell) -> float:
        """Return the duration of a cell in seconds; 0 if it left no file."""
        return float((self._load(cell) or {}).get("seconds", 0))

    def note_repeated(self, machine: Machine, code: int, cells: Sequence[Cell]) -> None:
        """Note for scripts/matrix that these cells run again, and why."""
        why = "stalled" if code == STALLED else "ended early"
        with (self.folder / "repeated.txt").open("a") as file:
            file.writelines(
                f"{cell}: ran again; the machine {machine.name} {why} (exit code {code})\n" for cell in cells
            )

    def _load(self, cell: Cell) -> dict[str, Any] | None:
        try:
            loaded: dict[str, Any] = json.loads((self.folder / cell.file_name).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return loaded
