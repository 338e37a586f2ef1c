# SPDX-License-Identifier: MIT
"""type1 on the mock, through the library's objects."""

from __future__ import annotations

import errno
from array import array
from mmap import mmap

import pytest

import pyvfio
from pyvfio import Container, mock
from pyvfio.device import Device
from pyvfio.iova import IovaRange

EDU, MOCK = "0000:00:03.0", "vfio-mock.0"
PAGE = 4096
pytestmark = pytest.mark.vfio(mode="type1v2")


def test_nothing_is_left_open(kernel: mock.Kernel) -> None:
    with pyvfio.open(MOCK, mode="type1v2", kernel=kernel) as device:
        device.address_space.alloc(PAGE)
    assert not kernel.files
    assert kernel.devices[MOCK].group.file is None


def test_a_write_of_an_emulated_device_is_exact(kernel: mock.Kernel, emulated: Device) -> None:
    space = emulated.address_space
    assert isinstance(space, Container)
    mapping = space.alloc(16 * PAGE)
    space.start_dirty_tracking()
    dma = kernel.devices[MOCK].space
    assert dma is not None
    dma.write(mapping.iova + 2 * PAGE - 1, b"ab")
    assert mapping.buffer.view[2 * PAGE - 1 : 2 * PAGE + 1] == b"ab"
    assert list(space.read_dirty(mapping.iova, mapping.size).runs()) == [IovaRange.of(mapping.iova + PAGE, 2 * PAGE)]
    assert not space.read_dirty(mapping.iova, mapping.size).count()


def test_an_emulated_device_may_not_write_what_it_may_not_read(kernel: mock.Kernel, emulated: Device) -> None:
    mapping = emulated.address_space.map(mmap(-1, PAGE), 0, read=False)
    dma = kernel.devices[MOCK].space
    assert dma is not None
    with pytest.raises(mock.machine.errno.Errno) as caught:
        dma.write(mapping.iova, b"a")
    assert caught.value.number == errno.EPERM


def test_usable_ranges_are_reported_with_an_iommu_only(emulated: Device, edu: Device) -> None:
    assert emulated.address_space.iova_ranges is None
    assert list(edu.address_space.iova_ranges or ()) == [
        IovaRange(0, 0xFEDFFFFF),
        IovaRange(0xFEF00000, 0x7FFFFFFFFF),
    ]


def test_only_what_an_iommu_maps_is_pinned(kernel: mock.Kernel, emulated: Device, edu: Device) -> None:
    emulated.address_space.alloc(PAGE)
    assert kernel.locked.pages == 0
    mapping = edu.address_space.alloc(4 * PAGE)
    assert kernel.locked.pages == 4
    mapping.unmap()
    assert kernel.locked.pages == 0


def test_the_limit_on_locked_memory_holds_to_the_page() -> None:
    kernel = mock.Kernel("intel-39", memlock=4 * PAGE)
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode="type1v2", kernel=kernel) as device:
        device.address_space.alloc(3 * PAGE, 0)
        with pytest.raises(OSError, match="12"):
            device.address_space.alloc(2 * PAGE, 1 << 20)
        device.address_space.alloc(PAGE, 1 << 20)


def test_memory_that_is_not_there_cannot_be_pinned(edu: Device) -> None:
    with pytest.raises(OSError, match="MAP_DMA") as caught:
        edu.address_space.map_many(array("Q", [1 << 46, 0, PAGE]))
    assert caught.value.errno == errno.EFAULT


def test_the_number_of_mappings_is_limited() -> None:
    kernel = mock.Kernel(dma_entry_limit=4)
    with pyvfio.open(MOCK, mode="type1v2", kernel=kernel) as device:
        for index in range(4):
            device.address_space.alloc(PAGE, index << 20)
        with pytest.raises(OSError, match="MAP_DMA") as caught:
            device.address_space.alloc(PAGE, 5 << 20)
        assert caught.value.errno == errno.ENOSPC


