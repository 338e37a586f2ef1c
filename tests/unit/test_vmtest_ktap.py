# SPDX-License-Identifier: MIT
"""The reports of the kernel's selftests, and how scripts/kernel_selftests judges them."""

from __future__ import annotations

import pytest
from vmtest import ktap
from vmtest.kernel_selftests import EDU, IGB, PATIENCE, RUNS, Run, judge, patient, summary
from vmtest.problems import Problem

HARNESS = """\
TAP version 13
1..4
# Starting 4 tests from 2 test cases.
#  RUN           fixture.maps ...
#            OK  fixture.maps
ok 1 fixture.maps
#      SKIP      No mappable BAR found on device 0000:00:07.0
ok 2 fixture.variant.bar # SKIP No mappable BAR found on device 0000:00:07.0
# test.c:12:irq:Expected 1 (1) == 0 (0)
not ok 3 fixture.irq
ok 4 fixture.known # XFAIL not on this machine
# FAILED: 3 / 4 tests passed.
# Totals: pass:1 fail:1 xfail:1 xpass:0 skip:1 error:0
# exit code 1
"""
GOOD = "TAP version 13\n1..2\nok 1 a.b\nok 2 a.c\n# exit code 0\n"


def test_each_test_has_its_outcome_and_reason() -> None:
    report = ktap.read(HARNESS)
    assert report.problems == ()
    assert report.results == (
        ktap.Result("fixture.maps", ktap.PASSED),
        ktap.Result("fixture.variant.bar", ktap.SKIPPED, "No mappable BAR found on device 0000:00:07.0"),
        ktap.Result("fixture.irq", ktap.FAILED),
        ktap.Result("fixture.known", ktap.EXPECTED, "not on this machine"),
    )
    assert report.counts == {ktap.PASSED: 1, ktap.SKIPPED: 1, ktap.FAILED: 1, ktap.EXPECTED: 1}


def test_a_report_in_version_1_and_with_dashes_is_read() -> None:
    report = ktap.read("KTAP version 1\n1..2\nok 1 - first\nnot ok 2 - second # TIMEOUT\n# exit code 1\n")
    assert [result[:2] for result in report.results] == [("first", ktap.PASSED), ("second", ktap.FAILED)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD.replace("ok 2 a.c\n", ""), "of 2 tests these left no result: 2"),
        (GOOD.replace("ok 2", "ok 1"), "test 1 has two results"),
        (GOOD.replace("# exit code 0\n", ""), "it has no exit code"),
        (GOOD.replace("code 0", "code -11"), "no test failed, and it returned -11"),
        ("Segmentation fault\n# exit code 139\n", "it has no plan and returned 139"),
        ("", "it has no exit code"),
    ],
)
def test_a_report_that_is_not_whole_is_a_problem(text: str, problem: str) -> None:
    assert problem in "; ".join(ktap.read(text).problems)


def test_a_whole_report_has_no_problem() -> None:
    assert ktap.check(ktap.read(GOOD), {}) == []


@pytest.mark.parametrize(
    "said", ["1..0 # SKIP no device\n", "Unable to determine which device(s) to use, skipping test.\n"]
)
def test_a_program_that_skips_itself_whole_is_one_skipped_test(said: str) -> None:
    report = ktap.read(f"{said}# exit code 4\n")
    assert [result.outcome for result in report.results] == [ktap.SKIPPED]
    assert report.results[0].reason


def test_a_skip_must_be_listed_and_a_list_must_be_true() -> None:
    report = ktap.read(HARNESS.replace("not ok 3", "ok 3").replace("code 1", "code 0"))
    assert ktap.check(report, {}) == [
        "fixture.variant.bar skipped itself: No mappable BAR found on device 0000:00:07.0"
    ]
    assert ktap.check(report, {"fixture.*.bar": "it has none"}) == []
    assert ktap.check(report, {"fixture.*.bar": "", "fixture.maps": ""}) == [
        "fixture.maps is listed as skipped, and is not"
    ]


def test_a_failure_is_named_with_its_sum() -> None:
    counts, problems = judge(Run("program", EDU, {"*.bar": "it has none"}), HARNESS)
    assert problems == ["fixture.irq failed"]
    assert summary(counts) == "1 passed, 1 failed, 1 skipped, 1 failed as expected"


def test_the_limit_of_a_test_is_made_longer_or_missed() -> None:
    assert patient("poll(&child, 1, t->timeout * 1000);") == f"poll(&child, 1, t->timeout * 1000 * {PATIENCE});"
    with pytest.raises(Problem, match="does not wait"):
        patient("poll(&child, 1, 30000);")


def test_every_program_that_takes_a_device_runs_on_igb() -> None:
    programs = {run.program for run in RUNS if run.program.startswith("vfio_")}
    assert {run.program for run in RUNS if run.device == IGB} == programs
    assert len({run.name for run in RUNS}) == len(RUNS)
    assert all(reason for run in RUNS for reason in run.may_skip.values())
