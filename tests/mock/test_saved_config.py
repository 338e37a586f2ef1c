# SPDX-License-Identifier: MIT
"""C18: a device made from a saved configuration space.

saved_spaces.json has data of five devices of a machine with Linux 7.3.4: sysfs's files `config` and `resource` from
before the devices were bound, and then, from vfio-pci, configuration space (`shown`) and interrupts. For PCI Express
devices it also has the bits of each register behind the header that stored ones and zeros written through vfio-pci
(`stores`; `stores_all` has the registers that store all 32 bits).
"""

from __future__ import annotations

import json
import random
import struct
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import pyvfio
from pyvfio import mock
from pyvfio.pci import SavedConfig

SPACES: dict[str, Any] = json.loads((Path(__file__).parent / "saved_spaces.json").read_text())
ADDRESS = "0000:00:0a.0"
#: Offsets that differ from the recorded device: BARs have addresses of the mock's host, and the mock has no ROMs.
_ELSEWHERE = (*range(0x10, 0x28), *range(0x30, 0x34))


def config(name: str, which: str = "config") -> bytes:
    return bytes.fromhex(SPACES[name][which]).ljust(SPACES[name]["size"], b"\0")


def resource(name: str) -> str:
    return "\n".join(SPACES[name]["resource"])


def opened(function: mock.Function) -> pyvfio.Device:
    kernel = mock.Kernel("intel-48")
    mock.Device(kernel, ADDRESS, function=function, driver="vfio-pci")
    return pyvfio.open(ADDRESS, kernel=kernel)


class Space:
    """A configuration space of 256 or 4096 bytes with an endpoint's header, to which tests add capabilities."""

    def __init__(self, size: int = 256) -> None:
        self.data = bytearray(size)
        self.put(0x00, "<HHHH", 0x1AF4, 0x1050, 0, 0)

    def put(self, offset: int, form: str, *values: int) -> None:
        struct.pack_into(form, self.data, offset, *values)

    def capabilities(self, *places: tuple[int, int]) -> None:
        """Link capabilities, given as (id, offset), into a list."""
        self.put(0x06, "<H", 0x10)
        link = 0x34
        for id_, at in places:
            self.put(link, "<B", at)
            self.put(at, "<BB", id_, 0)
            link = at + 1

    def of(self, **more: Any) -> mock.Function:
        return mock.Function.of(self.data, **more)


@pytest.mark.parametrize("name", SPACES)
def test_a_saved_device_is_what_the_kernel_shows(name: str) -> None:
    with opened(mock.Function.of(config(name), resource=resource(name))) as device:
        shown, expected = device.config.read(0, device.config.size), config(name, "shown")
        assert len(shown) == len(expected)
        different = [at for at, pair in enumerate(zip(shown, expected, strict=True)) if pair[0] != pair[1]]
        assert set(different) <= set(_ELSEWHERE)
        assert [device.irqs[index].info.count for index in range(3)] == SPACES[name]["irqs"]
        for index, line in enumerate(SPACES[name]["resource"]):
            start, last, _ = (int(number, 16) for number in line.split())
            assert device.regions[index].info.size == (last - start + 1 if last else 0)


@pytest.mark.parametrize("name", SPACES)
def test_sysfs_shows_the_same_kinds_of_bars(name: str) -> None:
    kernel = mock.Kernel("intel-48")
    mock.Device(kernel, ADDRESS, function=mock.Function.of(config(name), resource=resource(name)))
    lines = kernel.read_file(f"/sys/bus/pci/devices/{ADDRESS}/resource").decode().splitlines()
    assert [line.split()[2] for line in lines[:6]] == [line.split()[2] for line in SPACES[name]["resource"]]
    methods = SPACES[name]["reset_method"].replace("bus", "").split()
    path = f"/sys/bus/pci/devices/{ADDRESS}/reset_method"
    assert (kernel.read_file(path).decode().split() if kernel.exists(path) else []) == methods


@pytest.mark.parametrize("name", SPACES)
def test_what_the_mock_shows_can_be_saved_and_read_again(name: str) -> None:
    first = mock.Function.of(config(name), resource=resource(name))
    with opened(first) as device:
        again = mock.Function.of(device.config.read(0, device.config.size), resource=resource(name))
    assert replace(again, saved=None) == replace(first, saved=None)


