# SPDX-License-Identifier: MIT
"""The fixtures of the checks, and the options that select checks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyvfio import Device
from pyvfio.conformance.driver import Copying, driving
from pyvfio.host import HostDevice, bind, bindings
from pyvfio.host import device as host_device
from pyvfio.host.diagnosis import vfio_driver
from pyvfio.kernel import Kernel
from pyvfio.spaces.base import AddressSpace

#: mark -> the option without which a check with it is skipped, and the reason
OPTIONS = {
    "vfio_writes": ("--vfio-write", "writes registers: --write"),
    "vfio_dma_faults": ("--vfio-dma-faults", "makes DMA faults, which a strict host may not survive: --dma-faults"),
    "vfio_destructive": ("--vfio-destructive", "resets or migrates the device: --destructive"),
}


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Ignore the checks in a run of the vector suite (`--pyvfio-vectors`), which has no other tests."""
    return None if config.getoption("pyvfio_vectors", None) is None else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the checks whose option was not given."""
    for item in items:
        for mark, (option, reason) in OPTIONS.items():
            if item.get_closest_marker(mark) and not config.getoption(option):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", name="_vfio_real_device")
def bound_device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of ``--vfio-device``, bound and locked until the end of the run, unless this process keeps it bound already."""
    found = host_device(request.config.getoption("--vfio-device"))
    driver = request.config.getoption("--vfio-bind") or (found.vfio and found.driver) or vfio_driver(found.bus)
    if found.driver == driver and any(
        entry.address == found.address and entry.pid == os.getpid() for entry in bindings()
    ):
        yield found.address
        return
    with bind(found, driver):
        yield found.address


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """The address of the device under test, which is not open."""
    return str(request.getfixturevalue("_vfio_address"))


@pytest.fixture
def device(vfio_device: Device) -> Device:
    """The device under test, open, in a new address space."""
    return vfio_device


@pytest.fixture
def space(vfio_device: Device) -> AddressSpace:
    """The address space of the device."""
    return vfio_device.address_space


@pytest.fixture
def kernel(vfio_kernel: Kernel) -> Kernel:
    """The kernel under test."""
    return vfio_kernel


@pytest.fixture
def found(vfio_device: Device, vfio_kernel: Kernel) -> HostDevice:
    """The device as sysfs shows it."""
    return host_device(vfio_device.address, vfio_kernel)


@pytest.fixture(name="driver")
def driver_of_the_device(request: pytest.FixtureRequest, vfio_device: Device) -> Iterator[Copying]:
    """The driver that makes the device do DMA; without one the check is skipped."""
    name = request.config.getoption("--vfio-driver")
    if not name:
        pytest.skip("needs a driver: --driver MODULE:CLASS")
    if vfio_device.info.is_pci:
        vfio_device.set_bus_master(True)
    with driving(name, vfio_device) as driver:
        yield driver


@pytest.fixture
def limit(record_property: Callable[[str, object], None]) -> Callable[[str, object], None]:
    """Return a function that records a limit of the device for the report."""

    def note(name: str, value: object) -> None:
        record_property(f"limit:{name}", value)

    return note


@pytest.fixture
def refused() -> Callable[..., Any]:
    """Return a context manager that expects an OSError with one of several errnos."""

    @contextmanager
    def expect(*numbers: int) -> Iterator[None]:
        with pytest.raises(OSError) as caught:  # noqa: PT011 (the errno is checked)
            yield
        names = [errno.errorcode[number] for number in numbers]
        assert caught.value.errno in numbers, f"{caught.value} is none of {', '.join(names)}"

    return expect
