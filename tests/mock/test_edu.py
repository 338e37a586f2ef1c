# SPDX-License-Identifier: MIT
"""The model of edu on the mock, with the driver for QEMU's edu."""

from __future__ import annotations

import errno
import os
import time

import pytest
from examples.edu import Edu

import pyvfio
from pyvfio import Device, host, mock
from pyvfio.iommufd import Ioas
from pyvfio.mock import DmaFault
from pyvfio.region import Area
from tests.fixtures import BY_GROUP_AND_CDEV

ADDRESS = "0000:00:03.0"
PAGE = 4096
pytestmark = pytest.mark.vfio(device=ADDRESS)


@pytest.fixture(params=BY_GROUP_AND_CDEV)
def device(vfio_device: Device) -> Device:
    """The device, in each mode."""
    vfio_device.config.bus_master = True
    return vfio_device


def test_the_program_of_the_readme_works(kernel: mock.Kernel) -> None:
    with pyvfio.host.bind(ADDRESS, "vfio-pci", kernel=kernel), pyvfio.open(ADDRESS, kernel=kernel) as device:
        assert device.regions[0].read32(0x00) == 0x010000ED
        device.config.bus_master = True
        (vector,) = device.irqs.msi.enable()
        device.regions[0].write32(0x60, 1)
        assert vector.wait(timeout=1) == 1
    assert pyvfio.host.device(ADDRESS, kernel).driver is None


def test_it_copies_between_iovas(device: Device) -> None:
    mapping = device.address_space.map(pyvfio.DmaBuffer(4 * PAGE), 0x100000)
    mapping.buffer.view[:PAGE] = bytes(range(256)) * 16
    Edu(device).copy(mapping.iova + 2 * PAGE, mapping.iova, PAGE)
    assert mapping.buffer.view[2 * PAGE : 3 * PAGE] == bytes(range(256)) * 16


def test_what_the_iommu_refuses_is_a_fault_that_is_counted(kernel: mock.Kernel, device: Device) -> None:
    Edu(device).write(0x200000, 64)
    Edu(device).read(0x300000, 64)
    assert [(fault.device, fault.iova, fault.write) for fault in kernel.faults] == [
        (ADDRESS, 0x200000, True),
        (ADDRESS, 0x300000, False),
    ]
    assert isinstance(kernel.faults[0], DmaFault)


def test_a_transfer_into_a_hole_gets_as_far_as_there_is_memory(kernel: mock.Kernel, device: Device) -> None:
    mapping = device.address_space.map(pyvfio.DmaBuffer(PAGE), 0x100000)
    mapping.buffer.view[:] = b"m" * PAGE
    edu = Edu(device)
    edu.read(mapping.iova, 64)
    mapping.buffer.view[:] = bytes(PAGE)
    edu.write(mapping.range.last + 1 - 32, 64)
    assert bytes(mapping.buffer.view[-33:]) == b"\0" + b"m" * 32
    assert [(fault.iova, fault.write) for fault in kernel.faults] == [(mapping.range.last + 1, True)]


def test_configuration_space_is_read_whole_or_not_at_all(kernel: mock.Kernel, device: Device) -> None:
    base = 7 << 40
    assert len(kernel.pread(device.fileno(), 4, base + 252)) == 4
    for offset in (254, 256):
        with pytest.raises(OSError, match="Bad address") as refused:
            kernel.pread(device.fileno(), 4, base + offset)
        assert refused.value.errno == errno.EFAULT


def test_without_bus_master_it_does_no_dma_and_sends_no_msi(kernel: mock.Kernel, device: Device) -> None:
    mapping = device.address_space.map(pyvfio.DmaBuffer(PAGE), 0x100000)
    mapping.buffer.view[:4] = b"test"
    edu = Edu(device)
    edu.read(mapping.iova, 4)
    (vector,) = device.irqs.msi.enable()
    device.config.bus_master = False
    edu.write(mapping.iova + 64, 4)
    device.regions[0].write32(0x60, 1)
    assert mapping.buffer.view[64:68] == bytes(4)
    assert kernel.faults == []
    with pytest.raises(TimeoutError):
        vector.wait(0)


def test_registers_take_accesses_of_their_width(device: Device) -> None:
    region = device.regions[0]
    region.write32(0x04, 0x12345678)
    assert region.read32(0x04) == 0xEDCBA987
    assert region.read16(0x04) == 0
    assert region.read32(0x10) == 0xFFFFFFFF
    region.write32(0x08, 5)
    assert region.read32(0x08) == 120
    region.write32(0x08, 40)
    assert region.read32(0x08) == 0


def test_intx_stays_until_it_is_acknowledged(device: Device) -> None:
    (vector,) = device.irqs.intx.enable()
    region = device.regions[0]
    region.write32(0x60, 6)
    assert vector.wait(1) == 1
    assert region.read32(0x24) == 6
    vector.unmask()
    assert vector.wait(1) == 1
    region.write32(0x64, 6)
    vector.unmask()
    with pytest.raises(TimeoutError):
        vector.wait(0)


