"""What an error says beyond its errno: the limit on locked memory, the address width, the hole, the mapping that would be cut."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator

import pytest

from pyvfio import Container, DmaBuffer, IovaRange
from pyvfio._abi import ffi, lib
from tests.unit.fake import FakeKernel

PAGE = 4096
#: what VFIO_IOMMU_GET_INFO says in the machine of scripts/vm
INTEL = [(0, 0xFEDF_FFFF), (0xFEF0_0000, 0x7F_FFFF_FFFF)]
AMD = [(0, 0xFEDF_FFFF), (0xFEF0_0000, 0xFC_FFFF_FFFF), (0x100_0000_0000, 0xFFFF_FFFF_FFFF)]


class FakeIommu(FakeKernel):
    """With usable ranges, which it enforces, and a process of which it says what it has locked.

    :ivar usable: (start, last) of each range
    :ivar status: /proc/self/status
    """

    def __init__(self) -> None:
        super().__init__()
        self.usable = INTEL
        self.status = "Name:\tx\nVmLck:\t      60 kB\nVmPin:\t      32 kB\nCapEff:\t0000000000000000\n"

    def read_file(self, path: str) -> bytes:
        return self.status.encode() if path == "/proc/self/status" else super().read_file(path)

    def _VFIO_IOMMU_GET_INFO(self, fd: int, argument: int) -> int:
        super()._VFIO_IOMMU_GET_INFO(fd, argument)
        info = ffi.cast("struct vfio_iommu_type1_info *", argument)
        kind = "struct vfio_iommu_type1_info_cap_iova_range"
        at, given = ffi.sizeof("struct vfio_iommu_type1_info"), info.argsz
        info.argsz = at + ffi.sizeof(kind) + len(self.usable) * ffi.sizeof("struct vfio_iova_range")
        info.flags |= lib.VFIO_IOMMU_INFO_CAPS
        if given >= info.argsz:
            info.cap_offset = at
            cap = ffi.cast(f"{kind} *", argument + at)
            cap.header.id, cap.header.version = lib.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1
            cap.nr_iovas = len(self.usable)
            for index, (start, last) in enumerate(self.usable):
                cap.iova_ranges[index].start, cap.iova_ranges[index].end = start, last
        return 0

    def _VFIO_IOMMU_MAP_DMA(self, fd: int, argument: int) -> int:
        map_ = ffi.cast("struct vfio_iommu_type1_dma_map *", argument)
        if not any(start <= map_.iova and map_.iova + map_.size - 1 <= last for start, last in self.usable):
            return -errno.EINVAL
        return super()._VFIO_IOMMU_MAP_DMA(fd, argument)

    def _VFIO_IOMMU_UNMAP_DMA(self, fd: int, argument: int) -> int:
        unmap = ffi.cast("struct vfio_iommu_type1_dma_unmap *", argument)
        start, last = unmap.iova, unmap.iova + unmap.size - 1
        for iova, size in self.mapped.items():
            if iova <= last and start < iova + size and (start > iova or last < iova + size - 1):
                return -errno.EINVAL
        return super()._VFIO_IOMMU_UNMAP_DMA(fd, argument)


@pytest.fixture
def kernel() -> FakeIommu:
    return FakeIommu()


@pytest.fixture
def space(kernel: FakeIommu) -> Iterator[Container]:
    with Container(kernel=kernel) as space, space.attach("fake.0"):
        yield space


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


# --- the limit on locked memory -------------------------------------------------------------------------------------------


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64 << 10, resource.RLIM_INFINITY))


def out_of_memory(kernel: FakeKernel, space: Container) -> OSError:
    kernel.answers["container", "VFIO_IOMMU_MAP_DMA"] = lambda fd, argument: -errno.ENOMEM
    with pytest.raises(OSError, match="VFIO_IOMMU_MAP_DMA") as caught:
        space.map(DmaBuffer(2 * PAGE), 0x10_0000)
    assert caught.value.errno == errno.ENOMEM
    return caught.value


def test_the_limit_on_locked_memory_is_told_with_what_is_used(kernel: FakeIommu, space: Container, limit: None) -> None:
    error = out_of_memory(kernel, space)
    assert (
        "8 KiB more would exceed the limit on locked memory, 64 KiB (RLIMIT_MEMLOCK), of which 60 KiB are used"
        in str(error)
    )
    assert "ulimit -l" in notes(error)
    assert "locked 60 KiB, pinned 32 KiB by this process" in notes(error)


def test_a_process_that_the_limit_does_not_bind_is_not_told_to_raise_it(
    kernel: FakeIommu, space: Container, limit: None
) -> None:
    kernel.status = kernel.status.replace("CapEff:\t0000000000000000", f"CapEff:\t{1 << 14:016x}")
    error = out_of_memory(kernel, space)
    assert "limit" not in str(error)
    assert "the limit on locked memory does not apply" in notes(error)
    assert "ulimit" not in notes(error)


def test_without_a_limit_there_is_none_to_raise(
    kernel: FakeIommu, space: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    error = out_of_memory(kernel, space)
    assert "RLIMIT_MEMLOCK" not in str(error)
    assert "does not apply" in notes(error)


def test_a_status_that_cannot_be_read_changes_nothing(kernel: FakeIommu, space: Container, limit: None) -> None:
    kernel.status = "VmLck:\tnonsense\n"
    assert str(out_of_memory(kernel, space)).endswith("Cannot allocate memory")


# --- usable ranges --------------------------------------------------------------------------------------------------------


def refused(space: Container, iova: int, size: int) -> OSError:
    with pytest.raises(OSError, match="is not usable for DMA here") as caught:
        space.map(DmaBuffer(size), iova)
    assert caught.value.errno == errno.EINVAL
    return caught.value


def test_beyond_the_last_usable_address_the_width_is_told(space: Container) -> None:
    error = refused(space, 0xFFFF_FFFF_FEBE_0000, PAGE)
    assert "[0x8000000000, 0xffffffffffffffff], beyond the IOMMU's address width of 39 bits" in str(error)
    assert "the nearest ranges of that size that work: [0x7ffffff000, 0x7fffffffff]" in notes(error)
    assert space.map(DmaBuffer(PAGE), 0x7F_FFFF_F000).mapped


def test_a_range_that_straddles_the_width_is_moved_below_it(space: Container) -> None:
    error = refused(space, 0x7F_FFFF_F000, 2 * PAGE)
    assert "address width of 39 bits" in str(error)
    assert "[0x7fffffe000, 0x7fffffffff]" in notes(error)


def test_the_amd_hole_is_named_with_a_place_on_either_side(kernel: FakeIommu, space: Container) -> None:
    kernel.usable = AMD
    error = refused(space, 0xFC_FFE0_0000, 4 << 20)
    assert "the reserved region [0xfd00000000, 0xffffffffff], the AMD HyperTransport hole" in str(error)
    assert "[0xfcffc00000, 0xfcffffffff], [0x10000000000, 0x100003fffff]" in notes(error)


def test_the_interrupt_window_is_named(space: Container) -> None:
    error = refused(space, 0xFEE0_0000, PAGE)
    assert "[0xfee00000, 0xfeefffff], the x86 interrupt window (MSI)" in str(error)


def test_what_nothing_can_hold_is_said_so(kernel: FakeIommu, space: Container) -> None:
    kernel.usable = [(0, 0xFFFF), (0x20000, 0x2FFFF)]
    error = refused(space, 0x8000, 32 * PAGE)
    assert "no usable range holds 128 KiB" in notes(error)
    assert "usable: [0x0, 0xffff], [0x20000, 0x2ffff]" in notes(error)


# --- an unmap that would cut a mapping --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("iova", "pages"),
    [(0x10_0000, 1), (0x10_3000, 1), (0x10_1000, 2), (0x0F_F000, 2), (0x10_2000, 8)],
    ids=["its first page", "its last", "its middle", "from before it", "to behind it"],
)
def test_an_unmap_that_would_cut_a_mapping_names_it(space: Container, iova: int, pages: int) -> None:
    mapping = space.map(DmaBuffer(4 * PAGE), 0x10_0000)
    with pytest.raises(
        OSError, match=r"it would split what is mapped at \[0x100000, 0x103fff\]; mode type1v2"
    ) as caught:
        space.unmap(iova, pages * PAGE)
    assert caught.value.errno == errno.EINVAL
    assert "unmap whole mappings" in notes(caught.value)
    assert mapping.mapped
    assert mapping.unmap() == 4 * PAGE


def test_every_mapping_that_would_be_cut_is_named_and_no_other(space: Container) -> None:
    for iova in (0x10_0000, 0x10_4000, 0x10_8000, 0x10_C000):
        space.map(DmaBuffer(4 * PAGE), iova)
    with pytest.raises(OSError, match="it would split") as caught:
        space.unmap(0x10_2000, 8 * PAGE)
    assert "[0x100000, 0x103fff], [0x108000, 0x10bfff]" in str(caught.value)
    assert "0x104000, 0x107fff" not in str(caught.value)
    assert len(space.mappings) == 4


def test_a_range_of_whole_mappings_is_no_cut(space: Container) -> None:
    for iova in (0x10_0000, 0x10_4000):
        space.map(DmaBuffer(4 * PAGE), iova)
    assert space.unmap(0x10_0000, 8 * PAGE) == 8 * PAGE
    assert space.mapped_ranges.total == 0
    assert IovaRange.of(0x10_0000, PAGE) not in space.mapped_ranges
