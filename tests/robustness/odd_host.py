# SPDX-License-Identifier: MIT
"""A host in a directory, with devices and users of many kinds, whose files give odd answers, one at a time."""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.unit.test_host import PATH
from tests.unit.test_in_use import Host

MDEV = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
#: Addresses of devices, named by their properties.
PLAIN, NVME, HELD, NETWORK, PHYSICAL, VIRTUAL, BRIDGE = (
    f"0000:00:{name}" for name in ("03.0", "04.0", "05.0", "05.1", "06.0", "06.1", "08.0")
)
PLATFORM = "fd000000.dma"
DEVICES = (PLAIN, NVME, HELD, NETWORK, PHYSICAL, VIRTUAL, BRIDGE, MDEV, PLATFORM)

FILES = {
    "/proc/cmdline": "ro modprobe.blacklist=other,uio pci=noats,nomsi vfio-pci.ids=1234:11e8 intremap=off pcie_acs_override=downstream\n",
    "/proc/cpuinfo": "flags : fpu hypervisor\n",
    "/proc/meminfo": "MemTotal: 1 kB\nHugePages_Free:       7\nHugepagesize:       2048 kB\n",
    "/proc/self/status": "Name:\tx\nCapEff:\t0000000000020000\nVmLck:\t     100 kB\nVmPin:\t      64 kB\n",
    "/proc/self/cgroup": "1:name=systemd:/x\n0::/user/session\n",
    "/proc/sys/kernel/osrelease": "7.3.4\n",
    "/sys/fs/cgroup/user/session/memory.max": "4294967296\n",
    "/sys/fs/cgroup/user/memory.max": "max\n",
    "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit": "1000\n",
    "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts": "Y\n",
    "/sys/module/iommufd/parameters/allow_unsafe_interrupts": "N\n",
    "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode": "N\n",
    "/etc/modprobe.d/a.conf": "# nothing\nblacklist vfio-pci\noptions vfio_pci disable_vga=1 ids=1234:11e8,8086:10d3\n",
    "/etc/modprobe.d/b.conf": "install vfio_pci /bin/false\noptions other ids=1\n",
    "/etc/modprobe.d/note.txt": "blacklist vfio-pci\n",
    "/lib/modules/7.3.4/modules.alias": (
        "alias vfio_pci:v00001234d000011E8sv*sd*bc*sc*i* edu_vfio_pci\nalias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n"
        "alias pci:v00001234d000011E8sv*sd*bc*sc*i* edu\nalias vfio_pci:v00008086d*sv*sd*bc*sc*i* other_vfio_pci\n"
    ),
    "/proc/self/mountinfo": (
        "22 1 259:1 / / rw shared:1 - ext4 /dev/root rw\n30 22 0:30 / /srv/a\\040b rw - btrfs /dev/sda rw\n"
        "31 22 0:31 / /share rw - 9p host0 rw\n32 22 0:32 / /fs rw - virtiofs tag1 rw\n33 22 0:33 / /proc rw - proc proc rw\n"
    ),
    "/proc/swaps": "Filename Type Size Used Priority\n/dev/nvme0n1p2 partition 1 0 -2\n",
    "/proc/net/route": (
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\neth0 00000000 0100000A 3 0 0 0 00000000 0 0 0\n"
        "br0 0000000A 00000000 1 0 0 0 00FFFFFF 0 0 0\nlo 0000007F 0 1 0 0 0 000000FF 0 0 0\n"
    ),
    "/proc/net/ipv6_route": (
        f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} 00000400 1 0 00000003 eth1\n"
        f"fe80{'0' * 28} 40 {'0' * 32} 00 {'0' * 32} 00000100 1 0 00000001 eth0\n"
        f"20010db8{'0' * 24} 40 {'0' * 32} 00 {'0' * 32} 00000100 1 0 00000001 eth1\n"
    ),
    "/proc/net/packet": (
        "sk RefCnt Type Proto Iface R Rmem User Inode\n0 3 3 0003 2 1 0 0 1\n0 3 3 88cc 3 1 0 0 2\n0 3 2 0800 9 1 0 0 3\n"
    ),
    "/sys/kernel/config/netconsole/t1/dev_name": "eth1\n",
    "/sys/kernel/config/netconsole/t1/enabled": "1\n",
    "/sys/class/tty/console/active": "tty0 ttyS0 hvc0\n",
    "/proc/driver/nvidia/gpus/0000:00:03.0/information": "Model: x\nDevice Minor: \t 1\n",
    "/proc/5000070/maps": (
        f"7f0000000000-7f0000001000 rw-s 00000000 00:15 99 {PATH}{PLAIN}/resource2_wc\n7f1-7f2 r-xp 0 0:0 0 [vdso]\n"
        "7f3-7f4 rw-s 0 00:05 7 /dev/dri/card0\n7f5-7f6 rw-p 0 00:05 8 /dev/zero\n"
    ),
    "/sys/firmware/acpi/tables/DMAR": "x",
    "/sys/class/iommu/dmar0/intel-iommu/cap": "d2008c40660462\n",
    "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages": "3\n",
    "/dev/vfio/vfio": "", "/dev/vfio/devices/vfio0": "", "/dev/vfio/5": "", "/dev/vfio/6": "",
}  # fmt: skip


