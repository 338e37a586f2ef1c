# SPDX-License-Identifier: MIT
"""A model written by a user: the guide's example runs as printed, and corner cases."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyvfio
from pyvfio import mock

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "guides" / "models.md")


def block(part: str) -> str:
    """Return the block of Python in the README or the guide to models that contains `part`."""
    blocks: list[str] = [each for page in PAGES for each in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)]
    (source,) = [one for one in blocks if part in one]
    return source


def example() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(block("class Adder"), names)
    return names


@pytest.mark.parametrize("profile", ["amd", "intel-39", "mlx5", "smmu-64k"])
def test_the_root_script_of_the_readme_runs(profile: str) -> None:
    # Run it in a new process: PYVFIO_KERNEL is read only once in a process.
    script = [sys.executable, "-W", "error", "-c", block("EDU =")]
    environment = {**os.environ, "PYVFIO_KERNEL": f"mock:{profile}"}
    assert subprocess.check_output(script, env=environment, text=True) == "0x10000ed\n"


def test_the_example_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example()
    assert capsys.readouterr().out == "6\n[]\n"


def test_the_example_is_short() -> None:
    assert len(block("class Adder").splitlines()) <= 33


def test_what_is_not_mapped_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    kernel = mock.Kernel()
    example()["Adder"](kernel, "0000:00:0a.0", driver="vfio-pci")
    with pyvfio.open("0000:00:0a.0", kernel=kernel) as device:
        device.config.bus_master = True
        device.regions[0].write32(0x00, 0x5000)
        device.regions[0].write32(0x08, 1)
        assert device.regions[0].read32(0x10) == 0
    assert [(fault.device, fault.iova, fault.write) for fault in kernel.faults] == [("0000:00:0a.0", 0x5000, False)]


class Plain(mock.Device):
    function = mock.Function(
        (0x1234, 1),
        bars={0: mock.Bar(8192, memory=True), 2: mock.Bar(4096, wide=True)},
        msix=4,
        msix_table=(2, 0),
        express=True,
        resets=True,
    )


def test_registers_hold_what_was_written_until_a_reset() -> None:
    kernel = mock.Kernel()
    Plain(kernel, "0000:00:0a.0", driver="vfio-pci")
    with pyvfio.open("0000:00:0a.0", kernel=kernel) as device:
        device.regions[0].write32(0x10, 7)
        mapped = device.regions[0].mmap()
        assert mapped.read32(0x10) == 7
        mapped.write32(0x14, 8)
        assert device.regions[0].read32(0x14) == 8
        device.reset()
        assert device.regions[0].read32(0x10) == 0


def test_the_msix_table_is_the_kernels() -> None:
    kernel = mock.Kernel()
    Plain(kernel, "0000:00:0a.0", driver="vfio-pci")
    with pyvfio.open("0000:00:0a.0", kernel=kernel) as device:
        table = device.regions[2]
        table.write32(0x00, 0)
        assert table.read32(0x00) == 0xFFFFFFFF
        table.write32(0x40, 5)
        assert table.read32(0x40) == 5


def test_configuration_space_has_its_capabilities() -> None:
    kernel = mock.Kernel()
    Plain(kernel, "0000:00:0a.0", driver="vfio-pci")
    with pyvfio.open("0000:00:0a.0", kernel=kernel) as device:
        config = device.config
        assert config.size == 4096
        assert [capability.name for capability in config.capabilities] == ["Express", "MSI-X"]
        config.write32(0x18, 0xFFFFFFFF)
        config.write32(0x1C, 0xFFFFFFFF)
        assert (config.read32(0x1C) << 32 | config.read32(0x18)) & ~0xF == 2**64 - 4096


def test_two_kernels_know_nothing_of_each_other() -> None:
    one, two = mock.Kernel(), mock.Kernel()
    Plain(one, "0000:00:0a.0", driver="vfio-pci")
    with pytest.raises(OSError, match="no device"):
        pyvfio.open("0000:00:0a.0", kernel=two)


def test_what_cannot_be_plugged_in_is_refused() -> None:
    kernel = mock.Kernel()
    with pytest.raises(ValueError, match="the address of a PCI function"):
        Plain(kernel, "00:0a.0")
    with pytest.raises(ValueError, match="already"):
        Plain(kernel, "0000:00:03.0")
    with pytest.raises(ValueError, match="there are e1000e"):
        Plain(kernel, "0000:00:0a.0", driver="vfio_pci")
