# SPDX-License-Identifier: MIT
"""iommufd on the mock, through the library's objects."""

from __future__ import annotations

import errno
import os
from mmap import mmap

import pytest

import pyvfio
from pyvfio import DmaBuffer, Iommufd, host, mock
from pyvfio._abi import ffi, lib
from pyvfio.device import Device
from pyvfio.iommufd import Ioas
from pyvfio.iova import IovaRange, IovaSet
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.space import Space

EDU, MOCK = "0000:00:03.0", "vfio-mock.0"
SIBLINGS = ("0000:00:05.0", "0000:00:05.1")
PAGE = 4096
pytestmark = pytest.mark.vfio(mode="iommufd")


def dma(kernel: mock.Kernel, name: str) -> Space:
    space = kernel.devices[name].space
    assert space is not None
    return space


def refused(caught: pytest.ExceptionInfo[Errno]) -> str:
    return errno.errorcode[caught.value.number]


def test_nothing_is_left_open(kernel: mock.Kernel) -> None:
    with pyvfio.open(MOCK, mode="iommufd", kernel=kernel) as device:
        device.address_space.alloc(PAGE)
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode="iommufd", kernel=kernel) as device:
        device.address_space.alloc(PAGE)
    assert not kernel.files
    assert kernel.devices[EDU].group.owner is None
    assert kernel.devices[EDU].space is None
    assert kernel.devices[EDU].group.cdevs == 0


# DMA.


def test_an_emulated_device_may_use_all_iovas(kernel: mock.Kernel, emulated: Device) -> None:
    space = emulated.address_space
    assert space.iova_ranges == IovaSet([IovaRange(0, 2**64 - 1)])
    mapping = space.map(DmaBuffer(PAGE), 2**64 - 2 * PAGE)
    dma(kernel, MOCK).write(mapping.iova + 7, b"abc")
    assert mapping.buffer.view[7:10] == b"abc"
    assert dma(kernel, MOCK).read(mapping.iova + 7, 3) == b"abc"


def test_a_device_behind_an_iommu_has_its_ranges(kernel: mock.Kernel, edu: Device) -> None:
    space = edu.address_space
    assert space.iova_ranges == IovaSet([IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, 0x7FFFFFFFFF)])
    mapping = space.alloc(2 * PAGE)
    dma(kernel, EDU).write(mapping.iova + PAGE - 1, b"ab")
    assert mapping.buffer.view[PAGE - 1 : PAGE + 1] == b"ab"
    with pytest.raises(OSError) as caught:
        space.map(DmaBuffer(PAGE), 0xFEE00000)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("name", ["emulated", "edu"])
def test_dma_goes_as_far_as_the_mappings(name: str, kernel: mock.Kernel, request: pytest.FixtureRequest) -> None:
    device: Device = request.getfixturevalue(name)
    space = device.address_space
    first = space.map(DmaBuffer(PAGE), 0x10000)
    second = space.map(DmaBuffer(PAGE), 0x11000, write=False)
    third = space.map(DmaBuffer(PAGE), 0x12000, read=False)
    go = dma(kernel, device.address)
    assert len(go.read(first.iova, 2 * PAGE)) == 2 * PAGE
    with pytest.raises(Errno) as caught:
        go.write(first.iova, bytes(PAGE + 1))
    assert refused(caught) == "EPERM"
    with pytest.raises(Errno) as caught:
        go.read(second.iova, PAGE + 1)
    assert refused(caught) == "EPERM"
    with pytest.raises(Errno) as caught:
        go.write(third.iova, b"x" * (PAGE + 1))
    assert refused(caught) == "ENOENT"
    assert third.buffer.view[-1:] == b"x"
    with pytest.raises(Errno) as caught:
        go.read(2**64 - 1, 2)
    assert refused(caught) == "EOVERFLOW"


