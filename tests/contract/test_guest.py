# SPDX-License-Identifier: MIT
"""The computations of pyvfio.guest compared with the real kernel: plans that a device accepts or refuses, layouts that an IOMMU maps."""

from __future__ import annotations

import errno
import mmap
import random
from typing import TYPE_CHECKING, Any

import pytest

from pyvfio import DirtyLog, DmaBuffer, IovaRange
from pyvfio.guest import mapping, planning, x86
from pyvfio.guest.sections import MemorySection

if TYPE_CHECKING:
    from vmtest.matrix import Cell

    from pyvfio import Device
    from pyvfio.spaces.base import AddressSpace
    from tests.contract.drivers import Logger

PAGE = 4096
GIB = 1 << 30
MAP_NORESERVE = 0x4000
#: A guest with 6 GiB whose firmware placed the device's BAR high, from QEMU's own discussion of the problem.
SECTIONS = [
    MemorySection(0, 0x80800000),
    MemorySection(0x1_0000_0000, 6 * GIB),
    MemorySection.bar(0x3838_0000_0000, 0x100000, "0000:41:10.1"),
]


@pytest.mark.only(device="vfio-mock")
def test_two_ranges_are_refused_and_three_find_all_pages(device: Device, space: AddressSpace, logger: Logger) -> None:
    with pytest.raises(OSError, match="2\\^46") as caught:
        DirtyLog.planned([device], planning.plan(SECTIONS, planning.split_32_64))
    assert caught.value.errno == errno.EOPNOTSUPP
    plan = planning.plan(SECTIONS, planning.split_32_64_pci)
    choose = random.Random(46)
    places = [0x10_0000, 0x8000_0000, 0x1_0000_0000, 0x2_7FE0_0000, 0x3838_0000_0000]
    mappings = [space.map(DmaBuffer(1 << 20), place) for place in places]
    pages = [mapping.iova + page * PAGE for mapping in mappings for page in choose.sample(range(256), 50)]
    choose.shuffle(pages)
    with DirtyLog.planned([device], plan) as log:
        assert log.ranges == plan.ranges
        logger.touch_each(pages)
        assert list(log.read().pages()) == sorted(pages)
        assert not log.read()


def test_a_plan_with_too_many_ranges_is_tried_with_fewer(device: Device, logger: Logger) -> None:
    logger["LOG_MAX_RANGES"] = 2
    logger["LOG_OVERFLOW"] = 1
    sections = [MemorySection(at << 20, 1 << 20) for at in (1, 3, 10, 40)]
    with DirtyLog.planned([device], planning.plan(sections, planning.exact)) as log:
        assert log.ranges == (IovaRange.of(1 << 20, 10 << 20), IovaRange.of(40 << 20, 1 << 20))


@pytest.mark.require("iommu")
@pytest.mark.only(iommu="amd", device="edu", mode="type1v2")
def test_a_guest_of_1_tib_maps_around_the_hypertransport_hole(space: AddressSpace, kernel: Any) -> None:
    machine = x86.Machine(1024 * GIB, amd_cpu=True, amd_host=True, phys_bits=42)
    usable = space.iova_ranges
    assert usable is not None
    before = x86.as_before(machine)
    assert before.conflicts(usable.complement())
    high = max(before.regions(), key=lambda ram: ram.range.start)
    # The memory is never touched: the kernel refuses the IOVA before it looks at the memory.
    memory = mmap.mmap(-1, high.range.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    with pytest.raises(OSError, match="AMD HyperTransport hole") as caught:
        space.map(memory, high.range.start)
    assert caught.value.errno == errno.EINVAL

    layout = x86.merged(machine)
    assert layout.error is None
    assert layout.conflicts(usable.complement()) == []
    # Map only a small piece at both ends of each region: the whole would be 268 million pages to pin, which takes
    # minutes under emulation.
    piece = DmaBuffer(64 << 20, huge=2 << 20, kernel=kernel)
    for ram in layout.regions():
        assert ram.range.size > 2 * piece.size
        for iova in (ram.range.start, ram.range.last + 1 - piece.size):
            assert space.map(piece, iova).mapped
    assert sum(ram.range.size for ram in layout.regions()) == 1024 * GIB
    assert space.unmap_all() == 2 * len(layout.regions()) * piece.size


@pytest.mark.only(device=["edu", "vfio-mock"])
def test_the_kernels_answer_to_a_map_is_foretold(space: AddressSpace, mode: str, cell: Cell) -> None:
    old = ("type1", "type1v2") if cell.kernel in ("6.1", "6.12") else ()
    era = mapping.Era.SINCE_5_4 if old else mapping.Era.CHECKED_SUMS
    buffer = DmaBuffer(4 * PAGE)
    space.map(DmaBuffer(2 * PAGE), 0x10_0000)
    known = mapping.Space(space.iova_ranges, space.mapped_ranges, space.page_sizes)
    edges = {0, 0x10_0000, 0x10_2000, 2**64 - PAGE, *(each.start for each in space.iova_ranges or ())}
    edges |= {each.last + 1 for each in space.iova_ranges or ()}
    places = {edge + by for edge in edges for by in (-2 * PAGE, -PAGE, -1, 0, 0x800) if 0 <= edge + by < 2**64}
    foretold: dict[int | None, int] = {}
    # In iommufd's compatibility modes, a mapping without permissions makes the kernel warn (iommu_pt.h on 7.3.4), so
    # leave it out.
    permissions = (0, 1, 3) if mode in ("type1", "type1v2", "iommufd") else (1, 3)
    for iova in sorted(places):
        for size in (0, 0x800, PAGE, 2 * PAGE, 3 * PAGE):
            for offset, prot in ((0x800, 3), *((0, prot) for prot in permissions)):
                memory: dict[str, Any] = {
                    "address": buffer.address + offset,
                    "read": bool(prot & 1),
                    "write": bool(prot & 2),
                }
                if mode.startswith("iommufd"):
                    refused = mapping.iommufd_refusal(known, iova, size, **memory, compat=mode != "iommufd")
                else:
                    refused = mapping.type1_refusal(known, iova, size, **memory, era=era)
                if iova + size == 2**64 and mode in old:
                    continue  # such a mapping could not be unmapped
                answer = -space._ledger.raw_map(memory["address"], iova, size, prot)
                if not answer:
                    assert space.unmap(iova, size) == size
                expected = refused.errno if refused else 0
                assert answer == expected, f"iova={iova:#x}, size={size:#x}, {memory}: {answer}, not {refused}"
                foretold[answer] = foretold.get(answer, 0) + 1
    overflow = set() if mode in old else {errno.EOVERFLOW}
    assert set(foretold) == {0, errno.EINVAL, errno.EEXIST} | overflow
