# SPDX-License-Identifier: MIT
"""The comparison of two QEMUs: outcomes, and the table."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmtest.bench_qemu import GOES_ON, Run, outcome_of, read_log, table


@pytest.mark.parametrize(
    ("code", "text", "outcome"),
    [
        (0, "", "passed"),
        (0, f"vm: {GOES_ON}: QEMU had missed an event", "went on"),
        (1, "", "failed"),
        (200, "", "complaint"),
        (202, "", "crashed"),
        (204, "", "stalled"),
    ],
)
def test_outcome_follows_from_exit_code_and_text(code: int, text: str, outcome: str) -> None:
    assert outcome_of(code, text) == outcome


def test_table_has_a_row_for_each_qemu_and_load() -> None:
    runs = [Run("system", False, seconds, "passed") for seconds in (10, 30, 20)]
    runs += [Run("system", True, 500, "stalled"), Run("newest", False, 12, "failed")]
    rows = {tuple(line.split()[:2]): line.split() for line in list(table(runs))[1:]}
    assert rows["system", "nothing"][2:] == ["3", "0", "0", "0", "0", "10", "/", "20", "/", "30", "-"]
    assert rows["system", "2"][4:] == ["1", "1", "0", "0", "0", "-", "-"]
    assert rows["newest", "nothing"][2:] == ["1", "0", "0", "0", "1", "-", "-"]


def test_table_tells_the_time_of_processors_where_it_was_taken() -> None:
    runs = [
        Run("system", True, 90, "passed"),
        Run("system", True, 80, "passed", 21.5),
        Run("system", True, 70, "failed", 1),
    ]
    assert list(table(runs))[1].endswith("80 / 85 / 90   21.5 (1 runs)")


def test_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none") == []
