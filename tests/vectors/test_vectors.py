# SPDX-License-Identifier: MIT
"""For every vector of the file (``--pyvfio-vectors FILE``, or the project's own), the public calls give the expected answer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vectors.adapters import ADAPTERS


def test_the_answer_is_the_expected_one(vector: dict[str, Any]) -> None:
    op = vector["op"]
    if op not in ADAPTERS:
        pytest.fail(f"no adapter for the operation {op!r}")
    answer = ADAPTERS[op](vector["input"], vector["variant"])
    expected = vector["expect"]
    assert {field: answer.get(field, "no such field in the answer") for field in expected} == expected
