# SPDX-License-Identifier: MIT
"""Tests with QEMU as the user of edu-vfio-pci: `scripts/vm -- .venv/bin/python -m pytest tests/qemu`.

They run only inside the machine.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vmtest.qemu import Qemu, require_qemu

from pyvfio import host
from tests.qemu.client import Client

PARAMETERS = Path("/sys/module/edu_vfio_pci/parameters")
FIRST, SECOND = "0000:00:03.0", "0000:01:00.0"
"""Two edus, each alone in its group."""


MACHINES = {"test_amd_hole.py": ("amd", ""), "test_no_data_size.py": ("intel", "6.1")}
"""The IOMMU and kernel of the machine that a file's tests run in, where it is not the usual one."""
_here = os.environ.get("PYVFIO_VM_IOMMU", ""), os.environ.get("PYVFIO_VM_KERNEL", "")


def belongs_here(name: str) -> bool:
    """Whether a test file runs in this machine. Each file runs in one kind of machine."""
    iommu, kernel = MACHINES.get(name, ("intel", ""))
    usual = not any(_here[1].startswith(each) for _, each in MACHINES.values() if each)
    return _here[0] == iommu and (_here[1].startswith(kernel) if kernel else usual)


collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if not belongs_here(path.name)]


def pytest_configure(config: pytest.Config) -> None:
    if "PYVFIO_EDU_MODULE" not in os.environ:
        raise pytest.UsageError(
            "tests/qemu runs in a machine: scripts/vm -- .venv/bin/python -m pytest tests/qemu (see its README.md)"
        )


@pytest.fixture(scope="session", autouse=True)
def bound() -> Iterator[None]:
    """Bind both edus to the driver of tests/edu_vfio_pci."""
    if not PARAMETERS.exists():
        subprocess.run(["insmod", os.environ["PYVFIO_EDU_MODULE"]], check=True)
    with host.bind(FIRST, "edu_vfio_pci"), host.bind(SECOND, "edu_vfio_pci"):
        yield


@pytest.fixture
def parameters() -> Iterator[Callable[..., None]]:
    """A function that sets parameters of the driver, for devices that are opened later.

    They are restored after the test.
    """
    before: dict[str, str] = {}

    def change(**values: int) -> None:
        for name, value in values.items():
            before.setdefault(name, (PARAMETERS / name).read_text())
            (PARAMETERS / name).write_text(str(value))

    yield change
    for name, text in before.items():
        (PARAMETERS / name).write_text(text)


@pytest.fixture(params=["newest", "10.0"], scope="session")
def qemu(request: pytest.FixtureRequest) -> Qemu:
    """Each QEMU that supports migration of VFIO devices."""
    return require_qemu(request.param)


@pytest.fixture
def start(qemu: Qemu) -> Callable[..., Client]:
    """A function that starts a QEMU with options for its devices."""

    def client(*arguments: str, **options: object) -> Client:
        return Client(qemu, arguments, **options)  # type: ignore[arg-type]

    return client


def assigned(address: str, slot: int = 4, /, **options: str) -> tuple[str, ...]:
    """Return QEMU's options for a device of the host, in a slot of the guest's bus 0. Its id is vSLOT."""
    more = "".join(f",{name.replace('_', '-')}={value}" for name, value in options.items())
    return ("-device", f"vfio-pci,host={address},addr={slot}.0,id=v{slot}{more}")


def containers(iommufd: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return QEMU's options that create an iommufd, and the options of a device that uses it; without iommufd none."""
    return (("-object", "iommufd,id=i0"), {"iommufd": "i0"}) if iommufd else ((), {})


def ivshmem(number: int, slot: int) -> tuple[str, ...]:
    """Return QEMU's options for an emulated device with 4 MiB of memory in BAR 2."""
    return (
        "-object", f"memory-backend-ram,id=shared{number},size=4M,share=on",
        "-device", f"ivshmem-plain,master=on,memdev=shared{number},addr={slot}.0",
    )  # fmt: skip