def test_a_device_that_is_attached_to_nothing_does_no_dma(kernel: mock.Kernel, iommufd: Iommufd) -> None:
    with iommufd.bind(MOCK) as device:
        with pytest.raises(Errno) as caught:
            dma(kernel, MOCK).read(0, 1)
        assert refused(caught) == "ENOENT"
        device.attach(iommufd.ioas())
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), iommufd.bind(EDU) as device:
        assert kernel.devices[EDU].space is None
        device.attach(iommufd.ioas())
        assert kernel.devices[EDU].space is not None
        device.detach()
        assert kernel.devices[EDU].space is None


# Mapping.


def test_kernel_chooses_the_lowest_iova_aligned_as_the_memory(ioas: Ioas) -> None:
    buffer = DmaBuffer(8 << 20)
    at = next(offset for offset in range(0, 4 << 20, PAGE) if (buffer.address + offset) % (2 << 20) == 0)
    view = buffer.view[at : at + (4 << 20)]
    big = ioas.map(view[: 4 << 20])
    small = ioas.map(view[PAGE : 3 * PAGE])
    assert (big.iova, small.iova) == (2 << 20, PAGE)
    two = ioas.map(view[2 * PAGE : 4 * PAGE])
    assert two.iova == 4 * PAGE
    assert ioas.map(view[PAGE : 2 * PAGE]).iova == 3 * PAGE
    small.unmap()
    assert ioas.map(view[PAGE : 3 * PAGE]).iova == PAGE


def test_freed_range_joins_the_free_ranges_around_it(ioas: Ioas) -> None:
    buffer = DmaBuffer(8 * PAGE)
    odd = PAGE if buffer.address % (2 * PAGE) == 0 else 0  # an address that is aligned to one page, but not to two
    page, pages = buffer.view[odd : odd + PAGE], buffer.view[odd : odd + 3 * PAGE]
    ioas.allow([IovaRange(0x10000, 0x10000 + 9 * PAGE - 1)])
    pieces = [ioas.map(page) for _ in range(9)]
    with pytest.raises(OSError, match="no free range of that size") as caught:
        ioas.map(pages)
    assert caught.value.errno == errno.ENOSPC
    for index in (3, 5, 4):
        pieces[index].unmap()
    assert ioas.map(pages).iova == 0x13000


@pytest.mark.parametrize("name", ["emulated", "edu"])
def test_a_part_of_a_mapping_is_not_unmapped(name: str, request: pytest.FixtureRequest) -> None:
    device: Device = request.getfixturevalue(name)
    space = device.address_space
    space.map(DmaBuffer(4 * PAGE), 0x10000)
    for iova, size in ((0x10000, PAGE), (0x13000, PAGE), (0x11000, PAGE), (0xF000, 2 * PAGE), (0x20000, PAGE)):
        with pytest.raises(OSError) as caught:
            space.unmap(iova, size)
        assert caught.value.errno == errno.ENOENT
    assert space.unmap(0xF000, 8 * PAGE) == 4 * PAGE
    assert space.unmap_all() == 0


def test_memory_that_is_not_there_is_seen_when_an_iommu_shows_it(kernel: mock.Kernel, iommufd: Iommufd) -> None:
    ioas = iommufd.ioas()
    memory = mmap(-1, PAGE)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
    memory.close()
    native = ffi.new(
        "struct iommu_ioas_map *",
        {"size": 40, "flags": 7, "ioas_id": ioas.id, "user_va": address, "length": PAGE, "iova": PAGE},
    )
    assert kernel.ioctl(iommufd.fileno(), lib.IOMMU_IOAS_MAP, int(ffi.cast("uintptr_t", native))) == 0
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), iommufd.bind(EDU) as device:
        with pytest.raises(OSError) as caught:
            device.attach(ioas)
        assert caught.value.errno == errno.EFAULT
        assert kernel.devices[EDU].space is None
        ioas.unmap_all()
        device.attach(ioas)
        assert kernel.ioctl(iommufd.fileno(), lib.IOMMU_IOAS_MAP, int(ffi.cast("uintptr_t", native))) == -errno.EFAULT


