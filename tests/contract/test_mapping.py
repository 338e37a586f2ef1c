# SPDX-License-Identifier: MIT
"""Mapping: the common behaviour of all address spaces, and the differences between the modes."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pyvfio import DmaBuffer, InvalidRequest, IovaRange, IovaSet
from tests.contract.process import pinned
from tests.contract.raw_memory import RawMemory
from tests.contract.refused import refused

if TYPE_CHECKING:
    from vmtest.matrix import Cell

    from pyvfio import Device
    from pyvfio.spaces.base import AddressSpace

PAGE = 4096
#: IOVA and size of three mappings
PLACES = ((0x10_0000, PAGE), (0x10_2000, PAGE), (0x10_4000, 4 * PAGE))


@pytest.fixture
def device(kept: Device, kernel: Any) -> Iterator[Device]:
    """The cell's device, shared by all tests: opening it takes longer than most of these tests."""
    yield kept
    kept.address_space.unmap_all()


def highest_page(space: AddressSpace) -> int:
    """Return the IOVA of the last page that can be mapped."""
    usable = space.iova_ranges
    return (2**64 if usable is None else usable[len(usable) - 1].last + 1) - PAGE


@pytest.mark.parametrize("size", [PAGE, 16 * PAGE, 2 << 20], ids=["4K", "64K", "2M"])
def test_unmap_returns_the_bytes_that_were_mapped(space: AddressSpace, size: int) -> None:
    mapping = space.map(DmaBuffer(size))
    assert mapping.size == size
    assert mapping.mapped
    assert mapping.unmap() == size
    assert not mapping.mapped
    assert mapping.unmap() == 0


def test_huge_pages_can_be_mapped(space: AddressSpace) -> None:
    mapping = space.alloc(2 << 20, huge=2 << 20)
    assert mapping.iova % (2 << 20) == 0
    assert space.unmap(mapping.iova, mapping.size) == 2 << 20


def test_one_buffer_can_be_mapped_twice(space: AddressSpace) -> None:
    buffer = DmaBuffer(PAGE)
    one, other = space.map(buffer), space.map(buffer)
    assert one.iova != other.iova
    assert space.mappings == sorted([one, other], key=lambda mapping: mapping.iova)


def test_the_last_page_can_be_mapped(space: AddressSpace) -> None:
    last = highest_page(space)
    if last + PAGE == 2**64:
        last -= PAGE  # type1 cannot handle a mapping that ends at 2^64
    mapping = space.map(DmaBuffer(PAGE), last)
    assert mapping.iova == last
    assert mapping.unmap() == PAGE
    space.map(DmaBuffer(PAGE), last)
    assert space.unmap_all() == PAGE


@pytest.mark.require("iommu")
def test_behind_the_last_usable_page_is_nothing(space: AddressSpace, cell: Cell) -> None:
    beyond = highest_page(space) + PAGE
    with pytest.raises(OSError) as caught:
        space.map(DmaBuffer(2 * PAGE), beyond - PAGE)
    assert caught.value.errno == (errno_of_wrapping(cell) if beyond == 2**64 else errno.EINVAL)


def errno_of_wrapping(cell: Cell) -> int:
    old = cell.kernel in ("6.1", "6.12") and cell.mode in ("type1", "type1v2")
    return errno.EINVAL if old else errno.EOVERFLOW


def test_a_range_that_wraps_is_refused(space: AddressSpace, cell: Cell) -> None:
    with pytest.raises(OSError, match="past the end of the 64-bit") as caught:
        space.map(DmaBuffer(2 * PAGE), 2**64 - PAGE)
    assert caught.value.errno == errno_of_wrapping(cell)


def test_unmap_of_a_range_that_wraps_is_refused(space: AddressSpace, cell: Cell) -> None:
    with pytest.raises(OSError, match="past the end of the 64-bit") as caught:
        space.unmap(2**64 - PAGE, 2 * PAGE)
    assert caught.value.errno == errno_of_wrapping(cell)


def test_overlap_is_refused_and_the_mapping_in_the_way_named(space: AddressSpace) -> None:
    space.map(DmaBuffer(4 * PAGE), 0x10_0000)
    with pytest.raises(FileExistsError, match=r"overlaps what is mapped at \[0x100000, 0x103fff\]"):
        space.map(DmaBuffer(PAGE), 0x10_2000)


def test_misaligned_and_empty_ranges_are_refused(space: AddressSpace) -> None:
    buffer = DmaBuffer(2 * PAGE)
    with pytest.raises(OSError, match=r"multiples? of the page size") as caught:
        space.map(buffer, 0x10_0800)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match=r"multiples? of the page size"):
        space.map(buffer.view[:100], 0x10_0000)
    with pytest.raises(OSError, match="the size is 0"):
        space.map(buffer.view[:0], 0x10_0000)


