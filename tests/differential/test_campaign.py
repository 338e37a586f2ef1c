# SPDX-License-Identifier: MIT
"""What a campaign runs in the machine finds the packages that it takes."""

from __future__ import annotations

import subprocess

from tests.differential import campaign


def test_the_interpreter_of_the_machine_finds_the_drivers() -> None:
    command = [*campaign.PYTHON, "-c", "import tests.contract.guest"]
    done = subprocess.run(command, cwd=campaign.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
