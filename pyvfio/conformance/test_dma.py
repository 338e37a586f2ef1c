# SPDX-License-Identifier: MIT
"""DMA by the device itself, which a driver starts: reach of mappings, dirty pages, interrupts."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import pytest

from pyvfio import Device, DmaBuffer, IovaRange, IovaSet, Irq, Mapping
from pyvfio.conformance.driver import Copying
from pyvfio.spaces.base import AddressSpace

PAGE = 4096
#: bytes of a copy, which devices that copy whole blocks support too
SIZE = 512


def place(space: AddressSpace, driver: Copying, size: int) -> Mapping:
    """Map new memory at an IOVA that the device can address."""
    reach = IovaSet([driver.reach])
    ranges = space.iova_ranges
    where = (reach & ranges if ranges is not None else reach) - space.mapped_ranges
    found = where.first_fit(size, PAGE, IovaRange(PAGE, 2**64 - 1))
    assert found is not None, "nothing that the device can reach is usable"
    return space.map(DmaBuffer(size), found.start)


def copies(driver: Copying, target: Mapping, at: int, source: Mapping) -> bool:
    """Whether the device copies from the beginning of one mapping to a place in another."""
    data = os.urandom(SIZE)
    source.buffer.view[:SIZE] = data
    driver.copy(target.iova + at, source.iova, SIZE)
    return bytes(target.buffer.view[at : at + SIZE]) == data


def message(device: Device) -> Irq:
    """Return the interrupt that a driver is to send: MSI-X, or else MSI; on another bus than PCI the first that there is."""
    if device.info.is_pci:
        return device.irqs.msix if device.irqs.msix.count else device.irqs.msi
    return next(irq for irq in device.irqs if irq.count)


def test_the_device_copies_memory(space: AddressSpace, driver: Copying) -> None:
    """The device copies memory from one mapping to another."""
    source, target = place(space, driver, PAGE), place(space, driver, PAGE)
    assert copies(driver, target, 0, source)


def test_both_ends_of_a_mapping_are_reached(space: AddressSpace, driver: Copying) -> None:
    """The device writes the first and the last bytes of a mapping of 2 MiB."""
    source, target = place(space, driver, PAGE), place(space, driver, 2 << 20)
    assert copies(driver, target, 0, source)
    assert copies(driver, target, target.size - SIZE, source)


def test_the_edges_of_every_usable_range_are_reached(space: AddressSpace, driver: Copying) -> None:
    """The device writes the first and last page of each usable range, within the addresses that it has."""
    ranges = space.iova_ranges
    if ranges is None:
        pytest.skip("the kernel reports no usable ranges")
    source = place(space, driver, PAGE)
    reached = 0
    for one in IovaSet([driver.reach]) & ranges:
        for start in (-(-one.start // PAGE) * PAGE, (one.last + 1) // PAGE * PAGE - PAGE):
            if (
                one.start <= start
                and start + PAGE - 1 <= one.last
                and not space.mapped_ranges.overlaps((start, start + PAGE - 1))
            ):
                target = space.map(DmaBuffer(PAGE), start)
                assert copies(driver, target, 0, source), f"{start:#x}"
                target.unmap()
                reached += 1
    assert reached


def test_nothing_else_is_written(space: AddressSpace, driver: Copying) -> None:
    """The pages beside the target keep their content."""
    source, target = place(space, driver, PAGE), place(space, driver, 3 * PAGE)
    before = os.urandom(3 * PAGE)
    target.buffer.view[:] = before
    assert copies(driver, target, PAGE, source)
    assert bytes(target.buffer.view[:PAGE]) == before[:PAGE]
    assert bytes(target.buffer.view[PAGE + SIZE :]) == before[PAGE + SIZE :]


@pytest.mark.vfio_require("dirty_log")
def test_dirty_pages_are_those_that_changed(device: Device, space: AddressSpace, driver: Copying) -> None:
    """Every page that the device wrote is reported, no other page is, and a second report is empty."""
    source, target = place(space, driver, PAGE), place(space, driver, 64 * PAGE)
    with device.dirty_log([target.range]) as log:
        assert log.read().count() == 0
        for index in (0, 3, 4, 31, 32, 63):
            assert copies(driver, target, index * PAGE, source)
        report = log.read()
        size = log.page_size
        expected = {target.iova + index * PAGE for index in (0, 3, 4, 31, 32, 63)}
        reported = {page for run in report.runs() for page in range(run.start, run.last + 1, PAGE)}
        assert expected <= reported, "a page that was written is not reported"
        allowed = {
            page
            for page in range(target.iova, target.iova + target.size, PAGE)
            if page // size in {one // size for one in expected}
        }
        assert reported <= allowed, "a page that was not written is reported"
        assert log.read().count() == 0, "a report does not clear"


@pytest.mark.vfio_require("dirty_log")
def test_what_is_only_read_is_not_dirty(device: Device, space: AddressSpace, driver: Copying) -> None:
    """The source pages of a copy are not reported as dirty."""
    source, target = place(space, driver, 16 * PAGE), place(space, driver, 16 * PAGE)
    with device.dirty_log([source.range]) as log:
        assert copies(driver, target, 0, source)
        assert log.read().count() == 0


def test_an_interrupt_arrives(device: Device, driver: Copying) -> None:
    """An interrupt that the device itself sends reaches its eventfd."""
    if not driver.sends_msi:
        pytest.skip("the driver has no send_msi()")
    enabled = next((irq.vectors for irq in device.irqs if irq.vectors), None) or message(device).enable()
    driver.send_msi()
    assert enabled[0].wait(2) >= 1


@pytest.mark.vfio_dma_faults
def test_memory_that_was_unmapped_is_not_reached(
    space: AddressSpace, driver: Copying, limit: Callable[[str, object], None]
) -> None:
    """The IOMMU stops the device's write: the memory keeps its content."""
    source, target = place(space, driver, PAGE), place(space, driver, PAGE)
    source.buffer.view[:SIZE] = os.urandom(SIZE)
    iova, view = target.iova, target.buffer.view
    before = bytes(view)
    target.unmap()
    try:
        driver.copy(iova, source.iova, SIZE)
        limit("a fault is told by the device", "no")
    except OSError:
        limit("a fault is told by the device", "yes")
    assert bytes(view) == before


@pytest.mark.vfio_dma_faults
def test_memory_that_is_read_only_is_not_written(space: AddressSpace, driver: Copying) -> None:
    """A mapping for reading alone keeps its content."""
    source, target = place(space, driver, PAGE), place(space, driver, PAGE)
    source.buffer.view[:SIZE] = os.urandom(SIZE)
    iova, buffer = target.iova, target.buffer
    target.unmap()
    mapping = space.map(buffer, iova, write=False)
    before = bytes(mapping.buffer.view)
    with suppress(OSError):  # the device may report the fault
        driver.copy(iova, source.iova, SIZE)
    assert bytes(mapping.buffer.view) == before