def test_a_dump_of_lspci_makes_a_device() -> None:
    rows = [config("nvme")[at : at + 16] for at in range(0, 4096, 16)]
    dump = "0000:01:00.0 Non-Volatile memory controller\n"
    dump += "".join(f"{16 * index:02x}: {row.hex(' ')}\n" for index, row in enumerate(rows))
    function = mock.Function.of(SavedConfig.read_dump(dump)["0000:01:00.0"], sizes={0: 0x4000})
    assert function == mock.Function.of(config("nvme"), resource=resource("nvme"))
    assert (function.ids, function.class_code, function.reset_methods) == ((0x1B36, 0x10), 0x010802, ("flr",))
    assert function.bars == {0: mock.Bar(0x4000, wide=True)}


def test_sizes_that_are_not_given_hold_the_msix_table() -> None:
    # igb's BARs: registers, flash, ports, and the MSI-X table with its pending bits at 0x2000. The firmware's addresses
    # limit the sizes.
    sizes = {index: bar.size for index, bar in mock.Function.of(config("igb")).bars.items()}
    assert sizes == {0: 4096, 1: 4096, 2: 32, 3: 0x4000}


#: Registers of the recorded devices that store fewer bits than PCI requires: the error reporting enables in device
#: control.
STORED: dict[str, dict[int, int]] = {"nvme": {}, "82574": {0xE8: 0}, "igb": {0xA8: 0}}
#: Offsets of the power management control register, which is skipped because it changes the power state.
_POWER = {"nvme": 0x64, "82574": 0xCC, "igb": 0x44}


def stored_bits(device: pyvfio.Device, skipped: int) -> dict[int, int]:
    """Return, for each register behind the header, the bits that store written values."""
    express = device.config.capability("Express")
    assert express is not None
    found = {}
    for at in range(0x40, device.config.size, 4):
        if at != skipped:
            before = device.config.read32(at)
            # Do not set the bit that starts a function-level reset.
            device.config.write32(at, 0xFFFFFFFF & ~(0x8000 if at == express.offset + 8 else 0))
            ones = device.config.read32(at)
            device.config.write32(at, 0)
            found[at] = ones & ~device.config.read32(at)
            device.config.write32(at, before)
            assert device.config.read32(at) == before
    return {at: bits for at, bits in found.items() if bits}


@pytest.mark.parametrize("name", STORED)
def test_a_saved_device_stores_what_the_kernel_lets_through(name: str) -> None:
    expected = {int(at, 16): int(bits, 16) for at, bits in SPACES[name]["stores"].items()}
    for run in SPACES[name]["stores_all"]:
        start, end = (int(number, 16) for number in run.split("-"))
        expected |= dict.fromkeys(range(start, end, 4), 0xFFFFFFFF)
    function = mock.Function.of(config(name), resource=resource(name), stored=STORED[name])
    with opened(function) as device:
        assert stored_bits(device, _POWER[name]) == expected


def test_a_device_stores_the_bits_that_it_is_said_to_store() -> None:
    # Before QEMU 8.0, the 82574 has no masks of uncorrectable errors.
    function = mock.Function.of(
        config("82574"), resource=resource("82574"), stored={0x108: 0, 0x114: 0x2000, 0x400: 0xF0}
    )
    with opened(function) as device:
        for at, bits in (0x108, 0), (0x10C, 0x03FFF030), (0x114, 0x2000), (0x400, 0xF0):
            device.config.write32(at, 0)
            before = device.config.read32(at)
            device.config.write32(at, 0xFFFFFFFF)
            assert device.config.read32(at) & ~before == bits


def test_what_vfio_pci_keeps_to_itself_no_device_stores() -> None:
    # Registers that vfio-pci virtualizes: Interrupt Line, MSI's address, the power state, the header of a capability.
    everything = dict.fromkeys(range(0, 4096, 4), 0xFFFFFFFF)
    function = mock.Function.of(config("82574"), resource=resource("82574"), stored=everything)
    nothing = mock.Function.of(config("82574"), resource=resource("82574"), stored=dict.fromkeys(everything, 0))
    for one in function, nothing:
        with opened(one) as device:
            for at, data in (0x3C, b"\x07"), (0xD4, b"\x78\x56\x34\x12"), (0xCC, b"\x03"):
                device.config.write(at, data)
                assert device.config.read(at, len(data)) == data
            device.config.write(0xCC, b"\0")
            for at in 0x00, 0x08, 0xA0, 0xC8, 0xE0, 0x100:
                before = device.config.read(at, 2)
                device.config.write(at, bytes(255 - byte for byte in before))
                assert device.config.read(at, 2) == before