def test_read_only_memory_is_not_mapped_writable(space: AddressSpace) -> None:
    with pytest.raises(BufferError, match="read-only"):
        space.map(bytes(PAGE))


def test_what_is_not_there_cannot_be_mapped_many_at_once(space: AddressSpace) -> None:
    buffer = DmaBuffer(4 * PAGE)
    rows = array("Q")
    for index in (0, 1, 1, 2):
        rows.extend((buffer.address + index * PAGE, 0x10_0000 + index * PAGE, PAGE))
    with pytest.raises(FileExistsError, match="row 2 of 4"):
        space.map_many(rows, keep=buffer)
    assert space.mappings == []
    assert space.unmap_all() == 0


def test_many_are_mapped_and_unmapped_in_one_call(space: AddressSpace) -> None:
    buffer = DmaBuffer(64 * PAGE)
    rows = array("Q")
    for index in range(64):
        rows.extend((buffer.address + index * PAGE, 0x10_0000 + 2 * index * PAGE, PAGE))
    batch = space.map_many(rows, keep=buffer)
    assert len(batch) == 64
    assert batch[3].iova == 0x10_6000
    assert batch[3].unmap() == PAGE
    assert batch.unmap() == 63 * PAGE
    assert space.mappings == []
    assert space.unmap_all() == 0


def test_unmap_all_takes_everything(space: AddressSpace) -> None:
    for _ in range(3):
        space.alloc(2 * PAGE)
    assert space.unmap_all() == 6 * PAGE
    assert space.mappings == []
    assert space.unmap_all() == 0


@pytest.mark.require("whole_mappings")
def test_a_part_of_a_mapping_is_not_unmapped(space: AddressSpace, mode: str) -> None:
    mapping = space.map(DmaBuffer(4 * PAGE), 0x10_0000)
    for at in (0x10_0000, 0x10_1000, 0x10_3000):
        with pytest.raises(OSError, match="split") as caught:
            space.unmap(at, PAGE)
        assert caught.value.errno == (errno.EINVAL if mode == "type1v2" else errno.ENOENT)
    assert mapping.mapped
    assert mapping.unmap() == 4 * PAGE


@pytest.mark.require("whole_mappings")
def test_a_refused_unmap_has_removed_the_mappings_before_in_iommufd(space: AddressSpace, mode: str) -> None:
    first, second, third = (space.map(DmaBuffer(size), iova) for iova, size in PLACES)
    with pytest.raises(OSError, match="split"):
        space.unmap(first.iova, third.iova + PAGE - first.iova)
    kept = [third] if mode.startswith("iommufd") else [first, second, third]
    assert space.mappings == kept
    # The kernel has the same mappings: only what is gone can be mapped anew.
    for iova, size in PLACES:
        if any(one.iova == iova for one in kept):
            with refused(errno.EEXIST):
                space.map(DmaBuffer(size), iova)
        else:
            space.map(DmaBuffer(size), iova)
    assert space.unmap_all() == sum(size for _, size in PLACES)


@pytest.mark.only(mode="type1")
def test_type1_unmaps_a_whole_mapping_by_its_first_page_alone(space: AddressSpace) -> None:
    mapping = space.map(DmaBuffer(4 * PAGE), 0x10_0000)
    assert space.unmap(0x10_1000, PAGE) == 0
    assert mapping.mapped
    assert space.unmap(0x10_0000, PAGE) == 4 * PAGE
    assert not mapping.mapped


@pytest.mark.only(mode="iommufd-type1")
def test_iommufd_type1_really_splits_a_mapping(space: AddressSpace) -> None:
    space.map(DmaBuffer(4 * PAGE), 0x10_0000)
    assert space.unmap(0x10_1000, PAGE) == PAGE
    assert [mapping.range for mapping in space.mappings] == [
        IovaRange(0x10_0000, 0x10_0FFF),
        IovaRange(0x10_2000, 0x10_3FFF),
    ]
    assert space.unmap_all() == 3 * PAGE


def test_unmap_of_nothing(space: AddressSpace, mode: str) -> None:
    if mode == "iommufd":
        with pytest.raises(FileNotFoundError):
            space.unmap(0x10_0000, PAGE)
    else:
        assert space.unmap(0x10_0000, PAGE) == 0


