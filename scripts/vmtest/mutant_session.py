# SPDX-License-Identifier: MIT
"""A pytest session that collects tests once, and then forks for each mutant: the child changes the code in memory and runs chosen tests.

    python -m vmtest.mutant_session serve REQUESTS ANSWERS [PYTEST ARGUMENTS]
    python -m vmtest.mutant_session coverage FILE [PYTEST ARGUMENTS]

Both run in a copy of the project. `serve` answers requests: lines of JSON over two file descriptors. `coverage` runs
every test once, and writes to FILE the lines that each test executes.

Importing the package and collecting the tests takes longer than running the tests for one mutant. That is why it is
done only once.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TextIO

import pytest


def codes(code: CodeType) -> Iterator[CodeType]:
    """Yield every code object nested in a code object, in the order of the source."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from codes(constant)


def change_functions(file: Path, source: bytes) -> bool:
    """Replace the code of an imported module's functions by that of a changed source.

    Return whether that was possible.
    """
    old: dict[str, list[CodeType]] = {}
    new: dict[str, list[CodeType]] = {}
    for text, found in ((file.read_bytes(), old), (source, new)):
        for code in codes(compile(text, str(file), "exec", dont_inherit=True)):
            found.setdefault(code.co_qualname, []).append(code)
    changed: dict[CodeType, CodeType] = {}
    for name, before in old.items():
        after = new.get(name, [])
        if len(before) == len(after):
            changed |= {one: other for one, other in zip(before, after, strict=True) if one != other}
    done = False
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__.co_filename == str(file):
            other = changed.get(function.__code__)
            if other is not None:
                try:
                    function.__code__ = other
                except ValueError:  # the new code has other free variables
                    return False
                done = True
    return done


def hurry(items: list[pytest.Item]) -> None:
    """Make hypothesis tests deterministic, stop at the first counterexample (no shrinking), and store none."""
    import hypothesis
    from hypothesis import Phase

    phases = (Phase.explicit, Phase.generate)
    for item in items:
        function = getattr(getattr(item, "obj", None), "__func__", getattr(item, "obj", None))
        ours = getattr(function, "_hypothesis_internal_use_settings", None)
        if ours is not None:
            function._hypothesis_internal_use_settings = hypothesis.settings(  # type: ignore[union-attr]  # a function, since it has settings
                ours, phases=phases, database=None, derandomize=True, deadline=None
            )


class FirstFailure:
    """A pytest plugin that writes the name of the first failing test to a file descriptor."""

    def __init__(self, number: int) -> None:
        self._number = number

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self._number >= 0:
            os.write(self._number, report.nodeid.encode())
            os.close(self._number)
            self._number = -1


class Server:
    """A pytest plugin that answers requests. For each request (a mutant, and tests to run on it) it forks a child."""

    def __init__(self, requests: TextIO, answers: TextIO) -> None:
        self._requests = requests
        self._answers = answers

    def _answer(self, **fields: Any) -> None:
        self._answers.write(json.dumps(fields) + "\n")
        self._answers.flush()

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        hurry(session.items)
        items = {item.nodeid: item for item in session.items}
        self._answer(collected=len(items), failed=session.testsfailed)
        for line in self._requests:
            request = json.loads(line)
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                os.setpgid(0, 0)
                os.close(read)
                if request["source"] is not None and not change_functions(
                    Path(request["file"]), request["source"].encode()
                ):
                    os._exit(99)
                seconds = request["seconds"]
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
                session.items[:] = [items[name] for name in request["tests"] if name in items]
                session.testscollected = len(session.items)
                session.config.option.maxfail = 1
                session.config.pluginmanager.register(FirstFailure(write))
                return None  # pytest goes on with these tests
            os.close(write)
            self._answer(**self._wait(child, read, request["patience"]))
        return True

    def _wait(self, child: int, read: int, patience: float) -> dict[str, Any]:
        """Wait for a child until `patience` is over, kill its process group, and return the outcome."""
        handle = os.pidfd_open(child)
        begun = time.monotonic()
        in_time = bool(select.select([handle], [], [], patience)[0])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.close(handle)
        _, status, usage = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        with os.fdopen(read, "rb") as pipe:
            test = pipe.read().decode()
        outcome = {0: "survived", 5: "survived", 1: "found", 99: "unchanged"}.get(code, "crashed")
        if not in_time or code == -signal.SIGXCPU:
            outcome = "too slow"
        return {
            "outcome": outcome,
            "test": test or f"exit code {code}",
            "seconds": round(time.monotonic() - begun, 2),
            "processor": round(usage.ru_utime + usage.ru_stime, 2),
        }


class Lines:
    """A pytest plugin that records the lines of the package that each test executes, as a number with one bit for each line."""

    def __init__(self, package: Path) -> None:
        import coverage

        self._package = package
        self._coverage = coverage.Coverage(data_file=None, source=[str(package)], config_file=False)
        self._coverage.start()
        self._tests: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._coverage.switch_context(item.nodeid)
        begun = time.process_time()
        try:
            return (yield)
        finally:
            test = self._tests.setdefault(item.nodeid, {"passed": True, "lines": {}})
            test["seconds"] = round(time.process_time() - begun, 3)
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = self._tests.setdefault(report.nodeid, {"passed": True, "lines": {}})
        test["passed"] = test["passed"] and report.outcome == "passed"

    def write(self, file: Path) -> None:
        """Write the recorded lines. Lines that run outside of all tests are recorded for a test with the name ''."""
        self._coverage.stop()
        data = self._coverage.get_data()
        self._tests[""] = {"passed": True, "seconds": 0, "lines": {}}
        for path in data.measured_files():
            name = str(Path(path).relative_to(self._package.parent))
            bits: dict[str, int] = {}
            for line, contexts in data.contexts_by_lineno(path).items():
                for context in contexts:
                    bits[context] = bits.get(context, 0) | 1 << line
            for context, number in bits.items():
                if context in self._tests:
                    self._tests[context]["lines"][name] = f"{number:x}"
        file.write_text(json.dumps(self._tests))


def main() -> int:
    command, *arguments = sys.argv[1:]
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={Path.cwd() / '.basetemp'}"]
    if command == "serve":
        requests, answers, *arguments = arguments
        with os.fdopen(int(requests)) as reader, os.fdopen(int(answers), "w") as writer:
            # A forked child returns from pytest.main() too, with the exit code of its tests.
            os._exit(int(pytest.main([*options, *arguments], plugins=[Server(reader, writer)])))
    lines = Lines(Path.cwd() / "pyvfio")
    code = int(pytest.main([*options, *arguments[1:]], plugins=[lines]))
    lines.write(Path(arguments[0]))
    return code


if __name__ == "__main__":
    sys.exit(main())
