# SPDX-License-Identifier: MIT
"""C01 on a real kernel: the firmware reserves memory for a device one to one (Intel's RMRR), and VFIO cannot have it.

The machine is given a DMAR table that says so (acpi_tables.py). Since Linux 6.6 claiming the group fails with EINVAL,
since 5.19 with EPERM, and before it was VFIO_SET_IOMMU that failed. The mock gives the same answers as the newest
kernel.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vmtest import vm
from vmtest.environment import PYTHON
from vmtest.machine import Machine

from pyvfio import mock
from pyvfio.mock.machine.profile import Reserved
from tests.vm import acpi_tables, direct_region

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
DEVICE, OTHER = "0000:00:05.0", "0000:00:03.0"
#: where the machine's firmware has reserved memory, as Linux demands of such a region
START, LAST = 0xFFFC0000, 0xFFFCFFFF
EINVAL, EPERM = 22, 1
#: request and errno in each mode, of Linux 7.3
NEWEST = {
    "type1v2": ["VFIO_GROUP_SET_CONTAINER", EINVAL],
    "iommufd-type1v2": ["VFIO_GROUP_GET_DEVICE_FD", EINVAL],
    "iommufd": ["VFIO_DEVICE_BIND_IOMMUFD", EINVAL],
}
#: likewise of 6.1, which has no iommufd
OLDER = {"type1v2": ["VFIO_GROUP_SET_CONTAINER", EPERM]}


def reports(kernel: str, directory: Path) -> list[dict[str, Any]]:
    """Return what a machine of this kernel says of the device with the region, and of another one."""
    initramfs, results = directory / "initramfs", directory / "results"
    command = [str(PYTHON), str(ROOT / "tests" / "vm" / "direct_region.py"), str(results), DEVICE, OTHER]
    settings = vm.settings_of(vm.parse_arguments(["--kernel", kernel, "--", *command]))
    own = settings.kernel["initramfs"]
    table = acpi_tables.dmar(DEVICE, START, LAST)
    initramfs.write_bytes(acpi_tables.upgrade(table) + (Path(own).read_bytes() if own else b""))
    machine = Machine(replace(settings, kernel={**settings.kernel, "initramfs": str(initramfs)}), directory)
    try:
        assert machine.run() == 0
    finally:
        machine.close()
    found: list[dict[str, Any]] = json.loads(results.read_text())
    return found


def check(report: dict[str, Any], expected: dict[str, list[Any]]) -> None:
    """Check what is said of the device with the region."""
    assert {mode: said[:2] for mode, said in report["outcomes"].items()} == expected
    assert [START, LAST, "direct"] in report["regions"]
    assert "direct-region" in report["findings"]
    for *_, text in report["outcomes"].values():
        assert f"[{START:#x}, {LAST:#x}] mapped one to one" in text
        assert "RMRR" in text
        assert "unsafe" not in text


def texts(report: dict[str, Any]) -> dict[str, str]:
    """Return what is said in each mode, without numbers of groups and of VFIO's devices, and without the mock's name."""
    return {
        mode: re.sub(r"(group |vfio/|vfio)\d+| on mock:[\w-]+", r"\1", said[2])
        for mode, said in report["outcomes"].items()
    }


@pytest.mark.parametrize(("kernel", "expected"), [("7.3", NEWEST), ("6.1", OLDER)])
def test_a_device_with_a_direct_region_is_refused(kernel: str, expected: dict[str, list[Any]]) -> None:
    # A machine writes to the current directory only.
    with tempfile.TemporaryDirectory(prefix=".results-region-", dir=ROOT) as directory:
        device, other = reports(kernel, Path(directory))
    check(device, expected)
    assert {mode: said[0] for mode, said in other["outcomes"].items()} == dict.fromkeys(expected, "open")
    assert "direct-region" not in other["findings"]
    if expected is NEWEST:
        own = mock.Kernel(
            "intel-39", reserved=(Reserved(START, LAST, "direct"), Reserved(0xFEE00000, 0xFEEFFFFF, "msi"))
        )
        said = direct_region.report(DEVICE, own, direct_region.MODES)
        check(said, expected)
        assert texts(said) == texts(device)
