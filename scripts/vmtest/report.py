# SPDX-License-Identifier: MIT
"""Report the results of the contract suite, and tests and requests that are missing in them. scripts/matrix calls this module.

Unlike the other modules of vmtest, it needs pyvfio and pytest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pyvfio import abi
from vmtest.lanes import Lane
from vmtest.matrix import LOCAL, NEWEST, Cell, Matrix, Needs

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "tests" / "contract"
#: The file in a folder of results that lists the cells that ran again.
REPEATED = "repeated.txt"

Results = Mapping[Cell, Mapping[str, Any]]


def load(folder: Path) -> dict[Cell, dict[str, Any]]:
    """Read the JSON files of all cells from a folder."""
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    return {Cell.parse(result["cell"]): result for result in results}


def all_tests() -> dict[str, Needs]:
    """Collect all tests of the contract suite, and return their needs by name. Tests that never ran are included."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "needs.json"
        command = [sys.executable, "-m", "pytest", str(SUITE), f"--needs={file}", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"matrix: the suite cannot be collected:\n{done.stdout}{done.stderr}")
        found = json.loads(file.read_text())
    return {name: Needs(tuple(needs["abilities"]), tuple(needs["only"])) for name, needs in found.items()}


def expected_cells(matrix: Matrix, results: Results, lane: Lane) -> Iterator[Cell]:
    """Yield the cells of a lane. `newest` becomes the newest kernel that ran and is not named in tests/matrix.toml."""
    newest = max({cell.kernel for cell in results} - set(matrix.kernels), key=_release, default=NEWEST)
    for kernel in matrix.kernels:
        for iommu in matrix.iommus(kernel):
            for cell in matrix.cells(iommu, kernel, lane):
                yield cell._replace(kernel=newest) if kernel == NEWEST else cell


def _release(kernel: str) -> tuple[int, ...]:
    return tuple(int(word) for word in kernel.split(".") if word.isdigit())


def _name(request: str, detail: str) -> str:
    return f"{request} {detail}".rstrip()


