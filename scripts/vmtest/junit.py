# SPDX-License-Identifier: MIT
"""JUnit XML: the counts of a run of tests, and the results of a cell in that format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

# XML 1.0 does not allow other control characters.
_INVALID = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Counts(NamedTuple):
    """Numbers of tests that passed, failed and were skipped. A test that failed as expected counts as passed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sum, field by field."""
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def count(file: Path) -> Counts:
    """Count the tests of a JUnit XML file.

    :raises ValueError: the file is missing or is not JUnit XML, as when pytest crashed
    """
    root = _root(file)
    # pytest's file has two entries for a test whose teardown failed.
    outcomes: dict[tuple[str | None, str | None], str] = {}
    ranks = ("passed", "skipped", "failed")
    for number, case in enumerate(root.iter("testcase")):
        named = case.get("classname"), case.get("name")
        key = named if any(named) else (None, str(number))
        outcomes[key] = max(outcomes.get(key, "passed"), _outcome(case), key=ranks.index)
    return Counts(*(sum(outcome == word for outcome in outcomes.values()) for word in ("passed", "failed", "skipped")))


def failures(file: Path) -> list[str]:
    """Return the name of each failed test of a JUnit XML file, with the first line of its message.

    :raises ValueError: the file is missing or is not JUnit XML
    """
    lines = []
    for case in _root(file).iter("testcase"):
        for failure in (*case.findall("failure"), *case.findall("error")):
            message = (failure.get("message") or "").strip()
            lines.append(
                ": ".join(filter(None, (f"{case.get('classname')}::{case.get('name')}", message.partition("\n")[0])))
            )
    return lines


def _root(file: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(file).getroot()
    except FileNotFoundError:
        raise ValueError(f"{file.name} is missing: the run ended before it could write its results") from None
    except ElementTree.ParseError as error:
        raise ValueError(f"{file.name} is incomplete: {error}") from None
    if root.tag not in ("testsuites", "testsuite"):
        raise ValueError(f"{file.name} is not JUnit XML: its root is {root.tag}")
    return root


def _outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    skipped = case.find("skipped")
    if skipped is not None and skipped.get("type") != "pytest.xfail":
        return "skipped"
    return "passed"


def write(file: Path, name: str, outcomes: Mapping[str, str], messages: Mapping[str, str]) -> None:
    """Write the outcomes of tests (`passed` or `failed`), with pytest's names as keys, as JUnit XML."""
    suite = ElementTree.Element("testsuite", name=name, tests=str(len(outcomes)))
    for test, outcome in outcomes.items():
        path, _, function = test.partition("::")
        case = ElementTree.SubElement(suite, "testcase", classname=f"{name}.{path}", name=_INVALID.sub("?", function))
        if outcome != "passed":
            failure = ElementTree.SubElement(case, "failure", message=outcome)
            failure.text = _INVALID.sub("?", messages.get(test, ""))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)
