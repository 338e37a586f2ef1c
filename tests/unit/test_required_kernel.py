# SPDX-License-Identifier: MIT
"""With PYVFIO_REQUIRE=kernel, a test that cannot run is a failure, not a skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

SUITE = """
import pytest

def test_skips(): pytest.skip("no kernel")

@pytest.mark.skipif(True, reason="no headers")
def test_is_skipped(): pass

@pytest.mark.xfail(strict=True)
def test_fails_as_known(): assert False
"""


def summary(suite: Path, **environment: str) -> str:
    # Without its pytest plugin, Hypothesis is not imported at the end.
    without = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", *without, "-c", os.devnull]
    path = {"PYTHONPATH": str(TESTS), **environment}
    kept = {name: value for name, value in os.environ.items() if name != "PYVFIO_REQUIRE"}
    result = subprocess.run([*command, suite], env=kept | path, capture_output=True, text=True, check=False)
    return result.stdout


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "test_suite.py").write_text(SUITE)
    return tmp_path / "test_suite.py"


def test_a_skip_is_a_skip_where_nothing_is_required(suite: Path) -> None:
    assert "2 skipped, 1 xfailed" in summary(suite)


def test_a_skip_fails_with_its_reason_if_the_kernel_is_required(suite: Path) -> None:
    output = summary(suite, PYVFIO_REQUIRE="kernel")

    assert "1 failed, 1 xfailed, 1 error" in output
    assert "PYVFIO_REQUIRE=kernel allows no skip: Skipped: no kernel" in output
    assert "PYVFIO_REQUIRE=kernel allows no skip: Skipped: no headers" in output


def test_a_file_that_skips_itself_fails_if_the_kernel_is_required(suite: Path) -> None:
    suite.write_text("import pytest; pytest.skip('no gcc', allow_module_level=True)")

    assert "PYVFIO_REQUIRE=kernel allows no skip: Skipped: no gcc" in summary(suite, PYVFIO_REQUIRE="kernel")
