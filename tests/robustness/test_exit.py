# SPDX-License-Identifier: MIT
"""A program that exits with everything open does exit."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPEN = """
import atexit, builtins, threading
import pyvfio
from pyvfio import mock
device = pyvfio.open("vfio-mock.0", mode={mode!r}, kernel=mock.Kernel("intel-39"))
mapping = device.address_space.alloc(4096)
log = device.dirty_log([mapping.range])
vector = device.irqs[2].enable([0])[0]
{more}
"""


@pytest.mark.parametrize("mode", ["type1v2", "iommufd"])
@pytest.mark.parametrize(
    "more",
    [
        "",
        "kept = [device, mapping, log]; kept.append(kept)",
        "builtins.device = device",
        "atexit.register(device.close)",
        "threading.Thread(target=vector.wait, daemon=True).start()",
    ],
)
def test_a_program_ends_with_a_device_open(mode: str, more: str) -> None:
    code = OPEN.format(mode=mode, more=more)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
