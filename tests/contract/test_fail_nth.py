# SPDX-License-Identifier: MIT
"""Each allocation of the kernel fails in turn: existing objects still work, the failed call leaves nothing behind, and all can be closed."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import pyvfio
from pyvfio import DmaBuffer, Iommufd, IovaRange
from pyvfio._abi import lib
from pyvfio.iommufd import Hwpt, Ioas, Viommu
from pyvfio.spaces.opening import Mode
from tests.contract import mock_domain
from tests.contract.fail_nth import FailingKernel, every_allocation_may_fail
from tests.contract.mock_domain import MockDevice
from tests.contract.process import held

if TYPE_CHECKING:
    from vmtest.matrix import Cell

    from pyvfio import Device
    from pyvfio.spaces.base import AddressSpace
    from pyvfio.vfio_mock import VfioMock

# A device with an IOMMU and one without, in each of the kernel's three implementations. Only native iommufd runs under
# two IOMMUs. The sweeps are long and find faults of the kernel, so they run only on the newest. virtio's IOMMU is left
# out: its driver (Linux 7.3) allocates memory in unmap requests, and without memory the pages stay mapped and pinned
# for ever.
pytestmark = [
    pytest.mark.only(mode="iommufd", device=["edu", "vfio-mock"], iommu=["intel", "amd"], kernel="newest"),
    pytest.mark.only(mode=["type1v2", "iommufd-type1v2"], device=["edu", "vfio-mock"], iommu="intel", kernel="newest"),
    pytest.mark.require("linux"),
]
on_the_mock_iommu = pytest.mark.only(mode="iommufd", device="vfio-mock", iommu="intel", kernel="newest")
native = pytest.mark.only(mode="iommufd", device=["edu", "vfio-mock"], iommu=["intel", "amd"], kernel="newest")

PAGE = 4096
IOVA = mock_domain.APERTURE_START


@pytest.fixture(scope="module", autouse=True)
def injection() -> Iterator[None]:
    with every_allocation_may_fail():
        yield


#: The errnos of a failed allocation: ENOMEM, and others because the iommufd selftest driver also injects failures that
#: fail-nth counts.
FAILED = (errno.ENOMEM, errno.ENOENT, errno.EINVAL, errno.EFAULT)
#: Opening a PCI device makes ACPI interpret a table, and the interpreter (Linux 7.3) crashes when it is out of memory.
_THROUGH_ACPI = (lib.VFIO_GROUP_GET_DEVICE_FD, lib.VFIO_DEVICE_BIND_IOMMUFD)


@pytest.fixture
def kernel(cell: Cell) -> FailingKernel:
    """The kernel, without the trace for scripts/matrix: ENOMEM in these tests does not show that it occurs by itself."""
    return FailingKernel(spared=_THROUGH_ACPI if cell.device == "edu" else ())


@pytest.fixture
def memory() -> DmaBuffer:
    """2 MiB of memory whose pages exist already. Mapping it allocates page tables, and pins 512 pages."""
    buffer = DmaBuffer(2 << 20)
    buffer.view[:] = bytes(buffer.size)
    return buffer


def unpinned(memory: DmaBuffer) -> None:
    """Assert that no page of the memory is pinned, by the pages' reference counts."""
    with Iommufd() as iommufd:
        mock_domain.check_refs(iommufd, memory, 0)


def test_a_device_is_opened(kernel: FailingKernel, address: str, mode: Mode) -> None:
    # Open it once before, so that objects that the kernel allocates once and keeps exist.
    pyvfio.open(address, mode=mode).close()
    before = held()
    for attempt in kernel.faults():
        with attempt:
            device = pyvfio.open(address, mode=mode, kernel=kernel)
        if attempt.error is None:
            device.close()
        else:
            assert attempt.error.errno in FAILED
        assert held() == before
    assert attempt.nth > 1


def test_memory_is_mapped_and_unmapped(kernel: FailingKernel, space: AddressSpace, memory: DmaBuffer) -> None:
    before = held()
    for attempt in kernel.faults():
        # Use another IOVA each time, so that new page tables are needed.
        iova = attempt.nth << 30
        with attempt:
            space.map(memory, iova)
        if attempt.error is not None:
            assert attempt.error.errno in FAILED
            assert space.mappings == []
            assert held() == before
            assert space.map(memory, iova).mapped
        assert space.unmap_all() == memory.size
        assert held() == before
    unpinned(memory)
    assert attempt.nth > 1


def test_many_are_mapped_or_none(kernel: FailingKernel, space: AddressSpace, memory: DmaBuffer) -> None:
    rows = memoryview(bytearray(8 * 3 * 8)).cast("Q")
    for index in range(8):
        rows[3 * index : 3 * index + 3] = memoryview(
            struct.pack("=3Q", memory.address + index * PAGE, 0x100_0000 + (index << 21), PAGE)
        ).cast("Q")
    before = held()
    for attempt in kernel.faults():
        with attempt:
            space.map_many(rows, keep=memory)
        if attempt.error is None:
            assert space.unmap_all() == 8 * PAGE
        assert space.unmap_all() == 0
        assert held() == before
    assert attempt.nth > 1


