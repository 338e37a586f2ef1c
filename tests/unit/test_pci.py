# SPDX-License-Identifier: MIT
"""PCI configuration space that no real kernel shows: broken lists of capabilities, wrong arguments."""

from __future__ import annotations

import struct
from typing import Any

import pytest

import pyvfio
from pyvfio import Device, mock
from pyvfio.pci import CAPABILITY_POINTER, STATUS, STATUS_CAPABILITIES, PciConfig, SavedConfig

EXPRESS, CONVENTIONAL = "0000:00:04.0", "0000:00:03.0"
pytestmark = pytest.mark.vfio(device=EXPRESS)


@pytest.fixture
def config(device: Device) -> PciConfig:
    return device.config


@pytest.fixture
def shown(kernel: mock.Kernel, device: Device) -> bytearray:
    """Return the bytes of configuration space, which the test changes."""
    found = kernel.devices[device.address]
    assert isinstance(found, mock.Device)
    return found.config.data


def standard(shown: bytearray, first: int, *capabilities: tuple[int, int, int]) -> None:
    """Write a list of capabilities, given as (offset, id, offset of the next)."""
    struct.pack_into("<H", shown, STATUS, STATUS_CAPABILITIES)
    shown[CAPABILITY_POINTER] = first
    for offset, id_, following in capabilities:
        shown[offset : offset + 2] = bytes((id_, following))


def extended(shown: bytearray, *capabilities: tuple[int, int, int]) -> None:
    """Write a list of extended capabilities of version 2, given as (offset, id, offset of the next)."""
    for offset, id_, following in capabilities:
        struct.pack_into("<I", shown, offset, following << 20 | 2 << 16 | id_)


# --- the standard list ------------------------------------------------------------------------------------------------


def test_capabilities_are_in_the_order_of_the_list(shown: bytearray, config: PciConfig) -> None:
    standard(shown, 0x80, (0x80, 0x11, 0x40), (0x40, 0x01, 0xFC), (0xFC, 0xEE, 0))
    assert [(c.id, c.offset, c.name) for c in config.capabilities] == [
        (0x11, 0x80, "MSI-X"),
        (0x01, 0x40, "Power Management"),
        (0xEE, 0xFC, "0xee"),
    ]
    found = config.capability(0x01)
    assert found is not None
    assert found.offset == 0x40
    assert config.capability(0x05) is None


def test_low_bits_of_a_capability_pointer_are_ignored(shown: bytearray, config: PciConfig) -> None:
    standard(shown, 0x43, (0x40, 0x05, 0x83), (0x80, 0x10, 0x03))
    assert [c.offset for c in config.capabilities] == [0x40, 0x80]


def test_no_capabilities_without_the_status_bit(shown: bytearray, config: PciConfig) -> None:
    standard(shown, 0x40, (0x40, 0x05, 0))
    shown[STATUS] = 0
    assert config.capabilities == []


@pytest.mark.parametrize(
    ("first", "capabilities", "message"),
    [
        (0x40, [(0x40, 0x05, 0x40)], "cycle at 0x40"),
        (0x40, [(0x40, 0x05, 0x80), (0x80, 0x01, 0xC0), (0xC0, 0x10, 0x80)], "cycle at 0x80"),
        (0x20, [], "into the header, to 0x20"),
        (0x40, [(0x40, 0x05, 0x3C)], "into the header, to 0x3c"),
    ],
    ids=["to itself", "back to the second", "from the start", "from a capability"],
)
def test_a_broken_capability_list_ends_where_it_breaks(
    shown: bytearray, config: PciConfig, first: int, capabilities: list[tuple[int, int, int]], message: str
) -> None:
    standard(shown, first, *capabilities)
    with pytest.warns(RuntimeWarning, match=message):
        found = config.capabilities
    assert [(one.offset, one.id) for one in found] == [one[:2] for one in capabilities]


# --- the extended list ------------------------------------------------------------------------------------------------


