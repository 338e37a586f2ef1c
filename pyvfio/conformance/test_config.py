# SPDX-License-Identifier: MIT
"""PCI configuration space: capability lists, and the accesses of each width."""

from __future__ import annotations

import warnings

import pytest

from pyvfio import Device

pytestmark = pytest.mark.vfio_require("pci")


def test_capability_lists_end(device: Device) -> None:
    """The lists have no cycle and no pointer into the header, and no capability is beyond configuration space."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", RuntimeWarning
        )  # the library warns of a broken list and returns what precedes the break
        for one in [*device.config.capabilities, *device.config.extended_capabilities]:
            assert 0x40 <= one.offset < device.config.size, one.name


def test_a_capability_of_each_interrupt_is_there(device: Device) -> None:
    """MSI and MSI-X are in the list if, and only if, there are vectors."""
    names = [one.name for one in device.config.capabilities]
    assert ("MSI" in names) == (device.irqs.msi.count > 0)
    assert ("MSI-X" in names) == (device.irqs.msix.count > 0)


def test_vectors_are_as_many_as_the_capability_says(device: Device) -> None:
    """The count follows from the message control register: its number plus one for MSI-X, a power of two for MSI."""
    if (msix := device.config.capability(0x11)) is not None:
        assert device.irqs.msix.count == (device.config.read16(msix.offset + 2) & 0x7FF) + 1
    if (msi := device.config.capability(0x05)) is not None:
        assert device.irqs.msi.count == 1 << (device.config.read16(msi.offset + 2) >> 1 & 7)


def test_extended_space_belongs_to_pci_express(device: Device) -> None:
    """Only a device with the PCI Express or the PCI-X capability has more than 256 bytes."""
    if device.config.size > 256:
        names = [one.name for one in device.config.capabilities]
        assert "Express" in names or device.config.capability(0x07) is not None


def test_each_width_reads_the_same(device: Device) -> None:
    """The header reads the same in bytes, words and double words as in one piece."""
    config = device.config
    whole = config.read(0, 64)
    for width in (1, 2, 4):
        read = getattr(config, f"read{8 * width}")
        parts = b"".join(read(at).to_bytes(width, "little") for at in range(0, 64, width))
        assert parts == whole, f"width {width}"


def test_the_header_is_of_an_endpoint(device: Device) -> None:
    """Header type 0; the multi-function bit may be set."""
    assert device.config.read8(0x0E) & 0x7F == 0


@pytest.mark.vfio_writes
def test_bars_answer_to_sizing_as_their_regions_say(device: Device) -> None:
    """After a write of all ones, as firmware makes it, a BAR reads back its size. VFIO keeps the real BAR."""
    config = device.config
    index = 0
    while index < 6:
        at = 0x10 + 4 * index
        before = config.read32(at)
        is_io, is_wide = before & 1, before & 7 == 4
        config.write32(at, 0xFFFFFFFF)
        sized = config.read32(at)
        config.write32(at, before)
        assert config.read32(at) == before
        size = device.regions[index].size
        mask = sized & (0xFFFFFFFC if is_io else 0xFFFFFFF0)
        if size and not is_wide and mask:
            assert -mask & 0xFFFFFFFF & (0xFFFF if is_io else 0xFFFFFFFF) == size, f"BAR{index}"
        index += 2 if is_wide else 1


@pytest.mark.vfio_writes
def test_command_bits_are_kept(device: Device) -> None:
    """The bus master and memory space bits keep the values that are written."""
    for name in ("bus_master", "memory_enabled"):
        before = getattr(device.config, name)
        for value in (True, False):
            setattr(device.config, name, value)
            assert getattr(device.config, name) == value, name
        setattr(device.config, name, before)


@pytest.mark.vfio_writes
def test_read_only_registers_keep_their_value(device: Device) -> None:
    """A write to the ids changes nothing."""
    before = device.config.read32(0)
    device.config.write32(0, ~before & 0xFFFFFFFF)
    assert device.config.read32(0) == before
