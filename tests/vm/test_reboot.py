# SPDX-License-Identifier: MIT
"""A device that is bound at boot is bound after a reboot, and can be restored then. Two machines with a real udev."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from vmtest.apt import install

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def run_in_machine(what: str, folder: Path) -> None:
    program = [sys.executable, "tests/vm/bound_at_boot.py", what, str(folder.relative_to(ROOT))]
    done = subprocess.run(
        [str(ROOT / "scripts" / "vm"), "--", *program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_device_bound_at_boot_is_bound_after_a_reboot() -> None:
    install("udev")
    # The machines write to the current directory only.
    with tempfile.TemporaryDirectory(prefix=".results-reboot-", dir=ROOT) as directory:
        folder = Path(directory)
        run_in_machine("bind", folder)
        addresses = ("0000:00:03.0", "0000:00:04.0")
        rules = [f"05-pyvfio-pci-{address}.rules" for address in addresses]
        assert kept(folder) == [*rules, *(f"pci:{address}" for address in addresses)]
        assert os.stat(folder / "rules" / rules[0]).st_uid == os.getuid()
        run_in_machine("check", folder)
        assert kept(folder) == []
