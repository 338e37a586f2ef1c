# SPDX-License-Identifier: MIT
"""The sum of a run: what passed, failed and was skipped."""

from __future__ import annotations

import os
from collections.abc import Iterable

from vmtest.junit import Counts

#: failed tests that are named with the sum, and characters of each
MOST_TESTS, LONGEST = 40, 300


class Tally:
    """Counts as they come in, and what else the sum must say.

    :param strict: a skip is a failure
    """

    def __init__(self, *, strict: bool | None = None) -> None:
        self._strict = os.environ.get("PYVFIO_REQUIRE") == "kernel" if strict is None else strict
        self.counts = Counts()
        self.notes: list[str] = []
        self._tests: list[str] = []

    def add(self, counts: Counts) -> None:
        """Add the counts of a suite or a cell."""
        self.counts = self.counts.plus(counts)

    def name_failed(self, tests: Iterable[str]) -> None:
        """Print these tests with the sum; they are counted already, and pytest has said why they failed."""
        self._tests += (f"FAILED: {test[:LONGEST]}" for test in tests)

    def passed(self) -> None:
        """Count one check that passed."""
        self.add(Counts(passed=1))

    def fail(self, text: str) -> None:
        """Count one failure, and print it now and with the sum."""
        self.add(Counts(failed=1))
        self._note(f"FAILED: {text}")

    def skip(self, text: str) -> None:
        """Count one skip, or one failure where no skip is allowed, and print it now and with the sum."""
        if self._strict:
            self.fail(f"{text} (PYVFIO_REQUIRE=kernel allows no skip)")
        else:
            self.add(Counts(skipped=1))
            self._note(f"SKIPPED: {text}")

    def note(self, text: str) -> None:
        """Print something now and with the sum, which counts for nothing."""
        self._note(f"NOTE: {text}")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        print(text, flush=True)

    @property
    def exit_code(self) -> int:
        """0 if nothing failed."""
        return int(self.counts.failed > 0)

    def __str__(self) -> str:
        """The failed tests, the notes, and alone on the last line the counts."""
        more = len(self._tests) - MOST_TESTS
        tests = [*self._tests[:MOST_TESTS], *([f"FAILED: {more} further tests, named above"] if more > 0 else [])]
        return "\n".join((*tests, *self.notes, str(self.counts)))
