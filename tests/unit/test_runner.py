# SPDX-License-Identifier: MIT
"""The run of all tests: its plan, its summary, and its reaction to a machine that stalls."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from vmtest import contract, junit
from vmtest.job import Job
from vmtest.junit import Counts
from vmtest.lanes import Lane
from vmtest.matrix import Cell, Matrix
from vmtest.runner import Plan, Run
from vmtest.tally import Tally

ROOT = Path(__file__).parents[2]
BLOCK = {"iommus": ["amd", "intel"], "modes": ["type1", "iommufd"], "devices": ["edu"], "minutes": 1}
DATA: dict[str, Any] = {
    "suites": [
        {"name": "types", "lane": "quick", "minutes": 1, "commands": [["mypy"]]},
        {"name": "unit", "lane": "full", "minutes": 1, "pytest": ["tests/unit"]},
    ],
    "kernels": {"newest": [BLOCK], "6.1": [BLOCK | {"iommus": ["amd"]}], "mock": [BLOCK | {"iommus": ["amd"]}]},
    "abilities": {},
    "absent": [],
}


class FakeCommands:
    """A replacement for all commands of a run.

    :param codes: exit codes of the machines in the order of booting; later machines return 0. A machine with another
        code finishes only its first cell
    """

    def __init__(self, results: Path, codes: Sequence[int] = (), *, failed: int = 0) -> None:
        self._results, self._codes, self._failed = results, list(codes), failed
        self.booted: list[list[str]] = []

    async def __call__(self, command: Sequence[str | Path], **options: Any) -> int:
        words = [str(word) for word in command]
        if words[0] == "scripts/vm":
            cells = words[words.index("--results") + 2 :]
            self.booted.append(cells)
            code = self._codes.pop(0) if self._codes else 0
            for cell in cells[:1] if code > 1 else cells:
                self._finish(Cell.parse(cell))
            return code
        if words[0] == "scripts/build_kernel":
            if log := options.get("log"):
                log.write_text(json.dumps({"release": "6.1.0-53-amd64" if "6.1" in words else "7.3.4+deb14"}))
            return 0
        if "tests/contract/run_cells.py" in words:
            for cell in words[words.index("--results") + 2 :]:
                self._finish(Cell.parse(cell))
        for word in words:
            if word.startswith("--junitxml="):
                junit.write(Path(word.partition("=")[2]), "unit", {"t.py::test_a": "passed"}, {})
        return 0

    def _finish(self, cell: Cell) -> None:
        tests = {"t.py::test_a": "passed", "t.py::test_b": "failed" if self._failed else "passed"}
        result = {"tests": tests, "messages": {}, "exit": int(self._failed > 0), "seconds": 1}
        (self._results / cell.file_name).write_text(json.dumps(result))


def run(commands: FakeCommands, folder: Path, patterns: Sequence[str] = ()) -> Tally:
    async def everything() -> None:
        kernel = asyncio.create_task(commands(["scripts/build_kernel"]))
        await Run(plan, tally, folder, folder, run_job=commands, slots=1).everything(kernel)

    plan, tally = Plan(Matrix(DATA), Lane.FULL, patterns), Tally(strict=False)
    asyncio.run(everything())
    return tally


def test_a_run_counts_suites_and_cells(tmp_path: Path) -> None:
    commands = FakeCommands(tmp_path)
    tally = run(commands, tmp_path)
    # types, unit, and two tests in each of two cells of the mock and of six cells in three machines
    assert str(tally) == "18 passed, 0 failed, 0 skipped"
    assert commands.booted == [
        ["amd/type1/edu/7.3", "amd/iommufd/edu/7.3"],
        ["intel/type1/edu/7.3", "intel/iommufd/edu/7.3"],
        ["amd/type1/edu/6.1", "amd/iommufd/edu/6.1"],
    ]
    assert {file.name for file in tmp_path.glob("*.xml")} >= {"unit.xml", "amd-type1-edu-7.3.xml"}


def test_patterns_choose_suites_and_cells(tmp_path: Path) -> None:
    commands = FakeCommands(tmp_path)
    assert str(run(commands, tmp_path, ["unit", "intel/*/edu/newest"])) == "5 passed, 0 failed, 0 skipped"
    assert commands.booted == [["intel/type1/edu/7.3", "intel/iommufd/edu/7.3"]]
    assert not Plan(Matrix(DATA), Lane.FULL, ["unit"]).needs_kernel


@pytest.mark.parametrize("code", [contract.ENDED_EARLY, contract.STALLED])
def test_unfinished_cells_of_a_stalled_machine_run_again(tmp_path: Path, code: int) -> None:
    commands = FakeCommands(tmp_path, [code])
    tally = run(commands, tmp_path)
    assert commands.booted[:2] == [["amd/type1/edu/7.3", "amd/iommufd/edu/7.3"], ["amd/iommufd/edu/7.3"]]
    assert tally.counts == Counts(18, 0, 0)
    said = f"NOTE: the machine amd newest ended with {code}; these cells run again, once: amd/iommufd/edu/7.3"
    assert str(tally).splitlines() == [said, "18 passed, 0 failed, 0 skipped"]
    assert (tmp_path / "repeated.txt").read_text().startswith("amd/iommufd/edu/7.3: ran again; the machine amd newest")


def test_cells_run_again_at_most_once_in_a_run(tmp_path: Path) -> None:
    commands = FakeCommands(tmp_path, [contract.STALLED, 0, contract.STALLED])
    tally = run(commands, tmp_path)
    assert len(commands.booted) == 4
    assert tally.counts == Counts(16, 1, 0)
    assert "FAILED: the machine intel newest ended with 204" in tally.notes


def test_a_repeated_machine_that_stalls_again_fails(tmp_path: Path) -> None:
    # The second machine finishes its only cell before it stalls.
    tally = run(FakeCommands(tmp_path, [contract.STALLED, contract.STALLED]), tmp_path)
    assert tally.counts.failed == 1


@pytest.mark.parametrize(
    ("codes", "counts", "runs"),
    [
        ([contract.STALLED, 0], Counts(1, 0, 0), 2),
        ([contract.ENDED_EARLY, contract.ENDED_EARLY], Counts(0, 1, 0), 2),
        ([1, 0], Counts(0, 1, 0), 1),
    ],
)
def test_a_suite_whose_machine_stalls_runs_again_once(
    tmp_path: Path, codes: list[int], counts: Counts, runs: int
) -> None:
    left = iter(codes)

    async def run_job(*_: Any, **__: Any) -> int:
        return next(left)

    plan, tally = Plan(Matrix(DATA), Lane.FULL, ["types"]), Tally(strict=False)
    asyncio.run(Run(plan, tally, tmp_path, tmp_path, run_job=run_job).everything(None))
    assert tally.counts == counts
    assert len(codes) - len(list(left)) == runs
    if runs == 2:
        assert tally.notes[0] == f"NOTE: a machine of types ended with {codes[0]}; it runs again, once"


@pytest.mark.parametrize("code", [200, 201, 137])
def test_cells_do_not_run_again_after_a_kernel_complaint(tmp_path: Path, code: int) -> None:
    commands = FakeCommands(tmp_path, [code])
    tally = run(commands, tmp_path)
    assert len(commands.booted) == 3
    assert tally.counts == Counts(16, 1, 0)
    assert tally.exit_code == 1


def test_a_failed_test_is_counted_once(tmp_path: Path) -> None:
    tally = run(FakeCommands(tmp_path, [1, 1, 1], failed=1), tmp_path, ["intel/*", "amd/*/6.1"])
    assert tally.counts == Counts(4, 4, 0)
    assert tally.notes == []


@pytest.mark.parametrize(("code", "counts"), [(3, Counts(0, 0, 2)), (1, Counts(0, 2, 0))])
def test_a_suite_and_machines_without_a_kernel_are_counted(tmp_path: Path, code: int, counts: Counts) -> None:
    async def everything() -> None:
        async def build() -> int:
            return code

        this = Run(plan, tally, tmp_path, tmp_path, run_job=FakeCommands(tmp_path), slots=1)
        await this.everything(asyncio.create_task(build()))

    suite = {"name": "abi", "lane": "quick", "minutes": 1, "pytest": ["tests/abi"], "needs_kernel": True}
    plan, tally = Plan(Matrix(DATA | {"suites": [suite]}), Lane.FULL, ["abi", "intel/*"]), Tally(strict=False)
    asyncio.run(everything())
    assert tally.counts == counts


def test_a_machine_that_cannot_run_is_skipped_unless_required(tmp_path: Path) -> None:
    tally = run(FakeCommands(tmp_path, [contract.CANNOT_RUN]), tmp_path, ["intel/*"])
    assert tally.counts.skipped == 1
    strict = Tally(strict=True)
    strict.skip("no QEMU")
    assert strict.counts == Counts(0, 1, 0)
    assert strict.exit_code == 1


# --- JUnit XML ---------------------------------------------------------------------------------------------------------

SUITE = """
import pytest

