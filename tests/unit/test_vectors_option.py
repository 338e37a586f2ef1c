# SPDX-License-Identifier: MIT
"""``pytest --pyvfio-vectors FILE`` runs the vector suite on a file anywhere, and a wrong vector fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_file_elsewhere_is_run_and_a_wrong_vector_fails(tmp_path: Path) -> None:
    vectors = json.loads((ROOT / "tests/vectors/vectors.json").read_text(encoding="utf-8"))
    good, wrong = vectors["vectors"][:2]
    wrong["expect"]["num_ranges"] += 1
    file = tmp_path / "some.json"
    file.write_text(json.dumps({"vectors": [good, wrong]}), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--pyvfio-vectors", str(file)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "1 failed, 1 passed" in ran.stdout
    assert f"[{wrong['id']}]" in ran.stdout
