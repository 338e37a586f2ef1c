# SPDX-License-Identifier: MIT
"""Episodes about iommufd: address spaces, page tables, cdevs, and the container emulation."""

from __future__ import annotations

from typing import Any

from pyvfio._abi import ffi
from tests.differential import type1
from tests.differential.maker import offset
from tests.differential.steps import HOLE_AT, PAGE, RO_AT
from tests.differential.type1 import EDGES, MAPPED, MOCKS, Type1Maker

EDU = "0000:00:03.0"
#: Offset in the arena of arrays that requests point to. That part is never mapped for DMA.
POINTED_AT = type1.BITMAPS_AT


#: requests that map: where the IOVA and the size are
_MAPS = {
    "IOMMU_IOAS_MAP": ("iova", "length"),
    "IOMMU_IOAS_MAP_FILE": ("iova", "length"),
    "IOMMU_IOAS_COPY": ("dst_iova", "length"),
    "VFIO_IOMMU_MAP_DMA": ("iova", "size"),
}


def before_the_end(request: str | int, values: Any) -> Any:
    """Return a request's values, less a page if it would map several up to the last byte of all IOVAs.

    Linux 7.3 then maps what physically follows the first page (scripts/upstream/iommufd_last_pages.py), and so unpins pages of
    somebody else's: later steps fail for no reason of their own.
    """
    if values and request in _MAPS:
        iova, size = _MAPS[str(request)]
        if values.get(iova, 0) + values.get(size, 0) == 2**64 and values[size] > PAGE:
            return {**values, size: values[size] - PAGE}
    return values


