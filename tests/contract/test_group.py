# SPDX-License-Identifier: MIT
"""Containers and groups on the real interface: viability, membership, order of calls."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio
from pyvfio import Container, DmaBuffer, InvalidRequest, NotViable, Unsupported
from pyvfio._abi import lib
from pyvfio.spaces.opening import Mode

if TYPE_CHECKING:
    from pyvfio import Device
    from pyvfio.spaces.base import AddressSpace

BY_GROUP = ["type1v2", "type1", "iommufd-type1v2", "iommufd-type1"]
PAGE = 4096


@pytest.mark.only(mode=BY_GROUP)
def test_a_container_tells_its_version_and_extensions(bare_space: Container) -> None:
    assert bare_space.api_version == 0
    assert bare_space.has_extension(lib.VFIO_TYPE1v2_IOMMU)
    assert bare_space.has_extension(lib.VFIO_UNMAP_ALL)
    assert not bare_space.has_extension(999)


@pytest.mark.only(mode="type1v2", device="edu")
def test_a_group_that_is_not_viable_names_the_members_in_the_way(
    other: Callable[[str], str], bare_space: Container
) -> None:
    # The two functions of bus 2 are one group. The network card is still bound to its native driver.
    address = other("0000:02:00.1")
    with pytest.raises(NotViable, match=r"0000:02:00\.0 \(e1000e\)") as caught:
        bare_space.attach(address)
    assert caught.value.members["0000:02:00.0"] == "e1000e"
    other("0000:02:00.0")
    with bare_space.attach(address) as device:
        assert device.group is not None
        assert device.group.viable
        assert set(device.group.members) == {"0000:02:00.0", "0000:02:00.1"}


@pytest.mark.only(mode=["type1v2", "type1"], device="edu")
def test_two_devices_of_two_groups_share_a_container(other: Callable[[str], str], space: Container) -> None:
    with space.attach(other("nvme")) as second:
        assert second.address_space is space
        assert len(space.groups) == 2
        mapping = space.alloc(PAGE)
        assert mapping.mapped


@pytest.mark.only(mode=["type1v2", "type1"], device=["edu", "vfio-mock"])
def test_a_group_leaves_its_container_when_its_device_is_closed(
    bare_space: Container, address: str, mode: Mode
) -> None:
    device = bare_space.attach(address)
    group = device.group
    assert group is not None
    with pytest.raises(OSError, match="still open") as caught:
        group.unset_container()
    assert caught.value.errno == errno.EBUSY
    device.close()
    group.unset_container()
    with pytest.raises(OSError) as caught:
        group.unset_container()
    assert caught.value.errno == errno.EINVAL
    group.close()


@pytest.mark.only(mode="type1v2")
def test_a_device_that_is_not_in_the_group_is_not_opened(device: Device) -> None:
    assert device.group is not None
    with pytest.raises(OSError, match="0000:ff:1f") as caught:
        device.group.device_fd("0000:ff:1f.7")
    assert caught.value.errno == errno.ENODEV


@pytest.mark.only(mode=BY_GROUP)
def test_a_container_closes_its_devices_before_itself(address: str, mode: Mode, kernel: Any) -> None:
    space = pyvfio.address_space(mode, kernel=kernel)
    device = space.attach(address)
    space.close()
    assert device.closed
    space.close()
    with pytest.raises(pyvfio.Closed):
        space.fileno()
    with pytest.raises(pyvfio.Closed):
        space.unmap(0, PAGE)


@pytest.mark.only(mode="type1v2")
def test_after_a_fork_only_closing_works(device: Device, space: AddressSpace) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                device.fileno()
            except pyvfio.Closed as error:
                code = 0 if "before the fork" in str(error) else 2
            device.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert space.alloc(PAGE).mapped


@pytest.mark.require("dirty_pages")
def test_the_container_tracks_dirty_pages(space: Container, device: Device, cell: Any) -> None:
    mapping = space.map(DmaBuffer(8 * PAGE), 0x10_0000)
    with pytest.raises(OSError) as caught:
        space.read_dirty(mapping.iova, mapping.size)
    assert caught.value.errno == errno.EINVAL
    space.start_dirty_tracking()
    space.start_dirty_tracking()
    if cell.device == "vfio-mock":
        from pyvfio.vfio_mock import VfioMock

        space.read_dirty(mapping.iova, mapping.size)
        VfioMock(device).touch_each([0x10_2000])
        assert list(space.read_dirty(mapping.iova, mapping.size).pages()) == [0x10_2000]
        assert space.read_dirty(mapping.iova, mapping.size).count() == 0
        VfioMock(device).touch_each([0x10_5000])
        assert list(space.unmap_dirty(mapping.iova, mapping.size).pages()) == [0x10_5000]
    else:
        # If the group has an IOMMU, type1 reports all pinned pages as dirty.
        assert space.read_dirty(mapping.iova, mapping.size).count() == 8
        assert space.unmap_dirty(mapping.iova, mapping.size).count() == 8
    assert not mapping.mapped
    space.stop_dirty_tracking()
    space.stop_dirty_tracking()


@pytest.mark.require("dirty_pages")
def test_dirty_reads_that_cannot_be_true_are_refused(space: Container) -> None:
    mapping = space.map(DmaBuffer(8 * PAGE), 0x10_0000)
    space.start_dirty_tracking()
    for iova, size in ((0x10_0800, PAGE), (0x10_0000, 0), (0x10_0000, 100)):
        with pytest.raises(InvalidRequest, match="whole pages"):
            space.read_dirty(iova, size)
    with pytest.raises(OSError) as caught:
        space.read_dirty(0x10_1000, 2 * PAGE)
    assert caught.value.errno == errno.EINVAL
    mapping.unmap()


@pytest.mark.only(mode=["type1"])
def test_type1_says_that_it_tracks_no_dirty_pages(space: Container) -> None:
    with pytest.raises(Unsupported, match="type1v2 does"):
        space.start_dirty_tracking()


@pytest.mark.require("iommu")
@pytest.mark.only(mode=["type1v2", "type1"])
def test_the_virtual_address_of_a_mapping_is_moved(space: Container) -> None:
    import mmap

    fd = os.memfd_create("pages", os.MFD_CLOEXEC)
    try:
        os.truncate(fd, 2 * PAGE)
        one, other = mmap.mmap(fd, 2 * PAGE), mmap.mmap(fd, 2 * PAGE)
    finally:
        os.close(fd)
    mapping = space.map(one, 0x10_0000)
    if not space.has_extension(lib.VFIO_UPDATE_VADDR):
        # VFIO_UPDATE_VADDR: since 6.3 only if every device of the container has an IOMMU, and in some releases not at
        # all.
        with pytest.raises(Unsupported, match="VFIO_UPDATE_VADDR"):
            space.invalidate_addresses(mapping)
        return
    with pytest.raises(OSError, match="not invalidated"):
        space.set_address(mapping, other)
    space.invalidate_addresses(mapping)
    moved = space.set_address(mapping, other)
    assert not mapping.mapped
    assert moved.unmap() == 2 * PAGE


@pytest.mark.only(mode=["type1v2", "type1"], device="vfio-mock")
def test_a_virtual_address_is_not_moved_under_an_emulated_device(space: Container) -> None:
    mapping = space.map(DmaBuffer(PAGE), 0x10_0000)
    if space.has_extension(lib.VFIO_UPDATE_VADDR):
        with pytest.raises(OSError, match="VFIO_IOMMU_UNMAP_DMA") as caught:
            space.invalidate_addresses(mapping)
        assert caught.value.errno == errno.EBUSY
    else:
        with pytest.raises(Unsupported, match="VFIO_UPDATE_VADDR"):
            space.invalidate_addresses(mapping)
    assert mapping.unmap() == PAGE


@pytest.mark.only(mode=["type1v2", "type1"], device="vfio-mock")
@pytest.mark.only(mode=["type1v2", "type1"], device="edu", iommu="virtio")
@pytest.mark.only(mode=["type1v2", "type1"], device="edu", iommu="amd", kernel="6.1")  # later AMD has 48 bits
def test_the_last_page_is_mapped_only_if_it_can_be_unmapped(space: Container, cell: Any) -> None:
    buffer = DmaBuffer(PAGE)
    if cell.kernel not in ("6.1", "6.12"):
        assert space.map(buffer, 2**64 - PAGE).unmap() == PAGE
        return
    with pytest.raises(InvalidRequest, match="cannot unmap"):
        space.map(buffer, 2**64 - PAGE)
    with pytest.raises(InvalidRequest, match=r"row 1 of 2: .*cannot unmap"):
        space.map_many(array("Q", [buffer.address, 0x10_0000, PAGE, buffer.address, 2**64 - PAGE, PAGE]), keep=buffer)
    assert space.mappings == []
    assert space.map(buffer, 2**64 - 2 * PAGE).unmap() == PAGE
    # Without the library's check, the kernel maps the page, but cannot unmap it.
    assert space._ledger.raw_map(buffer.address, 2**64 - PAGE, PAGE, 3) == 0
    assert space.unmap(2**64 - PAGE, PAGE) == 0
    assert space.unmap_all() == 0


@pytest.mark.only(mode=["type1v2", "type1"])
def test_a_group_has_one_container(device: Device, mode: Mode, kernel: Any) -> None:
    assert device.group is not None
    with pyvfio.Container(mode, kernel=kernel) as other:
        with pytest.raises(OSError, match="in a container already") as caught:
            device.group.set_container(other)
        assert caught.value.errno == errno.EINVAL


@pytest.mark.only(mode=["type1v2", "type1"])
def test_a_device_is_not_opened_by_a_group_in_no_container(address: str, kernel: Any) -> None:
    number = pyvfio.host.device(address, kernel).group
    assert number is not None
    with pyvfio.Group(number, kernel=kernel) as group, pytest.raises(OSError, match="in no container") as caught:
        group.device_fd(address)
    assert caught.value.errno == errno.EINVAL
