# SPDX-License-Identifier: MIT
"""Episodes that are not random: programs that make odd requests, often with every combination of arguments."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import product
from typing import Any

from tests.differential import type1
from tests.differential.devices import EDU
from tests.differential.functions import CARD, CONFIG, NVME
from tests.differential.steps import PAGE, Episode
from tests.differential.type1 import MOCKS

ALONE = "0000:01:00.0"
MOCK = MOCKS[0]
#: Size of BAR 0 in bytes; None for a device without a BAR.
SIZES = {EDU: 1 << 20, NVME: 0x4000, MOCK: None}
#: Offsets in the arena of a bitmap, and of ranges.
BITMAP, RANGES = 0x80000, 0x90000
_ALL = 2**64 - 1


class Program:
    """The steps of one program."""

    def __init__(self) -> None:
        self.steps: Episode = []

    def step(self, do: str, **what: Any) -> None:
        self.steps.append({"do": do, **what})

    def ioctl(self, slot: str, request: str, data: bytes = b"", **more: Any) -> None:
        self.step("ioctl", slot=slot, request=request, arg=(data + bytes(64)).hex(), **more)

    def value(self, slot: str, request: str, value: int = 0) -> None:
        self.step("ioctl", slot=slot, request=request, value=value)

    def by_group(self, name: str, number: str = "", *, container: bool = True, kind: str = "container") -> None:
        """Open a device by its group, in a new container (or an iommufd in its place) or in the existing one."""
        group = f"g{number}"
        if container:
            self.step("open", **{"as": "c"}, what=kind)
        self.step("open", **{"as": group}, what=f"group:{name}")
        self.join(group)
        if container:
            self.value("c", "VFIO_SET_IOMMU", 3)
        self.device(group, name, f"d{number}")

    def join(self, group: str) -> None:
        self.ioctl(group, "VFIO_GROUP_SET_CONTAINER", bytes(4), put=[[0, 4, ["fd", "c"]]])

    def device(self, group: str, name: str, slot: str) -> None:
        self.ioctl(group, "VFIO_GROUP_GET_DEVICE_FD", name.encode() + b"\0", **{"as": slot})

    def status(self, group: str) -> None:
        self.ioctl(group, "VFIO_GROUP_GET_STATUS", struct.pack("<II", 8, 0xFF))

    def by_cdev(self, name: str) -> None:
        """Open a device by its cdev, bind it to an iommufd, and create an address space."""
        self.step("open", **{"as": "f"}, what="iommufd")
        self.step("open", **{"as": "d"}, what=f"cdev:{name}")
        self.ioctl(
            "d", "VFIO_DEVICE_BIND_IOMMUFD", struct.pack("<4I", 16, 0, 0, 0), put=[[8, 4, ["fd", "f"]]], keep={"dev": [12, 4]}
        )  # fmt: skip
        self.ioctl("f", "IOMMU_IOAS_ALLOC", struct.pack("<3I", 12, 0, 0), keep={"ioas": [8, 4]})

    def command(self, request: str, data: bytes, put: Sequence[list[Any]], **more: Any) -> None:
        """Make a request to the iommufd.

        In `put`, a string stands for the value of a variable, a number for an offset in the arena.
        """
        refs = [[at, size, ["var", ref, 0] if isinstance(ref, str) else ["arena", ref]] for at, size, ref in put]
        self.ioctl("f", request, data, put=refs, **more)


def transfers(name: str) -> Episode:
    """Access registers with odd widths, also across the end of a region, and map at odd offsets."""
    program = Program()
    program.by_group(name)
    size = SIZES[name]
    if size:
        program.step("pwrite", slot="d", offset=CONFIG + 4, data="0200")
    for index, back, width in product((0, 1, 3, 6, 8), (1, 2, 3, 4, 8, 0, -1), (1, 2, 3, 4, 5, 7, 8, 16)):
        end = size if index == 0 and size else 0x1000
        program.step("pread", slot="d", offset=(index << 40) + end - back, size=width, mask=[[0, width]])
    offsets = (1, 0x800, 0xFFF, 0x200000)
    for index, offset, length, prot in product((0, 1, 2, 4, 7, 8), offsets, (1, 4096, 4097), (0, 1, 3)):
        if not size or offset >= size:  # not within a BAR: mapping registers is an intended difference of the mock
            program.step("mmap", slot="d", offset=(index << 40) + offset, size=length, prot=prot)
    return program.steps


def interrupts(name: str) -> Episode:
    """Make VFIO_DEVICE_SET_IRQS with odd starts, counts, flags and data."""
    program = Program()
    program.by_group(name)
    numbers = product((0, 1, 2, 3, 4, 5, 9), (0, 1, 2**32 - 1), (0, 1, 2, 2**32 - 1))
    every = (0x21, 0x22, 0x24, 0x09, 0x0A, 0x0C, 0x11, 0x14, 0x20, 0x04, 0x3C, 0x25, 0x81)
    for (index, start, count), flags, extra in product(numbers, every, (0, 1, 4)):
        if not (flags & 4 and count > 4):
            call = struct.pack("<5Ii", 20 + extra, flags, index, start, count, -1)
            program.ioctl("d", "VFIO_DEVICE_SET_IRQS", call)
    return program.steps


def features(name: str) -> Episode:
    """Make VFIO_DEVICE_FEATURE for each feature with all combinations of probe, get and set, with arguments of odd sizes."""
    program = Program()
    program.by_group(name)
    for number, flags, size in product(range(16), range(9), (7, 8, 9, 12, 16, 24, 32, 64)):
        if number not in (4, 11) or flags not in (1, 2):
            program.ioctl("d", "VFIO_DEVICE_FEATURE", struct.pack("<II", size, number | flags << 16))
    return program.steps


def unmaps() -> Episode:
    """Make VFIO_IOMMU_UNMAP_DMA and VFIO_IOMMU_DIRTY_PAGES with odd flags, sizes and page sizes."""
    program = Program()
    program.by_group(MOCK)
    for index in range(4):
        call = struct.pack("<IIQQQ", 32, 3, 0, index << 16, 1 << 16)
        program.ioctl("c", "VFIO_IOMMU_MAP_DMA", call, put=[[8, 8, ["arena", index << 16]]])
    sizes = (0, 1, PAGE, 0x10000, _ALL)
    for flags, argsz, iova, size in product(range(9), (16, 23, 24, 40, 48), (0, PAGE, 1), sizes):
        program.ioctl("c", "VFIO_IOMMU_UNMAP_DMA", struct.pack("<IIQQ", argsz, flags, iova, size))
    pages = ((4096, 8), (4096, 0), (8192, 8), (512, 8), (1 << 21, 8), (4096, 4), (3, 8))
    for flags, argsz, (page, size) in product(range(9), (7, 8, 32, 48), pages):
        call = struct.pack("<II5Q", argsz, flags, 0x10000, 0x10000, page, size, 0)
        program.ioctl("c", "VFIO_IOMMU_DIRTY_PAGES", call, put=[[40, 8, ["arena", BITMAP]]])
    return program.steps


def constants(name: str) -> Episode:
    """Write to read-only fields of configuration space."""
    program = Program()
    program.by_group(name)
    for at, width in product((0, 2, 8, 9, 0xE, 0x28, 0x2C, 0x34, 0x35, 0x3D, 0x3E), (1, 2, 4)):
        program.step("pwrite", slot="d", offset=CONFIG + at, data="a5" * width)
        program.step("pread", slot="d", offset=CONFIG + at, size=width)
    return program.steps


def page_tables(name: str) -> Episode:
    """Attach, replace and destroy in odd orders; read dirty bitmaps with odd page sizes; map, copy and allow at odd IOVAs."""
    program = Program()
    program.by_cdev(name)
    for flags, kept in ((2, "tracked"), (0, "plain")):
        call = struct.pack("<6I", 48, flags, 0, 0, 0, 0)
        program.command("IOMMU_HWPT_ALLOC", call, [[8, 4, "dev"], [12, 4, "ioas"]], keep={kept: [16, 4]})
    for ref in ("ioas", "tracked", "tracked", "plain", "dev", "ioas"):
        program.ioctl("d", "VFIO_DEVICE_ATTACH_IOMMUFD_PT", struct.pack("<3I", 12, 0, 0), put=[[8, 4, ["var", ref, 0]]])
        program.command("IOMMU_DESTROY", struct.pack("<II", 8, 0), [[4, 4, ref]])
    for flags, reserved, ref in product((0, 1, 2), (0, 1), ("tracked", "plain", "ioas")):
        program.command("IOMMU_HWPT_SET_DIRTY_TRACKING", struct.pack("<4I", 16, flags, 0, reserved), [[8, 4, ref]])
    lengths, pages = (0, PAGE, PAGE + 1, _ALL), (0, 2048, 4096, 8192, 3)
    for flags, iova, length, page in product((0, 1, 2), (0, PAGE, 1), lengths, pages):
        call = struct.pack("<4I4Q", 48, 0, flags, 0, iova, length, page, 0)
        program.command("IOMMU_HWPT_GET_DIRTY_BITMAP", call, [[4, 4, "tracked"], [40, 8, BITMAP]])
    for _ in range(2):
        program.ioctl("d", "VFIO_DEVICE_DETACH_IOMMUFD_PT", struct.pack("<II", 8, 0))
    places, sizes = (0, 1, PAGE, 0xFEE00000, 2**64 - PAGE), (0, 1, PAGE, PAGE + 1, _ALL)
    for flags, iova, length in product((0, 1, 4, 6, 7, 8), places, sizes):
        call = struct.pack("<4I3Q", 40, flags, 0, 0, 0, length, iova)
        # Without IOMMU_IOAS_MAP_FIXED_IOVA the kernel chooses the IOVA, so mask it.
        mask = [[32, 8]] if not flags & 1 else []
        program.command("IOMMU_IOAS_MAP", call, [[8, 4, "ioas"], [16, 8, PAGE]], mask=mask)
    sources, targets = (0, PAGE, 0x800), (0, PAGE, 0x100000)
    for flags, source, target, length in product((0, 6, 7), sources, targets, (0, PAGE, 2 * PAGE)):
        call = struct.pack("<4I3Q", 40, flags, 0, 0, length, target, source)
        mask = [[24, 8]] if not flags & 1 else []
        program.command("IOMMU_IOAS_COPY", call, [[8, 4, "ioas"], [12, 4, "ioas"]], mask=mask)
    for count, (start, last) in product((0, 1, 2), ((0, 0xFFF), (0, _ALL), (5, 4), (PAGE, 0x1FFFFF))):
        program.step("fill", at=RANGES, data=struct.pack("<4Q", start, last, start, last).hex())
        call = struct.pack("<4IQ", 24, 0, count, 0, 0)
        program.command("IOMMU_IOAS_ALLOW_IOVAS", call, [[4, 4, "ioas"], [16, 8, RANGES]])
    for reserved in (0, 1):
        program.ioctl("f", "IOMMU_IOAS_CHANGE_PROCESS", struct.pack("<II", 8, reserved))
    return program.steps


def hot_resets(name: str) -> Episode:
    """Make a hot reset with descriptors of other kinds than the bus's groups, and with odd counts."""
    program = Program()
    program.by_group(name)
    program.step("open", **{"as": "f"}, what="iommufd")
    for argsz, flags, count, slot in product((8, 12, 16, 20), (0, 1), (0, 1, 2, 2**32 - 1), ("g", "f", "d", "c")):
        call = struct.pack("<5I", argsz, flags, count, 0, 0)
        refs = [[at, 4, ["fd", slot]] for at in (12, 16)]
        program.ioctl("d", "VFIO_DEVICE_PCI_HOT_RESET", call, put=refs)
    for argsz in (8, 11, 12, 24, 64):
        call = struct.pack("<3I", argsz, 0, 0)
        program.ioctl("d", "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", call, mask=[[12, 60]])
    return program.steps


