# SPDX-License-Identifier: MIT
"""Opening an address space: version, extensions, and requests that are refused before a device is attached."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio
from pyvfio.spaces.opening import Mode
from tests.contract import soak

if TYPE_CHECKING:
    from vmtest.matrix import Cell

    from pyvfio import Device
    from pyvfio.spaces.base import AddressSpace


def test_a_device_opens_and_tells_what_it_is(device: Device) -> None:
    info = device.info
    assert info.num_regions > 0
    assert info.num_irqs > 0


def test_nothing_can_be_mapped_before_a_device_is_attached(bare_space: AddressSpace, mode: Mode) -> None:
    if mode == "iommufd":
        assert bare_space.alloc(4096).size == 4096
        return
    with pytest.raises(OSError, match="no IOMMU type is set") as caught:
        bare_space.map(pyvfio.DmaBuffer(4096), 0)
    # As a container, iommufd has no address space yet: ENODEV.
    assert caught.value.errno == (errno.ENODEV if mode.startswith("iommufd") else errno.EINVAL)


@pytest.mark.only(kernel="6.1")
@pytest.mark.parametrize("missing", ["iommufd", "iommufd-type1v2", "iommufd-type1"])
def test_a_mode_that_the_kernel_lacks_is_refused_with_the_reason(address: str, missing: Mode, kernel: Any) -> None:
    with pytest.raises(pyvfio.Unsupported, match=f"mode {missing}: this kernel has no iommufd"):
        pyvfio.open(address, mode=missing, kernel=kernel)


@pytest.mark.only(kernel="6.1")
def test_without_iommufd_the_refusal_of_its_file_says_why(kernel: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"open /dev/iommu.*this kernel has no iommufd"):
        pyvfio.Iommufd(kernel=kernel)


@pytest.mark.only(kernel="6.1")
def test_without_iommufd_a_device_is_in_no_iommufd(device: Device) -> None:
    with pytest.raises(pyvfio.Unsupported, match="opened by group"):
        _ = device.bound


def test_without_a_mode_the_best_that_there_is_is_taken(address: str, cell: Cell, kernel: Any) -> None:
    with pyvfio.open(address, kernel=kernel) as device:
        assert device.address_space.mode == ("type1v2" if cell.kernel == "6.1" else "iommufd")


def test_a_group_that_is_open_is_not_opened_again(device: Device, address: str, mode: Mode, kernel: Any) -> None:
    with (
        pyvfio.address_space(mode, kernel=kernel) as other,
        pytest.raises(OSError, match=r"open|in use|bound") as caught,
    ):
        other.attach(address)
    assert caught.value.errno == (errno.EINVAL if mode == "iommufd" else errno.EBUSY)


def test_a_device_that_does_not_exist_is_named(bare_space: AddressSpace) -> None:
    with pytest.raises(OSError, match=r"0000:ff:1f\.7") as caught:
        bare_space.attach("0000:ff:1f.7")
    assert caught.value.errno == errno.ENODEV


def test_a_device_can_be_opened_again_after_it_was_closed(address: str, mode: Mode, kernel: Any) -> None:
    with pyvfio.open(address, mode=mode, kernel=kernel) as device:
        device.address_space.alloc(4096)
    assert device.closed
    with pyvfio.open(address, mode=mode, kernel=kernel) as again:
        assert again.address_space.alloc(4096).mapped
    with pytest.raises(pyvfio.Closed):
        device.fileno()


def test_rounds_of_open_and_close_leave_nothing(address: str, mode: Mode, kernel: Any) -> None:
    first, last = soak.rounds(address, mode, kernel, 3, 1, warm=2)
    assert soak.grown(first, last) == []


def test_what_only_another_mode_can_do_is_said_to_be_so(bare_space: AddressSpace, mode: Mode) -> None:
    if mode == "iommufd":
        with pytest.raises(pyvfio.Unsupported, match=f"mode {mode} has no start_dirty_tracking: mode type1v2, and"):
            bare_space.start_dirty_tracking()
    else:
        with pytest.raises(pyvfio.Unsupported, match=f"mode {mode} has no map_file: mode iommufd has it"):
            bare_space.map_file(0, 0, 4096)
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        _ = bare_space.fly  # type: ignore[attr-defined]
