# SPDX-License-Identifier: MIT
"""The whole configuration space of functions that have every capability: what each register holds, stores, and loses.

Which bits a program may write is drivers/vfio/pci/vfio_pci_config.c (init_pci_cap_*_perm and vfio_*_config_write); what the
device keeps in D3hot is pci_save_state.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvfio import mock
from pyvfio.mock.vfio.pci.config import Config
from tests.mock.test_saved_config import Space

ADDRESSES = {0: 0x1_4000_4000, 2: 0xC020, 3: 0xD000_1000, 4: 0xE010_0000}
Words = dict[int, int]


def word(config: Config, at: int) -> int:
    return int.from_bytes(config.read(at, 4), "little")


def values(config: Config) -> Words:
    """Return the registers that are not 0."""
    return {at: value for at in range(0, config.size, 4) if (value := word(config, at))}


def usual(at: int) -> int:
    """Return the bits that a register outside of all capabilities stores."""
    return 0 if at < 0x40 else 0xFFFFFFFF


def stored(config: Config) -> Words:
    """Return the bits of each register that store what is written, where they are not the usual ones."""
    found = {}
    for at in range(0, config.size, 4):
        before = config.data[at : at + 4]
        config.write(at, b"\xff" * 4)
        ones = word(config, at)
        config.write(at, bytes(4))
        found[at] = ones & ~word(config, at)
        config.data[at : at + 4] = before
    return {at: bits for at, bits in found.items() if bits != usual(at)}


def turned(config: Config, act: Callable[[], None]) -> Words:
    """Return the bits of each register that come back by `act` after all bits were inverted, where they are not none."""
    before = bytes(config.data)
    config.data[:] = bytes(byte ^ 0xFF for byte in before)
    act()
    found = {}
    for at in range(0, config.size, 4):
        now, then = (int.from_bytes(data[at : at + 4], "little") for data in (config.data, before))
        if bits := ~(now ^ then) & 0xFFFFFFFF:
            found[at] = bits
    config.data[:] = before
    return found


# --- a described function -------------------------------------------------------------------------------------------------

DESCRIBED = mock.Function(
    (0x1234, 0x5678), 0x020300, 0x44, subsystem=(0x1111, 0x2222), msi=8, msix=70, intx=True, express=True, power_management=True, resets=True,
    bars={0: mock.Bar(1 << 14, wide=True, prefetchable=True), 2: mock.Bar(32, ports=True), 3: mock.Bar(1 << 12), 4: mock.Bar(1 << 20, prefetchable=True)},
    advanced_features=True, error_reporting=True, flr=True, no_soft_reset=True, multifunction=True, msix_table=(3, 0x100), msix_pending=(4, 0x800),
)  # fmt: skip


@pytest.fixture
def described() -> Config:
    return Config(DESCRIBED, ADDRESSES)


def test_the_values_of_a_described_function(described: Config) -> None:
    assert described.size == len(described.data) == len(described._writable) == 4096
    assert values(described) == {
        0x00: 0x56781234, 0x04: 0x00100103, 0x08: 0x02030044, 0x0C: 0x00800000, 0x10: 0x4000400C, 0x14: 0x1, 0x18: 0xC021, 0x1C: 0xD0001000,
        0x20: 0xE0100008, 0x2C: 0x22221111, 0x34: 0x40, 0x3C: 0x010B, 0x40: 0x00034801, 0x44: 0x8, 0x48: 0x00865805, 0x58: 0x00029410,
        0x5C: 0x10008000, 0x94: 0x0045A011, 0x98: 0x103, 0x9C: 0x804, 0xA0: 0x03060013, 0x100: 0x00020001, 0x108: 0x02400000, 0x10C: 0x00462030,
        0x114: 0xC000, 0x118: 0xA0,
    }  # fmt: skip
    assert (described.msi_control, described.msix_control, described.power_control) == (0x4A, 0x96, 0x44)
    assert described.reset_bits == {0x61: 0x80, 0xA4: 0x01}
    assert [described.address(bar) for bar in ADDRESSES] == list(ADDRESSES.values())
    assert [described.has_function_reset(at) for at in (0x61, 0xA4)] == [True, True]


def test_what_a_described_function_stores(described: Config) -> None:
    no = dict.fromkeys((0x40, 0x58, 0x5C, *range(0x64, 0xA4, 4), 0x100, 0x104, 0x110, *range(0x11C, 0x148, 4)), 0)
    assert stored(described) == no | {
        0x04: 0x0507, 0x0C: 0xFF, 0x10: 0xFFFFC000, 0x14: 0xFFFFFFFF, 0x18: 0xFFFFFFE0, 0x1C: 0xFFFFF000, 0x20: 0xFFF00000, 0x3C: 0xFF, 0x44: 0x3,
        0x48: 0x00FF0000, 0x60: 0xF0EF, 0xA4: 0xFFFF0001, 0x108: 0x03FFF030, 0x10C: 0x03FFF030, 0x114: 0xF1C1, 0x118: 0x140,
    }  # fmt: skip


def test_what_a_reset_of_a_described_function_restores(described: Config) -> None:
    """Device-specific registers keep their contents, and so do those behind what the kernel knows of error reporting."""
    found = turned(described, described.reset)
    everything = dict.fromkeys((*range(0, 0xA4, 4), *range(0x100, 0x12C, 4)), 0xFFFFFFFF)
    assert found == everything | {0x54: 0x0000FFFF, 0xA4: 0x0000FFFF}


def test_what_waking_up_restores(described: Config) -> None:
    asleep = bytes(described.data)
    assert turned(described, lambda: described.wake(asleep)) == {
        0x04: 0xFBFF, 0x0C: 0xFFFF, 0x60: 0x0D1F, 0x80: 0xFFDF, 0x108: 0x03FFF030, 0x10C: 0x03FFF030, 0x114: 0xF1C1, 0x118: 0x140,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "capabilities"),
    [
        ({}, {}),
        ({"power_management": True}, {0x40: 0x00030001}),
        ({"msi": 1}, {0x40: 0x00800005}),
        ({"msi": 32}, {0x40: 0x008A0005}),
        ({"express": True}, {0x40: 0x00020010, 0x44: 0x8000}),
        ({"express": True, "resets": True}, {0x40: 0x00020010, 0x44: 0x10008000}),
        ({"express": True, "resets": True, "flr": False}, {0x40: 0x00020010, 0x44: 0x8000}),
        ({"advanced_features": True}, {0x40: 0x00060013}),
        ({"advanced_features": True, "resets": True}, {0x40: 0x03060013}),
        ({"msix": 1}, {0x40: 0x00000011, 0x44: 0, 0x48: 16}),
        ({"msix": 2048}, {0x40: 0x07FF0011, 0x44: 0, 0x48: 0x8000}),
        ({"power_management": True, "advanced_features": True}, {0x40: 0x00034801, 0x48: 0x00060013}),
    ],
)
def test_one_capability_alone(changes: dict[str, bool | int], capabilities: Words) -> None:
    function = mock.Function((1, 2), **changes)  # type: ignore[arg-type]  # each has its own type
    config = Config(function, dict.fromkeys(function.all_bars, 0xC000_0000))
    assert {at: word(config, at) for at in capabilities} == capabilities
    assert bool(word(config, 0x04) >> 20 & 1) == bool(capabilities)
    assert config.read(0x34, 1)[0] == (0x40 if capabilities else 0)
    assert config.size == (4096 if function.express else 256)
    assert word(config, 0x04) & 0xFFFF == 0x103


def test_status_and_msix_enable_are_read_from_the_device(described: Config) -> None:
    asserted = enabled = False
    described.interrupt_asserted, described.msix_enabled = lambda: asserted, lambda: enabled
    for asserted in (True, False):
        assert described.read(0x06, 1) == bytes([0x18 if asserted else 0x10])
        assert described.read(0x04, 4)[2] == (0x18 if asserted else 0x10)
        assert described.read(0x00, 7)[6] == (0x18 if asserted else 0x10)
        assert (described.read(0x05, 1), described.read(0x07, 1)) == (b"\x01", b"\0")
    for enabled in (True, False):
        assert described.read(0x97, 1) == bytes([0x80 if enabled else 0])
        assert described.read(0x94, 4) == (b"\x11\xa0\x45\x80" if enabled else b"\x11\xa0\x45\0")
        assert (described.read(0x96, 1), described.read(0x98, 1)) == (b"\x45", b"\x03")


def test_an_act_follows_a_write_to_its_bytes(described: Config) -> None:
    seen: list[str] = []
    described.on_write(0x50, 2, lambda: seen.append("act"))
    for at, size, acts in (
        (0x4F, 1, 0),
        (0x52, 1, 0),
        (0x50, 1, 1),
        (0x51, 1, 1),
        (0x4E, 2, 0),
        (0x4E, 3, 1),
        (0x4C, 8, 1),
        (0x51, 4, 1),
    ):
        seen.clear()
        described.write(at, bytes(size))
        assert len(seen) == acts, (at, size)


# --- a saved function -----------------------------------------------------------------------------------------------------


def saved() -> Config:
    """Return the configuration space of a saved device that has every capability, with all its bits set where that is possible."""
    space = Space(4096)
    for at in range(0x04, 0x0E):
        space.put(at, "<B", 0xFF)
    for index, low in enumerate((0xFE00000C, 1, 0xD021, 0xFD000000, 0xFC000008, 0)):
        space.put(0x10 + 4 * index, "<I", low)
    space.put(0x28, "<II", 0xAAAAAAAA, 0x22221111)
    space.put(0x30, "<I", 0xFFF00001)
    space.put(0x3C, "<I", 0xFFFF0107)
    places = (
        (0x01, 0x40, 8),
        (0x05, 0x48, 24),
        (0x03, 0x60, 8),
        (0x07, 0x68, 24),
        (0x09, 0x80, 8),
        (0x10, 0x90, 60),
        (0x11, 0xD0, 12),
        (0x13, 0xDC, 6),
    )
    for _, at, size in places:
        space.data[at + 2 : at + size] = b"\xff" * (size - 2)
    space.capabilities(*((id_, at) for id_, at, _ in places))
    space.put(0x06, "<H", 0xFFFF)
    space.put(0x4A, "<H", 0xFFF7)  # MSI: 8 vectors
    space.put(0x82, "<B", 8)
    space.put(0x92, "<H", 0xFF02)  # PCI Express, version 2, an endpoint
    space.put(0x92, "<H", 0x0002)
    space.put(0xD2, "<HII", 0xF803, 0x103, 0x804)
    for at, id_, version, size, following in (
        (0x100, 0x01, 2, 0x48, 0x150), (0x150, 0x04, 1, 16, 0x160), (0x160, 0x0B, 1, 16, 0x180), (0x180, 0x10, 1, 64, 0x1C0), (0x1C0, 0x23, 1, 16, 0),
    ):  # fmt: skip
        space.data[at + 4 : at + size] = b"\xff" * (size - 4)
        space.put(at, "<I", id_ | version << 16 | following << 20)
    for at in 0x164, 0x1C4:
        space.put(at, "<I", 0x010FFFFF)  # 16 bytes
    space.put(0x18E, "<H", 4)
    space.put(0x194, "<HH", 0x80, 2)
    function = space.of(sizes={0: 1 << 14, 2: 32, 3: 1 << 12, 4: 1 << 20})
    return Config(function, ADDRESSES)


def full(*ranges: tuple[int, int], value: int = 0xFFFFFFFF) -> Words:
    """Return the registers from each start to each end, with one value."""
    return {at: value for start, end in ranges for at in range(start, end, 4)}


def test_the_values_of_a_saved_function() -> None:
    """Nothing is enabled or pending, PME is hidden, and BARs have the host's addresses; all else is as saved."""
    config = saved()
    saved_bits = full(
        (0x08, 0x0C), (0x5C, 0x60), (0x64, 0x68), (0x6C, 0x80), (0x84, 0x88), (0x94, 0xCC), (0x108, 0x110), (0x114, 0x148), (0x154, 0x160),
        (0x168, 0x170), (0x184, 0x1C0), (0x1C8, 0x1D0),
    )  # fmt: skip
    del saved_bits[0x5C]
    assert values(config) == saved_bits | {
        0x00: 0x10501AF4, 0x04: 0x06F7FBFB, 0x0C: 0xFF00, 0x10: 0x4000400C, 0x14: 1, 0x18: 0xC021, 0x1C: 0xD0001000, 0x20: 0xE0100008,
        0x28: 0xAAAAAAAA, 0x2C: 0x22221111, 0x34: 0x40, 0x3C: 0xFFFF0107, 0x40: 0x07FF4801, 0x44: 0xFFFF7EFC, 0x48: 0xFF866005, 0x54: 0xFFFF0000,
        0x60: 0xFFFF6803, 0x68: 0xFFFF8007, 0x80: 0xFF089009, 0x90: 0x0002D010, 0x98: 0xFFD07FFF, 0xD0: 0x3803DC11, 0xD4: 0x103, 0xD8: 0x804,
        0xDC: 0xFFFF0013, 0x100: 0x15020001, 0x150: 0x16010004, 0x160: 0x1801000B, 0x164: 0x010FFFFF, 0x180: 0x1C010010, 0x18C: 0x0004FFFF,
        0x194: 0x00020080, 0x1C0: 0x00010023, 0x1C4: 0x010FFFFF,
    }  # fmt: skip
    assert (config.msi_control, config.msix_control, config.power_control) == (0x4A, 0xD2, 0x44)
    assert config.reset_bits == {0x99: 0x80, 0xE0: 0x01}


