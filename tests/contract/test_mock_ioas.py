# SPDX-License-Identifier: MIT
"""Address spaces of iommufd: without a device, with one or two page tables of the iommufd selftest driver, and with little memory."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import pyvfio
from pyvfio import DmaBuffer, Iommufd, IovaRange, IovaSet
from pyvfio._abi import ffi, lib
from pyvfio.iommufd import Ioas
from pyvfio.iommufd.option import OPTION
from tests.contract import marks, mock_domain, process
from tests.contract.capabilities import without_capability
from tests.contract.mock_domain import Access, MockDevice
from tests.contract.refused import refused

pytestmark = marks.one_cell

PAGE = 4096
BASE = mock_domain.APERTURE_START


@pytest.fixture(params=["no device", "one", "two", "little memory"])
def setting(request: pytest.FixtureRequest, ioas: Ioas) -> Iterator[str]:
    """The setting of a test: the number of devices attached to `ioas`, or little temporary memory in the kernel."""
    devices = [MockDevice(ioas) for _ in range({"no device": 0, "two": 2}.get(request.param, 1))]
    if request.param == "little memory":
        mock_domain.limit_memory(ioas.iommufd, 16)
    yield request.param
    mock_domain.limit_memory(ioas.iommufd, 0)
    del devices


def test_only_what_nothing_uses_is_destroyed(ioas: Ioas, setting: str) -> None:
    for index in range(10):
        ioas.map(DmaBuffer(PAGE), BASE + index * PAGE)
    if setting == "no device":
        ioas.destroy()
        assert ioas.mappings == []
    else:
        with refused(errno.EBUSY):
            ioas.destroy()
        assert len(ioas.mappings) == 10


def test_areas_are_unmapped_as_a_whole_and_never_mapped_over(ioas: Ioas, setting: str) -> None:
    buffer = DmaBuffer(4 * PAGE)
    for index in range(10):
        with refused(errno.ENOENT, "nothing is mapped there"):
            ioas.unmap(index * PAGE, PAGE)
    for index in range(10):
        ioas.map(buffer.view[:PAGE], BASE + index * PAGE)
    for index in range(10):
        assert ioas.unmap(BASE + index * PAGE, PAGE) == PAGE
    at = BASE + 16 * PAGE
    ioas.map(buffer.view[: 2 * PAGE], at)
    for part in (at, at + PAGE):
        with refused(errno.ENOENT, "split"):
            ioas.unmap(part, PAGE)
    for iova, pages in ((at, 2), (at, 1), (at + PAGE, 1), (at - PAGE, 2), (at - PAGE, 3)):
        with refused(errno.EEXIST, "overlaps"):
            ioas.map(buffer.view[: pages * PAGE], iova)
    assert ioas.unmap_all() == 2 * PAGE
    assert ioas.unmap_all() == 0


def test_a_range_takes_the_areas_that_it_holds_as_a_whole(ioas: Ioas, setting: str) -> None:
    buffer = DmaBuffer(8 * PAGE)
    base = BASE + 4 * PAGE
    for index in range(4):
        ioas.map(buffer, base + index * 16 * PAGE)
    for start in (base - 4 * PAGE, base + (3 * 16 + 4) * PAGE):
        with refused(errno.ENOENT):
            ioas.unmap(start, 8 * PAGE)
    assert len(ioas.mappings) == 4
    assert ioas.unmap(base - 4 * PAGE, (4 + 3 * 16 + 8) * PAGE) == 32 * PAGE
    assert ioas.mappings == []


def test_the_kernel_finds_aligned_free_and_allowed_places(ioas: Ioas, setting: str) -> None:
    buffer = DmaBuffer(32 * PAGE)
    # The IOVAs that the kernel chooses have the alignment of the memory.
    view = buffer.view[-buffer.address % (16 * PAGE) :]

    def places() -> IovaSet:
        mappings = [ioas.map(view[: (index + 1) * PAGE]) for index in range(10)]
        for mapping in mappings:
            assert mapping.iova % (mapping.size & -mapping.size) == 0
        found = IovaSet(mapping.range for mapping in mappings)
        assert found.total == 55 * PAGE
        assert not found - ioas.iova_ranges
        for mapping in mappings:
            assert mapping.unmap() == mapping.size
        return found

    places()
    reserved = IovaRange.of(4 * PAGE, 100 * PAGE)
    mock_domain.reserve(ioas, reserved.start, reserved.size)
    assert not places().overlaps(reserved)
    with refused(errno.EADDRINUSE):
        ioas.allow([IovaRange(PAGE, 600 * PAGE)])
    start = 200 * PAGE if setting == "no device" else BASE + PAGE
    allowed = IovaRange(start, start + 400 * PAGE - 1)
    ioas.allow([allowed])
    assert not places() - IovaSet([allowed])


def test_an_address_space_that_is_all_reserved_has_no_place(ioas: Ioas, setting: str) -> None:
    mock_domain.reserve(ioas, 6, 0xFFFF_FFFF_FFFF_8001)
    buffer = DmaBuffer(32 * PAGE)
    start = -buffer.address % (16 * PAGE)
    with refused(errno.ENOSPC):
        ioas.map(buffer.view[start : start + 5 * PAGE])


def test_allowed_and_reserved_ranges_exclude_each_other(ioas: Ioas, setting: str) -> None:
    allowed = IovaRange(BASE, BASE + 600 * PAGE)
    ioas.allow([allowed])
    with refused(errno.EADDRINUSE):
        mock_domain.reserve(ioas, BASE + PAGE, PAGE)
    # The allowed ranges are only for IOVAs that the kernel chooses: a mapping at a given IOVA may be outside.
    ioas.allow([])
    mock_domain.reserve(ioas, BASE + PAGE, PAGE)
    with refused(errno.EADDRINUSE):
        ioas.allow([allowed])
    with refused(errno.EINVAL, "reserved" if setting == "no device" else None):
        ioas.map(DmaBuffer(PAGE), BASE + PAGE)


def test_ranges_that_are_none_are_not_allowed(ioas: Ioas) -> None:
    for ranges in ([IovaRange(0x1000, 0x2FFF), IovaRange(0x2000, 0x3FFF)], [IovaRange(0x1000, 0x1000)]):
        with refused(errno.EINVAL):
            ioas.allow(ranges)
    assert ioas.map(DmaBuffer(PAGE), 0x10_0000).mapped


def test_usable_ranges_are_the_mock_aperture(ioas: Ioas, setting: str) -> None:
    if setting == "no device":
        assert list(ioas.iova_ranges) == [IovaRange(0, 2**64 - 1)]
        assert ioas.alignment == 1
    else:
        assert list(ioas.iova_ranges) == [IovaRange(BASE, mock_domain.APERTURE_LAST)]
        assert ioas.alignment == mock_domain.PAGE_SIZE
    mock_domain.reserve(ioas, PAGE, PAGE)
    assert len(ioas.iova_ranges) == (2 if setting == "no device" else 1)


@pytest.mark.parametrize("count", [15, 16, 17, 40, 1000])
def test_more_ranges_than_the_first_answer_holds(ioas: Ioas, count: int) -> None:
    for index in range(count - 1):
        mock_domain.reserve(ioas, (2 * index + 1) << 30, PAGE)
    ranges = ioas.iova_ranges
    assert len(ranges) == count
    assert ranges.total == 2**64 - (count - 1) * PAGE


def test_a_refusal_gives_the_number_of_ranges(ioas: Ioas) -> None:
    mock_domain.reserve(ioas, PAGE, PAGE)
    room = ffi.new("struct iommu_iova_range[2]")
    native = ffi.new(
        "struct iommu_ioas_iova_ranges *",
        {
            "size": ffi.sizeof("struct iommu_ioas_iova_ranges"),
            "ioas_id": ioas.id,
            "num_iovas": 1,
            "allowed_iovas": int(ffi.cast("uintptr_t", room)),
        },
    )
    assert ioas._fd.ioctl(lib.IOMMU_IOAS_IOVA_RANGES, native) == -errno.EMSGSIZE
    assert native.num_iovas == 2
    assert (room[0].start, room[0].last, room[1].start, room[1].last) == (0, PAGE - 1, 0, 0)


def test_copy_maps_the_same_pages_here_and_elsewhere(iommufd: Iommufd, ioas: Ioas, setting: str) -> None:
    buffer = DmaBuffer(4 * PAGE)
    source = ioas.map(buffer, BASE)
    other = iommufd.ioas()
    seen = MockDevice(other)
    inside = ioas.copy(source, BASE + 8 * PAGE)
    elsewhere = other.copy(source, BASE)
    anywhere = other.copy(source)
    for copied in (elsewhere, anywhere):
        seen.check_map(copied.iova, buffer, 0, copied.size)
    assert inside.unmap() == source.unmap() == 4 * PAGE
    with refused(errno.ENOENT):
        other.copy(source, BASE + 16 * PAGE)
    seen.check_map(elsewhere.iova, buffer, 0, elsewhere.size)


def test_any_part_of_a_mapping_is_copied_and_nothing_beyond(iommufd: Iommufd, ioas: Ioas, setting: str) -> None:
    pages = 16 * PAGE
    mapping = ioas.map(DmaBuffer(pages), BASE)
    other = iommufd.ioas()
    size = mock_domain.PAGE_SIZE
    for start in range(BASE - PAGE, BASE + pages, 511):
        part = IovaRange.of(start, size)
        if mapping.range.__contains__(part):
            other.copy_range(ioas.id, part, BASE)
            assert other.unmap(BASE, size) == size
        else:
            with refused(errno.ENOENT):
                other.copy_range(ioas.id, part, BASE)
    other.destroy()


def test_an_object_of_another_iommufd_is_refused(iommufd: Iommufd, ioas: Ioas, kernel: Any) -> None:
    mapping = ioas.map(DmaBuffer(PAGE), 0x200_0000)
    with Iommufd(kernel=kernel) as stranger:
        other = stranger.ioas()
        with pytest.raises(pyvfio.InvalidRequest, match="not to"):
            other.copy(mapping)
        with pytest.raises(pyvfio.InvalidRequest, match="not to"):
            iommufd.set_vfio_ioas(other)


def test_sizes_are_multiples_of_the_smallest_page_of_all_devices(ioas: Ioas, setting: str) -> None:
    buffer = DmaBuffer(2 * PAGE)
    for size in (
        1,
        511,
        mock_domain.PAGE_SIZE - 1,
        mock_domain.PAGE_SIZE,
        mock_domain.PAGE_SIZE + 1,
        2 * PAGE - 1,
        PAGE,
    ):
        if setting == "no device" or size % mock_domain.PAGE_SIZE == 0:
            assert ioas.map(buffer.view[:size]).unmap() == size
        else:
            with refused(errno.EINVAL, "not a multiple of the page size"):
                ioas.map(buffer.view[:size])


def test_large_pages_are_an_option(ioas: Ioas, setting: str) -> None:
    assert ioas.huge_pages
    ioas.huge_pages = False
    assert not ioas.huge_pages
    with refused(errno.EINVAL):
        OPTION.call(
            ioas.iommufd.descriptor,
            option_id=lib.IOMMU_OPTION_HUGE_PAGES,
            op=lib.IOMMU_OPTION_OP_SET,
            object_id=ioas.id,
            val64=2,
        )
    ioas.huge_pages = True
    with refused(errno.ENOENT):
        OPTION.call(
            ioas.iommufd.descriptor,
            option_id=lib.IOMMU_OPTION_HUGE_PAGES,
            op=lib.IOMMU_OPTION_OP_GET,
            object_id=0,
            val64=0,
        )


def test_without_large_pages_all_is_aligned_to_whole_pages(ioas: Ioas) -> None:
    buffer = DmaBuffer(4 * PAGE)
    half = mock_domain.PAGE_SIZE
    ioas.map(buffer.view[:PAGE], BASE)
    ioas.huge_pages = False
    with refused(errno.EINVAL):
        ioas.map(buffer.view[half : half + PAGE], BASE + PAGE)
    ioas.huge_pages = True
    ioas.map(buffer.view[half : half + PAGE], BASE + PAGE)
    with refused(errno.EADDRINUSE):
        ioas.huge_pages = False
    assert ioas.unmap_all() == 2 * PAGE
    MockDevice(ioas)
    ioas.map(buffer, BASE)
    with refused(errno.EINVAL):
        ioas.huge_pages = False


@contextmanager
def in_a_child(what: Callable[[], None]) -> Iterator[None]:
    """Run a function in a forked process, which has the same files open, and then waits for the end of the block."""
    done, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go[1])
            what()
            os.write(done[1], b"!")
            os.read(go[0], 1)
        finally:
            os._exit(0)
    os.close(done[1])
    os.close(go[0])
    try:
        assert os.read(done[0], 1) == b"!"
        yield
    finally:
        os.close(done[0])
        os.close(go[1])
        os.waitpid(child, 0)


def mapped_by_a_child(ioas: Ioas, buffer: DmaBuffer) -> Callable[[], None]:
    """Return a function with which a child maps its own memory.

    It makes the request directly: pyvfio's objects work only in their process.
    """
    number = ioas.iommufd.fileno()
    native = ffi.new(
        "struct iommu_ioas_map *",
        {
            "size": ffi.sizeof("struct iommu_ioas_map"),
            "flags": lib.IOMMU_IOAS_MAP_FIXED_IOVA | lib.IOMMU_IOAS_MAP_READABLE | lib.IOMMU_IOAS_MAP_WRITEABLE,
            "ioas_id": ioas.id,
            "length": buffer.size,
            "iova": BASE,
        },
    )

    memory: DmaBuffer | None = None

    def map_() -> None:
        nonlocal memory
        memory = DmaBuffer(buffer.size)
        memory.view[:] = b"\xc5" * memory.size
        native.user_va = memory.address
        assert lib.pyvfio_linux_ioctl(ffi.NULL, number, lib.IOMMU_IOAS_MAP, native) == 0

    return map_


def test_what_another_process_mapped_is_reached_while_it_lives(ioas: Ioas, setting: str) -> None:
    access = Access(ioas)
    with in_a_child(mapped_by_a_child(ioas, DmaBuffer(4 * PAGE))):
        MockDevice(ioas)
        assert access.read(BASE, 4 * PAGE) == b"\xc5" * 4 * PAGE
    access.close()


def test_mappings_of_a_process_that_ended_cannot_be_pinned(ioas: Ioas, setting: str) -> None:
    access = Access(ioas)
    with in_a_child(mapped_by_a_child(ioas, DmaBuffer(4 * PAGE))):
        pass
    if setting == "no device":
        with refused(errno.EFAULT):
            MockDevice(ioas)
    else:
        # The memory was pinned when it was mapped.
        MockDevice(ioas)
        assert access.read(BASE, 4 * PAGE) == b"\xc5" * 4 * PAGE
    access.close()


@pytest.mark.parametrize("account", ["by default", "by user", "by process"])
def test_files_are_handed_to_another_process(iommufd: Iommufd, account: str) -> None:
    with without_capability("CAP_IPC_LOCK"):
        if account != "by default":
            iommufd.rlimit_mode = account == "by process"
        ioas = iommufd.ioas()
        MockDevice(ioas)
        anonymous = ioas.map(DmaBuffer(PAGE))
        with refused(errno.EINVAL):
            iommufd.change_process()
        anonymous.unmap()
        fd = os.memfd_create("handed")
        os.truncate(fd, PAGE)
        before = process.status("VmPin", "VmLck")
        ioas.map_file(fd, 0, PAGE)
        os.close(fd)
        iommufd.change_process()
        counted = PAGE * (2 if account == "by process" else 1)
        assert process.status("VmPin", "VmLck") - before == counted
        number = iommufd.fileno()
        native = ffi.new("struct iommu_ioas_change_process *", {"size": ffi.sizeof("struct iommu_ioas_change_process")})

        def take() -> None:
            assert process.status("VmPin", "VmLck") == 0
            assert lib.pyvfio_linux_ioctl(ffi.NULL, number, lib.IOMMU_IOAS_CHANGE_PROCESS, native) == 0
            assert process.status("VmPin", "VmLck") == counted

        with in_a_child(take):
            assert process.status("VmPin", "VmLck") == before


@pytest.fixture
def shared(iommufd: Iommufd) -> Iterator[int]:
    """A dma-buf of four pages."""
    fd = mock_domain.dma_buf(iommufd, 4 * PAGE)
    yield fd
    os.close(fd)


def test_a_dma_buf_is_mapped_within_its_bounds(ioas: Ioas, setting: str, shared: int) -> None:
    for start, size in ((0, 0), (4 * PAGE, 4 * PAGE), (0, 4 * PAGE + 1)):
        with refused(errno.EINVAL):
            ioas.map_file(shared, start, size)
    assert ioas.map_file(shared, 0, 4 * PAGE).unmap() == 4 * PAGE


def test_a_revoked_dma_buf_can_be_unmapped_and_mapped_again(ioas: Ioas, setting: str, shared: int) -> None:
    mapping = ioas.map_file(shared, 0, 4 * PAGE)
    mock_domain.revoke(ioas.iommufd, shared, True)
    if setting != "no device":
        MockDevice(ioas)
    with refused(errno.ENODEV):
        ioas.map_file(shared, 0, 4 * PAGE)
    mock_domain.revoke(ioas.iommufd, shared, False)
    assert ioas.map_file(shared, 0, 4 * PAGE).mapped
    assert mapping.unmap() == 4 * PAGE
    assert ioas.map_file(shared, 0, 4 * PAGE, mapping.iova).mapped


def test_locked_memory_is_limited_by_user_or_by_process(kernel: Any) -> None:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for by_process in (True, False):
        with Iommufd(kernel=kernel) as iommufd, without_capability("CAP_IPC_LOCK"):
            iommufd.rlimit_mode = by_process
            ioas = iommufd.ioas()
            MockDevice(ioas)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (4 * PAGE, limit[1]))
            try:
                ioas.map(DmaBuffer(2 * PAGE))
                with refused(errno.ENOMEM, "RLIMIT_MEMLOCK"):
                    ioas.map(DmaBuffer(4 * PAGE))
                assert ioas.map(DmaBuffer(2 * PAGE)).mapped
            finally:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, limit)


def test_options_of_the_file(kernel: Any) -> None:
    with Iommufd(kernel=kernel) as iommufd:
        assert not iommufd.rlimit_mode
        iommufd.rlimit_mode = True
        with refused(errno.EINVAL):
            OPTION.call(
                iommufd.descriptor,
                option_id=lib.IOMMU_OPTION_RLIMIT_MODE,
                op=lib.IOMMU_OPTION_OP_SET,
                object_id=0,
                val64=2,
            )
        assert iommufd.rlimit_mode
        with without_capability("CAP_SYS_RESOURCE"), refused(errno.EPERM):
            iommufd.rlimit_mode = False
        ioas = iommufd.ioas()
        with refused(errno.EBUSY):
            iommufd.rlimit_mode = False
        ioas.destroy()
        iommufd.rlimit_mode = False


def test_the_compatibility_address_space_is_set_and_cleared(iommufd: Iommufd) -> None:
    with refused(errno.ENODEV):
        _ = iommufd.vfio_ioas_id
    ioas = iommufd.ioas()
    iommufd.set_vfio_ioas(ioas)
    assert iommufd.vfio_ioas_id == ioas.id
    iommufd.clear_vfio_ioas()
    with refused(errno.ENODEV):
        _ = iommufd.vfio_ioas_id
    # After it is cleared as the compatibility address space, it works like any other.
    assert ioas.map(DmaBuffer(PAGE), BASE).unmap() == PAGE
