# SPDX-License-Identifier: MIT
"""The parts of the mock's PCI, each by itself: which descriptions of functions PCI allows, the placement of BARs, drivers, reset methods."""

from __future__ import annotations

import errno
from contextlib import nullcontext
from typing import Any

import pytest

from pyvfio import mock
from pyvfio.mock.vfio.pci import saved
from pyvfio.mock.vfio.pci.device import _by_pages
from tests.mock.errnos import refused

NAME = "0000:00:0a.0"
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def allowed(right: bool) -> Any:
    return nullcontext() if right else pytest.raises(ValueError)


# --- descriptions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "more", "right"),
    [
        (16, {}, True),
        (8, {}, False),
        (0, {}, False),
        (24, {}, False),
        (2 * GIB, {}, True),
        (4 * GIB, {}, False),
        (1 << 40, {"wide": True}, True),
        (1 << 41, {"wide": True}, False),
        (4, {"ports": True}, True),
        (2, {"ports": True}, False),
        (256, {"ports": True}, True),
        (512, {"ports": True}, False),
        (16, {"ports": True, "wide": True}, False),
        (16, {"ports": True, "prefetchable": True}, False),
        (16, {"ports": True, "memory": True}, False),
        (4096, {"wide": True, "prefetchable": True, "memory": True}, True),
        (-16, {}, False),
    ],
)
def test_sizes_of_bars(size: int, more: dict[str, bool], right: bool) -> None:
    with allowed(right):
        mock.Bar(size, **more)


