# SPDX-License-Identifier: MIT
"""Fixtures: vfio-user servers on the host, and machines with their devices."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: A folder for recordings of the messages, for debugging; None for none.
RECORDINGS = os.environ.get("PYVFIO_RECORDINGS")

Serve = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A function that starts `pyvfio serve MODEL NAME ... OPTIONS`, with sockets in `tmp_path`."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        count = len(list(itertools.takewhile(lambda word: word[0] != "-", arguments))) // 2
        words = [str(tmp_path / word) if index % 2 and word[0] != "-" else word for index, word in enumerate(arguments)]
        if RECORDINGS:
            words += ["--record", f"{RECORDINGS}/{arguments[1]}.json"]
        command = [sys.executable, "-m", "pyvfio", "serve", "--json", *words]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        running.append(server)
        assert server.stdout is not None
        for _ in range(count):
            assert json.loads(server.stdout.readline())["event"] == "serving"
        return server

    yield start
    for server in running:
        with contextlib.suppress(ProcessLookupError):
            server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)


#: The environment with which the programs find tests and examples.
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}


def vm(
    program: str, sockets: Sequence[Path], *arguments: str, iommu: str = "intel", more: Sequence[str] = ()
) -> list[str]:
    """Return the command that runs one of the programs in a machine with the devices of these sockets."""
    command = [sys.executable, str(ROOT / "scripts" / "vm"), "--iommu", iommu, "--frozen", "pyvfio", *more]
    for socket in sockets:
        command += ["--device", f"vfio-user:{socket}"]
    python = str(ROOT / ".venv" / "bin" / "python") if (ROOT / ".venv").exists() else sys.executable
    return [*command, "--", python, "-m", f"tests.vfio_user_guest.programs.{program}", *arguments]


def boot(program: str, sockets: Sequence[Path], *arguments: str, iommu: str = "intel") -> str:
    """Run a program in a machine, assert that it returns 0, and return its output."""
    done = subprocess.run(
        vm(program, sockets, *arguments, iommu=iommu),
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        check=False,
    )
    print(done.stdout, done.stderr[-8000:], sep="\n")
    assert done.returncode == 0, last_lines(done.stdout, done.stderr)
    return done.stdout


def last_lines(*outputs: str) -> str:
    """Return the last lines of a program's outputs as one line, which stands in the summary of a run."""
    return " | ".join(line.strip() for output in outputs for line in output.splitlines()[-3:])
