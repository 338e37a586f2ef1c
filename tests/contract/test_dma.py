# SPDX-License-Identifier: MIT
"""A device's DMA reaches the mapped memory, with its permissions, and nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio
from pyvfio import DmaBuffer
from pyvfio.spaces.opening import Mode
from tests.contract.kernel_log import logs_a_fault
from tests.contract.processes import holding

if TYPE_CHECKING:
    from pyvfio import Device
    from pyvfio.spaces.base import AddressSpace
    from tests.contract.drivers import Dma

PAGE = 4096


def mapped(space: AddressSpace, iova: int, pages: int = 2) -> Any:
    mapping = space.map(DmaBuffer(pages * PAGE), iova)
    mapping.buffer.view[:PAGE] = os.urandom(PAGE)
    return mapping


def test_memory_is_copied_by_the_device(space: AddressSpace, dma: Dma) -> None:
    mapping = space.map(DmaBuffer(4 * PAGE), 0x10_0000)
    view = mapping.buffer.view
    view[:0x1800] = bytes(range(256)) * 24
    dma.copy(mapping.iova + 0x2000, mapping.iova, 0x1800)
    assert view[0x2000:0x3800] == view[:0x1800]
    assert not any(view[0x1800:0x2000])
    assert not any(view[0x3800:])


def test_nothing_is_written_after_the_unmap(space: AddressSpace, dma: Dma, cell: Any, kernel: Any) -> None:
    source, target = mapped(space, 0x10_0000), mapped(space, 0x11_0000)
    view = target.buffer.view
    before = bytes(view)
    target.unmap()

    def write_there() -> None:
        # Not every device reports the failure: QEMU's nvme reports success.
        with contextlib.suppress(OSError):
            dma.copy(target.iova, source.iova, 512)

    write_there()
    assert bytes(view) == before
    if cell.kernel in ("mock", "vfio-user") and cell.device == "edu":
        assert kernel.faults
    elif (cell.iommu, cell.mode, cell.device) == ("intel", "type1v2", "edu"):
        assert logs_a_fault(write_there)
        assert bytes(view) == before


@pytest.mark.require("iommu")
def test_what_may_only_be_read_is_not_written(space: AddressSpace, dma: Dma) -> None:
    source = mapped(space, 0x10_0000)
    target = space.map(DmaBuffer(PAGE), 0x11_0000, write=False)
    with contextlib.suppress(OSError):
        dma.copy(target.iova, source.iova, 512)
    assert bytes(target.buffer.view) == bytes(PAGE)


@pytest.mark.require("iommu")
def test_what_may_only_be_written_is_not_read(space: AddressSpace, dma: Dma, cell: Any) -> None:
    source = space.map(DmaBuffer(PAGE), 0x10_0000, read=False)
    target = space.map(DmaBuffer(PAGE), 0x11_0000)
    source.buffer.view[:] = secret = os.urandom(PAGE)
    with contextlib.suppress(OSError):
        dma.copy(target.iova, source.iova, 512)
    # A first-stage entry, like an entry of the processor's page tables, has no read bit: present pages can be read.
    # Older drivers set the present bit (bit 0) in second-stage entries too, where it is the read bit
    # (__domain_mapping() in drivers/iommu/intel/iommu.c).
    older = cell.iommu == "intel" and cell.kernel in ("6.1", "6.12")
    assert (target.buffer.view[:512] == secret[:512]) == (cell.iommu == "intel-fs" or older)


@pytest.mark.only(device=["nvme", "igb"])
def test_the_highest_usable_page_is_reached(space: AddressSpace, dma: Dma) -> None:
    usable = space.iova_ranges
    assert usable is not None
    source = mapped(space, 0x10_0000)
    target = space.map(DmaBuffer(PAGE), usable[len(usable) - 1].last + 1 - PAGE)
    dma.copy(target.iova, source.iova, PAGE)
    assert target.buffer.view == source.buffer.view[:PAGE]


@pytest.mark.only(iommu="intel", mode=["type1v2", "iommufd"], device="edu", kernel="newest")
def test_the_page_table_has_the_permissions_of_its_stage(space: AddressSpace, device: Device, cell: Any) -> None:
    table = Path(f"/sys/kernel/debug/iommu/intel/{device.address}/domain_translation_struct")
    # Bits of a second-stage entry: 1 read, 2 write. Bits of a first-stage entry: 1 present, 2 write, 4 user mode.
    expected = (7, 5, 7) if cell.iommu == "intel-fs" else (3, 1, 2)
    for entry, (read, write) in zip(expected, ((True, True), (True, False), (False, True)), strict=True):
        mapping = space.map(DmaBuffer(PAGE), 0x1234_5000, read=read, write=write)
        (line,) = re.findall(r"^0x0*12345\s.*$", table.read_text(), re.M)
        assert int(line.split()[-1], 16) & 7 == entry
        mapping.unmap()


@pytest.mark.require("page_table")
def test_the_iommus_page_table_shows_the_mapping_in_its_pages(space: AddressSpace, device: Device, mode: Mode) -> None:
    table = Path(f"/sys/kernel/debug/iommu/intel/{device.address}/domain_translation_struct")
    for iova, size, huge in ((0x1234_5000, PAGE, None), (0x4000_0000, 2 << 20, 2 << 20)):
        mapping = space.alloc(size, iova, huge=huge)
        # A line has the page number, a vertical bar, and the entries of five levels, without those below a large page.
        # iommufd-type1 uses no large pages, because it must be able to split any mapping.
        row = re.compile(rf"^0x0*{mapping.iova >> 12:x}\s.*$", re.M | re.I)
        (line,) = row.findall(table.read_text())
        assert len(line.split()) == (7 if huge is None or mode == "iommufd-type1" else 6)
        mapping.unmap()
        assert not row.search(table.read_text())


@pytest.mark.only(iommu="intel", mode=["type1v2", "iommufd"], device="edu", kernel="newest")
def test_a_page_of_1_gib_is_one_in_the_iommus_page_table_too(space: AddressSpace, device: Device, dma: Dma) -> None:
    table = Path(f"/sys/kernel/debug/iommu/intel/{device.address}/domain_translation_struct")
    mapping = space.alloc(1 << 30, 0, huge=1 << 30)
    (line,) = re.findall(r"^0x0+\s.*$", table.read_text(), re.M)
    # The page number, a vertical bar, and the entries of the upper three of five levels.
    assert len(line.split()) == 5
    view = mapping.buffer.view
    view[:PAGE] = os.urandom(PAGE)
    far = 100 << 20  # within the IOVAs that edu can address, and in another 2 MiB page
    dma.copy(far, 0, PAGE)
    assert view[far : far + PAGE] == view[:PAGE]
    assert mapping.unmap() == 1 << 30


@pytest.mark.require("linux", "iommu")
def test_pinned_memory_is_let_go_when_the_process_is_killed(address: str, mode: Mode) -> None:
    def unevictable() -> int:
        with contextlib.suppress(OSError):  # some kernels say so if a counter is below 0
            Path("/proc/sys/vm/stat_refresh").read_text()  # the processors add up what each has counted
        fields = dict(line.split(":", 1) for line in Path("/proc/vmstat").read_text().replace(" ", ":").splitlines())
        return int(fields["nr_foll_pin_acquired"]) - int(fields["nr_foll_pin_released"])

    def use() -> Device:
        device = pyvfio.open(address, mode=mode)
        device.address_space.alloc(1 << 20)
        return device

    before = unevictable()
    with holding(use) as program:
        # Compare with a margin: the counters are those of the whole machine, and other processes' pages change them.
        assert unevictable() - before >= 200
        program.kill()
    limit = time.monotonic() + 60
    while unevictable() - before >= 50 and time.monotonic() < limit:
        time.sleep(0.05)
    assert unevictable() - before < 50
    with pyvfio.open(address, mode=mode) as device:
        assert device.address_space.alloc(PAGE).mapped
