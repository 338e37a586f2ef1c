# SPDX-License-Identifier: MIT
"""Run the suite in several cells: import and collect once, then fork a process for each cell.

Under emulation, starting Python and pytest takes ten seconds; a fork takes almost no time.
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

#: Fixtures that need an ability, each with the ability.
FIXTURE_NEEDS = {"dma": "dma", "logger": "dirty_log", "migration": "migration", "cards": "mtty"}
#: Time limit for the tests of one cell, in seconds.
TIME_LIMIT = 900
#: The same under the debug kernel. On a busy host a cell took 16 minutes and more there.
DEBUG_TIME_LIMIT = 3600
#: Time limit for one test under the debug kernel, in seconds. That kernel makes forks and page tables several times
#: slower.
DEBUG_TEST_LIMIT = 1200

# Modules that the tests use. They are imported before the fork.
_WARM = (
    # Under QEMU 7.2, a child that is the first to load an extension module crashes now and then.
    "asyncio", "ctypes", "multiprocessing", "numpy", "resource", "subprocess",
    "pyvfio.spaces.opening", "pyvfio.spaces.container", "pyvfio.device", "pyvfio.irq", "pyvfio.pci", "pyvfio.dirty.log", "pyvfio.migration",
    "pyvfio.iommufd.ioas", "pyvfio.iommufd.hwpt", "pyvfio.host.binding", "tests.contract.drivers.edu", "tests.contract.drivers.nvme", "tests.contract.drivers.vfio_mock", "tests.contract.drivers.edu_vfio_pci",
)  # fmt: skip


def needs_of(item: pytest.Item) -> Needs:
    abilities = [ability for marker in item.iter_markers("require") for ability in marker.args]
    abilities += [FIXTURE_NEEDS[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURE_NEEDS]
    # A test's own `only` marks replace those of its module.
    own = [marker for marker in getattr(item, "own_markers", ()) if marker.name == "only"]
    only = own or list(item.iter_markers("only"))
    return Needs(tuple(sorted(set(abilities))), tuple(marker.kwargs for marker in only))


def chosen(matrix: Matrix, patterns: list[str], iommu: str | None, kernel: str) -> list[Cell]:
    """Return the cells of this machine that match a pattern. A cell without wildcards need not be in the matrix.

    :param iommu: the machine's IOMMU; None for all, on the mock
    :raises ValueError: no cell matches
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
    """The plugin for --needs: it writes the tests and their needs to a file, and runs nothing."""

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
    """The plugin that runs the cells. A single cell runs in this process; several cells run in a forked child each."""

    def __init__(self, cells: Callable[[], list[Cell]], results: Path | None) -> None:
        self._cells = cells
        self._results = results
        self._failed = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        # If tests/contract is loaded in a run of other tests only, do nothing.
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
        # gc.freeze: otherwise the collector would visit all of pytest's objects in each child, and so copy their pages.
        gc.collect()
        gc.freeze()
        for cell in cells:
            begun = time.monotonic()
            # Flush before the fork: otherwise the child would write buffered output a second time.
            sys.stdout.flush()
            sys.stderr.flush()
            child = os.fork()
            if child == 0:
                session.config.pluginmanager.register(NoDots())
                self._enter(cell, session)
                return None  # the child's pytest continues with the selected tests
            limit = DEBUG_TIME_LIMIT if cell.kernel == DEBUG else TIME_LIMIT
            code = _wait(child, limit)
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                CellRun(cell, self._results).write(code)
            self._failed += code != 0
            words = {-signal.SIGABRT: f"FAILED (still running after {limit} s)", 0: "ok"}
            print(f"== {cell}: {words.get(code, f'FAILED ({code})')}, {time.monotonic() - begun:.1f} s", flush=True)
        session.testsfailed = self._failed
        reporter = session.config.pluginmanager.unregister(name="terminalreporter")
        del reporter  # the parent ran no tests: it must not print a summary
        return True

    def _enter(self, cell: Cell, session: pytest.Session) -> None:
        run = CellRun(cell, self._results)
        session.config.stash[RUN] = run
        session.config.pluginmanager.register(run)
        run.select(session)


class NoDots:
    """A plugin that suppresses pytest's dots: each would wake the process that forwards the machine's output.

    Instead, `Cells` prints one line at the end of each cell.
    """

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return ("passed", "", "") if report.passed and report.when == "call" else None


def _wait(child: int, limit: float) -> int:
    """Wait for a child and return its exit code, negative for a signal.

    At the limit, SIGABRT makes it print its tracebacks.
    """
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
    """The plugin that collects the results of one cell, and writes them to a file at the end."""

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
        """Deselect the tests that do not run in this cell, and note the reasons."""
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
            # The kernel's log may explain the failure: only the kernel reports, for example, where a child crashed.
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
