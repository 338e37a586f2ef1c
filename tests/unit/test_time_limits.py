# SPDX-License-Identifier: MIT
"""Every test has a time limit, and slow tests have a longer one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SUITE = """
import time
import pytest

@pytest.mark.slow
def test_slow(request):
    assert request.node.get_closest_marker("timeout").args == (1800,)

def test_hangs():
    time.sleep(1000)
"""


def test_a_test_that_hangs_fails_at_its_time_limit(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    if not pytestconfig.pluginmanager.has_plugin("timeout"):
        pytest.skip("pytest-timeout is not installed: pip install -e '.[test]'")
    assert float(pytestconfig.getini("timeout")) > 0
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 1\nmarkers = slow\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT / "tests")}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "Timeout" in done.stdout