def test_what_is_mapped_is_unmapped_in_the_end(kernel: FailingKernel, space: AddressSpace, memory: DmaBuffer) -> None:
    before = held()
    for attempt in kernel.faults():
        mapping = space.map(memory, 0x4000_0000)
        with attempt:
            mapping.unmap()
        if attempt.error is not None:
            assert mapping.unmap() == memory.size
        assert held() == before


@pytest.mark.require("dirty_log")
def test_a_log_starts_reports_and_stops(kernel: FailingKernel, device: Device, logger: VfioMock) -> None:
    tracked = IovaRange.of(0x4000_0000, 1 << 30)
    mapping = device.address_space.alloc(16 * PAGE, tracked.start)
    for attempt in kernel.faults():
        with attempt:
            log = device.dirty_log([tracked])
        if attempt.error is None:
            log.close()
    assert attempt.nth > 1
    # If an allocation fails during a report, no dirty page is lost.
    with device.dirty_log([tracked]) as log:
        for attempt in kernel.faults():
            logger.touch(mapping.iova, mapping.size)
            with attempt:
                found = log.read()
            if attempt.error is not None:
                found = log.read()
            assert found.count() == 16
        for attempt in kernel.faults():
            with attempt:
                log.stop()
            if attempt.error is None:
                break


@pytest.mark.only(mode="type1v2", device=["edu", "vfio-mock"], iommu="intel", kernel="newest")
def test_a_container_tracks_dirty_pages(kernel: FailingKernel, device: Device, memory: DmaBuffer) -> None:
    space = device.address_space
    assert isinstance(space, pyvfio.Container)
    mapping = space.map(memory, 0x4000_0000)
    for attempt in kernel.faults():
        with attempt:
            space.start_dirty_tracking()
        space.stop_dirty_tracking()
    space.start_dirty_tracking()
    for attempt in kernel.faults():
        with attempt:
            space.read_dirty(mapping.iova, mapping.size)
    for attempt in kernel.faults():
        with attempt:
            space.unmap_dirty(mapping.iova, mapping.size)
        if attempt.error is None:
            mapping = space.map(memory, 0x4000_0000)
    space.stop_dirty_tracking()
    space.unmap_all()
    unpinned(memory)


@native
def test_a_device_is_attached_to_what_is_mapped(kernel: FailingKernel, address: str, memory: DmaBuffer) -> None:
    with Iommufd(kernel=kernel) as iommufd, iommufd.bind(address) as device:
        ioas, other = iommufd.ioas(), iommufd.ioas()
        for space in (ioas, other):
            space.map(memory, 0x4000_0000)
        before = held()
        for attempt in kernel.faults():
            with attempt:
                device.attach(ioas)
            if attempt.error is not None:
                assert held() == before
                ioas.unmap_all()
                ioas.map(memory, 0x4000_0000)
            device.detach()
            assert held() == before
        assert attempt.nth > 1
        # Replace an attachment: after a failure the device is still attached to the old address space.
        for attempt in kernel.faults():
            device.attach(ioas)
            with attempt:
                device.attach(other)
            assert device.address_space is (other if attempt.error is None else ioas)
            assert device.address_space.unmap_all() == memory.size
            device.address_space.map(memory, 0x4000_0000)
    unpinned(memory)


@native
@pytest.mark.require("iommu")
def test_a_page_table_is_made(kernel: FailingKernel, device: Device, space: Ioas, memory: DmaBuffer) -> None:
    space.map(memory, 0x4000_0000)
    before = held()
    assert kernel.sweep(lambda: space.hwpt(device), Hwpt.destroy) > 3
    assert held() == before
    space.unmap_all()
    unpinned(memory)


@native
def test_requests_of_an_address_space(kernel: FailingKernel, device: Device, memory: DmaBuffer) -> None:
    space = device.address_space
    assert isinstance(space, Ioas)
    iommufd = space.iommufd
    source = space.map(memory, 0x4000_0000)
    fd = os.memfd_create("shared")
    os.truncate(fd, 1 << 20)
    before = held()
    counts = [
        kernel.sweep(iommufd.ioas, Ioas.destroy),
        kernel.sweep(lambda: space.map_file(fd, 0, 1 << 20, 0x5000_0000), lambda mapping: mapping.unmap()),
        kernel.sweep(lambda: space.map_file(fd, 0, 1 << 20), lambda mapping: mapping.unmap()),
        kernel.sweep(lambda: space.map(memory), lambda mapping: mapping.unmap()),
        kernel.sweep(lambda: space.copy(source, 0x6000_0000), lambda mapping: mapping.unmap()),
        kernel.sweep(lambda: space.allow([IovaRange(0x4000_0000, 0x7FFF_FFFF)]), lambda _: space.allow([])),
    ]
    assert all(counts), counts
    kernel.sweep(lambda: space.iova_ranges, lambda _: None)
    assert held() == before
    os.close(fd)
    space.unmap_all()
    unpinned(memory)


