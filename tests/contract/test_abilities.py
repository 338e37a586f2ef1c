# SPDX-License-Identifier: MIT
"""The abilities in tests/matrix.toml are right: an ability is absent exactly in the cells that are listed for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vmtest.matrix import Cell, Matrix

from pyvfio import Container, DmaBuffer, Unsupported, host
from pyvfio._abi import lib
from pyvfio.iommufd import Ioas

if TYPE_CHECKING:
    from pyvfio import Device
    from pyvfio.spaces.base import AddressSpace


def has_dirty_pages(space: AddressSpace) -> bool:
    if not hasattr(space, "start_dirty_tracking"):
        return False
    try:
        space.start_dirty_tracking()
    except Unsupported:
        return False
    assert isinstance(space, Container)
    space.stop_dirty_tracking()
    return True


def unmaps_parts(space: AddressSpace) -> bool:
    space.map(DmaBuffer(0x4000), 0x10_0000)
    try:
        space.unmap(0x10_1000, 0x1000)
    except OSError:
        return False
    finally:
        space.unmap_all()
    return True


def maps_files(space: AddressSpace) -> bool:
    if not isinstance(space, Ioas):
        return False
    fd = os.memfd_create("ability")
    try:
        os.truncate(fd, 0x1000)
        space.map_file(fd, 0, 0x1000)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def page_table(address: str) -> Path:
    return Path(f"/sys/kernel/debug/iommu/intel/{address}/domain_translation_struct")


def has_lockdep() -> bool:
    """Whether the machine's kernel checks the order of its locks."""
    return "PYVFIO_VM_KERNEL" in os.environ and Path("/proc/lockdep").exists()


def irqs(device: Device, index: int) -> int:
    return device.irqs[index].count


def migrates(device: Device, flag: int = 0) -> bool:
    try:
        return device.migration.flags & flag == flag
    except Unsupported:
        return False


PROBES: dict[str, Callable[[Device], object]] = {
    "dirty_log": lambda device: lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_START in device.features,
    "migration": migrates,
    "pre_copy": lambda device: migrates(device, lib.VFIO_MIGRATION_PRE_COPY),
    "reinit": lambda device: lib.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 in device.features,
    "mtty": lambda _: "PYVFIO_MTTY_MODULE" in os.environ,
    "dirty_pages": lambda device: has_dirty_pages(device.address_space),
    "cdev": lambda device: host.device(device.address, device._fd.kernel).cdev is not None,
    "page_table": lambda device: page_table(device.address).exists(),
    "bus_errors": lambda _: not has_lockdep(),
    "iommu": lambda device: not device.address.startswith("vfio-mock"),
    "pci": lambda device: device.info.is_pci,
    "dma_buf": lambda device: lib.VFIO_DEVICE_FEATURE_DMA_BUF in device.features,
    "reset": lambda device: device.info.resettable,
    "bar_mmap": lambda device: device.info.is_pci and (0, device.regions[0].size) in device.regions[0].info.areas,
    "intx": lambda device: irqs(device, lib.VFIO_PCI_INTX_IRQ_INDEX) > 0,
    "msi": lambda device: irqs(device, lib.VFIO_PCI_MSI_IRQ_INDEX) > 0,
    "msix": lambda device: irqs(device, lib.VFIO_PCI_MSIX_IRQ_INDEX) > 0,
    "map_file": lambda device: maps_files(device.address_space),
    "splitting": lambda device: unmaps_parts(device.address_space),
    "whole_mappings": lambda device: not unmaps_parts(device.address_space),
}


def test_the_abilities_are_those_that_are_listed(device: Device, cell: Cell) -> None:
    # These abilities are not probed here. Most are properties of the drivers and the machine, not of the device.
    # Isolation of interrupts shows before a device is open (test_limits.py). Without level interrupts, the kernel would
    # not return from the attempt.
    assert set(Matrix().abilities) - set(PROBES) == {
        "dma",
        "functions",
        "level_interrupts",
        "linux",
        "unsafe_interrupts",
        "wire",
    }
    there = {ability for ability, probe in PROBES.items() if probe(device)}
    assert there == set(PROBES) - set(Matrix().absent(cell))
