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
    """No device is on two buses; an emulated device may be of none."""
    kinds = [name for name in KINDS if device.info.flags & getattr(lib, f"VFIO_DEVICE_FLAGS_{name}", 0)]
    assert len(kinds) <= 1


def test_its_kind_is_that_of_its_bus(device: Device, found: HostDevice) -> None:
    """A PCI device says that it is one."""
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
    """Seven BARs, ROM, configuration space, VGA; five kinds of interrupt."""
    assert device.info.num_regions >= lib.VFIO_PCI_NUM_REGIONS - 1
    assert device.info.num_irqs >= 2


@pytest.mark.vfio_require("pci")
def test_ids_are_those_of_sysfs(device: Device, found: HostDevice) -> None:
    """Vendor, device and class of configuration space."""
    assert (device.config.vendor, device.config.device_id) == (found.vendor, found.device)
    assert device.config.class_code == found.class_code


@pytest.mark.vfio_require("pci")
def test_bars_are_as_large_as_sysfs_says(device: Device, found: HostDevice, kernel: Kernel) -> None:
    """The attribute `resource` has start, last and flags of each BAR."""
    text = attribute(kernel, f"{found.path}/resource")
    if text is None:
        pytest.skip("sysfs shows no resources")
    for index, line in enumerate(text.splitlines()[:6]):
        start, last, _ = (int(word, 16) for word in line.split())
        size = last - start + 1 if last else 0
        # A BAR that cannot be mapped, or is hidden, may be missing; none may be larger.
        assert device.regions[index].size in (size, 0), f"BAR{index}"


@pytest.mark.vfio_require("pci")
def test_bus_master_is_off_when_it_is_opened(device: Device) -> None:
    """No DMA before the user asks for it."""
    assert not device.config.bus_master


@pytest.mark.vfio_require("pci")
def test_no_interrupt_is_enabled_when_it_is_opened(device: Device) -> None:
    """The enable bits of MSI and MSI-X are clear."""
    for id_, bit in ((0x05, 0x0001), (0x11, 0x8000)):
        capability = device.config.capability(id_)
        if capability is not None:
            assert not device.config.read16(capability.offset + 2) & bit, capability.name
