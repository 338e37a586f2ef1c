"""The fixtures that several suites share; a conftest.py imports those that its suite uses.

They are the plugin's, under shorter names: the mark `vfio(profile=, mode=, device=)` chooses among kernels, modes and devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pyvfio import Device, Iommufd
from pyvfio.iommufd import Ioas
from pyvfio.spaces.base import AddressSpace


@pytest.fixture
def kernel(vfio_kernel: Any) -> Any:
    """The mock kernel; give it to everything that takes `kernel=`."""
    return vfio_kernel


@pytest.fixture
def space(vfio_space: AddressSpace) -> AddressSpace:
    """An address space, with nothing attached unless `device` is used too."""
    return vfio_space


@pytest.fixture
def device(vfio_device: Device) -> Device:
    """The marked device, vfio-mock.0 without a mark, attached to `space`."""
    return vfio_device


@pytest.fixture
def iommufd(kernel: Any) -> Iterator[Iommufd]:
    """An open /dev/iommu with nothing in it."""
    with Iommufd(kernel=kernel) as iommufd:
        yield iommufd


@pytest.fixture
def ioas(iommufd: Iommufd) -> Ioas:
    """An address space of `iommufd`, with nothing attached."""
    return iommufd.ioas()
