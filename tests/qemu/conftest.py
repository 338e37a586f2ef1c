# SPDX-License-Identifier: MIT
"""QEMU as the client of edu-vfio-pci: `scripts/vm -- .venv/bin/python -m pytest tests/qemu`, inside the machine only."""

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


def pytest_configure(config: pytest.Config) -> None:
    if "PYVFIO_EDU_MODULE" not in os.environ:
        raise pytest.UsageError(
            "tests/qemu runs in a machine: scripts/vm -- .venv/bin/python -m pytest tests/qemu (see its README.md)"
        )


@pytest.fixture(scope="session", autouse=True)
def bound() -> Iterator[None]:
    """Both edus bound to the driver of tests/edu_vfio_pci."""
    if not PARAMETERS.exists():
        subprocess.run(["insmod", os.environ["PYVFIO_EDU_MODULE"]], check=True)
    with host.bind(FIRST, "edu_vfio_pci"), host.bind(SECOND, "edu_vfio_pci"):
        yield


@pytest.fixture
def parameters() -> Iterator[Callable[..., None]]:
    """A function that sets parameters of the driver, which hold for devices opened from then on; they are restored."""
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
    """Each QEMU that knows the migration of VFIO devices."""
    return require_qemu(request.param)


@pytest.fixture
def start(qemu: Qemu) -> Callable[..., Client]:
    """A function that starts a client with these devices."""

    def client(*arguments: str, **options: object) -> Client:
        return Client(qemu, arguments, **options)  # type: ignore[arg-type]

    return client


def assigned(address: str, slot: int = 4, **options: str) -> tuple[str, ...]:
    """Return QEMU's options for a device of the host at a slot of the guest's bus 0; its id is vSLOT."""
    more = "".join(f",{name.replace('_', '-')}={value}" for name, value in options.items())
    return ("-device", f"vfio-pci,host={address},addr={slot}.0,id=v{slot}{more}")


def ivshmem(number: int, slot: int) -> tuple[str, ...]:
    """Return QEMU's options for 4 MiB of memory behind a BAR that is no assigned device's (BAR 2)."""
    return (
        "-object", f"memory-backend-ram,id=shared{number},size=4M,share=on",
        "-device", f"ivshmem-plain,master=on,memdev=shared{number},addr={slot}.0",
    )  # fmt: skip