def test_what_a_saved_function_stores() -> None:
    nothing = full(
        (0x40, 0x44),
        (0x5C, 0x60),
        (0x68, 0x88),
        (0x90, 0xCC),
        (0xD0, 0xE0),
        (0x100, 0x148),
        (0x150, 0x170),
        (0x180, 0x1D0),
        value=0,
    )
    assert stored(saved()) == nothing | {
        0x04: 0x0507, 0x0C: 0xFF, 0x10: 0xFFFFC000, 0x14: 0xFFFFFFFF, 0x18: 0xFFFFFFE0, 0x1C: 0xFFFFF000, 0x20: 0xFFF00000, 0x3C: 0xFF, 0x44: 0x3,
        0x48: 0x00FF0000, 0x54: 0xFFFF, 0x58: 0xFF, 0x60: 0xFFFF0000, 0x98: 0xF0EF, 0xB8: 0x8000, 0xE0: 0xFFFF0001, 0x108: 0x03FFF030,
        0x10C: 0x03FFF030, 0x114: 0xF1C1, 0x118: 0x140,
    }  # fmt: skip


def test_what_a_reset_of_a_saved_function_restores() -> None:
    """Vendors' capabilities and what the kernel does not know of PCI Express are the device's own: they keep their contents."""
    config = saved()
    assert turned(config, config.reset) == full(
        (0x00, 0x80), (0x90, 0xC4), (0xD0, 0xE0), (0x100, 0x12C), (0x150, 0x160), (0x180, 0x1C0)
    ) | {0xE0: 0xFFFF}


