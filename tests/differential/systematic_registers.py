# SPDX-License-Identifier: MIT
"""Episodes that are not random, about vfio-mock's registers: every width and edge of each, every kind of failure, the module's parameters."""

from __future__ import annotations

import struct
from itertools import product

from pyvfio.mock.devices.vfio_mock import failures as kinds
from tests.differential.devices import LOG, MEMORY
from tests.differential.steps import PAGE, Episode
from tests.differential.systematic_devices import MOCK, DeviceAsker

DEVICES: tuple[str, ...] = ()
#: registers that hold what is written: offset, width
HELD = (
    (0x010, 8), (0x018, 4), (0x01C, 2), (0x01E, 1), (0x020, 4), (0x100, 8), (0x108, 8), (0x110, 8), (0x118, 8), (0x120, 8), (0x128, 8), (0x130, 8),
    (0x138, 8), (0x140, 4), (0x144, 4), (0x180, 4), (0x230, 4), (0x300, 8), (0x308, 8),
)  # fmt: skip
_MOST = 2**64 - 1
#: limits of the log, and values around what they take
LIMITS = (
    (0x200, 4, (0, 1, 2, 2**32 - 1)), (0x204, 4, (0, 1, 2, 2**32 - 1)), (0x208, 8, (0, 1, 2048, 4095, 4096, 4097, 8192, 12288, 1 << 63, _MOST)),
    (0x210, 8, (0, 1, 2048, 4095, 4096, 4097, 8192, 12288, 1 << 63, _MOST)), (0x218, 4, (0, 1, 63, 64, 65, 2**32 - 1)),
    (0x21C, 4, (0, 1, 63, 64, 65, 2**32 - 1)),
)  # fmt: skip
_PARAMETERS = "/sys/module/vfio_mock/parameters"


