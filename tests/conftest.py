# SPDX-License-Identifier: MIT
"""Options of all tests: with PYVFIO_REQUIRE=kernel no test may be skipped; --pyvfio-vectors runs only the vector suite."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

#: Time limit of a slow test, in seconds.
SLOW = 1800
REQUIRED = os.environ.get("PYVFIO_REQUIRE") == "kernel"


def _refuse_skip(report: Any) -> Any:
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"PYVFIO_REQUIRE=kernel allows no skip: {reason}"
    return report


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Define the option and the mark of pytest-timeout if it is not installed. Then the tests have no time limits."""
    if not pluginmanager.has_plugin("timeout"):
        parser.addini("timeout", "ignored: pytest-timeout is not installed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "timeout(seconds): the test may take longer than others")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, Any, Any]:
    """Run the garbage collector only between tests.

    Otherwise it depends on chance whether a device is collected (with a warning) before its fixture closes it.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    return _refuse_skip((yield))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --pyvfio-vectors, only the vector suite's own test."""
    if config.getoption("pyvfio_vectors", None) is None:
        return None
    if collection_path.is_dir():
        # pytest may not have read pyproject.toml, which has the paths for the other suites' modules, because it takes
        # FILE for a test.
        return (collection_path.parent == Path(__file__).parent and collection_path.name != "vectors") or None
    return collection_path.name != "test_vectors.py" or None
