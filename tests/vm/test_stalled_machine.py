# SPDX-License-Identifier: MIT
"""scripts/vm detects a machine that stalls, and shows its state. On a real kernel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from vmtest.exit_code import ExitCode

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
#: seconds of silence, and the seconds after its beginning within which a stall is to be reported
SILENCE, LIMIT = 60, 90
SAYING = "stalling now"
REPORT = "the state of the machine:"


class Outcome(NamedTuple):
    """The files and output that a machine that stalls leaves."""

    code: int
    seconds: float
    """From the stall to the beginning of the report."""
    text: str


def run_stalling(arguments: Sequence[str], command: str) -> Outcome:
    """Run a shell command in a machine. When it says SAYING the stall begins."""
    words = [str(ROOT / "scripts" / "vm"), f"--silence={SILENCE}", *arguments, "--", "sh", "-c", command]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as machine:
        assert machine.stdout is not None
        lines: list[str] = []
        begun = reported = None
        for line in machine.stdout:
            lines.append(line)
            if line.strip() == SAYING:
                begun = time.monotonic()
            elif REPORT in line:
                reported = time.monotonic()
    assert begun is not None, "".join(lines)
    assert reported is not None, "".join(lines)
    return Outcome(machine.returncode, reported - begun, "".join(lines))


@pytest.fixture
def spin_module(tmp_path: Path) -> Path:
    """The module of tests/vm/spin, built for the kernel of the machine."""
    found = subprocess.run(
        [sys.executable, ROOT / "scripts" / "build_kernel"], stdout=subprocess.PIPE, text=True, check=True
    )
    kernel = Path(found.stdout.splitlines()[-1])
    source = tmp_path / "source"
    shutil.copytree(HERE / "spin", source)
    subprocess.run(
        ["make", "-C", kernel / "tree", f"M={source}", "KCFLAGS=-Werror", "modules"], check=True, capture_output=True
    )
    return source / "spin.ko"


def test_a_machine_that_is_stopped_is_reported_with_its_state() -> None:
    outcome = run_stalling([], f"exec {sys.executable} tests/vm/stop.py '{SAYING}'")
    assert outcome.code == ExitCode.STALLED, outcome.text
    assert outcome.seconds < LIMIT
    assert '"status": "paused"' in outcome.text
    assert "RIP=" in outcome.text
    assert "local APIC of processor 1" in outcome.text
    # A machine that is stopped cannot answer, and is not asked.
    assert "sysrq" not in outcome.text


def test_a_machine_that_spins_with_interrupts_off_is_reported(spin_module: Path) -> None:
    # Below the project, which the guest sees; and where git, and a copy that another suite makes of what it has, does
    # not.
    with tempfile.TemporaryDirectory(prefix=".results-spin-", dir=ROOT) as folder:
        copy = shutil.copy(spin_module, folder)
        outcome = run_stalling(["--cpus", "1"], f"echo {SAYING}; insmod {copy}")
    assert outcome.code == ExitCode.STALLED, outcome.text
    assert outcome.seconds < LIMIT
    assert '"status": "running"' in outcome.text
    assert "HLT=0" in outcome.text
    # The NMI makes the kernel show where it is.
    assert "spin_init" in outcome.text, outcome.text


def test_a_machine_that_goes_on_when_it_is_asked_is_not_ended() -> None:
    words = [str(ROOT / "scripts" / "vm"), "--silence=20", "--", "sh", "-c", f"echo {SAYING}; sleep 10; exit 7"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as machine:
        assert machine.stdout is not None
        lines: list[str] = []
        qemu = None
        for line in machine.stdout:
            lines.append(line)
            if line.strip() == SAYING:
                qemu = int(Path(f"/proc/{machine.pid}/task/{machine.pid}/children").read_text().split()[0])
                os.kill(qemu, signal.SIGSTOP)
            elif "no sign of life" in line and qemu is not None:
                os.kill(qemu, signal.SIGCONT)
    text = "".join(lines)
    assert machine.returncode == 7, text
    assert "the machine goes on" in text
    assert "sending an NMI" not in text
