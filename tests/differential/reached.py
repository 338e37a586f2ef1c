# SPDX-License-Identifier: MIT
"""The places where the mock can raise an errno, and those where it has done so."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2] / "pyvfio" / "mock"


class Site(NamedTuple):
    """A `raise Errno(...)` in the mock.

    :ivar name: `file::function::ERRNO`, with ` 2` for the second of that name, and so on; ERRNO is `?` if it is
        computed
    """

    file: str
    first: int
    last: int
    name: str


@cache
def sites() -> tuple[Site, ...]:
    """Return all places of the mock that raise an Errno."""
    found: list[Site] = []
    for path in sorted(ROOT.rglob("*.py")):
        file = str(path.relative_to(ROOT))
        _visit(ast.parse(path.read_text()), file, "", found)
    counts: Counter[str] = Counter()
    for index, site in enumerate(found):
        counts[site.name] += 1
        if counts[site.name] > 1:
            found[index] = site._replace(name=f"{site.name} {counts[site.name]}")
    return tuple(found)


def _visit(node: ast.AST, file: str, where: str, found: list[Site]) -> None:
    for child in ast.iter_child_nodes(node):
        inside = where
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            inside = f"{where}.{child.name}".lstrip(".")
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and ast.unparse(child.exc.func) == "Errno":
            what = ast.unparse(child.exc.args[0])
            name = what.removeprefix("errno.") if what.startswith("errno.") and what[6:].isidentifier() else "?"
            found.append(Site(file, child.lineno, child.end_lineno or child.lineno, f"{file}::{where}::{name}"))
        _visit(child, file, inside, found)


@contextmanager
def noted() -> Iterator[set[tuple[str, int]]]:
    """Record the files and lines at which the mock raises an Errno during the block."""
    from pyvfio.mock.machine.errno import Errno

    places: set[tuple[str, int]] = set()
    original = Errno.__init__
    root = f"{ROOT}/"

    def init(self: Any, number: int) -> None:
        frame = sys._getframe(1)
        path = frame.f_code.co_filename
        if path.startswith(root):
            places.add((path.removeprefix(root), frame.f_lineno))
        original(self, number)

    Errno.__init__ = init  # type: ignore[method-assign]
    try:
        yield places
    finally:
        Errno.__init__ = original  # type: ignore[method-assign]


def unreached(places: set[tuple[str, int]]) -> list[Site]:
    return [
        site
        for site in sites()
        if not any(file == site.file and site.first <= line <= site.last for file, line in places)
    ]


class Branches:
    """A counter of the mock's branches that are taken, if coverage is installed: `with Branches() as branches`, then `str(branches)`."""

    def __init__(self) -> None:
        try:
            from coverage import Coverage
        except ImportError:
            self._coverage: Any = None
        else:
            self._coverage = Coverage(branch=True, include=[f"{ROOT}/*"], data_file=None)

    def __enter__(self) -> Branches:
        if self._coverage is not None:
            self._coverage.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._coverage is not None:
            self._coverage.stop()

    def __str__(self) -> str:
        if self._coverage is None:
            return "branches of the mock reached: not counted, coverage is not installed"
        total = taken = 0
        for path in sorted(ROOT.rglob("*.py")):
            for exits, reached in self._coverage.branch_stats(str(path)).values():
                total, taken = total + exits, taken + reached
        return f"{taken} of {total} branches of the mock reached"
