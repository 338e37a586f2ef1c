# SPDX-License-Identifier: MIT
"""Lint, format, types, and the language rules that a program can check apply to every tracked file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from mypy.config_parser import parse_config_file
from mypy.find_sources import create_source_list
from mypy.options import Options

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@cache
def files() -> tuple[str, ...]:
    """Return the names of the project's files: those that git tracks, or all of an unpacked source package."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return tuple(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return tuple(str(path) for path in found if not any(part.startswith(".") or part == "build" for part in path.parts))


def is_written_in(name: str, suffixes: tuple[str, ...], interpreters: tuple[str, ...]) -> bool:
    """Return whether a file has one of the suffixes, or no suffix and one of the interpreters in its first line."""
    path = ROOT / name
    if path.suffix:
        return path.suffix in suffixes
    first = path.read_bytes().partition(b"\n")[0].decode(errors="replace")
    return first.startswith("#!") and first.split()[-1].rpartition("/")[2] in interpreters


def python_files() -> set[str]:
    return {name for name in files() if is_written_in(name, (".py", ".pyi"), ("python3", "python"))}


def shell_files() -> list[str]:
    return sorted(name for name in files() if is_written_in(name, (".sh", ".bash"), ("sh", "bash")))


def c_files() -> list[str]:
    return sorted(name for name in files() if name.endswith((".c", ".h")))


def tool(*command: str) -> str:
    """Run a tool of the `test` extra, assert that it returns 0, and return its output."""
    if not (BIN / command[0]).exists():
        pytest.skip(f"{command[0]} is not installed: pip install -e '.[test]'")
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_commands_without_a_suffix_are_among_the_files() -> None:
    assert {"scripts/test", "scripts/vm", "pyvfio/device.py"} <= python_files()
    assert ".ci/run" in shell_files()


def test_ruff_checks_every_python_file() -> None:
    shown = {str(Path(line).relative_to(ROOT)) for line in tool("ruff", "check", "--show-files").splitlines()}
    assert sorted(python_files() - shown) == []


def test_ruff_formats_every_python_file() -> None:
    # With --force-exclude a file that is left out is not counted.
    said = tool("ruff", "format", "--check", "--force-exclude", *sorted(python_files()))
    assert f"{len(python_files())} files already formatted" in said


def test_mypy_sees_every_python_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    options = Options()
    parse_config_file(options, lambda: None, "pyproject.toml", stdout=sys.stderr, stderr=sys.stderr)
    assert options.files
    assert not options.exclude
    seen = {str(Path(source.path)) for source in create_source_list(options.files, options) if source.path}
    # A module that has a stub is seen by that.
    unseen = {name for name in python_files() - seen if f"{name}i" not in seen and name.removesuffix("i") not in seen}
    assert sorted(unseen) == []


def test_shellcheck_passes_every_shell_file() -> None:
    assert tool("shellcheck", *shell_files()) == ""


def test_clang_format_passes_every_c_file() -> None:
    assert tool("clang-format", "--dry-run", "-Werror", *c_files()) == ""


def test_what_the_product_silences_has_a_reason() -> None:
    """In tests, most calls that a type checker is told to let pass are wrong on purpose."""
    bare = re.compile(r"#\s*(type: ignore\[[^]]*\]|noqa: [A-Z0-9, ]+?)\s*$")
    found = [
        f"{name}:{number}"
        for name in sorted(python_files())
        if name.startswith(("pyvfio/", "scripts/"))
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        if bare.search(line)
    ]
    assert found == []


def definitions() -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the modules, classes and functions of all files of Python, each with the file's name."""
    for name in sorted(python_files()):
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield name, node


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    """The first line says what a thing does or is, and not "What it does"."""
    assert [
        f"{name}: {text.partition(chr(10))[0]}"
        for name, node in definitions()
        if re.match(r"(What|Who|Where|Which|How)\b", text := ast.get_docstring(node) or "")
    ] == []


def test_names_of_tests_have_at_most_70_characters() -> None:
    assert [
        f"{name}: {node.name}"
        for name, node in definitions()
        if not isinstance(node, ast.Module) and node.name.startswith("test_") and len(node.name) > 70
    ] == []
