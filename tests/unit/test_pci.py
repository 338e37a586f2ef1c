"""PCI configuration space as no real kernel shows it: lists of capabilities that lead astray."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest

import pyvfio
from pyvfio.pci import CAPABILITY_POINTER, STATUS, STATUS_CAPABILITIES, PciConfig
from tests.unit.fake_pci import FakePciKernel


@pytest.fixture
def kernel() -> FakePciKernel:
    return FakePciKernel()


@pytest.fixture
def config(kernel: FakePciKernel) -> Iterator[PciConfig]:
    with pyvfio.open("fake.0", mode="type1v2", kernel=kernel) as device:
        yield device.config


def standard(kernel: FakePciKernel, first: int, *capabilities: tuple[int, int, int]) -> None:
    """A list of (offset, id, offset of the next)."""
    struct.pack_into("<H", kernel.config, STATUS, STATUS_CAPABILITIES)
    kernel.config[CAPABILITY_POINTER] = first
    for offset, id_, following in capabilities:
        kernel.config[offset : offset + 2] = bytes((id_, following))


def extended(kernel: FakePciKernel, *capabilities: tuple[int, int, int]) -> None:
    """A list of (offset, id, offset of the next), version 2 all of them."""
    for offset, id_, following in capabilities:
        struct.pack_into("<I", kernel.config, offset, following << 20 | 2 << 16 | id_)


# --- the standard list ------------------------------------------------------------------------------------------------


def test_capabilities_come_in_the_lists_order(kernel: FakePciKernel, config: PciConfig) -> None:
    standard(kernel, 0x80, (0x80, 0x11, 0x40), (0x40, 0x01, 0xFC), (0xFC, 0xEE, 0))
    assert [(c.id, c.offset, c.name) for c in config.capabilities] == [
        (0x11, 0x80, "MSI-X"),
        (0x01, 0x40, "Power Management"),
        (0xEE, 0xFC, "0xee"),
    ]
    found = config.capability(0x01)
    assert found is not None
    assert found.offset == 0x40
    assert config.capability(0x05) is None


def test_the_two_lowest_bits_of_a_pointer_mean_nothing(kernel: FakePciKernel, config: PciConfig) -> None:
    standard(kernel, 0x43, (0x40, 0x05, 0x83), (0x80, 0x10, 0x03))
    assert [c.offset for c in config.capabilities] == [0x40, 0x80]


def test_without_the_status_bit_there_is_no_list(kernel: FakePciKernel, config: PciConfig) -> None:
    standard(kernel, 0x40, (0x40, 0x05, 0))
    kernel.config[STATUS] = 0
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
def test_a_list_that_leads_astray_is_a_bad_reply(
    kernel: FakePciKernel, config: PciConfig, first: int, capabilities: list[tuple[int, int, int]], message: str
) -> None:
    standard(kernel, first, *capabilities)
    with pytest.raises(pyvfio.BadReply, match=message):
        _ = config.capabilities


# --- the extended list ------------------------------------------------------------------------------------------------


def test_extended_capabilities_come_with_their_versions(kernel: FakePciKernel, config: PciConfig) -> None:
    extended(kernel, (0x100, 0x01, 0xFFC), (0xFFC, 0x10, 0x140), (0x140, 0xABC, 0))
    assert [(c.id, c.offset, c.version, c.name) for c in config.extended_capabilities] == [
        (0x01, 0x100, 2, "Advanced Error Reporting"),
        (0x10, 0xFFC, 2, "SR-IOV"),
        (0xABC, 0x140, 2, "0x0abc"),
    ]
    found = config.extended_capability(0x10)
    assert found is not None
    assert found.offset == 0xFFC
    assert config.extended_capability(0x0F) is None


def test_a_hidden_first_capability_is_passed_over(kernel: FakePciKernel, config: PciConfig) -> None:
    extended(kernel, (0x100, 0, 0x140), (0x140, 0x03, 0))
    assert [c.id for c in config.extended_capabilities] == [0x03]


@pytest.mark.parametrize("header", [0, 0xFFFFFFFF], ids=["zeros", "ones"])
def test_a_device_without_extended_capabilities_has_none(kernel: FakePciKernel, config: PciConfig, header: int) -> None:
    struct.pack_into("<I", kernel.config, 0x100, header)
    assert config.extended_capabilities == []


def test_a_device_of_256_bytes_has_no_extended_capabilities(kernel: FakePciKernel) -> None:
    del kernel.config[256:]
    with pyvfio.open("fake.0", mode="type1v2", kernel=kernel) as device:
        assert device.config.extended_capabilities == []


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
def test_an_extended_list_that_leads_astray_is_a_bad_reply(
    kernel: FakePciKernel, config: PciConfig, capabilities: list[tuple[int, int, int]], message: str
) -> None:
    extended(kernel, *capabilities)
    with pytest.raises(pyvfio.BadReply, match=message):
        _ = config.extended_capabilities


def test_hidden_capabilities_that_lead_back_end_the_list(kernel: FakePciKernel, config: PciConfig) -> None:
    extended(kernel, (0x100, 0x01, 0x180), (0x180, 0, 0x140), (0x140, 0x03, 0))
    assert [c.id for c in config.extended_capabilities] == [0x01]


# --- arguments --------------------------------------------------------------------------------------------------------


def test_a_misspelt_attribute_is_refused(config: PciConfig) -> None:
    for name in ("busmaster", "bus_mastr", "read32", "vendor"):
        with pytest.raises(AttributeError, match=name):
            setattr(config, name, True)


@pytest.mark.parametrize("name", ["bus_master", "memory_enabled"])
def test_a_switch_takes_a_bool(kernel: FakePciKernel, config: PciConfig, name: str) -> None:
    before = bytes(kernel.config)
    for value in ("off", 1, None):
        with pytest.raises(TypeError, match=f"^{name} must be a bool, not "):
            setattr(config, name, value)
    assert bytes(kernel.config) == before


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (1 << 16, ValueError), ("7", TypeError)])
def test_the_command_register_has_16_bits(config: PciConfig, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^command must be"):
        config.command = value


def test_a_capability_is_found_by_name(kernel: FakePciKernel, config: PciConfig) -> None:
    standard(kernel, 0x80, (0x80, 0x11, 0x40), (0x40, 0x05, 0))
    assert config.capability("msi-x") == config.capability(0x11)
    assert config.capability("PCI Express") is None
    with pytest.raises(ValueError, match=r"^which must be an id or one of .*MSI-X.*, not 'MSIX'"):
        config.capability("MSIX")
    with pytest.raises(ValueError, match=r"^which must be at most 255"):
        config.capability(0x100)
    with pytest.raises(TypeError, match=r"^which must be an integer, not NoneType"):
        config.extended_capability(None)  # type: ignore[arg-type]
