# SPDX-License-Identifier: MIT
"""Pages that are made when the site is built: the API, the command, the catalogue of findings, the notebooks with their pictures."""

from __future__ import annotations

import argparse
import builtins
import enum
import functools
import inspect
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.addnodes import pending_xref
from sphinx.util import inspect as sphinx_inspect

import api_pages
import executed
from pyvfio._core.resource import Resource
from pyvfio.cli import program
from pyvfio.host import diagnosis

if TYPE_CHECKING:
    from docutils.nodes import Element  # type: ignore[import-untyped]  # it has no types
    from sphinx.application import Sphinx

#: groups of options that many commands have
SHARED = ("options of every command", "how the device is opened")
#: name of an attribute -> its description, in the docstring of its class
FIELDS: dict[str, list[str]] = {}
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
    """Return the command's help as MyST: a section for each subcommand. What they share is said once."""
    commands = dict(subcommands(parser))
    words = {
        action.dest: action.help or ""
        for each in choices(parser)
        for action in each._choices_actions
    }
    first = next(each for name, each in commands.items() if name == "peek")
    shared = [group for group in first._action_groups if group.title in SHARED]
    lines = [
        "# The command",
        "",
        *paragraphs(parser.description),
        "| command | |",
        "|---|---|",
    ]
    lines += [
        f"| [{name}](#pyvfio-{name}) | {escape(words[name])} |" for name in commands
    ]
    lines += ["", *paragraphs(parser.epilog)]
    for group in shared:
        lines += [
            f"## {str(group.title).capitalize()}",
            "",
            *paragraphs(group.description),
            *arguments(group),
        ]
    for name, each in commands.items():
        lines += [
            f"## pyvfio {name}",
            "",
            *synopsis(each),
            *paragraphs(each.description),
        ]
        for group in each._action_groups:
            if group.title in SHARED:
                continue
            rows = arguments(group)
            if rows and group.title not in ("positional arguments", "options"):
                lines += [f"{str(group.title).capitalize()}:", ""]
            lines += rows
        if any(group.title == SHARED[1] for group in each._action_groups):
            lines += [f"And [{SHARED[1]}](#{SHARED[1].replace(' ', '-')}).", ""]
        lines += paragraphs(each.epilog)
    return "\n".join(lines)


def synopsis(parser: argparse.ArgumentParser) -> list[str]:
    """Return how a command is called, without the options that many commands share."""
    shared = {
        action.dest
        for group in parser._action_groups
        if group.title in SHARED
        for action in group._group_actions
    }
    own = [
        action
        for action in parser._actions
        if action.dest not in shared and action.dest != "help"
    ]
    formatter = argparse.HelpFormatter(parser.prog, width=84)
    formatter.add_usage(None, own, parser._mutually_exclusive_groups, prefix="")
    return ["```text", formatter.format_help().strip(), "```", ""]


def arguments(group: argparse._ArgumentGroup) -> list[str]:
    """Return the arguments of a group as a definition list. `--help` is not worth a line in each section."""
    lines = []
    formatter = argparse.HelpFormatter("pyvfio")
    for action in group._group_actions:
        if action.dest != "help":
            name = formatter._format_action_invocation(action)
            help_ = formatter._expand_help(action) if action.help else ""
            lines += [f"`{name}`", f": {escape(help_)}", ""]
    return lines


def paragraphs(text: str | None) -> list[str]:
    """Return paragraphs as MyST: those with indented lines as they stand, the others to be filled."""
    lines = []
    for each in re.split(r"\n{2,}", (text or "").strip("\n")):
        if re.search("^ ", each, re.MULTILINE):
            head, body = (
                each.split("\n", 1) if not each.startswith(" ") else ("", each)
            )
            lines += [
                *([escape(head), ""] if head else []),
                "```text",
                textwrap.dedent(body),
                "```",
                "",
            ]
        elif each:
            lines += [escape(each), ""]
    return lines


def escape(text: str) -> str:
    """Escape what Markdown would take for markup, outside of `code`."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_<>|\[\]#$])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def choices(
    parser: argparse.ArgumentParser,
) -> Iterable[argparse._SubParsersAction[argparse.ArgumentParser]]:
    """Yield a parser's arguments that name a subcommand."""
    return (
        action
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )


def subcommands(
    parser: argparse.ArgumentParser,
) -> Iterable[tuple[str, argparse.ArgumentParser]]:
    """Yield the subcommands of a parser."""
    for action in choices(parser):
        yield from action.choices.items()


def write(path: Path, text: str) -> None:
    """Write a page if it differs, so that Sphinx does not read it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def generate(_: Sphinx | None = None) -> None:
    """Write the pages."""
    write(HERE / "reference" / "findings.md", findings_page())
    write(HERE / "reference" / "command.md", command_page(program.parser()))
    write(HERE / "reference" / "api.md", api_pages.contents())
    for page in api_pages.PAGES:
        write(
            HERE / "reference" / "api" / f"{page.module}.md", api_pages.text(page)
        )
    for notebook in sorted((HERE / "notebooks").glob("*.ipynb")):
        executed.render(notebook)


def sign(
    _: Sphinx, kind: str, name: str, object_: Any, *rest: Any
) -> tuple[str, str] | None:
    """Give a resource the signature of its `__init__`: their metaclass has one that says nothing."""
    del name, rest
    if kind == "class" and issubclass(object_, Resource):
        signature = sphinx_inspect.signature(object_.__init__, bound_method=True)
        return sphinx_inspect.stringify_signature(
            signature.replace(return_annotation=inspect.Signature.empty)
        ), ""
    return None


def document(
    _: Sphinx, kind: str, name: str, object_: Any, options: Any, lines: list[str]
) -> None:
    """Complete docstrings: of partials, of the fields of named tuples, of the members of enumerations."""
    del options
    if isinstance(object_, functools.partial):
        lines[:] = (inspect.getdoc(object_.args[0]) or "").splitlines()
    elif kind == "class" and hasattr(object_, "_fields"):
        lines[:] = move_fields(name, lines)
    elif kind == "class" and issubclass(object_, enum.Enum):
        lines += [
            "",
            "Members: " + ", ".join(f"``{each.name}``" for each in object_),
        ]
    elif lines and lines[0].startswith("Alias for field number"):
        lines[:] = FIELDS.get(name, [])


def move_fields(name: str, lines: list[str]) -> list[str]:
    """Return a docstring without its `:ivar x:`, and keep these for the attributes that they describe."""
    kept: list[str] = []
    taking: list[str] | None = None
    for line in lines:
        begun = re.match(r":ivar (\w+): ?(.*)", line)
        if begun:
            taking = FIELDS[f"{name}.{begun[1]}"] = [begun[2]]
        elif taking is not None and line.startswith(" "):
            taking.append(line.strip())
        else:
            taking = None
            kept.append(line)
    return kept


def forget_builtins(_: Sphinx, tree: Element) -> None:
    """Leave `bytes` in a signature without a link: Sphinx would find a property of that name."""
    for reference in list(tree.findall(pending_xref)):
        if reference.get("refdomain") == "py" and hasattr(
            builtins, str(reference.get("reftarget"))
        ):
            reference.replace_self(reference.children)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", document)
    app.connect("autodoc-process-signature", sign)
    app.connect("doctree-read", forget_builtins)
    return {"parallel_read_safe": True, "doc": inspect.getdoc(generate)}