@pytest.mark.parametrize(
    ("more", "right"),
    [
        ({"ids": (0xFFFF, 0)}, True),
        ({"ids": (0, 0x10000)}, False),
        ({"ids": (-1, 0)}, False),
        ({"subsystem": (0xFFFF, 0xFFFF)}, True),
        ({"subsystem": (0x10000, 0)}, False),
        ({"class_code": 0xFFFFFF}, True),
        ({"class_code": 0x1000000}, False),
        ({"revision": 0xFF}, True),
        ({"revision": 0x100}, False),
        ({"msix": 2048}, True),
        ({"msix": 2049}, False),
        ({"msix": -1}, False),
        *[({"msi": count}, count in (0, 1, 2, 4, 8, 16, 32)) for count in (*range(10), 16, 31, 32, 33, 64)],
        ({"virtual": 0xFFFF, "express": True}, True),
        ({"virtual": 0x10000, "express": True}, False),
        ({"virtual": 1}, False),
        ({"virtual": 1, "express": True, "virtual_at": (1, 1)}, True),
        ({"virtual": 1, "express": True, "virtual_at": (0, 1)}, False),
        ({"virtual": 1, "express": True, "virtual_at": (1, 0)}, False),
        ({"virtual_at": (0, 0)}, True),
        ({"virtual_at": (0x10000, 1)}, False),
        ({"virtual_device": 0xFFFF}, True),
        ({"virtual_device": 0x10000}, False),
        ({"stored": {0xFC: 0xFFFFFFFF}}, True),
        ({"stored": {0x100: 0}}, False),
        ({"stored": {0xFFC: 0}, "express": True}, True),
        ({"stored": {0x1000: 0}, "express": True}, False),
        ({"stored": {2: 0}}, False),
        ({"stored": {0: 1 << 32}}, False),
        ({"bars": {5: mock.Bar(16)}}, True),
        ({"bars": {6: mock.Bar(16)}}, False),
        ({"bars": {-1: mock.Bar(16)}}, False),
        ({"bars": {4: mock.Bar(16, wide=True)}}, True),
        ({"bars": {5: mock.Bar(16, wide=True)}}, False),
        ({"bars": {0: mock.Bar(16, wide=True), 1: mock.Bar(16)}}, False),
        ({"bars": {0: mock.Bar(16, wide=True), 2: mock.Bar(16)}}, True),
        ({"bars": {1: mock.Bar(16)}, "bridge": True}, True),
        ({"bars": {2: mock.Bar(16)}, "bridge": True}, False),
        ({"bars": {0: mock.Bar(16, wide=True)}, "bridge": True}, True),
        ({"bars": {1: mock.Bar(16, wide=True)}, "bridge": True}, False),
        # The MSI-X table: 16 bytes for each vector; pending bits: 8 bytes for 64 vectors.
        ({"msix": 4, "bars": {0: mock.Bar(64)}, "msix_table": (0, 0), "msix_pending": (0, 56)}, True),
        ({"msix": 4, "bars": {0: mock.Bar(64)}, "msix_table": (0, 8), "msix_pending": (0, 56)}, False),
        ({"msix": 4, "bars": {0: mock.Bar(64)}, "msix_table": (0, 0), "msix_pending": (0, 64)}, False),
        ({"msix": 64, "bars": {0: mock.Bar(2048)}, "msix_table": (0, 1024), "msix_pending": (0, 0)}, True),
        ({"msix": 64, "bars": {0: mock.Bar(1024), 1: mock.Bar(16)}, "msix_table": (0, 0), "msix_pending": (1, 8)}, True),
        ({"msix": 65, "bars": {0: mock.Bar(2048), 1: mock.Bar(16)}, "msix_table": (0, 0), "msix_pending": (1, 8)}, False),
        ({"msix": 65, "bars": {0: mock.Bar(2048), 1: mock.Bar(16)}, "msix_table": (0, 0), "msix_pending": (1, 0)}, True),
        ({"msix": 1, "bars": {0: mock.Bar(64)}, "msix_table": (0, 4), "msix_pending": (0, 32)}, False),
        ({"msix": 1, "bars": {0: mock.Bar(64)}, "msix_table": (0, -8), "msix_pending": (0, 32)}, False),
        ({"msix": 1, "bars": {0: mock.Bar(64)}, "msix_table": (1, 0), "msix_pending": (0, 32)}, False),
        ({"msix": 1, "bars": {0: mock.Bar(64, ports=True)}, "msix_table": (0, 0), "msix_pending": (0, 32)}, False),
        ({"msix": 1, "bars": {index: mock.Bar(64) for index in range(5)}}, True),
        ({"msix": 1, "bars": {index: mock.Bar(64) for index in range(6)}}, False),
        ({"msix": 1, "bars": {index: mock.Bar(64) for index in range(6)}, "msix_table": (5, 0)}, True),
        ({"msix": 1, "bars": {index: mock.Bar(64, wide=True) for index in (0, 2, 4)}}, False),
    ],
)  # fmt: skip
def test_functions_that_pci_allows(more: dict[str, Any], right: bool) -> None:
    with allowed(right):
        mock.Function(**({"ids": (0x1234, 0x5678)} | more))


@pytest.mark.parametrize(
    ("more", "table", "pending", "size"),
    [
        ({"msix": 1}, (0, 0), (0, 16), 4096),
        ({"msix": 64}, (0, 0), (0, 1024), 4096),
        ({"msix": 255}, (0, 0), (0, 4080), 8192),
        ({"msix": 2048}, (0, 0), (0, 32768), 65536),
        ({"msix": 1, "bars": {0: mock.Bar(16, wide=True), 2: mock.Bar(16)}}, (3, 0), (3, 16), 4096),
        ({"msix": 4, "bars": {1: mock.Bar(8192)}, "msix_table": (1, 0x100)}, (1, 0x100), (1, 0x140), None),
    ],
)
def test_where_the_msix_table_is(
    more: dict[str, Any], table: tuple[int, int], pending: tuple[int, int], size: int | None
) -> None:
    function = mock.Function((1, 2), **more)
    assert (function.table, function.pending) == (table, pending)
    added = {index: bar for index, bar in function.all_bars.items() if index not in function.bars}
    assert added == ({} if size is None else {table[0]: mock.Bar(size)})


