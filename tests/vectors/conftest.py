# SPDX-License-Identifier: MIT
"""Fixtures and options for the vectors on which the suite runs."""

from __future__ import annotations

import pytest

from tests.vectors.vector_file import OWN, load


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "vector" in metafunc.fixturenames:
        vectors = load(metafunc.config.getoption("pyvfio_vectors", None) or OWN)
        metafunc.parametrize("vector", vectors, ids=[vector["id"] for vector in vectors])