class Odd(NamedTuple):
    """An odd answer.

    :ivar path: the file, directory or link
    :ivar what: a description of the answer
    :ivar value: an errno, a file's content, a directory's names, a link's target; None for the opposite of yes or no
    """

    path: str
    what: str
    value: int | bytes | tuple[str, ...] | str | None


class OddHost(Host):
    """A host with devices and users of many kinds.

    :ivar asked: the questions (question, path) since the dict was last cleared, in order
    :ivar odd: the question that gets an odd answer, with the answer
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: dict[tuple[str, str], None] = {}
        self.odd: tuple[str, Odd] | None = None
        self._build()

    def _build(self) -> None:
        for path, text in FILES.items():
            self.file(path, text)
        for directory in ("/dev/iommu", "/sys/module/vfio", "/sys/module/loop", "/sys/bus/mdev/drivers/vfio_mdev"):
            self.directory(directory)
        for driver in ("uio_pci_generic", "e1000e", "igb"):
            self.directory(f"/sys/bus/pci/drivers/{driver}")
        usual = {
            "power_state": "D0\n", "power/runtime_status": "active\n", "d3cold_allowed": "1\n", "reset_method": "flr bus\n", "config": "\x34\x12" * 32,
            "resource": "0x00000000fe000000 0x00000000fe0fffff 0x0000000000040200\n", "msi_bus": "1\n", "numa_node": "0\n",
            "modalias": "pci:v00001234d000011E8sv00001AF4sd00001100bc00sc00i00\n",
        }  # fmt: skip
        self.pci(PLAIN, group=1, driver="uio_pci_generic", **usual | {"boot_vga": "1\n"})
        self.pci(NVME, group=2, driver="nvme", **usual | {"class": "0x010802\n", "power_state": "D3hot\n"})
        self.pci(HELD, group=5, driver="vfio-pci", **usual | {"driver_override": "vfio-pci\n", "msi_bus": "0\n"})
        self.pci(NETWORK, group=5, driver="e1000e", **usual | {"vendor": "0x8086\n", "device": "0x10d3\n"})
        self.pci(PHYSICAL, group=6, driver="vfio-pci", **usual | {"sriov_totalvfs": "4\n", "sriov_numvfs": "2\n"})
        self.pci(VIRTUAL, group=7, driver="vfio-pci", **usual | {"reset_method": "\n"})
        self.pci("0000:00:06.2", group=8, **usual | {"d3cold_allowed": "0\n", "power_state": "D3cold\n"})
        self.pci(BRIDGE, group=5, **usual | {"class": "0x060400\n"})
        for number, address in enumerate((VIRTUAL, "0000:00:06.2")):
            self.link(f"{PATH}{PHYSICAL}/virtfn{number}", f"{PATH}{address}")
            self.link(f"{PATH}{address}/physfn", f"{PATH}{PHYSICAL}")
        for address in DEVICES[:6]:
            self.link(f"{PATH}{address}/iommu", "/sys/class/iommu/dmar0")
        self.file("/sys/kernel/iommu_groups/1/reserved_regions", (
            "0x0000000000000000 0x0000000000ffffff direct\n0x00000000fee00000 0x00000000feefffff msi\n"
            "0x000000fd00000000 0x000000ffffffffff reserved\n0x0000000010000000 0x0000000010000fff direct-relaxable\n"
        ))  # fmt: skip
        self.add("mdev", f"{PATH}{PLAIN}/{MDEV}", group=9, driver="vfio_mdev")
        self.add("platform", f"/sys/devices/platform/{PLATFORM}", group=10, driver_override="(null)\n")
        self._use()

    def _use(self) -> None:
        """Create files that show the devices in use by the host and its processes."""
        disk = self.directory(f"{PATH}{NVME}/nvme/nvme0/nvme0n1")
        self.link("/sys/class/block/nvme0n1", disk)
        for number in (1, 2):
            self.file(f"{disk}/nvme0n1p{number}/partition", f"{number}\n")
            self.link(f"/sys/class/block/nvme0n1p{number}", f"{disk}/nvme0n1p{number}")
            self.link(f"/sys/dev/block/259:{number}", f"{disk}/nvme0n1p{number}")
        for name in ("sda", "sdb"):
            self.link(f"/sys/class/block/{name}", self.directory(f"{PATH}{NETWORK}/ata1/{name}"))
            self.link(f"/sys/fs/btrfs/u/devices/{name}", f"{PATH}{NETWORK}/ata1/{name}")
        for name, kind, text in (
            ("dm-0", "dm/name", "root"),
            ("md0", "md/level", "raid1"),
            ("loop0", "loop/backing_file", "/dev/sdb"),
        ):
            path = f"/sys/devices/virtual/block/{name}"
            self.file(f"{path}/{kind}", f"{text}\n")
            self.link(f"/sys/class/block/{name}", path)
        self.link("/sys/devices/virtual/block/md0/slaves/sdb", f"{PATH}{NETWORK}/ata1/sdb")
        self.link("/sys/devices/virtual/block/dm-0/slaves/nvme0n1", disk)
        self.interface(NETWORK, "eth0")
        self.interface(PLAIN, "eth1", 3)
        self.link("/sys/class/net/br0/lower_eth1", f"{PATH}{PLAIN}/net/eth1")
        self.link(f"{PATH}{PLAIN}/net/eth1/master", "/sys/class/net/br0")
        self.directory(f"{PATH}{VIRTUAL}/net")
        for number, tag in enumerate(("host0", "tag1")):
            virtio = self.directory(f"{PATH}0000:00:06.2/virtio{number}")
            self.link(f"/sys/bus/virtio/devices/virtio{number}", virtio)
            self.link(f"/sys/bus/virtio/drivers/virtio_console/virtio{number}", virtio)
            self.file(f"{virtio}/mount_tag", f"{tag}\0")
        self.file("/sys/fs/virtiofs/1/tag", "tag1\n")
        self.link("/sys/fs/virtiofs/1/device", f"{PATH}0000:00:06.2/virtio1")
        self.link("/sys/class/graphics/fb0", self.directory(f"{PATH}{NETWORK}/graphics/fb0"))
        self.link("/sys/class/tty/ttyS0", self.directory(f"{PATH}{PHYSICAL}/tty/ttyS0"))
        self.file(f"{PATH}{PHYSICAL}/dma/dma0chan0/in_use", "2\n")
        self.link("/sys/class/dma/dma0chan0", f"{PATH}{PHYSICAL}/dma/dma0chan0")
        self.node("dri/card0", "char/226:0", f"{PATH}{PLAIN}/drm/card0")
        self.node("tap7", "char/241:1", "/sys/devices/virtual/net/br0/tap7")
        for number, target in enumerate((
            "/dev/dri/card0", "/dev/null", "/dev/nvidia1", f"{PATH}{PLAIN}/resource0", f"{PATH}{PLAIN}/config", "/dev/tap7", "/dev/sdb", "socket:[1]",
            "/dev/hvc0", "/dev/tty1",
        )):  # fmt: skip
            self.open_in(5000070, number, target)
        self.link("/sys/class/watchdog/watchdog0", self.directory(f"{PATH}{PLAIN}/watchdog/watchdog0"))
        self.open_in(5000071, 3, "/dev/watchdog0")
        self.open_in(5000071, 4, "/dev/dri/card0")
        for number, target in enumerate(("/dev/vfio/vfio", "/dev/vfio/5", "anon_inode:[vfio-device]")):
            self.open_in(5000072, 5 + number, target)
        self.open_in(5000073, 9, "/dev/vfio/devices/vfio2", fdinfo=f"pos: 0\nvfio-device-syspath: {PATH}{VIRTUAL}\n")
        self.held |= {"/dev/sda"}

    # Answers; one of them is odd.

    def _odd(self, question: str, path: str) -> Odd | None:
        self.asked[question, path] = None
        if self.odd is None or (self.odd[0], self.odd[1].path) != (question, path):
            return None
        if isinstance(self.odd[1].value, int):
            raise OSError(self.odd[1].value, os.strerror(self.odd[1].value), path)
        return self.odd[1]

    def read_file(self, path: str) -> bytes:
        odd = self._odd("read", path)
        return super().read_file(path) if odd is None else odd.value  # type: ignore[return-value]  # the value for a file

    def listdir(self, path: str) -> list[str]:
        odd = self._odd("list", path)
        return super().listdir(path) if odd is None else list(odd.value)  # type: ignore[arg-type]  # the value for a directory

    def readlink(self, path: str) -> str:
        odd = self._odd("link", path)
        return super().readlink(path) if odd is None else odd.value  # type: ignore[return-value]  # the value for a link

    def exists(self, path: str) -> bool:
        return super().exists(path) is (self._odd("exists", path) is None)

    def claimed(self, path: str) -> bool:
        return super().claimed(path) is (self._odd("claimed", path) is None)

    def device_number(self, path: str) -> str | None:
        return super().device_number(path) if self._odd("number", path) is None else None

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        self._odd("open", path)
        return os.open("/dev/null", os.O_RDONLY)

    def getrlimit(self, which: int) -> tuple[int, int]:
        return (8 << 20, 16 << 20) if which == resource.RLIMIT_MEMLOCK else super().getrlimit(which)

    def oddities(self, question: str, path: str) -> Iterator[Odd]:
        """Yield the odd answers to a question."""
        self.odd = None
        if question in ("exists", "claimed", "number"):
            yield Odd(path, "other", None)
            return
        for number in (errno.ENOENT, errno.EACCES):
            yield Odd(path, errno.errorcode[number], number)
        try:
            if question == "read":
                yield from (Odd(path, what, text.encode()) for what, text in texts(self.read_file(path).decode()))
            elif question == "list":
                names = sorted(self.listdir(path))
                yield Odd(path, "empty", ())
                yield from (Odd(path, f"without {name}", tuple(set(names) - {name})) for name in names[:2])
                yield Odd(path, "with more", (*names, "99"))
            elif question == "link":
                yield Odd(path, "to another", "../99")
        except OSError:  # there is no such link
            pass


def texts(text: str) -> Iterator[tuple[str, str]]:
    """Yield odd contents of a file, each with a name: changed numbers, lines that end early or are missing."""
    yield "empty", ""
    yield "odd", "?! x:y\n"
    lines = text.splitlines(keepends=True)
    for number in dict.fromkeys(
        match.span() for match in re.finditer(r"\b(0x)?[0-9a-f]*[0-9][0-9a-f]*\b", text) if len(lines) < 2
    ):
        yield f"other {text[slice(*number)]}", text[: number[0]] + _next(text[slice(*number)]) + text[number[1] :]
    if len(lines) < 2:
        for word in text.split()[:8]:
            yield f"without {word!r}", " ".join(one for one in text.split() if one != word) + "\n"
        return
    for index, line in enumerate(lines):
        rest = ["".join(lines[:index]), "".join(lines[index + 1 :])]
        yield f"without line {index}", "".join(rest)
        words = line.split()
        for count in range(1, len(words)):
            yield f"line {index} of {count} words", f"{rest[0]}{' '.join(words[:count])}\n{rest[1]}"
        for at, word in enumerate(words):
            if (other := _next(word)) != word:
                yield (
                    f"line {index} with {other}",
                    f"{rest[0]}{' '.join((*words[:at], other, *words[at + 1 :]))}\n{rest[1]}",
                )


def _next(word: str) -> str:
    """Return a word with its last digit changed."""
    return re.sub(r"[0-9a-f](?=[^0-9a-f]*$)", lambda digit: "1" if digit[0] == "0" else "0", word, count=1)
