# SPDX-License-Identifier: MIT
"""Episodes that are not random, about devices: their requests one by one, with arguments that random calls would seldom have."""

from __future__ import annotations

import struct
from itertools import product
from random import Random
from typing import Any

from pyvfio.mock.devices.vfio_mock import stream
from pyvfio.mock.devices.vfio_mock.stream import Record
from tests.differential.devices import EDU, FAR_EDU, LOG, MEMORY, REGISTERS, ROM, SPARSE, TYPED, DeviceMaker
from tests.differential.iommufd import POINTED_AT
from tests.differential.steps import HOLE_AT, PAGE, Episode
from tests.differential.systematic_iommufd import Asker, Ref
from tests.differential.type1 import MOCKS, SHARED

MOCK = MOCKS[0]
NVME, E1000E = "0000:00:04.0", "0000:00:06.0"
#: Two functions of one slot below a root port; they are one group.
CARD, CARDS_EDU = "0000:02:00.0", "0000:02:00.1"
DEVICES = sorted({EDU, FAR_EDU, SHARED[0], NVME, E1000E, CARD, CARDS_EDU})
CONFIG = 7 << 40
_U64 = 2**64
_TOKEN = "/sys/module/vfio_mock/parameters/token"
_UUID = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"


class DeviceAsker(DeviceMaker):
    """A builder of episodes with a device in a type1 container. Its methods make no random choices."""

    def __init__(self, *devices: str, type: int = 3) -> None:
        super().__init__(Random(0))
        self.open(devices, type)
        self.mock = bool(devices) and devices[0] in MOCKS
        self.events = []

    def chance(self, percent: float) -> bool:
        return False

    def ask(self, request: str | int, data: bytes, slot: str = "d0", **more: Any) -> None:
        self.ioctl(slot, request, None, extra=data, **more)

    # These methods have the names of the base class's, but take arguments instead of choosing.

    def map(self, iova: int, size: int, at: int = 0, flags: int = 3) -> None:  # type: ignore[override]  # as above
        self.ask(
            "VFIO_IOMMU_MAP_DMA", struct.pack("<IIQQQ", 32, flags, 0, iova, size), "c", put=[[8, 8, ["arena", at]]]
        )

    def write(self, offset: int, width: int, value: int, slot: str = "d0") -> None:  # type: ignore[override]  # as above
        self.step("pwrite", slot=slot, offset=offset, data=value.to_bytes(width, "little").hex())

    def read(self, offset: int, width: int, slot: str = "d0") -> None:
        self.step("pread", slot=slot, offset=offset, size=width)

    def irqs(
        self,
        flags: int,
        index: int,
        start: int = 0,
        count: int = 1,
        fds: tuple[str | int, ...] = (),
        bools: bytes = b"",
        argsz: int | None = None,
    ) -> None:
        """Make a VFIO_DEVICE_SET_IRQS request. A descriptor is given by its slot, or as a number."""
        body = bools or b"".join(struct.pack("<i", fd if isinstance(fd, int) else -1) for fd in fds)
        put = [[20 + 4 * n, 4, ["fd", fd]] for n, fd in enumerate(fds) if isinstance(fd, str)]
        header = struct.pack("<5I", 20 + len(body) if argsz is None else argsz, flags, index, start, count)
        self.ask("VFIO_DEVICE_SET_IRQS", header + body + bytes(8), put=put)

    def dma_buf(
        self,
        *areas: tuple[int, int],
        index: int = 0,
        flags: int = 0,
        count: int | None = None,
        operation: int = 1,
        argsz: int | None = None,
        slot: str = "d0",
        to: str = "b",
    ) -> None:
        ranges = b"".join(struct.pack("<QQ", *area) for area in areas)
        data = struct.pack("<IIII", index, 0, flags, len(areas) if count is None else count) + ranges
        size = 8 + len(data) if argsz is None else argsz
        made = {"as": to, "kind": "dma-buf"} if operation == 1 else {}
        self.ask("VFIO_DEVICE_FEATURE", struct.pack("<II", size, 11 | operation << 16) + data + bytes(8), slot, **made)

    def state(self, state: int, slot: str = "d0", to: str = "stream") -> None:
        self.ask(
            "VFIO_DEVICE_FEATURE",
            struct.pack("<IIIi", 16, 2 | 2 << 16, state, 0) + bytes(8),
            slot,
            take={to: [12, 4]},
            kind="migration",
        )

    def job(self, command: int, **values: int) -> None:
        """Run a job of vfio-mock's engine, and read its outcome."""
        places = {
            "iova": 0x100,
            "length": 0x108,
            "source": 0x110,
            "memory": 0x118,
            "pattern": 0x120,
            "count": 0x128,
            "stride": 0x130,
            "seed": 0x138,
        }
        for name, value in values.items():
            self.write(places[name], 8, value)
        self.write(0x148, 4, command)
        for offset, width in ((0x14C, 4), (0x150, 4), (0x158, 8), (0x160, 8), (0x168, 8)):
            self.read(offset, width)


# Descriptors of every kind.


