# SPDX-License-Identifier: MIT
"""Page tables of the iommufd selftest driver: they contain the mapped pages, and each page is pinned once."""

from __future__ import annotations

import errno
import mmap
import os
from array import array
from collections.abc import Iterator

import pytest

import pyvfio
from pyvfio import DmaBuffer, Iommufd
from pyvfio._abi import lib
from pyvfio.iommufd import Ioas
from pyvfio.memory import address_of
from pyvfio.spaces.mapping import Mapping
from tests.contract import marks, mock_domain
from tests.contract.mock_domain import MockDevice
from tests.contract.raw_memory import RawMemory
from tests.contract.refused import refused

pytestmark = marks.one_cell

PAGE = 4096
BASE = mock_domain.APERTURE_START
SMALL = mock_domain.PAGE_SIZE


class MappedFile(DmaBuffer):
    """Memory of a file, with the attributes of a DmaBuffer."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self.address = address_of(memory)
        self.size = len(memory)
        self.view = memoryview(memory)


class Memory:
    """Memory of one kind, and the way to map it."""

    def __init__(self, kind: str) -> None:
        self.step = SMALL
        self.fd: int | None = None
        size = 8 * PAGE
        huge = kind.startswith("huge")
        if huge:
            size, self.step = 2 << 20, (2 << 20) // 16
        if kind.endswith("file"):
            self.fd = os.memfd_create("memory", os.MFD_CLOEXEC | (os.MFD_HUGETLB | os.MFD_HUGE_2MB if huge else 0))
            os.truncate(self.fd, size)
            self.buffer: MappedFile | DmaBuffer = MappedFile(mmap.mmap(self.fd, size))
        else:
            self.buffer = DmaBuffer(size, huge=2 << 20 if huge else None)
        self.size = size

    def map(self, ioas: Ioas, offset: int, size: int) -> Mapping:
        if self.fd is not None:
            return ioas.map_file(self.fd, offset, size)
        return ioas.map(self.buffer.view[offset : offset + size])

    def parts(self) -> Iterator[tuple[int, int]]:
        """Yield offset and size of parts with every alignment; for huge pages fewer, because each takes long."""
        for start in range(0, self.size, self.step):
            if self.step == SMALL:
                ends = range(start + SMALL, self.size, 3 * SMALL)
            else:
                ends = range(self.size - 2 * SMALL, self.size, SMALL)
            yield from ((start, end - start) for end in ends if end > start)

    def end(self) -> None:
        if self.fd is not None:
            os.close(self.fd)


@pytest.fixture(params=["anonymous", "huge", "file", "huge file"])
def memory(request: pytest.FixtureRequest) -> Iterator[Memory]:
    memory = Memory(request.param)
    yield memory
    memory.end()


@pytest.fixture(params=[1, 2])
def devices(request: pytest.FixtureRequest, ioas: Ioas) -> list[MockDevice]:
    """Devices, each with its own page table."""
    return [MockDevice(ioas) for _ in range(request.param)]


def whole_pages(offset: int, size: int) -> tuple[int, int]:
    """Return offset and size of the whole pages in a part of memory."""
    start = -(-offset // PAGE) * PAGE
    return start, max(0, (offset + size) // PAGE * PAGE - start)


def test_every_part_of_memory_is_mapped_as_it_is_and_pinned_once(
    iommufd: Iommufd, ioas: Ioas, devices: list[MockDevice], memory: Memory
) -> None:
    buffer = memory.buffer
    mock_domain.check_refs(iommufd, buffer, 0)
    for offset, size in memory.parts():
        mapping = memory.map(ioas, offset, size)
        for device in devices:
            device.check_map(mapping.iova, buffer, offset, size)
        start, length = whole_pages(offset, size)
        if length:
            mock_domain.check_refs(iommufd, buffer, 1, start, length)
        assert mapping.unmap() == size
    mock_domain.check_refs(iommufd, buffer, 0)


def test_a_later_page_table_has_the_same_and_pins_nothing_more(
    iommufd: Iommufd, ioas: Ioas, devices: list[MockDevice], memory: Memory
) -> None:
    for offset, size in list(memory.parts())[::5]:
        mapping = memory.map(ioas, offset, size)
        late = MockDevice(ioas)
        late.check_map(mapping.iova, memory.buffer, offset, size)
        start, length = whole_pages(offset, size)
        if length:
            mock_domain.check_refs(iommufd, memory.buffer, 1, start, length)
        late.destroy()
        devices[0].check_map(mapping.iova, memory.buffer, offset, size)
        assert mapping.unmap() == size
    mock_domain.check_refs(iommufd, memory.buffer, 0)


def test_memory_that_is_not_all_there_is_not_mapped_at_all(ioas: Ioas, devices: list[MockDevice]) -> None:
    buffer = DmaBuffer(16 * PAGE)
    mapping = ioas.map(buffer)
    with pytest.raises(OSError, match="IOMMU_TEST_CMD"):
        devices[0].check_map(mapping.iova + PAGE, buffer, 0, PAGE)
    with RawMemory(8 * PAGE) as memory:
        for there in (4 * PAGE, 0):
            memory.shrink(there)
            with refused(errno.EFAULT, "nothing is mapped in this process"):
                ioas.map_many(array("Q", [memory.address, BASE + (1 << 24), 8 * PAGE]))
    assert ioas.unmap_all() == buffer.size


def test_a_private_page_stays_the_same_when_it_is_written(ioas: Ioas, mock: MockDevice) -> None:
    with open("/proc/self/exe", "rb") as file:
        memory = mmap.mmap(file.fileno(), PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    buffer = MappedFile(memory)
    mapping = ioas.map(buffer.view, write=False)
    mock.check_map(mapping.iova, buffer, 0, PAGE)
    buffer.view[:] = bytes(PAGE)
    mock.check_map(mapping.iova, buffer, 0, PAGE)


def test_an_address_space_takes_the_place_of_another(iommufd: Iommufd, ioas: Ioas, devices: list[MockDevice]) -> None:
    other = iommufd.ioas()
    device, old = devices[0], devices[0].hwpt_id
    device.attach(other)
    # The page table that was created for the attachment is destroyed with it, unless another device uses it.
    if len(devices) == 1:
        with refused(errno.ENOENT):
            device.attach_to_id(old)
    device.attach(other)
    for sibling in devices[1:]:
        # Attach to the page table of a sibling; a second time it has no effect.
        for _ in range(2):
            device.attach_to_id(sibling.hwpt_id)
    if len(devices) > 1:
        device.attach(other)
    with refused(errno.EBUSY):
        other.destroy()
    device.attach(ioas)
    other.destroy()


def test_a_page_table_is_made_attached_and_kept_while_it_is_used(ioas: Ioas, devices: list[MockDevice]) -> None:
    for device in devices:
        with refused(errno.EOPNOTSUPP):
            ioas.hwpt(device.bound, flags=~lib.IOMMU_HWPT_ALLOC_NEST_PARENT & 0xFFFF_FFFF)
        plain = ioas.hwpt(device.bound)
        parent = ioas.hwpt(device.bound, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
        for table in (plain, parent):
            device.attach(table)
            with refused(errno.EBUSY):
                table.destroy()
        device.attach(ioas)
        parent.destroy()
        direct = MockDevice(plain)
        with refused(errno.EBUSY):
            plain.destroy()
        direct.destroy()
        plain.destroy()


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


def test_hardware_info_keeps_the_bytes_that_it_cannot_decode(ioas: Ioas, mock: MockDevice) -> None:
    info = mock.bound.hw_info()
    assert info.type == mock_domain.HW_INFO_TYPE
    assert info.decoded is None
    assert info.data == mock_domain.HW_INFO
    assert info.dirty_tracking
    assert info.max_pasid_log2 == 0
    assert mock.bound.hw_info(input_type=mock_domain.HW_INFO_TYPE) == info
    with refused(errno.EOPNOTSUPP):
        mock.bound.hw_info(input_type=mock_domain.HW_INFO_TYPE + 1)
    assert MockDevice(ioas, mock_domain.PASID).bound.hw_info().max_pasid_log2 == mock_domain.MAX_PASID_LOG2
    gone = mock.bound
    mock.destroy()
    with refused(errno.ENOENT):
        gone.hw_info()
