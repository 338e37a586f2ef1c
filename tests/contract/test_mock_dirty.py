# SPDX-License-Identifier: MIT
"""Dirty bits of a page table: those that were set are reported, for pages of the page table's size, and reading clears them."""

from __future__ import annotations

import errno
import weakref
from typing import cast

import pytest

import pyvfio
from pyvfio import Device, DmaBuffer, IovaRange
from pyvfio._abi import ffi, lib
from pyvfio._core.request import DECLARED
from pyvfio.iommufd import Hwpt, Ioas
from pyvfio.iommufd.hwpt import allocate
from pyvfio.iommufd.object import address
from tests.contract import marks, mock_domain
from tests.contract.mock_domain import MockDevice
from tests.contract.refused import refused

pytestmark = marks.one_cell

PAGE = 4096
BASE = mock_domain.APERTURE_START
#: The number of bytes for one dirty bit.
SMALL = mock_domain.PAGE_SIZE
TRACKING = lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING


def tracked(ioas: Ioas, mock: MockDevice, size: int, *, huge: bool) -> Hwpt:
    """Return a page table with dirty tracking. Memory is mapped at BASE, in entries of HUGE_PAGE_SIZE or PAGE."""
    ioas.huge_pages = huge
    ioas.map(DmaBuffer(size, huge=2 << 20 if huge else None), BASE)
    data = mock_domain.HUGE if huge else bytes(8)
    table = allocate(ioas, mock.bound, flags=TRACKING, data_type=mock_domain.HWPT_DATA, data=data)
    table.set_dirty_tracking(True)
    return table


