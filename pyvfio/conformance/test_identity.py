# SPDX-License-Identifier: MIT
"""Identity: VFIO_DEVICE_GET_INFO and configuration space agree with sysfs."""

from __future__ import annotations

import pytest

from pyvfio import Device
from pyvfio._abi import lib
from pyvfio.host import HostDevice
from pyvfio.host.sysfs import attribute
from pyvfio.kernel import Kernel

#: device flags that say of which kind it is
KINDS = ("PCI", "PLATFORM", "AMBA", "CCW", "AP", "FSL_MC", "CDX")


def test_the_device_is_of_one_kind_at_most(device: Device) -> None:
    """At most one of the flags for a kind of device is set; an emulated device may have none."""
    kinds = [name for name in KINDS if device.info.flags & getattr(lib, f"VFIO_DEVICE_FLAGS_{name}", 0)]
    assert len(kinds) <= 1


def test_its_kind_is_that_of_its_bus(device: Device, found: HostDevice) -> None:
    """A device on the PCI bus has VFIO_DEVICE_FLAGS_PCI."""
    if found.bus == "pci":
        assert device.info.is_pci
    if device.info.is_pci:
        assert found.bus in ("pci", "mdev")


def test_regions_and_interrupts_are_as_many_as_it_says(device: Device) -> None:
    """Each index below num_regions and num_irqs has an answer."""
    assert len(list(device.regions)) == device.info.num_regions
    assert len(list(device.irqs)) == device.info.num_irqs


@pytest.mark.vfio_require("pci")
def test_a_pci_device_has_the_regions_of_the_abi(device: Device) -> None:
    """Six BARs, ROM and configuration space, with or without VGA; at least INTx and MSI are counted."""
    assert device.info.num_regions >= lib.VFIO_PCI_NUM_REGIONS - 1
    assert device.info.num_irqs >= 2


@pytest.mark.vfio_require("pci")
def test_ids_are_those_of_sysfs(device: Device, found: HostDevice) -> None:
    """Vendor, device and class in configuration space equal those in sysfs."""
    assert (device.config.vendor, device.config.device_id) == (found.vendor, found.device)
    assert device.config.class_code == found.class_code


@pytest.mark.vfio_require("pci")
def test_bars_are_as_large_as_sysfs_says(device: Device, found: HostDevice, kernel: Kernel) -> None:
    """The size of each BAR equals that in the attribute `resource` of sysfs, or is 0."""
    text = attribute(kernel, f"{found.path}/resource")
    if text is None:
        pytest.skip("sysfs shows no resources")
    for index, line in enumerate(text.splitlines()[:6]):
        start, last, _ = (int(word, 16) for word in line.split())
        size = last - start + 1 if last else 0
        # VFIO may report size 0 for a BAR that it hides, but no other size.
        assert device.regions[index].size in (size, 0), f"BAR{index}"


@pytest.mark.vfio_require("pci")
def test_bus_master_is_off_when_it_is_opened(device: Device) -> None:
    """The device can do no DMA before the program asks for it."""
    assert not device.config.bus_master


@pytest.mark.vfio_require("pci")
def test_no_interrupt_is_enabled_when_it_is_opened(device: Device) -> None:
    """The enable bits of MSI and MSI-X are clear."""
    for id_, bit in ((0x05, 0x0001), (0x11, 0x8000)):
        capability = device.config.capability(id_)
        if capability is not None:
            assert not device.config.read16(capability.offset + 2) & bit, capability.name
