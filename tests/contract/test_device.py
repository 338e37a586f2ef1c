# SPDX-License-Identifier: MIT
"""Devices: information, regions, registers, configuration space, reset, features."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio
from pyvfio import InvalidRequest, Unsupported
from pyvfio._abi import lib

if TYPE_CHECKING:
    from pyvfio import Device

pytestmark = pytest.mark.require("functions")


def test_regions_and_interrupts_are_as_many_as_the_device_says(device: Device) -> None:
    info = device.info
    assert len(list(device.regions)) == info.num_regions
    assert len(list(device.irqs)) == info.num_irqs
    with pytest.raises(IndexError):
        device.regions[info.num_regions]


@pytest.mark.require("pci")
def test_configuration_space_names_the_device(device: Device, address: str, cell: Any, kernel: Any) -> None:
    found = pyvfio.host.device(address, kernel)
    assert (device.config.vendor, device.config.device_id) == (found.vendor, found.device)
    names = [capability.name for capability in device.config.capabilities]
    assert ("MSI" in names) == (device.irqs.msi.count > 0)
    assert ("MSI-X" in names) == (device.irqs.msix.count > 0)
    assert ("Express" in names) == (device.config.size == 4096)
    if cell.device in ("e1000e", "igb"):
        extended = [capability.name for capability in device.config.extended_capabilities]
        assert "Advanced Error Reporting" in extended


@pytest.mark.require("pci")
def test_bus_master_is_off_until_it_is_asked_for(device: Device) -> None:
    assert not device.config.bus_master
    device.config.bus_master = True
    assert device.config.bus_master
    device.config.bus_master = False
    assert not device.config.bus_master


@pytest.mark.require("pci")
def test_reading_beyond_configuration_space_is_refused(device: Device) -> None:
    with pytest.raises(OSError) as caught:
        device.config.read(device.config.size - 2, 4)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(InvalidRequest):
        device.config.read32(2)


@pytest.mark.only(device="edu")
@pytest.mark.require("bar_mmap")
def test_registers_are_accessed_in_the_width_that_was_asked_for(device: Device) -> None:
    region = device.regions[0]
    bar = region.mmap()
    for registers in (region, bar):
        assert registers.read32(0x00) == 0x010000ED
        registers.write32(0x04, 0x12345678)
        assert registers.read32(0x04) == 0xEDCBA987
    # Below 0x80, edu supports only accesses of four bytes.
    assert bar.read16(0x00) != 0x00ED
    bar.write64(0x80, 0x1122334455667788)
    assert bar.read64(0x80) == 0x1122334455667788
    assert bar.read32(0x80) == 0x55667788
    with pytest.raises(Unsupported, match="split"):
        region.read64(0x80)


@pytest.mark.require("bar_mmap")
def test_accesses_that_are_unaligned_or_outside_are_refused(device: Device) -> None:
    region = device.regions[0]
    bar = region.mmap()
    for registers in (region, bar):
        with pytest.raises(InvalidRequest, match="not a multiple"):
            registers.read32(2)
        with pytest.raises(InvalidRequest, match="outside"):
            registers.read32(region.size)
        with pytest.raises(InvalidRequest, match="outside"):
            registers.write8(-1, 0)
    with pytest.raises(Unsupported, match="can be mapped"):
        region.mmap(0, region.size + 4096)


@pytest.mark.require("bar_mmap")
def test_a_mapped_region_is_gone_with_its_device(device: Device) -> None:
    bar = device.regions[0].mmap()
    device.close()
    with pytest.raises(pyvfio.Closed):
        bar.read32(0)


@pytest.mark.only(device="vfio-mock")
def test_only_sparse_areas_can_be_mapped_and_show_writes(device: Device) -> None:
    region = device.regions[2]
    assert region.info.areas == ((0x1000, 0x2000), (0x8000, 0x1000))
    area = region.mmap(0x1000)
    assert area.size == 0x2000
    region.write(0x1FFE, b"across")
    assert bytes(area.view[0xFFE:0x1004]) == b"across"
    with pytest.raises(Unsupported, match=r"\[0x1000, 0x2fff\], \[0x8000, 0x8fff\]"):
        region.mmap(0x4000)
    assert device.regions[3].info.type == (0x6D6F636B, 1)
    assert device.regions[4].size == 0


@pytest.mark.only(device="vfio-mock")
def test_short_transfers_are_continued(device: Device) -> None:
    from pyvfio.vfio_mock import VfioMock

    mock = VfioMock(device)
    mock["TRANSFER_MAX"] = 7
    data = os.urandom(1000)
    memory = device.regions[1]
    memory.write(5, data)
    assert memory.read(5, 1000) == data
    mock["TRANSFER_MAX"] = 0
    assert memory.read(5, 1000) == data


@pytest.mark.only(device="vfio-mock")
def test_a_region_that_cannot_be_written_says_so(device: Device) -> None:
    rom = device.regions[5]
    assert rom.read(0, 512) == bytes(range(256)) * 2
    with pytest.raises(OSError, match="is not writable") as caught:
        rom.write(0, b"x")
    assert caught.value.errno == errno.EINVAL


@pytest.mark.only(device="vfio-mock")
def test_registers_of_each_width_are_read_and_written_whole(device: Device) -> None:
    from pyvfio.vfio_mock import VfioMock

    mock = VfioMock(device)
    for width in (8, 16, 32, 64):
        value = 0x8877665544332211 & ((1 << width) - 1)
        mock[f"SCRATCH{width}"] = value
        assert mock[f"SCRATCH{width}"] == value
    with pytest.raises(OSError) as caught:
        device.regions[0].read32(0x010)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.require("reset")
def test_a_reset_puts_the_device_back(device: Device, cell: Any, kernel: Any) -> None:
    if cell.device == "vfio-mock":
        device.regions[1].write(0, b"data")
        device.reset()
        assert device.regions[1].read(0, 4) == bytes(4)
        return
    device.config.write8(0x3C, 0x5A)  # Interrupt Line: a register without an effect
    device.reset()
    device.reset()
    assert device.config.vendor == pyvfio.host.device(device.address, kernel).vendor


@pytest.mark.only(device="edu")
def test_a_device_without_reset_says_so(device: Device) -> None:
    with pytest.raises(Unsupported, match="no function-level reset"):
        device.reset()


def test_a_feature_that_is_not_there_is_told_by_probe_and_call(device: Device) -> None:
    nothing = lib.VFIO_DEVICE_FEATURE_MASK
    assert nothing not in device.features
    with pytest.raises(Unsupported, match="no feature"):
        device.features.set(nothing)
