# SPDX-License-Identifier: MIT
"""Episodes that are not random, about the host: reading its files, and writing to them."""

from __future__ import annotations

from random import Random

from tests.differential.devices import EDU, FAR_EDU
from tests.differential.iommufd import POINTED_AT
from tests.differential.maker import Maker
from tests.differential.steps import Episode
from tests.differential.type1 import LIMIT, SHARED

NVME = "0000:00:04.0"
#: A device that no episode binds.
PORT = "0000:00:08.0"
DEVICES = sorted({EDU, FAR_EDU, NVME, *SHARED})
PCI, PLATFORM = "/sys/bus/pci", "/sys/bus/platform"
VFIO, OTHER = f"{PCI}/drivers/vfio-pci", f"{PCI}/drivers/e1000e"


class HostAsker(Maker):
    def __init__(self) -> None:
        super().__init__(Random(0))

    def look(self, how: str, path: str, *, blind: bool = False) -> None:
        self.step("file", how=how, path=path, **({"blind": True} if blind else {}))

    def tell(self, path: str, text: str | bytes) -> None:
        self.step("tell", path=path, data=(text.encode() if isinstance(text, str) else text).hex())

    def bound(self, *addresses: str) -> None:
        """Read the drivers of these devices."""
        for address in addresses:
            self.look("readlink", f"{PCI}/devices/{address}/driver")
            self.look("exists", f"{PCI}/devices/{address}/vfio-dev")


def files() -> Episode:
    """Use each method of the kernel on each kind of file."""
    make = HostAsker()
    device = f"{PCI}/devices/{EDU}"
    for path in (
        device, f"{device}/", f"{device}/vendor", f"{device}/driver", f"{device}/driver/bind", f"{device}/driver_override", f"{device}/iommu_group/type",
        f"{device}/none", f"{device}/vendor/none", f"{device}/driver/none/none", "/dev/vfio", "/dev/vfio/vfio", "/dev/iommu", "/none", "/dev/none/none",
        f"{PCI}/drivers_probe", LIMIT, f"{PLATFORM}/devices/vfio-mock.0/modalias", "/",
    ):  # fmt: skip
        for how in ("read_file", "readlink", "listdir", "exists"):
            special = how == "read_file" and path in ("/dev/vfio/vfio", "/dev/iommu")
            if not special:  # a read of these says what descriptors() asks for
                make.look(how, path, blind=how == "listdir")
        if path not in (
            "/dev/vfio/vfio",
            "/dev/iommu",
            f"{PCI}/drivers_probe",
            f"{device}/driver/bind",
            f"{device}/driver_override",
            LIMIT,
        ):
            make.tell(path, "\n")
        if not path.endswith(
            ("bind", "driver_override", "drivers_probe", "limit", "vendor", "type", "modalias", "/vfio", "/iommu")
        ):
            make.step("open", **{"as": "f", "what": f"path:{path}"})
    return make.steps


def parameters() -> Episode:
    """Write numbers and booleans to module parameters."""
    make = HostAsker()
    make.step("write_file", path=LIMIT, text="65535")
    for text in (
        "1",
        "0",
        "-1",
        "x",
        "",
        "\n",
        " 7",
        "7 ",
        "0x10",
        "010",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "1 2",
        "1\n\n",
        "08",
        "+5",
    ):
        make.tell(LIMIT, text)
        make.look("read_file", LIMIT)
    flag = "/sys/module/vfio_pci/parameters/enable_sriov"
    make.step("write_file", path=flag, text="N")
    for text in ("1", "0", "y", "N", "on", "off", "o", "ox", "t", "f", "yes", "2", "", "\n", " 1", "T", "F", "-1"):
        make.tell(flag, text)
        make.look("read_file", flag)
    return make.steps


