# SPDX-License-Identifier: MIT
"""Every vector of the file (``--pyvfio-vectors FILE``, or the project's own): the answer of the public calls is the
one expected.
"""

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
