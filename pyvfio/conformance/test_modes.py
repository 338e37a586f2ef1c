# SPDX-License-Identifier: MIT
"""Each mode that the kernel has: the device opens, maps, and closes."""

from __future__ import annotations

import pytest

import pyvfio
from pyvfio import Unsupported
from pyvfio.kernel import Kernel
from pyvfio.spaces.opening import MODES, Mode


@pytest.mark.parametrize("mode", [mode for mode in MODES if "noiommu" not in mode])
def test_the_device_opens_maps_and_closes(address: str, vfio_kernel: Kernel, mode: Mode) -> None:
    """A page is mapped and unmapped; a page that is left mapped is unmapped when the space closes."""
    try:
        device = pyvfio.open(address, mode=mode, kernel=vfio_kernel)
    except Unsupported as error:
        pytest.skip(str(error))
    except FileNotFoundError as error:
        pytest.skip(f"the kernel does not have mode {mode}: {error}")
    with device:
        assert device.address_space.mode == mode
        mapping = device.address_space.alloc(1 << 16)
        assert mapping.mapped
        mapping.unmap()
        device.address_space.alloc(1 << 16)
    assert device.closed


def test_it_can_be_opened_again(address: str, vfio_kernel: Kernel) -> None:
    """The device opens and closes five times."""
    for _ in range(5):
        pyvfio.open(address, kernel=vfio_kernel).close()


def test_it_can_be_opened_once_at_a_time(address: str, vfio_kernel: Kernel) -> None:
    """A second open is refused."""
    with pyvfio.open(address, kernel=vfio_kernel), pytest.raises(OSError):  # noqa: PT011 (EBUSY, EINVAL by mode)
        pyvfio.open(address, kernel=vfio_kernel)
