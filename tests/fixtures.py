# SPDX-License-Identifier: MIT
"""Fixtures that several suites share. Each conftest.py imports those that its suite uses.

The mark `vfio(profile=, mode=, device=)` of the plugin chooses the mock's profile, the mode and the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import pyvfio

if TYPE_CHECKING:
    from pyvfio import Device, Iommufd, mock
    from pyvfio.iommufd import Ioas
    from pyvfio.spaces.base import AddressSpace

#: Parameters of a fixture whose tests run both by group and by cdev.
BY_GROUP_AND_CDEV = [pytest.param(mode, marks=pytest.mark.vfio(mode=mode)) for mode in ("type1v2", "iommufd")]


@pytest.fixture
def kernel(vfio_kernel: mock.Kernel) -> mock.Kernel:
    """The mock kernel. Pass it to every function that has a parameter `kernel`."""
    return vfio_kernel


@pytest.fixture
def space(vfio_space: AddressSpace) -> AddressSpace:
    """An address space. Nothing is attached to it, unless the fixture `device` is used too."""
    return vfio_space


@pytest.fixture
def device(vfio_device: Device) -> Device:
    """The device of the mark `vfio` (vfio-mock.0 without a mark), attached to `space`."""
    return vfio_device


def _open(kernel: mock.Kernel, address: str, request: pytest.FixtureRequest) -> Device:
    modes = [marker.kwargs["mode"] for marker in request.node.iter_markers("vfio") if "mode" in marker.kwargs]
    return pyvfio.open(address, mode=modes[0] if modes else None, kernel=kernel)


@pytest.fixture
def emulated(kernel: mock.Kernel, request: pytest.FixtureRequest) -> Iterator[Device]:
    """vfio-mock.0, whose DMA the kernel does by copying, in its own address space."""
    with _open(kernel, "vfio-mock.0", request) as device:
        yield device


@pytest.fixture
def edu(kernel: mock.Kernel, request: pytest.FixtureRequest) -> Iterator[Device]:
    """An edu, which is behind the IOMMU, in its own address space."""
    address = "0000:00:03.0"
    with pyvfio.host.bind(address, "vfio-pci", kernel=kernel), _open(kernel, address, request) as device:
        yield device


@pytest.fixture
def iommufd(kernel: mock.Kernel) -> Iterator[Iommufd]:
    """An open /dev/iommu with nothing in it."""
    with pyvfio.Iommufd(kernel=kernel) as iommufd:
        yield iommufd


@pytest.fixture
def ioas(iommufd: Iommufd) -> Ioas:
    """An address space of `iommufd`, with nothing attached."""
    return iommufd.ioas()
