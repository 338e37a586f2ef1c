# SPDX-License-Identifier: MIT
"""Run all tests of a lane: the suites on the host, and in parallel the contract suite in virtual machines."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from vmtest import contract, environment, junit
from vmtest.environment import PYTHON, ROOT
from vmtest.job import Job
from vmtest.lanes import Lane, Suite
from vmtest.matrix import DEBUG, LOCAL, NEWEST, Cell, Machine, Matrix
from vmtest.tally import Tally

RESULTS = ROOT / ".results"
#: exit codes of scripts/build_kernel
BUILT, MISSING, NO_MODULE = 0, 3, 5

RunJob = Callable[..., Coroutine[Any, Any, int]]


async def run_job(command: Sequence[str | Path], **options: Any) -> int:
    """Run a command as a `Job`."""
    return await Job(command, **options).run()


class Plan:
    """The work of a run: those suites and machines of a lane that match the patterns.

    :param patterns: names of suites (`unit`) or of cells as in tests/matrix.toml (`intel/*/edu/newest`), with
        wildcards; empty for all
    :param host_only: leave out everything that needs a real kernel
    """

    def __init__(self, matrix: Matrix, lane: Lane, patterns: Sequence[str] = (), *, host_only: bool = False) -> None:
        self.lane = lane
        self._patterns = patterns
        self.suites = [
            suite
            for suite in matrix.suites
            if suite.lane <= lane and self._chosen(suite.name) and not (host_only and suite.needs_kernel)
        ]
        self.mock_cells = self._cells(
            cell
            for kernel in LOCAL
            if kernel in matrix.kernels
            for iommu in matrix.iommus(kernel)
            for cell in matrix.cells(iommu, kernel, lane)
        )
        machines = [] if host_only else matrix.machines(lane)
        chosen = [machine._replace(cells=self._cells(machine.cells)) for machine in machines]
        self.machines = [machine for machine in chosen if machine.cells]
        self.minutes = {suite.name: suite.minutes for suite in self.suites}
        self.minutes |= {str(cell): matrix.minutes(cell) for cell in self.cells}
        #: Whether all tests of the lane will run.
        self.is_complete = not patterns and not host_only

    @property
    def cells(self) -> list[Cell]:
        """All cells. They have the names of kernels in tests/matrix.toml."""
        return [*self.mock_cells, *(cell for machine in self.machines for cell in machine.cells)]

    @property
    def needs_kernel(self) -> bool:
        """Whether the newest kernel is needed."""
        return bool(self.machines) or any(suite.needs_kernel for suite in self.suites)

    @property
    def older_kernels(self) -> list[str]:
        """The kernels besides the newest, in the order of their machines."""
        return list(dict.fromkeys(machine.kernel for machine in self.machines if machine.kernel != NEWEST))

    def _cells(self, cells: Any) -> tuple[Cell, ...]:
        return tuple(cell for cell in cells if self._chosen(str(cell)))

    def _chosen(self, name: str) -> bool:
        return not self._patterns or any(fnmatch.fnmatch(name, pattern) for pattern in self._patterns)


class Run:
    """One run of a plan.

    :param run_job: the function that runs a command; tests replace it
    :param slots: the number of machines that run at the same time
    """

    def __init__(
        self, plan: Plan, tally: Tally, results: Path, scratch: Path, *, run_job: RunJob = run_job,
        slots: int | None = None,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._tally = tally
        self._results = contract.Results(results)
        self._scratch = scratch
        self._run_job = run_job
        self._begun = time.monotonic()
        # Run more machines than there are processors: machines are idle while they wait for resets of devices.
        self._slots = asyncio.Semaphore(slots or (os.cpu_count() or 1) + 1)
        self._may_repeat = True
        #: Minutes that each suite and each cell (named as in tests/matrix.toml) took.
        self.took: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Print a headline, with the seconds since the run began."""
        print(f"\n== {text} ({time.monotonic() - self._begun:.0f} s)", flush=True)

    async def everything(self, kernel: asyncio.Task[int] | None) -> None:
        """Run the suites and the machines of the plan.

        :param kernel: the task that builds the newest kernel
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._on_the_host(kernel))
            if kernel is not None and self._plan.machines:
                group.create_task(self._in_machines(kernel))

    # --- on the host ----------------------------------------------------------------------------------------------

    async def _on_the_host(self, kernel: asyncio.Task[int] | None) -> None:
        """Run the suites: those that mostly wait in parallel, the others one after the other, those that need the kernel last."""
        async with asyncio.TaskGroup() as group:
            for suite in self._plan.suites:
                if suite.beside:
                    group.create_task(self._run_suite(suite, kernel))
            group.create_task(self._one_after_the_other(kernel))

    async def _one_after_the_other(self, kernel: asyncio.Task[int] | None) -> None:
        suites = [suite for suite in self._plan.suites if not suite.beside]
        for suite in suites:
            if not suite.needs_kernel:
                await self._run_suite(suite, kernel)
        if self._plan.mock_cells:
            command = contract.run_cells(self._results.folder, self._plan.mock_cells)
            code = await self._run_job(command, prefix="host")
            self._count("the kernel in this process", code, self._plan.mock_cells, self._plan.mock_cells)
        for suite in suites:
            if suite.needs_kernel:
                await self._run_suite(suite, kernel)

    async def _run_suite(self, suite: Suite, kernel: asyncio.Task[int] | None) -> None:
        """Run a suite. If it needs the kernel and there is none, count a skip or a failure instead."""
        if suite.needs_kernel:
            assert kernel is not None
            code = await kernel
            if code not in (BUILT, NO_MODULE):
                self._judge(f"{suite.name}: scripts/build_kernel", code, MISSING)
                return
        begun = time.monotonic()
        print(f"{'host':<27} | -- {suite.name}", flush=True)
        if suite.pytest:
            await self._run_pytest(suite.name, [PYTHON, "-m", "pytest", "-q", *suite.pytest])
        else:
            for program, *arguments in suite.commands:
                command = [PYTHON.parent / program, *arguments]
                code = await self._run_job(command, prefix="host")
                if code in contract.MAY_RUN_AGAIN and self._may_repeat:
                    self._may_repeat = False
                    self._tally.note(f"a machine of {suite.name} ended with {code}; it runs again, once")
                    code = await self._run_job(command, prefix="host")
                if code:
                    self._tally.fail(f"{suite.name}: {' '.join((program, *arguments))} returned {code}")
                else:
                    self._tally.passed()
        self.took[suite.name] = (time.monotonic() - begun) / 60

    async def _run_pytest(self, name: str, command: Sequence[str | Path]) -> None:
        file = self._results.folder / f"{name}.xml"
        code = await self._run_job([*command, f"--junitxml={file}"], prefix="host")
        try:
            counts = junit.count(file)
        except ValueError as error:
            self._tally.fail(f"{name}: pytest returned {code}, and {error}")
            return
        self._tally.add(counts)
        self._tally.name_failed(junit.failures(file))
        if code and not counts.failed:
            self._tally.fail(f"{name}: pytest returned {code}")

    # --- in virtual machines --------------------------------------------------------------------------------------

    async def _in_machines(self, kernel: asyncio.Task[int]) -> None:
        code = await kernel
        if code == MISSING:
            self._tally.skip("what runs on a real kernel: scripts/build_kernel says above what is missing")
            return
        if code not in (BUILT, NO_MODULE):
            self._tally.fail(f"scripts/build_kernel returned {code}")
            return
        if code == NO_MODULE:
            self._tally.fail("a module of tests/ does not build for the newest kernel")
        self.say(f"the contract suite, in {len(self._plan.machines)} virtual machines")
        older = asyncio.create_task(self._build_older_kernels())
        try:
            async with asyncio.TaskGroup() as group:
                for machine in self._plan.machines:
                    group.create_task(self._run_machine(machine))
        finally:
            older.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await older

    async def _build_older_kernels(self) -> None:
        """Build the older kernels at low priority while machines run.

        `_kernel_of` waits for its kernel and reports failures.
        """
        for version in self._plan.older_kernels:
            await self._run_job(["nice", "-n", "19", "scripts/build_kernel", "--kernel", version], echo=False)

    async def _run_machine(self, machine: Machine) -> None:
        async with self._slots:
            kernel = await self._kernel_of(machine)
            if kernel is None:
                return
            cells = contract.on_kernel(machine.cells, kernel)
            code = await self._boot(machine, cells)
            unfinished = self._results.unfinished(cells)
            if code in contract.MAY_RUN_AGAIN and unfinished and self._may_repeat:
                self._may_repeat = False
                names = ", ".join(map(str, unfinished))
                self._tally.note(f"the machine {machine.name} ended with {code}; these cells run again, once: {names}")
                self._results.note_repeated(machine, code, unfinished)
                code = await self._boot(machine, unfinished)
            self._count(f"the machine {machine.name}", code, cells, machine.cells)

    async def _kernel_of(self, machine: Machine) -> str | None:
        """Wait until the machine's kernel is built. Return its name in cells, or None if it could not be built."""
        choice = [] if machine.kernel == NEWEST else ["--kernel", machine.kernel]
        log = self._scratch / f"kernel-{machine.name.replace(' ', '-')}"
        # The log has scripts/build_kernel's messages, and the paths as its last line.
        code = await self._run_job(["scripts/build_kernel", *choice, "--json"], echo=False, log=log)
        if code in (BUILT, NO_MODULE):
            release: str = json.loads(log.read_text().splitlines()[-1])["release"]
            return DEBUG if machine.kernel == DEBUG else contract.short_release(release)
        print(log.read_text(), flush=True)
        self._judge(f"the kernel of the machine {machine.name}", code, MISSING)
        return None

    async def _boot(self, machine: Machine, cells: Sequence[Cell]) -> int:
        begun = time.monotonic()
        command = contract.boot_and_run(machine, self._results.folder, cells)
        code = await self._run_job(command, prefix=machine.name, environment=contract.variables(machine))
        print(f"{machine.name:<27} | {time.monotonic() - begun:.0f} seconds", flush=True)
        return code

    def _count(self, name: str, code: int, cells: Sequence[Cell], named: Sequence[Cell]) -> None:
        """Add the counts of cells that ran in one machine.

        :param name: the machine, for messages
        :param code: the machine's exit code
        :param cells: the cells, with the kernel's actual name
        :param named: the same cells, with the kernel's name in tests/matrix.toml
        """
        counts = junit.Counts()
        for cell, as_in_file in zip(cells, named, strict=True):
            counts = counts.plus(self._results.count(cell))
            self._tally.name_failed(self._results.failures(cell))
            self.took[str(as_in_file)] = self._results.seconds(cell) / 60
        self._tally.add(counts)
        # Exit code 1 means failed tests; these have been counted.
        if code and not (code == 1 and counts.failed):
            self._judge(name, code, contract.CANNOT_RUN)
        elif unfinished := self._results.unfinished(cells):
            self._tally.fail(f"{name} left no result of {', '.join(map(str, unfinished))}")

    def _judge(self, name: str, code: int, missing: int) -> None:
        """Count a failed command: as a skip if its exit code is `missing`, otherwise as a failure."""
        if code == missing:
            self._tally.skip(f"{name}: see above for what is missing")
        else:
            self._tally.fail(f"{name} ended with {code}")

    # --- afterwards -----------------------------------------------------------------------------------------------

    async def check_matrix(self) -> None:
        """Let scripts/matrix check that every test of the lane ran and every request was seen."""
        self.say("the matrix")
        command = [PYTHON, "scripts/matrix", self._results.folder, "--lane", str(self._plan.lane)]
        if self._plan.is_complete:
            command.append("--complete")
        if await self._run_job(command):
            self._tally.fail("the matrix: its PROBLEM lines say why")
        else:
            self._tally.passed()

    def times(self) -> str:
        """Return the total times, and the suites and cells that took more than one minute plus twice their time in tests/matrix.toml."""
        total = sum(self.took.values())
        slower = [
            f"  {name}: {taken:.1f} minutes, {self._plan.minutes.get(name, 0):g} in tests/matrix.toml"
            for name, taken in sorted(self.took.items(), key=lambda item: -item[1])
            if taken > 2 * self._plan.minutes.get(name, 0) + 1
        ]
        elapsed = (time.monotonic() - self._begun) / 60
        return "\n".join((f"{elapsed:.1f} minutes, {total:.1f} in suites and cells", *slower))