@pytest.fixture
def mock_ioas(kernel: FailingKernel) -> Iterator[Ioas]:
    with Iommufd(kernel=kernel) as iommufd:
        yield iommufd.ioas()


@on_the_mock_iommu
def test_memory_is_mapped_for_devices_of_two_page_tables(
    kernel: FailingKernel, mock_ioas: Ioas, memory: DmaBuffer
) -> None:
    mock_domain.limit_memory(mock_ioas.iommufd, 32)
    try:
        first, second = MockDevice(mock_ioas), MockDevice(mock_ioas)
        before = held()
        assert kernel.sweep(lambda: mock_ioas.map(memory, IOVA), lambda mapping: mapping.unmap()) > 5
        assert held() == before
        mapping = mock_ioas.map(memory, IOVA)
        second.destroy()
        assert kernel.sweep(lambda: MockDevice(mock_ioas), MockDevice.destroy) > 5
        first.check_map(IOVA, memory, 0, memory.size)
        assert mapping.unmap() == memory.size
    finally:
        mock_domain.limit_memory(mock_ioas.iommufd, 0)
    unpinned(memory)


@on_the_mock_iommu
def test_dirty_pages_are_read(kernel: FailingKernel, mock_ioas: Ioas, memory: DmaBuffer) -> None:
    mock = MockDevice(mock_ioas)
    mock_ioas.huge_pages = False
    mapping = mock_ioas.map(memory, IOVA)

    def make() -> Hwpt:
        return mock_ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)

    assert kernel.sweep(make, Hwpt.destroy) > 3
    table = make()
    kernel.sweep(lambda: table.set_dirty_tracking(True), lambda _: table.set_dirty_tracking(False))
    table.set_dirty_tracking(True)
    bits = bytearray(2 << 20 >> 12 >> 3)
    bits[0] = bits[-1] = 0x11
    for attempt in kernel.faults():
        assert mock.make_dirty(table, IOVA, memory.size, PAGE, bytes(bits)) == 4
        with attempt:
            found = table.read_dirty(mapping.range)
        if attempt.error is not None:
            found = table.read_dirty(mapping.range)
        assert found.count() == 4
    assert attempt.nth > 1


@on_the_mock_iommu
def test_objects_of_a_virtual_iommu_are_made(kernel: FailingKernel, mock_ioas: Ioas, memory: DmaBuffer) -> None:
    iommufd = mock_ioas.iommufd
    mock = MockDevice(mock_ioas, mock_domain.PASID)
    mapping = mock_ioas.map(memory, IOVA)
    data = struct.pack("=2I", mock_domain.IOTLB_DEFAULT, 0)
    parent = mock_ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT | lib.IOMMU_HWPT_ALLOC_PASID)
    before = held()
    counts = {
        "hw_info": kernel.sweep(mock.bound.hw_info, lambda _: None),
        "fault queue": kernel.sweep(iommufd.fault_queue, lambda queue: queue.destroy()),
        "nested": kernel.sweep(
            lambda: parent.nested(mock.bound, mock_domain.HWPT_DATA, data, flags=lib.IOMMU_HWPT_ALLOC_PASID),
            Hwpt.destroy,
        ),
        "viommu": kernel.sweep(lambda: Viommu(parent, mock.bound, mock_domain.VIOMMU_TYPE), Viommu.destroy),
    }
    assert held() == before
    viommu = Viommu(parent, mock.bound, mock_domain.VIOMMU_TYPE)
    queue = iommufd.fault_queue()
    counts |= {
        "vdevice": kernel.sweep(lambda: viommu.vdevice(mock.bound, 7), lambda vdevice: vdevice.destroy()),
        "event queue": kernel.sweep(
            lambda: viommu.event_queue(mock_domain.VEVENTQ_TYPE, 4), lambda events: events.destroy()
        ),
        "hw queue": kernel.sweep(
            lambda: viommu.hw_queue(mock_domain.HW_QUEUE_TYPE, 0, mapping.iova, PAGE),
            lambda hw_queue: hw_queue.destroy(),
        ),
        "with faults": kernel.sweep(
            lambda: viommu.hwpt(mock.bound, mock_domain.HWPT_DATA, data, fault_queue=queue), Hwpt.destroy
        ),
    }
    # Every request allocates memory, except hw_info, which creates no object.
    assert all(count for name, count in counts.items() if name != "hw_info"), counts
    mock.attach(parent)
    counts["pasid"] = kernel.sweep(
        lambda: mock.pasid(mock_domain.PASID_ATTACH, 200, parent), lambda _: mock.pasid(mock_domain.PASID_DETACH, 200)
    )
    mock.attach(mock_ioas)
    queue.destroy()
    viommu.destroy()
    parent.destroy()
    mock.destroy()
    mock_ioas.unmap_all()
    unpinned(memory)
