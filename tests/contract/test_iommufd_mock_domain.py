"""What no emulated IOMMU offers, on the kernel's mock IOMMU: dirty page tables, nesting, faults, virtual IOMMUs, PASIDs."""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Iterator
from typing import Any

import mock_domain
import pytest
from mock_domain import MockDevice

import pyvfio
from pyvfio import DmaBuffer, Iommufd, IovaRange, IovaSet
from pyvfio._abi import ffi, lib
from pyvfio.iommufd import Ioas, Viommu

# These need no device: one cell of each machine is enough.
pytestmark = [pytest.mark.only(mode="iommufd", device="vfio-mock"), pytest.mark.require("linux")]

PAGE = 4096


@pytest.fixture
def iommufd(kernel: Any) -> Iterator[Iommufd]:
    with Iommufd(kernel=kernel) as iommufd:
        yield iommufd


@pytest.fixture
def ioas(iommufd: Iommufd) -> Ioas:
    return iommufd.ioas()


@pytest.fixture
def mock(ioas: Ioas) -> MockDevice:
    return MockDevice(ioas)


def test_usable_ranges_are_the_mock_aperture(ioas: Ioas, mock: MockDevice) -> None:
    assert list(ioas.iova_ranges) == [IovaRange(mock_domain.APERTURE_START, mock_domain.APERTURE_LAST)]
    assert ioas.alignment == mock_domain.PAGE_SIZE


def test_more_ranges_than_the_first_answer_holds(ioas: Ioas) -> None:
    for index in range(40):
        mock_domain.call(
            ioas.iommufd, mock_domain.ADD_RESERVED, ioas.id, struct.pack("=2Q", (2 * index + 1) << 30, PAGE)
        )
    assert len(ioas.iova_ranges) == 41


def test_the_page_table_holds_what_was_mapped(ioas: Ioas, mock: MockDevice) -> None:
    buffer = DmaBuffer(16 * PAGE)
    mapping = ioas.map(buffer, mock_domain.APERTURE_START + PAGE)
    mock.check_map(mapping.iova, buffer, 0, mapping.size)
    with pytest.raises(OSError, match="IOMMU_TEST_CMD"):
        mock.check_map(mapping.iova + PAGE, buffer, 0, PAGE)


def test_the_kernel_chooses_a_place(ioas: Ioas, mock: MockDevice) -> None:
    mappings = [ioas.map(DmaBuffer(PAGE * (1 + index % 3))) for index in range(20)]
    covered = IovaSet(mapping.range for mapping in mappings)
    assert covered.total == sum(mapping.size for mapping in mappings)
    assert not covered - ioas.iova_ranges


def test_allowed_ranges_limit_the_places_and_reserved_regions(ioas: Ioas, mock: MockDevice) -> None:
    allowed = IovaRange(0x200_0000, 0x200_FFFF)
    ioas.allow([allowed])
    assert ioas.map(DmaBuffer(PAGE)).iova in allowed
    with pytest.raises(OSError) as caught:
        ioas.allow([IovaRange(0, PAGE - 1)])
    assert caught.value.errno == errno.EADDRINUSE
    assert ioas.map(DmaBuffer(PAGE)).iova in allowed
    ioas.unmap_all()
    ioas.allow([])
    assert ioas.map(DmaBuffer(PAGE), 0x400_0000).mapped


def test_copy_maps_the_same_pages_elsewhere(iommufd: Iommufd, ioas: Ioas, mock: MockDevice) -> None:
    buffer = DmaBuffer(4 * PAGE)
    source = ioas.map(buffer, 0x200_0000)
    other = iommufd.ioas()
    other_device = MockDevice(other)
    copied = other.copy(source, 0x300_0000)
    other_device.check_map(copied.iova, buffer, 0, copied.size)
    anywhere = other.copy(source)
    other_device.check_map(anywhere.iova, buffer, 0, anywhere.size)
    source.unmap()
    with pytest.raises(FileNotFoundError):
        other.copy(source, 0x500_0000)


def test_an_object_of_another_iommufd_is_refused(iommufd: Iommufd, ioas: Ioas, kernel: Any) -> None:
    mapping = ioas.map(DmaBuffer(PAGE), 0x200_0000)
    with Iommufd(kernel=kernel) as stranger:
        other = stranger.ioas()
        with pytest.raises(pyvfio.Refused, match="not of"):
            other.copy(mapping)
        with pytest.raises(pyvfio.Refused, match="not of"):
            iommufd.set_vfio_ioas(other)


