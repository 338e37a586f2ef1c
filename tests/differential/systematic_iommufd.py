# SPDX-License-Identifier: MIT
"""Episodes that are not random, about iommufd: every request with every kind of argument, as far as there are few kinds."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Any

from pyvfio import abi
from pyvfio._abi import ffi
from tests.differential import iommufd, selftest
from tests.differential.iommufd import EDU, POINTED_AT, IommufdMaker
from tests.differential.maker import offset
from tests.differential.steps import HOLE_AT, PAGE, RO_AT, Episode
from tests.differential.type1 import INFO, MAP, SHARED, UNMAP

MOCK = "vfio-mock.0"
DEVICES = sorted({*iommufd.DEVICES, *SHARED})
#: The structs of requests whose names do not follow from the request's name.
_STRUCTS = {"IOMMU_GET_HW_INFO": "iommu_hw_info", "IOMMU_FAULT_QUEUE_ALLOC": "iommu_fault_alloc"}
REQUESTS = [name for name in abi.NAMES["iommufd"] if name.startswith("IOMMU_")]
LAST = 2**64 - 1
EVERYTHING = (0, LAST)
BIND, ATTACH, DETACH = (
    f"struct vfio_device_{name}" for name in ("bind_iommufd", "attach_iommufd_pt", "detach_iommufd_pt")
)

Ref = list[Any]
NOBODY: Ref = ["var", "nobody", 99]


def struct_of(request: str) -> str:
    return _STRUCTS.get(request, request.lower())


class Asker(IommufdMaker):
    """A builder whose methods take arguments, where those of its base class make random choices."""

    def __init__(self, device: str | None = None) -> None:
        super().__init__(Random(0))
        self.start()
        self.step("memfd", **{"as": "m", "size": 8 * PAGE})
        self.node = device

    def chance(self, percent: float) -> bool:
        return False

    def ask(self, request: str, refs: dict[str, Ref] | None = None, **values: Any) -> None:
        """Make a request to the iommufd. `keep`, `take` and `look` are those of a step."""
        more = {name: values.pop(name) for name in ("keep", "take", "look") if name in values}
        self.request(request, struct_of(request), values, refs, **more)

    def ioas(self, name: str) -> Ref:
        self.ask("IOMMU_IOAS_ALLOC", keep={name: [8, 4]})
        return ["var", name, 0]

    def map(self, ioas: Ref, iova: int, size: int = PAGE, at: int = 0, flags: int = 7, **values: Any) -> None:  # type: ignore[override]
        refs = {"ioas_id": ioas, "user_va": ["arena", at]}
        self.ask("IOMMU_IOAS_MAP", refs, flags=flags, iova=iova, length=size, **values)

    def unmap(self, ioas: Ref, iova: int = 0, size: int = LAST) -> None:  # type: ignore[override]
        self.ask("IOMMU_IOAS_UNMAP", {"ioas_id": ioas}, iova=iova, length=size)

    def destroy(self, id: Ref) -> None:  # type: ignore[override]
        self.ask("IOMMU_DESTROY", {"id": id})

    def ranges(self, ioas: Ref, room: int = 8, at: int | None = POINTED_AT) -> None:  # type: ignore[override]
        self.step("fill", at=POINTED_AT, data="a5", times=128)
        refs = {"ioas_id": ioas, **({} if at is None else {"allowed_iovas": ["arena", at]})}
        self.ask("IOMMU_IOAS_IOVA_RANGES", refs, num_iovas=room, look=[[POINTED_AT, 128]])

    # Devices.

    def bind(
        self,
        slot: str = "d",
        fd: str = "f",
        *,
        keep: str = "dev",
        argsz: int = 24,
        flags: int = 0,
        token: int | None = None,
    ) -> None:
        put: list[Any] = [[offset(BIND, "iommufd"), 4, ["fd", fd]]]
        if token is not None:
            put.append([offset(BIND, "token_uuid_ptr"), 8, ["arena", token]])
        values = {"argsz": argsz, "flags": flags}
        self.ioctl(
            slot,
            "VFIO_DEVICE_BIND_IOMMUFD",
            BIND,
            values,
            extra=bytes(16),
            put=put,
            keep={keep: [offset(BIND, "out_devid"), 4]},
        )

    def attach(self, to: Ref, slot: str = "d", *, keep: str = "auto", **values: Any) -> None:  # type: ignore[override]
        at = offset(ATTACH, "pt_id")
        self.ioctl(
            slot,
            "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
            ATTACH,
            {"argsz": 16, **values},
            put=[[at, 4, to]],
            keep={keep: [at, 4]},
        )

    def attach_to_what_is_mapped(self, iova: int, size: int, at: int) -> None:
        """Attach the device to a new address space with one mapping, and destroy the address space afterwards."""
        space = self.ioas("space")
        self.map(space, iova, size, at)
        self.attach(space)
        self.ranges(space)
        self.detach()
        self.unmap(space)
        self.destroy(space)

    def detach(self, slot: str = "d", **values: Any) -> None:
        self.ioctl(slot, "VFIO_DEVICE_DETACH_IOMMUFD_PT", DETACH, {"argsz": 16, **values})

    def engine(self, command: int, iova: int, size: int) -> None:
        """Let vfio-mock read (2) or fill (3) memory, and read status, errno and the IOVA of a fault."""
        for register, value in ((0x100, iova), (0x108, size), (0x118, 0), (0x120, 0x1122334455667788)):
            self.step("pwrite", slot="d", offset=register, data=value.to_bytes(8, "little").hex())
        self.step("pwrite", slot="d", offset=0x148, data=command.to_bytes(4, "little").hex())
        for register, width in ((0x14C, 4), (0x150, 4), (0x158, 8), (0x160, 8), (0x168, 8)):
            self.step("pread", slot="d", offset=register, size=width)

    def pins(self, command: int, iova: int, count: int) -> None:
        for register, value in ((0x300, iova), (0x308, count)):
            self.step("pwrite", slot="d", offset=register, data=value.to_bytes(8, "little").hex())
        self.step("pwrite", slot="d", offset=0x310, data=command.to_bytes(4, "little").hex())
        self.step("pread", slot="d", offset=0x318, size=8)

    def begin(self) -> tuple[Ref, Ref]:
        """Create two address spaces, and attach the device, if there is one, to the first."""
        one, other = self.ioas("one"), self.ioas("other")
        if self.node is not None:
            self.step("open", **{"as": "d", "what": f"cdev:{self.node}"})
            self.bind()
            self.attach(one)
        return one, other


# Properties of all requests.


def sizes(_: str | None) -> Episode:
    make = Asker()
    for request in REQUESTS:
        size = int(ffi.sizeof(f"struct {struct_of(request)}"))
        for told in (0, 1, 4, 8, *range(12, size, 4)):
            make.ioctl("f", request, None, extra=told.to_bytes(4, "little") + bytes(size))
        for tail, last in ((8, 0), (8, 1), (4000, 0), (4000, 1)):
            data = (size + tail).to_bytes(4, "little") + bytes(size + tail - 5) + bytes([last])
            make.ioctl("f", request, None, extra=data, mask=[[0, len(data)]])
        for address in (0, 1, 1 << 46, 1 << 63, LAST - 3):
            make.step("ioctl", slot="f", request=request, value=address)
        for distance in (2, 4, 8):
            make.step("ioctl", slot="f", request=request, at=HOLE_AT - distance)
    for number in (0, *range(0x60, 0xA0), *range(0xA1, 0xB0), 0xFF):
        for kind in (";", ":"):
            value = ord(kind) << 8 | number
            if number not in (0x65, 0x66, 0x8E):  # two of these take no pointer, and one creates a descriptor
                make.step("ioctl", slot="f", request=value, arg=(bytes([255]) + bytes(299)).hex())
            make.step("ioctl", slot="f", request=value, value=0)
    return make.steps


def options(_: str | None) -> Episode:
    make = Asker()
    for op, option, value, reserved in product(range(3), range(3), (0, 1, 2), (0, 1)):
        make.ask("IOMMU_OPTION", op=op, option_id=option, val64=value, __reserved=reserved)
    one = make.ioas("one")
    for op, option, value in product(range(3), range(3), (0, 1, 2)):
        for id in (one, NOBODY):
            make.ask("IOMMU_OPTION", {"object_id": id}, op=op, option_id=option, val64=value)
        make.ask("IOMMU_OPTION", op=op, option_id=option, val64=value)
    for op, reserved in product(range(4), (0, 1)):
        make.ask("IOMMU_VFIO_IOAS", {"ioas_id": one}, op=op, __reserved=reserved)
        make.ask("IOMMU_VFIO_IOAS")
        make.ask("IOMMU_VFIO_IOAS", {"ioas_id": NOBODY}, op=1)
    make.ask("IOMMU_VFIO_IOAS", {"ioas_id": one}, op=1)
    make.destroy(one)
    make.ask("IOMMU_VFIO_IOAS")
    for reserved in (0, 1):
        make.ask("IOMMU_IOAS_CHANGE_PROCESS", __reserved=reserved)
    return make.steps


# Address spaces without a device, with an emulated one, or with one behind the IOMMU.

_IOVAS = (
    0, 1, 0x800, 0x1000, 0xFEDFF000, 0xFEE00000, 0xFEEFF000, 0xFEF00000, 0x7FFFFFF000, 0x7FFFFFFFFF, 0x8000000000, 0xFCFFFFF000,
    0xFD00000000, 0xFFFFFFF000, 0x10000000000, 0xFFFFFFFFF000, 1 << 48, 1 << 63, 2**64 - 2 * PAGE, 2**64 - PAGE, LAST - 1, LAST,
)  # fmt: skip


def mappings(device: str | None) -> Episode:
    make = Asker(device)
    one, other = make.begin()
    for flags in (*range(16), 1 << 31):
        make.map(one, 0x10000, flags=flags)
        make.unmap(one)
    for id, reserved in product((one, other, NOBODY), (0, 1)):
        make.map(id, 0x10000, __reserved=reserved)
        make.unmap(id)
    for iova, size in product(_IOVAS, (0, 1, PAGE - 1, PAGE, 2 * PAGE, 2**64 - PAGE, LAST, LAST - 1, 1 << 63)):
        make.map(one, iova, size)
        make.unmap(one)
    for at, size, flags in product((1, 0x800, RO_AT, HOLE_AT - PAGE, HOLE_AT), (PAGE, 2 * PAGE, 2048, 1), (5, 7, 3)):
        make.map(one, 0x10000, size, at, flags)
        make.unmap(one)
    for address, size in product(
        (0, 1, 1 << 63, 2**64 - PAGE, LAST, 0x7FFFFFFFE000, 0x7FFFFFFFF000), (PAGE, 2 * PAGE, 1)
    ):
        make.ask("IOMMU_IOAS_MAP", {"ioas_id": one}, flags=7, iova=0x10000, user_va=address, length=size)
        make.unmap(one)
    make.map(one, 0x10000, 4 * PAGE)
    for iova, pages in ((16, 1), (15, 1), (15, 2), (19, 1), (19, 2), (20, 1), (17, 1), (0, 32)):
        make.map(one, iova * PAGE, pages * PAGE)
        make.unmap(one, 15 * PAGE, PAGE)
        make.unmap(one, 20 * PAGE, PAGE)
    return make.steps


def unmappings(device: str | None) -> Episode:
    make = Asker(device)
    one, _ = make.begin()
    parts = (
        (0, 0), (0x10000, 0), (0x10000, PAGE), (0x13000, PAGE), (0x11000, 2 * PAGE), (0xF000, 2 * PAGE), (0x20000, PAGE), (1, 1),
        (0x10001, 4 * PAGE), (0x10000, 4 * PAGE - 1), (LAST, 1), (1, LAST), (LAST - 1, 2), (2**64 - PAGE, PAGE), (2**64 - PAGE, 2 * PAGE),
        (0, LAST - 1), (0x10000, 4 * PAGE), (0x10000, 6 * PAGE), (0x10000, 5 * PAGE), (0x10000, 5 * PAGE + 1), EVERYTHING,
    )  # fmt: skip
    for iova, size in parts:
        make.map(one, 0x10000, 4 * PAGE)
        make.map(one, 0x14000, 2 * PAGE)
        make.unmap(one, iova, size)
        make.unmap(one)
    make.unmap(NOBODY)
    return make.steps


def places(device: str | None) -> Episode:
    make = Asker(device)
    one, other = make.begin()
    for at, size in (
        (0, PAGE), (PAGE, PAGE), (0, 2 * PAGE), (PAGE, 3 * PAGE), (4 * PAGE, 8 * PAGE), (0x800, PAGE), (1, 1), (0x10000, 0x5000), (0, 1),
        (0x200, 0x200), (0, 0x80000), (0x40000, 0x40000),
    ):  # fmt: skip
        make.map(one, 0x123, size, at, 6)
    make.unmap(one, 0x2000, PAGE)
    for size, at in ((2 * PAGE, PAGE), (PAGE, PAGE)):
        make.map(one, 0, size, at, 6)
    for address, size in ((0, PAGE), (0, 1 << 62), (0, 2**64 - 8192), (PAGE, 1 << 63)):
        make.ask("IOMMU_IOAS_MAP", {"ioas_id": other}, flags=6, user_va=address, length=size)
    make.unmap(one)
    make.unmap(other)

    def allow(
        *ranges: tuple[int, int], id: Ref = one, at: int | None = POINTED_AT, count: int | None = None, **values: Any
    ) -> None:
        for index, (start, last) in enumerate(ranges):
            make.step(
                "fill",
                at=POINTED_AT + 16 * index,
                data=(start.to_bytes(8, "little") + last.to_bytes(8, "little")).hex(),
            )
        refs = {"ioas_id": id, **({} if at is None else {"allowed_iovas": ["arena", at]})}
        make.ask("IOMMU_IOAS_ALLOW_IOVAS", refs, num_iovas=len(ranges) if count is None else count, **values)
        make.map(one, 0, flags=6)
        make.map(one, 0x7000)
        make.unmap(one)

    allow()
    allow((0, PAGE), id=NOBODY)
    allow(__reserved=1)
    for count in (0, 1, 2**32 - 1):
        allow(at=None, count=count)
        allow(at=HOLE_AT, count=count)
    for ranges in (
        ((5, 5),), ((6, 5),), ((0, 0xFFF),), ((0, 0x1FFF),), ((0x100000, 0x1FFFFF), (0x180000, 0x280000)),
        ((0x300000, 0x3FFFFF), (0x100000, 0x1FFFFF)), ((0xFEE00000, 0xFEEFFFFF),), ((0xFED00000, 0xFEFFFFFFF),), ((0x100000, 0x100FFF),),
        ((0x100000, 0x100FFE),), ((0, LAST),), ((2**64 - 0x10000, LAST),), ((0x8000000000, 0x8000FFFFFF),), ((0x300000, 0x300FFF), (0x301000, 0x303FFF)),
    ):  # fmt: skip
        allow(*ranges)
    allow((0x100000, 0x1FFFFF))
    make.map(one, 0x900000)
    for room in (0, 1, 2, 3, 8):
        make.ranges(one, room)
    make.ranges(one, 4, None)
    make.ranges(one, 0, None)
    make.ranges(one, 4, HOLE_AT)
    make.ranges(NOBODY)
    make.ask("IOMMU_IOAS_IOVA_RANGES", {"ioas_id": one}, __reserved=1)
    return make.steps


def copies_and_files(device: str | None) -> Episode:
    make = Asker(device)
    one, other = make.begin()
    make.map(one, 0x10000, 2 * PAGE)
    make.map(one, 0x12000, 2 * PAGE, 8 * PAGE, 5)
    make.map(one, 0x20000, PAGE, PAGE)

    def copy(source: Ref, target: Ref, start: int, to: int, size: int, flags: int = 7) -> None:
        refs = {"src_ioas_id": source, "dst_ioas_id": target}
        make.ask("IOMMU_IOAS_COPY", refs, src_iova=start, dst_iova=to, length=size, flags=flags)
        make.unmap(other)

    for flags in range(10):
        copy(one, other, 0x10000, 0x50000, PAGE, flags)
    for source, target in ((NOBODY, other), (one, NOBODY), (other, other), (one, one)):
        copy(source, target, 0x10000, 0x60000, PAGE)
    make.unmap(one, 0x60000, PAGE)
    for start, to, size in (
        (0x10000, 0, 0), (0x10000, 0, LAST), (LAST, 0, PAGE), (0x10000, LAST, PAGE), (LAST - 1, 0, PAGE), (0x10000, LAST - 1, PAGE),
        (0x10000, 0, LAST - 1), (0x11000, 0x1000, PAGE), (0x11000, 0x1000, 2 * PAGE), (0x10000, 0, 4 * PAGE), (0x10000, 0, 5 * PAGE),
        (0x10800, 0, PAGE), (0x10800, 0x1800, 0x800), (0x10001, 1, 1), (0xF000, 0, PAGE), (0x20000, 0xFEE00000, PAGE), (0x10000, 0x800, PAGE),
        (0x10000, 0x8000000000, PAGE),
    ):  # fmt: skip
        for flags in (7, 6, 5):
            copy(one, other, start, to, size, flags)
    make.unmap(one)

    def file(slot: str, start: int, size: int, iova: int = 0x10000, flags: int = 7, id: Ref = one) -> None:
        make.ask(
            "IOMMU_IOAS_MAP_FILE", {"ioas_id": id, "fd": ["fd", slot]}, start=start, length=size, iova=iova, flags=flags
        )
        make.unmap(one)

    make.step("eventfd", **{"as": "e"})
    for slot, flags in product(("m", "e", "f", "closed"), (*range(8), 8, 15)):
        file(slot, 0, PAGE, flags=flags)
    for start, size in (
        (0, 0), (0, 8 * PAGE), (0, 9 * PAGE), (7 * PAGE, PAGE), (8 * PAGE, PAGE), (1, PAGE), (0x800, 0x800), (0x800, PAGE), (2**64 - PAGE, PAGE),
        (2**64 - PAGE, 2 * PAGE), (1 << 63, PAGE), (1 << 40, PAGE), (0, LAST), (0, LAST - 1), (0, 2**64 - PAGE), (PAGE, 2 * PAGE),
    ):  # fmt: skip
        file("m", start, size)
        file("m", start, size, flags=6)
    for iova in (LAST, 0x10, 0xFEE00000):
        file("m", 0, PAGE, iova)
    file("m", 0, PAGE, id=NOBODY)
    for value in (0, 1, 0, 2):
        make.ask("IOMMU_OPTION", {"object_id": one}, op=0, option_id=1, val64=value)
        make.ask("IOMMU_OPTION", {"object_id": one}, op=1, option_id=1)
        make.ranges(one)
    make.ask("IOMMU_OPTION", {"object_id": one}, op=0, option_id=1, val64=1)
    make.map(one, 0x10000)
    for value in (0, 0, 1):
        make.ask("IOMMU_OPTION", {"object_id": one}, op=0, option_id=1, val64=value)
    make.ask("IOMMU_IOAS_CHANGE_PROCESS")
    for iova, size, id in product((0, 0x10000, 0x10004, LAST), (0, 4, PAGE), (one, NOBODY)):
        make.ask("IOMMU_IOAS_NOIOMMU_GET_PA", {"ioas_id": id}, iova=iova, length=size)
    return make.steps


# Page tables, and the objects that depend on them.


def page_tables(device: str | None) -> Episode:
    make = Asker(device)
    one, other = make.begin()
    dev: Ref = ["var", "dev", 0]
    for id, parent, flags in product((dev, one, NOBODY), (one, dev, NOBODY), (0, 1, 2, 3, 4, 8, 9, 10, 12, 16)):
        for kind, size in ((0, 0), (1, 0), (0, 16), (1, 16), (0xDEAD, 8)) if flags in (0, 1, 4, 8) else ((0, 0),):
            refs = {"dev_id": id, "pt_id": parent, "data_uptr": ["arena", POINTED_AT]}
            make.ask("IOMMU_HWPT_ALLOC", refs, flags=flags, data_type=kind, data_len=size, keep={"made": [16, 4]})
            make.destroy(["var", "made", 0])
    for field in ("__reserved", "__reserved2"):
        make.ask("IOMMU_HWPT_ALLOC", {"dev_id": dev, "pt_id": one}, **{field: 1})
    make.ask("IOMMU_HWPT_ALLOC", {"dev_id": dev, "pt_id": other}, keep={"table": [16, 4]})
    make.ask("IOMMU_HWPT_ALLOC", {"dev_id": dev, "pt_id": other}, flags=8, keep={"pasids": [16, 4]})
    table, pasids = ["var", "table", 0], ["var", "pasids", 0]
    make.ranges(other)
    for flags, (kind, size) in product((0, 1, 2, 4, 8), ((0, 0), (1, 16), (1, 24))):
        refs = {"dev_id": dev, "pt_id": table, "data_uptr": ["arena", POINTED_AT]}
        make.ask("IOMMU_HWPT_ALLOC", refs, flags=flags, data_type=kind, data_len=size)
    make.destroy(other)
    for id in (table, pasids, one, NOBODY):
        for flags in range(4):
            make.ask("IOMMU_HWPT_SET_DIRTY_TRACKING", {"hwpt_id": id}, flags=flags, __reserved=flags >> 1)
        for iova, size, unit in product(
            (0, 0x800, PAGE, 2**64 - PAGE, LAST), (0, 0x800, PAGE, 2 * PAGE, LAST), (0, 0x800, 3000, PAGE)
        ):
            make.ask(
                "IOMMU_HWPT_GET_DIRTY_BITMAP",
                {"hwpt_id": id, "data": ["arena", POINTED_AT]},
                iova=iova,
                length=size,
                page_size=unit,
            )
        for flags, reserved in ((1, 0), (2, 0), (0, 1)):
            make.ask(
                "IOMMU_HWPT_GET_DIRTY_BITMAP",
                {"hwpt_id": id},
                flags=flags,
                __reserved=reserved,
                length=PAGE,
                page_size=PAGE,
            )
        for reserved, there, size, count in product(
            (0, 1), (0, 1), (0, 8, PAGE, PAGE + 1), (0, 1, 1 << 19, (1 << 19) + 1)
        ):
            refs = {"hwpt_id": id, **({"data_uptr": ["arena", POINTED_AT]} if there else {})}
            make.ask("IOMMU_HWPT_INVALIDATE", refs, __reserved=reserved, entry_len=size, entry_num=count)
    for id, flags, kind, size in product((dev, NOBODY), (0, 1, 2), (0, 1, 2, 4, 99), (0, 8, 24, 64)):
        for at in (POINTED_AT, HOLE_AT):
            make.step("fill", at=POINTED_AT, data="a5", times=96)
            refs = {"dev_id": id, "data_uptr": ["arena", at]}
            make.ask("IOMMU_GET_HW_INFO", refs, flags=flags, in_data_type=kind, data_len=size, look=[[POINTED_AT, 96]])
    for flags, kind, id, parent in product((0, 1), (0, 1, 2, 99), (dev, one), (table, one, NOBODY)):
        make.ask("IOMMU_VIOMMU_ALLOC", {"dev_id": id, "hwpt_id": parent}, flags=flags, type=kind)
    for id in (one, table, NOBODY):
        make.ask("IOMMU_VDEVICE_ALLOC", {"viommu_id": id, "dev_id": dev}, virt_id=LAST)
        for flags, kind, depth in product((0, 1), (0, 1), (0, 1, 1 << 19, (1 << 19) + 1)):
            make.ask("IOMMU_VEVENTQ_ALLOC", {"viommu_id": id}, flags=flags, type=kind, veventq_depth=depth)
        for kind, size, at in product((0, 1), (0, 1, PAGE), (0, LAST, 2**64 - PAGE + 1)):
            make.ask("IOMMU_HW_QUEUE_ALLOC", {"viommu_id": id}, type=kind, length=size, nesting_parent_iova=at)
    make.ask("IOMMU_FAULT_QUEUE_ALLOC", flags=1)
    make.ask("IOMMU_FAULT_QUEUE_ALLOC", keep={"faults": [8, 4]}, take={"q": [12, 4]})
    for size in (0, 1, 40, 80, 4096):
        make.step("read", slot="q", size=size)
    for size in (0, 1, 4, 8, 16):
        make.step("write", slot="q", data=bytes(size).hex())
    faults: Ref = ["var", "faults", 0]
    make.destroy(faults)
    make.ask("IOMMU_HWPT_ALLOC", {"dev_id": dev, "pt_id": other, "fault_id": faults}, flags=4, keep={"faulty": [16, 4]})
    make.ask("IOMMU_HWPT_ALLOC", {"dev_id": dev, "pt_id": other, "fault_id": one}, flags=4)
    make.attach(["var", "faulty", 0])
    make.step("close", slot="q")
    for id in (faults, ["var", "faulty", 0], faults):
        make.destroy(id)
    return make.steps


# Devices.


def attaching(device: str | None) -> Episode:
    make = Asker(device)
    one, other = make.begin()
    dev: Ref = ["var", "dev", 0]
    for name, flags in (("table", 0), ("pasids", 8)):
        make.ask("IOMMU_HWPT_ALLOC", {"dev_id": dev, "pt_id": other}, flags=flags, keep={name: [16, 4]})
    table, pasids = ["var", "table", 0], ["var", "pasids", 0]
    for id in (dev, one):
        make.destroy(id)
    for to in (NOBODY, dev, other, one, table, pasids):
        make.attach(to)
    make.detach()
    make.detach()
    for first in (one, pasids, None):
        if first is not None:
            make.attach(first)
        for pasid in (0, 1, 7, 1 << 20, 1 << 31, 2**32 - 1):
            for to in (one, pasids, table, NOBODY):
                make.attach(to, flags=1, pasid=pasid)
            make.attach(one)
            make.detach(flags=1, pasid=pasid)
        make.detach()
    for size, flags in product((0, 8, 11, 12, 15, 16), (0, 1)):
        make.attach(one, argsz=size, flags=flags)
        make.detach(argsz=size, flags=flags)
    for flags in (2, 3, 1 << 31):
        make.attach(one, flags=flags)
        make.detach(flags=flags)
    for request in ("VFIO_DEVICE_ATTACH_IOMMUFD_PT", "VFIO_DEVICE_DETACH_IOMMUFD_PT", "VFIO_DEVICE_BIND_IOMMUFD"):
        make.step("ioctl", slot="d", request=request, value=0)
    make.detach()
    for iova, size, at in (
        (0x10001, 1, 1), (0x10000, 0x800, 0), (0x10800, 0x800, 0x800), (0xFEE00000, PAGE, 0), (0xFEDFF000, 2 * PAGE, 0), (0x8000000000, PAGE, 0),
        (1 << 48, PAGE, 0), (2**64 - 2 * PAGE, PAGE, 0), (0xFD00000000, PAGE, 0), (0x10000, PAGE, HOLE_AT), (0x10000, PAGE, RO_AT),
    ):  # fmt: skip
        make.attach_to_what_is_mapped(iova, size, at)
    make.attach(one)
    make.bind()
    make.step("open", **{"as": "g", "what": "iommufd"})
    make.bind(fd="g")
    for id in (table, pasids, other, one):
        make.destroy(id)
    make.step("close", slot="f")
    make.detach()
    return make.steps


def binding(device: str | None) -> Episode:
    make = Asker()
    make.step("open", **{"as": "d", "what": f"cdev:{device}"})
    for request in (
        "VFIO_DEVICE_GET_INFO",
        "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
        "VFIO_DEVICE_RESET",
        "VFIO_DEVICE_FEATURE",
    ):
        make.step("ioctl", slot="d", request=request, value=0)
    for size in (0, 8, 15, 16, 20, 24, 32):
        make.step("open", **{"as": "s", "what": f"cdev:{device}"})
        make.bind("s", argsz=size)
        make.step("close", slot="s")
    make.step("eventfd", **{"as": "e"})
    for fd in ("closed", "e", "m", "d"):
        make.bind(fd=fd)
    make.bind(flags=2)
    make.bind(flags=1, token=POINTED_AT)
    make.bind(flags=1, token=HOLE_AT)
    make.step("open", **{"as": "g", "what": f"group:{device}"})
    make.bind()
    make.step("close", slot="g")
    make.bind()
    make.bind()
    make.step("open", **{"as": "g", "what": f"group:{device}"})
    make.step("open", **{"as": "s", "what": f"cdev:{device}"})
    make.bind("s")
    make.ioas("one")
    make.step("close", slot="d")
    make.bind("s")
    make.ioas("other")
    return make.steps


def sharing_a_group(_: str | None) -> Episode:
    make = Asker()
    for slot, name in zip("de", SHARED, strict=True):
        make.step("open", **{"as": slot, "what": f"cdev:{name}"})
    make.step("open", **{"as": "o", "what": "iommufd"})
    make.bind("d", keep="first")
    make.bind("e", "o")
    make.bind("e", keep="second")
    one, other = make.ioas("one"), make.ioas("other")
    for slot, to in (("d", one), ("e", other), ("e", one), ("d", other)):
        make.attach(to, slot)
    make.detach("d")
    for slot, to in (("d", one), ("d", other)):
        make.attach(to, slot)
    for id in (one, other):
        make.destroy(id)
    make.detach("e")
    for slot, to in (("d", one), ("e", other), ("e", one)):
        make.attach(to, slot)
    make.map(other, 0xFEE00000)
    make.attach(other, "d")
    make.ranges(one)
    make.ranges(other)
    make.step("close", slot="e")
    make.attach(other, "d")
    make.unmap(other)
    make.attach(other, "d")
    make.ranges(one)
    make.ranges(other)
    return make.steps


# DMA of devices.


def reaching(device: str | None) -> Episode:
    make = Asker(device)
    one, other = make.begin()
    make.map(one, 0x10000, 2 * PAGE)
    make.map(one, 0x12000, PAGE, 4 * PAGE, 5)
    make.map(one, 0x13000, PAGE, 5 * PAGE, 3)
    make.map(one, 0x14000, PAGE, HOLE_AT)
    places = (
        (0x10000, 8),
        (0x11FFC, 8),
        (0x11FFC, 5000),
        (0x12000, 8),
        (0x13000, 8),
        (0x14000, 8),
        (0x20000, 8),
        (0x10000, 0),
        (LAST, 2),
        (LAST, 1),
    )
    for command, (iova, size) in product((3, 2), places):
        make.engine(command, iova, size)
    for iova, count in (
        (0x10000, 1),
        (0x10000, 1),
        (0x11000, 2),
        (0x12000, 1),
        (0x13000, 1),
        (0x14000, 1),
        (0x20000, 1),
        (0x10800, 1),
    ):
        make.pins(1, iova, count)
    make.unmap(one, 0x10000, 2 * PAGE)
    make.pins(1, 0x12000, 1)
    make.attach(other)
    make.unmap(one)
    make.detach()
    make.engine(3, 0x10000, 8)
    make.pins(1, 0x10000, 1)
    return make.steps


# The container emulation.


def standing_in(device: str, type: int) -> Episode:
    make = Asker()
    make.step("open", **{"as": "c", "what": "iommufd"})
    make.step("open", **{"as": "g0", "what": f"group:{device}"})

    def extensions() -> None:
        for number in range(14):
            make.ioctl_value("c", "VFIO_CHECK_EXTENSION", number)

    def info(size: int) -> None:
        make.ioctl("c", "VFIO_IOMMU_GET_INFO", INFO, {"argsz": size}, extra=b"\xa5" * 176)

    def map(iova: int, size: int, at: int = 0, flags: int = 3, argsz: int = 32) -> None:
        values = {"argsz": argsz, "flags": flags, "iova": iova, "size": size}
        make.ioctl("c", "VFIO_IOMMU_MAP_DMA", MAP, values, put=[[offset(MAP, "vaddr"), 8, ["arena", at]]])

    def unmap(iova: int = 0, size: int = 0, flags: int = 2, argsz: int = 24) -> None:
        make.ioctl(
            "c",
            "VFIO_IOMMU_UNMAP_DMA",
            UNMAP,
            {"argsz": argsz, "flags": flags, "iova": iova, "size": size},
            extra=bytes(24),
        )

    extensions()
    for number in range(9):
        make.ioctl_value("c", "VFIO_SET_IOMMU", number)
    for size in (8, 24):
        info(size)
    for argsz, flags in ((32, 3), (8, 3), (32, 4)):
        map(0, PAGE, flags=flags, argsz=argsz)
    unmap(0, PAGE, 0)
    make.status("g0")
    make.leave("g0")
    make.get_device("g0", device, "d")
    for fd in ("closed", "m", "g0", "c", "c"):
        make.set_container("g0", fd)
    make.status("g0")
    make.ask("IOMMU_VFIO_IOAS")
    extensions()
    for number in (0, 2, 4, 5, 6, 7, 8, type):
        make.ioctl_value("c", "VFIO_SET_IOMMU", number)
    info(200)
    make.get_device("g0", device, "d")
    make.get_device("g0", "nobody", "n")
    make.get_device("g0", device, "s")
    make.step("close", slot="s")
    make.attach(NOBODY)
    make.detach()
    make.bind()
    for size in (
        0,
        8,
        15,
        16,
        19,
        20,
        23,
        24,
        32,
        39,
        40,
        41,
        48,
        56,
        57,
        63,
        64,
        71,
        72,
        80,
        87,
        88,
        96,
        104,
        120,
        200,
    ):
        info(size)
    extensions()
    for flags in range(9):
        map(0x10000, PAGE, flags=flags)
        unmap()
    for iova, size in (
        (0, 0), (0, PAGE), (1, PAGE), (0x800, 0x800), (0xFEE00000, PAGE), (0x8000000000, PAGE), (2**64 - PAGE, PAGE), (2**64 - PAGE, 2 * PAGE), (LAST, 1),
        (0, LAST), (0, 2**64 - PAGE), (2**64 - 2 * PAGE, PAGE),
    ):  # fmt: skip
        map(iova, size)
        unmap()
    for at, size in product((1, RO_AT, HOLE_AT - PAGE, HOLE_AT), (PAGE, 2 * PAGE)):
        map(0x10000, size, at)
        unmap()
    for iova, size, flags, argsz in (
        (0, PAGE, 2, 24), (PAGE, 0, 2, 24), (0, 0, 1, 24), (0, 0, 4, 24), (0, PAGE, 0, 16), (0, PAGE, 0, 23), (0, 0, 0, 24), (0, LAST, 0, 24),
        (LAST, 1, 0, 24), (LAST, 2, 0, 24), (1, 1, 0, 24), (0, 1, 0, 24), (0x10000, 0, 0, 24), (0x10000, PAGE, 0, 24), (0x13000, PAGE, 0, 24),
        (0x11000, PAGE, 0, 24), (0xF000, 2 * PAGE, 0, 24), (0x13000, 2 * PAGE, 0, 24), (0x10001, PAGE, 0, 24), (0x10800, PAGE, 0, 24),
        (0x10000, 0x800, 0, 24), (0xF000, 6 * PAGE, 0, 24), (0x20000, PAGE, 0, 24), (0x11000, 2**64 - PAGE, 0, 24),
    ):  # fmt: skip
        unmap()
        map(0x10000, 4 * PAGE)
        unmap(iova, size, flags, argsz)
        unmap()
    for request in ("VFIO_IOMMU_UNMAP_DMA", "VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_GET_INFO", "VFIO_IOMMU_DIRTY_PAGES"):
        make.ioctl_value("c", request, 0)
    map(0x10000, 4 * PAGE)
    for number in (1, 3):
        make.ioctl_value("c", "VFIO_SET_IOMMU", number)
    make.leave("g0")
    make.status("g0")
    make.ask("IOMMU_VFIO_IOAS")
    make.set_container("g0")
    make.step("close", slot="d")
    make.leave("g0")
    return make.steps


def without_capabilities(_: str | None) -> Episode:
    make = Asker()
    for capability in ("CAP_SYS_RESOURCE", "CAP_SYS_RAWIO"):
        make.step("without", capability=capability)
        for op, value, reserved in product(range(3), (0, 1, 2), (0, 1)):
            make.ask("IOMMU_OPTION", op=op, option_id=0, val64=value, __reserved=reserved)
        make.ask("IOMMU_OPTION", {"object_id": NOBODY}, option_id=0)
        one = make.ioas("one")
        make.ask("IOMMU_OPTION", option_id=0)
        for flags, length in ((0, 0), (1, PAGE), (0, PAGE)):
            make.ask("IOMMU_IOAS_NOIOMMU_GET_PA", {"ioas_id": one}, flags=flags, length=length)
        make.destroy(one)
    return make.steps


# Arguments that the selftest driver refuses.


def selftest_arguments(_: str | None) -> Episode:
    make = selftest.SelftestMaker(Random(0))
    selftest.begin(make)
    selftest.guest(make)
    make.step("open", **{"as": "d", "what": f"cdev:{EDU}"})
    asker = Asker()
    asker.steps = make.steps
    asker.bind(keep="edu")
    asker.attach(["var", "ioas1", 0])
    edu: Ref = ["var", "edu", 0]
    asker.ask("IOMMU_VDEVICE_ALLOC", {"viommu_id": ["var", "viommu0", 0], "dev_id": edu}, virt_id=7)
    for parent in ("hwpt0", "viommu0"):
        refs = {"dev_id": edu, "pt_id": ["var", parent, 0], "data_uptr": ["arena", POINTED_AT]}
        asker.ask("IOMMU_HWPT_ALLOC", refs, data_type=1, data_len=24)
    # Attach no edu to the selftest's page tables: the kernel would treat it as a selftest device, and crash.
    for size in (0, 8, 67, 68, 72):
        make.step("ioctl", slot="f", request=selftest.TEST, arg=(size.to_bytes(4, "little") + bytes(96)).hex())
    for op in (0, 22 + 100, 2**32 - 1):
        make.test(op, 0)
    ioas: Ref = ["var", "ioas0", 0]
    for start, size in ((0, 0), (LAST, 2), (0x5000000, PAGE), (0x5000000, PAGE)):
        make.test(selftest.RESERVE, ioas, start.to_bytes(8, "little") + size.to_bytes(8, "little"))
    for name in ("auto", "auto0", "ioas0"):
        table: Ref = ["var", name, 0]
        for iova, size, unit in ((0, PAGE, PAGE), (1, PAGE, PAGE), (0, 0, PAGE), (0, PAGE, 0), (0, 1 << 50, PAGE)):
            union = bytes(8) + b"".join(number.to_bytes(8, "little") for number in (iova, size, unit))
            make.test(selftest.DIRTY, table, union, [[32, 8, ["arena", POINTED_AT]]])
        for iova, size, at in (
            (1, PAGE, 0),
            (selftest.BASE, 1, 0),
            (selftest.BASE, PAGE, 1),
            (selftest.BASE, PAGE, 0),
            (LAST - PAGE + 1, PAGE, 0),
        ):
            make.test(
                selftest.CHECK_MAP,
                table,
                iova.to_bytes(8, "little") + size.to_bytes(8, "little"),
                [[16, 8, ["arena", at]]],
            )
    for iova, size in (
        (LAST - 1, 1),
        (LAST, 1),
        (0x800, 2**64 - 0x800),
        (selftest.BASE, 2**64 - selftest.BASE),
        (selftest.BASE + 8, LAST - selftest.BASE - 8),
        (selftest.BASE, 1 << 60),
    ):
        asker.ask(
            "IOMMU_HW_QUEUE_ALLOC",
            {"viommu_id": ["var", "viommu0", 0]},
            type=selftest.TYPE,
            nesting_parent_iova=iova,
            length=size,
        )
    return make.steps


def events(_: str | None) -> Episode:
    """Events of a device go to the virtual IOMMU of its page table, with the virtual id that it had when it was attached."""
    make = selftest.SelftestMaker(Random(0))
    selftest.begin(make)
    asker = Asker()
    asker.steps = make.steps
    selftest.table(make, "hwpt0", 1)
    dev: Ref = ["var", "dev0", 0]
    queues: dict[str, Ref] = {}
    for name in ("one", "two"):
        refs = {"dev_id": dev, "hwpt_id": ["var", "hwpt0", 0]}
        asker.ask("IOMMU_VIOMMU_ALLOC", refs, type=selftest.TYPE, keep={name: [20, 4]})
    asker.step("fill", at=POINTED_AT, data="0100000000000000")

    def nested(viommu: str, name: str) -> None:
        refs = {"dev_id": dev, "pt_id": ["var", viommu, 0], "data_uptr": ["arena", POINTED_AT]}
        asker.ask("IOMMU_HWPT_ALLOC", refs, data_type=selftest.DATA, data_len=8, keep={name: [16, 4]})

    def device(viommu: str, number: int) -> None:
        refs = {"viommu_id": ["var", viommu, 0], "dev_id": dev}
        asker.ask("IOMMU_VDEVICE_ALLOC", refs, virt_id=number, keep={"vdevice": [12, 4]})

    def queue(viommu: str) -> None:
        take = {f"q{viommu}": [24, 4]}
        asker.ask(
            "IOMMU_VEVENTQ_ALLOC",
            {"viommu_id": ["var", viommu, 0]},
            type=selftest.EVENTS,
            veventq_depth=4,
            keep={f"queue{viommu}": [20, 4]},
            take=take,
        )
        queues[viommu] = ["var", f"queue{viommu}", 0]

    def attach(name: str) -> None:
        make.test(selftest.REPLACE, ["var", "self0", 0], put=[[0, 4, ["var", name, 0]]])

    def happen() -> None:
        make.test(selftest.EVENT, 0, put=[[0, 4, dev]])
        for viommu in queues:
            make.step("read", slot=f"q{viommu}", size=100)

    queue("one")
    for do, more in (("pread", {"size": 8}), ("pwrite", {"data": "00"})):
        asker.step(do, slot="qone", offset=0, **more)
    asker.destroy(queues.pop("one"))
    asker.step("close", slot="qone")
    asker.destroy(["var", "queueone", 0])
    nested("one", "table1")
    nested("one", "again1")
    nested("two", "table2")
    happen()
    attach("table1")
    device("one", 7)
    happen()
    attach("table1")
    happen()
    queue("one")
    happen()
    attach("table2")
    happen()
    # The device belongs to the second virtual IOMMU now, but is still attached to a page table of the first.
    asker.destroy(["var", "vdevice", 0])
    happen()
    device("two", 0)
    happen()
    queue("two")
    happen()
    attach("again1")
    attach("table2")
    happen()
    asker.destroy(["var", "vdevice", 0])
    device("two", 9)
    attach("table2")
    happen()
    attach("auto0")
    happen()
    attach("table2")
    happen()
    return make.steps


def several_pages(_: str | None) -> Episode:
    """A hardware queue in pages that are not contiguous, faults of a group, and checks that do not match the mappings."""
    make = selftest.SelftestMaker(Random(0))
    selftest.begin(make)
    selftest.guest(make)
    asker = Asker()
    asker.steps = make.steps
    viommu: Ref = ["var", "viommu0", 0]
    ioas: Ref = ["var", "ioas0", 0]
    asker.map(ioas, 0x5000000, PAGE, 0)
    asker.map(ioas, 0x5001000, PAGE, 2 * PAGE)
    asker.map(ioas, 0x5002000, PAGE, 3 * PAGE, 5)
    for iova, size in (
        (0x5000000, 2 * PAGE),
        (0x5002000, PAGE),
        (0x5003000, PAGE),
        (0x5000000, PAGE),
        (LAST - PAGE + 1, PAGE - 1),
    ):
        asker.ask(
            "IOMMU_HW_QUEUE_ALLOC",
            {"viommu_id": viommu},
            type=selftest.TYPE,
            nesting_parent_iova=iova,
            length=size,
            keep={"queue": [20, 4]},
        )
        asker.destroy(["var", "queue", 0])
    for size in (39, 20, 0, 80):
        make.step("read", slot="qfault0", size=size)
    table: Ref = ["var", "hwpt0", 0]
    for iova, size, at in (
        (1, PAGE, 0),
        (0x5000000, 1, 0),
        (0x5000000, PAGE, 1),
        (0x5000000, PAGE, 0),
        (0x5000000, 2 * PAGE, 0),
        (0x5000000, PAGE, PAGE),
        (0x5003000, PAGE, 0),
        (0x5002000, 2 * PAGE, 3 * PAGE),
    ):
        make.test(
            selftest.CHECK_MAP, table, iova.to_bytes(8, "little") + size.to_bytes(8, "little"), [[16, 8, ["arena", at]]]
        )
    for place, size in ((0, PAGE), (0x1000, PAGE), (0x1000, 2 * PAGE), (0x1000, 100), (1 << 40, PAGE)):
        make.step("mmap", slot="f", offset=place, size=size, prot=1)
    return make.steps


def undirty(_: str | None) -> Episode:
    """A page table with dirty tracking, and a device whose IOMMU does not support it."""
    make = selftest.SelftestMaker(Random(0))
    selftest.begin(make)
    selftest.table(make, "hwpt0", 2)
    keep = {"self1": [16, 4], "auto1": [20, 4], "dev1": [24, 4]}
    make.test(selftest.DOMAIN, ["var", "ioas1", 0], (0).to_bytes(12, "little") + (1).to_bytes(4, "little"), keep=keep)
    make.names["dev"] = ["dev1"]
    selftest.table(make, "hwpt1", 2)
    make.test(selftest.REPLACE, ["var", "self1", 0], put=[[0, 4, ["var", "hwpt0", 0]]])
    make.test(selftest.REPLACE, ["var", "self0", 0], put=[[0, 4, ["var", "hwpt0", 0]]])
    keep = {"self2": [16, 4], "auto2": [20, 4], "dev2": [24, 4]}
    make.test(selftest.DOMAIN, ["var", "hwpt0", 0], (0).to_bytes(12, "little") + (1).to_bytes(4, "little"), keep=keep)
    return make.steps


_OF_SPACES = (mappings, unmappings, places, copies_and_files, page_tables)


def episodes() -> list[Episode]:
    made = [sizes(None), options(None), sharing_a_group(None)]
    made += [kind(device) for kind, device in product(_OF_SPACES, (None, MOCK, EDU))]
    made += [kind(device) for kind, device in product((attaching, binding), (MOCK, EDU))]
    made += [standing_in(device, type) for device, type in product((MOCK, EDU), (1, 3))]
    made += [reaching(MOCK), without_capabilities(None), selftest_arguments(None)]
    return [*made, events(None), several_pages(None), undirty(None)]
