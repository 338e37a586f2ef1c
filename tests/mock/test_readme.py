# SPDX-License-Identifier: MIT
"""The README's programs and commands, and the guides' commands, run on the mock.

(tests/docs runs the guides' programs.)

A block of Python is a program, a block of sh has one command on each line, and a block of text is output of the
library. A block that is not run has a comment with the reason above it: `<!-- not run by the tests: REASON -->`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import pyvfio
from pyvfio import mock

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(
    r"^(?:<!-- not run by the tests: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.S | re.M
)
REASONS = {"it installs packages, and builds a kernel"}
#: The lines of QEMU 8.1's log that the README's answers are about.
LOG = """\
vfio_device_dirty_tracking_update section 0x0 - 0x807fffff -> update [0x0 - 0x807fffff]
vfio_device_dirty_tracking_update section 0x100000000 - 0x27fffffff -> update [0x100000000 - 0x27fffffff]
vfio_device_dirty_tracking_update section 0x383800000000 - 0x3838000fffff -> update [0x100000000 - 0x3838000fffff]
vfio_device_dirty_tracking_start nr_ranges 2 32:[0x0 - 0x807fffff], 64:[0x100000000 - 0x3838000fffff]
"""
STEPS = "alloc buffer 4K\nmaster on\npeek bar0 0\n"


class Block(NamedTuple):
    """A block of the README.

    :ivar language: python, sh or text
    :ivar reason: the reason why it is not run; None if it is
    """

    language: str
    text: str
    reason: str | None


class Program(NamedTuple):
    """A program of the README, and how to run it.

    :ivar part: text that only this block contains
    :ivar profile: the mock's profile
    :ivar output: a regular expression for the program's whole output
    """

    part: str
    profile: str
    output: str


PROGRAMS = (
    Program("with device.dirty_log([mapping.range]) as log:", "mlx5", r"(IovaRange\(0x[0-9a-f]+\.\.0x[0-9a-f]+\)\n)+"),
    Program("EDU =", "amd", "0x10000ed\n"),
)
#: Text of the block that has to be run by pytest.
TESTS = "def test_two_wide_ranges_are_refused"


def blocks(language: str | None = None) -> list[Block]:
    """Return the README's blocks, all or those in one language."""
    found = [Block(one["language"], one["text"], one["reason"]) for one in BLOCK.finditer(README.read_text())]
    return [block for block in found if language in (None, block.language)]


def commands() -> list[str]:
    lines = [
        line.partition(" #")[0].strip()
        for block in blocks("sh")
        if not block.reason
        for line in block.text.splitlines()
    ]
    return [line for line in lines if line]


def guides() -> list[str]:
    """Return the documentation's blocks that begin with the command pyvfio."""
    pages = [page.read_text() for page in sorted(ROOT.glob("docs/*/*.md"))]
    texts = [one["text"] for page in pages for one in BLOCK.finditer(page) if one["language"] == "sh"]
    texts = [re.sub("(?m)^pip install.*\n", "", text) for text in texts]
    # `pyvfio serve` runs until it is interrupted, so tests/cli/test_serve.py tests it.
    return [text for text in texts if re.match("pyvfio (?!serve )", text) and "chown" not in text]


def program(part: str) -> str:
    (found,) = (block.text for block in blocks("python") if part in block.text)
    return found


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs a command in a folder with the README's files (`program.py`, `qemu.log`, `steps`), with `pyvfio` on the PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, options in ("python", ""), ("python3", ""), ("pyvfio", "-m pyvfio"):
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error {options} "$@"\n')
        script.chmod(0o755)
    (tmp_path / "program.py").write_text(blocks("python")[0].text)
    (tmp_path / "qemu.log").write_text(LOG)
    (tmp_path / "steps").write_text(STEPS)

    def run(*command: str, profile: str = "mlx5") -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(programs), os.environ.get("PATH", "/usr/bin:/bin")])
        environment = {**os.environ, "PATH": path, "PYVFIO_KERNEL": f"mock:{profile}"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_every_block_is_run_or_says_why_not() -> None:
    assert {block.language for block in blocks()} == {"python", "sh", "text"}
    assert len(re.findall("^```", README.read_text(), re.M)) == 2 * len(blocks())
    for block in blocks("python"):
        assert not block.reason
        assert sum(part in block.text for part in (*(one.part for one in PROGRAMS), TESTS)) == 1, block.text
    assert {block.reason for block in blocks("sh") if block.reason} == REASONS
    assert len(commands()) >= 5


@pytest.mark.parametrize("which", PROGRAMS, ids=lambda one: one.part)
def test_programs_run_and_print_what_they_say(run: Run, which: Program, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program(which.part))
    done = run("python3", "program.py", profile=which.profile)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(which.output, done.stdout, re.S), done.stdout


def test_the_pytest_block_is_a_test_that_passes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_block.py").write_text(program(TESTS))
    done = run("python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_block.py")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("command", [*commands(), *guides()])
def test_commands_succeed(run: Run, command: str) -> None:
    done = run("sh", "-e", "-c", command)
    # Exit code 1 means a finding: problems in the log of QEMU 8.1, and different answers of another kernel to a trace.
    finds = any(part in command for part in ("qemu-log qemu.log", "replay trace.json --kernel mock:amd"))
    assert done.returncode == finds, done.stdout + done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr


def test_the_refusal_reads_as_it_is_quoted() -> None:
    (quoted,) = (block.text for block in blocks("text") if block.text.startswith("RequestError"))
    kernel = mock.Kernel("amd")
    with (
        pyvfio.host.bind("0000:00:03.0", "vfio-pci", kernel=kernel),
        pyvfio.open("0000:00:03.0", mode="type1v2", kernel=kernel) as device,
        pytest.raises(pyvfio.RequestError) as refused,
    ):
        device.address_space.map(pyvfio.DmaBuffer(4 << 20), 0xFCFFE00000)
    message = "\n".join([f"RequestError: {refused.value}", *refused.value.__notes__])
    rest = " ".join(message.split())
    for part in " ".join(quoted.split()).split("..."):
        assert part.strip() in rest, (part, rest)
        rest = rest[rest.index(part.strip()) :]