@pytest.mark.parametrize(
    ("more", "methods"),
    [
        ({}, ()),
        ({"express": True}, ()),
        ({"resets": True}, ("device_specific",)),
        ({"resets": True, "express": True}, ("flr",)),
        ({"resets": True, "flr": True}, ("device_specific",)),
        ({"resets": True, "express": True, "flr": False}, ("device_specific",)),
        ({"resets": True, "power_management": True}, ("pm",)),
        ({"resets": True, "power_management": True, "no_soft_reset": True}, ("device_specific",)),
        ({"resets": True, "express": True, "power_management": True}, ("pm",)),
        ({"resets": True, "express": True, "power_management": True, "flr": True}, ("flr", "pm")),
        ({"resets": True, "advanced_features": True}, ("af_flr",)),
        ({"resets": True, "express": True, "power_management": True, "flr": True, "advanced_features": True}, ("flr", "af_flr", "pm")),
    ],
)  # fmt: skip
def test_methods_that_reset_a_function(more: dict[str, bool], methods: tuple[str, ...]) -> None:
    assert mock.Function((1, 2), **more).reset_methods == methods  # type: ignore[arg-type]  # these are bools


# --- lengths of saved capabilities (pci_cap_length, vfio_cap_len, vfio_ext_cap_len) -----------------------------------------


@pytest.mark.parametrize(
    ("data", "length"),
    [
        ("01 00 ff ff", 8), ("02 00", 12), ("03 00", 8), ("04 00", 0), ("05 00 00 00", 10), ("05 00 80 00", 14), ("05 00 00 01", 20), ("05 00 80 01", 24),
        ("05 00 7f fe", 10), ("06 00", 0), ("07 00 00 00", 8), ("07 00 00 10", 24), ("07 00 00 20", 24), ("07 00 ff cf", 8), ("08 00 00 00", 28),
        ("08 00 ff 1f", 28), ("08 00 00 20", 24), ("08 00 00 80", 24), ("09 00 00", 0), ("09 00 0d", 13), ("0a 00", 0), ("10 00 01 00", 20),
        ("10 00 91 00", 12), ("10 00 02 00", 52), ("10 00 92 00", 44), ("10 00 f1 ff", 20), ("11 00", 12), ("12 00 10 00 05", 8), ("12 00 10 00 0f", 16),
        ("12 00 10 00 ff", 16), ("13 00", 6), ("14 00", 0), ("00 00", 0), ("ff 00", 0),
    ],
)  # fmt: skip
def test_lengths_of_capabilities(data: str, length: int) -> None:
    assert saved._length(bytearray(8) + bytearray.fromhex(data).ljust(16, b"\0"), 8) == length


@pytest.mark.parametrize(
    ("words", "length"),
    [
        ((0x01,), 0x2C), ((0x03,), 12), ((0x04,), 16), ((0x05,), 0), ((0x0E,), 8), ((0x0F,), 8), ((0x10,), 64), ((0x12,), 40), ((0x13,), 16), ((0x18,), 8),
        # Virtual channels: 12 bytes each, and the table of the arbitration with the most phases.
        ((0x02, 0, 0), 28), ((0x02, 7, 0), 112), ((0x08, 8, 0), 28), ((0x09, 1, 1), 40), ((0x02, 0, 2), 48), ((0x02, 0, 4), 64), ((0x02, 0, 8), 96),
        ((0x02, 0, 0xE), 96), ((0x02, 0, 6), 64), ((0x02, 2, 2), 80), ((0x02, 0, 0x10), 28),
        ((0x0B, 0x0180_0000 & 0xFFF00000), 24), ((0x23, 0xFFF << 20), 4095), ((0x0B, 0x000FFFFF), 0),
        ((0x0D, 0), 8), ((0x0D, 0xFF1F), 8), ((0x0D, 0x20), 40), ((0x0D, 0x120), 12), ((0x0D, 0x2020), 12), ((0x0D, 0x2120), 16), ((0x0D, 0xFF20), 40),
        ((0x15, 0, 0x20), 12), ((0x15, 0, 0xE0), 60), ((0x15, 0, 0x1F), 4),
        ((0x16, 0), 17), ((0x16, 0x1F), 48), ((0x16, 0xE0), 17),
        ((0x17, 0), 12), ((0x17, 1 << 9), 14), ((0x17, 1 << 9 | 0x7FF << 16), 4108), ((0x17, 2 << 9 | 3 << 16), 12), ((0x17, 3 << 9 | 3 << 16), 12),
        ((0x1B,), 0), ((0x10001,), 0x2C),
    ],
)  # fmt: skip
def test_lengths_of_extended_capabilities(words: tuple[int, ...], length: int) -> None:
    data = bytearray(16) + b"".join(word.to_bytes(4, "little") for word in words).ljust(16, b"\0")
    assert saved._extended_length(bytearray(data), 16) == length