def test_locked_memory_is_limited(iommufd: Iommufd) -> None:
    kernel = mock.Kernel(memlock=4 * PAGE)
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode="iommufd", kernel=kernel) as device:
        space = device.address_space
        buffer = DmaBuffer(8 * PAGE)
        one = space.map(buffer.view[: 3 * PAGE])
        with pytest.raises(OSError) as caught:
            space.map(buffer.view[3 * PAGE : 5 * PAGE])
        assert caught.value.errno == errno.ENOMEM
        one.unmap()
        space.map(buffer.view[: 4 * PAGE])
        assert kernel.locked_by_user.pages == 4
    assert kernel.locked_by_user.pages == 0


def test_a_copy_shares_the_pages(kernel: mock.Kernel, iommufd: Iommufd, ioas: Ioas) -> None:
    other = iommufd.ioas()
    buffer = DmaBuffer(4 * PAGE)
    source = ioas.map(buffer, 0x100000)
    copied = other.copy(source, 0x300000)
    source.unmap()
    with iommufd.bind(MOCK) as device:
        device.attach(other)
        dma(kernel, MOCK).write(copied.iova + PAGE, b"copy")
        assert bytes(buffer.view[PAGE : PAGE + 4]) == b"copy"
    with pytest.raises(FileNotFoundError):
        other.copy(source, 0x500000)


def test_a_file_is_mapped_and_outlives_its_descriptor(kernel: mock.Kernel, edu: Device) -> None:
    space = edu.address_space
    assert isinstance(space, Ioas)
    fd = os.memfd_create("shared")
    try:
        os.truncate(fd, 4 * PAGE)
        with pytest.raises(OSError) as caught:
            space.map_file(fd, 0, 8 * PAGE, 0x100000)
        assert caught.value.errno == errno.EINVAL
        mapping = space.map_file(fd, PAGE, 2 * PAGE, 0x100000)
        dma(kernel, EDU).write(mapping.iova + PAGE, b"file")
        assert os.pread(fd, 4, 2 * PAGE) == b"file"
    finally:
        os.close(fd)
    assert dma(kernel, EDU).read(mapping.iova + PAGE, 4) == b"file"


# Attaching.


def test_devices_of_a_group_share_their_page_table(kernel: mock.Kernel, iommufd: Iommufd) -> None:
    one, other = iommufd.ioas(), iommufd.ioas()
    with (
        pyvfio.host.bind(SIBLINGS[0], "vfio-pci", kernel=kernel),
        pyvfio.host.bind(SIBLINGS[1], "vfio-pci", kernel=kernel),
        iommufd.bind(SIBLINGS[0]) as first,
        iommufd.bind(SIBLINGS[1]) as second,
    ):
        first.attach(one)
        with pytest.raises(OSError) as caught:
            second.attach(other)
        assert caught.value.errno == errno.EINVAL
        second.attach(one)
        first.attach(other)
        assert kernel.devices[SIBLINGS[0]].space is kernel.devices[SIBLINGS[1]].space
        mapping = other.alloc(PAGE)
        dma(kernel, SIBLINGS[1]).write(mapping.iova, b"group")
        assert mapping.buffer.view[:5] == b"group"


def test_numbers_are_the_lowest_that_are_free(iommufd: Iommufd) -> None:
    first, second, third = (iommufd.ioas() for _ in range(3))
    assert [ioas.id for ioas in (first, second, third)] == [1, 2, 3]
    second.destroy()
    first.destroy()
    assert [iommufd.ioas().id, iommufd.ioas().id, iommufd.ioas().id] == [1, 2, 4]


