"""iommufd with real devices: binding, attaching, files, options, the compatibility address space."""

from __future__ import annotations

import errno
import uuid
from typing import Any

import pytest

import pyvfio
from pyvfio import Device, DmaBuffer, Iommufd
from pyvfio._abi import lib
from pyvfio.iommufd import Ioas

pytestmark = pytest.mark.only(mode="iommufd")

PAGE = 4096


def test_a_device_is_bound_attached_replaced_and_detached(kernel: Any, address: str) -> None:
    with Iommufd(kernel=kernel) as iommufd:
        device = iommufd.bind(address)
        with pytest.raises(pyvfio.Closed, match="attached to no address space"):
            _ = device.address_space
        one, other = iommufd.ioas(), iommufd.ioas()
        device.attach(one)
        assert device.address_space is one
        assert one.devices == [device]
        device.attach(other)
        assert device.address_space is other
        assert one.devices == []
        one.destroy()
        with pytest.raises(OSError) as caught:
            other.destroy()
        assert caught.value.errno == errno.EBUSY
        device.detach()
        device.detach()
        other.destroy()


def test_a_bound_device_is_not_bound_again(device: Device, address: str, kernel: Any) -> None:
    with Iommufd(kernel=kernel) as other, pytest.raises(OSError, match=r"bound|owns|in use"):
        other.bind(address)


def test_attaching_to_what_is_not_there_is_refused(device: Device, space: Ioas, kernel: Any) -> None:
    with Iommufd(kernel=kernel) as other, pytest.raises(pyvfio.Refused):
        device.attach(other.ioas())
    gone = space.iommufd.ioas()
    gone.destroy()
    with pytest.raises(pyvfio.Closed):
        device.attach(gone)


@pytest.mark.require("iommu")
def test_attaching_over_a_mapping_in_a_reserved_region_leaves_all_as_it_was(kernel: Any, address: str) -> None:
    with Iommufd(kernel=kernel) as iommufd:
        ioas = iommufd.ioas()
        mapping = ioas.map(DmaBuffer(PAGE), 0xFEE0_0000)
        device = iommufd.bind(address)
        with pytest.raises(OSError, match="reserved") as caught:
            device.attach(ioas)
        assert caught.value.errno == errno.EADDRINUSE
        mapping.unmap()
        device.attach(ioas)
        assert ioas.devices == [device]


@pytest.mark.require("iommu")
def test_a_page_table_is_made_and_attached(device: Device, space: Ioas) -> None:
    table = space.hwpt(device)
    device.attach(table)
    assert device.address_space is space
    with pytest.raises(OSError) as caught:
        table.destroy()
    assert caught.value.errno == errno.EBUSY
    assert any(device.address in note for note in caught.value.__notes__)
    device.attach(space)
    table.destroy()


@pytest.mark.require("iommu")
def test_hardware_info_tells_the_iommu(device: Device, cell: Any) -> None:
    info = device.bound.hw_info()
    expected = {"intel": lib.IOMMU_HW_INFO_TYPE_INTEL_VTD, "amd": lib.IOMMU_HW_INFO_TYPE_AMD, "virtio": 0}
    assert info.type == expected[cell.iommu]
    if cell.iommu == "intel":
        assert info.decoded.cap_reg != 0


@pytest.mark.only(mode="iommufd", device="vfio-mock")
def test_an_emulated_device_has_no_iommu(device: Device, space: Ioas) -> None:
    with pytest.raises(FileNotFoundError):
        device.bound.hw_info()
    with pytest.raises(FileNotFoundError):
        space.hwpt(device)


def test_pasids_that_are_not_there_are_refused(device: Device, space: Ioas) -> None:
    with pytest.raises(OSError) as caught:
        device.attach(space, pasid=7)
    assert caught.value.errno in (errno.EINVAL, errno.EOPNOTSUPP)
    assert device.address_space is space


def test_only_files_can_be_handed_to_another_process(space: Ioas) -> None:
    space.iommufd.change_process()
    space.map(DmaBuffer(PAGE), 0x10_0000)
    with pytest.raises(OSError) as caught:
        space.iommufd.change_process()
    assert caught.value.errno == errno.EINVAL


def test_physical_addresses_are_for_devices_without_an_iommu(space: Ioas) -> None:
    mapping = space.alloc(PAGE, 0x10_0000)
    with pytest.raises(OSError) as caught:
        space.physical_address(mapping.iova)
    assert caught.value.errno in (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL)


def test_a_token_of_the_wrong_length_is_refused(space: Ioas, address: str) -> None:
    with pytest.raises(ValueError, match="16"):
        space.iommufd.bind("0000:00:00.0" if address.startswith("vfio") else address, vf_token=b"short")


def test_a_token_that_nobody_asked_for_is_refused(kernel: Any, address: str) -> None:
    with Iommufd(kernel=kernel) as iommufd, pytest.raises(OSError):
        iommufd.bind(address, vf_token=uuid.uuid4().bytes)


def test_tracking_says_who_tracks(device: Device, space: Ioas, cell: Any) -> None:
    mapping = space.alloc(4 * PAGE)
    with space.track_dirty([mapping.range]) as tracking:
        assert tracking.source == ("device" if cell.device == "vfio-mock" else "nobody")
        assert tracking.read().count() == (0 if cell.device == "vfio-mock" else 4)