# --- the host -------------------------------------------------------------------------------------------------------------


def test_bars_are_placed_as_by_firmware() -> None:
    host = mock.Kernel("none").host
    host._free, host._high, host._ports = 0xFEBF_0000, 0x38_0000_0000_0000 + 5, 0xC001
    found = [
        host.place(0x8000, wide=False),
        host.place(0x8000, wide=True),  # the last place below the I/O APIC
        host.place(16, wide=False),
        host.place(16, wide=True),
        host.place(1 << 20, wide=True),
        host.place(1 << 20, wide=True),
        host.place(32, wide=False, ports=True),
        host.place(4, wide=False, ports=True),
        host.place(8, wide=False, ports=True),
    ]
    assert found == [
        0xFEBF_0000,
        0xFEBF_8000,
        0,
        0x38_0000_0000_0020,
        0x38_0000_0010_0000,
        0x38_0000_0020_0000,
        0xC020,
        0xC040,
        0xC048,
    ]
    host._free = 0xFEBF_F001
    assert host.place(0x1000, wide=True) == 0x38_0000_0030_0000


@pytest.mark.parametrize(
    ("data", "ids"),
    [(b"8086 10d3", (0x8086, 0x10D3)), (b"8086 10d3\n", (0x8086, 0x10D3)), (b"0x8086 10D3 1af4 1100 20000 ff0000", (0x8086, 0x10D3)), (b"8086", None), (b"8086 x", None)],
)  # fmt: skip
def test_ids_are_added_to_a_driver(data: bytes, ids: tuple[int, int] | None) -> None:
    kernel = mock.Kernel("amd")
    path = "/sys/bus/pci/drivers/pci-stub"
    if ids is None:
        with pytest.raises(OSError) as caught:
            kernel.write_file(f"{path}/new_id", data)
        assert caught.value.errno == errno.EINVAL
        return
    kernel.write_file(f"{path}/new_id", data)
    assert kernel.host.drivers["pci", "pci-stub"].ids == {ids}
    with pytest.raises(FileExistsError):
        kernel.write_file(f"{path}/new_id", data)
    kernel.write_file(f"{path}/remove_id", data)
    assert not kernel.host.drivers["pci", "pci-stub"].ids
    with pytest.raises(OSError) as caught:
        kernel.write_file(f"{path}/remove_id", data)
    assert caught.value.errno == errno.ENODEV


