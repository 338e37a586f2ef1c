# SPDX-License-Identifier: MIT
"""iommufd as a container (its compatibility mode): VFIO's and iommufd's requests on one file."""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

import pytest

from pyvfio import Container, DmaBuffer, IovaRange, IovaSet, Unsupported
from pyvfio._abi import ffi, lib
from pyvfio._core import capability
from pyvfio.iommufd.option import GET_HUGE_PAGES, OPTION
from pyvfio.spaces.container import GET_INFO
from pyvfio.spaces.mapping import UNMAP_DMA_ALL
from tests.contract.refused import refused

if TYPE_CHECKING:
    from pyvfio.spaces.base import AddressSpace

pytestmark = pytest.mark.only(mode=["iommufd-type1v2", "iommufd-type1"])

PAGE = 4096


def test_its_address_space_has_large_pages_unless_it_must_split(space: AddressSpace, mode: str) -> None:
    assert isinstance(space, Container)
    number = space.iommufd.vfio_ioas_id
    assert space.iommufd.option(GET_HUGE_PAGES, number) == (mode == "iommufd-type1v2")


def test_mappings_by_vfio_are_copied_to_another_ioas(space: AddressSpace) -> None:
    assert isinstance(space, Container)
    mapping = space.map(DmaBuffer(4 * PAGE), 0x10_0000)
    iommufd = space.iommufd
    ioas = iommufd.ioas()
    assert iommufd.vfio_ioas_id != ioas.id
    copied = ioas.copy_range(iommufd.vfio_ioas_id, mapping.range, 0x20_0000)
    assert mapping.unmap() == copied.unmap() == 4 * PAGE
    ioas.map(DmaBuffer(PAGE), 0x10_0000)
    # Closing the Iommufd object destroys the objects made through it, and nothing that belongs to the container.
    number = ioas.id
    iommufd.close()
    assert ioas.closed
    with refused(errno.ENOENT):
        OPTION.call(
            space.iommufd.descriptor,
            option_id=lib.IOMMU_OPTION_HUGE_PAGES,
            op=lib.IOMMU_OPTION_OP_GET,
            object_id=number,
            val64=0,
        )
    assert space.map(DmaBuffer(PAGE), 0x10_0000).unmap() == PAGE


def test_large_pages_are_taken_apart_in_any_order_or_not_at_all(space: AddressSpace, mode: str) -> None:
    whole = space.alloc(4 << 20, 0x4000_0000, huge=2 << 20)
    size = whole.size // 16
    pieces = [IovaRange.of(whole.iova + index * size, size) for index in range(16)]
    left = IovaSet([whole.range])
    for piece in random.Random(11).sample(pieces, 16):
        if mode == "iommufd-type1v2":
            with refused(errno.ENOENT, "split"):
                space.unmap(piece.start, piece.size)
            continue
        assert space.unmap(piece.start, piece.size) == size
        left -= IovaSet([piece])
        assert IovaSet(mapping.range for mapping in space.mappings) == left
    assert space.unmap_all() == left.total


containers = pytest.mark.only(mode=["type1v2", "type1", "iommufd-type1v2", "iommufd-type1"], device="edu")


@containers
def test_all_is_unmapped_without_a_range(space: AddressSpace) -> None:
    assert isinstance(space, Container)
    mapping = space.map(DmaBuffer(PAGE), 0x10_0000)
    for iova, size in ((0x10_0000, PAGE), (0x10_0000, 0), (0, PAGE)):
        with refused(errno.EINVAL):
            UNMAP_DMA_ALL.call(space._fd, flags=lib.VFIO_DMA_UNMAP_FLAG_ALL, iova=iova, size=size)
    assert mapping.mapped
    assert space.unmap_all() == PAGE


@containers
def test_what_the_iommu_tells_fits_into_the_room_that_there_is(space: AddressSpace, mode: str) -> None:
    assert isinstance(space, Container)
    struct = "struct vfio_iommu_type1_info"
    fixed = ffi.sizeof(struct)
    answer, complete = capability.ask(space._fd, GET_INFO)
    everything = [cap.id for cap in capability.chain(complete, answer.cap_offset, least=fixed)]
    assert lib.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE in everything
    # Sizes of the struct: from one without capabilities to one that is larger than the whole answer.
    for size in range(ffi.offsetof(struct, "cap_offset"), len(complete) + 16):
        memory = bytearray(b"\xaa" * (len(complete) + 32))
        answer = ffi.from_buffer(f"{struct} *", memory)
        answer.argsz, answer.flags = size, 0
        assert space._fd.ioctl(lib.VFIO_IOMMU_GET_INFO, answer) == 0
        assert memory[size:] == b"\xaa" * (len(memory) - size)
        assert answer.iova_pgsizes == space.page_sizes
        # iommufd reports the size of the answer, even if argsz was larger.
        assert answer.argsz == (len(complete) if mode.startswith("iommufd") else max(size, len(complete)))
        if size >= fixed:
            told = [cap.id for cap in capability.chain(memoryview(memory)[:size], answer.cap_offset, least=fixed)]
            assert told == (everything if size >= len(complete) else [])


@pytest.mark.only(mode="type1v2", device="vfio-mock")
def test_vfios_own_container_has_no_iommufd(space: AddressSpace) -> None:
    assert isinstance(space, Container)
    with pytest.raises(Unsupported, match="iommufd-type1v2"):
        _ = space.iommufd