def binding() -> Episode:
    """Write to the files of drivers and of the bus."""
    make = HostAsker()
    override = f"{PCI}/devices/{PORT}/driver_override"
    make.bound(EDU, PORT)
    for driver in (VFIO, OTHER):
        for name in (PORT, EDU, "0000:00:04", "none", "", "\n", f"{EDU}\n", f"{EDU} ", b"\xff\xfe"):
            make.tell(f"{driver}/bind", name)
            if name in (PORT, "none", "", b"\xff\xfe") or driver == OTHER:
                make.tell(f"{driver}/unbind", name)
    make.bound(EDU, PORT)
    for name in (PORT, EDU, "none", "", b"\xff\xfe"):
        make.tell(f"{PCI}/drivers_probe", name)
    make.bound(EDU, PORT)
    for text in ("pci-stub", "vfio-pci\n", "a\nb", "none", "\n", "", "x" * 4094, "x" * 4095, "x" * 4096):
        make.tell(override, text)
        make.look("read_file", override)
    make.tell(override, "\n")
    for address in (PORT, EDU):
        make.look("read_file", f"{PCI}/devices/{address}/vendor")
    return make.steps


def another_driver() -> Episode:
    """Bind a device to one driver after the other."""
    make = HostAsker()
    device = SHARED[1]
    override = f"{PCI}/devices/{device}/driver_override"
    make.step("listen")
    # It has been bound for other episodes.
    make.tell(f"{VFIO}/unbind", device)
    make.step("heard")
    make.tell(override, "none")
    make.bound(device)
    make.tell(f"{PCI}/drivers_probe", device)
    for _ in range(2):
        make.tell(override, "vfio-pci")
        make.tell(f"{VFIO}/bind", device)
        make.step("heard")
        make.tell(f"{VFIO}/bind", device)
        make.bound(device)
        make.tell(f"{PCI}/drivers_probe", device)
        make.tell(f"{OTHER}/bind", device)
        make.tell(f"{OTHER}/unbind", device)
        make.tell(f"{VFIO}/unbind", device)
        make.step("heard")
        make.bound(device)
        make.tell(f"{PCI}/drivers_probe", device)
        make.step("heard")
        make.bound(device)
        make.tell(f"{VFIO}/unbind", device)
        make.step("heard")
    make.tell(override, "\n")
    for ids in ("", "x", "1234", "1234 11e9", "1234 11e9", "1234 11e9 1 2", "1234 x"):
        make.tell(f"{VFIO}/new_id", ids)
    for ids in ("", "x", "1234", "1234 11e9", "1234 11e9", "1234 11ea"):
        make.tell(f"{VFIO}/remove_id", ids)
    make.tell(override, "vfio-pci")
    make.tell(f"{PCI}/drivers_probe", device)
    make.bound(device)
    return make.steps


