# SPDX-License-Identifier: MIT
"""Fixtures of the tests with pages of 64 KiB.

The same tests run on the mock's profile smmu-64k, and in the machine of scripts/arm64 on a real arm64 kernel. What
they expect is written out, so the profile is compared with that kernel.
"""

from __future__ import annotations

import mmap
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pyvfio
from pyvfio import mock
from pyvfio.kernel import Kernel, LinuxKernel
from pyvfio.memory import address_of

if TYPE_CHECKING:
    from pyvfio.spaces.opening import Mode

#: Whether this is the machine of scripts/arm64.
IN_MACHINE = os.environ.get("PYVFIO_VM_IOMMU") == "smmuv3"
EDU, VFIO_MOCK = "0000:00:03.0", "vfio-mock.0"
MODES: tuple[Mode, ...] = ("type1v2", "type1", "iommufd-type1v2", "iommufd-type1", "iommufd")
PAGE = 1 << 16


@pytest.fixture
def kernel() -> Kernel:
    """The real kernel in the machine, the mock elsewhere."""
    if not IN_MACHINE:
        return mock.Kernel("smmu-64k")
    if not Path("/sys/module/vfio_mock").exists():
        subprocess.run(["insmod", os.environ["PYVFIO_MOCK_MODULE"]], check=True)
    return LinuxKernel()


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each of the modes."""
    mode: Mode = request.param
    return mode


@pytest.fixture
def device(kernel: Kernel, mode: Mode, address: str) -> Iterator[pyvfio.Device]:
    """The device of the parameter `address`."""
    with ExitStack() as stack:
        if address == EDU:
            stack.enter_context(pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel))
        yield stack.enter_context(pyvfio.open(address, mode=mode, kernel=kernel))


@pytest.fixture
def edu(kernel: Kernel, mode: Mode) -> Iterator[pyvfio.Device]:
    """An edu, which is behind the IOMMU."""
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode=mode, kernel=kernel) as device:
        yield device


@pytest.fixture
def vfio_mock(kernel: Kernel, mode: Mode) -> Iterator[pyvfio.Device]:
    """vfio-mock, whose DMA the kernel does by copying."""
    with pyvfio.open(VFIO_MOCK, mode=mode, kernel=kernel) as device:
        yield device


def aligned(size: int) -> memoryview:
    """Return memory at an address that is a multiple of 64 KiB, also where the processor's pages are smaller."""
    area = mmap.mmap(-1, size + PAGE)
    start = -address_of(area) % PAGE
    return memoryview(area)[start : start + size]