@pytest.mark.require("iommu")
def test_a_failed_map_pins_nothing(space: AddressSpace) -> None:
    usable = space.iova_ranges
    assert usable is not None
    before = pinned()
    space.map(DmaBuffer(PAGE), 0x10_0000)
    one = pinned()
    for buffer, iova in (
        (DmaBuffer(4 * PAGE), 0x0F_F000),
        (DmaBuffer(PAGE), 0x10_0800),
        (DmaBuffer(2 * PAGE), 2**64 - PAGE),
        (DmaBuffer(1 << 20), 0xFEE0_0000),
    ):
        with pytest.raises(OSError):
            space.map(buffer, iova)
    assert pinned() == one
    space.unmap_all()
    assert pinned() == before


@pytest.mark.require("iommu")
@pytest.mark.only(iommu="amd")
def test_the_hypertransport_hole_is_named_with_ranges_that_work(space: AddressSpace) -> None:
    usable = space.iova_ranges
    assert usable is not None
    assert usable.holding(0xFC_FFFF_FFFF) is not None
    assert usable.holding(0xFC_FFFF_FFFF) == IovaRange(0xFEF0_0000, 0xFC_FFFF_FFFF)
    assert usable[len(usable) - 1].start == 0x100_0000_0000
    with pytest.raises(OSError) as caught:
        space.map(DmaBuffer(4 << 20), 0xFC_FFE0_0000)
    assert caught.value.errno == errno.EINVAL
    notes = "\n".join([str(caught.value), *caught.value.__notes__])
    assert "[0xfd00000000, 0xffffffffff]" in notes
    assert "AMD HyperTransport hole" in notes
    assert "[0xfcffc00000, 0xfcffffffff]" in notes
    assert "[0x10000000000, 0x100003fffff]" in notes
    assert space.map(DmaBuffer(4 << 20), 0x100_0000_0000).size == 4 << 20


@pytest.mark.require("iommu")
@pytest.mark.only(iommu="intel")
def test_beyond_the_width_is_refused_and_the_width_named(space: AddressSpace, cell: Any) -> None:
    # A first-stage page table has the processor's format. With 48 bits, its upper half begins at 0xffff800000000000;
    # Linux uses the lower half only, which has 47 bits.
    width = "47 bits" if cell.iommu == "intel-fs" else "39 bits"
    with pytest.raises(OSError, match=width) as caught:
        space.map(DmaBuffer(0x4000), 0xFFFF_FFFF_FEBE_0000)
    assert caught.value.errno == errno.EINVAL
    assert any("usable: [0x0, " in note for note in caught.value.__notes__)


@pytest.mark.require("iommu")
@pytest.mark.only(iommu="virtio")
def test_a_64_bit_iommu_maps_near_the_top(space: AddressSpace) -> None:
    assert space.map(DmaBuffer(0x4000), 0xFFFF_FFFF_FEBE_0000).unmap() == 0x4000


def test_automatic_places_are_free_and_usable(space: AddressSpace) -> None:
    mappings = [space.alloc(PAGE * (1 + index % 5)) for index in range(40)]
    ranges = IovaSet(mapping.range for mapping in mappings)
    assert ranges.total == sum(mapping.size for mapping in mappings)
    if (usable := space.iova_ranges) is not None:
        assert all(mapping.range in usable for mapping in mappings)


def test_memory_outlives_its_names_while_it_is_mapped(space: AddressSpace, dma: Any) -> None:
    low = space.map(DmaBuffer(2 * PAGE), 0x10_0000)
    low.buffer.view[:PAGE] = os.urandom(PAGE)
    wanted = bytes(low.buffer.view[:PAGE])
    view = low.buffer.view
    del low
    dma.copy(0x10_1000, 0x10_0000, PAGE)
    assert bytes(view[PAGE:]) == wanted


def test_a_mapping_without_permissions_is_refused(space: AddressSpace) -> None:
    with pytest.raises(InvalidRequest, match="must allow the devices to read or to write"):
        space.map(DmaBuffer(PAGE), 0x10_0000, read=False, write=False)
    assert space.mappings == []


@pytest.mark.require("bar_mmap", "linux")
def test_type1_maps_a_bar_by_its_address_and_iommufd_does_not(device: Device, space: AddressSpace, mode: str) -> None:
    region = device.regions[0]
    bar = region.mmap()
    # Map the whole BAR, its first and its last page, and the whole BAR at an address with a smaller alignment than the
    # physical one.
    with RawMemory(bar.size, device.fileno(), region.info.offset, aligned_to=1 << 30, but_for=4096) as misaligned:
        for address, size in (
            (bar.address, bar.size),
            (bar.address, 4096),
            (bar.address + bar.size - 4096, 4096),
            (misaligned.address, bar.size),
        ):
            rows = array("Q", [address, 0x4000_0000, size])
            if mode in ("type1", "type1v2"):
                assert space.map_many(rows, keep=bar).unmap() == size
            else:
                with refused(errno.EFAULT):
                    space.map_many(rows)
    assert space.unmap_all() == 0