def descriptors() -> Episode:
    """Make, on each kind of descriptor, calls that are meant for other kinds."""
    make = DeviceAsker(MOCK)
    make.step("open", **{"as": "f", "what": "iommufd"})
    make.step("open", **{"as": "g5", "what": f"group:{EDU}"})
    make.step("open", **{"as": "d5", "what": f"cdev:{FAR_EDU}"})
    make.ask("IOMMU_FAULT_QUEUE_ALLOC", struct.pack("<4I", 16, 0, 0, 0), "f", take={"q": [12, 4]}, mask=[[8, 4]])
    make.state(3)
    for slot in ("c", "f", "g5", "d5", "q", "stream", "closed"):
        make.step("read", slot=slot, size=8)
        make.step("write", slot=slot, data=bytes(8).hex())
        make.step("pread", slot=slot, offset=0, size=8)
        make.step("pwrite", slot=slot, offset=0, data=bytes(8).hex())
        for offset in (0, PAGE):
            make.step("mmap", slot=slot, offset=offset, size=PAGE, prot=1)
        make.ask(0x3BFF, bytes(64), slot)
    for index, offset, size in (
        (MEMORY, 0, PAGE),
        (MEMORY, 1 << 20, PAGE),
        (SPARSE, 0x1000, 0x2000),
        (SPARSE, 0, PAGE),
        (TYPED, 0x2000, PAGE),
        (REGISTERS, 0, PAGE),
        (ROM, 0, PAGE),
        (4, 0, PAGE),
        (6, 0, PAGE),
    ):
        make.step("mmap", slot="d0", offset=(index << 40) + offset, size=size, prot=3)
    make.step("pread", slot="d0", offset=6 << 40, size=4)
    make.step("pwrite", slot="d0", offset=6 << 40, data="00000000")
    return make.steps


def numbers() -> Episode:
    """Make VFIO_SET_IOMMU and VFIO_CHECK_EXTENSION with many numbers."""
    make = DeviceAsker()
    make.step("open", **{"as": "g0", "what": f"group:{EDU}"})
    make.set_container("g0")
    for number in (*range(16), 2**31, 2**32 - 1, _U64 - 1):
        make.ioctl_value("c", "VFIO_CHECK_EXTENSION", number)
        if number not in (1, 3):
            make.ioctl_value("c", "VFIO_SET_IOMMU", number)
    return make.steps


def full(room: int) -> Episode:
    """Make each call that creates a descriptor while only `room` descriptors are left."""
    make = Asker()
    make.step("open", **{"as": "c", "what": "container"})
    make.step("open", **{"as": "g0", "what": f"group:{MOCK}"})
    make.set_container("g0")
    make.ioctl_value("c", "VFIO_SET_IOMMU", 3)
    make.get_device("g0", MOCK, "d0")
    make.step("open", **{"as": "d", "what": f"cdev:{EDU}"})
    make.bind()
    make.step("descriptors", room=room)
    for what in ("container", "iommufd", f"group:{FAR_EDU}", f"cdev:{FAR_EDU}"):
        make.step("open", **{"as": "n", "what": what})
        make.step("close", slot="n")
    make.ask("IOMMU_FAULT_QUEUE_ALLOC", take={"q": [12, 4]})
    make.step("close", slot="q")
    make.get_device("g0", MOCK, "s")
    make.step("close", slot="s")
    for state in (3, 1, 4, 1):
        make.ioctl(
            "d0",
            "VFIO_DEVICE_FEATURE",
            None,
            extra=struct.pack("<IIIi", 16, 2 | 2 << 16, state, 0) + bytes(8),
            take={"stream": [12, 4]},
            kind="migration",
        )
        make.step("close", slot="stream")
    data = struct.pack("<IIIIIIQQ", 40, 11 | 1 << 16, 0, 0, 0, 1, 0, PAGE)
    make.ioctl("d", "VFIO_DEVICE_FEATURE", None, extra=data, **{"as": "b", "kind": "dma-buf"})
    return make.steps


# Requests of devices.


def features(device: str) -> Episode:
    """Make VFIO_DEVICE_FEATURE with every number and every operation."""
    make = DeviceAsker(device)
    for number, flags in product(range(16), range(8)):
        if not (number == 2 and flags & 6 == 2):
            make.ask("VFIO_DEVICE_FEATURE", struct.pack("<II", 8, number | flags << 16) + bytes(64))
    for argsz, flags in product((0, 7, 8, 12), (0, 1 << 19, 1 << 20, 1 << 31)):
        make.ask("VFIO_DEVICE_FEATURE", struct.pack("<II", argsz, 7 | 2 << 16 | flags) + bytes(64))
    return make.steps


def low_power() -> Episode:
    make = DeviceAsker(EDU)
    for event in ("e0", "e1"):
        make.step("eventfd", **{"as": event})

    def entry(fd: str | None = None, number: int = 3) -> None:
        data = struct.pack("<iI", -1, 0) if number == 4 else b""
        put = [] if fd is None else [[8, 4, ["fd", fd]]]
        make.ask("VFIO_DEVICE_FEATURE", struct.pack("<II", 8 + len(data), number | 2 << 16) + data + bytes(8), put=put)
        make.step("settle", seconds=0.5)  # give the device time to suspend

    for exits in (5, None):
        entry()
        events: tuple[tuple[int, str | None], ...] = ((3, None), (4, "e0"), (4, None), (4, "closed"), (4, "c"))
        for number, descriptor in events:
            entry(descriptor, number)
        make.read(CONFIG, 4)
        make.read(0, 4)
        make.write(4, 4, 1)
        make.irqs(4 | 32, 1, fds=("e1",))
        make.irqs(1 | 32, 1, count=0)
        make.dma_buf((0, PAGE))
        if exits is not None:
            entry(number=5)
        entry("e0", 4)
        make.step("read", slot="e0", size=8)
        entry(number=5)
        make.step("read", slot="e0", size=8)
        entry(number=5)
        make.read(0, 4)
    entry("e0", 4)
    make.read(CONFIG, 4)
    make.step("settle")
    make.step("read", slot="e0", size=8)
    entry("e1", 4)
    make.step("close", slot="d0")
    make.step("read", slot="e1", size=8)
    return make.steps


