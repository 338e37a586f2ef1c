# SPDX-License-Identifier: MIT
"""A kernel driver that accesses an address space, as drivers of emulated devices do: it reads, writes, pins, and must unpin."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator

import pytest

from pyvfio import DmaBuffer, Iommufd
from pyvfio.iommufd import Ioas
from tests.contract import marks, mock_domain
from tests.contract.mock_domain import Access, MockDevice
from tests.contract.refused import refused

pytestmark = marks.one_cell

PAGE = 4096
BASE = mock_domain.APERTURE_START


@pytest.fixture(params=["no device", "one"])
def seen(request: pytest.FixtureRequest, ioas: Ioas) -> MockDevice | None:
    """With parameter `one`, a device whose page table the address space fills; otherwise None."""
    return MockDevice(ioas) if request.param == "one" else None


@pytest.fixture
def buffer() -> DmaBuffer:
    buffer = DmaBuffer(16 * PAGE)
    buffer.view[:] = random.Random(3).randbytes(buffer.size)
    return buffer


@pytest.fixture
def access(ioas: Ioas) -> Iterator[Access]:
    with Access(ioas) as access:
        yield access


@pytest.fixture
def pinning(ioas: Ioas) -> Iterator[Access]:
    with Access(ioas, pins=True) as access:
        yield access


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("unaligned", [0, mock_domain.PAGE_SIZE])
def test_bytes_are_read_and_written_across_pages(
    ioas: Ioas, seen: MockDevice | None, access: Access, buffer: DmaBuffer, slow: bool, unaligned: int
) -> None:
    mapping = ioas.map(buffer, BASE + unaligned)
    noise = random.Random(5)
    for offset in range(PAGE - 50, PAGE + 50, 7):
        for size in range(1, 64, 3):
            assert access.read(mapping.iova + offset, size, slow=slow) == buffer.view[offset : offset + size]
            data = noise.randbytes(size)
            access.write(mapping.iova + offset, data, slow=slow)
            assert buffer.view[offset : offset + size] == data
    assert access.read(mapping.iova, buffer.size, slow=slow) == buffer.view
    with refused(errno.ENOENT):
        access.read(mapping.iova + buffer.size - 1, 2, slow=slow)


def test_what_may_only_be_read_is_not_written(
    ioas: Ioas, seen: MockDevice | None, access: Access, buffer: DmaBuffer
) -> None:
    mapping = ioas.map(buffer, BASE, write=False)
    before = bytes(buffer.view)
    with refused(errno.EPERM):
        access.write(mapping.iova, b"data")
    assert access.read(mapping.iova, buffer.size) == before
    assert bytes(buffer.view) == before


def test_pages_pinned_by_several_are_mapped_for_later_devices(
    iommufd: Iommufd, ioas: Ioas, pinning: Access, buffer: DmaBuffer
) -> None:
    for pages in range(1, 16, 2):
        size = pages * PAGE
        mapping = ioas.map(buffer, BASE)
        first = pinning.pin(mapping.iova, buffer, 0, size)
        second = pinning.pin(mapping.iova, buffer, 0, size)
        pinning.unpin(second)
        device = MockDevice(ioas)
        device.check_map(mapping.iova, buffer, 0, buffer.size)
        device.destroy()
        pinning.unpin(first)
        with refused(errno.ENOENT):
            pinning.unpin(first)
        assert mapping.unmap() == buffer.size
        mock_domain.check_refs(iommufd, buffer, 0)


def test_who_pinned_lets_go_of_what_is_unmapped(
    iommufd: Iommufd, ioas: Ioas, seen: MockDevice | None, pinning: Access, buffer: DmaBuffer
) -> None:
    mapping = ioas.map(buffer, BASE)
    number = pinning.pin(mapping.iova, buffer, 0, buffer.size)
    assert mapping.unmap() == buffer.size
    with refused(errno.ENOENT):
        pinning.unpin(number)
    mock_domain.check_refs(iommufd, buffer, 0)


def test_a_pinned_page_of_a_huge_one_outlives_the_page_table(
    ioas: Ioas, seen: MockDevice | None, pinning: Access
) -> None:
    huge = DmaBuffer(4 << 20, huge=2 << 20)
    mapping = ioas.map(huge, BASE)
    number = pinning.pin(mapping.iova + PAGE, huge, PAGE, PAGE)
    if seen is not None:
        seen.destroy()
    pinning.unpin(number)
    assert mapping.unmap() == huge.size


def test_pinned_pages_are_copied_and_the_address_space_replaced(
    iommufd: Iommufd, ioas: Ioas, seen: MockDevice | None, buffer: DmaBuffer
) -> None:
    old, new = iommufd.ioas(), iommufd.ioas()
    with Access(old, pins=True) as access:
        source = old.map(buffer)
        access.pin(source.iova, buffer, 0, buffer.size)
        copied = ioas.copy(source, BASE)
        target = new.map(buffer)
        access.replace(new)
        assert copied.unmap() == buffer.size
        old.destroy()
        number = access.pin(target.iova, buffer, 0, buffer.size)
        copied = ioas.copy(target, BASE)
        if seen is not None:
            seen.check_map(copied.iova, buffer, 0, buffer.size)
        access.unpin(number)
    new.destroy()