def test_what_waking_a_saved_function_restores() -> None:
    config = saved()
    asleep = bytes(config.data)
    assert turned(config, lambda: config.wake(asleep)) == {
        0x04: 0xFBFF, 0x0C: 0xFFFF, 0x98: 0x0D1F, 0xB8: 0xFFDF, 0x108: 0x03FFF030, 0x10C: 0x03FFF030, 0x114: 0xF1C1, 0x118: 0x140,
    }  # fmt: skip


def everything_stored(size: int = 4096) -> dict[int, int]:
    """Return all bits of all registers, as those that a device stores: what remains is what vfio-pci lets through."""
    return dict.fromkeys(range(0, size, 4), 0xFFFFFFFF)


def test_what_vfio_pci_lets_through_to_a_saved_function() -> None:
    """The bits that a program can set if the device stores all of them."""
    space = Space(4096)
    places = ((0x01, 0x40, 8), (0x07, 0x50, 24), (0x10, 0x70, 60), (0x03, 0xB0, 8), (0x05, 0xC0, 24), (0x09, 0xE0, 8))
    space.capabilities(*((id_, at) for id_, at, _ in places))
    space.put(0x52, "<H", 0x1000)  # PCI-X, version 2
    space.put(0x72, "<H", 0x0002)
    space.put(0xC2, "<H", 0x0100)  # MSI with mask bits, and addresses of 32 bits
    space.put(0xE2, "<B", 8)
    space.put(0x100, "<I", 0x01 | 2 << 16 | 0x150 << 20)
    space.put(0x150, "<I", 0x04 | 1 << 16 | 0x170 << 20)
    space.put(0x170, "<II", 0x0B | 1 << 16, 0x01000000)
    config = Config(space.of(stored=everything_stored()), {})
    nothing = full(
        (0x40, 0x44),
        (0x70, 0x78),
        (0x7C, 0x98),
        (0x9C, 0xA4),
        (0x100, 0x104),
        (0x11C, 0x12C),
        (0x150, 0x158),
        (0x15C, 0x160),
        value=0,
    )
    # Power state and the bits of PMCSR that reach the device, the PCI-X command and ECC control, the bits that reach the
    # device of Device Control and Device Control 2; MSI: the control's low byte, address, data, masks and pending bits.
    assert stored(config) == nothing | {
        0x04: 0xFFFF, 0x0C: 0xFF00FFFF, 0x3C: 0xFF, 0x44: 0xFFFF7EFF, 0x50: 0xFFFF0000, 0x54: 0, 0x5C: 0, 0x60: 0, 0x64: 0,
        0x78: 0xFDFF, 0x98: 0xFFDF, 0xB0: 0xFFFF0000, 0xC0: 0x00FF0000, 0xC8: 0xFFFF, 0x104: 0x03FFF030, 0x108: 0x03FFF030, 0x10C: 0x03FFF030,
        0x110: 0xF1C1, 0x114: 0xF1C1, 0x118: 0x140, 0x158: 0xFF,
    }  # fmt: skip