def test_extended_capabilities_have_versions(shown: bytearray, config: PciConfig) -> None:
    extended(shown, (0x100, 0x01, 0xFFC), (0xFFC, 0x10, 0x140), (0x140, 0xABC, 0))
    assert [(c.id, c.offset, c.version, c.name) for c in config.extended_capabilities] == [
        (0x01, 0x100, 2, "Advanced Error Reporting"),
        (0x10, 0xFFC, 2, "Single Root I/O Virtualization (SR-IOV)"),
        (0xABC, 0x140, 2, "0x0abc"),
    ]
    found = config.extended_capability(0x10)
    assert found is not None
    assert found.offset == 0xFFC
    assert config.extended_capability(0x0F) is None


def test_hidden_first_capability_is_skipped(shown: bytearray, config: PciConfig) -> None:
    extended(shown, (0x100, 0, 0x140), (0x140, 0x03, 0))
    assert [c.id for c in config.extended_capabilities] == [0x03]


@pytest.mark.parametrize("header", [0, 0xFFFFFFFF], ids=["zeros", "ones"])
def test_empty_extended_list_has_no_capabilities(shown: bytearray, config: PciConfig, header: int) -> None:
    struct.pack_into("<I", shown, 0x100, header)
    assert config.extended_capabilities == []


@pytest.mark.vfio(device=CONVENTIONAL)
def test_config_of_256_bytes_has_no_extended_capabilities(config: PciConfig, shown: bytearray) -> None:
    assert len(shown) == 256
    assert config.extended_capabilities == []


@pytest.mark.parametrize(
    ("capabilities", "message"),
    [
        ([(0x100, 0x01, 0x100)], "cycle at 0x100"),
        ([(0x100, 0x01, 0x140), (0x140, 0x03, 0x180), (0x180, 0x0D, 0x140)], "cycle at 0x140"),
        ([(0x100, 0x01, 0x0FC)], "out of extended space, to 0xfc"),
        ([(0x100, 0, 0x140), (0x140, 0x03, 0x040)], "out of extended space, to 0x40"),
    ],
    ids=["to itself", "back to the second", "into standard space", "behind a hidden one"],
)
def test_a_broken_extended_list_ends_where_it_breaks(
    shown: bytearray, config: PciConfig, capabilities: list[tuple[int, int, int]], message: str
) -> None:
    extended(shown, *capabilities)
    with pytest.warns(RuntimeWarning, match=message):
        found = config.extended_capabilities
    assert [(one.offset, one.id) for one in found] == [one[:2] for one in capabilities if one[1]]


def test_hidden_capability_that_points_back_ends_the_list(shown: bytearray, config: PciConfig) -> None:
    extended(shown, (0x100, 0x01, 0x180), (0x180, 0, 0x140), (0x140, 0x03, 0))
    assert [c.id for c in config.extended_capabilities] == [0x01]


# --- arguments --------------------------------------------------------------------------------------------------------


def test_misspelt_attribute_fails(config: PciConfig) -> None:
    for name in ("busmaster", "bus_mastr", "read32", "vendor"):
        with pytest.raises(AttributeError, match=name):
            setattr(config, name, True)