def test_passes(): pass
def test_fails(): assert False
def test_skips(): pytest.skip("no")
@pytest.mark.xfail(strict=True)
def test_fails_as_expected(): assert False
@pytest.fixture
def broken():
    yield
    raise ValueError
def test_fails_twice(broken): assert False
"""


def pytest_in(folder: Path, suite: str) -> tuple[int, Path]:
    (folder / "test_suite.py").write_text(suite)
    file = folder / "out.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", f"--junitxml={file}"]
    return subprocess.run([*command, folder], capture_output=True, check=False).returncode, file


def test_counts_come_from_pytest_as_junit_xml(tmp_path: Path) -> None:
    code, file = pytest_in(tmp_path, SUITE)
    assert code == 1
    assert junit.count(file) == Counts(passed=2, failed=2, skipped=1)
    failures = junit.failures(file)
    assert failures == [
        "test_suite::test_fails: assert False",
        "test_suite::test_fails_twice: assert False",
        'test_suite::test_fails_twice: failed on teardown with "ValueError"',
    ]


def test_failed_tests_are_named_with_the_sum() -> None:
    tally = Tally(strict=False)
    tally.name_failed(["test_a: assert 1 == 2", *(f"test_{number}" for number in range(60))])
    lines = str(tally).splitlines()
    assert lines[0] == "FAILED: test_a: assert 1 == 2"
    assert lines[-2:] == ["FAILED: 21 further tests, named above", "0 passed, 0 failed, 0 skipped"]
    assert tally.counts == Counts()


def test_a_suite_that_crashes_has_no_counts(tmp_path: Path) -> None:
    code, file = pytest_in(tmp_path, "import os\ndef test_crashes(): os._exit(0)")
    assert code == 0
    with pytest.raises(ValueError, match=r"out\.xml is missing"):
        junit.count(file)
    file.write_text("<testsuites><testsuite>")
    with pytest.raises(ValueError, match=r"out\.xml is incomplete"):
        junit.count(file)


def test_results_of_a_cell_survive_as_junit_xml(tmp_path: Path) -> None:
    file = tmp_path / "cell.xml"
    junit.write(
        file, "amd/type1", {"t.py::test_a": "passed", "t.py::test_b[\0]": "failed"}, {"t.py::test_b[\0]": "\x1b["}
    )
    assert junit.count(file) == Counts(1, 1, 0)


# --- jobs --------------------------------------------------------------------------------------------------------------


def test_a_job_shows_its_lines_with_a_prefix(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    assert asyncio.run(Job(["sh", "-c", "echo one; echo; echo two >&2; exit 7"], prefix="x", log=log).run()) == 7
    lines = capfd.readouterr().out.splitlines()
    assert lines == [f"{'x':27} | one", f"{'x':27} | two"]
    assert log.read_text() == "one\n\ntwo\n"


def test_a_job_that_is_cancelled_ends_with_all_its_processes(tmp_path: Path) -> None:
    async def begin_and_cancel() -> int:
        file = tmp_path / "pid"
        job = asyncio.create_task(Job(["sh", "-c", f"sleep 1000 & echo $! >{file}; wait"]).run())
        while not file.exists() or not file.read_text().strip():
            await asyncio.sleep(0.01)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        return int(file.read_text())

    assert not is_running(asyncio.run(begin_and_cancel()))


def test_a_job_does_not_wait_for_what_its_command_left_behind(tmp_path: Path) -> None:
    begun = time.monotonic()
    assert asyncio.run(Job(["sh", "-c", f"sleep 1000 & echo $! >{tmp_path}/pid"], echo=False).run()) == 0
    assert time.monotonic() - begun < 100
    assert not is_running(int((tmp_path / "pid").read_text()))


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the process may end between the open and the read
        return False


def test_the_runner_needs_nothing_but_the_standard_library() -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import vmtest.runner"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


INTERRUPTED = """
import asyncio, sys
from pathlib import Path
from vmtest import runner
from vmtest.job import Job
from vmtest.lanes import Lane

async def run(plan, tally, slots):
    await Job(["sh", "-c", f"echo $$ >{sys.argv[1]}; sleep 1000 & wait"]).run()

runner.run = run
sys.exit(runner.main(Lane.QUICK, ["lint"], host_only=False))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_its_jobs(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "pid"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, file], env={"PYTHONPATH": str(ROOT / "scripts")}, cwd=ROOT
    )
    while not file.exists() or not file.read_text().strip():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=120) == 130
    assert not is_running(int(file.read_text()))
