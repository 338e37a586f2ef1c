# SPDX-License-Identifier: MIT
"""Episodes that are not random, for a machine without an IOMMU: groups, cdevs, physical addresses."""

from __future__ import annotations

from itertools import product

from tests.differential.devices import EDU
from tests.differential.maker import offset
from tests.differential.steps import PAGE, Episode
from tests.differential.systematic_host import PCI, VFIO
from tests.differential.systematic_iommufd import LAST, Asker
from tests.differential.type1 import INFO, MAP, MOCKS, SHARED

MOCK = MOCKS[0]
#: Two functions of one slot. Without an IOMMU they do not share a group.
ONE, OTHER = SHARED
DEVICES = sorted({EDU, *SHARED})
FLAG = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"


def _extensions(make: Asker, slot: str = "c") -> None:
    for number in range(12):
        make.ioctl_value(slot, "VFIO_CHECK_EXTENSION", number)


def _group(make: Asker, slot: str, name: str) -> None:
    make.step("open", **{"as": slot, "what": f"group:{name}"})


def _requests(make: Asker, slot: str = "c") -> None:
    """Make requests that need an IOMMU."""
    values = {"argsz": 32, "flags": 3, "iova": 0, "size": PAGE}
    make.ioctl(slot, "VFIO_IOMMU_MAP_DMA", MAP, values, put=[[offset(MAP, "vaddr"), 8, ["arena", 0]]])
    make.ioctl(slot, "VFIO_IOMMU_GET_INFO", INFO, {"argsz": 24})


def containers(what: str) -> Episode:
    """Use no-IOMMU groups with a container, or with an iommufd as a container."""
    make = Asker()
    make.step("open", **{"as": "c", "what": what})
    make.step("open", **{"as": "c2", "what": what})
    _extensions(make)
    for slot, name in (("g0", ONE), ("g1", OTHER), ("g5", MOCK)):
        _group(make, slot, name)
        make.status(slot)
        make.get_device(slot, name, "d9")
    for number in (1, 3, 8):
        make.ioctl_value("c", "VFIO_SET_IOMMU", number)
    make.set_container("g0")
    make.set_container("g0")
    make.status("g0")
    _extensions(make)
    _requests(make)
    make.get_device("g0", ONE, "d0")
    # vfio-mock, which needs no IOMMU, cannot share a container with no-IOMMU devices.
    make.set_container("g5")
    for number in (0, 1, 3, 4, 7, 9, 8, 8):
        make.ioctl_value("c", "VFIO_SET_IOMMU", number)
    _extensions(make)
    _requests(make)
    make.set_container("g5")
    make.set_container("g1")
    make.set_container("g5", "c2")
    make.set_container("g1", "c2")
    for slot, name in (("g0", ONE), ("g1", OTHER)):
        make.get_device(slot, name, f"d{slot[1]}")
        make.get_device(slot, name, "again")
    make.step("pread", slot="d0", offset=0, size=4)
    if what == "iommufd":
        for op in (0, 2, 1, 0):
            make.request("IOMMU_VFIO_IOAS", "iommu_vfio_ioas", {"op": op}, slot="c")
    for slot in ("d0", "d1", "again"):
        make.leave("g0")
        make.step("close", slot=slot)
    make.leave("g0")
    make.leave("g1")
    _extensions(make)
    make.set_container("g5")
    make.set_container("g0")
    return make.steps


def address_space_first() -> Episode:
    """An iommufd with a compatibility address space (which means translation) refuses a no-IOMMU group, or to open its device."""
    make = Asker()
    one = make.ioas("one")
    make.ask("IOMMU_VFIO_IOAS", {"ioas_id": one}, op=1)
    _group(make, "g0", ONE)
    make.set_container("g0", "f")
    make.ask("IOMMU_VFIO_IOAS", op=2)
    make.set_container("g0", "f")
    make.ioctl_value("f", "VFIO_SET_IOMMU", 8)
    make.ask("IOMMU_VFIO_IOAS", {"ioas_id": one}, op=1)
    make.get_device("g0", ONE, "d0")
    make.ask("IOMMU_VFIO_IOAS", op=2)
    make.get_device("g0", ONE, "d0")
    make.step("pread", slot="d0", offset=0, size=4)
    return make.steps


