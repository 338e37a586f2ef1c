# SPDX-License-Identifier: MIT
"""Mapping, DMA and DMA logging where a page has 64 KiB, behind an SMMUv3."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from examples.edu import Edu

import pyvfio
from pyvfio import DmaBuffer, IovaRange
from pyvfio.vfio_mock import VfioMock
from tests.contract.refused import refused
from tests.large_pages.conftest import EDU, IN_MACHINE, PAGE, VFIO_MOCK, aligned

if TYPE_CHECKING:
    from pyvfio import Device
    from pyvfio.kernel import Kernel
    from pyvfio.spaces.opening import Mode

BASE = 0x10_0000
#: The window that the kernel keeps for the writes of message-signalled interrupts (MSI_IOVA_BASE in the SMMU's driver).
MSI = IovaRange(0x800_0000, 0x80F_FFFF)
#: Page sizes of a page table with pages of 64 KiB: a page, and a block of the level above.
SMMU_SIZES = 1 << 16 | 1 << 29
#: Every power of two from a page on: what the kernel reports where it asks no IOMMU.
ALL_SIZES = 2**64 - PAGE
LAST_IOVA = 2**48 - 1


def test_the_processor_has_pages_of_64k() -> None:
    """In the machine, so that its tests do not pass on another kernel."""
    assert (pyvfio.memory.PAGE_SIZE == PAGE) == IN_MACHINE


def test_usable_iovas_leave_out_the_msi_window(edu: Device) -> None:
    assert list(edu.address_space.iova_ranges or ()) == [
        IovaRange(0, MSI.start - 1),
        IovaRange(MSI.last + 1, LAST_IOVA),
    ]


def test_page_sizes_behind_the_smmu(edu: Device, mode: Mode) -> None:
    expected = ALL_SIZES if mode == "iommufd" else SMMU_SIZES
    assert edu.address_space.page_sizes == expected


def test_page_sizes_of_an_emulated_device(vfio_mock: Device) -> None:
    assert vfio_mock.address_space.page_sizes == ALL_SIZES


def test_the_group_reserves_the_msi_window(kernel: Kernel) -> None:
    [region] = pyvfio.host.reserved_regions(EDU, kernel)
    assert (region.range, region.type) == (MSI, "msi")


@pytest.mark.parametrize("address", [EDU, VFIO_MOCK])
def test_misaligned_maps_are_refused(device: Device) -> None:
    space = device.address_space
    page = aligned(2 * PAGE)
    for iova, memory in ((BASE, page[:4096]), (BASE + 4096, page[:PAGE]), (BASE, page[4096 : 4096 + PAGE])):
        with refused(errno.EINVAL, "page size 64 KiB"):
            space.map(memory, iova)
    assert space.map(page, BASE).range == IovaRange.of(BASE, 2 * PAGE)


def test_a_map_into_the_msi_window_is_refused(edu: Device) -> None:
    with refused(errno.EINVAL):
        edu.address_space.map(aligned(PAGE), MSI.start)
    edu.address_space.map(aligned(PAGE), MSI.start - PAGE)
    edu.address_space.map(aligned(PAGE), MSI.last + 1)


def test_an_iova_that_pyvfio_chooses_is_aligned(edu: Device) -> None:
    mappings = [edu.address_space.map(aligned(PAGE)) for _ in range(3)]
    assert all(mapping.iova % PAGE == 0 for mapping in mappings)
    assert len({mapping.iova for mapping in mappings}) == 3


def test_a_buffer_of_one_byte_has_a_page() -> None:
    assert DmaBuffer(1).size == pyvfio.memory.PAGE_SIZE


@pytest.mark.parametrize("address", [EDU, VFIO_MOCK])
def test_unmap_of_less_than_a_page_is_refused(device: Device) -> None:
    space = device.address_space
    space.map(aligned(4 * PAGE), BASE)
    with pytest.raises(OSError, match=r"page size 64 KiB|part of a mapping|not mapped") as caught:
        space.unmap(BASE, 4096)
    assert caught.value.errno in (errno.EINVAL, errno.ENOENT)
    assert space.unmap(BASE, 4 * PAGE) == 4 * PAGE


def test_edu_copies_through_the_smmu(edu: Device) -> None:
    memory = aligned(2 * PAGE)
    memory[:512] = bytes(range(256)) * 2
    edu.address_space.map(memory, BASE)
    with Edu(edu) as driver:
        driver.copy(BASE + PAGE + 4096, BASE, 512)
    assert bytes(memory[PAGE + 4096 : PAGE + 4096 + 512]) == bytes(range(256)) * 2
    assert not any(memory[PAGE : PAGE + 4096])


def test_edu_raises_an_msi(edu: Device) -> None:
    """The message is written to the window, which the kernel maps to the interrupt controller."""
    with Edu(edu, interrupt=True) as driver:
        driver.raise_interrupt(4)
        assert driver.interrupted() == 4


def test_vfio_mock_copies(vfio_mock: Device) -> None:
    memory = aligned(2 * PAGE)
    memory[:300] = bytes(range(150)) * 2
    vfio_mock.address_space.map(memory, BASE)
    # Across the boundary of the two pages.
    VfioMock(vfio_mock).copy(BASE + PAGE - 100, BASE, 300)
    assert bytes(memory[PAGE - 100 : PAGE + 200]) == bytes(range(150)) * 2


def ranges_of(count: int) -> list[IovaRange]:
    return [IovaRange.of(BASE + 2 * number * PAGE, PAGE) for number in range(count)]


def test_a_page_has_4096_ranges(vfio_mock: Device) -> None:
    """The kernel takes a page of struct vfio_device_feature_dma_logging_range, which are 256 where pages have 4 KiB."""
    driver = VfioMock(vfio_mock)
    driver["LOG_MAX_RANGES"] = 255
    with vfio_mock.dirty_log(ranges_of(4096)) as log:
        assert len(log.ranges) == 4096
        assert driver["LOG_NUM_RANGES"] == 255
    with refused(errno.E2BIG, "4097 ranges"):
        vfio_mock.dirty_log(ranges_of(4097))


@pytest.mark.parametrize("page_size", [4096, 1 << 16, 1 << 21])
def test_the_log_reports_pages_of_the_size_asked_for(vfio_mock: Device, page_size: int) -> None:
    """A device's page size is its own, and may be smaller than the processor's."""
    size = 64 * PAGE
    base = 0x40_0000
    vfio_mock.address_space.map(aligned(size), base)
    with vfio_mock.dirty_log([IovaRange.of(base, size)], page_size=page_size) as log:
        assert log.page_size == page_size
        VfioMock(vfio_mock).touch_each([base + 8, base + 5 * PAGE + 4096, base + 40 * PAGE])
        report = log.read()
        written = {base, base + 5 * PAGE + 4096, base + 40 * PAGE}
        assert list(report.pages()) == sorted({iova & -page_size for iova in written})
        assert log.read().count() == 0


@pytest.mark.parametrize("first", [0, 1, 63, 64, 65, 4095])
def test_a_part_of_the_bitmap_may_begin_within_a_word(vfio_mock: Device, first: int) -> None:
    """Bits of a bitmap are counted from the range's start; a word has 64 of them, which are 4 MiB of pages of 64 KiB."""
    size = 8192 * 4096
    vfio_mock.address_space.map(aligned(size), BASE)
    with vfio_mock.dirty_log([IovaRange.of(BASE, size)]) as log:
        driver = VfioMock(vfio_mock)
        driver.touch_each([BASE + first * 4096, BASE + (first + 1) * 4096, BASE + (first + 2) * 4096])
        part = IovaRange.of(BASE + first * 4096, 2 * 4096)
        assert list(log.read(part).pages()) == [part.start, part.start + 4096]
        assert list(log.read().pages()) == [part.start + 8192]


def test_type1_tracks_pages_of_64k(kernel: Kernel) -> None:
    """VFIO_IOMMU_DIRTY_PAGES: what an emulated device wrote, in pages of the smallest size of the address space."""
    with pyvfio.open(VFIO_MOCK, mode="type1v2", kernel=kernel) as device:
        space = device.address_space
        assert isinstance(space, pyvfio.Container)
        assert space.info.dirty_page_sizes == PAGE
        assert space.info.max_dirty_bitmap_size == 2**31 // 8