def leaving() -> Episode:
    """Let two devices of one container leave it in an odd order."""
    program = Program()
    program.by_group(EDU)
    program.by_group(MOCK, "2", container=False)
    for slot in ("g", "g2", "c"):
        program.value(slot, "VFIO_GROUP_UNSET_CONTAINER")
        program.value("c", "VFIO_SET_IOMMU", 1)
    program.step("close", slot="d")
    program.value("g", "VFIO_GROUP_UNSET_CONTAINER")
    program.ioctl("g", "VFIO_GROUP_SET_CONTAINER", bytes(4), put=[[0, 4, ["fd", "c"]]])
    program.step("close", slot="c")
    program.value("g2", "VFIO_GROUP_UNSET_CONTAINER")
    program.ioctl("d2", "VFIO_DEVICE_GET_INFO", struct.pack("<II", 24, 0))
    return program.steps


def reopening(name: str, kind: str) -> Episode:
    """Close a group's file while its device is open, and open it anew.

    An open device keeps the group's file in use in a container, and does not in an iommufd.
    """
    program = Program()
    program.by_group(name, kind=kind)
    program.step("close", slot="g")
    program.step("open", **{"as": "again"}, what=f"group:{name}")
    program.status("again")
    program.device("again", name, "d2")
    program.join("again")
    program.status("again")
    program.device("again", name, "d2")
    program.step("open", **{"as": "cdev"}, what=f"cdev:{name}")
    program.ioctl("cdev", "VFIO_DEVICE_BIND_IOMMUFD", struct.pack("<4I", 16, 0, 0, 0), put=[[8, 4, ["fd", "c"]]])
    program.step("close", slot="again")
    program.ioctl("cdev", "VFIO_DEVICE_BIND_IOMMUFD", struct.pack("<4I", 16, 0, 0, 0), put=[[8, 4, ["fd", "c"]]])
    program.step("close", slot="c")
    program.step("close", slot="d")
    program.ioctl("d2", "VFIO_DEVICE_GET_INFO", struct.pack("<II", 24, 0))
    program.step("close", slot="d2")
    program.step("open", **{"as": "c"}, what=kind)
    program.step("open", **{"as": "again"}, what=f"group:{name}")
    program.status("again")
    program.join("again")
    program.value("c", "VFIO_SET_IOMMU", 3)
    program.device("again", name, "d")
    program.value("again", "VFIO_GROUP_UNSET_CONTAINER")
    program.status("again")
    program.join("again")
    program.device("again", name, "d2")
    program.step("close", slot="d")
    program.value("again", "VFIO_GROUP_UNSET_CONTAINER")
    program.step("close", slot="d2")
    program.value("again", "VFIO_GROUP_UNSET_CONTAINER")
    program.status("again")
    return program.steps


def episodes() -> list[Episode]:
    """Return all episodes of this module."""
    made = [transfers(name) for name in SIZES]
    made += [interrupts(name) for name in (EDU, NVME, CARD, MOCK)]
    made += [features(name) for name in SIZES]
    made += [constants(name) for name in (EDU, NVME, CARD)]
    made += [page_tables(name) for name in (EDU, MOCK)]
    made += [hot_resets(name) for name in (EDU, ALONE, NVME)]
    made += [reopening(name, kind) for name, kind in product((EDU, MOCK), ("container", "iommufd"))]
    return [*made, unmaps(), leaving()]


DEVICES = tuple(sorted({*type1.DEVICES, ALONE, NVME, CARD}))
SPACES = (NVME, CARD)
