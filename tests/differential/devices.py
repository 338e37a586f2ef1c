# SPDX-License-Identifier: MIT
"""Episodes about devices: information, regions, interrupts, reset, features, DMA logging and migration."""

from __future__ import annotations

import struct
from typing import Any

from pyvfio._abi import ffi
from tests.differential import type1
from tests.differential.steps import HOLE_AT, PAGE
from tests.differential.type1 import BITMAPS_AT, MOCKS, Type1Maker

EDU = "0000:00:03.0"
#: An edu below a root port, so that its bus can be reset.
FAR_EDU = "0000:01:00.0"
LOG = BITMAPS_AT
REGISTERS, MEMORY, SPARSE, TYPED, EMPTY, ROM = range(6)
#: vfio-mock's registers that can be written without side effects: offset and width.
SETTINGS = (
    (0x10, 8),
    (0x18, 4),
    (0x1C, 2),
    (0x1E, 1),
    (0x20, 4),
    (0x200, 4),
    (0x204, 4),
    (0x208, 8),
    (0x210, 8),
    (0x218, 4),
    (0x21C, 4),
    (0x230, 4),
)
READABLE = (
    (0x00, 4), (0x04, 4), (0x08, 4), (0x0C, 4), *SETTINGS, (0x14C, 4), (0x150, 4), (0x184, 4), (0x188, 4), (0x220, 4), (0x224, 4), (0x228, 8),
    (0x238, 8), (0x240, 8), (0x248, 8), (0x280, 8), (0x288, 8), (0x290, 8), (0x298, 8), (0x2A0, 8), (0x2A8, 8), (0x318, 8), (0x380, 4), (0x388, 8),
    (0x390, 8), (0x398, 8), *((0x400 + 16 * kind + 4 * field, 4) for kind in range(20) for field in range(4)),
)  # fmt: skip