async def run(plan: Plan, tally: Tally, slots: int | None = None) -> None:
    """Install and build the requirements of a plan, run it, and check the matrix."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir()
    with tempfile.TemporaryDirectory(prefix="pyvfio-test-") as scratch:
        this = Run(plan, tally, RESULTS, Path(scratch), slots=slots)
        if missing := environment.missing_packages(machines=bool(plan.machines)):
            this.say(f"apt-get install {' '.join(missing)}")
            await asyncio.to_thread(environment.install_packages, missing)
        kernel = None
        try:
            if plan.needs_kernel:
                this.say("the kernel, in the background")
                # The build takes the longest time, so start it first.
                kernel = asyncio.create_task(run_job(["scripts/build_kernel"], prefix="kernel"))
            this.say("pyvfio, into .venv")
            try:
                await asyncio.to_thread(environment.make_venv)
            except environment.NotInstalled as error:
                print(error, flush=True)
                tally.fail("nothing could be tested: pyvfio and its tests could not be installed into .venv")
                return
            if plan.machines:
                # Let pytest compile the suite here: in an emulated machine that is slow.
                await run_job([PYTHON, "-m", "pytest", "-q", "--collect-only", "tests/contract"], echo=False)
            await this.everything(kernel)
            if plan.cells:
                await this.check_matrix()
            print(f"\n{this.times()}", flush=True)
        finally:
            if kernel is not None:
                kernel.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await kernel


def main(lane: Lane, patterns: Sequence[str], *, host_only: bool, slots: int | None = None) -> int:
    """Run the tests of a lane and return the exit code: 0 if nothing failed, 2 if the patterns match nothing."""
    plan = Plan(Matrix(), lane, patterns, host_only=host_only)
    if not plan.suites and not plan.cells:
        print(f"test: no suite or cell of the lane {lane} matches {' '.join(patterns)}", file=sys.stderr)
        return 2
    os.chdir(ROOT)
    # Let Python write compiled files here: in an emulated machine, compiling is fifteen times slower.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    tally = Tally()

    async def until_interrupted() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        await run(plan, tally, slots)

    try:
        asyncio.run(until_interrupted())
    except asyncio.CancelledError:
        print("test: interrupted; every process that it started has ended", file=sys.stderr)
        return 130
    print(tally, flush=True)
    return tally.exit_code
