# SPDX-License-Identifier: MIT
"""Episodes about the iommufd selftest driver (CONFIG_IOMMUFD_TEST), which has features that no emulated IOMMU has."""

from __future__ import annotations

import struct
from typing import Any

from tests.differential import iommufd
from tests.differential.iommufd import POINTED_AT, IommufdMaker
from tests.differential.steps import HOLE_AT, PAGE, Episode

TEST = ord(";") << 8 | 0xA0
#: Operations of IOMMU_TEST_CMD.
RESERVE, CHECK_MAP, REPLACE, DOMAIN, DIRTY, CHECK_IOTLB, FAULT, CHECK_CACHE, EVENT = 1, 3, 10, 12, 13, 14, 15, 16, 17
PASID_ATTACH, PASID_REPLACE, PASID_DETACH, PASID_CHECK = 18, 19, 20, 21
DATA, TYPE, EVENTS = 0xDEAD, 0xDEADBEEF, 0xBEEFBEEF
#: The first IOVA of the selftest driver's page tables.
BASE = 1 << 24
#: PASIDs to choose from. One is listed several times, so that it is often used again.
PASIDS = (0, 1, 5, 5, 5, 1 << 19, (1 << 20) - 1, 1 << 20, 2**32 - 1)


def may_leave(episode: Episode) -> bool:
    """Whether the kernel may keep pages pinned for ever after an episode.

    iommufd_selftest_destroy detaches a device without its PASIDs, of which one may be attached at the end. Its page
    table is then never destroyed, and iommufd_fops_release gives up with a warning. vfio's devices are detached from
    all PASIDs (vfio_iommufd_physical_unbind).
    """
    attach = [struct.pack("=I", op) for op in (PASID_ATTACH, PASID_REPLACE)]
    return any(step.get("request") == TEST and bytes.fromhex(step.get("arg", ""))[4:8] in attach for step in episode)