def test_waking_up_restores_aer_and_not_a_vendors_registers() -> None:
    # pci_save_state saves the registers of PCI Express and of error reporting, but not those of a vendor-specific
    # capability.
    space = Space(4096)
    space.capabilities((0x01, 0x40), (0x10, 0x50), (0x09, 0xA0))
    space.put(0xA2, "<B", 16)
    space.put(0x100, "<I", 0x01 | 2 << 16)
    with opened(space.of(stored={0xA4: 0xFFFFFFFF})) as device:
        device.config.write16(0x44, 3)
        for at in 0x5A - 2, 0xA4, 0x108, 0x118:
            device.config.write32(at, 0xFFFFFFFF)
        asleep = [device.config.read32(at) for at in (0x58, 0xA4, 0x108, 0x118)]
        device.config.write16(0x44, 0)
        awake = [device.config.read32(at) for at in (0x58, 0xA4, 0x108, 0x118)]
    assert asleep == [0x70EF, 0xFFFFFFFF, 0x03FFF030, 0]
    assert awake == [0x70E0, 0xFFFFFFFF, 0, 0]


def first_stored(device: pyvfio.Device, at: int) -> int:
    """Return the distance from an offset to the first byte behind it that stores all bits."""
    for each in range(at, device.config.size):
        before = device.config.read(each, 1)
        device.config.write(each, bytes((before[0] ^ 0xFF,)))
        if device.config.read(each, 1)[0] == before[0] ^ 0xFF:
            return each - at
    raise AssertionError("none stores anything")


@pytest.mark.parametrize(
    ("id_", "body", "length"),
    [
        (0x02, b"", 12),  # AGP
        (0x07, b"\0\0", 8),  # PCI-X, and its second version
        (0x07, b"\0\x10", 24),
        (0x08, b"\0\0", 28),  # HyperTransport
        (0x08, b"\0\x20", 24),
        (0x09, b"\x0d", 13),
        (
            0x10,
            b"\x01\0",
            20,
        ),  # PCI Express with a link, and without one: what is behind is the device's own, and constant
        (0x10, b"\x91\0", 20),
        (0x10, b"\x02\0", 60),
        (0x12, b"\x10\0\x05", 8),  # SATA: registers in BAR 1, and in configuration space
        (0x12, b"\x10\0\x0f", 16),
    ],
)
def test_a_capability_ends_where_the_kernel_ends_it(id_: int, body: bytes, length: int) -> None:
    space = Space()
    space.capabilities((id_, 0x80))
    space.data[0x82 : 0x82 + len(body)] = body
    with opened(space.of()) as device:
        assert first_stored(device, 0x80) == length


@pytest.mark.parametrize(
    ("id_", "words", "length"),
    [
        (0x02, (0, 0), 28),
        (0x02, (2, 2), 80),  # 3 channels, and a table of 32 phases, at a multiple of 16
        (0x08, (0, 8), 96),
        (0x03, (), 12),
        (0x0D, (0,), 8),
        (0x0D, (0x20,), 40),
        (0x0D, (0x2120,), 16),
        (0x12, (), 40),
        (0x15, (0, 0x40), 20),
        (0x16, (3,), 20),
        (0x17, (2 << 16 | 1 << 9,), 18),
        (0x17, (2 << 16 | 2 << 9,), 12),
    ],
)
def test_an_extended_capability_ends_where_the_kernel_ends_it(id_: int, words: tuple[int, ...], length: int) -> None:
    space = Space(4096)
    space.capabilities((0x10, 0x40))
    space.put(0x100, "<I", id_ | 1 << 16)
    for index, word in enumerate(words):
        space.put(0x104 + 4 * index, "<I", word)
    with opened(space.of()) as device:
        assert first_stored(device, 0x100) == length


@pytest.mark.parametrize(("version", "length"), [(1, 0x40), (2, 0x48)])
def test_error_reporting_ends_where_the_device_ends_it(version: int, length: int) -> None:
    # The kernel knows 0x2C bytes of the capability. Writes to the registers behind (a root port's, and prefixes) reach
    # the device, which does not store them.
    space = Space(4096)
    space.capabilities((0x10, 0x40))
    space.put(0x100, "<I", 0x01 | version << 16)
    with opened(space.of()) as device:
        assert first_stored(device, 0x118) == length - 0x18