class IommufdMaker(Type1Maker):
    """An episode with an iommufd.

    Variables with ids are named after the object's kind (`ioas0`); `nobody` stands for an id of no object.
    """

    def start(self, devices: tuple[str, ...] = ()) -> None:
        self.step("open", **{"as": "f", "what": "iommufd"})
        self.mapped = []
        self.devices = devices
        self.names: dict[str, list[str]] = {}
        for index, name in enumerate(devices):
            self.step("open", **{"as": f"d{index}", "what": f"cdev:{name}"})

    # Objects.

    def called(self, kind: str) -> str:
        """Choose a name for a new object, and record it."""
        names = self.names.setdefault(kind, [])
        # Use few names, so that names occur again.
        name = f"{kind}{self.random.randrange(3)}"
        if name not in names:
            names.append(name)
        return name

    def id(self, *kinds: str) -> list[Any]:
        """Return a reference to an object, nearly always of one of these kinds."""
        if self.chance(4):
            kinds = tuple(self.names) or kinds
        if self.chance(3):
            return ["var", "nobody", self.one_of(0, 1, 2, 77, 2**32 - 1)]
        names = [name for kind in kinds for name in self.names.get(kind, ())]
        return ["var", self.random.choice(names), 0] if names else ["var", "nobody", 0]

    def request(
        self,
        name: str,
        struct: str,
        values: dict[str, Any],
        refs: dict[str, list[Any]] | None = None,
        slot: str = "f",
        **more: Any,
    ) -> None:
        """Make a request to the iommufd. The first field of its struct is the size, which is sometimes wrong."""
        struct = f"struct {struct}"
        size = int(ffi.sizeof(struct))
        extra = b""
        if self.chance(4):
            # A struct that is too short, or longer with zeros, or longer with other bytes.
            size += self.one_of(-8, -4, -1, 8, 8, -size, 4096 - size, 8192)
            extra = self.one_of(bytes(8), bytes(8), b"\1" + bytes(7), bytes(7) + b"\1")
        put = [[offset(struct, field), _size(struct, field), ref] for field, ref in (refs or {}).items()]
        # Provide as many bytes as the size says: the bytes behind would be other memory of the process.
        extra = extra.ljust(max(size - int(ffi.sizeof(struct)), 16), b"\0")
        self.ioctl(slot, name, struct, {"size": max(size, 0), **values}, extra=extra, put=put, **more)

    def ioctl(self, slot: str, request: str | int, struct: str | None, values: Any = None, **more: Any) -> None:
        super().ioctl(slot, request, struct, before_the_end(request, values), **more)

    def alloc(self) -> None:
        name = self.called("ioas")
        flags = 0 if self.chance(95) else self.one_of(1, 1 << 31)
        self.request("IOMMU_IOAS_ALLOC", "iommu_ioas_alloc", {"flags": flags}, keep={name: [8, 4]})

    def destroy(self) -> None:
        self.request("IOMMU_DESTROY", "iommu_destroy", {}, {"id": self.id("ioas", "hwpt", "fault", "dev", "auto")})

    # Mappings.

    def flags(self) -> int:
        return self.one_of(7, 7, 7, 7, 6, 5, 3) if self.chance(94) else self.one_of(0, 1, 8, 15, 1 << 31)

    def ioas_map(self) -> None:
        iova, size = self.iova(), self.size()
        if iova in EDGES and self.chance(40):
            iova = (iova - size) % 2**64
        flags = self.flags()
        at = self.pages(MAPPED // PAGE - 8) + (self.one_of(1, 512, 2048) if self.chance(5) else 0)
        refs: dict[str, list[Any]] = {"ioas_id": self.id("ioas"), "user_va": ["arena", at]}
        values: dict[str, Any] = {"flags": flags, "iova": iova, "length": size}
        if self.chance(5):
            where = self.one_of(RO_AT, HOLE_AT, HOLE_AT - PAGE, None)
            if where is None:
                del refs["user_va"]
                values["user_va"] = self.one_of(0, 2**64 - PAGE, 2**64 - 1)
            else:
                refs["user_va"] = ["arena", where]
        if self.chance(2):
            values["__reserved"] = 1
        self.request("IOMMU_IOAS_MAP", "iommu_ioas_map", values, refs)
        if flags & 6 and size % PAGE == 0 and iova % PAGE == 0 and flags & 1:
            self.mapped.append((iova, size))

    def ioas_map_file(self) -> None:
        iova, size = self.iova(), self.size()
        refs: dict[str, list[Any]] = {
            "ioas_id": self.id("ioas"),
            "fd": ["fd", self.one_of("m", "m", "m", "m", "f", "closed")],
        }
        self.request(
            "IOMMU_IOAS_MAP_FILE", "iommu_ioas_map_file",
            {"flags": self.flags(), "iova": iova, "length": size, "start": self.pages(6) + self.one_of(0, 0, 0, 512)}, refs,
        )  # fmt: skip

    def ioas_unmap(self) -> None:
        iova, size = self.iova(), self.size()
        if self.mapped and self.chance(60):
            iova, size = self.random.choice(self.mapped)
            if self.chance(15):
                size += self.one_of(PAGE, -PAGE, 4 * PAGE)
        if self.chance(7):
            iova, size = self.one_of((0, 2**64 - 1), (2**64 - 1, 1), (PAGE, 2**64 - 1), (0, 2**64 - PAGE))
        self.request(
            "IOMMU_IOAS_UNMAP", "iommu_ioas_unmap", {"iova": iova, "length": size % 2**64}, {"ioas_id": self.id("ioas")}
        )
        if (iova, size) in self.mapped:
            self.mapped.remove((iova, size))

    def ioas_copy(self) -> None:
        source, size = (
            self.random.choice(self.mapped) if self.mapped and self.chance(80) else (self.iova(), self.size())
        )
        if self.chance(25):
            source, size = source + self.one_of(0, PAGE, 512), max(size - self.one_of(PAGE, 512, 2 * PAGE), 0)
        target = self.iova()
        flags = self.flags()
        self.request(
            "IOMMU_IOAS_COPY", "iommu_ioas_copy", {"flags": flags, "length": size % 2**64, "dst_iova": target, "src_iova": source % 2**64},
            {"dst_ioas_id": self.id("ioas"), "src_ioas_id": self.id("ioas")},
        )  # fmt: skip
        if flags & 1:
            self.mapped.append((target, size))

    def ranges(self) -> None:
        self.request(
            "IOMMU_IOAS_IOVA_RANGES", "iommu_ioas_iova_ranges",
            {"num_iovas": self.one_of(0, 1, 2, 3, 8, 8, 8), "__reserved": int(self.chance(3))},
            {"ioas_id": self.id("ioas"), "allowed_iovas": ["arena", POINTED_AT if self.chance(95) else HOLE_AT]},
            look=[[POINTED_AT, 128]],
        )  # fmt: skip

    def allow(self) -> None:
        count = self.one_of(0, 1, 1, 2, 3)
        for index in range(count):
            start = self.one_of(0, self.pages(self.space), 1 << 32, self.iova())
            last = self.one_of(2**64 - 1, start + 64 * PAGE - 1, start + 16 * PAGE, start) & 2**64 - 1
            data = start.to_bytes(8, "little") + last.to_bytes(8, "little")
            self.step("fill", at=POINTED_AT + 16 * index, data=data.hex())
        self.request(
            "IOMMU_IOAS_ALLOW_IOVAS", "iommu_ioas_allow_iovas", {"num_iovas": count, "__reserved": int(self.chance(3))},
            {"ioas_id": self.id("ioas"), "allowed_iovas": ["arena", POINTED_AT if self.chance(95) else HOLE_AT]},
        )  # fmt: skip

    def option(self) -> None:
        which = self.one_of(0, 1, 1, 1, 2)
        refs = {"object_id": self.id("ioas")} if which == 1 or self.chance(10) else {}
        op, value = self.one_of(0, 0, 1, 2), self.one_of(0, 1, 1, 2, 2**63)
        self.request(
            "IOMMU_OPTION",
            "iommu_option",
            {"option_id": which, "op": op, "val64": value, "__reserved": int(self.chance(3))},
            refs,
        )

    def change_process(self) -> None:
        self.request("IOMMU_IOAS_CHANGE_PROCESS", "iommu_ioas_change_process", {"__reserved": int(self.chance(20))})

    def get_pa(self) -> None:
        self.request(
            "IOMMU_IOAS_NOIOMMU_GET_PA", "iommu_ioas_noiommu_get_pa", {"flags": int(self.chance(5)), "iova": self.iova(), "length": self.size()},
            {"ioas_id": self.id("ioas")},
        )  # fmt: skip

    # Page tables and the objects that depend on them.

    def hwpt(self) -> None:
        name = self.called("hwpt")
        flags = self.one_of(0, 0, 0, 1, 2, 4, 8, 3, 16)
        kind = self.one_of(0, 0, 0, 1, 2, 3, 9)
        refs = {"dev_id": self.id("dev"), "pt_id": self.id("ioas", "ioas", "hwpt", "fault")}
        if flags & 4:
            refs["fault_id"] = self.id("fault")
        values = {
            "flags": flags,
            "data_type": kind,
            "data_len": self.one_of(0, 0, 24, 32) if kind else int(self.chance(10)),
        }
        if values["data_len"]:
            refs["data_uptr"] = ["arena", POINTED_AT]
        if self.chance(3):
            values[self.one_of("__reserved", "__reserved2")] = 1
        self.request("IOMMU_HWPT_ALLOC", "iommu_hwpt_alloc", values, refs, keep={name: [16, 4]})

    def hw_info(self) -> None:
        self.step("fill", at=POINTED_AT, data="a5", times=128)
        refs = {"dev_id": self.id("dev")}
        length = self.one_of(0, 0, 8, 24, 24, 64)
        if length or self.chance(10):
            refs["data_uptr"] = ["arena", POINTED_AT]
        values = {
            "flags": self.one_of(0, 0, 0, 1, 2),
            "data_len": length,
            "in_data_type": self.one_of(0, 0, 0, 1, 2, 4),
        }
        self.request("IOMMU_GET_HW_INFO", "iommu_hw_info", values, refs, look=[[POINTED_AT, 128]])

    def track(self) -> None:
        self.request(
            "IOMMU_HWPT_SET_DIRTY_TRACKING",
            "iommu_hwpt_set_dirty_tracking",
            {"flags": self.one_of(0, 1, 1, 2)},
            {"hwpt_id": self.id("hwpt")},
        )

    def dirty_bitmap(self) -> None:
        iova, size = self.random.choice(self.mapped) if self.mapped and self.chance(70) else (self.iova(), self.size())
        self.request(
            "IOMMU_HWPT_GET_DIRTY_BITMAP", "iommu_hwpt_get_dirty_bitmap",
            {"flags": self.one_of(0, 0, 1, 2), "iova": iova, "length": size % 2**64, "page_size": self.one_of(PAGE, PAGE, 8192, 0, 512)},
            {"hwpt_id": self.id("hwpt"), "data": ["arena", POINTED_AT]},
        )  # fmt: skip

    def invalidate(self) -> None:
        self.request(
            "IOMMU_HWPT_INVALIDATE", "iommu_hwpt_invalidate",
            {"data_type": self.one_of(0, 1), "entry_len": self.one_of(0, 24), "entry_num": self.one_of(0, 1, 2), "__reserved": int(self.chance(5))},
            {"hwpt_id": self.id("hwpt", "viommu"), **({"data_uptr": ["arena", POINTED_AT]} if self.chance(80) else {})},
        )  # fmt: skip

    def fault_queue(self) -> None:
        name = self.called("fault")
        self.request(
            "IOMMU_FAULT_QUEUE_ALLOC",
            "iommu_fault_alloc",
            {"flags": int(self.chance(10))},
            keep={name: [8, 4]},
            take={f"q{name}": [12, 4]},
        )

    def fault_io(self) -> None:
        slot = f"q{self.random.choice(self.names.get('fault', ['fault0']))}"
        if self.chance(50):
            self.step("read", slot=slot, size=self.one_of(48, 96, 0, 7))
        else:
            self.step("write", slot=slot, data=self.random.randbytes(self.one_of(8, 16, 0, 7)).hex())

    def viommu(self) -> None:
        which = self.random.randrange(4)
        if which == 0:
            name = self.called("viommu")
            refs = {"dev_id": self.id("dev"), "hwpt_id": self.id("hwpt")}
            values = {"flags": int(self.chance(10)), "type": self.one_of(0, 1, 1, 2, 9)}
            self.request("IOMMU_VIOMMU_ALLOC", "iommu_viommu_alloc", values, refs, keep={name: [20, 4]})
        elif which == 1:
            refs = {"viommu_id": self.id("viommu", "ioas"), "dev_id": self.id("dev")}
            self.request("IOMMU_VDEVICE_ALLOC", "iommu_vdevice_alloc", {"virt_id": self.one_of(0, 5, 2**32)}, refs)
        elif which == 2:
            refs = {"viommu_id": self.id("viommu", "ioas")}
            values = {
                "flags": int(self.chance(10)),
                "type": self.one_of(0, 1, 2),
                "veventq_depth": self.one_of(0, 1, 8),
            }
            self.request("IOMMU_VEVENTQ_ALLOC", "iommu_veventq_alloc", values, refs)
        else:
            refs = {"viommu_id": self.id("viommu", "ioas")}
            values = {
                "flags": int(self.chance(10)),
                "type": self.one_of(0, 1),
                "index": self.one_of(0, 1),
                "length": self.one_of(0, PAGE),
            }
            self.request("IOMMU_HW_QUEUE_ALLOC", "iommu_hw_queue_alloc", values, refs)

    # Devices opened by their cdevs.

    def _index(self) -> int:
        return self.random.randrange(max(len(self.devices), 1))

    def bind(self) -> None:
        index = self._index()
        name = f"dev{index}"
        self.names.setdefault("dev", [])
        if name not in self.names["dev"]:
            self.names["dev"].append(name)
        struct = "struct vfio_device_bind_iommufd"
        flags = 0 if self.chance(88) else self.one_of(1, 1, 1, 2, 1 << 31)
        fd = self.one_of("f", "f", "f", "f", "f", "f", "f", "c", "d0", "closed")
        put = [[offset(struct, "iommufd"), 4, ["fd", fd]]]
        if flags & 1:
            put.append([offset(struct, "token_uuid_ptr"), 8, ["arena", POINTED_AT]])
        self.ioctl(
            f"d{index}", "VFIO_DEVICE_BIND_IOMMUFD", struct, {"argsz": self.argsz(24, 12, 16), "flags": flags}, put=put,
            keep={name: [offset(struct, "out_devid"), 4]},
        )  # fmt: skip

    def attach(self) -> None:
        struct = "struct vfio_device_attach_iommufd_pt"
        flags = 0 if self.chance(80) else self.one_of(1, 1, 1, 2)
        values = {"argsz": self.argsz(16, 12, 8), "flags": flags, "pasid": self.one_of(0, 1, 1 << 20)}
        put = [[offset(struct, "pt_id"), 4, self.id("ioas", "ioas", "hwpt", "auto")]]
        # The kernel returns the id of the device's page table in the field that had the IOAS's id.
        name = self.called("auto")
        self.ioctl(
            f"d{self._index()}",
            "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
            struct,
            values,
            put=put,
            keep={name: [offset(struct, "pt_id"), 4]},
        )

    def detach(self) -> None:
        struct = "struct vfio_device_detach_iommufd_pt"
        flags = 0 if self.chance(90) else self.one_of(1, 2)
        self.ioctl(
            f"d{self._index()}",
            "VFIO_DEVICE_DETACH_IOMMUFD_PT",
            struct,
            {"argsz": self.argsz(12, 8), "flags": flags, "pasid": self.one_of(0, 1)},
        )

    def reopen_cdev(self) -> None:
        index = self._index()
        if self.chance(60):
            self.step("close", slot=f"d{index}")
        self.step("open", **{"as": self.one_of(f"d{index}", "d9"), "what": f"cdev:{self.devices[index]}"})

    def group_open(self) -> None:
        """Open or close the group of a device. An open group excludes the cdev, and an open cdev the group."""
        if self.chance(60):
            self.step("open", **{"as": "g5", "what": f"group:{self.devices[self._index()]}"})
        else:
            self.step("close", slot="g5")

    def before_bind(self) -> None:
        """Make a device request to a cdev, whether it is bound or not."""
        slot = self.one_of(f"d{self._index()}", "d9")
        self.ioctl(
            slot,
            self.a_request("VFIO_DEVICE_GET_INFO", "VFIO_DEVICE_RESET", "VFIO_DEVICE_GET_REGION_INFO", 0x3BFF),
            None,
            extra=(20).to_bytes(4, "little") + bytes(60),
        )

    # The container emulation.

    def vfio_ioas(self) -> None:
        self.request(
            "IOMMU_VFIO_IOAS",
            "iommu_vfio_ioas",
            {"op": self.one_of(0, 0, 1, 2, 3), "__reserved": int(self.chance(3))},
            {"ioas_id": self.id("ioas")},
            keep={"compat": [4, 4]},
        )
        self.names.setdefault("ioas", [])
        if "compat" not in self.names["ioas"]:
            self.names["ioas"].append("compat")


def _size(struct: str, field: str) -> int:
    for name, member in ffi.typeof(struct).fields or ():
        if name == field:
            return int(ffi.sizeof(member.type))
    return 8


def spaces(make: IommufdMaker) -> None:
    """Use address spaces without a device."""
    make.start()
    make.step("memfd", **{"as": "m", "size": 8 * PAGE})
    for _ in range(2):
        make.alloc()
    make.run(45, alloc=1, destroy=2, ioas_map=12, ioas_map_file=2, ioas_unmap=7, ioas_copy=4, ranges=3, allow=2, option=3,
             change_process=1, get_pa=1, fault_queue=1, fault_io=1, hw_info=1, viommu=1, hwpt=1, track=1, invalidate=1)  # fmt: skip


def with_devices(make: IommufdMaker, devices: tuple[str, ...], first: int | None = None) -> None:
    """Bind and attach devices (most of them).

    :param first: an IOVA at which memory is mapped before that
    """
    make.start(devices)
    make.step("memfd", **{"as": "m", "size": 8 * PAGE})
    make.alloc()
    if first is not None:
        refs = {"ioas_id": make.id("ioas"), "user_va": ["arena", first % PAGE]}
        make.request("IOMMU_IOAS_MAP", "iommu_ioas_map", {"flags": 7, "iova": first, "length": PAGE}, refs)
    for index in range(len(devices)):
        if make.chance(80):
            struct = "struct vfio_device_bind_iommufd"
            make.names.setdefault("dev", []).append(f"dev{index}")
            make.step(
                "ioctl", slot=f"d{index}", request="VFIO_DEVICE_BIND_IOMMUFD", arg=(24).to_bytes(4, "little").hex() + bytes(20).hex(),
                put=[[8, 4, ["fd", "f"]]], keep={f"dev{index}": [offset(struct, "out_devid"), 4]},
            )  # fmt: skip
            if make.chance(80):
                make.attach()


WITH_DEVICES = {
    "alloc": 1, "destroy": 2, "ioas_map": 12, "ioas_map_file": 1, "ioas_unmap": 7, "ioas_copy": 3, "ranges": 3, "allow": 1, "option": 1,
    "hwpt": 3, "hw_info": 2, "track": 1, "dirty_bitmap": 1, "invalidate": 1, "fault_queue": 1, "fault_io": 1, "viommu": 1,
    "bind": 2, "attach": 4, "detach": 3, "reopen_cdev": 1, "before_bind": 1, "group_open": 1,
}  # fmt: skip


def accesses(make: IommufdMaker) -> None:
    with_devices(make, MOCKS[: make.one_of(1, 1, 2)])
    make.run(45, **WITH_DEVICES, dma=5, pin=2)


def domains(make: IommufdMaker) -> None:
    with_devices(
        make,
        make.one_of((EDU,), (EDU, "0000:01:00.0"), (EDU, MOCKS[0])),
        make.one_of(None, None, 0xFEE00000, 1 << 40, 512),
    )
    make.run(45, **WITH_DEVICES)


def compat(make: IommufdMaker) -> None:
    """Use an iommufd as a container for groups."""
    make.step("open", **{"as": "c", "what": "iommufd"})
    names = make.one_of(MOCKS[:1], MOCKS, (EDU,), (MOCKS[0], EDU))
    type = make.one_of(1, 3)
    make.devices, make.mapped, make.names = names, [], {}
    for index, name in enumerate(names):
        make.step("open", **{"as": f"g{index}", "what": f"group:{name}"})
        make.set_container(f"g{index}")
        if not index:
            make.ioctl_value("c", "VFIO_SET_IOMMU", type)
        make.get_device(f"g{index}", name, f"d{index}")
    make.run(45, map=10, unmap=7, info=3, extension=2, dirty=1, dma=3, group=2, wrong=2)


KINDS = ((spaces, 4), (accesses, 5), (domains, 4), (compat, 4))
MAKER = IommufdMaker
DEVICES = type1.DEVICES