def test_destroying_in_the_wrong_order_names_the_child(ioas: Ioas, mock: MockDevice) -> None:
    hwpt = ioas.hwpt(mock.bound)
    with pytest.raises(OSError) as caught:
        ioas.destroy()
    assert caught.value.errno == errno.EBUSY
    assert any(repr(hwpt) in note for note in caught.value.__notes__)
    hwpt.destroy()
    with pytest.raises(pyvfio.Closed, match="destroyed"):
        hwpt.set_dirty_tracking(True)
    mock.destroy()
    ioas.destroy()
    with pytest.raises(pyvfio.Closed):
        ioas.map(DmaBuffer(PAGE), 0x200_0000)


def test_closing_the_iommufd_closes_all(iommufd: Iommufd, ioas: Ioas, mock: MockDevice) -> None:
    hwpt = ioas.hwpt(mock.bound)
    iommufd.close()
    assert hwpt.closed
    assert ioas.closed


def test_hardware_info_keeps_the_bytes_that_it_cannot_decode(mock: MockDevice) -> None:
    info = mock.bound.hw_info()
    assert info.type == mock_domain.HW_INFO_TYPE
    assert info.decoded is None
    assert struct.unpack("=2I", info.data) == (0, mock_domain.HW_INFO_REGISTER)
    assert info.dirty_tracking


