# SPDX-License-Identifier: MIT
"""Compare two QEMUs: run one cell of the contract suite many times under each, and count how the machines ended."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vmtest.exit_code import ExitCode
from vmtest.problems import say
from vmtest.qemu import CHOICES

ROOT = Path(__file__).resolve().parents[2]
BUSY_LOOPS = 2
GOES_ON = "the machine goes on, since QEMU's monitor was asked"


@dataclass(frozen=True)
class Run:
    """The run of one machine: how it ended, and its duration."""

    qemu: str
    is_busy: bool
    """Whether busy loops ran on the host."""
    seconds: float
    outcome: str
    processor_seconds: float | None = None
    """Processor time of QEMU and its helpers; None in old logs, which do not have it."""


def outcome_of(code: int, text: str) -> str:
    """Return the name of a machine's outcome, from the exit code and output of scripts/vm."""
    names = {
        0: "passed",
        ExitCode.KERNEL_COMPLAINED: "complaint",
        ExitCode.TIME_LIMIT: "time limit",
        ExitCode.MACHINE_FAILED: "crashed",
        ExitCode.CANNOT_RUN: "cannot run",
        ExitCode.STALLED: "stalled",
    }
    if code == 0 and GOES_ON in text:
        return "went on"
    return names.get(code, "failed")


@contextlib.contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Keep processors busy while the block runs."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def processor_seconds() -> float:
    """Return the processor time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_cell(cell: str, qemu: str, *, is_busy: bool, directory: Path) -> Run:
    """Run a cell once. If it did not pass, the machine's output is kept in the directory."""
    iommu, mode, device, kernel = cell.split("/")
    choice = [] if kernel == "newest" else ["--kernel", kernel]
    command = [str(ROOT / "scripts" / "vm"), "--qemu", qemu, "--iommu", iommu, *choice, "--cpus", "1"]
    command += ["--frozen", "pyvfio", "--frozen", "tests", "--timeout", "3000", "--"]
    results = ROOT / f".results-bench-{os.getpid()}"
    command += [".venv/bin/python", "tests/contract/run_cells.py", "--results", results.name]
    command += [f"{iommu}/{mode}/{device}/*"]
    with busy_loops(BUSY_LOOPS if is_busy else 0):
        begun, taken = time.monotonic(), processor_seconds()
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        # Read the times here: the busy loops are children too, and would count once they have ended.
        seconds, taken = time.monotonic() - begun, processor_seconds() - taken
    shutil.rmtree(results, ignore_errors=True)
    text = done.stdout.decode(errors="replace")
    outcome = outcome_of(done.returncode, text)
    if outcome != "passed":
        name = f"{time.strftime('%H%M%S')}-{qemu}-{outcome.replace(' ', '-')}.txt"
        (directory / name).write_text(text)
    return Run(qemu, is_busy, round(seconds, 1), outcome, round(taken, 1))


def table(runs: Sequence[Run]) -> Iterator[str]:
    """Return the lines of a table: for each QEMU and load, the outcomes and the times of the runs that passed."""
    groups = sorted({(run.qemu, run.is_busy) for run in runs})
    yield f"{'QEMU':8} {'beside':14} {'runs':>5} {'stalled':>8} {'went on':>8} {'crashed':>8} {'other':>6}   min / median / max s   median s of processors"
    for qemu, is_busy in groups:
        group = [run for run in runs if (run.qemu, run.is_busy) == (qemu, is_busy)]
        counts = Counter(run.outcome for run in group)
        other = len(group) - sum(counts[name] for name in ("passed", "stalled", "went on", "crashed"))
        times = [run.seconds for run in group if run.outcome == "passed"]
        taken = [
            run.processor_seconds for run in group if run.outcome == "passed" and run.processor_seconds is not None
        ]
        figures = f"{min(times):.0f} / {statistics.median(times):.0f} / {max(times):.0f}" if times else "-"
        figures += f"   {statistics.median(taken):.1f} ({len(taken)} runs)" if taken else "   -"
        beside = f"{BUSY_LOOPS} busy loops" if is_busy else "nothing"
        yield (
            f"{qemu:8} {beside:14} {len(group):5} {counts['stalled']:8} {counts['went on']:8} {counts['crashed']:8} "
            f"{other:6}   {figures}"
        )


def read_log(log: Path) -> list[Run]:
    """Return the runs in the log of an earlier call."""
    return [Run(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


def main() -> int:
    """Run the cell under both QEMUs in turn, every second time beside busy loops, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", default="intel/type1v2/vfio-mock/6.1", help="IOMMU/mode/device/kernel (%(default)s)")
    parser.add_argument("--times", type=int, default=40, help="runs under each QEMU (default: %(default)s)")
    parser.add_argument("--qemu", nargs="+", default=["system", "newest"], metavar="|".join(CHOICES))
    parser.add_argument(
        "--log", type=Path, default=Path("bench_qemu.jsonl"), help="a line for each run; those in it count"
    )
    arguments = parser.parse_args()
    log: Path = arguments.log
    runs = read_log(log)
    for number in range(arguments.times):
        is_busy = number % 2 == 1
        for qemu in arguments.qemu:
            before = sum(run.qemu == qemu for run in runs)
            if before > number:
                continue
            run = run_cell(arguments.cell, qemu, is_busy=is_busy, directory=log.absolute().parent)
            runs.append(run)
            with log.open("a") as file:
                file.write(json.dumps(asdict(run)) + "\n")
            say(f"{run.qemu} {'busy' if is_busy else 'quiet'}: {run.outcome} after {run.seconds:.0f} s")
    print("\n".join(table(runs)))
    return 0
