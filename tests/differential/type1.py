# SPDX-License-Identifier: MIT
"""Episodes about containers, groups and type1's mappings."""

from __future__ import annotations

from pyvfio._abi import ffi, lib
from tests.differential.maker import Maker, offset
from tests.differential.steps import HOLE_AT, PAGE, RO_AT, WRITABLE

MAP = "struct vfio_iommu_type1_dma_map"
UNMAP = "struct vfio_iommu_type1_dma_unmap"
INFO = "struct vfio_iommu_type1_info"
DIRTY = "struct vfio_iommu_type1_dirty_bitmap"
GET = "struct vfio_iommu_type1_dirty_bitmap_get"
BITMAP = "struct vfio_bitmap"
MOCKS = ("vfio-mock.0", "vfio-mock.1")
EDUS = ("0000:00:03.0", "0000:01:00.0")
#: Two functions of one group. At most one of them is bound.
SHARED = ("0000:00:05.0", "0000:00:05.1")
_UUID = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
#: Device names with options behind them, for VFIO_GROUP_GET_DEVICE_FD.
TOKENS = tuple(
    f"{name} {words}"
    for name in ("vfio-mock.0", "0000:00:03.0")
    for words in (
        f"vf_token={_UUID}",
        f" vf_token={_UUID} ",
        f"vf_token={_UUID[:-1]}",
        f"vf_token={_UUID} vf_token={_UUID}",
        "token",
        "vf_token=",
    )
)
#: Special IOVAs: around the MSI window, AMD's hole, the limits of IOMMU widths, the end of the address space.
EDGES = (
    0xFEE00000, 0xFEDFF000, 0xFEEFF000, 0xFEF00000, 1 << 32, 0xFCFFFFF000, 0xFD00000000, 0xFFFFFFF000, 1 << 40,
    0x7FFFFFF000, 0x8000000000, 0xFFFFFFFFF000, 1 << 48, 1 << 56, 2**64 - PAGE, 2**64 - 2 * PAGE, 1 << 63,
)  # fmt: skip
#: Offset in the arena of bitmaps. That part is never mapped for DMA.
BITMAPS_AT = WRITABLE - 16 * PAGE
MAPPED = BITMAPS_AT
LIMIT = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"


