# SPDX-License-Identifier: MIT
"""The command and the conformance checks, on the cell's device."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pyvfio import host
from pyvfio.cli import program
from pyvfio.conformance import runner

if TYPE_CHECKING:
    from pyvfio.spaces.opening import Mode

with_an_iommu = pytest.mark.only(iommu=["intel", "amd", "virtio"])


def run(capsys: pytest.CaptureFixture[str], kernel: Any, *arguments: str) -> Any:
    """Run the command in this process, with `--json`, and return its document."""
    capsys.readouterr()
    assert program.main(["--json", *arguments], kernel=kernel) == 0
    return json.loads(capsys.readouterr().out)


def test_list_and_show_agree_with_the_host(address: str, kernel: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = host.device(address, kernel)
    listed = {one["address"]: one for one in run(capsys, kernel, "list", "--state", "vfio")["devices"]}
    shown = run(capsys, kernel, "show", address)
    assert listed[address]["driver"] == shown["driver"] == found.driver
    assert shown["group_node"] == found.group_path
    assert shown["finding"] is None


@with_an_iommu
def test_doctor_has_no_finding(address: str, kernel: Any, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, kernel, "doctor", address)
    assert (said["findings"], said["unknown"]) == ([], [])


@with_an_iommu
@pytest.mark.require("pci")
def test_run_keeps_what_single_steps_lose(
    address: str, mode: Mode, kernel: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Bus Master bit survives within one `run`; between single commands, closing and opening clear it."""
    steps = ("-c", "config COMMAND=4:4", "-c", "config COMMAND", "-c", "expect 4:4")
    assert program.main(["run", address, "--mode", mode, *steps], kernel=kernel) == 0
    (register,) = run(capsys, kernel, "config", address, "--mode", mode, "COMMAND")["registers"]
    assert not int(register["value"], 16) & 4


@pytest.mark.only(device="vfio-mock", mode="iommufd", iommu=["intel", "amd", "virtio"], kernel="newest")
@pytest.mark.require("dirty_log")
def test_vfio_mock_conforms(address: str, mode: Mode, kernel: Any) -> None:
    assert failures(address, mode, kernel, "tests.contract.drivers.vfio_mock:driver") == []


@pytest.mark.only(device="edu-vfio-pci", mode="iommufd", iommu="intel", kernel="newest")
@pytest.mark.require("dirty_log")
def test_edu_conforms(address: str, mode: Mode, kernel: Any) -> None:
    """edu has no reset. So closing the device must end everything that a check leaves behind."""
    assert failures(address, mode, kernel, "tests.contract.drivers.edu_vfio_pci:driver") == []


def failures(address: str, mode: Mode, kernel: Any, driver: str) -> list[tuple[str, str]]:
    """Run every check except those with deliberate faults, and return name and reason of those that failed."""
    results = runner.run(address, kernel, mode=mode, write=True, destructive=True, driver=driver)
    return [(one.name, one.reason) for one in results.failed]
