# SPDX-License-Identifier: MIT
"""Reasons of refused maps and unmaps: locked memory, address width, reserved regions, mappings that would be cut."""

from __future__ import annotations

import errno
import resource

import pytest

from pyvfio import Container, DmaBuffer, IovaRange, RequestError
from pyvfio.mock import Reserved
from pyvfio.mock.fs.tree import Text
from tests.overriding import Overriding

PAGE = 4096
# A device behind an IOMMU, unlike vfio-mock, so that there are usable IOVA ranges.
pytestmark = [pytest.mark.vfio(mode="type1v2", device="0000:00:03.0"), pytest.mark.usefixtures("device")]


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


# --- the limit on locked memory -------------------------------------------------------------------------------------------


def out_of_memory(space: Container) -> OSError:
    with pytest.raises(OSError, match="VFIO_IOMMU_MAP_DMA") as caught:
        space.map(DmaBuffer(2 * PAGE), 0x10_0000)
    assert caught.value.errno == errno.ENOMEM
    return caught.value


@pytest.mark.vfio(memlock=64 << 10)
def test_limit_on_locked_memory_is_told_with_what_is_used(kernel: Overriding, space: Container) -> None:
    kernel.locked.pages, kernel.locked_by_user.pages = 15, 8
    error = out_of_memory(space)
    assert (
        "8 KiB more would exceed the limit on locked memory, 64 KiB (RLIMIT_MEMLOCK), of which 60 KiB are used"
        in str(error)
    )
    assert "ulimit -l" in notes(error)
    assert "locked 60 KiB, pinned 32 KiB by this process" in notes(error)


def test_process_without_a_limit_by_capability_is_not_told_of_it(
    kernel: Overriding, space: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "getrlimit", lambda which: (64 << 10, resource.RLIM_INFINITY))
    kernel.answers["VFIO_IOMMU_MAP_DMA"] = -errno.ENOMEM
    error = out_of_memory(space)
    assert "limit" not in str(error)
    assert "the limit on locked memory does not apply" in notes(error)
    assert "ulimit" not in notes(error)


@pytest.mark.vfio(memlock=64 << 10)
def test_infinite_limit_on_locked_memory_does_not_apply(
    kernel: Overriding, space: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    kernel.answers["VFIO_IOMMU_MAP_DMA"] = -errno.ENOMEM
    error = out_of_memory(space)
    assert "RLIMIT_MEMLOCK" not in str(error)
    assert "does not apply" in notes(error)


@pytest.mark.vfio(memlock=PAGE)
def test_unreadable_process_status_leaves_the_errno_alone(kernel: Overriding, space: Container) -> None:
    kernel.tree.add("/proc/self/status", Text(b"VmLck:\tnonsense\n"))
    assert str(out_of_memory(space)).endswith("Cannot allocate memory")


# --- usable ranges --------------------------------------------------------------------------------------------------------


def refused(space: Container, iova: int, size: int) -> OSError:
    with pytest.raises(OSError, match="is not usable for DMA here") as caught:
        space.map(DmaBuffer(size), iova)
    assert caught.value.errno == errno.EINVAL
    return caught.value


def test_map_past_the_last_address_names_the_width(space: Container) -> None:
    error = refused(space, 0xFFFF_FFFF_FEBE_0000, PAGE)
    assert "[0x8000000000, 0xffffffffffffffff], beyond the IOMMU's address width of 39 bits" in str(error)
    assert "the nearest ranges of that size that work: [0x7ffffff000, 0x7fffffffff]" in notes(error)
    assert space.map(DmaBuffer(PAGE), 0x7F_FFFF_F000).mapped


def test_map_across_the_width_is_advised_a_range_below_it(space: Container) -> None:
    error = refused(space, 0x7F_FFFF_F000, 2 * PAGE)
    assert "address width of 39 bits" in str(error)
    assert "[0x7fffffe000, 0x7fffffffff]" in notes(error)


@pytest.mark.vfio(profile="amd")
def test_amd_hole_is_named_with_ranges_on_either_side(space: Container) -> None:
    error = refused(space, 0xFC_FFE0_0000, 4 << 20)
    assert "the reserved region [0xfd00000000, 0xffffffffff], the AMD HyperTransport hole" in str(error)
    assert "[0xfcffc00000, 0xfcffffffff], [0x10000000000, 0x100003fffff]" in notes(error)


def test_map_of_the_interrupt_window_names_it(space: Container) -> None:
    error = refused(space, 0xFEE0_0000, PAGE)
    assert "[0xfee00000, 0xfeefffff], the x86 interrupt window (MSI)" in str(error)


@pytest.mark.vfio(width=18, reserved=(Reserved(0x10000, 0x1FFFF, "msi"), Reserved(0x30000, 0x3FFFF, "msi")))
def test_size_that_no_range_holds_is_told_with_the_ranges(space: Container) -> None:
    error = refused(space, 0x8000, 32 * PAGE)
    assert "no usable range holds 128 KiB" in notes(error)
    assert "usable: [0x0, 0xffff], [0x20000, 0x2ffff]" in notes(error)


# --- an unmap that would cut a mapping --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("iova", "pages"),
    [(0x10_0000, 1), (0x10_3000, 1), (0x10_1000, 2), (0x0F_F000, 2), (0x10_2000, 8)],
    ids=["its first page", "its last", "its middle", "from before it", "to behind it"],
)
def test_unmap_of_part_of_a_mapping_names_it(space: Container, iova: int, pages: int) -> None:
    mapping = space.map(DmaBuffer(4 * PAGE), 0x10_0000)
    with pytest.raises(
        OSError, match=r"it would split what is mapped at \[0x100000, 0x103fff\]; mode type1v2"
    ) as caught:
        space.unmap(iova, pages * PAGE)
    assert caught.value.errno == errno.EINVAL
    assert "unmap whole mappings" in notes(caught.value)
    assert mapping.mapped
    assert mapping.unmap() == 4 * PAGE


def test_unmap_names_only_the_mappings_that_it_would_cut(space: Container) -> None:
    for iova in (0x10_0000, 0x10_4000, 0x10_8000, 0x10_C000):
        space.map(DmaBuffer(4 * PAGE), iova)
    with pytest.raises(OSError, match="it would split") as caught:
        space.unmap(0x10_2000, 8 * PAGE)
    assert "[0x100000, 0x103fff], [0x108000, 0x10bfff]" in str(caught.value)
    assert "0x104000, 0x107fff" not in str(caught.value)
    assert len(space.mappings) == 4


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EINVAL, "this kernel cannot unmap everything at once; Linux 5.12 and later can"), (errno.EIO, None)],
)
def test_refused_unmap_of_everything_says_no_size(
    kernel: Overriding, space: Container, number: int, reason: str | None
) -> None:
    space.alloc(PAGE)
    kernel.answers["VFIO_IOMMU_UNMAP_DMA ALL"] = -number
    with pytest.raises(RequestError, match="VFIO_IOMMU_UNMAP_DMA ALL") as caught:
        space.unmap_all()
    assert caught.value.reason == reason
    assert caught.value.arguments == {}
    del kernel.answers["VFIO_IOMMU_UNMAP_DMA ALL"]
    assert space.unmap_all() == PAGE


def test_unmap_of_several_whole_mappings_succeeds(space: Container) -> None:
    for iova in (0x10_0000, 0x10_4000):
        space.map(DmaBuffer(4 * PAGE), iova)
    assert space.unmap(0x10_0000, 8 * PAGE) == 8 * PAGE
    assert space.mapped_ranges.total == 0
    assert IovaRange.of(0x10_0000, PAGE) not in space.mapped_ranges