class Report:
    """The results of the cells, compared with tests/matrix.toml.

    :param expected: cells that must have results
    :param tests: the needs of every test, by its name
    """

    def __init__(self, matrix: Matrix, results: Results, expected: list[Cell], tests: Mapping[str, Needs]) -> None:
        self._matrix = matrix
        self._results = results
        self._cells = list(dict.fromkeys((*expected, *sorted(results))))
        self._tests = tests

    # --- what was seen ----------------------------------------------------------------------------------------------

    @cached_property
    def seen(self) -> dict[tuple[str, str], dict[str, set[str]]]:
        """For each (request, operation): the tests that saw each outcome (`ok` or an errno) on a real kernel."""
        seen: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for cell, result in self._results.items():
            if cell.kernel in LOCAL:
                continue
            for test, _kind, request, detail, outcome in result["trace"]:
                if request.startswith("0x"):
                    continue  # not a request of pyvfio: the tests control the iommufd selftest driver with it
                seen[request, detail][outcome].add(test.removeprefix("tests/contract/"))
        return seen

    @cached_property
    def _facts(self) -> set[str]:
        """The outcomes that were seen, as `REQUEST OUTCOME` and `REQUEST OPERATION OUTCOME`."""
        return {
            f"{name} {outcome}"
            for (request, detail), outcomes in self.seen.items()
            for name in (request, _name(request, detail))
            for outcome in outcomes
        }

    @property
    def _scope(self) -> list[str]:
        return list(dict.fromkeys(name for names in abi.NAMES.values() for name in names))

    @property
    def _unreached(self) -> dict[str, str]:
        return {name if " " in name else f"{name} ok": reason for name, reason in self._matrix.unreached.items()}

    # --- what is wrong ----------------------------------------------------------------------------------------------

    def problems_of_cells(self) -> Iterator[str]:
        """Yield failed tests, missing cells, and tests that should have run in a cell but did not."""
        vanished: dict[str, list[str]] = defaultdict(list)
        for cell in self._cells:
            result = self._results.get(cell)
            if result is None:
                yield f"{cell}: did not run"
                continue
            yield from (f"{cell}: {test} failed" for test, outcome in result["tests"].items() if outcome == "failed")
            if result["exit"] not in (0, 1):
                yield f"{cell}: pytest ended with {result['exit']}"
                continue
            for test in self._matrix.expected(cell, self._tests) - set(result["tests"]):
                vanished[test].append(str(cell))
        for test, where in sorted(vanished.items()):
            more = ", ..." if len(where) > 3 else ""
            yield f"{test} did not run in {len(where)} cells: {', '.join(where[:3])}{more}"

    def problems_of_requests(self) -> Iterator[str]:
        """Yield requests and documented errnos that no test saw, and those that are listed as out of reach although a test saw them."""
        wanted = [f"{name} ok" for name in self._scope]
        wanted += [f"{name} {outcome}" for name, outcomes in abi.documented().items() for outcome in outcomes]
        for fact in wanted:
            if fact not in self._facts and fact not in self._unreached:
                yield f"{fact}: no test saw that"
        for fact in self._unreached:
            if fact in self._facts:
                yield f"{fact}: listed as out of reach, but a test saw it"

    def messages(self) -> Iterator[str]:
        """Yield the messages of failed tests."""
        for cell in self._cells:
            result = self._results.get(cell, {"tests": {}})
            for test, outcome in result["tests"].items():
                if outcome == "failed":
                    yield f"{cell}: {test}\n{result['messages'].get(test, '')}"

    # --- as text ----------------------------------------------------------------------------------------------------

    def table(self) -> Iterator[str]:
        """Yield a row for each kernel, IOMMU and mode, with the numbers of passed, failed and not applicable tests by device."""
        devices = list(dict.fromkeys(cell.device for cell in self._cells))
        rows = list(dict.fromkeys((cell.kernel, cell.qemu, cell.iommu, cell.mode) for cell in self._cells))
        yield f"{'kernel / IOMMU / mode':34}" + "".join(f"{device:>26}" for device in devices)
        for kernel, qemu, iommu, mode in rows:
            words = [self._entry(Cell(iommu, mode, device, kernel, qemu)) for device in devices]
            name = " / ".join((kernel, *([f"QEMU {qemu}"] if qemu else ()), iommu, mode))
            yield f"{name:34}" + "".join(f"{word:>26}" for word in words)

    def _entry(self, cell: Cell) -> str:
        result = self._results.get(cell)
        if result is None:
            return "MISSING" if cell in self._cells else ""
        counts = Counter(result["tests"].values())
        failed = f" {counts['failed']} FAILED" if counts["failed"] else ""
        return f"{counts['passed']} ok{failed} {len(result['left_out'])} n/a"

    def reasons(self) -> Iterator[str]:
        """Yield the reasons why tests did not apply to cells, with their counts."""
        reasons = Counter(reason for result in self._results.values() for reason in result["left_out"].values())
        yield "\nNot applicable (n/a), by reason:"
        for reason, count in reasons.most_common():
            yield f"  {count:5}  {reason}"

    def requests(self, *, brief: bool, everything: bool) -> Iterator[str]:
        """Yield every request with the tests that saw it succeed, and fail with each errno.

        :param brief: name only one test for each errno
        :param everything: name all tests for each success, not only one
        """
        yield "\nRequests: for success, and for each errno, the tests that saw it (--all names all)"
        for request, detail in sorted(self.seen):
            yield f"  {_name(request, detail)}"
            outcomes = self.seen[request, detail]
            for outcome in sorted(outcomes, key=lambda word: (word != "ok", word)):
                named = sorted({test.partition("[")[0] for test in outcomes[outcome]})
                shown = named if everything or (outcome != "ok" and not brief) else named[:1]
                more = f" and {len(named) - len(shown)} more" if len(named) > len(shown) else ""
                yield f"      {outcome:12} {', '.join(shown)}{more}"
        if self._unreached:
            yield "\nOut of reach here:"
            for fact, reason in sorted(self._unreached.items()):
                yield f"  {fact}: {reason}"

    def slowest(self) -> Iterator[str]:
        """Yield the tests that took the longest time in virtual machines."""
        seconds: Counter[str] = Counter()
        for cell, result in self._results.items():
            if cell.kernel not in LOCAL:
                for test, duration in result["durations"].items():
                    seconds[test.removeprefix("tests/contract/").partition("[")[0]] += duration
        if seconds:
            yield f"\nSlowest, in all machines together, of {seconds.total():.0f} s:"
            for test, total in seconds.most_common(12):
                yield f"  {total:5.1f} s  {test}"

    def sum(self) -> Iterator[str]:
        """Yield the number of cells, of tests and of requests."""
        counts = Counter(outcome for result in self._results.values() for outcome in result["tests"].values())
        succeeded = sum(f"{name} ok" in self._facts for name in self._scope)
        yield f"\n{len(self._results)} cells, {counts['passed']} tests passed, {counts['failed']} failed"
        yield f"{succeeded} of {len(self._scope)} requests seen to succeed"


def main(folder: Path, lane: Lane, *, complete: bool, brief: bool, everything: bool) -> int:
    """Print the report of a folder of results. Return 1 if there are problems.

    :param lane: the lane whose cells are expected
    :param complete: all cells of the lane must have results. Except in the quick lane, which has too few cells for it,
        every request must have been seen
    :param brief: see :meth:`Report.requests`
    :param everything: see :meth:`Report.requests`
    """
    results = load(folder)
    if not results:
        print(f"matrix: no results in {folder}")
        return 1
    matrix = Matrix()
    expected = list(expected_cells(matrix, results, lane)) if complete else []
    report = Report(matrix, results, expected, all_tests())
    problems = list(report.problems_of_cells())
    if complete and lane >= Lane.FULL:
        problems += report.problems_of_requests()
    for line in report.table():
        print(line)
    repeated = folder / REPEATED
    if repeated.exists():
        print(f"\nCells that ran again:\n{repeated.read_text().rstrip()}")
    for part in (report.reasons(), report.requests(brief=brief, everything=everything), report.slowest(), report.sum()):
        print("\n".join(part))
    # Print failures at the end, so that they are seen even if the beginning of the output is lost.
    for message in list(report.messages())[:5]:
        print(f"\n{message}\n")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    return 1 if problems else 0