def test_v1_unmaps_a_whole_mapping_by_its_first_page(kernel: mock.Kernel) -> None:
    with pyvfio.open(MOCK, mode="type1", kernel=kernel) as device:
        space = device.address_space
        space.alloc(4 * PAGE, 0)
        assert space.unmap(PAGE, PAGE) == 0
        assert space.unmap(0, PAGE) == 4 * PAGE


def test_v2_refuses_to_cut_a_mapping(emulated: Device) -> None:
    emulated.address_space.alloc(4 * PAGE, 0)
    with pytest.raises(OSError, match="UNMAP_DMA") as caught:
        emulated.address_space.unmap(0, PAGE)
    assert caught.value.errno == errno.EINVAL


def test_usable_iovas_are_asked_anew_when_a_group_leaves(kernel: mock.Kernel) -> None:
    with (
        pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel),
        pyvfio.address_space("type1v2", kernel=kernel) as space,
    ):
        kept = space.attach(MOCK)
        device = space.attach(EDU)
        narrow = space.iova_ranges
        assert narrow is not None
        group = device.group
        assert group is not None
        device.close()
        group.close()
        assert not kept.closed
        assert space.iova_ranges != narrow


def test_a_group_that_a_driver_of_the_host_shares_is_not_viable(kernel: mock.Kernel) -> None:
    with (
        pyvfio.host.bind("0000:02:00.1", "vfio-pci", kernel=kernel),
        pytest.raises(pyvfio.NotViable),
        pyvfio.address_space("type1v2", kernel=kernel) as space,
    ):
        space.attach("0000:02:00.1")


def test_a_virtual_address_moves(edu: Device, kernel: mock.Kernel) -> None:
    space = edu.address_space
    assert isinstance(space, Container)
    old, new = mmap(-1, PAGE), mmap(-1, PAGE)
    mapping = space.map(old, 0)
    space.invalidate_addresses(mapping)
    space.set_address(mapping, new)
    dma = kernel.devices[EDU].space
    assert dma is not None
    dma.write(0, b"moved")
    assert new[:5] == b"moved"


def test_addresses_of_foreign_mappings_are_not_changed(edu: Device, kernel: mock.Kernel) -> None:
    own = edu.address_space
    assert isinstance(own, Container)
    with pyvfio.open(MOCK, mode="type1v2", kernel=kernel) as device:
        foreign = device.address_space.map(mmap(-1, PAGE), 0)
        mapping = own.map(mmap(-1, PAGE), 0)
        with pytest.raises(pyvfio.InvalidRequest, match="belongs to"):
            own.invalidate_addresses(foreign)
        own.invalidate_addresses(mapping)
        with pytest.raises(pyvfio.InvalidRequest, match="belongs to"):
            own.set_address(foreign, mmap(-1, PAGE))
        assert foreign.mapped
        assert mapping.mapped


def test_refused_address_says_why(edu: Device) -> None:
    space = edu.address_space
    assert isinstance(space, Container)
    mapping = space.map(mmap(-1, PAGE), 0)
    with pytest.raises(pyvfio.RequestError, match=r"MAP_DMA VADDR .* its address was not invalidated before"):
        space.set_address(mapping, mmap(-1, PAGE))
    space.invalidate_addresses(mapping)
    with pytest.raises(pyvfio.RequestError, match=r"address=0x[0-9a-f]+10 is not a multiple of the page size"):
        space.set_address(mapping, memoryview(mmap(-1, 2 * PAGE))[16 : PAGE + 16])
    assert mapping.mapped


def test_error_above_the_memlock_limit_of_the_mock_says_so() -> None:
    kernel = mock.Kernel("amd", memlock=1 << 20)
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode="type1v2", kernel=kernel) as device:
        space = device.address_space
        space.alloc(64 << 10)
        with pytest.raises(
            OSError, match=r"4 MiB more would exceed the limit on locked memory, 1 MiB .* 64 KiB are used"
        ):
            space.alloc(4 << 20)
