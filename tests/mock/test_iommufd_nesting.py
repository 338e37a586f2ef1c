# SPDX-License-Identifier: MIT
"""Features that only the iommufd selftest driver has, on the mock: dirty page tables, nesting, faults, virtual IOMMUs, PASIDs."""

from __future__ import annotations

import errno
import select
import struct
from collections.abc import Iterator

import pytest

import pyvfio
from pyvfio import DmaBuffer, Iommufd, mock
from pyvfio._abi import ffi, lib
from pyvfio.device import Device
from pyvfio.iommufd import Ioas, Viommu
from pyvfio.iova import IovaRange
from pyvfio.mock.iommufd.bound import BoundDevice
from pyvfio.mock.iommufd.selftest_driver import EVENT
from pyvfio.mock.vfio.cdev import Cdev

EDU = "0000:00:03.0"
PAGE = 4096
HWPT_DATA, INVALIDATE, VIOMMU, HW_QUEUE = 0xDEAD, 0xDEADBEEF, 0xDEADBEEF, 0xDEADBEEF
PERMISSIVE = struct.pack("=2I", 0xBADBEEF, 0)
pytestmark = pytest.mark.vfio(profile="selftest")


@pytest.fixture
def kernel(vfio_kernel: mock.Kernel) -> Iterator[mock.Kernel]:
    """The mock with the iommufd selftest driver, and an edu bound to vfio-pci."""
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=vfio_kernel):
        yield vfio_kernel


@pytest.fixture
def device(iommufd: Iommufd) -> Iterator[Device]:
    with iommufd.bind(EDU) as device:
        yield device


@pytest.fixture
def hardware(kernel: mock.Kernel, device: Device) -> BoundDevice:
    """The IOMMU's state of the device."""
    file = kernel.files[device.fileno()]
    assert isinstance(file, Cdev)
    assert isinstance(file.bound, BoundDevice)
    return file.bound


@pytest.fixture
def viommu(ioas: Ioas, device: Device) -> Viommu:
    return Viommu(ioas.hwpt(device, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT), device, VIOMMU)


def test_hardware_info_is_the_selftests(device: Device) -> None:
    info = device.bound.hw_info()
    assert info.type == 0xFEEDBEEF
    assert struct.unpack("=2I", info.data) == (0, 0xDEADBEEF)
    assert info.dirty_tracking
    assert info.max_pasid_log2 == 20


