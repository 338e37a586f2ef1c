# SPDX-License-Identifier: MIT
"""Runs of the suite in cells: collected once, then a process for each cell, forked when everything is imported.

Python's start and pytest's take ten seconds under emulation; a fork takes none.
"""

from __future__ import annotations

import fnmatch
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from vmtest.matrix import DEBUG, IN_PROCESS, LOCAL, NEWEST, Cell, Matrix, Needs

from pyvfio.tracing import Watch
from tests.contract.kernel_log import kernel_log

RUN = pytest.StashKey["CellRun"]()

#: a fixture that takes an ability -> that ability
FIXTURE_NEEDS = {"dma": "dma", "logger": "dirty_log", "migration": "migration", "cards": "mtty"}
#: seconds that the tests of one cell may take
TIME_LIMIT = 900
#: likewise under the debug kernel, which took 16 minutes and more for a cell on a busy host
DEBUG_TIME_LIMIT = 3600
#: seconds that one test may take under the debug kernel, which makes forks and page tables several times slower
DEBUG_TEST_LIMIT = 1200

# What the tests use, imported before the fork.
_WARM = (
    # An extension module that is first loaded in a child now and then crashes it there, under QEMU 7.2.
    "asyncio", "ctypes", "multiprocessing", "numpy", "resource", "subprocess",
    "pyvfio.spaces.opening", "pyvfio.spaces.container", "pyvfio.device", "pyvfio.irq", "pyvfio.pci", "pyvfio.dirty.log", "pyvfio.migration",
    "pyvfio.iommufd.ioas", "pyvfio.iommufd.hwpt", "pyvfio.host.binding", "tests.contract.drivers.edu", "tests.contract.drivers.nvme", "tests.contract.drivers.vfio_mock", "tests.contract.drivers.edu_vfio_pci",
)  # fmt: skip