def test_the_command_register_switches_intx_off(device: Device) -> None:
    (vector,) = device.irqs.intx.enable()
    device.config.command |= 0x400
    device.regions[0].write32(0x60, 1)
    with pytest.raises(TimeoutError):
        vector.wait(0)
    device.config.command &= ~0x400
    assert vector.wait(1) == 1


def test_sizing_a_bar_tells_its_size(device: Device) -> None:
    config = device.config
    before = config.read32(0x10)
    config.write32(0x10, 0xFFFFFFFF)
    assert ~(config.read32(0x10) & ~0xF) + 1 & 0xFFFFFFFF == device.regions[0].size
    config.write32(0x10, before)
    assert config.read32(0x10) == before
    config.write32(0x14, 0xFFFFFFFF)
    assert config.read32(0x14) == 0


def test_bars_do_not_answer_while_memory_is_off(device: Device) -> None:
    device.config.memory_enabled = False
    with pytest.raises(OSError, match="does not decode memory") as failed:
        device.regions[0].read32(0)
    assert failed.value.errno == errno.EIO


def test_a_store_by_eventfd(device: Device) -> None:
    region = device.regions[0]
    event = os.eventfd(0)
    try:
        region.add_ioeventfd(event, 0x04, 4, 0xCAFE0001)
        with pytest.raises(FileExistsError):
            region.add_ioeventfd(event, 0x04, 4, 0xCAFE0001)
        os.eventfd_write(event, 1)
        limit = time.monotonic() + 60
        while region.read32(0x04) != ~0xCAFE0001 & 0xFFFFFFFF:
            assert time.monotonic() < limit
        region.remove_ioeventfd(0x04, 4, 0xCAFE0001)
        with pytest.raises(OSError, match="VFIO_DEVICE_IOEVENTFD") as gone:
            region.remove_ioeventfd(0x04, 4, 0xCAFE0001)
        assert gone.value.errno == errno.ENODEV
    finally:
        os.close(event)


def test_asleep_an_access_wakes_it(device: Device) -> None:
    from pyvfio._abi import ffi, lib

    event = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        entry = ffi.new("struct vfio_device_low_power_entry_with_wakeup *", {"wakeup_eventfd": event})
        device.features.set(lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, entry)
        assert device.regions[0].read32(0) == 0x010000ED
        assert os.eventfd_read(event) == 1
    finally:
        os.close(event)
    device.features.set(lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY)
    with pytest.raises(OSError, match="VFIO_DEVICE_FEATURE") as twice:
        device.features.set(lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY)
    assert twice.value.errno == errno.EINVAL
    assert device.regions[0].read32(0) == 0x010000ED
    assert device.config.vendor == 0x1234
    device.features.set(lib.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT)
    assert device.regions[0].read32(0) == 0x010000ED


def write_by_dma(device: Device, iova: int, value: int) -> None:
    """Make an edu write 32 bits to an IOVA."""
    with device.address_space.map(pyvfio.DmaBuffer(PAGE), 0x8000000) as source:
        source.buffer.view[:4] = value.to_bytes(4, "little")
        Edu(device).copy(iova, source.iova, 4)


def test_one_device_writes_into_anothers_bar(kernel: mock.Kernel) -> None:
    behind = "0000:01:00.0"
    with (
        host.bind(ADDRESS, "vfio-pci", kernel=kernel),
        host.bind(behind, "vfio-pci", kernel=kernel),
        pyvfio.open(ADDRESS, mode="iommufd", kernel=kernel) as device,
    ):
        space = device.address_space
        assert isinstance(space, Ioas)
        with space.attach(behind) as peer:
            device.config.bus_master = True
            registers = peer.regions[0]
            with registers.dma_buf([Area(0, PAGE)]) as exported:
                window = space.map_file(exported.fileno(), 0, PAGE, 0x4000000)
                write_by_dma(device, window.iova + 0x04, 0x1234ABCD)
                assert registers.read32(0x04) == ~0x1234ABCD & 0xFFFFFFFF
                # The mapping becomes invalid with the BAR's decoding, and stays invalid when decoding is enabled again.
                peer.config.memory_enabled = False
                with pytest.raises(OSError, match="IOMMU_IOAS_MAP_FILE") as away:
                    space.map_file(exported.fileno(), 0, PAGE, 0x5000000)
                assert away.value.errno == errno.ENODEV
                peer.config.memory_enabled = True
                write_by_dma(device, window.iova + 0x04, 0)
                assert registers.read32(0x04) == ~0x1234ABCD & 0xFFFFFFFF
                assert len(kernel.faults) == 1
            with registers.dma_buf([Area(0, PAGE), Area(2 * PAGE, PAGE)]) as two:
                with pytest.raises(OSError, match="IOMMU_IOAS_MAP_FILE") as parts:
                    space.map_file(two.fileno(), 0, two.size)
                assert parts.value.errno == errno.EOPNOTSUPP
            for area in (Area(0, 100), Area(100, PAGE), Area(0, 0), Area(0, registers.size + PAGE)):
                with pytest.raises(OSError, match="whole pages"):
                    registers.dma_buf([area])
            with pytest.raises(OSError, match="only BARs"):
                peer.regions[1].dma_buf([Area(0, PAGE)])