def interrupts(device: str) -> Episode:
    """Try every action with every kind of data on each interrupt index, disabled and enabled."""
    make = DeviceAsker(device)
    for event in ("e0", "e1", "e2"):
        make.step("eventfd", **{"as": event})
    vectors = (
        (1, 4, 8, 1, 1)
        if make.mock
        else {EDU: (1, 1, 0, 1, 1), NVME: (1, 0, 65, 1, 1), E1000E: (1, 1, 5, 1, 1)}[device]
    )
    for index in (*range(6), 2**32 - 1):
        make.ask("VFIO_DEVICE_GET_IRQ_INFO", struct.pack("<4I", 16, 0, index, 0))
    for index in range(5):
        for on in (False, True):
            for action, kind, count in product((0, 8, 16, 32, 24), (0, 1, 2, 4, 3), (0, 1, 2)):
                if on:
                    make.irqs(4 | 32, index, fds=("e0",))
                data: Any = (
                    {"bools": bytes([1] * count)} if kind == 2 else {"fds": ("e1", "e2")[:count]} if kind == 4 else {}
                )
                make.irqs(kind | action, index, 0, count, **data)
            for fd in (-1, -2, "closed", "c"):
                for action in (8, 16, 32):
                    make.irqs(4 | action, index, fds=(fd,))
            for fd in ("e1", "e1", -1, -1):
                make.irqs(4 | 16, index, fds=(fd,))
            make.irqs(2 | 32, index, bools=b"\0")
            make.irqs(2 | 32, index, bools=b"\1")
            make.irqs(1 | 32, index)
        for start, count in (
            (0, 2),
            (1, 1),
            (0, 0),
            (vectors[index], 0),
            (vectors[index], 1),
            (2**32 - 1, 1),
            (2**32 - 2, 1),
            (0, 2**32 - 1),
        ):
            make.irqs(4 | 32, index, start, count, fds=("e1", "e2"))
        make.irqs(1 | 32, index, 0, 0)
        # Set vector 0, then vectors 0 and 1, then vectors 1 and 2, of which the last was not enabled.
        make.irqs(4 | 32, index, 0, 1, fds=("e0",))
        make.irqs(4 | 32, index, 0, 2, fds=("e1", "e2"))
        make.irqs(4 | 32, index, 1, 2, fds=("e1", "e2"))
        make.irqs(4 | 32, index, 0, 2, fds=("e1", "closed"))
        for argsz in (0, 16, 20, 23):
            make.irqs(4 | 32, index, fds=("e0",), argsz=argsz)
        for other in range(5):
            make.irqs(4 | 32, other, fds=("e1",))
            if other != index:
                make.irqs(1 | 32, other, 0, 0)
        make.irqs(1 | 32, index, 0, 0)
    if make.mock:
        for name in (0, 1 << 16, 1 << 16 | 4, 5 << 16, 2**32 - 2, 2**32 - 1):
            make.write(0x180, 4, name)
    for event in ("e0", "e1", "e2"):
        make.step("read", slot=event, size=8)
    return make.steps


def ioeventfds() -> Episode:
    """Register the maximum number of ioeventfds, and one more."""
    make = DeviceAsker(EDU)
    make.step("eventfd", **{"as": "e0"})

    def ask(offset: int, value: int = 0, fd: str | None = "e0", flags: int = 4, argsz: int = 32) -> None:
        put = [] if fd is None else [[24, 4, ["fd", fd]]]
        make.ask("VFIO_DEVICE_IOEVENTFD", struct.pack("<IIQQiI", argsz, flags, offset, value, -1, 0), put=put)

    for flags, offset in product(
        (0, 1, 2, 3, 4, 8, 16, 12), (0, 1, 2, 4, (1 << 20) - 4, 1 << 20, 1 << 40, 6 << 40, CONFIG, 9 << 40)
    ):
        ask(offset, flags=flags)
        ask(offset, fd=None, flags=flags)
    for fd in ("closed", "c"):
        ask(4, fd=fd)
    ask(4, argsz=27)
    for value in range(1001):
        ask(0x80, value)
    ask(0x80, 7)
    ask(0x80, 7, None)
    ask(0x80, 7, None)
    ask(0x80, 1000)
    return make.steps


def hot_resets() -> Episode:
    """Hot resets of a bus with one device, of a bus with two functions of one group, and of the root bus."""
    make = DeviceAsker(FAR_EDU, CARD, EDU)
    make.get_device("g1", CARDS_EDU, "d3")
    for slot in ("d0", "d1", "d2", "d3"):
        for argsz in (0, 8, 12, 19, 20, 27, 28, 200):
            make.ask(
                "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
                struct.pack("<3I", argsz, 9, 9) + b"\xa5" * 40,
                slot,
                mask=[[12, 4], [20, 4]],
            )
        make.step("ioctl", slot=slot, request="VFIO_DEVICE_PCI_HOT_RESET", value=0)
        for argsz, flags, fds in (
            (8, 0, ()), (12, 1, ()), (12, 0, ()), (16, 0, ("g0",)), (16, 0, ("g1",)), (16, 0, ("g2",)), (16, 0, ("c",)), (16, 0, ("closed",)),
            (20, 0, ("g0", "g1")), (20, 0, ("g1", "g1")), (24, 0, ("g0", "g1", "g2")), (12, 0, ("g0",) * 200),
        ):  # fmt: skip
            put = [[12 + 4 * n, 4, ["fd", fd]] for n, fd in enumerate(fds)]
            make.ask(
                "VFIO_DEVICE_PCI_HOT_RESET",
                struct.pack("<3I", argsz, flags, len(fds)) + bytes(4 * len(fds) + 8),
                slot,
                put=put,
            )
    return make.steps


