# SPDX-License-Identifier: MIT
"""The house: rules for imports between modules, checked in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import pyvfio

PACKAGE = Path(pyvfio.__file__).parent

#: The floors from the top down. A module may import from its own floor and from those below. A name stands for the
#: module or package with all its contents; the longest matching name decides.
FLOORS = (
    ("__main__", "cli", "conformance"),
    ("plot", "notebook", "pytest_plugin"),
    ("",),  # pyvfio/__init__.py
    ("tracing", "kernels", "abi", "vfio_user", "vfio_mock"),
    ("spaces", "iommufd"),
    # These are on one floor because a device creates its log, and a log refers to its devices.
    ("dirty", "device", "region", "irq", "pci", "feature", "migration", "hot_reset", "low_power", "dma_buf"),
    ("_core",),
    ("host",),
    ("guest",),
    ("mock",),
    ("bitmap", "memory"),
    ("iova", "kernel"),
    (
        "errors",
        "process_memory",
        "uncopyable",
        "_abi",
        "_buffer",
        "_core.arguments",
        "_core.flags",
        "_core.html",
        "_core.sizes",
        "_core.weak",
    ),
)

#: The only circle of imports (for types only) that is not inside one folder, by its folders: a device refers to its
#: address space, and an address space to its devices.
KNOWN_TYPE_CIRCLES = {frozenset({"", "dirty", "iommufd", "spaces"})}


class Import(NamedTuple):
    """One module's import of another.

    :ivar types: whether it is under TYPE_CHECKING
    :ivar line: its line
    """

    importer: str
    imported: str
    types: bool
    line: int


@cache
def modules() -> dict[str, Path]:
    """Return every module's file by the module's name without `pyvfio.`. The package itself has the empty name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def module_of(dotted: str) -> str | None:
    """Return the module that an absolute dotted name denotes or is in; None outside of the package."""
    package, _, name = dotted.partition(".")
    # Ignore the extensions: they import nothing from the package.
    if package != "pyvfio" or name.partition(".")[0] in ("_abi", "_buffer"):
        return None
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