class DeviceMaker(Type1Maker):
    """An episode with vfio-mock or edu, in a type1 container."""

    def start(self, device: str) -> None:
        self.open((device,), 3)
        self.mock = device in MOCKS
        self.events: list[str] = []

    # Information.

    def device_info(self) -> None:
        self.ioctl(
            "d0",
            "VFIO_DEVICE_GET_INFO",
            None,
            extra=struct.pack("<5I", self.argsz(20, 16, 24, 12), 0xA5, 0xA5, 0xA5, 0xA5) + bytes(20),
        )

    def region_info(self) -> None:
        index = self.random.randrange(11) if self.chance(97) else 2**32 - 1
        self.ioctl(
            "d0",
            "VFIO_DEVICE_GET_REGION_INFO",
            None,
            extra=struct.pack("<IIIIQQ", self.one_of(32, 32, 0, 31, 64, 80, 96, 200), 0xA5, index, 0xA5, 0xA5, 0xA5)
            + b"\xa5" * 168,
        )

    def irq_info(self) -> None:
        self.ioctl(
            "d0",
            "VFIO_DEVICE_GET_IRQ_INFO",
            None,
            extra=struct.pack("<4I", self.argsz(16, 12, 20), 0xA5, self.random.randrange(7), 0xA5) + bytes(8),
        )

    def reset(self) -> None:
        self.step("ioctl", slot="d0", request="VFIO_DEVICE_RESET", value=0)

    def hot_reset(self) -> None:
        self.ioctl(
            "d0",
            "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
            None,
            extra=struct.pack("<3I", self.one_of(12, 12, 8, 200), 0, 0xA5) + bytes(188),
            mask=[[12, 4]],
        )
        if self.chance(30):
            self.ioctl(
                "d0",
                "VFIO_DEVICE_PCI_HOT_RESET",
                None,
                extra=struct.pack("<3I", self.one_of(12, 16, 8), self.one_of(0, 1), self.one_of(0, 1, 5000))
                + bytes(32),
                put=[[12, 4, ["fd", "g0"]]],
            )

    # Regions.

    def region(self) -> None:
        """Read or write one of vfio-mock's regions, inside it or beyond its end."""
        index = self.one_of(MEMORY, MEMORY, SPARSE, TYPED, EMPTY, ROM, 6, 7)
        size = {MEMORY: 1 << 20, SPARSE: 0x10000, TYPED: 0x4000, ROM: 0x1000}.get(index, 0)
        place = (
            self.one_of(0, 1, 8, size - 4, size - 1, size, size + 8, 0x1000, self.random.randrange(size + 1))
            & (1 << 40) - 1
        )
        where = (index << 40) + place
        count = self.one_of(0, 1, 2, 4, 8, 16, 100)
        if self.chance(50):
            self.step("pwrite", slot="d0", offset=where, data=self.random.randbytes(count).hex())
        self.step("pread", slot="d0", offset=where, size=count)

    def register(self) -> None:
        place, width = self.one_of(*READABLE)
        if self.chance(10):
            width = self.one_of(1, 2, 3, 4, 8, 16)
        if self.chance(5):
            place = self.random.randrange(0x1010)
        self.step("pread", slot="d0", offset=place, size=width)

    def setting(self) -> None:
        place, width = self.one_of(*SETTINGS)
        if self.chance(10):
            width = self.one_of(1, 2, 4, 8)
        value = (
            self.one_of(0, 1, 2, 3, 12, 20, 42, 64, PAGE, 8192, 1 << 20, self.random.getrandbits(64))
            & (1 << 8 * width) - 1
        )
        self.step("pwrite", slot="d0", offset=place, data=value.to_bytes(width, "little").hex())
        self.step("pread", slot="d0", offset=place, size=width)

    def engine(self) -> None:
        """Run a job of vfio-mock's engine, valid or not, in the foreground."""
        size = 1 << 20
        for place, values in (
            (0x100, (0, PAGE, 2**64 - 1, 2**64 - PAGE)), (0x108, (0, 1, 100, size, size + 1, 2**64 - 1)), (0x110, (0, 8, PAGE)),
            (0x118, (0, 8, size - 8, size, size + 1, 2**64 - 1)), (0x128, (0, 1, 5, size // 8, 2**64 - 1)), (0x130, (0, 1, 7, 8, 100, 4096, 2**64 - 1)),
        ):  # fmt: skip
            if self.chance(70):
                self.step(
                    "pwrite", slot="d0", offset=place, data=self.random.choice(values).to_bytes(8, "little").hex()
                )
        command = self.one_of(0, 1, 2, 3, 4, 5, 6, 7, 8, 0xFF) | self.one_of(
            0, 0, 0, 0x400, 0x800, 0x1000, 0x2000, 0x4000, 0x8000
        )
        if command & 0xFF == 6 or command & 0xFF == 7:
            # Limit the size of the job.
            self.step("pwrite", slot="d0", offset=0x130, data=self.one_of(8192, 100000, 0).to_bytes(8, "little").hex())
            self.step("pwrite", slot="d0", offset=0x128, data=self.one_of(0, 3, 50).to_bytes(8, "little").hex())
            self.step("pwrite", slot="d0", offset=0x108, data=self.one_of(0, 100, 1 << 20).to_bytes(8, "little").hex())
        self.step("pwrite", slot="d0", offset=0x148, data=command.to_bytes(4, "little").hex())
        for place, width in ((0x14C, 4), (0x150, 4), (0x158, 8), (0x160, 8), (0x168, 8), (0x170, 8)):
            self.step("pread", slot="d0", offset=place, size=width)

    def ioeventfd(self) -> None:
        """Register or remove an ioeventfd of edu.

        Without KVM it is never signalled, so only the request itself is tested.
        """
        flags = self.one_of(1, 2, 4, 8, 4, 4, 0, 12, 16, 1 << 31)
        place = self.one_of(0x04, 0x80, 0x88, 0x60, 1 << 20, (7 << 40) + 4, (6 << 40), (1 << 20) - 4, 0x81)
        event = self.event()
        body = struct.pack("<IIQQiI", self.argsz(32, 28, 24), flags, place, self.one_of(0, 1, 2**64 - 1), -1, 0)
        put = [[24, 4, ["fd", event if self.chance(90) else "closed"]]] if self.chance(80) else []
        self.ioctl("d0", "VFIO_DEVICE_IOEVENTFD", None, extra=body + bytes(8), put=put)

    def failing(self) -> None:
        """Make the next calls of some kind to vfio-mock fail."""
        kind = self.random.randrange(15)
        if kind == 12:
            return  # failures of `open` would still be set in the next episode
        for field, value in ((4, self.one_of(5, 12, 16, 22)), (0, self.one_of(1, 1, 2, 3))):
            self.step("pwrite", slot="d0", offset=0x400 + 16 * kind + field, data=value.to_bytes(4, "little").hex())

    def config(self) -> None:
        """Read and write edu's PCI configuration space through vfio-pci. The writes change nothing outside the device.

        The device is the edu on the root bus: the firmware's choice of the Interrupt Line of other devices depends on
        the machine.
        """
        base = 7 << 40
        if self.chance(40):
            place, data = self.one_of(
                (4, b"\7\0"),
                (4, b"\0\0"),
                (0x10, b"\xff" * 4),
                (0x3C, b"\5"),
                (0, b"\xff\xff"),
                (0x0C, b"\x10"),
                (6, b"\xff\xff"),
                (0x30, b"\xff" * 4),
            )
            self.step("pwrite", slot="d0", offset=base + place, data=data.hex())
        place = self.one_of(
            0, 2, 4, 6, 8, 0x0C, 0x0E, 0x10, 0x14, 0x2C, 0x30, 0x34, 0x3C, 0x40, 0x42, 0x44, 0x50, 0xFC, 0xFF, 0x100
        )
        # Mask the BAR: the firmware chooses its address.
        size, bar = self.one_of(1, 2, 4, 4, 8, 64), max(0x12 - place, 0)
        mask = [[bar, min(0x14 - place, size) - bar]] if place < 0x14 and bar < size else []
        self.step("pread", slot="d0", offset=base + place, size=size, mask=mask)

    # Interrupts.

    def event(self) -> str:
        name = f"e{self.random.randrange(4)}"
        if name not in self.events:
            self.events.append(name)
            self.step("eventfd", **{"as": name})
        return name

    def set_irqs(self) -> None:
        index = self.one_of(0, 0, 1, 1, 1, 2, 2, 3, 4, 5) if self.mock else self.one_of(0, 1, 1, 1, 2, 3, 4, 5)
        single = index in (0, 3, 4)
        start, count = self.one_of(0, 0, 0, 0, 0 if single else 1, 3), 1 if single else self.one_of(1, 1, 1, 2, 3, 4, 9)
        data = self.one_of(1, 2, 4, 4, 4, 4)
        if self.chance(15):
            data, start, count = 1, 0, 0
        flags = data | (self.one_of(32, 32, 8, 16) if index == 0 else 32 if self.chance(92) else self.one_of(8, 16))
        if self.chance(5):
            flags = self.one_of(0, 4, 32, 36 | 8, 4 | 1 | 32, 64, 1 << 31, 2**32 - 1)
        body, put = b"", []
        if data == 2:
            body = self.random.randbytes(count).translate(bytes(n & 1 for n in range(256)))
        elif data == 4:
            body = struct.pack("<i", -1) * count
            put = [
                [20 + 4 * n, 4, ["fd", self.event() if self.chance(97) else self.one_of("closed", "c")]]
                for n in range(count)
                if self.chance(85)
            ]
        argsz = self.argsz(20 + len(body), 20, 16)
        self.ioctl(
            "d0",
            "VFIO_DEVICE_SET_IRQS",
            None,
            extra=struct.pack("<5I", argsz, flags, index, start, count) + body + bytes(8),
            put=put,
        )

    def raise_irq(self) -> None:
        if self.mock:
            value = self.one_of(
                0,
                1 << 16,
                1 << 16 | 1,
                1 << 16 | 3,
                2 << 16,
                2 << 16 | 7,
                3 << 16,
                4 << 16,
                5 << 16,
                1 << 16 | 4,
                2**32 - 1,
            )
            self.step("pwrite", slot="d0", offset=0x180, data=value.to_bytes(4, "little").hex())
            if self.chance(30):
                self.step("pwrite", slot="d0", offset=0x184, data="01000000")
        if self.events:
            self.step("read", slot=self.random.choice(self.events), size=8)

    # edu's registers, in BAR 0. Registers are written before they are read, because edu cannot be reset to a known
    # state.

    def edu_register(self) -> None:
        place, data = self.one_of(
            (0x00, b""),
            (0x04, self.random.randbytes(4)),
            (0x80, self.random.randbytes(8)),
            (0x88, self.random.randbytes(4) + bytes(4)),
            (0x90, bytes(8)),
        )
        if data:
            self.step("pwrite", slot="d0", offset=place, data=data.hex())
        self.step("pread", slot="d0", offset=place, size=self.one_of(1, 2, 4, 4, 4, 8))

    def edu_dma(self) -> None:
        """Copy from the DMA engine's buffer to memory, or from memory to the buffer."""
        self.transfer(
            self.pages(8) + self.one_of(0, 100, 4000), self.one_of(1, 8, 100, 1000, 2048), out=self.chance(60)
        )

    def transfer(self, iova: int, count: int, *, out: bool) -> None:
        values = (0x40000, iova, count) if out else (iova, 0x40000, count)
        if not out:
            iova %= 4 * PAGE  # the part that is mapped readable
            values = (iova, 0x40000, count)
        for place, value in zip((0x80, 0x88, 0x90), values, strict=True):
            self.step("pwrite", slot="d0", offset=place, data=value.to_bytes(8, "little").hex())
        self.step("pwrite", slot="d0", offset=0x98, data=(3 if out else 1).to_bytes(8, "little").hex())
        self.step("until", slot="d0", offset=0x98, size=8, mask=1, value=0)
        self.step("look", at=0, size=16 * PAGE)

    def edu_irq(self) -> None:
        value = self.one_of(0, 1, 0x100, 0x80000000)
        self.step("pwrite", slot="d0", offset=0x60, data=value.to_bytes(4, "little").hex())
        self.step("settle")
        self.step("pread", slot="d0", offset=0x24, size=4)
        self.step("pwrite", slot="d0", offset=0x64, data="ffffffff")
        self.step("pread", slot="d0", offset=0x24, size=4)
        if self.events:
            self.step("read", slot=self.random.choice(self.events), size=8)

    # Features.

    def feature(self, number: int, flags: int, data: bytes, argsz: int | None = None, **more: Any) -> None:
        size = 8 + len(data) if argsz is None else argsz
        self.ioctl(
            "d0", "VFIO_DEVICE_FEATURE", None, extra=struct.pack("<II", size, number | flags) + data + bytes(8), **more
        )

    def probe(self) -> None:
        number = self.random.randrange(15) if self.chance(95) else self.random.randrange(1 << 16)
        flags = self.one_of(4, 5, 6, 7, 0, 8, 1 << 12) << 16
        self.feature(number, flags, b"", self.one_of(8, 8, 8, 4, 64))

    def plain_feature(self) -> None:
        """Use a feature with little or no data."""
        number, flags, data = self.one_of(
            (1, 1, bytes(8)),
            (2, 1, bytes(8)),
            (9, 1, bytes(8)),
            (10, 2, b"\1\0\0\0"),
            (10, 2, b"\0\0\0\0"),
            (3, 2, bytes(8)),
            (5, 2, b""),
            (12, 2, b""),
            (0, 2, bytes(16)),
        )
        self.feature(number, flags << 16, data, None if self.chance(92) else self.one_of(8, 12, 0))

    def log_ranges(self) -> tuple[list[tuple[int, int]], bytes]:
        count = self.one_of(0, 1, 1, 1, 2, 3, 8)
        start = 0
        ranges = []
        for _ in range(count):
            start += self.pages(20)
            size = PAGE * self.one_of(1, 2, 4, 8, 16)
            ranges.append((start, size))
            start += size
        if ranges and self.chance(12):
            at = self.random.randrange(len(ranges))
            iova, size = ranges[at]
            ranges[at] = self.one_of(
                (iova, 0),
                (iova, size + 512),
                (iova + 512, size),
                (2**64 - PAGE, PAGE),
                (2**64 - PAGE, 2 * PAGE),
                (iova, 1 << 43),
                (0, 1 << 20),
                (2**64 - 2 * PAGE, PAGE),
            )
        self.random.shuffle(ranges)
        return ranges, b"".join(struct.pack("<QQ", *one) for one in ranges)

    def log_start(self) -> None:
        ranges, data = self.log_ranges()
        count = len(ranges) if self.chance(96) else self.one_of(257, 2**32 - 1, 0)
        page = PAGE if self.chance(80) else self.one_of(0, 1, 512, 2048, 0x3000, 8192, 1 << 21, 1 << 22, 1 << 63)
        if data:
            self.step("fill", at=LOG, data=data.hex())
        self.feature(
            6, 2 << 16, struct.pack("<QIIQ", page, count, int(self.chance(3)), 0), None if self.chance(95) else self.one_of(8, 24, 31),
            put=[[24, 8, ["arena", LOG if self.chance(97) else HOLE_AT]]],
        )  # fmt: skip
        self.logged = ranges

    def log_stop(self) -> None:
        self.feature(7, self.one_of(2, 2, 2, 2, 1) << 16, b"")

    def log_report(self) -> None:
        ranges = getattr(self, "logged", None) or [(0, 64 * PAGE)]
        iova, size = self.random.choice(ranges)
        if self.chance(35):
            iova, size = self.one_of(
                (0, 128 * PAGE),
                (iova + PAGE, size),
                (iova, PAGE),
                (0, 0),
                (iova, 512),
                (2**64 - PAGE, PAGE),
                (2**64 - PAGE, 2 * PAGE),
                (iova + 512, PAGE),
            )
        iova, size = iova % 2**64, min(size, 1 << 26)
        page = PAGE if self.chance(88) else self.one_of(2048, 6000, 8192, 1 << 21)
        if self.chance(70):
            self.step("fill", at=LOG + PAGE, data="00", times=PAGE)
        self.feature(
            8, 1 << 16, struct.pack("<QQQQ", iova, size, page, 0), None if self.chance(96) else self.one_of(8, 39),
            put=[[32, 8, ["arena", LOG + PAGE]]], look=[[LOG + PAGE, 2 * PAGE]],
        )  # fmt: skip

    def write(self) -> None:
        """Make the device write in a logged range, or next to one."""
        ranges = getattr(self, "logged", None) or [(0, 64 * PAGE)]
        iova, size = self.random.choice(ranges)
        iova = (iova + self.one_of(0, size - 8, -8, self.random.randrange(max(min(size, 1 << 20), 1)))) % 2**64
        operation, length = self.one_of((3, 1), (3, 100), (3, 8192), (6, 40000), (7, 30000))
        for place, value in (
            (0x100, iova),
            (0x108, length),
            (0x120, 7),
            (0x128, 5),
            (0x130, self.one_of(8, 4096, 5000)),
            (0x138, self.random.getrandbits(64)),
        ):
            self.step("pwrite", slot="d0", offset=place, data=value.to_bytes(8, "little").hex())
        self.step("pwrite", slot="d0", offset=0x148, data=operation.to_bytes(4, "little").hex())
        for place, size in ((0x14C, 4), (0x150, 4), (0x168, 8), (0x248, 8), (0x290, 8)):
            self.step("pread", slot="d0", offset=place, size=size)

    # Migration.

    def migrate(self) -> None:
        state = self.random.randrange(9)
        self.feature(2, 2 << 16, struct.pack("<Ii", state, 0x55), take={"stream": [12, 4]}, kind="migration")
        self.feature(2, 1 << 16, bytes(8))
        self.step("pread", slot="d0", offset=0x380, size=4)

    def stream(self) -> None:
        if self.chance(50):
            self.step("read", slot="stream", size=self.one_of(1, 64, 4096, 1 << 20, 0))
        elif self.chance(50):
            self.step("write", slot="stream", data=self.random.randbytes(self.one_of(1, 16, 100)).hex())
        else:
            self.ioctl(
                "stream",
                self.a_request("VFIO_MIG_GET_PRECOPY_INFO", "VFIO_MIG_GET_PRECOPY_INFO", 0x3BFF),
                None,
                extra=struct.pack("<II", self.argsz(24, 20), 0) + bytes(24),
            )
        self.feature(9, 1 << 16, bytes(8))


def logging(make: DeviceMaker) -> None:
    make.start(make.one_of(*MOCKS))
    # Map everything, some parts of it read-only.
    at = ffi.offsetof(type1.MAP, "vaddr")
    for index in range(6):
        make.step(
            "ioctl",
            slot="c",
            request="VFIO_IOMMU_MAP_DMA",
            arg=struct.pack("<IIQQQ", 32, 3 if index != 3 else 1, 0, index << 18, 1 << 18).hex(),
            put=[[at, 8, ["arena", 0]]],
        )
    make.run(50, log_start=8, log_stop=3, log_report=10, write=10, setting=2, probe=1, reset=1, failing=1, register=1)


def informed(make: DeviceMaker) -> None:
    device = make.one_of(*MOCKS, EDU, FAR_EDU)
    make.start(device)
    if make.mock:
        make.run(
            50,
            engine=4,
            device_info=2,
            region_info=5,
            irq_info=3,
            reset=1,
            hot_reset=1,
            region=8,
            register=6,
            setting=5,
            probe=4,
            plain_feature=4,
            failing=2,
        )
    else:
        make.run(
            40,
            device_info=2,
            region_info=5,
            irq_info=3,
            reset=1,
            hot_reset=3,
            probe=4,
            plain_feature=3,
            edu_register=4,
            ioeventfd=4,
            config=8 if device == EDU else 0,
        )


def interrupts(make: DeviceMaker) -> None:
    make.start(make.one_of(*MOCKS, EDU))
    make.run(
        50,
        set_irqs=12,
        raise_irq=8,
        reset=1,
        irq_info=1,
        **({"failing": 1, "register": 3} if make.mock else {"config": 2, "edu_irq": 5}),
    )


def edu_engine(make: DeviceMaker) -> None:
    make.start(EDU)
    make.step("pwrite", slot="d0", offset=(7 << 40) + 4, data="0600")
    for index, flags in enumerate((3, 2)):
        call = struct.pack("<IIQQQ", 32, flags, 0, index * 4 * PAGE, 4 * PAGE)
        make.step(
            "ioctl", slot="c", request="VFIO_IOMMU_MAP_DMA", arg=call.hex(), put=[[8, 8, ["arena", index * 4 * PAGE]]]
        )
    # Fill the used half of edu's buffer: it still has data from the check of the IOMMU at the machine's start.
    make.transfer(0, PAGE // 2, out=False)
    make.run(6, edu_dma=1)
    make.step("pwrite", slot="d0", offset=(7 << 40) + 4, data="0200")


def migration(make: DeviceMaker) -> None:
    make.start(make.one_of(*MOCKS))
    make.run(40, migrate=8, stream=8, region=2, plain_feature=2, reset=1, failing=1, setting=1)


def moved(make: DeviceMaker) -> None:
    """Transfer one device's state to another, complete or cut short."""
    make.open(MOCKS, 3)
    make.mock, make.events = True, []
    make.run(6, region=3, setting=1)
    states = make.one_of((2,), (6, 2), (7, 2), (6, 2, 1), (2, 1, 2))
    for state in states:
        make.feature(2, 2 << 16, struct.pack("<Ii", state, 0), take={"stream": [12, 4]}, kind="migration")
        make.feature(9, 1 << 16, bytes(8))
        if state == 6 and make.chance(50):
            make.step("read", slot="stream", size=4096)
    make.ioctl(
        "d1",
        "VFIO_DEVICE_FEATURE",
        None,
        extra=struct.pack("<IIIi", 16, 2 | 2 << 16, 4, 0) + bytes(8),
        take={"into": [12, 4]},
        kind="migration",
    )
    make.step(
        "pipe",
        **{"from": "stream", "to": "into", "limit": 1 << 24 if make.chance(70) else make.one_of(100, 5000, 70000)},
    )
    for state in make.one_of((1, 2), (1,), (0,), (3,)):
        make.ioctl("d1", "VFIO_DEVICE_FEATURE", None, extra=struct.pack("<IIIi", 16, 2 | 2 << 16, state, 0) + bytes(8))
    make.ioctl("d1", "VFIO_DEVICE_FEATURE", None, extra=struct.pack("<IIIi", 16, 2 | 1 << 16, 0, 0) + bytes(8))
    for index in (MEMORY, SPARSE, TYPED):
        make.step("pread", slot="d1", offset=index << 40, size=0x4000)
    for place, width in SETTINGS:
        make.step("pread", slot="d1", offset=place, size=width)


KINDS = ((logging, 6), (informed, 4), (interrupts, 4), (migration, 2), (moved, 1), (edu_engine, 1))
MAKER = DeviceMaker
DEVICES = type1.DEVICES