def unprivileged() -> Episode:
    """Use no-IOMMU devices without CAP_SYS_RAWIO. Those that are already open stay open."""
    make = Asker()
    make.step("open", **{"as": "c", "what": "container"})
    _group(make, "g0", ONE)
    _group(make, "g1", OTHER)
    make.set_container("g1")
    make.step("open", **{"as": "c2", "what": "container"})
    make.step("open", **{"as": "d", "what": f"cdev:{EDU}"})
    make.step("without", capability="CAP_SYS_RAWIO")
    for what in (f"group:{EDU}", f"cdev:{EDU}", f"cdev:{MOCK}", f"group:{MOCK}"):
        make.step("open", **{"as": "n", "what": what})
        make.step("close", slot="n")
    make.set_container("g0")
    make.ioctl_value("c", "VFIO_SET_IOMMU", 8)
    make.get_device("g1", OTHER, "d1")
    make.bind()
    make.set_container("g0", "f")
    make.ioctl_value("f", "VFIO_SET_IOMMU", 8)
    make.get_device("g0", ONE, "d0")
    return make.steps


def addresses() -> Episode:
    """Map memory for a device opened by its cdev, and request physical addresses. Their values are not compared."""
    make = Asker(EDU)
    one, other = make.begin()

    def ask(iova: int, size: int, flags: int = 0) -> None:
        make.request(
            "IOMMU_IOAS_NOIOMMU_GET_PA", "iommu_ioas_noiommu_get_pa", {"flags": flags, "iova": iova, "length": size}, {"ioas_id": one},
            mask=[[offset("struct iommu_ioas_noiommu_get_pa", "out_phys"), 8]],
        )  # fmt: skip

    make.ranges(one)
    make.map(one, 0x10000, PAGE)
    make.map(one, 0x20000, PAGE, 0x800, 7)
    for iova, size in product((0x10000, 0x10004, 0x10FFF, 0xFFFF, 0x11000, 0x20800, LAST), (0, 1, 4, PAGE)):
        ask(iova, size)
    ask(0x10000, 4, 1)
    for flags in (0, 1, 2, 4, 8):
        make.ask(
            "IOMMU_HWPT_ALLOC", {"dev_id": ["var", "dev", 0], "pt_id": other}, flags=flags, keep={"table": [16, 4]}
        )
    make.attach(["var", "table", 0])
    make.ask("IOMMU_GET_HW_INFO", {"dev_id": ["var", "dev", 0]})
    ask(0x10000, 4)
    make.attach(one, flags=1, pasid=1)
    make.attach(one)
    ask(0x10000, 4)
    make.detach()
    ask(0x10000, 4)
    for iova, size, at in (
        (0xFEE00000, PAGE, 0),
        (1 << 48, PAGE, 0),
        (1 << 56, PAGE, 0),
        (2**64 - 2 * PAGE, PAGE, 0),
        (0x800, 0x800, 0x800),
    ):
        make.attach_to_what_is_mapped(iova, size, at)
    return make.steps


def switched_off() -> Episode:
    """Bind devices while VFIO's no-IOMMU mode is switched off."""
    make = Asker()
    make.step("write_file", path=FLAG, text="Y")
    for text in ("N", "Y"):
        make.step("tell", path=f"{VFIO}/unbind", data=OTHER.encode().hex())
        make.step("file", how="exists", path=f"{PCI}/devices/{OTHER}/iommu_group")
        make.step("tell", path=FLAG, data=text.encode().hex())
        make.step("open", **{"as": "c", "what": "container"})
        _extensions(make)
        _extensions(make, "f")
        for _ in range(2):
            make.step("tell", path=f"{VFIO}/bind", data=OTHER.encode().hex())
        make.step("file", how="exists", path=f"{PCI}/devices/{OTHER}/driver")
        make.step("file", how="exists", path=f"{PCI}/devices/{OTHER}/iommu_group")
    return make.steps


def episodes() -> list[Episode]:
    return [
        containers("container"),
        containers("iommufd"),
        address_space_first(),
        unprivileged(),
        addresses(),
        switched_off(),
    ]