def virtual_functions() -> Episode:
    """Create virtual functions of the nvme, which is bound to vfio-pci, and open them with and without tokens."""
    make = HostAsker()
    root = f"{PCI}/devices/{NVME}"
    first, second = NVME.replace(".0", ".1"), NVME.replace(".0", ".2")
    flag = "/sys/module/vfio_pci/parameters/enable_sriov"
    make.step("write_file", path=flag, text="N")
    for name in ("sriov_totalvfs", "sriov_numvfs", "sriov_offset", "sriov_stride", "sriov_drivers_autoprobe"):
        make.look("read_file", f"{root}/{name}")
    numbers = ("", "x", "3", "-1", "0", "1", "1x", "65536", "0\n")
    for text in numbers:
        make.tell(f"{root}/sriov_numvfs", text)
    make.tell(flag, "Y")
    make.tell(f"{root}/sriov_drivers_autoprobe", "x")
    make.tell(f"{root}/sriov_drivers_autoprobe", "0")
    make.step("listen")
    for text in ("2", "2", "1", "3"):
        make.tell(f"{root}/sriov_numvfs", text)
        make.step("heard")
        make.look("read_file", f"{root}/sriov_numvfs")
    for name in (first, second):
        make.look("readlink", f"{PCI}/devices/{name}/physfn")
        make.bound(name)
        make.tell(f"{PCI}/devices/{name}/driver_override", "vfio-pci")
        make.tell(f"{PCI}/drivers_probe", name)
        make.bound(name)
    make.look("readlink", f"{root}/virtfn1")
    for group, name in (("g0", NVME), ("g1", first)):
        make.step("open", **{"as": f"c{group}", "what": "container"})
        make.step("open", **{"as": group, "what": f"group:{name}"})
        make.ioctl(group, "VFIO_GROUP_SET_CONTAINER", None, extra=bytes(4), put=[[0, 4, ["fd", f"c{group}"]]])
        make.step("ioctl", slot=f"c{group}", request="VFIO_SET_IOMMU", value=3)

    def device(group: str, name: str, token: str | None, slot: str) -> None:
        words = "" if token is None else f" vf_token={token}"
        make.ioctl(
            group, "VFIO_GROUP_GET_DEVICE_FD", None, extra=f"{name}{words}\0".encode(), **{"as": slot, "kind": "device"}
        )

    one, other = "01234567-89ab-cdef-0123-456789abcdef", "fedcba98-7654-3210-fedc-ba9876543210"
    for token in (None, one, "0" * 8 + "-0000-0000-0000-" + "0" * 12):
        device("g1", first, token, "v")
    device("g0", NVME, one, "p")
    for token in (None, other, one):
        device("g1", first, token, "v")
    for token in (None, other, one):
        device("g0", NVME, token, "q")
    make.step("close", slot="q")
    make.step("close", slot="p")
    for token in (None, other, one):
        device("g0", NVME, token, "p")
    raw = bytes.fromhex(other.replace("-", ""))
    make.ioctl(
        "p", "VFIO_DEVICE_FEATURE", None, extra=(24).to_bytes(4, "little") + (2 << 16).to_bytes(4, "little") + raw
    )
    make.step("open", **{"as": "f", "what": "iommufd"})
    make.step("open", **{"as": "w", "what": f"cdev:{second}"})
    for name in (one, other):
        make.step("fill", at=POINTED_AT, data=name.replace("-", ""))
        put: list[list[object]] = [[8, 4, ["fd", "f"]], [16, 8, ["arena", POINTED_AT]]]
        make.ioctl(
            "w",
            "VFIO_DEVICE_BIND_IOMMUFD",
            None,
            extra=(24).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(16),
            put=put,
        )
    for slot in ("v", "w", "p", "q", "g0", "g1"):
        make.step("close", slot=slot)
    make.tell(f"{root}/sriov_numvfs", "0")
    make.step("heard")
    make.look("exists", f"{PCI}/devices/{first}")
    # With its own driver above them they take no token.
    make.tell(f"{VFIO}/unbind", NVME)
    make.tell(f"{root}/driver_override", "\n")
    for text in numbers[:4]:
        make.tell(f"{root}/sriov_numvfs", text)
    make.tell(f"{root}/sriov_numvfs", "1")
    make.tell(f"{PCI}/drivers/nvme/bind", NVME)
    make.bound(NVME)
    make.tell(f"{root}/sriov_numvfs", "1")
    make.tell(f"{PCI}/devices/{first}/driver_override", "vfio-pci")
    make.tell(f"{PCI}/drivers_probe", first)
    make.step("open", **{"as": "cg2", "what": "container"})
    make.step("open", **{"as": "g2", "what": f"group:{first}"})
    make.ioctl("g2", "VFIO_GROUP_SET_CONTAINER", None, extra=bytes(4), put=[[0, 4, ["fd", "cg2"]]])
    make.step("ioctl", slot="cg2", request="VFIO_SET_IOMMU", value=3)
    for given in (one, None):
        device("g2", first, given, "v")
    make.step("close", slot="v")
    make.step("close", slot="g2")
    make.tell(f"{root}/sriov_numvfs", "0")
    make.tell(f"{PCI}/drivers/nvme/unbind", NVME)
    make.tell(f"{root}/driver_override", "vfio-pci")
    make.step("listen")
    make.tell(f"{PCI}/drivers_probe", NVME)
    make.step("heard")
    make.bound(NVME)
    make.tell(f"{root}/sriov_drivers_autoprobe", "1")
    return make.steps


def episodes() -> list[Episode]:
    return [files(), parameters(), binding(), another_driver(), virtual_functions()]
