# SPDX-License-Identifier: MIT
"""The file of vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OWN = Path(__file__).with_name("vectors.json")
"""The project's copy."""


def load(path: Path) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["vectors"]
    return vectors
