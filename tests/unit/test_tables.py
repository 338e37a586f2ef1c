# SPDX-License-Identifier: MIT
"""Constants, tables and defaults of the package are those recorded in tables.txt, which a person has read.

Those of the mock are in tables_of_mock.txt.

Few tests use a given number in a table of names, an errno, a limit or a default, and a wrong one looks like a right
one. New names do not need a line. `PYVFIO_WRITE_TABLES=1 pytest tests/unit/test_tables.py` records all names. Check the
changes before you commit them.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import enum
import functools
import importlib
import inspect
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import pyvfio

PACKAGE = Path(pyvfio.__file__).parent
TABLES = {"package": Path(__file__).with_name("tables.txt"), "mock": Path(__file__).with_name("tables_of_mock.txt")}
MOCK = "mock/"
#: Modules that are left out: the conformance checks are compared with faults that they must find.
LEFT_OUT = ("conformance/", "__main__.py", "tracing/__main__.py")
Plain = (bool, int, float, bytes, type(None))
#: A pattern for values that get a line: numbers, flags, members of enumerations.
NUMBER = re.compile(r"(?<!\w)-?\d|True|False|\w\.\w")
#: The replacement for texts for people, which other tests check.
TEXT = "..."


def modules(part: str) -> Iterator[tuple[ModuleType, ast.Module]]:
    """Yield the modules of a part, `package` or `mock`, each with its syntax tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(LEFT_OUT) and name.startswith(MOCK) == (part == "mock"):
            dotted = ".".join(("pyvfio", *name.removesuffix(".py").removesuffix("__init__").strip("/").split("/")))
            # The dependencies of an extra may not be installed.
            with contextlib.suppress(ImportError):
                yield importlib.import_module(dotted.rstrip(".")), ast.parse(path.read_text())


def shown(value: Any) -> str | None:
    """Return a constant as text that is the same in each run; None for other kinds of values."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, str):
        return repr(value) if re.fullmatch(r"[\w.-]*", value) else TEXT
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 255:
        return hex(value)
    if isinstance(value, Plain):
        return repr(value)
    if isinstance(value, (set, frozenset)):
        parts = sorted(str(shown(one)) for one in value)
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, dict) or type(value).__name__ == "mappingproxy":
        return "{" + ", ".join(f"{shown(key)}: {shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(str(shown(one)) for one in value) + ")"
    if isinstance(value, range):
        return repr(value)
    if hasattr(type(value), "start") and hasattr(type(value), "last"):
        return f"[{value.start:#x}, {value.last:#x}]"
    if isinstance(value, (FunctionType, type)):
        return value.__qualname__
    if isinstance(value, struct.Struct):
        return f"Struct({value.format!r})"
    if dataclasses.is_dataclass(value):
        # Values that are the defaults are left out, so that new fields need no change.
        names = (one.name for one in dataclasses.fields(value) if getattr(value, one.name) != one.default)
        return f"{type(value).__name__}({', '.join(f'{name}={shown(getattr(value, name))}' for name in names)})"
    return None


def variables(syntax: ast.Module) -> set[str]:
    """Return the names of a module to which its functions assign: these are not constants, and other tests may have changed them."""
    return {name for node in ast.walk(syntax) if isinstance(node, ast.Global) for name in node.names}


def assigned(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names to which statements assign."""
    for statement in body:
        targets = statement.targets if isinstance(statement, ast.Assign) else ()
        for target in targets or ((statement.target,) if isinstance(statement, ast.AnnAssign) else ()):
            for one in target.elts if isinstance(target, ast.Tuple) else (target,):
                if isinstance(one, ast.Name):
                    yield one.id


def functions(of: Any, body: list[ast.stmt], scope: str) -> Iterator[str]:
    """Yield lines for the constants and the defaults of functions in a module or class, and in the classes inside it."""
    if isinstance(of, type) and issubclass(of, enum.Enum):
        yield f"{scope}: " + ", ".join(f"{one.name}={one.value!r}" for one in of)
        return
    for name in assigned(body):
        value = inspect.getattr_static(of, name, ...)
        # Each entry of a table gets a line, so that new entries can be added.
        rows = (
            {f"{name}[{shown(key)}]": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        )
        for row, one in rows.items():
            told = (text := shown(one)) is not None and (row != name or NUMBER.search(text))
            if told and name != "__version__":
                yield f"{scope}.{row} = {text}"
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            inner = inspect.getattr_static(of, statement.name, None)
            if isinstance(inner, type):
                defaults = getattr(inner, "_field_defaults", None)
                if defaults and NUMBER.search(shown(defaults) or ""):
                    yield f"{scope}.{statement.name} fields {shown(defaults)}"
                yield from functions(inner, statement.body, f"{scope}.{statement.name}")
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = inspect.unwrap(getattr(of, statement.name, None) or (lambda: None))
            for part in (function, getattr(function, "fget", None), getattr(function, "func", None)):
                if isinstance(part, FunctionType) and (part.__defaults__ or part.__kwdefaults__):
                    found = shown([*(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).items()])
                    if found and NUMBER.search(found):
                        yield f"{scope}.{statement.name}() {found}"


@functools.cache
def lines(part: str) -> dict[str, str]:
    """Return the current value of each name."""
    found: dict[str, str] = {}
    for module, syntax in modules(part):
        scope = module.__name__.removeprefix("pyvfio.")
        state = tuple(f"{scope}.{name} = " for name in variables(syntax))
        for line in functions(module, syntax.body, scope):
            if line.startswith(state):
                continue
            name, mark, value = re.split(r"( = | fields |\(\) |: )", line, maxsplit=1)
            found[f"{name}{mark}"] = value
    return found


@pytest.mark.parametrize("part", TABLES)
def test_what_was_written_down_is_so(part: str) -> None:
    now = lines(part)
    if os.environ.get("PYVFIO_WRITE_TABLES"):
        TABLES[part].write_text("".join(f"{name}{value}\n" for name, value in now.items()))
    before = {}
    for line in TABLES[part].read_text().splitlines():
        name, mark, value = re.split(r"( = | fields |\(\) |: )", line, maxsplit=1)
        before[f"{name}{mark}"] = value
    assert {name: now[name] for name in before if name in now} == {
        name: value for name, value in before.items() if name in now
    }
    # Rows may be added to a table, and a table may go; of one that is there, no row may.
    tables = {name.partition("[")[0] for name in now if "[" in name}
    assert [name for name in before if "[" in name and name not in now and name.partition("[")[0] in tables] == []
    assert sum(name in now for name in before) > len(before) * 9 // 10, "most names have gone: write the table again"
