# SPDX-License-Identifier: MIT
"""The manual page pyvfio(1), in roff, from the parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from pyvfio import __version__


def page(parser: argparse.ArgumentParser) -> str:
    """Return the page of a parser with subcommands."""
    return "\n".join(_page(parser)) + "\n"


def _page(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f'.TH PYVFIO 1 "" "pyvfio {__version__}" "User Commands"'
    yield ".SH NAME"
    yield "pyvfio \\- drive devices through the Linux VFIO and iommufd interfaces"
    yield ".SH SYNOPSIS"
    yield ".B pyvfio"
    yield "[\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIARGUMENT\\fR]..."
    yield ".SH DESCRIPTION"
    yield from _prose(parser.description or "")
    yield from _prose(parser.epilog or "")
    yield ".SH OPTIONS"
    yield from _arguments(parser)
    yield ".SH COMMANDS"
    for name, line, command in _commands(parser):
        yield f".SS pyvfio {_text(name)}"
        usage = re.sub(r"\s+", " ", command.format_usage().removeprefix("usage: ")).strip()
        yield f".nh\n.B {_text(usage)}\n.hy"
        yield ".PP"
        yield from _prose(command.description or line)
        yield from _arguments(command, but=("help", "kernel", "json"))
        if command.epilog:
            yield ".PP\n.nf"
            yield from (_text(one) for one in command.epilog.splitlines())
            yield ".fi"
    yield ".SH EXIT STATUS"
    for code, meaning in (
        ("0", "Done."),
        ("1", "Refused or failed; or something was found wrong, or different."),
        ("2", "Wrong usage."),
        ("3", "There is no such device, or nothing was found."),
    ):
        yield f".TP\n.B {code}\n{meaning}"
    yield ".PP\nA command that a signal ends, ends by that signal; the device is closed and restored first."
    yield ".SH ENVIRONMENT"
    yield ".TP\n.B PYVFIO_KERNEL\nThe kernel, as --kernel names it."
    yield ".TP\n.B PYVFIO_TRACE\nA file that the requests are written to, as `pyvfio trace` does."
    yield ".TP\n.B NO_COLOR\nNo colours, whatever the terminal can show."
    yield ".SH FILES"
    yield ".TP\n.I /run/pyvfio\nThe journal of changed bindings, by which `restore` finds what to put back."


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            lines = {one.dest: one.help or "" for one in action._choices_actions}
            for name, command in action.choices.items():
                yield name, lines.get(name, ""), command


def _arguments(parser: argparse.ArgumentParser, but: tuple[str, ...] = ()) -> Iterator[str]:
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or action.dest in but or action.help == argparse.SUPPRESS:
            continue
        value = (
            ""
            if action.nargs == 0
            else formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
        )
        names = ", ".join(action.option_strings)
        head = (
            f"\\fB{_text(names)}\\fR" + (f" \\fI{_text(value)}\\fR" if value else "")
            if names
            else f"\\fI{_text(value)}\\fR"
        )
        yield f".TP\n{head}\n{_text(formatter._expand_help(action)) if action.help else ''}".rstrip()


def _prose(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph:
            flowed = re.sub(r"\s+", " ", paragraph)
            yield f"{_text(flowed)}\n.PP"


def _text(text: str) -> str:
    """Return text for roff, with characters escaped that roff would take for a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in text.splitlines())