def hot_resets_by_cdev() -> Episode:
    """Hot resets with cdevs: an iommufd has both functions, or one of them, or two iommufds have one each."""
    make = Asker()
    make.step("open", **{"as": "o", "what": "iommufd"})
    for slot, name in (("x", FAR_EDU), ("y", CARD), ("z", CARDS_EDU), ("r", EDU)):
        make.step("open", **{"as": slot, "what": f"cdev:{name}"})

    def ask() -> None:
        for slot in "xyzr":
            make.ioctl(
                slot, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", None, extra=struct.pack("<3I", 200, 0, 0) + bytes(188)
            )
            for argsz, count, fds in ((12, 0, ()), (16, 1, ("d",))):
                put = [[12, 4, ["fd", fd]] for fd in fds]
                make.ioctl(
                    slot,
                    "VFIO_DEVICE_PCI_HOT_RESET",
                    None,
                    extra=struct.pack("<3I", argsz, 0, count) + bytes(8),
                    put=put,
                )

    ask()
    for slot in "xyr":
        make.bind(slot, keep=f"dev{slot}")
        ask()
    make.bind("z", "o", keep="other")
    make.bind("z", keep="devz")
    ask()
    for slot in "xy":
        make.step("close", slot=slot)
    ask()
    return make.steps


def configuration(device: str) -> Episode:
    """Read and write configuration space, at each offset and around its end."""
    make = DeviceAsker(device)
    size = 256 if device in (EDU, FAR_EDU) else 4096
    for offset in (0, 1, size - 8, size - 4, size - 3, size - 2, size - 1, size, size + 1):
        for width in (1, 2, 3, 4, 8, 9):
            make.read(CONFIG + offset, width)
            if offset >= size - 4:
                make.write(CONFIG + offset, width, 0)
    for where in ((1 << 20) - 4, (1 << 20) - 1, 1 << 20, 1 << 40, 6 << 40, 8 << 40, 9 << 40, 60 << 40):
        if device == EDU:
            make.read(where, 8)
            make.write(where, 8, 0)
    if device == EDU:
        # edu's MSI capability is at 0x40: control, address, data.
        for value in (0x00, 0x01, 0x10, 0x70, 0x71, 0xFF):
            make.write(CONFIG + 0x42, 2, value)
            make.read(CONFIG + 0x40, 4)
        for event in ("e0", "e1"):
            make.step("eventfd", **{"as": event})
        make.irqs(4 | 32, 1, fds=("e0",))
        for value in (0x00, 0x01, 0x10, 0x70, 0x71):
            make.read(CONFIG + 0x40, 4)
            make.write(CONFIG + 0x42, 2, value)
            make.read(CONFIG + 0x40, 4)
        make.irqs(1 | 32, 1, count=0)
        make.read(CONFIG + 0x40, 4)
        make.irqs(4 | 32, 0, fds=("e1",))
        for action in (8, 16):
            make.irqs(1 | action, 0)
            make.read(CONFIG + 4, 2)
        for value in (0x402, 0x002, 0x406):
            make.write(CONFIG + 4, 2, value)
            make.read(CONFIG + 4, 4)
            make.irqs(1 | 16, 0)
            make.irqs(1 | 32, 0)
            make.read(CONFIG + 4, 2)
        make.step("read", slot="e1", size=8)
        make.write(CONFIG + 4, 2, 2)
        make.read(0, 4)
        make.write(CONFIG + 4, 2, 0)
        make.read(0, 4)
        make.write(4, 4, 1)
    return make.steps


def region_infos(device: str) -> Episode:
    make = DeviceAsker(device)
    make.ask("VFIO_DEVICE_GET_INFO", struct.pack("<5I", 20, 0, 0, 0, 0))
    for index, argsz in product((*range(11), 2**32 - 1), (0, 31, 32, 200)):
        # Left out: ROMs, whose size QEMU chooses, and BARs with an MSI-X table, for which vfio-pci adds the capability
        # VFIO_REGION_INFO_CAP_MSIX_MAPPABLE if the BAR can be mapped. (The mock maps no registers.)
        if (device, index) not in ((NVME, 6), (E1000E, 6), (NVME, 0), (E1000E, 3)):
            make.ask(
                "VFIO_DEVICE_GET_REGION_INFO",
                struct.pack("<IIIIQQ", argsz, 0xA5, index, 0xA5, 0xA5, 0xA5) + b"\xa5" * 168,
            )
    return make.steps


# Parts of BARs, mapped for other devices.


