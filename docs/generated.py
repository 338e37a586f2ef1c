# SPDX-License-Identifier: MIT
"""Pages that are made when the site is built: the catalogue of findings, the command's help, the picture of the house."""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyvfio.cli import program
from pyvfio.host import diagnosis

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
#: a sentence of a human's for a finding: where its cure needs a word more than the catalogue has
WORDS: dict[str, str] = {}


def findings_page() -> str:
    """Return the catalogue of findings as MyST: a section for each id, with its meaning and the cure's template."""
    lines = [
        "# Findings",
        "",
        "Errors, `pyvfio doctor` and this page take their texts from one catalogue, `pyvfio.host.diagnosis`. A finding has an id, which "
        "`pyvfio doctor --json` prints, evidence that was seen on the host, and a cure.",
        "",
    ]
    for id_, meaning in sorted(diagnosis.CATALOGUE.items()):
        lines += [f"## {id_}", "", meaning, ""]
        if id_ in WORDS:
            lines += [WORDS[id_], ""]
    return "\n".join(lines)


def command_page(parser: argparse.ArgumentParser) -> str:
    """Return the command's help as MyST: a section for each subcommand."""
    lines = ["# The command", "", "```text", help_of(parser), "```", ""]
    for name, each in subcommands(parser):
        lines += [f"## pyvfio {name}", "", "```text", help_of(each), "```", ""]
    return "\n".join(lines)


def help_of(parser: argparse.ArgumentParser) -> str:
    """Return a parser's help at a width of 100 columns."""
    os.environ["COLUMNS"] = "100"
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        parser.print_help()
    return text.getvalue().rstrip()


def subcommands(parser: argparse.ArgumentParser) -> Iterable[tuple[str, argparse.ArgumentParser]]:
    """Yield the subcommands of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def write(path: Path, text: str) -> None:
    """Write a page if it differs, so that Sphinx does not read it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def generate(_: Sphinx | None = None) -> None:
    """Write the pages."""
    write(HERE / "reference" / "findings.md", findings_page())
    write(HERE / "reference" / "command.md", command_page(make_parser()))


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    return program.parser()


def document_partial(_: Sphinx, kind: str, name: str, object_: Any, options: Any, lines: list[str]) -> None:
    """Give a method that is a partial of another function that one's docstring."""
    del kind, name, options
    if isinstance(object_, functools.partial):
        lines[:] = (inspect.getdoc(object_.args[0]) or "").splitlines()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", document_partial)
    return {"parallel_read_safe": True, "doc": inspect.getdoc(generate)}
