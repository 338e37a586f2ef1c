# SPDX-License-Identifier: MIT
"""DMA mappings that QEMU skips or the kernel refuses: BARs while their size is probed, and BARs beyond the IOMMU's address width."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable

import pytest

import pyvfio
from pyvfio import IovaRange, IovaSet, host
from pyvfio.guest import bars, mapping, qemu, sections
from pyvfio.guest.sections import MemorySection, Reason
from tests.qemu.client import Client
from tests.qemu.conftest import FIRST, assigned, containers

Start = Callable[..., Client]
NVME = "0000:00:04.0"
"""Its BAR is that of the trace of 2014 in which the spurious mappings were found: 64 bits wide, 16 KiB."""
LOW, SIZE = 0xFEBE0000, 0x4000
SPURIOUS = 0xFFFFFFFFFEBE0000
BEYOND = 1 << 40
"""Where the test puts a BAR that the machine's IOMMU, of 39 bits, does not reach."""
FLASH = ("-blockdev", "driver=null-co,node-name=flash,size=262144,read-zeroes=on")
REGION = re.compile(r"(region_add|region_del) (?:\[ram\] )?0x(\w+) - 0x(\w+)")


def lines_of(log: str, window: IovaRange) -> list[tuple[str, IovaRange]]:
    """Return the memory listener's events for sections that begin in a window of addresses."""
    found = [(event, IovaRange(int(start, 16), int(last, 16))) for event, start, last in REGION.findall(log)]
    return [(event, range_) for event, range_ in found if range_.start in window]


def hull(events: Iterable[tuple[str, IovaRange]], event: str) -> IovaRange | None:
    """Return the range from the first to the last section with an event; None if there is no such event."""
    ranges = [range_ for name, range_ in events if name == event]
    return IovaRange(min(range_.start for range_ in ranges), max(range_.last for range_ in ranges)) if ranges else None


@pytest.mark.parametrize("in_flash", [True, False], ids=["flash", "ROM"])
def test_sizing_a_bar_moves_it_as_foretold(start: Start, in_flash: bool) -> None:
    machine = {"machine": "q35,pflash0=flash"} if in_flash else {}
    # Flash takes priority over BARs at the same address; a ROM does not.
    foretold = bars.Bar(LOW | bars.MEM_TYPE_64, 0, SIZE, covered=bars.PC_FIRMWARE if in_flash else IovaSet())
    with (
        host.bind(NVME, "vfio-pci"),
        start(*(FLASH if in_flash else ()), *assigned(NVME), **machine) as client,
    ):
        client.place(4, LOW)
        mark = len(client.log)
        for register, value in ((0, 0xFFFFFFFF), (0, LOW), (4, 0xFFFFFFFF), (4, 0)):
            before, events = foretold.range, foretold.write(register, value)
            client.write_config(4, 0x10 + register, value)
            traced, mark = client.log[mark:], len(client.log)
            assert before is not None
            assert foretold.range is not None
            gone, come = lines_of(traced, before), lines_of(traced, foretold.range)
            theirs = [(False, hull(gone, "region_del")), (True, hull(come, "region_add"))]
            assert [tuple(event) for event in events] == [each for each in theirs if each[1]]
        assert client.monitor.execute("query-status")["status"] in ("running", "prelaunch")


def test_a_bar_that_is_being_sized_is_skipped(start: Start) -> None:
    with host.bind(NVME, "vfio-pci"), start(*assigned(NVME)) as client:
        client.place(4, LOW)
        mark = len(client.log)
        client.write_config(4, 0x14, 0xFFFFFFFF)
        lines = [line for line in client.log[mark:].splitlines() if "SKIPPING region_add" in line]
        # The MSI-X table splits the BAR into several sections.
        found = [range_ for _, range_ in lines_of("\n".join(lines), IovaRange.of(SPURIOUS, SIZE))]
        assert IovaSet(found) == IovaSet([IovaRange.of(SPURIOUS, SIZE)])
        bar = [MemorySection.bar(range_.start, range_.size, NVME) for range_ in found]
        assert all(sections.is_spurious(section.iova) for section in bar)
        assert {dropped.reason for dropped in sections.mappable(bar, None).dropped} == {Reason.SPURIOUS}
        foretold = [qemu.dropped_line(section, Reason.SPURIOUS, 4096, "region_add") for section in bar]
        assert [line for each in foretold for line in each] == lines
        assert "dma_map" not in client.said


@pytest.mark.parametrize("iommufd", [False, True], ids=["type1", "iommufd"])
def test_a_bar_beyond_the_iommu_is_a_warning(start: Start, parameters: Callable[..., None], iommufd: bool) -> None:
    parameters(bar64=1)
    with pyvfio.address_space("iommufd" if iommufd else "type1v2") as space, space.attach(FIRST):
        usable = space.iova_ranges
    bar = MemorySection.bar(BEYOND + 0x1000, 0xFF000, FIRST, offset=0x1000)
    assert not sections.is_spurious(bar.iova)
    assert [dropped.reason for dropped in sections.mappable([bar], usable).dropped] == [Reason.UNREACHABLE]
    before = mapping.Space(usable)
    if iommufd:
        refusal = mapping.iommufd_refusal(before, bar.iova, bar.size, bar=True)
    else:
        refusal = mapping.type1_refusal(before, bar.iova, bar.size)
    assert refusal == mapping.Refusal(errno.EINVAL, mapping.Because.UNUSABLE)
    failure = qemu.map_failure(ram_device=True, device=FIRST)
    assert failure.hint
    options, of_device = containers(iommufd)
    with start(*options, *assigned(FIRST, **of_device)) as client:
        client.place(4, BEYOND)
        assert f"region_add [ram] {bar.iova:#x} - {bar.iova + bar.size - 1:#x}" in client.log
        client.close()
        assert re.search(failed_map(bar, refusal.errno), client.said)
        assert failure.hint in client.said
        assert not failure.fatal


def failed_map(section: MemorySection, number: int) -> str:
    """Return a pattern for QEMU's warning about a section that it could not map."""
    return rf"warning: vfio_container_dma_map\(0x\w+, {section.iova:#x}, {section.size:#x}, 0x\w+\) = {-number} \({os.strerror(number)}\)"


def test_a_bar_under_iommufd_needs_a_dma_buf(start: Start) -> None:
    with pyvfio.address_space("iommufd") as space, space.attach(FIRST):
        usable = space.iova_ranges
    refusal = mapping.iommufd_refusal(mapping.Space(usable), LOW, 0x2000, bar=True)
    assert refusal == mapping.Refusal(errno.EFAULT, mapping.Because.BAR)
    options, of_device = containers(iommufd=True)
    with host.bind(NVME, "vfio-pci"), start(*options, *assigned(NVME, **of_device)) as client:
        client.place(4, LOW)
        version = client.version
        client.close()
        warned = re.search(failed_map(MemorySection.bar(LOW, 0x2000, NVME), refusal.errno), client.said)
        assert bool(warned) == (version < "11")
        assert ("vfio_region_dmabuf" in client.log) == (version >= "11")