def dma_bufs() -> Episode:
    make = DeviceAsker(EDU)
    for operation in range(8):
        make.dma_buf((0, PAGE), operation=operation)
    for argsz in (8, 12, 23, 24, 39, 40):
        make.dma_buf((0, PAGE), argsz=argsz)
    for index in (*range(10), 2**32 - 1):
        make.dma_buf((0, PAGE), index=index)
    make.dma_buf((0, PAGE), flags=1)
    make.dma_buf()
    make.dma_buf(count=2**32 - 1)
    for areas in (
        ((0, 0),), ((0, 1),), ((1, PAGE),), ((0x800, 0x800),), ((0, 1 << 20),), ((0, (1 << 20) + PAGE),), ((1 << 20, PAGE),), (((1 << 20) - PAGE, PAGE),),
        ((0, PAGE), (0, PAGE)), ((0, PAGE), (2 * PAGE, PAGE)), ((0, PAGE), (1, PAGE)), ((_U64 - PAGE, PAGE),), ((_U64 - PAGE, 2 * PAGE),), ((PAGE, _U64 - PAGE),),
        ((0, _U64 - PAGE), (0, 2 * PAGE)),
    ):  # fmt: skip
        make.dma_buf(*areas)
    make.write(CONFIG + 4, 2, 0)
    make.dma_buf((0, PAGE))
    return make.steps


def dma_bufs_mapped(other: str | None) -> Episode:
    """Map a device's BAR in an address space to which another device, or none, is attached."""
    make = Asker(other)
    one, second = make.begin()
    make.step("open", **{"as": "p", "what": f"cdev:{FAR_EDU}"})
    make.bind("p", keep="peer")
    data = struct.pack("<IIIIII", 40, 11 | 1 << 16, 0, 0, 0, 1) + struct.pack("<QQ", 0, 4 * PAGE)
    make.ioctl("p", "VFIO_DEVICE_FEATURE", None, extra=data, **{"as": "b", "kind": "dma-buf"})
    several = struct.pack("<IIIIII", 56, 11 | 1 << 16, 0, 0, 0, 2) + struct.pack("<4Q", 0, PAGE, 2 * PAGE, PAGE)
    make.ioctl("p", "VFIO_DEVICE_FEATURE", None, extra=several, **{"as": "two", "kind": "dma-buf"})

    def file(slot: str, start: int, size: int, iova: int, ioas: Ref = one) -> None:
        make.ask(
            "IOMMU_IOAS_MAP_FILE", {"ioas_id": ioas, "fd": ["fd", slot]}, start=start, length=size, iova=iova, flags=7
        )

    for start, size in (
        (0, 0),
        (0, PAGE),
        (PAGE, 3 * PAGE),
        (4 * PAGE, PAGE),
        (3 * PAGE, 2 * PAGE),
        (0x800, PAGE),
        (0, 1),
    ):
        file("b", start, size, 0x10000 + start % PAGE)
        make.unmap(one, 0x10000)
    for start, size in ((0, PAGE), (PAGE, PAGE), (0, 2 * PAGE), (0, 3 * PAGE)):
        file("two", start, size, 0x10000)
        make.unmap(one, 0x10000)
    file("b", 0, 4 * PAGE, 0x20000)
    for prot in (1, 3):
        make.step("mmap", slot="b", offset=0, size=PAGE, prot=prot)
    if other == MOCK:
        for command in (2, 3):
            make.engine(command, 0x20000, 8)
        make.pins(1, 0x20000, 1)
    refs = {"src_ioas_id": one, "dst_ioas_id": second}
    make.ask("IOMMU_IOAS_COPY", refs, src_iova=0x20000, dst_iova=0x50000, length=PAGE, flags=7)

    def reach() -> None:
        """Let edu write a register of the other device by DMA."""
        if other != EDU:
            return
        make.step("pwrite", slot="d", offset=(7 << 40) + 4, data="0600")
        # Fill edu's buffer first: it still has data of the last user.
        for data, source, target, command in (("ab", 0x20080, 0x40000, 1), ("cd", 0x40000, 0x20080, 3)):
            make.step("pwrite", slot="p", offset=0x80, data=data * 8)
            for offset, value in ((0x80, source), (0x88, target), (0x90, 8), (0x98, command)):
                make.step("pwrite", slot="d", offset=offset, data=value.to_bytes(8, "little").hex())
            make.step("until", slot="d", offset=0x98, size=8, mask=1, value=0)
        make.step("pread", slot="p", offset=0x80, size=8)

    reach()
    # A part of a dma-buf's mapping cannot be unmapped, not even with the first version of type1, which splits other
    # mappings.
    make.ask("IOMMU_VFIO_IOAS", {"ioas_id": one}, op=1)
    make.ioctl_value("f", "VFIO_SET_IOMMU", 1)
    make.ioctl("f", "VFIO_IOMMU_UNMAP_DMA", None, extra=struct.pack("<IIQQ", 24, 0, 0x20000, PAGE))
    make.unmap(one, 0x20000, PAGE)
    # While memory decoding is off, the BAR is not mapped.
    command = (7 << 40) + 4
    make.step("pwrite", slot="p", offset=command, data="0000")
    make.step("pwrite", slot="p", offset=command, data="0200")
    reach()
    make.step("pwrite", slot="p", offset=command, data="0000")
    file("b", 0, PAGE, 0x30000)
    make.unmap(one, 0x20000, 4 * PAGE)
    file("b", 0, PAGE, 0x30000, second)
    if other is not None:
        make.attach(second)
        make.attach(one)
    make.step("pwrite", slot="p", offset=command, data="0200")
    file("b", 0, PAGE, 0x40000)
    if other is not None:
        make.detach()
        make.attach(second)
    make.step("close", slot="p")
    file("b", 0, PAGE, 0x60000)
    return make.steps


# vfio-mock's own registers and engine.


