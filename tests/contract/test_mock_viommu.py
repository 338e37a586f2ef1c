# SPDX-License-Identifier: MIT
"""Virtual IOMMUs and their objects, with the iommufd selftest driver."""

from __future__ import annotations

import errno
import mmap
import os
import struct

import pytest

from pyvfio import DmaBuffer
from pyvfio._abi import ffi, lib
from pyvfio.iommufd import EventQueue, Hwpt, Ioas, Viommu
from tests.contract import marks, mock_domain
from tests.contract.mock_domain import MockDevice
from tests.contract.refused import refused

pytestmark = marks.one_cell

PAGE = 4096
DATA, NESTED = mock_domain.HWPT_DATA, mock_domain.NESTED
TYPE = mock_domain.VIOMMU_TYPE
#: Bytes of an event of the selftest driver: the virtual device id.
EVENT = 4


@pytest.fixture
def parent(ioas: Ioas, mock: MockDevice) -> Hwpt:
    return ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)


@pytest.fixture
def viommu(parent: Hwpt, mock: MockDevice) -> Viommu:
    return Viommu(parent, mock.bound, TYPE)


@pytest.fixture
def nested(viommu: Viommu, mock: MockDevice) -> Hwpt:
    return viommu.hwpt(mock.bound, DATA, NESTED)


def test_it_needs_a_nesting_parent_and_a_type_that_the_iommu_has(ioas: Ioas, mock: MockDevice, parent: Hwpt) -> None:
    plain = ioas.hwpt(mock.bound)
    with refused(errno.EINVAL):
        Viommu(plain, mock.bound, TYPE)
    with refused(errno.EOPNOTSUPP):
        Viommu(parent, mock.bound, 0xDEAD)
    gone = mock.bound
    mock.destroy()
    with refused(errno.ENOENT):
        Viommu(parent, gone, TYPE)


def test_what_others_stand_on_is_not_destroyed(parent: Hwpt, viommu: Viommu, nested: Hwpt) -> None:
    for needed in (parent, viommu):
        with refused(errno.EBUSY):
            needed.destroy()
    nested.destroy()
    viommu.destroy()
    parent.destroy()