@pytest.mark.parametrize("name", ["bus_master", "memory_enabled"])
def test_switches_take_a_bool_only(shown: bytearray, config: PciConfig, name: str) -> None:
    before = bytes(shown)
    for value in ("off", 1, None):
        with pytest.raises(TypeError, match=f"^{name} must be a bool, not "):
            setattr(config, name, value)
    assert bytes(shown) == before


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (1 << 16, ValueError), ("7", TypeError)])
def test_the_command_register_has_16_bits(config: PciConfig, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^command must be"):
        config.command = value


def test_capability_is_found_by_name(shown: bytearray, config: PciConfig) -> None:
    standard(shown, 0x80, (0x80, 0x11, 0x40), (0x40, 0x05, 0))
    assert config.capability("msi-x") == config.capability(0x11)
    assert config.capability("PCI Express") is None
    with pytest.raises(ValueError, match=r"^which must be an id or one of .*MSI-X.*, not 'MSIX'"):
        config.capability("MSIX")
    with pytest.raises(ValueError, match=r"^which must be at most 255"):
        config.capability(0x100)
    with pytest.raises(TypeError, match=r"^which must be an integer, not NoneType"):
        config.extended_capability(None)  # type: ignore[arg-type]


def test_short_names_of_capabilities_are_taken_too(shown: bytearray, config: PciConfig) -> None:
    standard(shown, 0x80, (0x80, 0x10, 0x40), (0x40, 0x03, 0))
    extended(shown, (0x100, 0x01, 0x140), (0x140, 0x10, 0))
    for name in ("Express", "PCI Express", "exp"):
        assert config.capability(name) == config.capability(0x10)
    assert config.capability("VPD") == config.capability("Vital Product Data") == config.capability(0x03)
    assert config.extended_capability("aer") == config.extended_capability(0x01)
    assert config.extended_capability("sr-iov") == config.extended_capability(0x10)


# --- saved configuration space ----------------------------------------------------------------------------------------


DUMP = """\
00:1f.2 SATA controller: a disk controller
00: 86 80 22 29 07 04 10 00 02 01 06 01 00 00 80 00
10: 01 f0 00 00 01 f1 00 00 01 f2 00 00 01 f3 00 00
20: 01 f4 00 00 00 00 eb fe 00 00 00 00 86 80 22 29
30: 00 00 00 00 80 00 00 00 00 00 00 00 0a 01 00 00
40: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
80: 05 a8 80 00 00 00 00 00 00 00 00 00 00 00 00 00
a0: 00 00 00 00 00 00 00 00 12 00 10 00 48 00 00 00

0001:41:00.1 Ethernet controller: a card
\tCapabilities: [40] Express (v2) Endpoint
00: b3 15 1e 10 06 04 10 00 00 00 00 02 00 00 00 00
30: 00 00 00 00 40 00 00 00 00 00 00 00 00 00 00 00
40: 10 60 02 00 00 00 00 00 00 00 00 00 00 00 00 00
60: 00 40 00 00 00 00 00 00 00 00 00 00 00 00 00 00
100: 01 00 02 15 00 00 00 00 00 00 00 00 00 00 00 00
150: 1b 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00
"""


def test_a_dump_of_lspci_is_decoded_without_a_device() -> None:
    """C18: decoding needs only the bytes. The names are those of lspci."""
    functions = SavedConfig.read_dump(DUMP)
    assert list(functions) == ["00:1f.2", "0001:41:00.1"]
    disk, card = functions.values()
    assert (disk.size, disk.vendor, disk.device_id, disk.class_code) == (256, 0x8086, 0x2922, 0x010601)
    assert [(one.offset, one.name) for one in disk.capabilities] == [(0x80, "MSI"), (0xA8, "SATA HBA")]
    assert disk.extended_capabilities == []
    assert card.size == 4096
    # The card's list ends in a cycle, through a Null capability.
    with pytest.warns(RuntimeWarning, match="cycle at 0x40; the 2 capabilities before"):
        assert [one.name for one in card.capabilities] == ["Express", "Null"]
    assert [one.name for one in card.extended_capabilities] == [
        "Advanced Error Reporting",
        "Process Address Space ID (PASID)",
    ]
    assert repr(disk) == "<SavedConfig 8086:2922, 256 bytes>"


def test_a_saved_configuration_space_is_what_the_device_shows(config: PciConfig) -> None:
    saved = SavedConfig(config.read(0, config.size))
    assert saved.capabilities == config.capabilities
    assert saved.extended_capabilities == config.extended_capabilities
    assert saved.read32(0) == config.read32(0)
    assert bytes(saved) == config.read(0, config.size)


def test_a_saved_configuration_space_cannot_be_written() -> None:
    saved = SavedConfig(bytes(64))
    assert saved.capabilities == []
    for call in (lambda: saved.write32(4, 1), lambda: saved.read(250, 8), lambda: saved.read32(256)):
        with pytest.raises(pyvfio.InvalidRequest):
            call()


@pytest.mark.parametrize("data", [bytes(63), bytes(4097)], ids=len)
def test_what_is_no_configuration_space_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="64 to 4096 bytes"):
        SavedConfig(data)


def test_a_text_without_a_dump_is_refused() -> None:
    with pytest.raises(ValueError, match="no dump of lspci"):
        SavedConfig.read_dump("00:1f.2 SATA controller\n")