def registers() -> Episode:
    make = DeviceAsker(MOCK)
    for offset, width in product(range(0, 0x400, 4), (1, 2, 4, 8)):
        make.read(offset, width)
    for offset, width in product(
        (0x000, 0x00C, 0x14C, 0x220, 0x384, 0x3A0, 0x400, 0x402, 0x404, 0x408, 0x40C, 0x53C, 0x540, 0xFFC, 0x1000),
        (2, 4, 8, 16),
    ):
        make.read(offset, width)
        make.write(offset, width, 0)
    for value in (0, 1, 2):
        make.write(0x384, 4, value)
        make.write(0x310, 4, value)
    for offset, width, values in (
        (0x200, 4, (0, 1)), (0x204, 4, (2, 1)), (0x208, 8, (0, 2048, 5000, PAGE)), (0x210, 8, (0, 4096, 1 << 63)), (0x218, 4, (64, 65)), (0x21C, 4, (65, 42)),
        (0x404, 4, (0, 4095, 4096)),
    ):  # fmt: skip
        for value in values:
            make.write(offset, width, value)
            make.read(offset, width)
    for index, size in ((MEMORY, 1 << 20), (SPARSE, 0x10000), (TYPED, 0x4000), (ROM, 0x1000), (4, 0), (6, 0)):
        for place in (size - 4, size, size + 8):
            where = (index << 40) + max(place, 0)
            make.read(where, 8)
            make.write(where, 8, 5)
    return make.steps


def jobs() -> Episode:
    """Run jobs of the engine that are invalid or fail before their end."""
    make = DeviceAsker(MOCK)
    make.map(0, 16 * PAGE)
    make.map(0x20000, PAGE, flags=1)
    make.map(0x21000, PAGE, flags=2)
    size, local, pinned, keep, background = 1 << 20, 0x1000, 0x2000, 0x4000, 0x100
    plain = {"iova": 0, "length": 64, "source": PAGE, "memory": 0, "count": 4, "stride": 8}
    for operation, flags in product(range(9), (0, local, pinned, keep, local | keep, 0x200, 0x400, 0x800, 0x8000)):
        if not (flags == 0x200 and 0 < operation < 8):  # such a job would never end
            make.job(operation | flags, **plain)
    for operation in (1, 2, 3, 4):
        for change in (
            {"length": 0}, {"iova": _U64 - 8}, {"iova": _U64 - 64}, {"source": _U64 - 8}, {"memory": size - 8}, {"memory": size}, {"iova": 0x20000}, {"iova": 0x21000},
            {"iova": 0x1FFFF}, {"source": 0x21000}, {"iova": 0x30000, "length": 5000}, {"iova": 0xF000, "length": 2 * PAGE},
        ):  # fmt: skip
            make.job(operation, **{**plain, **change})
    # Write words at IOVAs that a list in the device's memory gives.
    for target in (0, PAGE - 4, _U64 - 4, _U64 - 8, 0x20000, 0x30000):
        make.write(MEMORY << 40, 8, target)
        for flags in (0, local):
            make.job(5 | flags, **{**plain, "count": 1})
    for change in ({"count": 0}, {"count": 1 << 20}, {"memory": size - 8, "count": 2}, {"memory": size + 8}):
        make.job(5, **{**plain, **change})
    for target in (size - 8, size - 4, size):
        make.write(MEMORY << 40, 8, target)
        make.job(5 | local, **{**plain, "count": 1})
    for operation in (6, 7):
        for change in (
            {"stride": 0}, {"count": 0}, {"length": 0}, {"length": 4}, {"iova": _U64 - 4}, {"iova": _U64 - 60, "stride": 4, "length": 60}, {"iova": _U64 - 64},
            {"stride": 64}, {"memory": size - 4}, {"iova": 0x1FFF8, "length": 16},
        ):  # fmt: skip
            for flags in (0, local, keep):
                make.job(operation | flags, **{**plain, **change})
    for change in ({"iova": size - 8}, {"iova": size}, {"iova": size - 4, "length": 4}):
        for operation in (3, 6, 7):
            make.job(operation | local, **{**plain, **change})
    # A slow background job: while it runs, another job is refused, and a stop ends it.
    make.write(0x140, 4, 2**32 - 1)
    make.job(0x200 | 3, **plain)
    for command in (3, background | 3):
        make.write(0x148, 4, command)
    make.step("ioctl", slot="d0", request="VFIO_DEVICE_RESET", value=0)
    make.read(0x14C, 4)
    return make.steps


def logs() -> Episode:
    """Start logging with ranges and page sizes around the log's limits."""
    make = DeviceAsker(MOCK)

    def start(*ranges: tuple[int, int], page: int = PAGE) -> None:
        if ranges:
            make.step("fill", at=LOG, data=b"".join(struct.pack("<QQ", *one) for one in ranges).hex())
        make.feature(6, 2 << 16, struct.pack("<QIIQ", page, len(ranges), 0, 0), put=[[24, 8, ["arena", LOG]]])
        for offset, width in ((0x220, 4), (0x224, 4), (0x228, 8)):
            make.read(offset, width)
        make.feature(7, 2 << 16, b"")

    several = ((0, PAGE), (8 * PAGE, PAGE), (64 * PAGE, 4 * PAGE))
    for refuse, most in product((0, 1), (1, 2, 3)):
        make.write(0x204, 4, refuse)
        make.write(0x200, 4, most)
        start(*several)
    make.write(0x200, 4, 16)
    for low, high in ((12, 12), (13, 64), (0, 11), (64, 64), (0, 64)):
        make.write(0x218, 4, low)
        make.write(0x21C, 4, high)
        start((0, PAGE))
        start((0, PAGE), (PAGE, 0))
        start((0, 1 << 63))
    for page in (0, 1, 4095, PAGE, 3 * PAGE, 1 << 40, 1 << 63):
        start((0, PAGE), page=page)
        start((0, 1 << 63), page=page)
    return make.steps