def test_a_page_table_of_the_kernels_own_goes_with_its_devices(
    kernel: mock.Kernel, iommufd: Iommufd, ioas: Ioas
) -> None:
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), iommufd.bind(EDU) as device:
        device.attach(ioas)
        with pytest.raises(OSError) as caught:
            ioas.destroy()
        assert caught.value.errno == errno.EBUSY
        device.detach()
        ioas.destroy()


def test_only_one_owner_has_a_group(kernel: mock.Kernel) -> None:
    with (
        pyvfio.host.bind(SIBLINGS[0], "vfio-pci", kernel=kernel),
        pyvfio.host.bind(SIBLINGS[1], "vfio-pci", kernel=kernel),
        pyvfio.open(SIBLINGS[0], mode="iommufd", kernel=kernel),
    ):
        with pytest.raises(OSError) as caught:
            pyvfio.open(SIBLINGS[1], mode="iommufd", kernel=kernel)
        assert caught.value.errno == errno.EPERM
        with pytest.raises(OSError) as caught:
            pyvfio.open(SIBLINGS[1], mode="type1v2", kernel=kernel)
        assert caught.value.errno == errno.EBUSY


# The container emulation.


@pytest.mark.parametrize("name", [MOCK, EDU])
def test_iommufd_stands_in_for_a_container(name: str, kernel: mock.Kernel) -> None:
    if name == EDU:
        with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel):
            _stands_in(name, kernel)
    else:
        _stands_in(name, kernel)
    assert not kernel.files


def _stands_in(name: str, kernel: mock.Kernel) -> None:
    with pyvfio.open(name, mode="iommufd-type1v2", kernel=kernel) as device:
        space = device.address_space
        assert space.iova_ranges is not None
        mapping = space.map(DmaBuffer(4 * PAGE), 0x10000)
        dma(kernel, name).write(mapping.iova, b"compat")
        assert mapping.buffer.view[:6] == b"compat"
        with pytest.raises(OSError) as caught:
            space.unmap(0x10000, PAGE)
        assert caught.value.errno == errno.ENOENT
        assert space.unmap(0x20000, PAGE) == 0
    with pyvfio.open(name, mode="iommufd-type1", kernel=kernel) as device:
        space = device.address_space
        mapping = space.map(DmaBuffer(4 * PAGE), 0x10000)
        assert space.unmap(0x11000, PAGE) == PAGE
        dma(kernel, name).write(0x12000, b"split")
        assert mapping.buffer.view[2 * PAGE : 2 * PAGE + 5] == b"split"
        with pytest.raises(Errno):
            dma(kernel, name).write(0x11000, b"hole")


def test_group_member_in_the_way_is_named() -> None:
    kernel = mock.Kernel("amd")
    with host.bind("0000:02:00.1", "vfio-pci", kernel=kernel):
        with pytest.raises(PermissionError, match=r"group 8 also holds 0000:02:00\.0 \(e1000e\)") as caught:
            pyvfio.open("0000:02:00.1", mode="iommufd", kernel=kernel)
        assert caught.value.__notes__[0].startswith("pyvfio.host.bind('0000:02:00.0', 'vfio-pci')")
        with host.bind("0000:02:00.0", "vfio-pci", kernel=kernel):
            pyvfio.open("0000:02:00.1", mode="iommufd", kernel=kernel).close()


def test_a_group_that_comes_again_under_its_number_is_another(kernel: mock.Kernel) -> None:
    # What an iommufd knows of a group ends with the last device of it that is bound.
    with pyvfio.address_space("iommufd", kernel=kernel) as space:
        for _ in range(2):
            with host.bind(EDU, "vfio-pci", kernel=kernel), space.attach(EDU):
                before = kernel.devices[EDU].group
                number = before.number
                assert kernel.devices[EDU].space is not None
            kernel.write_file(f"{host.device(EDU, kernel).path}/remove", b"1")
            kernel.write_file("/sys/bus/pci/rescan", b"1")
            after = kernel.devices[EDU].group
            assert (after is before, after.number) == (False, number)
