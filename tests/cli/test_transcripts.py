# SPDX-License-Identifier: MIT
"""Every command on the mock, word for word: each file of transcripts/ is a session on one kernel.

A file begins with the mock's profile. Each call follows a `$ `, as it is typed but for the name `pyvfio`; then comes
what it printed, errors behind `! `, and its exit code if that is not 0. `PYVFIO_WRITE_TRANSCRIPTS=1 pytest
tests/cli/test_transcripts.py` writes down what is printed now; look at what changed before you commit it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from pyvfio import mock
from pyvfio.cli import program
from tests.cli.command import Command, Ran

FOLDER = Path(__file__).with_name("transcripts")
#: what differs from run to run, and the name in its place; after ten seconds or more is a limit
VARIABLE = (
    (re.compile(r"(\baddress=)0x[0-9a-f]+"), r"\1ADDRESS"),
    (re.compile(r"(after )\d(\.\d+)?(e-\d+)?\b"), r"\1TIME"),
    (re.compile(r'("seconds": |"stopped_seconds": |^stopped seconds +|^seconds +|^  (?=\d+\.\d{6}  \w+\[))\d+(\.\d+)?(e-\d+)?\b', re.M), r"\1TIME"),
    (re.compile(r"^(mapping and unmapping a page +least ).*", re.M), r"\1TIME"),
    (re.compile(r"( \()\d+\.\d{3}( s\)$)", re.M), r"\1TIME\2"),
    # argparse's words differ between releases of Python.
    (re.compile(r"^! usage: .*\n(!  .*\n)*", re.M), ""),
    (re.compile(r" \(choose from .*\)$", re.M), ""),
)  # fmt: skip


def written(call: str, ran: Ran) -> str:
    """Return a call and its outcome as a transcript has them."""
    lines = [f"$ {call}", *ran.out.splitlines(), *(f"! {line}" for line in ran.err.splitlines())]
    if ran.code:
        lines.append(f"[exit {ran.code}]")
    # The tests may run in a child of the process that has imported this module.
    text = re.sub(rf'("pid": |process ){os.getpid()}\b', r"\1PID", "\n".join(lines) + "\n")
    for pattern, name in VARIABLE:
        text = pattern.sub(name, text)
    return text


def made(pyvfio: Command, call: str) -> Ran:
    """Make a call; assignments in front of it are the environment's."""
    words = shlex.split(call)
    with pytest.MonkeyPatch.context() as patch:
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            patch.setenv(name, value)
        return pyvfio(*words)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.txt")))
def test_a_session_prints_what_was_written_down(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = FOLDER / f"{name}.txt"
    for path in FOLDER.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nonexistent")  # no lspci
    text = file.read_text()
    profile = text.partition("\n")[0].removeprefix("# ")
    calls = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    pyvfio = Command(capsys, mock.Kernel(profile))
    now = [written(call, made(pyvfio, call)) for call in calls]
    if os.environ.get("PYVFIO_WRITE_TRANSCRIPTS"):
        file.write_text(f"# {profile}\n" + "".join(now))
        return
    before = re.split(r"^(?=\$ )", text, flags=re.M)[1:]
    for was, found in zip(before, now, strict=True):
        assert found == was


def test_every_subcommand_is_in_a_session() -> None:
    typed = {
        word for path in FOLDER.glob("*.txt") for line in path.read_text().splitlines() if line.startswith("$ ")
        for word in line.split()
    }  # fmt: skip
    # These have tests of their own: they start other programs, or print files.
    others = {"shell", "trace", "replay", "serve", "report", "completion", "manual"}
    assert set(program.COMMANDS) - typed == others
