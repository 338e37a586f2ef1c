# SPDX-License-Identifier: MIT
"""Read KTAP, the output format of the kernel's selftests: the outcome of each test, and problems of the report itself.

The format is described in the kernel's Documentation/dev-tools/ktap.rst. Subtests are ignored: the selftests of VFIO
and iommufd have none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

PASSED, FAILED, SKIPPED, EXPECTED = "passed", "failed", "skipped", "failed as expected"
SKIP_CODE = 4
"""The exit code of a selftest program that skips all its tests (KSFT_SKIP)."""
_PLAN = re.compile(r"1\.\.(\d+)(?: +# *SKIP\b *(.*))?")
_RESULT = re.compile(r"(not )?ok (\d+)(?: +- | +|$)([^#]*?)\s*(?:# *(?:(SKIP|XFAIL|XPASS|TIMEOUT|ERROR)\b *)?(.*))?")
_CODE = re.compile(r"# exit code (-?\d+)")


class Result(NamedTuple):
    """The outcome of one test."""

    name: str
    outcome: str
    reason: str = ""


class Report(NamedTuple):
    """The report of one program."""

    results: tuple[Result, ...]
    problems: tuple[str, ...]
    """Problems of the report: tests without a result, a test number that occurs twice, an exit code that does not fit the results."""

    @property
    def counts(self) -> Counter[str]:
        """The number of tests by outcome."""
        return Counter(result.outcome for result in self.results)

    def named(self, outcome: str) -> dict[str, str]:
        """Return the names of the tests with an outcome, each with its reason."""
        return {result.name: result.reason for result in self.results if result.outcome == outcome}


def read(text: str) -> Report:
    """Read the output of one program, which ends with a line `# exit code N`."""
    results: dict[int, Result] = {}
    problems: list[str] = []
    planned: int | None = None
    code: int | None = None
    whole = ""
    for line in text.splitlines():
        if found := _PLAN.fullmatch(line):
            planned, whole = int(found[1]), found[2] or ""
        elif found := _RESULT.fullmatch(line):
            number = int(found[2])
            if number in results:
                problems.append(f"test {number} has two results")
            results[number] = _result(found)
        elif found := _CODE.fullmatch(line):
            code = int(found[1])
    if code is None:
        problems.append("it has no exit code: the machine ended before the program did")
    elif code == SKIP_CODE and not results:
        return Report((Result("(all)", SKIPPED, whole or _last_words(text)),), ())
    elif planned is None:
        problems.append(f"it has no plan and returned {code}")
    missing = [str(number) for number in range(1, (planned or 0) + 1) if number not in results]
    if missing:
        problems.append(f"of {planned} tests these left no result: {', '.join(missing)}")
    failed = any(result.outcome == FAILED for result in results.values())
    if code and code != SKIP_CODE and not failed and not problems:
        problems.append(f"no test failed, and it returned {code}")
    return Report(tuple(results[number] for number in sorted(results)), tuple(problems))


def _result(found: re.Match[str]) -> Result:
    name, directive, reason = found[3] or f"test {found[2]}", found[4], found[5] or ""
    if directive == "SKIP":
        return Result(name, SKIPPED, reason)
    if directive == "XFAIL":
        return Result(name, EXPECTED, reason)
    return Result(name, FAILED if found[1] or directive else PASSED, reason)


def _last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not _CODE.fullmatch(line)]
    return lines[0] if lines else ""


def check(report: Report, may_skip: Mapping[str, str]) -> list[str]:
    """Return all problems of a report: failures, faults of the report, tests that skipped themselves unlisted, and stale entries.

    :param may_skip: tests that cannot run, each with its reason; a name may have wildcards (`fixture.*`)
    """
    found = [f"{name} failed{f': {reason}' if reason else ''}" for name, reason in report.named(FAILED).items()]
    found += report.problems
    skipped = report.named(SKIPPED)
    found += [f"{name} skipped itself: {reason}" for name, reason in skipped.items() if not matching(name, may_skip)]
    stale = [pattern for pattern in may_skip if not any(matching(name, [pattern]) for name in skipped)]
    return found + [f"{pattern} is listed as skipped, and is not" for pattern in stale]


def matching(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches a test's name. A * in a pattern stands for any text."""
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) for pattern in patterns)