def test_the_header_of_a_hidden_first_capability_is_constant() -> None:
    space = Space(4096)
    space.capabilities((0x10, 0x40))
    space.put(0x100, "<I", 0x1B | 1 << 16 | 0x140 << 20)
    space.put(0x140, "<I", 0x18 | 1 << 16)
    with opened(space.of()) as device:
        assert first_stored(device, 0x100) == 4


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        ({2: 0}, "stored: 0x2 is not the offset of a register"),
        ({4096: 0}, "stored: 0x1000 is not the offset"),
        ({-4: 0}, "stored: -0x4 is not the offset"),
        ({4: 1 << 32}, "stored: the register at 0x4 has 32 bits"),
        ({4: -1}, "stored: the register at 0x4 has 32 bits"),
    ],
)
def test_impossible_stored_bits_are_refused(stored: dict[int, int], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        mock.Function.of(config("82574"), resource=resource("82574"), stored=stored)


def test_sizes_and_stored_bits_are_any_mapping_of_integers() -> None:
    class Index(int):
        """An integer of another type, such as numpy's."""

    sizes = MappingProxyType({0: 0x4000, 1: Index(0x2000)})
    function = mock.Function.of(config("igb"), sizes=sizes, stored=MappingProxyType({0xA8: Index(0)}))
    assert (function.bars[0].size, function.bars[1].size, function.stored) == (0x4000, 0x2000, {0xA8: 0})
    for name in "sizes", "stored":
        for wrong in [(0, 4096)], 4096, {0: 4096.0}, {"0": 4096}, {0: True}:
            with pytest.raises(TypeError, match=name):
                mock.Function.of(config("igb"), **{name: wrong})  # type: ignore[arg-type]  # the wrong type is the test


def test_a_function_level_reset_of_a_saved_device_works() -> None:
    with opened(mock.Function.of(config("nvme"), resource=resource("nvme"))) as device:
        device.regions[0].write32(0x1000, 0xDEADBEEF)
        express = device.config.capability("Express")
        assert express is not None
        device.config.write16(express.offset + 8, device.config.read16(express.offset + 8) | 0x8000)
        assert device.regions[0].read32(0x1000) == 0


@pytest.mark.parametrize(("control", "methods", "kept"), [(0, ("pm",), 0), (8, (), 0x1234)])
def test_no_soft_reset_is_honoured(control: int, methods: tuple[str, ...], kept: int) -> None:
    space = Space()
    space.capabilities((0x01, 0x40))
    space.put(0x42, "<HH", 0xC803, control)
    function = space.of(sizes={0: 4096})
    assert function.reset_methods == methods
    with opened(function) as device:
        assert device.config.read16(0x42) == 3, "PME is the host's affair"
        device.regions[0].write32(0, 0x1234)
        device.config.write16(0x44, 3)
        device.config.write16(0x44, 0)
        assert device.config.read16(0x44) == control
        device.config.memory_enabled = True
        assert device.regions[0].read32(0) == kept


def test_hidden_capabilities_are_linked_past() -> None:
    space = Space(4096)
    space.capabilities((0x0D, 0x40), (0x10, 0x50), (0x00, 0x90), (0x14, 0x98), (0x09, 0xA0), (0x09, 0xB0))
    space.put(0xA2, "<B", 0)  # a vendor-specific capability with length 0
    space.put(0xB2, "<B", 16)
    for at, id_, following in (0x100, 0x1B, 0x140), (0x140, 0x18, 0x180), (0x180, 0x1D, 0x1C0), (0x1C0, 0x03, 0):
        space.put(at, "<I", id_ | 1 << 16 | following << 20)
    with opened(space.of()) as device:
        assert [(one.id, one.offset) for one in device.config.capabilities] == [(0x10, 0x50), (0x09, 0xB0)]
        assert [(one.id, one.offset) for one in device.config.extended_capabilities] == [(0x18, 0x140), (0x03, 0x1C0)]
        assert device.config.read32(0x100) == 0x140 << 20


def test_virtual_functions_are_those_of_the_saved_capability() -> None:
    space = Space(4096)
    space.capabilities((0x10, 0x40))
    space.put(0x100, "<I", 0x10 | 1 << 16)
    space.put(0x10E, "<H", 7)
    space.put(0x114, "<HHHH", 0x80, 2, 0, 0x10CA)
    function = space.of()
    assert (function.virtual, function.virtual_at, function.virtual_device) == (7, (0x80, 2), 0x10CA)


def test_a_virtual_function_needs_its_ids() -> None:
    space = Space()
    space.put(0, "<I", 0xFFFFFFFF)
    with pytest.raises(ValueError, match=r"virtual function.*ids="):
        space.of()
    lines = ["0x00000000fea00000 0x00000000fea03fff 0x000000000014220c", *["0x0 0x0 0x0"] * 5]
    function = space.of(ids=(0x8086, 0x10CA), resource="\n".join(lines))
    assert function.bars == {0: mock.Bar(0x4000, wide=True, prefetchable=True)}
    with opened(function) as device:
        assert (device.config.vendor, device.config.device_id) == (0x8086, 0x10CA)


@pytest.mark.parametrize("count", [64, 256, 4096])
def test_a_prefix_of_a_saved_space_is_a_device(count: int) -> None:
    function = mock.Function.of(config("igb")[:count], resource=resource("igb"))
    assert (function.msix, function.express) == ((0, False) if count == 64 else (10, True))
    assert bool(function.virtual) == function.error_reporting == (count == 4096)
    with opened(function) as device:
        assert device.config.size == (256 if count == 64 else 4096)
        assert bool(device.config.capabilities) == (count > 64)


def test_extended_space_that_reads_as_ones_is_not_there() -> None:
    data = bytearray(config("nvme"))
    data[256:] = b"\xff" * (4096 - 256)
    with opened(mock.Function.of(data, resource=resource("nvme"))) as device:
        assert device.config.size == 256
        assert device.config.capability("MSI-X") is not None


def broken_lists() -> Iterator[Any]:
    for name, link, where in (
        ("into the header", 0x20, "points into the header, to 0x20"),
        ("cyclic", 0x40, "has a cycle at 0x40"),
        ("to itself", 0x50, "has a cycle at 0x50"),
        ("ones", 0xF0, "ends in ones, at 0xf0"),
    ):
        space = Space()
        space.capabilities((0x05, 0x40), (0x01, 0x50))
        space.put(0x51, "<B", link)
        space.put(0xF0, "<B", 0xFF)
        yield pytest.param(space, where, [5, 1], id=name)
    for name, link, where in (
        ("cyclic extended", 0x100, "has a cycle at 0x100"),
        ("short extended", 0x80, "points out of extended space, to 0x80"),
    ):
        space = Space(4096)
        space.capabilities((0x10, 0x40))
        space.put(0x100, "<I", 0x18 | 1 << 16 | 0x140 << 20)
        space.put(0x140, "<I", 0x03 | 1 << 16 | link << 20)
        yield pytest.param(space, where, [0x10], id=name)


@pytest.mark.parametrize(("space", "where", "before"), list(broken_lists()))
def test_a_broken_list_works_up_to_the_break(space: Space, where: str, before: list[int]) -> None:
    with pytest.warns(RuntimeWarning, match=where):
        function = space.of()
    with opened(function) as device, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert [one.id for one in device.config.capabilities] == before
        # The saved bytes are unchanged, so a reader of the list stops at the same place.
        extended = [one.id for one in device.config.extended_capabilities]
    assert extended == ([0x18, 0x03] if 0x10 in before else [])


def bar(value: int, index: int = 0) -> Space:
    space = Space()
    space.put(0x10 + 4 * index, "<I", value)
    return space


def with_header(kind: int) -> Space:
    space = Space()
    space.put(0x0E, "<B", kind)
    return space


def with_pin(pin: int) -> Space:
    space = Space()
    space.put(0x3D, "<B", pin)
    return space


def with_msi(control: int) -> Space:
    space = Space()
    space.capabilities((0x05, 0x40))
    space.put(0x42, "<H", control)
    return space


def with_msix(table: int, pending: int, vectors: int = 4) -> Space:
    space = bar(0xFE000000)
    space.capabilities((0x11, 0x40))
    space.put(0x42, "<HII", vectors - 1, table, pending)
    return space


ONES = Space()
ONES.data[:] = b"\xff" * 256


@pytest.mark.parametrize(
    ("space", "options", "match"),
    [
        (ONES, {}, "reads as ones: the device was asleep"),
        (with_header(1), {}, r"header type 1 \(a PCI bridge\): VFIO takes endpoints only"),
        (with_header(2), {}, r"header type 2 \(a CardBus bridge\)"),
        (with_header(5), {}, r"header type 5 \(unknown\)"),
        (with_pin(7), {}, "interrupt pin register reads 7"),
        (bar(0xFE000006), {}, "BAR0 reads 0xfe000006: its type.* is reserved"),
        (bar(0xFE000004, 5), {}, "BAR5 reads 0xfe000004: the last BAR cannot have 64 bits"),
        (bar(0xFE001000), {"sizes": {0: 0x4000}}, "BAR0 is at 0xfe001000, which is not a multiple of its size, 0x4000"),
        (bar(0xFE000000), {"sizes": {0: 0x3000}}, "BAR0: size=0x3000: .* power of two"),
        (bar(0xFE000004), {"sizes": {1: 0x1000}}, "BAR1 is the upper half of BAR0"),
        (bar(0xFE000000), {"sizes": {6: 0x1000}}, "there is no BAR6"),
        (bar(0xFE000000), {"sizes": {0: 0x1000}, "resource": ""}, "give one of them"),
        (bar(0xFE000000), {"resource": ""}, "resource has 0 lines"),
        (bar(0xFE000000), {"resource": "nonsense\n" * 6}, "'nonsense' is not a line"),
        (bar(0xFE000000), {"resource": "0x0 0x0 0x0\n" * 6}, "the kernel has no BAR0, and config has one"),
        (bar(0xD001), {"resource": "0xd000 0xd01f 0x40200\n" + "0x0 0x0 0x0\n" * 5}, "BAR0 is of another kind"),
        (with_msi(6 << 1), {}, "msi=64: MSI has"),
        (with_msix(3, 0x800), {}, r"msix_table=\(3, 0x0\)"),
        (with_msix(0, 0x1000), {"sizes": {0: 0x1000}}, r"msix_pending=\(0, 0x1000\)"),
    ],
)
def test_an_impossible_space_is_refused(space: Space, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        space.of(**options)


@pytest.mark.parametrize("count", [0, 1, 63, 65, 255, 257, 4095, 4097])
def test_truncated_bytes_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"config has {count} bytes: .* 64 .*, 256 or 4096"):
        mock.Function.of(config("igb").ljust(4097, b"\0")[:count])


@pytest.mark.parametrize("value", [256, "00: 86 80", None, [0] * 256])
def test_what_is_not_bytes_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="config must be bytes, not"):
        mock.Function.of(value)