@pytest.mark.parametrize("page_size", [2048, 4096, 65536])
@pytest.mark.parametrize("start", [0, 8192])
def test_dirty_bits_come_back_and_are_cleared(ioas: Ioas, mock: MockDevice, page_size: int, start: int) -> None:
    hwpt = ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    mock.attach(hwpt)
    size = 32 << 20
    base = mock_domain.APERTURE_START + 0x100_0000
    ioas.alloc(size, base)
    hwpt.set_dirty_tracking(True)
    range_ = IovaRange(base + start * (page_size // 2048), base + size - 1)
    # One entry of the mock's page table is dirty as a whole, and may be as large as a huge page: take blocks of that size.
    blocks = random.Random(page_size + start).sample(range(1, 16), 5)
    wanted = IovaSet(IovaRange.of(base + (block << 21), 1 << 21) for block in blocks)
    bits = bytearray((range_.size // page_size + 63) // 64 * 8)
    expected = [iova for run in wanted for iova in range(run.start, run.last, page_size)]
    for iova in expected:
        page = (iova - range_.start) // page_size
        bits[page // 8] |= 1 << page % 8
    assert mock.make_dirty(hwpt, range_.start, range_.size, page_size, bytes(bits)) == len(expected)
    assert list(hwpt.read_dirty(range_, page_size, clear=False).pages()) == expected
    assert list(hwpt.read_dirty(range_, page_size).pages()) == expected
    assert hwpt.read_dirty(range_, page_size).count() == 0


def test_dirty_reads_that_cannot_be_true_are_refused(ioas: Ioas, mock: MockDevice) -> None:
    hwpt = ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    with pytest.raises(pyvfio.Refused):
        hwpt.read_dirty(IovaRange(0x200_0000, 0x200_0FFF), 3000)
    with pytest.raises(pyvfio.Refused):
        hwpt.read_dirty(IovaRange(0x200_0000, 0x200_07FF), 4096)
    plain = ioas.hwpt(mock.bound)
    with pytest.raises(OSError) as caught:
        plain.set_dirty_tracking(True)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_an_iommu_without_dirty_tracking_says_so(ioas: Ioas) -> None:
    mock = MockDevice(ioas, mock_domain.NO_DIRTY)
    assert not mock.bound.hw_info().dirty_tracking
    with pytest.raises(OSError) as caught:
        ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_nested_tables_are_invalidated_entry_by_entry(ioas: Ioas, mock: MockDevice) -> None:
    parent = ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
    nested = parent.nested(mock.bound, mock_domain.HWPT_DATA, struct.pack("=2I", mock_domain.IOTLB_DEFAULT, 0))
    for index in range(4):
        mock_domain.check_iotlb(nested, index, mock_domain.IOTLB_DEFAULT)
    entries = ffi.new("uint64_t[]", [0 | 1 << 32, 0 | 2 << 32])  # flags, iotlb_id
    assert nested.invalidate(mock_domain.HWPT_INVALIDATE, entries) == 2
    mock_domain.check_iotlb(nested, 0, mock_domain.IOTLB_DEFAULT)
    mock_domain.check_iotlb(nested, 1, 0)
    mock_domain.check_iotlb(nested, 2, 0)
    wrong = ffi.new("uint64_t[]", [3 << 32, 99 << 32])
    with pytest.raises(OSError, match="1 of 2 entries handled"):
        nested.invalidate(mock_domain.HWPT_INVALIDATE, wrong)
    mock_domain.check_iotlb(nested, 3, 0)
    with pytest.raises(OSError) as caught:
        parent.destroy()
    assert caught.value.errno == errno.EBUSY


def test_faults_are_read_and_answered(iommufd: Iommufd, ioas: Ioas, mock: MockDevice) -> None:
    queue = iommufd.fault_queue()
    assert queue.read() == []
    parent = ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
    nested = parent.nested(
        mock.bound, mock_domain.HWPT_DATA, struct.pack("=2I", mock_domain.IOTLB_DEFAULT, 0), fault_queue=queue
    )
    mock.attach(nested)
    mock.trigger_fault(0x1234000, group=7)
    (fault,) = queue.read(timeout=5)
    assert fault.device_id == mock.bound.id
    assert fault.address == 0x1234000
    assert fault.group == 7
    assert fault.last
    with pytest.raises(OSError) as caught:
        queue.respond(fault.cookie + 1000)
    assert caught.value.errno == errno.EINVAL
    queue.respond(fault.cookie)
    assert queue.read() == []
    mock.attach(ioas)
    nested.destroy()
    queue.destroy()


@pytest.fixture
def viommu(ioas: Ioas, mock: MockDevice) -> Viommu:
    parent = ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
    return Viommu(parent, mock.bound, mock_domain.VIOMMU_TYPE)


def test_a_virtual_iommu_gets_its_data_back(ioas: Ioas, mock: MockDevice) -> None:
    parent = ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
    data = bytearray(struct.pack("=2I2Q", 0xBEEF, 0, 0, 0))
    Viommu(parent, mock.bound, mock_domain.VIOMMU_TYPE, data)
    assert struct.unpack_from("=2I", data) == (0xBEEF, 0xBEEF)
    with pytest.raises(OSError) as caught:
        Viommu(parent, mock.bound, 0x1234)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_events_of_a_virtual_device_are_read(viommu: Viommu, mock: MockDevice) -> None:
    nested = viommu.hwpt(mock.bound, mock_domain.HWPT_DATA, struct.pack("=2I", mock_domain.IOTLB_DEFAULT, 0))
    vdevice = viommu.vdevice(mock.bound, 0x99)
    queue = viommu.event_queue(mock_domain.VEVENTQ_TYPE, 2)
    mock.attach(nested)
    mock.trigger_event()
    (event,) = queue.read(4, timeout=5)
    assert struct.unpack("=I", event.data) == (vdevice.virtual_id,)
    assert not event.lost
    for _ in range(5):
        mock.trigger_event()
    events = queue.read(4, timeout=5)
    assert [one.lost for one in events].count(True) == 1
    assert len(events) == 3
    with pytest.raises(OSError) as caught:
        viommu.destroy()
    assert caught.value.errno == errno.EBUSY
    queue.destroy()


def test_a_virtual_iommu_invalidates_a_devices_cache(viommu: Viommu, mock: MockDevice) -> None:
    viommu.vdevice(mock.bound, 0x99)
    mock_domain.check_cache(mock, 0, mock_domain.DEV_CACHE_DEFAULT)
    # struct of three u32: flags, vdev_id, cache_id
    entries = ffi.new("uint32_t[1][3]", [[0, 0x99, 0]])
    assert viommu.invalidate(mock_domain.VIOMMU_INVALIDATE, entries) == 1
    mock_domain.check_cache(mock, 0, 0)


def test_a_hardware_queue_pins_its_memory(ioas: Ioas, viommu: Viommu, mock: MockDevice) -> None:
    mapping = ioas.map(DmaBuffer(4 * PAGE), 0x200_0000)
    queue = viommu.hw_queue(mock_domain.HW_QUEUE_TYPE, 0, mapping.iova, PAGE)
    with pytest.raises(OSError) as caught:
        mapping.unmap()
    assert caught.value.errno == errno.EBUSY
    queue.destroy()
    assert mapping.unmap() == 4 * PAGE
    with pytest.raises(FileNotFoundError):
        viommu.hw_queue(mock_domain.HW_QUEUE_TYPE, 0, 0x300_0000, PAGE)


def test_pasids_are_attached_replaced_and_detached(ioas: Ioas) -> None:
    mock = MockDevice(ioas, mock_domain.PASID)
    assert mock.bound.hw_info().max_pasid_log2 == 20
    table = ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_PASID)
    other = ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_PASID)
    mock.attach(table)
    mock.pasid(mock_domain.PASID_ATTACH, 100, table)
    mock.pasid(mock_domain.PASID_CHECK_HWPT, 100, table)
    mock.pasid(mock_domain.PASID_REPLACE, 100, other)
    with pytest.raises(OSError) as caught:
        other.destroy()
    assert caught.value.errno == errno.EBUSY
    mock.pasid(mock_domain.PASID_DETACH, 100)
    other.destroy()
    mock.attach(ioas)
