# SPDX-License-Identifier: MIT
"""No-IOMMU mode, on a machine without an IOMMU, by group and by cdev. It is never used without being asked for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio
from pyvfio import Container, DmaBuffer, InvalidRequest, NoIommuWarning, Unsupported, host
from pyvfio.spaces.opening import Mode
from tests.contract.capabilities import without_capability

if TYPE_CHECKING:
    from pyvfio import Device
    from pyvfio.spaces.base import AddressSpace

pytestmark = pytest.mark.only(iommu="none")

PAGE = 4096
EDU_FAR = "0000:00:05.1"  # it can address 4 GiB, which is all memory of the machine
PARAMETER = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
MODES = {"iommufd": "noiommu-vfio", "noiommu": "noiommu-", "iommufd-noiommu": "noiommu-"}


def test_discovery_tells_which_devices_have_no_iommu(address: str, other: Callable[[str], str], kernel: Any) -> None:
    found = host.device(address, kernel)
    assert found.no_iommu
    assert found.group_path == f"/dev/vfio/noiommu-{found.group}"
    assert found.cdev is not None
    assert found.cdev.startswith("/dev/vfio/devices/noiommu-vfio")
    assert found.iommu is None
    assert not host.device(other("vfio-mock"), kernel).no_iommu


@pytest.mark.parametrize("mode", ["iommufd", "type1v2", "type1", "iommufd-type1v2", None])
def test_a_device_without_an_iommu_is_not_opened_by_accident(mode: Mode | None, address: str, kernel: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"reaches all memory.*no_iommu=True"):
        pyvfio.open(address, mode=mode, kernel=kernel)


@pytest.mark.parametrize("mode", [None, "iommufd", "noiommu", "iommufd-noiommu"])
def test_it_is_opened_with_a_warning_that_says_what_is_given_up(mode: Mode | None, address: str, kernel: Any) -> None:
    with pytest.warns(NoIommuWarning, match=r"reaches all memory.*taints the kernel") as caught:
        device = pyvfio.open(address, mode=mode, no_iommu=True, kernel=kernel)
    assert [warning.filename for warning in caught] == [__file__]
    with device:
        assert device.address_space.mode == mode or mode is None
        assert device.regions[0].read32(0x00) == 0x010000ED
        device.config.bus_master = True
        (vector,) = device.irqs.msi.enable()
        device.regions[0].write32(0x60, 1)
        assert vector.wait(60) == 1
        device.regions[0].write32(0x64, 1)
        device.config.bus_master = False


def test_a_warning_made_an_error_leaves_the_device_closed(address: str, kernel: Any) -> None:
    with pytest.raises(NoIommuWarning):
        pyvfio.open(address, no_iommu=True, kernel=kernel)
    assert host.holders_of(address, kernel) == []


@pytest.mark.parametrize("mode", ["type1v2", "iommufd-type1"])
def test_type1_is_not_to_be_had_without_an_iommu(mode: Mode, address: str, kernel: Any) -> None:
    with pytest.raises(Unsupported, match=r"has no IOMMU.*noiommu does"):
        pyvfio.open(address, mode=mode, no_iommu=True, kernel=kernel)


@pytest.mark.parametrize("mode", ["noiommu", "iommufd-noiommu"])
def test_by_group_nothing_can_be_mapped(mode: Mode, address: str, kernel: Any) -> None:
    with pytest.warns(NoIommuWarning):
        device = pyvfio.open(address, mode=mode, kernel=kernel)
    with device:
        space = device.address_space
        assert isinstance(space, Container)
        assert space.has_extension(8)  # VFIO_NOIOMMU_IOMMU
        with pytest.raises(OSError, match="DMA uses physical addresses"):
            space.map(DmaBuffer(PAGE), 0)
        with pytest.raises(Unsupported, match="nothing can be mapped"):
            _ = space.iova_ranges
        assert device.group is not None
        assert device.group.viable
        assert space.mappings == []


def test_an_emulated_device_keeps_its_modes(other: Callable[[str], str], kernel: Any) -> None:
    mock = other("vfio-mock")
    for mode in ("iommufd", "type1v2"):
        with pyvfio.open(mock, mode=mode, no_iommu=True, kernel=kernel) as device:
            assert device.address_space.alloc(PAGE).mapped
    with pytest.raises(Unsupported, match="type1v2 does"):
        pyvfio.open(mock, mode="noiommu", kernel=kernel)


def test_dma_reaches_what_is_mapped_by_its_physical_address(
    other: Callable[[str], str], bare_space: AddressSpace
) -> None:
    from tests.contract.drivers import driver_for

    with pytest.warns(NoIommuWarning):
        device = bare_space.attach(other(EDU_FAR), no_iommu=True)
    with device, driver_for("edu", device) as edu:
        mapping = bare_space.alloc(2 * PAGE, 0x10_0000)
        view = mapping.buffer.view
        view[:PAGE] = os.urandom(PAGE)
        source, size = bare_space.physical_address(mapping.iova)
        target, _ = bare_space.physical_address(mapping.iova + PAGE)
        assert size == PAGE
        edu.copy(target, source, 2048)
        assert view[PAGE : PAGE + 2048] == view[:2048]
        assert not any(view[PAGE + 2048 :])


def test_physical_addresses_are_told_of_what_is_mapped_alone(device: Device, space: AddressSpace) -> None:
    mapping = space.alloc(PAGE, 0x10_0000)
    address, size = space.physical_address(mapping.iova + 0x10, 1 << 20)
    assert address % PAGE == 0x10
    assert size == PAGE - 0x10
    mapping.unmap()
    with pytest.raises(OSError) as caught:
        space.physical_address(mapping.iova)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("mode", sorted(MODES))
def test_without_the_capability_it_cannot_be_opened(mode: Mode, address: str, kernel: Any) -> None:
    with (
        without_capability("CAP_SYS_RAWIO", kernel),
        pytest.warns(NoIommuWarning),
        pytest.raises(PermissionError, match="CAP_SYS_RAWIO"),
    ):
        pyvfio.open(address, mode=mode, no_iommu=True, kernel=kernel)


def test_where_it_is_switched_off_that_is_said(kernel: Any) -> None:
    kernel.write_file(PARAMETER, b"N")
    try:
        with pytest.raises(Unsupported, match="enable_unsafe_noiommu_mode"):
            pyvfio.address_space("noiommu", kernel=kernel)
        found = host.device(EDU_FAR, kernel)
        assert found.group is None
        with pytest.raises(OSError, match="in no IOMMU group") as caught, host.bind(EDU_FAR, "vfio-pci", kernel=kernel):
            pytest.fail("bound")
        assert caught.value.errno == errno.ENODEV
        with pytest.raises(Unsupported, match="in no IOMMU group"):
            pyvfio.open(EDU_FAR, mode="type1v2", kernel=kernel)
    finally:
        kernel.write_file(PARAMETER, b"Y")
