# SPDX-License-Identifier: MIT
"""Compare answers with those recorded in answers/, or record them."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).with_name("answers")


def compare(name: str, found: list[str]) -> None:
    """Compare lines with the recorded ones. With PYVFIO_WRITE_ANSWERS in the environment, record them first."""
    file = FOLDER / f"{name}.txt"
    if os.environ.get("PYVFIO_WRITE_ANSWERS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(found) + "\n")
    before = file.read_text().splitlines()
    differ = [f"- {line}" for line in before if line not in set(found)] + [
        f"+ {line}" for line in found if line not in set(before)
    ]
    assert not differ, f"{len(differ)} lines differ:\n" + "\n".join(differ)
