# SPDX-License-Identifier: MIT
"""The language of the package: docstrings say what a thing does or is, and texts do not use phrases that readers had to decode."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyvfio

PACKAGE = Path(pyvfio.__file__).parent
ROOT = Path(__file__).parents[2]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "mock" not in path.relative_to(PACKAGE).parts)
TEXTS = [*MODULES, *(path for name in ("README.md", "CONTRIBUTING.md") if (path := ROOT / name).exists())]

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

#: The beginning of a docstring that does not say what a thing does or is.
RIDDLE = re.compile(r"(What|Who|How)\b|:")
#: Phrases that mean nothing to readers who do not know the program already.
BANNED = re.compile(
    r"in the hands of|\b's hands\b|stands on\b|stood on\b|comes back to|of one's own|leads out|nobody hears"
    r"|door-keeper|that is none\b|that are none\b"
)


def documented(path: Path) -> Iterator[tuple[str, bool, str | None]]:
    """Yield the name, whether it is public, and the docstring of a module and of its classes, functions and methods."""

    def walk(node: Documented, name: str, public: bool) -> Iterator[tuple[str, bool, str | None]]:
        yield name, public, ast.get_docstring(node)
        if isinstance(node, ast.Module | ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not setter(child):
                    yield from walk(child, f"{name}.{child.name}", public and not child.name.startswith("_"))

    yield from walk(ast.parse(path.read_text()), path.relative_to(PACKAGE).as_posix(), True)


def setter(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function is the setter of a property, whose docstring is the getter's."""
    return any(isinstance(one, ast.Attribute) and one.attr == "setter" for one in node.decorator_list)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_docstrings_say_what_a_thing_does_or_is(path: Path) -> None:
    """The first word is neither What, Who or How, nor a Sphinx field."""
    wrong = [f"{name}: {text.splitlines()[0]}" for name, _, text in documented(path) if text and RIDDLE.match(text)]
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_public_name_has_a_docstring(path: Path) -> None:
    assert not [name for name, public, text in documented(path) if public and not text]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_banned_phrases_do_not_occur(path: Path) -> None:
    text = path.read_text()
    assert not [text[: found.start()].count("\n") + 1 for found in BANNED.finditer(text)]
