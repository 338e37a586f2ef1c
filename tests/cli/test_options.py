# SPDX-License-Identifier: MIT
"""The arguments of each subcommand are those recorded in options.txt: names, numbers, types, defaults, choices.

`PYVFIO_WRITE_OPTIONS=1 pytest tests/cli/test_options.py` records them again. Check the changes before you commit them.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvfio.cli import program
from pyvfio.cli.session import OPENING
from tests.cli.command import Command

FILE = Path(__file__).with_name("options.txt")


def described(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a line for each argument of a parser."""
    for action in parser._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        kind = re.sub(r"^_|Action$", "", type(action).__name__)
        fields = {
            "dest": action.dest,
            "nargs": action.nargs,
            "type": getattr(action.type, "__name__", None),
            "default": None if action.default == argparse.SUPPRESS else action.default,
            "choices": None if action.choices is None else " ".join(map(str, action.choices)),
            "metavar": action.metavar,
        }
        shown = ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None)
        yield f"  {' '.join(action.option_strings) or 'positional'}: {kind}, {shown}"
        assert action.help, action


def test_the_arguments_are_those_recorded() -> None:
    lines = [
        line
        for name in program.COMMANDS
        for line in (name, *described(program.parser(name)._subparsers._group_actions[0].choices[name]))  # type: ignore[union-attr,index]  # argparse names the commands only there
    ]
    lines += ["pyvfio", *described(program.parser())]
    if os.environ.get("PYVFIO_WRITE_OPTIONS"):
        FILE.write_text("\n".join(lines) + "\n")
    assert lines == FILE.read_text().splitlines()


@pytest.mark.parametrize("name", sorted(program.COMMANDS))
def test_the_help_of_a_subcommand_begins_with_its_description(
    pyvfio: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # argparse wraps lines, also at hyphens
    text = program._module(name).__doc__.strip()
    out = flowed(pyvfio(name, "--help").out)
    assert flowed(text) in out
    assert flowed(program.COMMANDS[name]) in flowed(pyvfio("--help").out)
    assert "options of every command" in out
    assert ("how the device is opened: " + OPENING in out) == (name in OPENS)


def flowed(text: str) -> str:
    """Return a text without its line breaks."""
    return " ".join(text.split())


#: The subcommands that can open a device.
OPENS = {
    "show", "run", "shell", "peek", "poke", "dump", "config", "iova", "qemu-log", "reset", "irq", "dirty", "migrate", "report",
}  # fmt: skip


def test_the_help_explains_addresses_and_exit_codes(pyvfio: Command) -> None:
    out = pyvfio("--help").out
    assert program.DESCRIPTION in out
    assert program.EPILOG in out


def test_common_options_stand_before_and_after_the_subcommand(pyvfio: Command) -> None:
    assert pyvfio("--json", "list").out == pyvfio("list", "--json").out


@pytest.mark.parametrize("name", ["list", "show", "run"])
def test_options_are_not_abbreviated(pyvfio: Command, name: str) -> None:
    assert pyvfio("--js", name).code == 2
    assert pyvfio(name, "vfio-mock.0", "--mod", "type1").code == 2
