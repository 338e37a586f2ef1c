# SPDX-License-Identifier: MIT
"""Measure the lines of the package that each test executes. Results are kept, and measured again only after changes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from vmtest.environment import ROOT
from vmtest.problems import Problem, say

#: Distance in lines from a statement at module or class level. Code that is farther away is taken to be unrelated
#: unless it uses the name that the statement binds.
FAR = 60


class Session(NamedTuple):
    """Tests that pytest collects together.

    :ivar name: `host`, `differential`, or a cell of the contract suite on the mock
    :ivar folders: folders of the tests
    :ivar options: options for pytest
    :ivar without: patterns of test files that are left out
    :ivar unmeasured: patterns of test files that run, but whose lines are not measured
    """

    name: str
    folders: tuple[str, ...]
    options: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()

    def files(self, root: Path) -> list[str]:
        """Return the paths of its test files below the root, with those in TABLES first."""
        found = (str(path.relative_to(root)) for folder in self.folders for path in (root / folder).glob("test_*.py"))
        wanted = (name for name in found if not any(fnmatch(name, pattern) for pattern in self.without))
        return sorted(wanted, key=lambda name: (name not in TABLES, name))

    def measured(self, root: Path) -> list[str]:
        """Return the paths of the test files whose lines are measured."""
        return [name for name in self.files(root) if not any(fnmatch(name, pattern) for pattern in self.unmeasured)]


#: Cells of the mock that have each mode and each kind of device at least once.
CELLS = (
    "intel/iommufd/vfio-mock/mock", "amd/type1v2/edu/mock", "intel/iommufd/edu/mock", "intel/type1/vfio-mock/mock",
    "intel/iommufd-type1v2/edu/mock", "amd/iommufd-type1/vfio-mock/mock",
)  # fmt: skip
#: The tests outside of the contract suite. The files left out execute no line of the package: test_native compiles the
#: C code, test_vmtest_* test the harness, test_house and test_language read the source, and test_reproducers starts
#: other processes.
HOST = Session(
    "host",
    ("tests/unit", "tests/mock", "tests/vectors", "tests/robustness", "tests/cli", "tests/notebook", "tests/vfio_user"),
    ("-m", "not slow"),
    (
        "*/test_vmtest_*", "*/test_native.py", "*/test_house.py", "*/test_language.py", "*/test_reproducers.py",
    ),
    ("*/test_signals.py", "*/test_threads.py", "*/test_failures.py"),
)  # fmt: skip
#: Tests of the unmeasured files that try every point, or every pair of calls, of a program. Measuring their lines would
#: take longer than measuring all others. They run for a line that no other test executes.
SWEEPS = tuple(
    f"tests/robustness/{test}[{mode}]"
    for mode in ("iommufd", "type1v2", "type1", "iommufd-type1v2")
    for test in (
        "test_threads.py::test_kernel_and_library_agree_after_two_calls_at_once",
        "test_signals.py::test_kernel_and_library_agree_wherever_a_handler_raises",
    )
)
#: Tests that compare the constants of every module. They execute no line that defines one.
TABLES = ("tests/unit/test_tables.py", "tests/unit/test_declared_errnos.py")
#: The tests that compare the mock with recorded episodes of real kernels.
DIFFERENTIAL = Session("differential", ("tests/differential",), ("-m", "not slow"))


def sessions(*, mock: bool) -> list[Session]:
    """Return the sessions whose tests can find a mutant.

    :param mock: the mutant is in pyvfio/mock
    """
    cells = [Session(cell, ("tests/contract",), ("--cell", cell)) for cell in CELLS]
    return [HOST, *([DIFFERENTIAL] if mock else []), *cells]


class MeasuredTest(NamedTuple):
    """A test that passes on the unchanged package.

    :ivar session: the name of its session
    :ivar name: its node id in pytest
    :ivar seconds: processor time during the measurement
    :ivar lines: for each file of the package a number with one bit for each line; the bit is set if the test executes
        the line
    """

    session: str
    name: str
    seconds: float
    lines: dict[str, int]

    @property
    def breadth(self) -> int:
        """Return the number of lines that a test executes."""
        return sum(bits.bit_count() for bits in self.lines.values())


def digest(files: Iterable[Path]) -> str:
    """Return a digest of files' contents."""
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def environment(copy: Path) -> dict[str, str]:
    """Return the environment in which Python finds the package in a copy of the project."""
    found = os.environ | {"PYTHONPATH": f"{copy}{os.pathsep}{ROOT / 'scripts'}", "PYTHONHASHSEED": "0"}
    # Let Python and pytest keep compiled files. (A package with a mutant is never compiled to a file: see Serving.)
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