def bits(indices: range, count: int) -> bytes:
    bitmap = bytearray((count + 7) // 8)
    for index in indices:
        bitmap[index // 8] |= 1 << index % 8
    return bytes(bitmap)


@pytest.mark.parametrize("huge", [False, True], ids=["small", "huge"])
@pytest.mark.parametrize("kib", [8, 16, 64, 128, 320, 64 << 10, 128 << 10])
def test_every_second_entry_comes_back_whole_and_is_cleared(ioas: Ioas, kib: int, huge: bool) -> None:
    size = kib << 10
    entry = mock_domain.HUGE_PAGE_SIZE if huge else PAGE
    if huge and size < 2 << 20:
        return  # an entry is larger than the memory
    # The option must be set before the device is attached.
    ioas.huge_pages = huge
    mock = MockDevice(ioas)
    table = tracked(ioas, mock, size, huge=huge)
    step = 2 * entry // SMALL
    set_ = range(0, size // SMALL, step)
    whole = IovaRange.of(BASE, size)
    expected = [IovaRange.of(BASE + index * SMALL, entry) for index in set_]
    for clear in (False, True):
        mock.make_dirty(table, BASE, size, SMALL, bits(set_, size // SMALL))
        assert list(table.read_dirty(whole, SMALL, clear=clear).runs()) == expected
        again = table.read_dirty(whole, SMALL, clear=clear)
        assert list(again.runs()) == ([] if clear else expected)
    # Read with a larger page size, and from the middle of the memory on.
    mock.make_dirty(table, BASE, size, SMALL, bits(set_, size // SMALL))
    upper = IovaRange.of(BASE + size // 2, size // 2)
    if upper.is_aligned(PAGE):
        assert table.read_dirty(upper, PAGE, clear=False).count() == upper.size // PAGE // 2 or size < 4 * entry
    assert table.read_dirty(whole, entry).count() == len(set_)


@pytest.mark.parametrize("offset", [0, SMALL, 0xFF1])
@pytest.mark.parametrize("flags", [0, lib.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR])
def test_a_bitmap_may_begin_at_any_byte(ioas: Ioas, mock: MockDevice, offset: int, flags: int) -> None:
    """The library aligns its bitmaps, but the kernel does not require that."""
    size = 64 << 20
    table = tracked(ioas, mock, size, huge=False)
    set_ = range(0, size // SMALL, 4)
    mock.make_dirty(table, BASE, size, SMALL, bits(set_, size // SMALL))
    length = size // SMALL // 8
    memory = ffi.new("uint8_t[]", offset + length + 8)
    for expected in (b"\x33" * length, b"\x33" * length if flags else bytes(length)):
        ffi.memmove(memory, bytes(len(memory)), len(memory))
        DECLARED["IOMMU_HWPT_GET_DIRTY_BITMAP"].call(
            table._fd,
            hwpt_id=table.id,
            flags=flags,
            iova=BASE,
            length=size,
            page_size=SMALL,
            data=address(memory) + offset,
        )
        assert ffi.buffer(memory)[offset : offset + length] == expected
        assert not any(ffi.buffer(memory)[:offset])
        assert not any(ffi.buffer(memory)[offset + length :])


def test_one_bitmap_adds_up_several_reads(ioas: Ioas, mock: MockDevice) -> None:
    table = tracked(ioas, mock, 1 << 20, huge=False)
    whole = IovaRange.of(BASE, 1 << 20)
    bitmap = pyvfio.DirtyBitmap([whole])
    for index in (1, 8, 77):
        mock.make_dirty(table, BASE, whole.size, PAGE, bits(range(index, index + 1), 256))
        table.read_dirty_into(bitmap)
    assert list(bitmap.pages()) == [BASE + index * PAGE for index in (1, 8, 77)]
    assert not table.read_dirty(whole)


def test_pages_behind_a_gap_are_seen_too(ioas: Ioas, mock: MockDevice) -> None:
    table = tracked(ioas, mock, 64 << 10, huge=False)
    ioas.map(DmaBuffer(64 << 10), BASE + (1 << 20))
    whole = IovaRange.of(BASE, 2 << 20)
    dirty = [BASE + PAGE, BASE + (1 << 20) + 2 * PAGE]
    for iova in dirty:
        mock.make_dirty(table, iova, PAGE, PAGE, b"\x01")
    # The kernel stops at the gap without an error.
    bitmap = pyvfio.DirtyBitmap([whole])
    table._read_segment(bitmap.segments[0], clear=False)
    assert list(bitmap.pages()) == dirty[:1]
    assert list(table.read_dirty(whole, clear=False).pages()) == dirty
    assert list(table.read_dirty(whole).pages()) == dirty
    assert not table.read_dirty(whole)
    with pytest.raises(pyvfio.InvalidRequest, match="not aligned to pages of"):
        table.read_dirty(whole, 1 << 20)


def test_what_was_dirty_before_is_forgotten_when_tracking_begins(ioas: Ioas, mock: MockDevice) -> None:
    table = tracked(ioas, mock, 1 << 20, huge=False)
    whole = IovaRange.of(BASE, 1 << 20)
    table.set_dirty_tracking(True)
    mock.make_dirty(table, BASE, whole.size, PAGE, bits(range(256), 256))
    table.set_dirty_tracking(False)
    with pytest.raises(pyvfio.InvalidRequest, match="tracking is off"):
        table.read_dirty(whole)
    table.set_dirty_tracking(False)
    table.set_dirty_tracking(True)
    assert table.read_dirty(whole).count() == 0


def test_reads_that_cannot_be_true_are_refused(ioas: Ioas, mock: MockDevice) -> None:
    table = tracked(ioas, mock, 64 << 10, huge=False)
    for range_, page_size in (
        (IovaRange.of(BASE, PAGE), 3000),
        (IovaRange.of(BASE, PAGE), 0),
        (IovaRange.of(BASE, SMALL), PAGE),
        (IovaRange.of(BASE + SMALL, PAGE), PAGE),
    ):
        with pytest.raises(pyvfio.InvalidRequest, match="power of two"):
            table.read_dirty(range_, page_size)
    # The same requests without the library's checks.
    whole = {"hwpt_id": table.id, "iova": BASE, "length": 64 << 10, "page_size": PAGE}
    bitmap = ffi.new("uint64_t[64]")
    for wrong in (
        {"page_size": 0},
        {"length": 0},
        {"iova": BASE + 512},
        {"length": PAGE + 512},
    ):
        with refused(errno.EINVAL):
            DECLARED["IOMMU_HWPT_GET_DIRTY_BITMAP"].call(
                table._fd,
                **whole | wrong,
                data=address(bitmap),
            )
    assert not any(bitmap)


def test_a_page_table_that_was_not_made_for_it_tracks_nothing(ioas: Ioas, mock: MockDevice) -> None:
    ioas.map(DmaBuffer(PAGE), BASE)
    plain = ioas.hwpt(mock.bound)
    with refused(errno.EOPNOTSUPP):
        plain.set_dirty_tracking(True)
    with pytest.raises(pyvfio.InvalidRequest, match="tracking is off"):
        plain.read_dirty(IovaRange.of(BASE, PAGE))


def test_all_devices_of_a_tracking_page_table_must_be_able_to(ioas: Ioas, mock: MockDevice) -> None:
    assert mock.bound.hw_info().dirty_tracking
    table = ioas.hwpt(mock.bound, flags=TRACKING)
    able = MockDevice(table)
    with refused(errno.EINVAL):
        MockDevice(table, mock_domain.NO_DIRTY)
    able.destroy()
    table.destroy()
    other = ioas.iommufd.ioas()
    unable = MockDevice(other, mock_domain.NO_DIRTY)
    assert not unable.bound.hw_info().dirty_tracking
    with refused(errno.EOPNOTSUPP):
        other.hwpt(unable.bound, flags=TRACKING)


def test_a_page_table_of_a_pasid_tracks_as_well(ioas: Ioas, mock: MockDevice) -> None:
    table = ioas.hwpt(mock.bound, flags=TRACKING | lib.IOMMU_HWPT_ALLOC_PASID)
    device = MockDevice(table, mock_domain.PASID)
    device.pasid(mock_domain.PASID_ATTACH, 100, table)
    table.set_dirty_tracking(True)
    table.set_dirty_tracking(False)
    device.pasid(mock_domain.PASID_DETACH, 100)
    device.destroy()
    unable = MockDevice(ioas.iommufd.ioas(), mock_domain.PASID | mock_domain.NO_DIRTY)
    with refused(errno.EINVAL):
        unable.pasid(mock_domain.PASID_ATTACH, 100, table)


class NoFeatures:
    """Features of a device that cannot log its DMA, so that the IOMMU is used to track."""

    def probe(self, feature: int, **_: bool) -> bool:
        return False


def test_an_address_space_tracks_by_replacing_its_page_tables(ioas: Ioas, mock: MockDevice) -> None:
    """The test gives the selftest's device those attributes of pyvfio.Device that `track_dirty` uses."""
    mock.features = NoFeatures()  # type: ignore[attr-defined]
    ioas._attached[id(mock)] = weakref.ref(cast(Device, mock))
    mapping = ioas.alloc(1 << 20, BASE)
    before = mock.hwpt_id
    with ioas.track_dirty([mapping.range]) as tracking:
        assert tracking.source == "iommu"
        table = next(child for child in ioas._children if isinstance(child, Hwpt))
        assert isinstance(table, Hwpt)
        number = table.id
        assert mock.hwpt_id == number != before
        assert not tracking.read()
        # An entry of the page table is dirty as a whole, and may be large.
        mock.make_dirty(table, BASE, mapping.size, PAGE, bits(range(3, 4), 256))
        assert BASE + 3 * PAGE in tracking.read()
        assert not tracking.read()
    assert table.closed
    assert mock.hwpt_id != number
    mock.check_map(BASE, mapping.buffer, 0, mapping.size)
    with ioas.track_dirty([mapping.range]) as tracking:
        assert not tracking.read()


def test_nobody_tracks_where_the_iommu_cannot(ioas: Ioas) -> None:
    mock = MockDevice(ioas, mock_domain.NO_DIRTY)
    mock.features = NoFeatures()  # type: ignore[attr-defined]
    ioas._attached[id(mock)] = weakref.ref(cast(Device, mock))
    mapping = ioas.alloc(16 * PAGE, BASE)
    with ioas.track_dirty([mapping.range]) as tracking:
        assert tracking.source == "nobody"
        assert tracking.read().count() == 16