def held() -> Episode:
    """Each register that holds what is written, by every width, and what a reset leaves of it."""
    make = DeviceAsker(MOCK)
    for offset, width in HELD:
        for value in (1, (1 << 8 * width) - 1, 0xA5A5A5A5A5A5A5A5 & (1 << 8 * width) - 1, 0x80 << 8 * (width - 1)):
            make.write(offset, width, value)
            make.read(offset, width)
        for other in (1, 2, 3, 4, 8, 16):
            if other != width:
                make.write(offset, other, 0x3C)
                make.read(offset, other)
        for beside in (offset - 1, offset + 1, offset + width // 2):
            make.write(beside, width, 0x3C)
        make.read(offset, width)
    make.reset()
    for offset, width in HELD:
        make.read(offset, width)
    return make.steps


def limits() -> Episode:
    """Write limits of the log around what they accept, and read them after a reset."""
    make = DeviceAsker(MOCK)
    for offset, width, values in LIMITS:
        for value in values:
            make.write(offset, width, value)
            make.read(offset, width)
        for other in (1, 2, 4, 8):
            if other != width:
                make.write(offset, other, 1)
                make.read(offset, other)
    make.reset()
    for offset, width, _ in LIMITS:
        make.read(offset, width)
    return make.steps


def parameters() -> Episode:
    """Set the module's parameters, and read what a device takes of them at its open."""
    make = DeviceAsker(MOCK)
    for name, values in (
        ("log_max_ranges", (0, 1, 7)), ("log_overflow", (0, 1, 2)), ("log_page_min", (0, 1, 4095, 4096, 5000, 8191, 8192)),
        ("log_page_max", (0, 4096, 4097, 65535, 1 << 63, _MOST)), ("log_size_min", (0, 63, 64, 65)), ("log_size_max", (0, 63, 64, 65)),
    ):  # fmt: skip
        for value in values:
            make.step("write_file", path=f"{_PARAMETERS}/{name}", text=f"{value}\n")
            make.step("file", path=f"{_PARAMETERS}/{name}", how="read_file")
            make.step("close", slot="d0")
            make.get_device("g0", MOCK, "d0")
            for offset, width, _ in LIMITS:
                make.read(offset, width)
    for name, text in product(
        ("log_max_ranges", "log_page_max"),
        ("08", "0x10", "0X1f", "010", " 7", "7 ", "+5", "-1", "", "0x", "7\n\n", "4294967295", "4294967296", str(_MOST), str(_MOST + 1)),
    ):  # fmt: skip
        make.step("write_file", path=f"{_PARAMETERS}/{name}", text=text)
        make.step("file", path=f"{_PARAMETERS}/{name}", how="read_file")
    return make.steps


class Failing(DeviceAsker):
    """It makes one call of each kind that can be told to fail."""

    def call(self, kind: str) -> None:
        """Make a call of this kind that otherwise works."""
        match kind:
            case "LOG_START":
                self.step("fill", at=LOG, data=struct.pack("<QQ", 0, PAGE).hex())
                self.feature(6, 2 << 16, struct.pack("<QIIQ", PAGE, 1, 0, 0), put=[[24, 8, ["arena", LOG]]])
            case "LOG_STOP":
                self.call("LOG_START")
                self.feature(7, 2 << 16, b"")
            case "LOG_REPORT":
                self.call("LOG_START")
                data = struct.pack("<QQQQ", 0, PAGE, PAGE, 0)
                self.feature(8, 1 << 16, data, put=[[32, 8, ["arena", LOG + PAGE]]], look=[[LOG + PAGE, 8]])
            case "DMA":
                self.job(3, iova=0, length=64, memory=0, pattern=5)
            case "RESET":
                self.reset()
            case "REGION_READ":
                self.read(MEMORY << 40, 8)
            case "REGION_WRITE":
                self.write(MEMORY << 40, 8, 5)
            case "REGION_MMAP":
                self.step("mmap", slot="d0", offset=MEMORY << 40, size=PAGE, prot=1)
            case "GET_INFO":
                self.ask("VFIO_DEVICE_GET_INFO", struct.pack("<I", 20) + bytes(20))
            case "REGION_INFO":
                self.ask("VFIO_DEVICE_GET_REGION_INFO", struct.pack("<III", 32, 0, MEMORY) + bytes(24))
            case "IRQ_INFO":
                self.ask("VFIO_DEVICE_GET_IRQ_INFO", struct.pack("<III", 16, 0, 1) + bytes(8))
            case "SET_IRQS":
                self.irqs(0x21, 1, 0, 0)
            case "OPEN":
                self.step("close", slot="d0")
                self.get_device("g0", MOCK, "d0")
            case "PIN":
                self.write(0x300, 8, 0)
                self.write(0x308, 8, 1)
                self.write(0x310, 4, 1)
                self.write(0x310, 4, 2)
            case "MIG_SET_STATE":
                self.state(1, to="none")
            case "MIG_GET_STATE":
                self.feature(2, 1 << 16, bytes(8))
            case "MIG_DATA_SIZE":
                self.feature(9, 1 << 16, bytes(8))
            case "MIG_READ":
                self.state(3)
                self.step("read", slot="stream", size=16)
                self.state(1, to="none")
            case "MIG_WRITE":
                self.state(4)
                self.step("write", slot="stream", data=bytes(8).hex())
                self.state(1, to="none")
            case "MIG_PRECOPY_INFO":
                self.state(6)
                self.ask("VFIO_MIG_GET_PRECOPY_INFO", struct.pack("<II", 24, 0) + bytes(16), "stream")
                self.state(2, to="none")

    def counters(self, kind: str) -> None:
        """Read the registers of a kind, but how often the device was opened: earlier episodes did that too."""
        at = place(kind)
        for register in (0x0, 0x4, 0xC) if kind == "OPEN" else (0x0, 0x4, 0x8, 0xC):
            self.read(at + register, 4)


def place(kind: str) -> int:
    """Return where the registers of a kind are."""
    return kinds.START + kinds.KINDS.index(kind) * kinds.SIZE


def failures() -> Episode:
    """Each kind of call, when the next and when the second next is to fail, and by every errno at the edges."""
    make = Failing(MOCK)
    make.map(0, PAGE)
    for kind in kinds.KINDS:
        at = place(kind)
        make.counters(kind)
        for error, nth in ((1, 1), (5, 2), (4095, 1), (4096, 1), (0, 1), (2**32 - 1, 0)):
            make.write(at + 0x4, 4, error)
            make.write(at, 4, nth)
            make.counters(kind)
            for _ in range(2):
                make.call(kind)
                make.counters(kind)
        for register, width in product((0x0, 0x4, 0x8, 0xC), (1, 2, 4, 8)):
            if (kind, register, width) != ("OPEN", 0x8, 4):
                make.read(at + register, width)
            if (register, width) != (0, 4):
                make.write(at + register, width, 9)
        make.counters(kind)
        make.reset()
        make.counters(kind)
    for beside in (kinds.START - 4, kinds.END, kinds.END + 4):
        make.read(beside, 4)
        make.write(beside, 4, 1)
    return make.steps


def episodes() -> list[Episode]:
    """Return them all."""
    return [held(), limits(), parameters(), failures()]