class Type1Maker(Maker):
    """An episode with a container. The builder tracks roughly what is mapped, so that many of its steps succeed."""

    space = 24  # most steps use IOVAs in this number of pages

    def open(self, devices: tuple[str, ...], type: int) -> None:
        """Open a container, set the IOMMU, and open devices, in the usual order."""
        self.step("open", **{"as": "c", "what": "container"})
        for index, name in enumerate(devices):
            self.step("open", **{"as": f"g{index}", "what": f"group:{name}"})
            self.set_container(f"g{index}")
            if not index:
                self.ioctl_value("c", "VFIO_SET_IOMMU", type)
            self.get_device(f"g{index}", name, f"d{index}")
        self.devices = devices
        self.mapped: list[tuple[int, int]] = []

    def ioctl_value(self, slot: str, request: str | int, value: int) -> None:
        self.step("ioctl", slot=slot, request=request, value=value)

    def set_container(self, group: str, container: str = "c") -> None:
        self.ioctl(group, "VFIO_GROUP_SET_CONTAINER", None, extra=bytes(4), put=[[0, 4, ["fd", container]]])

    def get_device(self, group: str, name: str, slot: str) -> None:
        self.ioctl(
            group, "VFIO_GROUP_GET_DEVICE_FD", None, extra=name.encode() + bytes(1), **{"as": slot, "kind": "device"}
        )

    # Requests to the container.

    def iova(self) -> int:
        if self.mapped and self.chance(35):
            start, size = self.random.choice(self.mapped)
            return max(0, min(start + self.one_of(0, 0, 0, PAGE, -PAGE, size, size - PAGE, 512), 2**64 - 1))
        if self.chance(12):
            return self.random.choice(EDGES)
        if self.chance(3):
            return self.random.getrandbits(64)
        return self.pages(self.space) + (self.one_of(1, 512, 2048) if self.chance(2) else 0)

    def size(self) -> int:
        if self.chance(4):
            return self.one_of(
                0, 1, 512, 4095, 1 << 21, 1 << 32, 1 << 43, (1 << 43) - PAGE, 1 << 44, 1 << 63, 2**64 - PAGE, 2**64 - 1
            )
        return PAGE * self.one_of(1, 1, 1, 2, 2, 3, 4, 5, 8)

    def map(self) -> None:
        iova, size = self.iova(), self.size()
        if iova in EDGES and self.chance(40):
            iova = (iova - size) % 2**64
        flags = self.one_of(3, 3, 3, 3, 3, 3, 1, 2, 0, 4, 7, 8, 1 << 31) if self.chance(35) else 3
        if flags == 4 or (self.mapped and flags & 4):
            iova, size = self.random.choice(self.mapped) if self.mapped and self.chance(70) else (iova, size)
        at = self.pages(max(MAPPED // PAGE - 8, 1))
        put = [[offset(MAP, "vaddr"), 8, ["arena", at]]]
        vaddr = 0
        if self.chance(5):
            where = self.one_of("ro", "hole", "edge", "unaligned", "end", "null")
            at = {"ro": RO_AT, "hole": HOLE_AT, "edge": HOLE_AT - PAGE, "unaligned": at + 512}.get(where, at)
            put = [[offset(MAP, "vaddr"), 8, ["arena", at]]]
            if where in ("end", "null"):
                put, vaddr = [], 2**64 - PAGE if where == "end" else 0
        argsz = self.argsz(32, 24, 31)
        self.ioctl(
            "c",
            "VFIO_IOMMU_MAP_DMA",
            MAP,
            {"argsz": argsz, "flags": flags, "iova": iova, "vaddr": vaddr, "size": size},
            put=put,
        )
        if flags in (1, 2, 3) and size % PAGE == 0 and iova % PAGE == 0:
            self.mapped.append((iova, size))

    def huge(self) -> None:
        """Map the largest size for which dirty pages can be tracked, or one page more, and then try to start tracking."""
        size = 1 << 43
        if self.chance(50):
            self.ioctl("c", "VFIO_IOMMU_DIRTY_PAGES", DIRTY, {"argsz": 8, "flags": 2})
            size -= self.one_of(0, PAGE)
        call = {"argsz": 32, "flags": 3, "iova": 1 << 50, "size": size}
        self.ioctl("c", "VFIO_IOMMU_MAP_DMA", MAP, call, put=[[offset(MAP, "vaddr"), 8, ["arena", 0]]])
        if size == 1 << 43:  # with the smaller size tracking would start, and its bitmap take 256 MiB
            self.ioctl("c", "VFIO_IOMMU_DIRTY_PAGES", DIRTY, {"argsz": 8, "flags": 1})
        self.ioctl("c", "VFIO_IOMMU_UNMAP_DMA", UNMAP, {"argsz": 24, "flags": 0, "iova": 1 << 50, "size": size})

    def edge(self) -> None:
        """Map at an IOVA that an IOMMU which joins later may not allow."""
        iova = self.random.choice(EDGES) - self.one_of(0, PAGE)
        call = {"argsz": 32, "flags": 3, "iova": iova, "size": PAGE}
        self.ioctl("c", "VFIO_IOMMU_MAP_DMA", MAP, call, put=[[offset(MAP, "vaddr"), 8, ["arena", 0]]])
        self.mapped.append((iova, PAGE))

    def unmap(self) -> None:
        iova, size = self.iova(), self.size()
        if self.mapped and self.chance(55):
            iova, size = self.random.choice(self.mapped)
            if self.chance(15):
                size += self.one_of(PAGE, -PAGE, 4 * PAGE)
        flags = 0
        if self.chance(25):
            flags = self.one_of(1, 1, 1, 2, 2, 4, 4, 6, 3, 5, 8, 1 << 31)
            if flags & 2 and self.chance(85):
                iova = size = 0
        argsz = self.argsz(24 + (24 if flags & 1 else 0), 24, 47, 48)
        extra = b""
        put: list[list[object]] = []
        look: list[list[int]] = []
        if flags & 1:
            extra, put, look = self.bitmap(size, 24)
        size %= 1 << 64
        self.ioctl(
            "c", "VFIO_IOMMU_UNMAP_DMA", UNMAP, {"argsz": argsz, "flags": flags, "iova": iova, "size": size},
            extra=extra, put=put, look=look,
        )  # fmt: skip
        if (iova, size) in self.mapped and not flags & 4:
            self.mapped.remove((iova, size))
        if flags & 2:
            self.mapped.clear()

    def bitmap(self, covered: int, at: int) -> tuple[bytes, list[list[object]], list[list[int]]]:
        """Return a struct vfio_bitmap for a number of bytes of IOVAs, with the `put` and `look` entries for its place in the argument."""
        pgsize = PAGE if self.chance(93) else self.one_of(1, 512, 2048, 6000, 8192, 1 << 21, 1 << 63)
        pages = min(covered // PAGE, 1 << 14)
        size = max(-(-pages // 64) * 8, 8)
        if self.chance(7):
            size = self.one_of(0, size - 8, size - 1, size + 1, size + 8, 1 << 28, (1 << 28) + 8, 1 << 40, 2**64 - 1)
        place = BITMAPS_AT + 8 * self.random.randrange(8)
        put = [[at + 16, 8, ["arena", place]]]
        if self.chance(4):
            where = self.one_of(HOLE_AT, RO_AT, HOLE_AT - 4, None)
            put = [] if where is None else [[at + 16, 8, ["arena", where]]]
        data = ffi.new("struct vfio_bitmap *", {"pgsize": pgsize, "size": size})
        if not put and self.chance(60):
            data.data = ffi.cast("void *", self.one_of(1 << 47, 0x7FFFFFFFE000, 2**64 - 4096))
        return bytes(ffi.buffer(data)), put, [[BITMAPS_AT, 8 * PAGE]]

    def dirty(self) -> None:
        flags = self.one_of(1, 2, 4, 4, 4, 4) if self.chance(95) else self.one_of(3, 5, 6, 7, 8, 1 << 31)
        if flags != 4:
            argsz = self.argsz(8, 7, 48)
            self.ioctl("c", "VFIO_IOMMU_DIRTY_PAGES", DIRTY, {"argsz": argsz, "flags": flags}, extra=bytes(40))
            return
        if self.mapped and self.chance(75):
            iova, size = self.random.choice(self.mapped)
            if self.chance(35):
                # Cover several mappings, and begin inside one: then the kernel must shift the bits.
                iova = max(0, iova - PAGE * self.one_of(0, 1, 3, 5))
                size += PAGE * self.one_of(0, 1, 6, 9)
        else:
            iova, size = (
                (0, self.space * PAGE + PAGE * self.one_of(0, 8)) if self.chance(60) else (self.iova(), self.size())
            )
        size %= 1 << 64
        bitmap, put, look = self.bitmap(size, 24)
        get = ffi.new(f"{GET} *", {"iova": iova, "size": size})
        extra = bytes(ffi.buffer(get))[:16] + bitmap
        argsz = self.argsz(48, 8, 16, 47)
        self.ioctl(
            "c", "VFIO_IOMMU_DIRTY_PAGES", DIRTY, {"argsz": argsz, "flags": flags}, extra=extra, put=put, look=look
        )

    def info(self) -> None:
        argsz = (
            160
            if self.chance(50)
            else self.one_of(0, 15, 16, 17, 20, 23, 24, 72, 80, 104, 120, 127, 128, 136, 2**32 - 1)
        )
        self.ioctl("c", "VFIO_IOMMU_GET_INFO", INFO, {"argsz": argsz}, extra=b"\xa5" * 136)

    def extension(self) -> None:
        number = self.random.randrange(13) if self.chance(95) else self.random.getrandbits(64)
        self.ioctl_value(self.one_of("c", "c", "c2"), "VFIO_CHECK_EXTENSION", number)

    # DMA.

    def dma(self) -> None:
        index = self.random.randrange(len(self.devices))
        if self.devices[index].startswith("vfio-mock"):
            self.mock_dma(f"d{index}")

    def mock_dma(self, slot: str) -> None:
        """Let vfio-mock fill memory with a pattern, or read memory into its own."""
        iova = self.iova()
        if self.mapped and self.chance(60):
            start, size = self.random.choice(self.mapped)
            last = max(size - 1, 0)
            iova = (start + self.one_of(last, last - 1, self.random.randrange(max(min(size, 1 << 20), 1)))) % 2**64
        length = self.one_of(1, 8, 100, 4096, 4097, 10000, 20000) if self.chance(95) else self.one_of(0, 2**64 - 1)
        command = self.one_of(3, 3, 3, 2, 1)
        for register, value in (
            (0x100, iova),
            (0x108, length),
            (0x118, self.random.randrange(1 << 12)),
            (0x120, self.random.getrandbits(64)),
        ):
            self.step("pwrite", slot=slot, offset=register, data=value.to_bytes(8, "little").hex())
        self.step("pwrite", slot=slot, offset=0x148, data=command.to_bytes(4, "little").hex())
        # Read status and errno, then steps, bytes and the IOVA of the fault; and then the memory.
        for register, size in ((0x14C, 4), (0x150, 4), (0x158, 8), (0x160, 8), (0x168, 8)):
            self.step("pread", slot=slot, offset=register, size=size)
        if command == 2:
            self.step("pread", slot=slot, offset=1 << 40, size=32768)
        else:
            self.step("look", at=0, size=MAPPED)

    def pin(self) -> None:
        slot = f"d{self.random.randrange(len(self.devices))}"
        iova = self.iova()
        count = self.one_of(1, 1, 2, 3, 0) if self.chance(97) else 2**64 - 1
        command = self.one_of(1, 1, 1, 2) if self.chance(97) else 3
        for register, value in ((0x300, iova), (0x308, count)):
            self.step("pwrite", slot=slot, offset=register, data=value.to_bytes(8, "little").hex())
        self.step("pwrite", slot=slot, offset=0x310, data=command.to_bytes(4, "little").hex())
        self.step("pread", slot=slot, offset=0x318, size=8)
        self.step("pread", slot=slot, offset=0x2A0, size=8)

    # Groups.

    def group(self) -> None:
        number = self.random.randrange(3)
        group = f"g{number}"
        self.one_of(self.status, self.leave, self.join, self.reopen, self.device, self.shut)(group)

    def status(self, group: str) -> None:
        self.ioctl(group, "VFIO_GROUP_GET_STATUS", "struct vfio_group_status", {"argsz": self.argsz(8), "flags": 0xFF})

    def leave(self, group: str) -> None:
        self.ioctl_value(group, "VFIO_GROUP_UNSET_CONTAINER", 0)

    def join(self, group: str) -> None:
        self.set_container(group, self.one_of("c", "c", "c", "c2", "g0", "d0", "nothing"))
        if self.chance(40):
            self.ioctl_value(
                self.one_of("c", "c", "c2"), "VFIO_SET_IOMMU", self.one_of(1, 3, 3, 3, 0, 4, 6, 8, 9, 10, 2**64 - 1)
            )

    def reopen(self, group: str) -> None:
        self.step(
            "open", **{"as": self.one_of(group, "g9"), "what": f"group:{self.random.choice((*MOCKS, *EDUS, *SHARED))}"}
        )

    def device(self, group: str) -> None:
        name = self.random.choice(
            (
                *MOCKS,
                *EDUS,
                *SHARED,
                "",
                "x" * 4094,
                "x" * 4095,
                "x" * 4096,
                "0000:00:03",
                "0000:00:03.0 ",
                "0000:00:03.0x",
                "vfio-mock.00",
                *TOKENS,
            )
        )
        self.get_device(group, name, self.one_of("d0", "d1", "d9"))

    def shut(self, group: str) -> None:
        self.step("close", slot=self.one_of(group, f"d{group[1:]}", "c", "d9", "g9"))

    def swap(self) -> None:
        """Let a device's group leave the container, or join it."""
        index = self.random.randrange(len(self.devices))
        if self.chance(50):
            self.step("close", slot=f"d{index}")
            self.leave(f"g{index}")
        else:
            self.set_container(f"g{index}")
            self.get_device(f"g{index}", self.devices[index], f"d{index}")
        if self.chance(30):
            self.info()

    def wrong(self) -> None:
        """Make a request on a wrong kind of descriptor or on a closed one, or a request that does not exist."""
        request = self.a_request(
            "VFIO_IOMMU_MAP_DMA", "VFIO_GET_API_VERSION", "VFIO_GROUP_GET_STATUS", "VFIO_DEVICE_GET_INFO", "VFIO_DEVICE_RESET",
            "IOMMU_IOAS_ALLOC", "VFIO_SET_IOMMU", 0x3B63, 0x3BFF, 0x12345678,
        )  # fmt: skip
        slot = self.one_of("c", "g0", "g1", "closed", "c2")
        if request == "VFIO_SET_IOMMU" and slot == "c":
            self.ioctl_value(slot, request, self.one_of(1, 3, 8))
        else:
            self.ioctl(slot, request, None, extra=bytes(64))

    def run(self, count: int, **weights: int) -> None:
        """Call `count` random methods of this object, by weights."""
        names = list(weights)
        for name in self.random.choices(names, list(weights.values()), k=count):
            getattr(self, name)()


def _types(make: Type1Maker, v1: int = 25) -> int:
    return int(lib.VFIO_TYPE1_IOMMU if make.chance(v1) else lib.VFIO_TYPE1v2_IOMMU)


def emulated(make: Type1Maker) -> None:
    make.open(MOCKS[: make.one_of(1, 1, 2)], _types(make))
    make.run(40, map=10, unmap=7, info=1, extension=1, dma=4, wrong=1, pin=1)


def backed(make: Type1Maker) -> None:
    make.open(EDUS[: make.one_of(1, 1, 2)], _types(make))
    make.run(40, map=10, unmap=8, info=2, extension=1, dirty=2, wrong=1)


def mixed(make: Type1Maker) -> None:
    devices = [*MOCKS[: make.one_of(1, 2)], *EDUS[:1]]
    make.random.shuffle(devices)
    make.open(tuple(devices), _types(make, 10))
    make.run(45, map=10, edge=2, unmap=5, info=3, extension=1, dirty=5, dma=4, group=1, swap=5, pin=2)


def joined(make: Type1Maker) -> None:
    """Let a device with an IOMMU join a container with mappings that its IOMMU does not allow, or whose memory cannot be pinned."""
    make.open(MOCKS[:1], _types(make, 10))
    make.run(make.random.randrange(3), map=1)
    make.run(make.random.randrange(3), edge=1)
    if make.chance(40):
        make.step("memlock", bytes=make.one_of(0, 8 * PAGE, 100 * PAGE))
    make.devices = (MOCKS[0], make.random.choice(EDUS))
    for _ in range(4):
        make.step("open", **{"as": "g1", "what": f"group:{make.devices[1]}"})
        make.set_container("g1")
        make.info()
        make.run(3, map=2, unmap=2, edge=1)
        make.step("close", slot="g1")
        make.info()


def dirty(make: Type1Maker) -> None:
    make.open(MOCKS[: make.one_of(1, 1, 2)], _types(make, 5))
    make.space = make.one_of(12, 24, 150)
    make.run(8, map=1)
    make.ioctl("c", "VFIO_IOMMU_DIRTY_PAGES", DIRTY, {"argsz": 8, "flags": 1})
    make.run(40, map=5, unmap=4, dirty=8, dma=8, pin=3, huge=1)


def addresses(make: Type1Maker) -> None:
    """Invalidate and update virtual addresses (VFIO_UPDATE_VADDR)."""
    make.open(make.one_of(EDUS[:1], EDUS), _types(make, 15))
    make.run(6, map=1)
    for _ in range(20):
        make.run(1, map=2, unmap=2, extension=1, group=1, swap=3)
        if make.mapped and make.chance(80):
            iova, size = make.random.choice(make.mapped)
            if make.chance(25):
                iova = size = 0
            flags = 4 | (2 if not size else 0)
            make.ioctl("c", "VFIO_IOMMU_UNMAP_DMA", UNMAP, {"argsz": 24, "flags": flags, "iova": iova, "size": size})
            iova, size = make.random.choice(make.mapped)
            at = make.pages(32)
            make.ioctl(
                "c", "VFIO_IOMMU_MAP_DMA", MAP, {"argsz": 32, "flags": 4, "iova": iova, "size": size},
                put=[[offset(MAP, "vaddr"), 8, ["arena", at]]],
            )  # fmt: skip


def groups(make: Type1Maker) -> None:
    make.mapped = []
    make.step("open", **{"as": "c", "what": "container"})
    make.step("open", **{"as": "c2", "what": "container"})
    names = [*MOCKS, *EDUS, SHARED[0]]
    make.random.shuffle(names)
    make.devices = tuple(names[:3])
    for index, name in enumerate(make.devices):
        make.step("open", **{"as": f"g{index}", "what": f"group:{name}"})
    for _ in range(12):
        make.run(3, group=6, info=1, extension=1, map=2, unmap=1, wrong=1)
        if make.chance(50):
            index = make.random.randrange(3)
            make.set_container(f"g{index}")
            make.ioctl_value(
                "c", "VFIO_SET_IOMMU", 3 if make.chance(75) else make.one_of(0, 1, 4, 6, 8, 9, 10, 2**64 - 1)
            )
            make.get_device(f"g{index}", make.devices[index], f"d{index}")


def memlock(make: Type1Maker) -> None:
    make.step("memlock", bytes=make.one_of(0, 1, 4095, 4096, 16 * PAGE, 16 * PAGE + 1, 40 * PAGE))
    devices = make.one_of(EDUS[:1], (MOCKS[0], EDUS[0]), (EDUS[0], MOCKS[0]), MOCKS[:1])
    make.open(devices, _types(make))
    if make.chance(30):
        make.step("memlock", bytes=make.one_of(16 * PAGE, None))
    make.run(30, map=10, unmap=6, group=1, pin=2 if devices[0] in MOCKS and len(devices) == 1 else 0)


def entries(make: Type1Maker) -> None:
    make.step("write_file", path=LIMIT, text=str(make.one_of(0, 1, 3, 8)))
    make.open((make.one_of(*MOCKS, *EDUS),), _types(make))
    make.run(30, map=10, unmap=5, info=4)


KINDS = (
    (emulated, 5),
    (backed, 5),
    (mixed, 4),
    (dirty, 5),
    (addresses, 2),
    (groups, 3),
    (memlock, 2),
    (entries, 1),
    (joined, 2),
)
MAKER = Type1Maker
DEVICES = (*EDUS, SHARED[0])
