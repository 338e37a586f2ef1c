# SPDX-License-Identifier: MIT
"""The summary of a run: the numbers of tests that passed, failed and were skipped."""

from __future__ import annotations

import os
from collections.abc import Iterable

from vmtest.junit import Counts

#: Maximum number of failed tests in the summary, and of characters for each.
MOST_TESTS, LONGEST = 40, 600


class Tally:
    """Counts so far, and notes for the summary.

    :param strict: count skips as failures; None: if PYVFIO_REQUIRE is `kernel`
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
        """Name failed tests in the summary. They are counted already, and pytest has printed why they failed."""
        self._tests += (f"FAILED: {test[:LONGEST]}" for test in tests)

    def passed(self) -> None:
        """Count one check that passed."""
        self.add(Counts(passed=1))

    def fail(self, text: str) -> None:
        """Count one failure, and print it now and in the summary."""
        self.add(Counts(failed=1))
        self._note(f"FAILED: {text}")

    def skip(self, text: str) -> None:
        """Count one skip (with `strict`, one failure), and print it now and in the summary."""
        if self._strict:
            self.fail(f"{text} (PYVFIO_REQUIRE=kernel allows no skip)")
        else:
            self.add(Counts(skipped=1))
            self._note(f"SKIPPED: {text}")

    def note(self, text: str) -> None:
        """Print a note now and in the summary, without counting anything."""
        self._note(f"NOTE: {text}")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        print(text, flush=True)

    @property
    def exit_code(self) -> int:
        """The exit code: 0 if nothing failed."""
        return int(self.counts.failed > 0)

    def __str__(self) -> str:
        """Return the summary: failed tests, notes, and as the last line the counts."""
        more = len(self._tests) - MOST_TESTS
        tests = [*self._tests[:MOST_TESTS], *([f"FAILED: {more} further tests, named above"] if more > 0 else [])]
        return "\n".join((*tests, *self.notes, str(self.counts)))