class Finder(ast.NodeVisitor):
    """A visitor that collects a module's imports: import statements anywhere in it, and calls of import_module()."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.types = False
        self.found: list[Import] = []

    def add(self, dotted: str, line: int) -> None:
        target = module_of(dotted)
        if target is not None and target != self.module:
            self.found.append(Import(self.module, target, self.types, line))

    def visit_If(self, node: ast.If) -> None:
        outer, self.types = self.types, self.types or ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body:
            self.visit(statement)
        self.types = outer
        for statement in node.orelse:
            self.visit(statement)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert not node.level, f"{self.module}: relative import"
        for alias in node.names:
            self.add(f"{node.module}.{alias.name}", node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func).endswith("import_module") and node.args:
            for prefix in self.prefixes(node.args[0]):
                for name in modules():
                    if (
                        name and name in public() | {prefix[7:]}
                        if not self.module
                        else f"pyvfio.{name}".startswith(prefix)
                    ):
                        self.add(f"pyvfio.{name}", node.lineno)
        self.generic_visit(node)

    def prefixes(self, argument: ast.expr) -> Iterator[str]:
        """Yield the beginnings of the name in an import_module() call, as far as they are constant in the source."""
        if isinstance(argument, ast.Constant):
            yield str(argument.value)
        elif isinstance(argument, ast.JoinedStr):
            first = argument.values[0]
            if isinstance(first, ast.Constant):
                yield str(first.value)
            elif ast.unparse(first) == "f'{__name__}'":
                yield f"pyvfio.{self.module}." if self.module else "pyvfio."


@cache
def public() -> frozenset[str]:
    """Return the modules from which pyvfio/__init__.py loads names at their first use."""
    tree = ast.parse(modules()[""].read_text(encoding="utf-8"))
    (table,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_PUBLIC"
    )
    homes = ast.literal_eval(table)
    return frozenset(home for home in homes if home) | frozenset(homes[""])


@cache
def imports() -> tuple[Import, ...]:
    found = []
    for name, path in modules().items():
        finder = Finder(name)
        finder.visit(ast.parse(path.read_text(encoding="utf-8")))
        found += finder.found
    return tuple(found)


def circles(edges: set[tuple[str, str]]) -> list[frozenset[str]]:
    """Return the strongly connected components with more than one module (Tarjan's algorithm without recursion)."""
    after: dict[str, list[str]] = {name: [] for name in modules()}
    for importer, imported in sorted(edges):
        after[importer].append(imported)
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []
    for root in after:
        if root in number:
            continue
        work = [(root, iter(after[root]))]
        number[root] = low[root] = len(number)
        stack.append(root)
        while work:
            name, rest = work[-1]
            following = next(rest, None)
            if following is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == number[name]:
                    at = stack.index(name)
                    members, stack[at:] = frozenset(stack[at:]), []
                    if len(members) > 1:
                        found.append(members)
            elif following not in number:
                number[following] = low[following] = len(number)
                stack.append(following)
                work.append((following, iter(after[following])))
            elif following in stack:
                low[name] = min(low[name], number[following])
    return found


def floor_of(module: str) -> int:
    """Return the number of a module's floor; 0 is the top."""
    homes = {name: index for index, floor in enumerate(FLOORS) for name in floor}
    name = module
    while name not in homes:
        name = name.rpartition(".")[0]
        if not name and module:
            raise KeyError(f"{module} has no floor: add it to FLOORS")
    return homes[name]


def folder_of(module: str) -> str:
    """Return a module's folder under pyvfio/; '' for pyvfio/ itself."""
    top = module.partition(".")[0]
    return top if (PACKAGE / top).is_dir() else ""


def test_no_circle_at_run_time() -> None:
    assert circles({(each.importer, each.imported) for each in imports() if not each.types}) == []


def test_circles_for_types_stay_in_a_folder() -> None:
    found = circles({(each.importer, each.imported) for each in imports()})
    leaving = {frozenset(map(folder_of, members)) for members in found}
    assert {folders for folders in leaving if len(folders) > 1} == KNOWN_TYPE_CIRCLES


def test_imports_point_down() -> None:
    wrong = [
        f"{each.importer or '__init__'}:{each.line} imports {each.imported}, which is above it"
        for each in imports()
        if not each.types and floor_of(each.imported) < floor_of(each.importer)
    ]
    assert wrong == []


def test_the_ground_imports_nothing_of_the_package() -> None:
    ground = FLOORS[-1]
    assert [each for each in imports() if each.importer in ground and each.imported not in ("", *ground)] == []


@pytest.mark.parametrize(
    "folder",
    sorted(
        {name.rpartition(".")[0] for name in modules() if name and name[0] not in "_" and not name.startswith("mock")}
    ),
)
def test_no_public_name_is_a_modules_name(folder: str) -> None:
    """If a module and a function had the same name, `from pyvfio.guest import plan` would be ambiguous."""
    names = {name.removeprefix(f"{folder}.") for name in modules() if name and name.rpartition(".")[0] == folder}
    clashes = []
    for name in [*sorted(names), ""]:
        dotted = f"{folder}.{name}".strip(".")
        tree = ast.parse(modules()[dotted].read_text(encoding="utf-8"))
        defined = {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
        }
        clashes += [f"{dotted} defines {one}, which is a module's name too" for one in sorted(defined & names)]
    assert clashes == []


def test_the_finder_sees_each_kind_of_import() -> None:
    """A test of the tests: an import that the finder misses would not be checked."""
    finder = Finder("mock.x")
    source = """
from pyvfio.host import devices
def f():
    import pyvfio.iova
    from pyvfio import kernel
    importlib.import_module("pyvfio.device")
    import_module(f"pyvfio.spaces.{name}")
if TYPE_CHECKING:
    from pyvfio.irq import Irq
else:
    import pyvfio.region
"""
    finder.visit(ast.parse(source))
    at_run_time = {each.imported for each in finder.found if not each.types}
    assert at_run_time >= {"host", "iova", "kernel", "device", "spaces.container", "region"}
    assert {each.imported for each in finder.found if each.types} == {"irq"}


def test_circles_are_found() -> None:
    edges = {("iova", "kernel"), ("kernel", "errors"), ("errors", "iova"), ("device", "iova")}
    assert circles(edges) == [frozenset({"iova", "kernel", "errors"})]
    assert circles(edges - {("errors", "iova")}) == []