def test_a_copy_with_other_capabilities_is_refused() -> None:
    function = mock.Function.of(config("igb"), resource=resource("igb"))
    assert replace(function, bus_resets=False, virtual_room=1).saved is function.saved
    with pytest.raises(ValueError, match="msi=4: the saved configuration space says 1"):
        replace(function, msi=4)
    assert replace(function, msi=4, saved=None).msi == 4


def test_any_bytes_make_a_device_or_a_clear_error() -> None:
    """Random changes of igb's bytes: no other exception is raised, and each resulting device can be opened and its lists walked."""
    chosen = random.Random(14)
    made = 0
    for _ in range(300):
        data = bytearray(config("igb"))
        for _ in range(chosen.randrange(1, 6)):
            data[chosen.choice([chosen.randrange(0x40), chosen.randrange(0x100), chosen.randrange(0x200)])] = (
                chosen.randrange(256)
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                function = mock.Function.of(data)
            except ValueError:
                continue
            made += 1
            with opened(function) as device:
                assert len(device.config.capabilities) <= 48
                assert len(device.config.extended_capabilities) < 960
    assert 100 < made < 300


@pytest.mark.parametrize("able", [0x00, 0x20, 0x80, 0xA0])
def test_ecrc_is_enabled_where_the_device_is_able_to(able: int) -> None:
    # PCI_ERR_CAP_ECRC_GENC (0x20) and CHKC (0x80) say so; the enables are the next bit of each.
    space = Space(4096)
    space.capabilities((0x10, 0x40))
    space.put(0x42, "<H", 0x0002)
    space.put(0x100, "<I", 0x0001 | 2 << 16)
    space.put(0x118, "<I", able)
    with opened(space.of()) as device:
        seen = []
        for written in (0xFFFFFFFF, 0, 0x140, 0x40, 0x100):
            device.config.write(0x118, struct.pack("<I", written))
            seen.append(int.from_bytes(device.config.read(0x118, 4), "little"))
        mask = able << 1
        assert seen == [able | mask, able, able | mask, able | 0x40 & mask, able | 0x100 & mask]


def test_the_registers_of_vital_product_data_hold_what_is_written() -> None:
    # Address and data, 6 bytes behind the header of the capability, which cannot be written.
    space = Space()
    space.capabilities((0x03, 0x40))
    with opened(space.of()) as device:
        before = device.config.read(0x40, 2)
        for at in range(0x40, 0x48):
            device.config.write(at, b"\x5a")
        shown = device.config.read(0x40, 8)
        assert shown[:2] == before
        assert shown[2:8] == b"\x5a" * 6