def pins() -> Episode:
    """Pin pages, also pages that cannot be pinned."""
    make = DeviceAsker(MOCK)
    make.map(0, 4 * PAGE)
    make.map(0x10000, PAGE, flags=1)
    make.map(0x20000, PAGE, HOLE_AT)
    for iova, count in (
        (0, 1),
        (0, 1),
        (0, 2),
        (PAGE, 2),
        (3 * PAGE, 2),
        (1, 1),
        (0x10000, 1),
        (0x20000, 1),
        (0x30000, 1),
        (0, 0),
        (_U64 - PAGE, 1),
        (_U64 - PAGE, 2),
        (0, _U64 - 1),
    ):
        for command in (1, 3):
            make.write(0x300, 8, iova)
            make.write(0x308, 8, count)
            make.write(0x310, 4, command)
            make.read(0x318, 8)
    make.job(3 | 0x2000, iova=0, length=64, pattern=5)
    make.job(3 | 0x2000, iova=0x30000, length=64, pattern=5)
    return make.steps


def tokens() -> Episode:
    """Open a device with a missing, wrong and right VF token, while the module requires one."""
    make = Asker()
    make.step("open", **{"as": "c", "what": "container"})
    make.step("open", **{"as": "g0", "what": f"group:{MOCK}"})
    make.set_container("g0")
    make.ioctl_value("c", "VFIO_SET_IOMMU", 3)
    make.step("open", **{"as": "d", "what": f"cdev:{MOCKS[1]}"})
    right, wrong = bytes.fromhex(_UUID.replace("-", "")), bytes(16)
    for text in (_UUID, _UUID + "\n", "no UUID", _UUID + "  ", "", "\n"):
        make.step("tell", path=_TOKEN, data=text.encode().hex())
        make.step("file", path=_TOKEN, how="read_file")
        for words in ("", f" vf_token={_UUID}", f" vf_token={_UUID[:-1]}0", " vf_token=", " other=1"):
            make.get_device("g0", MOCK + words, "s")
            make.step("close", slot="s")
        for token in (None, wrong, right):
            if token is not None:
                make.step("fill", at=POINTED_AT, data=token.hex())
            make.step("open", **{"as": "d", "what": f"cdev:{MOCKS[1]}"})
            make.bind(flags=token is not None, token=None if token is None else POINTED_AT)
            make.step("close", slot="d")
    make.step("tell", path=_TOKEN, data=("x" * 60).encode().hex())
    make.step("tell", path=_TOKEN, data="0a")
    return make.steps


# Migration streams that no device has saved.

_HEADER = stream.header((1 << 20, 0x10000, 0x4000))
_REGISTERS = Record(stream.REGISTERS, 0, bytes(256))


def _job(status: int, command: int = 3, length: int = 0) -> Record:
    """Return a record with the registers of a device that was running a job."""
    at = 256 - 8 - 136
    payload = bytearray(256)
    struct.pack_into("<IIII", payload, at, command, 0, 2**32 - 1, status)
    struct.pack_into("<QQ", payload, at + 24, 0, length)
    return Record(stream.REGISTERS, 0, bytes(payload))


def streams() -> Episode:
    make = DeviceAsker(MOCK)
    page = Record(stream.PAGES, 3, b"\x5a" * stream.PAGE)
    beyond = Record(stream.PAGES, 1 << 40, b"\x5a" * stream.PAGE)

    def end(count: int) -> Record:
        return Record(stream.END, count, bytes(8))

    for records in (
        (_HEADER, page, _REGISTERS, end(3)), (_HEADER, _REGISTERS, end(2)), (_HEADER, end(1)), (_HEADER, _REGISTERS), (_HEADER,), (),
        (_HEADER, _HEADER), (page,), (_REGISTERS,), (stream.header((1, 2, 3)),), (_HEADER, beyond), (_HEADER, _REGISTERS, _REGISTERS),
        (_HEADER, _REGISTERS, end(9)), (_HEADER, _REGISTERS, end(2), page), (_HEADER, _job(4), end(2)), (_HEADER, _job(2, 3, 64), end(2)),
        (_HEADER, _job(1, 99), end(2)), (_HEADER, _job(1, 3, 0), end(2)), (_HEADER, Record(7, 0, bytes(8))),
    ):  # fmt: skip
        make.state(4)
        for record in records:
            data = (
                record.encoded()
                if record.type in (1, 2, 3, 4)
                else _HEADER.encoded().replace(b"\1\0\0\0", b"\7\0\0\0", 1)
            )
            make.step("write", slot="stream", data=data.hex())
        make.step("write", slot="stream", data="")
        make.state(1, to="none")
        make.feature(2, 1 << 16, bytes(8))
        make.read((MEMORY << 40) + 3 * stream.PAGE, 16)
        make.step("write", slot="stream", data="00")
        make.step("ioctl", slot="d0", request="VFIO_DEVICE_RESET", value=0)
    # Streams that are cut or changed, and a complete one after refused ones.
    whole = b"".join(record.encoded() for record in (_HEADER, _REGISTERS, end(2)))
    for data in (whole[:10], whole[:-1], whole[:40] + b"\1" + whole[41:], bytes(64), whole + b"\0", whole):
        make.state(4)
        make.step("write", slot="stream", data=data.hex())
        make.step("write", slot="stream", data="00")
        make.state(1, to="none")
        make.step("ioctl", slot="d0", request="VFIO_DEVICE_RESET", value=0)
    return make.steps