@pytest.mark.parametrize("profile", ["selftest", "amd"])
def test_dirty_bits_come_back_and_are_cleared(profile: str) -> None:
    kernel = mock.Kernel(profile, dirty_tracking=True)
    with (
        pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel),
        Iommufd(kernel=kernel) as iommufd,
        iommufd.bind(EDU) as device,
    ):
        ioas = iommufd.ioas()
        table = ioas.hwpt(device, flags=lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
        device.attach(table)
        mapping = ioas.map(DmaBuffer(64 * PAGE), 0x2000000)
        dma = kernel.devices[EDU].space
        assert dma is not None
        dma.write(mapping.iova, b"before")
        table.set_dirty_tracking(True)
        dma.write(mapping.iova + 5 * PAGE - 1, b"ab")
        dma.write(mapping.iova + 63 * PAGE, bytes(PAGE))
        dirty = [IovaRange.of(mapping.iova + 4 * PAGE, 2 * PAGE), IovaRange.of(mapping.iova + 63 * PAGE, PAGE)]
        assert list(table.read_dirty(mapping.range, clear=False).runs()) == dirty
        part = IovaRange.of(mapping.iova, 5 * PAGE)
        assert list(table.read_dirty(part).runs()) == [IovaRange.of(mapping.iova + 4 * PAGE, PAGE)]
        assert list(table.read_dirty(mapping.range).pages()) == [mapping.iova + 5 * PAGE, mapping.iova + 63 * PAGE]
        assert table.read_dirty(mapping.range).count() == 0
        dma.write(mapping.iova, b"again")
        mapping.unmap()
        again = ioas.map(DmaBuffer(64 * PAGE), 0x2000000)
        assert table.read_dirty(again.range).count() == 0
        table.set_dirty_tracking(False)
        dma.write(again.iova, b"after")
        table.set_dirty_tracking(True)
        assert table.read_dirty(again.range).count() == 0
        with pytest.raises(OSError) as caught:
            ioas.hwpt(device).set_dirty_tracking(True)
        assert caught.value.errno == errno.EOPNOTSUPP


def test_nested_tables_are_invalidated_entry_by_entry(ioas: Ioas, device: Device) -> None:
    parent = ioas.hwpt(device, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
    nested = parent.nested(device, HWPT_DATA, PERMISSIVE)
    assert nested.invalidate(INVALIDATE, ffi.new("uint64_t[]", [1 << 32, 2 << 32])) == 2
    with pytest.raises(OSError, match="1 of 2 entries handled"):
        nested.invalidate(INVALIDATE, ffi.new("uint64_t[]", [3 << 32, 99 << 32]))
    with pytest.raises(OSError) as caught:
        parent.destroy()
    assert caught.value.errno == errno.EBUSY


def test_faults_are_read_and_answered(iommufd: Iommufd, ioas: Ioas, device: Device, hardware: BoundDevice) -> None:
    queue = iommufd.fault_queue()
    poll = select.poll()
    poll.register(queue.fileno(), select.POLLIN)
    parent = ioas.hwpt(device, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
    device.attach(parent.nested(device, HWPT_DATA, PERMISSIVE, fault_queue=queue))
    assert queue.read() == []
    assert not poll.poll(0)
    hardware.report_fault(0x1234000, group=7)
    hardware.report_fault(0x5000, 0x6000)
    assert poll.poll(0)
    first, second, third = queue.read(timeout=60)
    assert (first.device_id, first.address, first.group, first.last) == (device.bound.id, 0x1234000, 7, True)
    assert (second.last, third.last, second.cookie == third.cookie) == (False, True, True)
    assert not poll.poll(0)
    with pytest.raises(OSError) as caught:
        queue.respond(first.cookie + 1000)
    assert caught.value.errno == errno.EINVAL
    queue.respond(first.cookie)
    device.attach(ioas)
    with pytest.raises(OSError):
        queue.respond(second.cookie)
    with pytest.raises(LookupError):
        hardware.report_fault(0x1000)


def test_a_virtual_iommu_gets_its_data_back(ioas: Ioas, device: Device) -> None:
    parent = ioas.hwpt(device, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
    data = bytearray(struct.pack("=2I2Q", 0xBEEF, 0, 0, 0))
    Viommu(parent, device, VIOMMU, data)
    assert struct.unpack_from("=2I", data) == (0xBEEF, 0xBEEF)
    for table, type_, number in ((parent, 0x1234, errno.EOPNOTSUPP), (ioas.hwpt(device), VIOMMU, errno.EINVAL)):
        with pytest.raises(OSError) as caught:
            Viommu(table, device, type_)
        assert caught.value.errno == number


def test_events_of_a_virtual_device_are_read(viommu: Viommu, device: Device, hardware: BoundDevice) -> None:
    nested = viommu.hwpt(device, HWPT_DATA, PERMISSIVE)
    with pytest.raises(FileNotFoundError):
        device.attach(nested)
    vdevice = viommu.vdevice(device, 0x99)
    queue = viommu.event_queue(EVENT, 2)
    with pytest.raises(FileExistsError):
        viommu.event_queue(EVENT, 2)
    device.attach(nested)
    poll = select.poll()
    poll.register(queue.fileno(), select.POLLIN)
    assert not poll.poll(0)
    hardware.report_event(EVENT, struct.pack("=I", 0x99))
    assert poll.poll(0)
    (event,) = queue.read(4, timeout=60)
    assert struct.unpack("=I", event.data) == (vdevice.virtual_id,)
    for _ in range(5):
        hardware.report_event(EVENT, struct.pack("=I", 0x99))
    events = queue.read(4, timeout=60)
    assert [(one.lost, one.sequence) for one in events] == [(False, 1), (False, 2), (True, 5)]
    assert not poll.poll(0)
    with pytest.raises(OSError) as caught:
        viommu.destroy()
    assert caught.value.errno == errno.EBUSY


def test_the_number_of_a_virtual_device_is_not_given_again(iommufd: Iommufd, viommu: Viommu, device: Device) -> None:
    vdevice = viommu.vdevice(device, 0x99)
    with pytest.raises(FileExistsError):
        viommu.vdevice(device, 0x98)
    number, last = vdevice.id, device.bound.id
    device.close()
    assert {iommufd.ioas().id for _ in range(3)} == {last, number + 1, number + 2}
    viommu.destroy()


def test_a_virtual_iommu_invalidates_a_devices_cache(viommu: Viommu, device: Device) -> None:
    viommu.vdevice(device, 0x99)
    assert viommu.invalidate(INVALIDATE, ffi.new("uint32_t[1][3]", [[0, 0x99, 0]])) == 1
    with pytest.raises(OSError, match="1 of 2 entries handled"):
        viommu.invalidate(INVALIDATE, ffi.new("uint32_t[2][3]", [[0, 0x99, 3], [0, 0x98, 0]]))


def test_a_hardware_queue_pins_its_memory(ioas: Ioas, viommu: Viommu) -> None:
    mapping = ioas.map(DmaBuffer(4 * PAGE), 0x2000000)
    with pytest.raises(OSError) as caught:
        viommu.hw_queue(HW_QUEUE, 1, mapping.iova, PAGE)
    assert caught.value.errno == errno.EIO
    first = viommu.hw_queue(HW_QUEUE, 0, mapping.iova, PAGE)
    second = viommu.hw_queue(HW_QUEUE, 1, mapping.iova + PAGE, PAGE)
    for action in (mapping.unmap, first.destroy):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.EBUSY
    second.destroy()
    first.destroy()
    assert mapping.unmap() == 4 * PAGE
    with pytest.raises(FileNotFoundError):
        viommu.hw_queue(HW_QUEUE, 0, 0x3000000, PAGE)


def test_pasids_are_attached_replaced_and_detached(ioas: Ioas, device: Device) -> None:
    table = ioas.hwpt(device, flags=lib.IOMMU_HWPT_ALLOC_PASID)
    other = ioas.hwpt(device, flags=lib.IOMMU_HWPT_ALLOC_PASID)
    with pytest.raises(OSError) as caught:
        device.attach(ioas, pasid=100)
    assert caught.value.errno == errno.EINVAL
    device.attach(table)
    device.attach(table, pasid=100)
    device.attach(other, pasid=100)
    with pytest.raises(OSError) as caught:
        other.destroy()
    assert caught.value.errno == errno.EBUSY
    with pytest.raises(OSError) as caught:
        device.attach(other, pasid=1 << 20)
    assert caught.value.errno == errno.EINVAL
    device.detach(pasid=100)
    other.destroy()
    device.attach(ioas)


@pytest.mark.parametrize(("size", "number"), [((1 << 40) - PAGE, errno.ENOENT), (1 << 40, errno.ENOMEM)])
def test_a_hardware_queue_has_a_limit_of_pages(viommu: Viommu, size: int, number: int) -> None:
    """iommufd_hw_queue_alloc_phys allocates a pointer for each page, in all less than 2 GiB."""
    with pytest.raises(OSError, check=lambda error: error.errno == number):
        viommu.hw_queue(HW_QUEUE, 0, 0, size)