def test_sysfs_shows_a_function() -> None:
    kernel = mock.Kernel("intel-48")
    function = mock.Function(
        (0x1234, 0xABCD), 0x020A03, 0x05, subsystem=(0x00FE, 0x0001), intx=True,
        bars={0: mock.Bar(1 << 14), 2: mock.Bar(32, ports=True), 3: mock.Bar(1 << 33, wide=True, prefetchable=True), 5: mock.Bar(16, prefetchable=True)},
    )  # fmt: skip
    device = mock.Device(kernel, NAME, function=function)
    path = f"/sys/bus/pci/devices/{NAME}"
    files = {
        name: kernel.read_file(f"{path}/{name}").decode()
        for name in ("vendor", "device", "class", "revision", "subsystem_vendor", "subsystem_device", "numa_node", "enable", "power_state", "d3cold_allowed", "driver_override")
    }  # fmt: skip
    assert files == {
        "vendor": "0x1234\n", "device": "0xabcd\n", "class": "0x020a03\n", "revision": "0x05\n", "subsystem_vendor": "0x00fe\n", "subsystem_device": "0x0001\n",
        "numa_node": "-1\n", "enable": "0\n", "power_state": "D0\n", "d3cold_allowed": "0\n", "driver_override": "(null)\n",
    }  # fmt: skip
    name = "pci:v00001234d0000ABCDsv000000FEsd00000001bc02sc0Ai03"
    assert kernel.read_file(f"{path}/modalias").decode() == f"{name}\n"
    assert kernel.read_file(f"{path}/uevent").decode().splitlines() == [
        "PCI_CLASS=20A03", "PCI_ID=1234:ABCD", "PCI_SUBSYS_ID=00FE:0001", f"PCI_SLOT_NAME={NAME}", f"MODALIAS={name}"
    ]  # fmt: skip
    lines = kernel.read_file(f"{path}/resource").decode().splitlines()
    found = [tuple(int(number, 16) for number in line.split()) for line in lines]
    places = {bar: device.config.address(bar) for bar in function.bars}
    assert places[3] >= 1 << 32
    kinds = {0: 0x40200, 2: 0x40101, 3: 0x14220C, 5: 0x42208}
    assert found == [
        (places[bar], places[bar] + function.bars[bar].size - 1, kinds[bar]) if bar in places else (0, 0, 0)
        for bar in range(13)
    ]
    assert all(len(word) == 18 for line in lines for word in line.split())
    kernel.host.bind(device, kernel.host.named_driver("pci", "vfio-pci"))
    assert (kernel.read_file(f"{path}/enable"), kernel.read_file(f"{path}/power_state")) == (b"1\n", b"D0\n")
    kernel.write_file(f"{path}/d3cold_allowed", b"2")
    assert kernel.read_file(f"{path}/d3cold_allowed") == b"1\n"


@pytest.mark.parametrize(
    ("iova", "size", "parts"),
    [
        (0, 0, []), (0, 1, [(0, 1)]), (0, 4096, [(0, 4096)]), (4095, 1, [(4095, 1)]), (4095, 2, [(4095, 1), (4096, 1)]),
        (100, 9000, [(100, 3996), (4096, 4096), (8192, 908)]),
    ],
)  # fmt: skip
def test_transfers_end_at_pages(iova: int, size: int, parts: list[tuple[int, int]]) -> None:
    assert list(_by_pages(iova, size)) == parts


# --- virtual functions ----------------------------------------------------------------------------------------------------