def test_data_goes_both_ways_and_the_hardwares_page_is_mapped(parent: Hwpt, mock: MockDevice) -> None:
    data = bytearray(struct.pack("=2I2Q", 0xBEEF, 0, 0, 0))
    viommu = Viommu(parent, mock.bound, TYPE, data)
    sent, came_back, offset, size = struct.unpack("=2I2Q", data)
    assert came_back == sent == 0xBEEF
    for wrong_offset, wrong_size in (
        (offset + PAGE, size),
        (offset + 2 * PAGE, size),
        (offset, size // 2),
        (offset, size * 2),
    ):
        with refused(errno.ENXIO, "mmap <Viommu"):
            viommu.mmap(wrong_offset, wrong_size)
    page = viommu.mmap(offset, size)
    assert struct.unpack_from("=I", page) == (0xBEEF,)
    with refused(errno.EBUSY):
        viommu.destroy()
    page.close()
    viommu.destroy()
    assert isinstance(page, mmap.mmap)


def test_a_nested_table_is_attached_once_the_device_has_a_vdevice(ioas: Ioas, mock: MockDevice, viommu: Viommu) -> None:
    queue = ioas.iommufd.fault_queue()
    with refused(errno.EOPNOTSUPP):
        viommu.hwpt(mock.bound, DATA, NESTED, flags=1 << 31, fault_queue=queue)
    table = viommu.hwpt(mock.bound, DATA, NESTED, fault_queue=queue)
    with refused(errno.ENOENT):
        mock.attach(table)
    vdevice = viommu.vdevice(mock.bound, 0x99)
    mock.attach(table)
    with refused(errno.EBUSY):
        table.destroy()
    mock.trigger_fault(0x5000)
    (fault,) = queue.read(timeout=5)
    queue.respond(fault.cookie)
    mock.attach(ioas)
    table.destroy()
    queue.destroy()
    vdevice.destroy()


def test_a_virtual_name_goes_with_its_device(mock: MockDevice, viommu: Viommu) -> None:
    vdevice = viommu.vdevice(mock.bound, 0x99)
    with refused(errno.EEXIST):
        viommu.vdevice(mock.bound, 0x99)
    mock.destroy()
    with refused(errno.ENOENT):
        vdevice.destroy()
    # Closing an object that is already destroyed is no error.
    vdevice.close()


def test_a_queue_of_events_has_a_depth_and_a_type(viommu: Viommu) -> None:
    for depth in (0, (1 << 19) + 1):
        with refused(errno.EINVAL):
            viommu.event_queue(mock_domain.VEVENTQ_TYPE, depth)
    viommu.event_queue(mock_domain.VEVENTQ_TYPE, 1 << 19).destroy()
    with refused(errno.EOPNOTSUPP):
        viommu.event_queue(lib.IOMMU_VEVENTQ_TYPE_DEFAULT, 2)
    queue = viommu.event_queue(mock_domain.VEVENTQ_TYPE, 2)
    with refused(errno.EEXIST):
        viommu.event_queue(mock_domain.VEVENTQ_TYPE, 2)
    with refused(errno.EBUSY):
        viommu.destroy()
    queue.destroy()


@pytest.fixture
def events(viommu: Viommu) -> EventQueue:
    return viommu.event_queue(mock_domain.VEVENTQ_TYPE, 2)


def test_events_tell_the_virtual_name_and_how_many_were_lost(
    ioas: Ioas, mock: MockDevice, viommu: Viommu, nested: Hwpt, events: EventQueue
) -> None:
    assert events.read(EVENT) == []
    sequence = -1
    for name, triggered in ((0x99, 1), (0x88, 5), (0x77, 2)):
        vdevice = viommu.vdevice(mock.bound, name)
        mock.attach(nested)
        for _ in range(triggered):
            mock.trigger_event()
        came = events.read(EVENT, timeout=5)
        told = [event for event in came if not event.lost]
        assert [struct.unpack("=I", event.data) for event in told] == [(name,)] * min(triggered, 2)
        assert len(came) - len(told) == (triggered > 2)
        # Lost events count in the sequence number.
        assert came[-1].sequence - sequence == triggered
        sequence = came[-1].sequence
        mock.attach(ioas)
        vdevice.destroy()
    with refused(errno.ENOENT):
        mock.trigger_event()


def test_less_than_an_event_is_not_read(mock: MockDevice, viommu: Viommu, nested: Hwpt, events: EventQueue) -> None:
    header = ffi.sizeof("struct iommufd_vevent_header")
    for size in (0, header - 1):
        with refused(errno.EINVAL):
            os.read(events.fileno(), size)
    viommu.vdevice(mock.bound, 0x99)
    mock.attach(nested)
    mock.trigger_event()
    for size in (0, header):
        with refused(errno.EINVAL):
            os.read(events.fileno(), size)
    # The library reads many times the given size. With a wrong size, the data is not a whole number of events.
    assert len(events.read(EVENT)) == 1


def test_caches_of_a_device_are_invalidated_by_entry(mock: MockDevice, viommu: Viommu) -> None:
    viommu.vdevice(mock.bound, 0x99)
    held = [mock_domain.DEV_CACHE_DEFAULT] * mock_domain.ENTRIES

    def check() -> None:
        for index, value in enumerate(held):
            mock_domain.check_cache(mock, index, value)

    def invalidate(*entries: tuple[int, int, int]) -> int:
        """Invalidate entries, each given by flags, virtual id and cache number. Return the number of entries done."""
        return viommu.invalidate(mock_domain.VIOMMU_INVALIDATE, ffi.new("uint32_t[][3]", list(entries)))

    check()
    assert invalidate() == 0
    bad = 0xFFFF_FFFF
    for number, done, *entries in (
        (errno.EOPNOTSUPP, 0, (bad, 0x99, 0)),
        (errno.EINVAL, 0, (0, 0x99, mock_domain.ENTRIES)),
        (errno.EINVAL, 0, (0, 0x9, 0)),
        (errno.EOPNOTSUPP, 1, (0, 0x99, 0), (bad, 0x99, 1)),
        (errno.EINVAL, 1, (0, 0x99, 0), (0, 0x99, mock_domain.ENTRIES)),
    ):
        with refused(number, f"{done} of {len(entries)} entries handled"):
            invalidate(*entries)
        held[:done] = [0] * done
        check()
    for number, entries in (
        (errno.EINVAL, ffi.new("uint8_t[1][1]")),
        (errno.E2BIG, ffi.new("uint8_t[1][13]", [bytes(12) + b"\x01"])),
    ):
        with refused(number, "0 of 1"):
            viommu.invalidate(mock_domain.VIOMMU_INVALIDATE, entries)
    with refused(errno.EINVAL):
        viommu.invalidate(mock_domain.VIOMMU_INVALIDATE ^ 1, ffi.new("uint32_t[1][3]"))
    assert invalidate((0, 0x99, 1)) == 1
    assert invalidate((0, 0x99, 2), (0, 0x99, 3)) == 2
    held[:] = [0] * mock_domain.ENTRIES
    check()
    assert invalidate((mock_domain.INVALIDATE_ALL, 0x99, 0)) == 1
    check()


def test_a_hardware_queue_keeps_its_memory_where_it_is(ioas: Ioas, viommu: Viommu) -> None:
    kind = mock_domain.HW_QUEUE_TYPE
    first, second = (ioas.map(DmaBuffer(PAGE)) for _ in range(2))
    unmapped = 0x300_0000
    for number, type_, index, iova, size in (
        (errno.EOPNOTSUPP, lib.IOMMU_HW_QUEUE_TYPE_DEFAULT, 0, first.iova, PAGE),
        (errno.EINVAL, kind, 0, first.iova, 0),
        (errno.EOVERFLOW, kind, 0, 2**64 - 1, PAGE),
        (errno.ENOENT, kind, 0, unmapped, PAGE),
        (errno.EIO, kind, 1, first.iova, PAGE),
        (errno.EINVAL, kind, mock_domain.HW_QUEUES, first.iova, PAGE),
    ):
        with refused(number):
            viommu.hw_queue(type_, index, iova, size)
    zero = viommu.hw_queue(kind, 0, first.iova, PAGE)
    with refused(errno.EEXIST):
        viommu.hw_queue(kind, 0, first.iova, PAGE)
    with refused(errno.EBUSY):
        first.unmap()
    assert first.mapped
    assert second.unmap() == PAGE
    one = viommu.hw_queue(kind, 1, first.iova + PAGE // 2, PAGE // 2)
    with refused(errno.EBUSY):
        zero.destroy()
    one.destroy()
    zero.destroy()
    assert first.unmap() == PAGE