def saving() -> Episode:
    """Read a stream completely, with VFIO_MIG_GET_PRECOPY_INFO in between."""
    make = DeviceAsker(MOCK)

    def info(argsz: int = 24) -> None:
        make.ask("VFIO_MIG_GET_PRECOPY_INFO", struct.pack("<II", argsz, 0xA5) + bytes(24), "stream")

    for known in (False, True):
        if known:
            make.feature(12, 2 << 16, b"")
        make.state(6)
        for argsz in (0, 23, 24):
            info(argsz)
        make.step("write", slot="stream", data="00")
        make.step("read", slot="stream", size=100)
        info()
        make.step("read", slot="stream", size=1 << 22)
        info()
        make.step("read", slot="stream", size=1)
        make.write((MEMORY << 40) + 5 * PAGE, 8, 7)
        info()
        for value in (2, 1):
            make.write(0x384, 4, value)
            info()
        make.feature(9, 1 << 16, bytes(8))
        make.state(3, to="none")
        info()
        make.step("read", slot="stream", size=1 << 22)
        info()
        make.write(0x384, 4, 1)
        make.step("read", slot="stream", size=1 << 22)
        make.state(1, to="none")
        make.write(0x384, 4, 1)
        info()
        make.step("read", slot="stream", size=1)
        make.state(2, to="none")
    return make.steps


def invalid_addresses() -> Episode:
    """Let a device join, and request dirty pages, while virtual addresses are invalid (VFIO_DMA_UNMAP_FLAG_VADDR)."""
    make = DeviceAsker(EDU)
    make.step("open", **{"as": "g1", "what": f"group:{FAR_EDU}"})
    make.map(0, PAGE)
    for flags in (4, 4):
        make.ask("VFIO_IOMMU_UNMAP_DMA", struct.pack("<IIQQ", 24, flags, 0, PAGE), "c")
    make.set_container("g1")
    make.ask("VFIO_IOMMU_MAP_DMA", struct.pack("<IIQQQ", 32, 4, 0, 0, PAGE), "c", put=[[8, 8, ["arena", 0]]])
    make.set_container("g1")
    make.ask("VFIO_IOMMU_DIRTY_PAGES", struct.pack("<II", 8, 1), "c")
    for iova, size in (
        (0, 0),
        (0, PAGE),
        (1, PAGE),
        (0, PAGE + 1),
        (0, 2 * PAGE),
        (_U64 - PAGE, PAGE),
        (_U64 - PAGE, 2 * PAGE),
    ):
        data = struct.pack("<IIQQQQQ", 48, 4, iova, size, PAGE, 8, 0)
        make.ask("VFIO_IOMMU_DIRTY_PAGES", data, "c", put=[[40, 8, ["arena", LOG]]], look=[[LOG, 8]])
    make.ask("VFIO_IOMMU_DIRTY_PAGES", struct.pack("<II", 8, 2), "c")
    return make.steps


def no_way_back() -> Episode:
    """Set a series of migration states, including one from STOP_COPY to PRE_COPY, which does not exist."""
    make = DeviceAsker(MOCK)
    for state in (3, 6, 7, 1, 3, 0, 8, 2):
        make.state(state)
        make.feature(2, 1 << 16, bytes(8))
    return make.steps


def engine_faults() -> Episode:
    """Let edu do DMA that the IOMMU blocks."""
    make = DeviceAsker(EDU)
    make.write(CONFIG + 4, 2, 6)
    make.map(0, PAGE)
    make.map(PAGE, PAGE, PAGE, flags=1)
    make.map(2 * PAGE, PAGE, 2 * PAGE, flags=2)
    # The first transfer (out=False) fills edu's buffer, which still has data of its last user.
    for iova, out in product((0, PAGE, 2 * PAGE, 8 * PAGE), (False, True)):
        source, target = (0x40000, iova) if out else (iova, 0x40000)
        for offset, value in ((0x80, source), (0x88, target), (0x90, 64)):
            make.write(offset, 8, value)
        make.write(0x98, 8, 3 if out else 1)
        make.step("until", slot="d0", offset=0x98, size=8, mask=1, value=0)
        make.step("look", at=0, size=4 * PAGE)
    make.write(CONFIG + 4, 2, 2)
    return make.steps


def episodes() -> list[Episode]:
    made = [
        descriptors(),
        numbers(),
        full(0),
        low_power(),
        ioeventfds(),
        hot_resets(),
        hot_resets_by_cdev(),
        dma_bufs(),
    ]
    made += [
        kind(device)
        for kind, device in product((features, interrupts, region_infos), (MOCK, EDU, E1000E, NVME))
        if not (kind is region_infos and device == MOCK)
    ]
    made += [configuration(device) for device in (EDU, E1000E, NVME)]
    made += [dma_bufs_mapped(other) for other in (None, MOCK, EDU)]
    return [
        *made,
        registers(),
        jobs(),
        logs(),
        pins(),
        tokens(),
        streams(),
        saving(),
        engine_faults(),
        invalid_addresses(),
        no_way_back(),
    ]
