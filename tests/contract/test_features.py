# SPDX-License-Identifier: MIT
"""VFIO_DEVICE_FEATURE except migration and logging: the supported features, dma-bufs, peer-to-peer DMA."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from vmtest.matrix import Cell, Matrix

import pyvfio
from pyvfio import DmaBuffer, Unsupported, host
from pyvfio._abi import lib
from pyvfio.region import Area
from tests.contract.power import D0, D3HOT, set_power_state

if TYPE_CHECKING:
    from pyvfio import Device
    from pyvfio.dma_buf import DmaBuf
    from pyvfio.iommufd import Ioas
    from pyvfio.region import RegionMapping
    from pyvfio.spaces.base import AddressSpace
    from tests.contract.drivers import Dma

PAGE = 4096
BEHIND_PORT = "0000:01:00.0"
#: An 82574L and an edu behind a bridge. The bus has no reset, so that their hot reset fails.
ON_ONE_BUS = ("0000:02:00.0", "0000:02:00.1")
LIVENESS = 0x04  # an edu register that reads as the inverse of what was written
ADMIN_QUEUES = 0x24  # an NVMe register that reads as it was written
#: Device Control in the PCI Express capability, and Initiate FLR in it
DEVICE_CONTROL, INITIATE_FLR = 8, 0x8000


# --- supported features -----------------------------------------------------------------------------------------------


@pytest.mark.require("functions", "pci", "linux")
def test_the_features_of_vfio_pci(device: Device, cell: Cell) -> None:
    expected = ["LOW_POWER_ENTRY", "LOW_POWER_ENTRY_WITH_WAKEUP", "LOW_POWER_EXIT"]
    if "dma_buf" not in Matrix().absent(cell):
        expected.append("DMA_BUF")
    if host.device(device.address).total_vfs:
        expected.insert(0, "PCI_VF_TOKEN")
    if "dirty_log" not in Matrix().absent(cell):
        expected += ["DMA_LOGGING_START", "DMA_LOGGING_STOP", "DMA_LOGGING_REPORT", "MIGRATION", "MIG_DEVICE_STATE"]
        expected += [] if cell.kernel == "6.1" else ["MIG_DATA_SIZE"]
        expected += [] if "reinit" in Matrix().absent(cell) else ["MIG_PRECOPY_INFOv2"]
    assert sorted(device.features.available) == sorted(expected)


@pytest.mark.only(device="vfio-mock")
def test_the_features_of_a_device_that_is_not_pci(device: Device) -> None:
    there = device.features.available
    assert {"MIGRATION", "DMA_LOGGING_START"} <= set(there)
    assert not {"PCI_VF_TOKEN", "LOW_POWER_ENTRY", "BUS_MASTER", "DMA_BUF", "ZPCI_ERROR"} & set(there)
    with pytest.raises(Unsupported, match="LOW_POWER_ENTRY"):
        device.low_power()
    with pytest.raises(Unsupported, match="LOW_POWER_ENTRY_WITH_WAKEUP"):
        device.low_power_with_wakeup()
    with pytest.raises(Unsupported, match="BUS_MASTER"):
        device.set_bus_master(True)
    with pytest.raises(Unsupported, match="PCI_VF_TOKEN"):
        device.set_vf_token("01234567-89ab-cdef-0123-456789abcdef")
    with pytest.raises(Unsupported, match="CONFIG_VFIO_PCI_DMABUF"):
        device.regions[1].dma_buf()


@pytest.mark.require("functions")
def test_what_s390_alone_has_is_refused_clearly(device: Device) -> None:
    with pytest.raises(Unsupported, match="s390"):
        device.zpci_error()
    with pytest.raises(Unsupported, match="ZPCI_ERROR"):
        device.features.get(lib.VFIO_DEVICE_FEATURE_ZPCI_ERROR, "struct vfio_device_feature_zpci_err")


@pytest.mark.require("functions", "pci")
def test_bus_master_is_switched_by_one_method_on_any_bus(device: Device) -> None:
    device.set_bus_master(True)
    assert device.config.bus_master
    device.set_bus_master(False)
    assert not device.config.bus_master


# --- dma-bufs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def peer(other: Callable[[str], str], bare_space: AddressSpace, device: Device) -> Iterator[Device]:
    """A second edu, in the address space of the first."""
    with bare_space.attach(other(BEHIND_PORT)) as peer:
        yield peer


def write_by_dma(edu: Dma, space: AddressSpace, iova: int, value: int) -> None:
    """Make an edu write 32 bits to an IOVA."""
    with space.map(DmaBuffer(PAGE), 0x800_0000) as source:
        source.buffer.view[:4] = value.to_bytes(4, "little")
        edu.copy(iova, source.iova, 4)


def errno_of_mapping(space: AddressSpace, bar: RegionMapping) -> int | None:
    """Try to map a BAR by its virtual address, and return the errno; None if it works."""
    try:
        space.map(bar.view, 0x400_0000)
    except OSError as error:
        return error.errno  # drop the exception: its traceback would keep the view in use
    return None


def liveness(bar: RegionMapping, value: int) -> bool:
    return bar.read32(LIVENESS) == ~value & 0xFFFFFFFF


@pytest.mark.require("dma_buf", "bar_mmap")
@pytest.mark.only(mode="iommufd", device="edu")
class TestPeerToPeer:
    def test_one_device_writes_into_anothers_bar(self, space: Ioas, dma: Dma, peer: Device) -> None:
        bar = peer.regions[0].mmap()
        bar.write32(LIVENESS, 0)
        with peer.regions[0].dma_buf([Area(0, PAGE)]) as exported:
            assert exported.size == PAGE
            window = space.map_file(exported.fileno(), 0, PAGE, 0x400_0000)
        write_by_dma(dma, space, window.iova + LIVENESS, 0x1234ABCD)
        assert liveness(bar, 0x1234ABCD)
        # The other direction: from the BAR to memory.
        with space.alloc(PAGE, 0x500_0000) as target:
            dma.copy(target.iova, window.iova + LIVENESS, 4)
            assert target.buffer.view[:4] == (~0x1234ABCD & 0xFFFFFFFF).to_bytes(4, "little")
        window.unmap()
        write_by_dma(dma, space, window.iova + LIVENESS, 0x55)
        assert liveness(bar, 0x1234ABCD)

    def test_what_is_mapped_ends_with_the_bar_behind_it(self, space: Ioas, dma: Dma, peer: Device) -> None:
        bar = peer.regions[0].mmap()
        bar.write32(LIVENESS, 0x77)
        with peer.regions[0].dma_buf([Area(0, PAGE)]) as exported:
            window = space.map_file(exported.fileno(), 0, PAGE, 0x400_0000)
            peer.config.memory_enabled = False
            with pytest.raises(OSError) as caught:
                space.map_file(exported.fileno(), 0, PAGE, 0x500_0000)
            assert caught.value.errno == errno.ENODEV
            assert "memory decoding off" in str(caught.value)
            peer.config.memory_enabled = True
            # The kernel removed the BAR from the IOMMU, and does not map it again: the write has no effect.
            write_by_dma(dma, space, window.iova + LIVENESS, 0x88)
            assert liveness(bar, 0x77)
            window.unmap()
            again = space.map_file(exported.fileno(), 0, PAGE, 0x400_0000)
        write_by_dma(dma, space, again.iova + LIVENESS, 0x99)
        assert liveness(bar, 0x99)

    def test_a_hot_reset_that_fails_ends_what_is_mapped(
        self, space: Ioas, dma: Dma, other: Callable[[str], str]
    ) -> None:
        card, edu = map(other, ON_ONE_BUS)
        with space.attach(card), space.attach(edu) as peer:
            bar = peer.regions[0]
            with bar.dma_buf([Area(0, PAGE)]) as exported:
                window = space.map_file(exported.fileno(), 0, PAGE, 0x400_0000)
                write_by_dma(dma, space, window.iova + LIVENESS, 0x66)
                assert bar.read32(LIVENESS) == ~0x66 & 0xFFFFFFFF
                # vfio_pci_dev_set_hot_reset revokes all dma-bufs before pci_reset_bus refuses.
                with pytest.raises(Unsupported, match="ENOTTY"):
                    peer.hot_reset()
                write_by_dma(dma, space, window.iova + LIVENESS, 0x77)
                assert bar.read32(LIVENESS) == ~0x66 & 0xFFFFFFFF
                window.unmap()
                again = space.map_file(exported.fileno(), 0, PAGE, 0x400_0000)
            write_by_dma(dma, space, again.iova + LIVENESS, 0x77)
            assert bar.read32(LIVENESS) == ~0x77 & 0xFFFFFFFF

    def test_a_reset_by_configuration_space_ends_what_is_mapped(
        self, space: Ioas, dma: Dma, other: Callable[[str], str]
    ) -> None:
        with space.attach(other("nvme")) as peer:
            peer.config.memory_enabled = True
            bar = peer.regions[0]
            with bar.dma_buf([Area(0, PAGE)]) as exported:
                window = space.map_file(exported.fileno(), 0, PAGE, 0x400_0000)
                write_by_dma(dma, space, window.iova + ADMIN_QUEUES, 0x10001)
                assert bar.read32(ADMIN_QUEUES) == 0x10001
                reset_by_config(peer)
                after = bar.read32(ADMIN_QUEUES)
                write_by_dma(dma, space, window.iova + ADMIN_QUEUES, 0x20002)
                assert bar.read32(ADMIN_QUEUES) == after
                window.unmap()
                again = space.map_file(exported.fileno(), 0, PAGE, 0x400_0000)
            write_by_dma(dma, space, again.iova + ADMIN_QUEUES, 0x20002)
            assert bar.read32(ADMIN_QUEUES) == 0x20002

    def test_closing_the_device_ends_its_dma_bufs(self, space: Ioas, dma: Dma, peer: Device) -> None:
        exported = peer.regions[0].dma_buf()
        assert exported.size == peer.regions[0].size
        window = space.map_file(exported.fileno(), 0, exported.size, 0x400_0000)
        peer.close()
        assert exported.closed
        write_by_dma(dma, space, window.iova + LIVENESS, 0x88)
        assert window.unmap() == exported.size

    def test_parts_that_are_no_pages_or_not_there_are_refused(self, peer: Device, space: Ioas) -> None:
        region = peer.regions[0]
        for area in (Area(0, 100), Area(100, PAGE), Area(0, 0), Area(0, region.size + PAGE)):
            with pytest.raises(OSError, match="whole pages") as caught:
                region.dma_buf([area])
            assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError, match="whole pages"):
            region.dma_buf([])
        for none in (peer.regions[1], peer.regions[lib.VFIO_PCI_CONFIG_REGION_INDEX]):
            with pytest.raises(OSError, match="only BARs") as caught:
                none.dma_buf([Area(0, PAGE)])
            assert caught.value.errno == errno.ENODEV
        # A dma-buf can have two areas, but iommufd only maps dma-bufs with one.
        with region.dma_buf([Area(0, PAGE), Area(2 * PAGE, PAGE)]) as two:
            with pytest.raises(OSError) as caught:
                space.map_file(two.fileno(), 0, two.size)
            assert "with a single area" in str(caught.value)
            assert caught.value.errno == errno.EOPNOTSUPP

    @pytest.mark.require("linux")
    def test_a_bar_is_not_mapped_by_its_virtual_address(self, space: Ioas, peer: Device) -> None:
        bar = peer.regions[0].mmap()
        assert errno_of_mapping(space, bar) == errno.EFAULT


@pytest.mark.require("bar_mmap", "linux")
@pytest.mark.only(mode=["type1", "type1v2"], device="edu")
def test_type1_maps_another_devices_bar_by_its_virtual_address(space: AddressSpace, dma: Dma, peer: Device) -> None:
    bar = peer.regions[0].mmap(0, PAGE)
    window = space.map(bar.view, 0x400_0000)
    write_by_dma(dma, space, window.iova + LIVENESS, 0xCAFE)
    assert liveness(bar, 0xCAFE)
    window.unmap()


@pytest.mark.require("bar_mmap", "linux")
@pytest.mark.only(mode=["iommufd-type1", "iommufd-type1v2"], device="edu")
def test_iommufd_in_place_of_a_container_maps_no_bar(space: AddressSpace, peer: Device) -> None:
    bar = peer.regions[0].mmap(0, PAGE)
    assert errno_of_mapping(space, bar) == errno.EFAULT


def reset_by_config(device: Device) -> None:
    """Reset a function by Initiate FLR of its PCI Express capability."""
    express = device.config.capability("PCI Express")
    assert express is not None
    at = express.offset + DEVICE_CONTROL
    device.config.write16(at, device.config.read16(at) | INITIATE_FLR)


def importable(device: Device, exported: DmaBuf) -> bool:
    """Whether a dma-buf can be mapped for the device that exported it."""
    with contextlib.suppress(pyvfio.RequestError):
        device.address_space.map_file(exported.fileno(), 0, PAGE, 0x400_0000).unmap()
        return True
    return False


@pytest.mark.require("dma_buf", "bar_mmap", "reset")
@pytest.mark.only(mode="iommufd", device=["nvme", "e1000e", "igb"])
@pytest.mark.parametrize("how", ["reset", "command register"])
def test_a_dma_buf_revoked_by_low_power_is_reinstated(device: Device, how: str) -> None:
    with device.regions[0].dma_buf([Area(0, PAGE)]) as exported:
        assert importable(device, exported)
        with device.low_power():
            assert not importable(device, exported)
            assert device.config.vendor != 0xFFFF  # the access wakes the device
            assert not importable(device, exported)
            if how == "reset":
                device.reset()
            else:
                device.config.command = device.config.command
            assert importable(device, exported)
        assert importable(device, exported)


# e1000e has no function-level reset.
@pytest.mark.require("dma_buf", "bar_mmap", "reset")
@pytest.mark.only(mode="iommufd", device=["nvme", "igb"])
def test_a_dma_buf_is_reinstated_by_a_reset_by_configuration_space(device: Device) -> None:
    with device.regions[0].dma_buf([Area(0, PAGE)]) as exported, device.low_power():
        assert not importable(device, exported)
        reset_by_config(device)
        assert importable(device, exported)


# The mock's other models have no power management.
@pytest.mark.require("dma_buf", "bar_mmap")
@pytest.mark.only(mode="iommufd", device="e1000e")
def test_a_dma_buf_goes_and_comes_with_the_power_state(device: Device) -> None:
    with device.regions[0].dma_buf([Area(0, PAGE)]) as exported:
        with device.low_power():
            assert not importable(device, exported)
            assert set_power_state(device, D0) == D0
            assert importable(device, exported)
        assert set_power_state(device, D3HOT) == D3HOT
        assert not importable(device, exported)
        assert set_power_state(device, D0) == D0
        assert importable(device, exported)