class TestVirtualFunctions:
    @pytest.fixture(autouse=True)
    def _make(self) -> None:
        self.kernel = mock.Kernel("intel-48")
        self.kernel.write_file("/sys/module/vfio_pci/parameters/enable_sriov", b"Y")

    def physical(self, **more: Any) -> mock.Device:
        function = mock.Function(
            (0x1234, 0x11E8), 0x020000, express=True, virtual_device=0xBEEF, **({"virtual": 7} | more)
        )
        return mock.Device(self.kernel, "0000:00:1e.3", function=function, driver="vfio-pci")

    def write(self, name: str, data: bytes) -> None:
        self.kernel.write_file(f"/sys/bus/pci/devices/0000:00:1e.3/{name}", data)

    @pytest.mark.parametrize(
        ("more", "count", "number"),
        [
            ({"virtual": 7, "virtual_at": (5, 1)}, b"7", None),
            ({"virtual": 7, "virtual_at": (5, 1)}, b"8", errno.ERANGE),
            ({"virtual": 7, "virtual_at": (5, 1)}, b"65536", errno.EINVAL),
            ({"virtual": 7, "virtual_at": (5, 1)}, b"x", errno.EINVAL),
            ({"virtual": 7, "virtual_at": (5, 1)}, b"0", None),
            # 00:1e.3 is 0xF3: the last of the bus is 0xFF.
            ({"virtual": 7, "virtual_at": (6, 1)}, b"7", None),
            ({"virtual": 7, "virtual_at": (7, 1)}, b"7", errno.ENOMEM),
            ({"virtual": 7, "virtual_at": (2, 3)}, b"4", None),
            ({"virtual": 7, "virtual_at": (2, 3)}, b"5", errno.ENOMEM),
            ({"virtual": 7, "virtual_at": (1, 1), "virtual_room": 3}, b"3", None),
            ({"virtual": 7, "virtual_at": (1, 1), "virtual_room": 3}, b"4", errno.ENOMEM),
        ],
    )
    def test_their_number_has_limits(self, more: dict[str, Any], count: bytes, number: int | None) -> None:
        device = self.physical(**more)
        if number is None:
            self.write("sriov_numvfs", count)
        else:
            with pytest.raises(OSError) as caught:
                self.write("sriov_numvfs", count)
            assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]
        there = 0 if number is not None else int(count)
        assert device.virtual is not None
        assert len(device.virtual.functions) == there
        assert self.kernel.read_file(f"{device.path}/sriov_numvfs") == f"{there}\n".encode()
        first, stride = more["virtual_at"]
        names = [f"0000:00:{at >> 3:02x}.{at & 7}" for at in range(0xF3 + first, 0xF3 + first + there * stride, stride)]
        assert [one.name for one in device.virtual.functions] == names
        for index, one in enumerate(device.virtual.functions):
            assert self.kernel.readlink(f"{device.path}/virtfn{index}") == f"../{one.name}"
            assert self.kernel.readlink(f"{one.path}/physfn") == "../0000:00:1e.3"
            assert (one.ids, one.function.class_code, one.function.msix, one.function.reset_methods) == (
                (0x1234, 0xBEEF),
                0x020000,
                3,
                ("flr",),
            )
            assert (one.override, one.driver) == ("vfio-pci", "vfio-pci")

    def test_the_number_is_changed_by_way_of_zero(self) -> None:
        device = self.physical(virtual_at=(1, 1))
        self.write("sriov_numvfs", b"2")
        self.write("sriov_numvfs", b"2")
        with pytest.raises(OSError) as caught:
            self.write("sriov_numvfs", b"3")
        assert caught.value.errno == errno.EBUSY
        self.write("sriov_numvfs", b"0")
        assert not self.kernel.exists(f"{device.path}/virtfn0")
        self.write("sriov_numvfs", b"1")
        texts = {
            name: self.kernel.read_file(f"{device.path}/sriov_{name}").decode()
            for name in ("totalvfs", "numvfs", "offset", "stride", "drivers_autoprobe")
        }
        assert texts == {
            "totalvfs": "7\n",
            "numvfs": "1\n",
            "offset": "1\n",
            "stride": "1\n",
            "drivers_autoprobe": "1\n",
        }
        self.write("sriov_drivers_autoprobe", b"n")
        assert self.kernel.read_file(f"{device.path}/sriov_drivers_autoprobe") == b"0\n"

    def test_the_driver_must_be_able_to(self) -> None:
        self.physical(virtual_at=(1, 1))
        self.kernel.write_file("/sys/module/vfio_pci/parameters/enable_sriov", b"N")
        with pytest.raises(OSError) as caught:
            self.write("sriov_numvfs", b"1")
        assert caught.value.errno == errno.ENOENT
        self.write("sriov_numvfs", b"0")

    def test_tokens(self) -> None:
        device = self.physical(virtual_at=(1, 1))
        self.write("sriov_numvfs", b"2")
        assert device.virtual is not None
        virtual = device.virtual.functions[0]
        with refused(errno.EACCES):
            virtual.check_token(None)
        with refused(errno.EACCES):
            virtual.check_token(bytes(16))
        device.check_token(b"x" * 16)
        virtual.check_token(b"x" * 16)
        device.check_token(None)
        virtual.check_token(b"x" * 16)
        virtual.files.append(object())  # type: ignore[arg-type]  # a virtual function is open
        for token in None, b"y" * 16:
            with refused(errno.EACCES):
                device.check_token(token)
        device.check_token(b"x" * 16)
        virtual.files.clear()
        device.check_token(b"y" * 16)
        virtual.check_token(b"y" * 16)
        plain = mock.Device(self.kernel, "0000:00:0b.0", function=mock.Function((1, 2)))
        plain.check_token(None)
        with refused(errno.EINVAL):
            plain.check_token(bytes(16))
        device.driver = None
        virtual.check_token(None)
        with refused(errno.EINVAL):
            virtual.check_token(b"y" * 16)
