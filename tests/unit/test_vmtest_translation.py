# SPDX-License-Identifier: MIT
"""The program that checks the machine's IOMMU is compiled once, and kept under a key."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from vmtest import translation
from vmtest.exit_code import MachineError


def test_check_is_compiled_once(tmp_path: Path) -> None:
    program = translation.require_check(tmp_path)
    assert os.access(program, os.X_OK)
    first = program.stat().st_mtime_ns
    assert translation.require_check(tmp_path) == program
    assert program.stat().st_mtime_ns == first


def test_check_is_compiled_anew_when_its_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = translation.require_check(tmp_path)
    changed = tmp_path / "check_translation.c"
    changed.write_text(translation.SOURCE.read_text() + "/* changed */\n")
    monkeypatch.setattr(translation, "SOURCE", changed)
    assert translation.require_check(tmp_path) != program


def test_check_that_does_not_compile_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "wrong.c"
    wrong.write_text("int main(void) { return nothing; }\n")
    monkeypatch.setattr(translation, "SOURCE", wrong)
    with pytest.raises(MachineError, match="nothing"):
        translation.require_check(tmp_path)
    assert not list((tmp_path / "check_translation").iterdir())


def test_check_fails_with_one_line_where_it_cannot_find_out(tmp_path: Path) -> None:
    program = translation.require_check(tmp_path)
    result = subprocess.run([program, "0000:ff:1f.7"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout.count("\n") == 1
    assert "0000:ff:1f.7" in result.stdout