def needs_of(item: pytest.Item) -> Needs:
    abilities = [ability for marker in item.iter_markers("require") for ability in marker.args]
    abilities += [FIXTURE_NEEDS[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURE_NEEDS]
    # A test's own mark stands in place of its module's.
    own = [marker for marker in getattr(item, "own_markers", ()) if marker.name == "only"]
    only = own or list(item.iter_markers("only"))
    return Needs(tuple(sorted(set(abilities))), tuple(marker.kwargs for marker in only))


def chosen(matrix: Matrix, patterns: list[str], iommu: str | None, kernel: str) -> list[Cell]:
    """The cells of this machine that a pattern matches; a cell without a wildcard need not be in the matrix.

    :param iommu: None for all, on the kernel in this process
    :raises ValueError: there is none
    """
    here: list[Cell] = []
    local = [each for each in LOCAL if each in matrix.kernels]
    for each in local if kernel == IN_PROCESS else (kernel,):
        named = each if each in matrix.kernels else NEWEST
        iommus = matrix.iommus(named) if iommu is None else [iommu]
        here += [cell._replace(kernel=each) for one in iommus for cell in matrix.cells(one, named)]
    if not patterns:
        return here
    cells: list[Cell] = []
    for pattern in patterns:
        if not set("*?[") & set(pattern):
            cells.append(Cell.parse(pattern))
        cells += [cell for cell in here if cell not in cells and fnmatch.fnmatch(str(cell), pattern)]
    if not cells:
        raise ValueError(f"no cell of this machine matches {' '.join(patterns)}")
    return cells


class NeedsOnly:
    """--needs: which tests there are."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps({item.nodeid: needs_of(item)._asdict() for item in items}, indent=1))
        items.clear()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK


class Cells:
    """The cells of this run. One runs in this process; of several, each in a child."""

    def __init__(self, cells: Callable[[], list[Cell]], results: Path | None) -> None:
        self._cells = cells
        self._results = results
        self._failed = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        # A run of other tests may pass by here.
        ours = any(item.path.is_relative_to(Path(__file__).parent) for item in session.items)
        if not ours or session.testsfailed or session.config.option.collectonly:
            return None
        try:
            cells = self._cells()
        except ValueError as error:
            raise pytest.UsageError(f"{error}; see tests/contract/README.md") from None
        if len(cells) == 1:
            self._enter(cells[0], session)
            return None
        for name in (*_WARM, *(("pyvfio.mock",) if cells[0].kernel in LOCAL else ())):
            if importlib.util.find_spec(name):
                importlib.import_module(name)
        # The collector would visit all of pytest's objects in each child, and so copy their pages.
        gc.collect()
        gc.freeze()
        for cell in cells:
            begun = time.monotonic()
            # What is buffered would come out twice.
            sys.stdout.flush()
            sys.stderr.flush()
            child = os.fork()
            if child == 0:
                session.config.pluginmanager.register(NoDots())
                self._enter(cell, session)
                return None  # and pytest goes on with the tests that are left
            limit = DEBUG_TIME_LIMIT if cell.kernel == DEBUG else TIME_LIMIT
            code = _wait(child, limit)
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                CellRun(cell, self._results).write(code)
            self._failed += code != 0
            words = {-signal.SIGABRT: f"FAILED (still running after {limit} s)", 0: "ok"}
            print(f"== {cell}: {words.get(code, f'FAILED ({code})')}, {time.monotonic() - begun:.1f} s", flush=True)
        session.testsfailed = self._failed
        reporter = session.config.pluginmanager.unregister(name="terminalreporter")
        del reporter  # the parent ran no test, and has nothing to say
        return True

    def _enter(self, cell: Cell, session: pytest.Session) -> None:
        run = CellRun(cell, self._results)
        session.config.stash[RUN] = run
        session.config.pluginmanager.register(run)
        run.select(session)


class NoDots:
    """A cell of several has one line, at its end: each dot would wake the process that takes the machine's output out."""

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return ("passed", "", "") if report.passed and report.when == "call" else None


def _wait(child: int, limit: float) -> int:
    """The exit code of a child, negative for a signal; it gets SIGABRT, which tells where it was, at the limit."""
    handle = os.pidfd_open(child)
    try:
        for number in (signal.SIGABRT, signal.SIGKILL):
            if select.select([handle], [], [], limit)[0]:
                break
            os.kill(child, number)
            limit = 10
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class CellRun:
    """The results of one cell; it is written to a file at the end."""

    def __init__(self, cell: Cell, results: Path | None) -> None:
        self.cell = cell
        self._file = results / cell.file_name if results else None
        self._tests: dict[str, str] = {}
        self._left_out: dict[str, str] = {}
        self._messages: dict[str, str] = {}
        self._durations: dict[str, float] = {}
        self._trace: list[tuple[str, ...]] = []
        self._started = time.monotonic()

    def select(self, session: pytest.Session) -> None:
        """Leave out the tests that do not belong in this cell."""
        matrix = Matrix()
        kept: list[pytest.Item] = []
        out: list[pytest.Item] = []
        for item in session.items:
            if reason := matrix.left_out(self.cell, needs_of(item)):
                self._left_out[item.nodeid] = reason
                out.append(item)
            else:
                kept.append(item)
                if self.cell.kernel == DEBUG:
                    item.add_marker(pytest.mark.timeout(DEBUG_TEST_LIMIT))
        session.items = kept
        session.testscollected = len(kept)
        session.config.hook.pytest_deselected(items=out)

    def traced(self, test: str, watch: Watch) -> None:
        self._trace.extend((test, *outcome) for outcome in sorted(watch.outcomes()))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        report = yield
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            report.outcome = "failed"
            report.longrepr = f"a test here says what it needs beforehand, and skips nothing: {reason}"
        if report.failed and self.cell.kernel not in LOCAL:
            # Such as a child that crashed, of which only the kernel tells.
            report.sections.append(("Kernel log call", kernel_log()[-2000:]))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._durations[report.nodeid] = round(self._durations.get(report.nodeid, 0) + report.duration, 3)
        if report.failed:
            self._tests[report.nodeid] = "failed"
            told = "".join(f"\n--- {title}\n{text}" for title, text in report.sections)
            self._messages[report.nodeid] = (report.longreprtext + told)[-6000:]
        elif report.when == "call":
            self._tests.setdefault(report.nodeid, "passed")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.write(int(exitstatus))

    def write(self, exitstatus: int) -> None:
        if self._file is None:
            return
        result = {
            "cell": str(self.cell),
            "exit": exitstatus,
            "seconds": round(time.monotonic() - self._started, 1),
            "tests": self._tests,
            "left_out": self._left_out,
            "messages": self._messages,
            "durations": self._durations,
            "trace": self._trace,
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(result))