class SelftestMaker(IommufdMaker):
    """An episode with an iommufd and selftest devices.

    `self0` is the selftest's id of a device, `dev0` its device id in iommufd's requests.
    """

    space = 40

    def start(self, devices: tuple[str, ...] = ()) -> None:
        super().start(devices)
        self.step("memfd", **{"as": "m", "size": 8 * PAGE})

    def iova(self) -> int:
        return BASE + self.pages(self.space) if self.chance(94) else super().iova()

    def test(self, op: int, number: list[Any] | int, union: bytes = b"", put: Any = (), **more: Any) -> None:
        data = struct.pack("=4I", 72, op, 0 if isinstance(number, list) else number, 0) + union.ljust(56, b"\0")
        put = [[16 + at, size, ref] for at, size, ref in put]
        if isinstance(number, list):
            put.append([8, 4, number])
        self.step("ioctl", slot="f", request=TEST, arg=data.hex(), put=put, **more)

    # Devices.

    def device(self) -> None:  # type: ignore[override]  # a selftest device, not a device of a group
        flags = self.one_of(0, 0, 4, 4, 4, 1, 5) if self.chance(97) else self.one_of(2, 8)
        keep = {self.called("self"): [16, 4], self.called("auto"): [20, 4], self.called("dev"): [24, 4]}
        self.test(DOMAIN, self.id("ioas"), struct.pack("=4I", 0, 0, 0, flags), keep=keep)

    def destroy(self) -> None:
        kinds = ("ioas", "hwpt", "nested", "fault", "viommu", "vdevice", "events", "queue", "self", "dev", "auto")
        self.request("IOMMU_DESTROY", "iommu_destroy", {}, {"id": self.id(*kinds)})

    def destroy_table(self) -> None:
        """Destroy a page table.

        Devices are not destroyed: one with an attached PASID would stay half destroyed, with a kernel warning.
        """
        tables = self.names.get("hwpt", ["nobody"])
        self.request("IOMMU_DESTROY", "iommu_destroy", {}, {"id": ["var", self.random.choice(tables), 0]})

    def replace(self) -> None:
        self.test(REPLACE, self.id("self"), put=[[0, 4, self.id("ioas", "hwpt", "hwpt", "nested", "nested", "auto")]])

    def pasid(self) -> None:
        op = self.one_of(PASID_ATTACH, PASID_ATTACH, PASID_REPLACE, PASID_DETACH, PASID_CHECK)
        union = struct.pack("=2I", self.one_of(*PASIDS), 0)
        put = [[4, 4, self.id("hwpt", "hwpt", "hwpt", "ioas", "nested")]] if self.chance(90) else []
        self.test(op, self.id("self"), union, put)

    def reserve(self) -> None:
        self.test(RESERVE, self.id("ioas"), struct.pack("=2Q", self.iova(), self.one_of(0, PAGE, 2**64 - 1)))

    # Page tables.

    def data(self, size: int) -> dict[str, list[Any]]:
        """Write the data that a request points to, words that may be flags or numbers, and return the reference to it."""
        words = [self.one_of(0, 0, 0, 1, 1, 2, 3, 4, 0x99) for _ in range(max(size, 8) // 4)]
        self.step("fill", at=POINTED_AT, data=struct.pack(f"={len(words)}I", *words).hex())
        return {"data_uptr": ["arena", POINTED_AT if self.chance(97) else HOLE_AT]}

    def hwpt(self) -> None:
        flags = self.one_of(0, 1, 1, 2, 2, 8, 8, 3, 9, 10, 4, 5, 12) if self.chance(95) else self.one_of(16, 32, 6)
        self._hwpt("hwpt", flags, self.id("ioas"), data=self.chance(15))

    def nested(self) -> None:
        flags = self.one_of(0, 0, 0, 4, 4, 8, 12) if self.chance(95) else self.one_of(1, 2, 16)
        self._hwpt("nested", flags, self.id("hwpt", "viommu"), data=self.chance(95))

    def _hwpt(self, name: str, flags: int, parent: list[Any], *, data: bool) -> None:
        refs = {"dev_id": self.id("dev"), "pt_id": parent}
        values: dict[str, Any] = {"flags": flags}
        if data:
            size = self.one_of(8, 8, 8, 8, 4, 3, 12)
            refs |= self.data(size)
            values |= {"data_type": self.one_of(DATA, DATA, DATA, DATA, DATA, 1, 0), "data_len": size}
        if flags & 4:
            refs["fault_id"] = self.id("fault")
        self.request("IOMMU_HWPT_ALLOC", "iommu_hwpt_alloc", values, refs, keep={self.called(name): [16, 4]})

    def invalidate(self) -> None:
        size = self.one_of(8, 8, 8, 12, 12, 12, 16, 4, 0, 4097)
        count = self.one_of(0, 1, 2, 3)
        refs = {"hwpt_id": self.id("nested", "nested", "viommu", "viommu", "hwpt"), **self.data(min(size, 16) * count)}
        values = {"data_type": TYPE if self.chance(93) else 1, "entry_len": size, "entry_num": count}
        self.request("IOMMU_HWPT_INVALIDATE", "iommu_hwpt_invalidate", values, refs)

    def check(self) -> None:
        which = self.random.randrange(3)
        if which == 0:
            page = self.random.randrange(20)
            union = struct.pack("=2Q", BASE + page * PAGE, self.one_of(PAGE, 2048, 2 * PAGE))
            # The mappings at the beginning of the episode have this relation of IOVA and address.
            place = ["arena", page * PAGE if self.chance(85) else self.pages(8)]
            self.test(CHECK_MAP, self.id("hwpt", "auto"), union, [[16, 8, place]])
        else:
            value = self.one_of(0, 0, 1, 0xBADDAD, 0xBADDAD)
            op, kind = (CHECK_IOTLB, "nested") if which == 1 else (CHECK_CACHE, "dev")
            self.test(op, self.id(kind), struct.pack("=2I", self.random.randrange(5), value))

    # Dirty pages.

    def write(self) -> None:
        """Set dirty bits as a device's writes would."""
        page = self.one_of(PAGE, PAGE, 2048, 65536)
        self.step("fill", at=POINTED_AT, data=self.random.randbytes(8).hex())
        iova, size = self.random.choice(self.mapped) if self.mapped else (self.iova(), PAGE)
        union = struct.pack("=2I3Q", 0, 0, iova, min(size, 64 * page) if self.chance(95) else 0, page)
        self.test(DIRTY, self.id("hwpt"), union, [[32, 8, ["arena", POINTED_AT]]])

    def dirty_bitmap(self) -> None:
        iova, size = self.random.choice(self.mapped) if self.mapped and self.chance(90) else (self.iova(), self.size())
        self.step("fill", at=POINTED_AT, data="00", times=128)
        self.request(
            "IOMMU_HWPT_GET_DIRTY_BITMAP", "iommu_hwpt_get_dirty_bitmap",
            {"flags": self.one_of(0, 0, 1, 2), "iova": iova, "length": size % 2**64, "page_size": self.one_of(PAGE, PAGE, PAGE, 2048, 8192, 0)},
            {"hwpt_id": self.id("hwpt"), "data": ["arena", POINTED_AT + self.one_of(0, 0, 3) if self.chance(95) else HOLE_AT]},
            look=[[POINTED_AT, 128]],
        )  # fmt: skip

    # Virtual IOMMUs.

    def viommu(self) -> None:
        size = self.one_of(0, 0, 0, 8, 24, 7, 32)
        refs = {"dev_id": self.id("dev"), "hwpt_id": self.id("hwpt")}
        if size:
            refs |= self.data(size)
        values = {"type": TYPE if self.chance(93) else self.one_of(0, 1), "data_len": size}
        look = [[POINTED_AT, 24]] if size else []
        self.request(
            "IOMMU_VIOMMU_ALLOC", "iommu_viommu_alloc", values, refs, keep={self.called("viommu"): [20, 4]}, look=look
        )

    def vdevice(self) -> None:
        refs = {"viommu_id": self.id("viommu"), "dev_id": self.id("dev")}
        keep = {self.called("vdevice"): [12, 4]}
        self.request(
            "IOMMU_VDEVICE_ALLOC", "iommu_vdevice_alloc", {"virt_id": self.one_of(1, 2, 3, 0x99, 0)}, refs, keep=keep
        )

    def event_queue(self) -> None:
        name = self.called("events")
        values = {"type": EVENTS if self.chance(93) else self.one_of(0, 1), "veventq_depth": self.one_of(0, 1, 2, 3)}
        self.request(
            "IOMMU_VEVENTQ_ALLOC", "iommu_veventq_alloc", values, {"viommu_id": self.id("viommu")}, keep={name: [20, 4]},
            take={f"q{name}": [24, 4]},
        )  # fmt: skip

    def hw_queue(self) -> None:
        # Stay within one page: the page behind it in memory is not predictable.
        iova = self.random.choice(self.mapped)[0] if self.mapped and self.chance(80) else self.iova()
        values = {
            "type": TYPE if self.chance(93) else self.one_of(0, 1), "index": self.one_of(0, 0, 1, 1, 2), "nesting_parent_iova": iova,
            "length": self.one_of(1, 512, PAGE, 0) if self.chance(97) else 2**64 - 1,
        }  # fmt: skip
        keep = {self.called("queue"): [20, 4]}
        self.request(
            "IOMMU_HW_QUEUE_ALLOC", "iommu_hw_queue_alloc", values, {"viommu_id": self.id("viommu")}, keep=keep
        )

    def happen(self) -> None:
        """Trigger a page fault or an event, and read it."""
        if self.chance(50):
            union = struct.pack("=4IQ", 0, self.one_of(0, 0, 0, 5), self.random.randrange(4), 1, self.iova())
            self.test(FAULT, 0, union, [[0, 4, self.id("dev")]])
        else:
            self.test(EVENT, 0, put=[[0, 4, self.id("dev")]])

    def listen(self) -> None:
        names = [f"q{name}" for kind in ("fault", "events") for name in self.names.get(kind, ())]
        if names:
            slot = self.random.choice(names)
            if self.chance(70):
                self.step("read", slot=slot, size=self.one_of(40, 80, 12, 24, 100, 400, 0, 7, 8))
            elif "fault" in slot:
                self.step(
                    "write", slot=slot, data=struct.pack("=2I", self.one_of(1, 1, 2, 3), self.one_of(0, 0, 1, 2)).hex()
                )
            elif self.chance(20):
                self.step("close", slot=slot)


# Steps at the beginning of an episode, which make most later steps possible.


def mapped(make: SelftestMaker, ioas: str = "ioas0") -> None:
    for at in (0, 4, 16):
        iova, size = BASE + at * PAGE, 4 * PAGE
        values = {"flags": 7, "iova": iova, "length": size}
        make.request(
            "IOMMU_IOAS_MAP", "iommu_ioas_map", values, {"ioas_id": ["var", ioas, 0], "user_va": ["arena", at * PAGE]}
        )
        make.mapped.append((iova, size))


def table(make: SelftestMaker, name: str, flags: int) -> None:
    make.names.setdefault("hwpt", []).append(name)
    refs = {"dev_id": ["var", make.names["dev"][0], 0], "pt_id": ["var", "ioas0", 0]}
    make.request("IOMMU_HWPT_ALLOC", "iommu_hwpt_alloc", {"flags": flags}, refs, keep={name: [16, 4]})


def begin(make: SelftestMaker) -> None:
    make.start()
    make.names["ioas"] = ["ioas0", "ioas1"]
    for name in make.names["ioas"]:
        make.request("IOMMU_IOAS_ALLOC", "iommu_ioas_alloc", {}, keep={name: [8, 4]})
    # Use small page table entries only, so that dirty bits do not depend on the memory's physical pages.
    option = struct.pack("=2I2HIQ", 24, 1, 0, 0, 0, 0)
    make.step("ioctl", slot="f", request="IOMMU_OPTION", arg=option.hex(), put=[[12, 4, ["var", "ioas0", 0]]])
    make.names |= {"self": ["self0"], "auto": ["auto0"], "dev": ["dev0"]}
    union = struct.pack("=4I", 0, 0, 0, 4)
    make.test(DOMAIN, ["var", "ioas0", 0], union, keep={"self0": [16, 4], "auto0": [20, 4], "dev0": [24, 4]})
    mapped(make)


def guest(make: SelftestMaker) -> None:
    """Create a virtual IOMMU with a device that is attached to a nested page table, and queues for faults and events."""
    table(make, "hwpt0", 1)
    dev, parent = ["var", "dev0", 0], ["var", "hwpt0", 0]
    make.names |= {name: [f"{name}0"] for name in ("viommu", "vdevice", "events", "fault", "nested")}
    make.request(
        "IOMMU_VIOMMU_ALLOC",
        "iommu_viommu_alloc",
        {"type": TYPE},
        {"dev_id": dev, "hwpt_id": parent},
        keep={"viommu0": [20, 4]},
    )
    viommu = ["var", "viommu0", 0]
    make.request(
        "IOMMU_VDEVICE_ALLOC",
        "iommu_vdevice_alloc",
        {"virt_id": 0x99},
        {"viommu_id": viommu, "dev_id": dev},
        keep={"vdevice0": [12, 4]},
    )
    values = {"type": EVENTS, "veventq_depth": 2}
    make.request(
        "IOMMU_VEVENTQ_ALLOC",
        "iommu_veventq_alloc",
        values,
        {"viommu_id": viommu},
        keep={"events0": [20, 4]},
        take={"qevents0": [24, 4]},
    )
    make.request("IOMMU_FAULT_QUEUE_ALLOC", "iommu_fault_alloc", {}, keep={"fault0": [8, 4]}, take={"qfault0": [12, 4]})
    make.step("fill", at=POINTED_AT, data=struct.pack("=2I", 1, 0).hex())
    make.request(
        "IOMMU_HWPT_ALLOC", "iommu_hwpt_alloc", {"flags": 4, "data_type": DATA, "data_len": 8},
        {"dev_id": dev, "pt_id": make.one_of(viommu, viommu, parent), "data_uptr": ["arena", POINTED_AT], "fault_id": ["var", "fault0", 0]},
        keep={"nested0": [16, 4]},
    )  # fmt: skip
    make.test(REPLACE, ["var", "self0", 0], put=[[0, 4, ["var", "nested0", 0]]])
    for group in (1, 2):
        make.test(FAULT, 0, struct.pack("=4IQ", 0, 0, group, 1, BASE), [[0, 4, dev]])
    make.step("read", slot="qfault0", size=make.one_of(40, 80))
    make.step("write", slot="qfault0", data=struct.pack("=2I", make.one_of(1, 1, 2), make.one_of(0, 1)).hex())


def page_tables(make: SelftestMaker) -> None:
    begin(make)
    make.run(
        60,
        alloc=1,
        destroy=2,
        ioas_map=12,
        ioas_unmap=5,
        ranges=2,
        allow=1,
        device=2,
        replace=5,
        hwpt=6,
        nested=2,
        hw_info=2,
        reserve=1,
        check=4,
    )


def tracking(make: SelftestMaker) -> None:
    begin(make)
    table(make, "hwpt0", 2)
    make.request(
        "IOMMU_HWPT_SET_DIRTY_TRACKING", "iommu_hwpt_set_dirty_tracking", {"flags": 1}, {"hwpt_id": ["var", "hwpt0", 0]}
    )
    make.run(50, destroy=1, ioas_map=7, ioas_unmap=4, replace=2, hwpt=2, track=2, write=12, dirty_bitmap=14)


def pasids(make: SelftestMaker) -> None:
    begin(make)
    table(make, "hwpt0", 8)
    table(make, "hwpt1", 8)
    table(make, "hwpt2", 0)
    make.test(REPLACE, ["var", "self0", 0], put=[[0, 4, ["var", "hwpt0", 0]]])
    make.run(60, destroy_table=2, device=1, replace=7, hwpt=2, pasid=24)


def guests(make: SelftestMaker) -> None:
    begin(make)
    guest(make)
    make.run(
        80, destroy=4, ioas_map=3, ioas_unmap=4, device=1, replace=7, hwpt=3, nested=8, invalidate=9, check=6, viommu=4, vdevice=5,
        event_queue=3, hw_queue=9, fault_queue=1, happen=14, listen=14,
    )  # fmt: skip


KINDS = ((page_tables, 3), (tracking, 3), (pasids, 2), (guests, 5))
MAKER = SelftestMaker
# These episodes need no device, but a machine needs at least one.
DEVICES: tuple[str, ...] = iommufd.DEVICES