class Moves:
    """The way from the lines of a source to those of a later one.

    A new line is executed by the tests that executed what it replaces, or the line before it.
    """

    def __init__(self, before: str, after: str) -> None:
        lines = SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
        self._parts = lines.get_opcodes()

    def apply(self, bits: int) -> int:
        """Return a number with a bit for each line of the later source, from one for the earlier."""
        found = 0
        for kind, begin, end, to, to_end in self._parts:
            first = begin if kind == "equal" else max(begin - 1, 0)
            there = bits >> first + 1 & (1 << end - first) - 1
            if kind == "equal":
                found |= there << to + 1
            elif there:
                found |= (1 << to_end - to) - 1 << to + 1
        return found


class LineMap:
    """The lines that each test of some sessions executes.

    The measurements are kept in a folder, for each test file. They are valid as long as the test file is unchanged. Where
    the package has changed since, their lines are moved to where they are now. A measurement that is out of date can miss
    a test of a mutant, so that the mutant survives; it makes no mutant found.

    :param copy: a copy of the project, in which the tests run
    :param folder: folder for the measurements
    :param wanted: the sessions
    """

    def __init__(self, copy: Path, folder: Path, wanted: Sequence[Session]) -> None:
        self._copy = copy
        self._folder = folder
        self.tests: list[MeasuredTest] = []
        #: Lines that run while modules are imported and tests are collected.
        self.imported: dict[str, int] = {}
        self._moves: dict[tuple[str, str], Moves] = {}
        self._digests = {str(path.relative_to(ROOT)): digest([path]) for path in (ROOT / "pyvfio").rglob("*.py")}
        for session in wanted:
            self._add(session)

    def _add(self, session: Session) -> None:
        file = self._folder / f"{session.name.replace('/', '-')}.json"
        known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        stale = [name for name in session.measured(ROOT) if not self._holds(name, known.get(name))]
        if stale:
            say(f"measuring which lines {len(stale)} test files execute ({session.name})")
            known |= self._measure(session, stale)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(known))
        for name in session.measured(ROOT):
            for test, (passed, seconds, lines) in known[name]["tests"].items():
                needs = known[name]["needs"]
                bits = {
                    path: self._now(path, needs.get(path, ""), int(number, 16))
                    for path, number in lines.items()
                    if path in self._digests
                }
                if not test:
                    for path, number in bits.items():
                        self.imported[path] = self.imported.get(path, 0) | number
                elif passed:
                    self.tests.append(MeasuredTest(session.name, test, seconds, bits))

    def _holds(self, name: str, entry: dict[str, Any] | None) -> bool:
        return (
            entry is not None
            and entry["own"] == digest([ROOT / name])
            and all(path not in self._digests or self._has(path, number) for path, number in entry["needs"].items())
        )

    def _has(self, path: str, number: str) -> bool:
        return number == self._digests[path] or self._source(number).exists()

    def _source(self, number: str) -> Path:
        """Return where the source with a digest is kept."""
        return self._folder / "sources" / f"{number}.py"

    def _now(self, path: str, number: str, bits: int) -> int:
        """Return the lines of a file as they are now."""
        if number in (self._digests[path], ""):
            return bits
        if (path, number) not in self._moves:
            self._moves[path, number] = Moves(self._source(number).read_text(), (ROOT / path).read_text())
        return self._moves[path, number].apply(bits)

    def _measure(self, session: Session, files: Sequence[str]) -> dict[str, Any]:
        out = self._copy / ".lines.json"
        out.unlink(missing_ok=True)
        command = [sys.executable, "-m", "vmtest.mutant_session", "coverage", str(out), *session.options, *files]
        done = subprocess.run(
            command, cwd=self._copy, env=environment(self._copy), capture_output=True, text=True, check=False
        )
        if not out.exists():
            raise Problem(f"the tests of {session.name} did not run:\n{done.stdout}{done.stderr}")
        measured: dict[str, Any] = json.loads(out.read_text())
        self._source("").parent.mkdir(parents=True, exist_ok=True)
        for path, number in self._digests.items():
            if not self._source(number).exists():
                self._source(number).write_bytes((self._copy / path).read_bytes())
        found: dict[str, Any] = {}
        for name in files:
            tests = {test: told for test, told in measured.items() if test.partition("::")[0] in (name, "")}
            needs = {path for told in tests.values() for path in told["lines"]}
            found[name] = {
                "own": digest([ROOT / name]),
                "needs": {path: self._digests[path] for path in needs},
                "tests": {test: (told["passed"], told["seconds"], told["lines"]) for test, told in tests.items()},
            }
        return found

    def executing(self, file: str, lines: tuple[int, int]) -> list[MeasuredTest]:
        """Return the tests that execute one of the lines, sorted so that quick tests that execute few lines come first."""
        mask = (1 << lines[1] + 1) - (1 << lines[0])
        found = [test for test in self.tests if test.lines.get(file, 0) & mask]
        if not found:
            return [MeasuredTest(HOST.name, name, 2, {}) for name in SWEEPS]
        return sorted(found, key=lambda test: test.breadth * (0.05 + test.seconds))

    def runs_at_import(self, file: str, lines: tuple[int, int]) -> bool:
        """Return whether one of the lines runs before any test does."""
        return bool(self.imported.get(file, 0) & ((1 << lines[1] + 1) - (1 << lines[0])))

    def near(self, file: str, lines: tuple[int, int]) -> list[MeasuredTest]:
        """Return the tests that may find a change of a statement at module or class level.

        The order is: tests in TABLES; tests whose file has the name that the statement binds, or that execute a line
        with that name; tests that execute lines nearby; tests that execute other lines of the module, or modules that
        import it.
        """
        text = "\n".join((ROOT / file).read_text().splitlines()[lines[0] - 1 : lines[1]])
        names = [name for name in re.findall(r"^\s*(\w+)\s*(?::[^=]*)?=", text)[:1] if len(name) > 2]
        name = re.compile(rf"\b{names[0]}\b") if names else None
        module = re.compile(rf"\b{Path(file).stem}\b")
        uses: dict[str, int] = {}
        importers: dict[str, int] = {}
        for path in (ROOT / "pyvfio").rglob("*.py"):
            source = path.read_text()
            key = str(path.relative_to(ROOT))
            if name is not None and name.search(source):
                matching = (n for n, line in enumerate(source.splitlines(), 1) if name.search(line))
                uses[key] = sum(1 << number for number in matching) & ~self.imported.get(key, 0)
            if any("import" in line and module.search(line) for line in source.splitlines()):
                importers[key] = ~self.imported.get(key, 0)
        naming = {
            str(path.relative_to(ROOT))
            for path in (ROOT / "tests").rglob("test_*.py")
            if name is not None and name.search(source := path.read_text()) and module.search(source)
        }
        executed = ~self.imported.get(file, 0)

        def rank(test: MeasuredTest) -> int | None:
            if test.name.startswith(TABLES):
                return -1
            if test.name.partition("::")[0] in naming or any(test.lines.get(path, 0) & uses[path] for path in uses):
                return 0
            here = test.lines.get(file, 0) & executed
            around = (1 << lines[1] + FAR) - (1 << max(lines[0] - FAR, 0))
            if here & around:
                nearest = min(
                    away for away in range(FAR + 1) if (here >> lines[1] + away | here >> max(lines[0] - away, 0)) & 1
                )
                return 1 + nearest
            if here or any(test.lines.get(path, 0) & importers[path] for path in importers):
                return 2 + FAR
            return None

        ranked = [
            (found, test.breadth * (0.05 + test.seconds), test)
            for test in self.tests
            if (found := rank(test)) is not None
        ]
        return [test for *_, test in sorted(ranked, key=lambda item: item[:2])]
