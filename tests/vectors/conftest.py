"""The vectors that the suite runs on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

OWN = Path(__file__).with_name("vectors.json")


def load(path: Path) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["vectors"]
    return vectors


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "vector" in metafunc.fixturenames:
        vectors = load(metafunc.config.getoption("vectors") or OWN)
        metafunc.parametrize("vector", vectors, ids=[vector["id"] for vector in vectors])
    if "own_vector" in metafunc.fixturenames:
        vectors = load(OWN)
        metafunc.parametrize("own_vector", vectors, ids=[vector["id"] for vector in vectors])
