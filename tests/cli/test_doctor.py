# SPDX-License-Identifier: MIT
"""Each finding of the catalogue is reproduced on the mock and reported by doctor.

Also states that are not in the catalogue.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

import pyvfio as library
from pyvfio import host, mock
from pyvfio.host.diagnosis import CATALOGUE
from pyvfio.mock.fs.tree import Link, Text
from tests.cli.command import Command

EDU, NVME, VF, PF = "0000:00:03.0", "0000:00:04.0", "0000:41:10.1", "0000:41:00.0"
BRIDGE, LEFT, RIGHT = "0000:00:08.0", "0000:02:00.0", "0000:02:00.1"
MDEV = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"

Setup = Callable[[mock.Kernel], "str | None"]


def text(kernel: mock.Kernel, path: str, content: str) -> None:
    """Create a file with a text."""
    kernel.tree.add(path, Text(content.encode("latin-1")))


def path_of(kernel: mock.Kernel, address: str) -> str:
    """Return a device's directory in sysfs."""
    return host.device(address, kernel).path


def bound(kernel: mock.Kernel, address: str = EDU) -> str:
    """Bind a device to vfio-pci."""
    return host.bind(address, "vfio-pci", kernel=kernel).address


def attribute(name: str, content: str, address: str = EDU) -> Setup:
    """Return what gives a bound device another attribute."""

    def make(kernel: mock.Kernel) -> str:
        text(kernel, f"{path_of(kernel, address)}/{name}", content)
        return bound(kernel, address)

    return make


def no_iommu(command_line: str = "", table: str = "") -> Setup:
    """Return what takes the devices out of their groups."""

    def make(kernel: mock.Kernel) -> str:
        text(kernel, "/proc/cmdline", command_line)
        if table:
            text(kernel, f"/sys/firmware/acpi/tables/{table}", "")
        kernel.tree.remove("/sys/class/iommu/dmar0")
        kernel.tree.remove(f"{path_of(kernel, EDU)}/iommu_group")
        return EDU

    return make


def not_for_device(kernel: mock.Kernel) -> str:
    kernel.tree.remove(f"{path_of(kernel, EDU)}/iommu_group")
    return EDU


def remapping_off(kernel: mock.Kernel) -> str:
    text(kernel, "/proc/cmdline", "ro intremap=off")
    return bound(kernel)


def unsafe(kernel: mock.Kernel) -> str:
    text(kernel, "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n")
    return bound(kernel)


def direct(kernel: mock.Kernel) -> str:
    regions = "0x000000007b800000 0x000000007fffffff direct\n0x00000000fee00000 0x00000000feefffff msi\n"
    text(kernel, "/sys/kernel/iommu_groups/0/reserved_regions", regions)
    return bound(kernel)


def no_iommu_off(kernel: mock.Kernel) -> str:
    text(kernel, "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n")
    kernel.tree.remove(f"{path_of(kernel, EDU)}/iommu_group")
    return EDU


def without_modules(kernel: mock.Kernel) -> str:
    for path in ("/dev/vfio", "/sys/module/vfio", "/sys/bus/pci/drivers/vfio-pci"):
        kernel.tree.remove(path)
    return EDU


def blacklisted(kernel: mock.Kernel) -> str:
    text(kernel, "/etc/modprobe.d/mine.conf", "# x\nblacklist vfio-pci\n")
    return without_modules(kernel)


def removed(path: str, address: str = EDU) -> Setup:
    """Return what binds a device and takes a file away."""

    def make(kernel: mock.Kernel) -> str:
        bound(kernel, address)
        kernel.tree.remove(path)
        return address

    return make


def no_containers(kernel: mock.Kernel) -> str:
    bound(kernel)
    kernel.tree.remove("/dev/vfio/vfio")
    kernel.tree.remove("/dev/iommu")
    return EDU


def no_cdevs(kernel: mock.Kernel) -> str:
    bound(kernel)
    vfio = host.device(EDU, kernel).vfio
    kernel.tree.remove(f"{path_of(kernel, EDU)}/vfio-dev/{vfio}/dev")
    return EDU


def aliases(kernel: mock.Kernel) -> str:
    modalias = kernel.read_file(f"{path_of(kernel, EDU)}/modalias").decode().strip()
    text(kernel, "/proc/sys/kernel/osrelease", "7.3.4\n")
    alias = f"alias vfio_{modalias[:22]}sv*sd*bc*sc*i* edu_vfio_pci\n"
    text(
        kernel,
        "/lib/modules/7.3.4/modules.alias",
        "alias pci:v*d* other\nalias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n" + alias,
    )
    return bound(kernel)


def mdev(kernel: mock.Kernel) -> str:
    path = f"/sys/devices/virtual/mtty/mtty/{MDEV}"
    kernel.tree.directory(path)
    kernel.tree.add(f"{path}/subsystem", Link("/sys/bus/mdev"))
    kernel.tree.add(f"/sys/bus/mdev/devices/{MDEV}", Link(f"../../..{path.removeprefix('/sys')}"))
    return MDEV


def neighbour(kernel: mock.Kernel) -> str:
    return bound(kernel, RIGHT)


def other_slot(kernel: mock.Kernel) -> str:
    bound(kernel)
    kernel.tree.add("/sys/kernel/iommu_groups/0/devices/0000:01:00.0", Link(path_of(kernel, "0000:01:00.0")))
    return EDU


#: what a state opened; the test closes it
opened: list[library.Device] = []


def held(kernel: mock.Kernel) -> str:
    bound(kernel)
    opened.append(library.open(EDU, kernel=kernel))
    return EDU


def in_use(kernel: mock.Kernel) -> str:
    text(kernel, "/proc/self/mountinfo", "24 1 259:1 / / rw - ext4 /dev/nvme0n1 rw\n")
    disk = f"{path_of(kernel, NVME)}/nvme/nvme0/nvme0n1"
    text(kernel, f"{disk}/size", "1\n")
    kernel.tree.add("/sys/dev/block/259:1", Link(disk))
    return NVME


def overridden(kernel: mock.Kernel) -> str:
    kernel.write_file(f"{path_of(kernel, NVME)}/driver_override", b"vfio-pci\n")
    return NVME


def taken_back(kernel: mock.Kernel) -> str:
    bound(kernel, NVME)
    path = path_of(kernel, NVME)
    kernel.write_file("/sys/bus/pci/drivers/vfio-pci/unbind", NVME.encode())
    kernel.write_file(f"{path}/driver_override", b"\n")
    kernel.write_file("/sys/bus/pci/drivers/nvme/bind", NVME.encode())
    return NVME


def token(kernel: mock.Kernel) -> str:
    host.bind([PF, VF], "vfio-pci", kernel=kernel)
    return VF


def entries(kernel: mock.Kernel) -> str:
    text(kernel, "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "100\n")
    return bound(kernel)


def memlock(kernel: mock.Kernel) -> str:
    kernel.limit_memlock(8 << 20)
    return bound(kernel)


def huge(kernel: mock.Kernel) -> str:
    text(kernel, "/proc/meminfo", "HugePages_Free:       16\nHugepagesize:       2048 kB\n")
    return bound(kernel)


def on_amd(kernel: mock.Kernel) -> str:
    regions = "0x00000000fee00000 0x00000000feefffff msi\n0x000000fd00000000 0x000000ffffffffff reserved\n"
    text(kernel, "/sys/kernel/iommu_groups/0/reserved_regions", regions)
    return bound(kernel)


def narrow(kernel: mock.Kernel) -> str:
    text(kernel, "/sys/class/iommu/dmar0/intel-iommu/cap", f"{38 << 16:x}\n")
    return bound(kernel)


def command_line(words: str) -> Setup:
    """Return what binds a device on a kernel with this command line."""

    def make(kernel: mock.Kernel) -> str:
        text(kernel, "/proc/cmdline", f"ro {words} quiet\n")
        return bound(kernel)

    return make


def unassigned(kernel: mock.Kernel) -> str:
    lines = kernel.read_file(f"{path_of(kernel, EDU)}/resource").decode().splitlines()
    lines[0] = "0x0000000000000000 0x00000000000fffff 0x0000000020040200"
    return str(attribute("resource", "\n".join(lines) + "\n")(kernel))


def too_late(kernel: mock.Kernel) -> str:
    text(kernel, "/etc/modprobe.d/vfio.conf", "# mine\noptions vfio-pci disable_vga=1 ids=10de:1234,1B36:0010\n")
    return NVME


def behind_vmd(kernel: mock.Kernel) -> str:
    """Put a VMD between the host and the device."""
    controller = path_of(kernel, LEFT).rpartition("/")[0]
    kernel.tree.remove(f"{controller}/driver")
    kernel.tree.directory("/sys/bus/pci/drivers/vmd")
    kernel.tree.add(f"{controller}/driver", Link("/sys/bus/pci/drivers/vmd"))
    host.bind([LEFT, RIGHT], "vfio-pci", kernel=kernel)
    return LEFT


def bridge_without_msi(kernel: mock.Kernel) -> str:
    text(kernel, f"{path_of(kernel, LEFT).rpartition('/')[0]}/msi_bus", "0\n")
    host.bind([LEFT, RIGHT], "vfio-pci", kernel=kernel)
    return LEFT


def no_type1(kernel: mock.Kernel) -> str:
    bound(kernel)
    kernel.tree.remove("/dev/iommu")
    kernel.tree.remove("/sys/module/vfio_iommu_type1")
    return EDU


def small_group(kernel: mock.Kernel) -> str:
    text(kernel, "/proc/self/cgroup", "0::/machine.slice/guest.service\n")
    text(kernel, "/sys/fs/cgroup/machine.slice/guest.service/memory.max", "max\n")
    text(kernel, "/sys/fs/cgroup/machine.slice/memory.max", f"{512 << 20}\n")
    return bound(kernel)


def far_pages(kernel: mock.Kernel) -> str:
    text(kernel, "/proc/meminfo", "HugePages_Free:       1024\nHugepagesize:       2048 kB\n")
    text(kernel, "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "3\n")
    text(kernel, f"{path_of(kernel, EDU)}/numa_node", "1\n")
    return bound(kernel)


def old(kernel: mock.Kernel) -> str:
    bound(kernel)
    kernel.tree.remove("/dev/iommu")
    return EDU


#: id -> what brings about the state, and options of doctor
REPRODUCED: dict[str, tuple[Setup, tuple[str, ...]]] = {
    "iommu-off": (no_iommu(), ()),
    "iommu-off-by-command-line": (no_iommu("ro intel_iommu=off"), ()),
    "iommu-not-asked-for": (no_iommu("ro", "DMAR"), ()),
    "iommu-not-for-device": (not_for_device, ()),
    "interrupts-not-isolated": (remapping_off, ()),
    "unsafe-interrupts": (unsafe, ()),
    "direct-region": (direct, ()),
    "no-iommu-refused": (no_iommu_off, ()),
    "vfio-missing": (without_modules, ()),
    "driver-missing": (without_modules, ()),
    "module-blacklisted": (blacklisted, ()),
    "containers-missing": (no_containers, ()),
    "device-nodes-missing": (no_cdevs, ()),
    "iommufd-missing": (old, ()),
    "kernel-lacks": (old, ("--need", "iommufd")),
    "variant-driver": (aliases, ()),
    "no-variant-driver": (bound, ("--need", "migration")),
    "override-foreign": (overridden, ()),
    "taken-back": (taken_back, ()),
    "no-reset": (attribute("reset_method", ""), ()),
    "d3cold": (attribute("power_state", "D3cold\n"), ()),
    "no-answer": (attribute("config", "\xff" * 64), ()),
    "bar-unassigned": (unassigned, ()),
    "behind-vmd": (behind_vmd, ()),
    "msi-off": (bridge_without_msi, ()),
    "acs-override": (command_line("pcie_acs_override=downstream,multifunction"), ()),
    "ids-too-late": (too_late, ()),
    "type1-missing": (no_type1, ()),
    "memory-cgroup": (small_group, ("--guest-memory", "1G")),
    "huge-pages-node": (far_pages, ("--guest-memory", "1G")),
    "bridge": (lambda _: BRIDGE, ()),
    "not-bound": (lambda _: EDU, ()),
    "kernel-driver": (lambda _: NVME, ()),
    "mdev-parent": (mdev, ()),
    "group-not-viable": (neighbour, ()),
    "group-shared": (other_slot, ()),
    "node-missing": (removed("/dev/vfio/0"), ()),
    "device-held": (held, ()),
    "in-use": (in_use, ()),
    "vf-token-missing": (token, ()),
    "mapping-limit-low": (entries, ()),
    "memory-limit-low": (memlock, ()),
    "memory-limit": (memlock, ("--guest-memory", "1G")),
    "huge-pages": (huge, ("--guest-memory", "1G")),
    "guest-memory": (narrow, ("--guest-memory", "1T")),
    "guest-memory-moved": (on_amd, ("--guest-memory", "1020G")),
}
#: Findings that depend on the user who runs doctor, or on the errno of an open: see test_a_node_that_cannot_be_opened.
NODES = {"not-owner": (1000, errno.EACCES), "access-module": (0, errno.EACCES), "device-cgroup": (0, errno.EPERM)}
#: Findings that only occur as errors of operations, so that doctor cannot look for them.
BY_ERRORS = {
    "no-room-for-virtual-functions",
    "no-virtual-functions",
    "virtual-functions-there",
    "group-held",
    "journal-full",
    "kept-bound",
    "mapping-limit",
    "no-raw-io",
    "not-root",
    "vf-token-unwanted",
    "vf-token-wrong",
}


def test_every_finding_is_reproduced() -> None:
    """A new finding of the catalogue has a place in one of the three: where doctor sees it, or where only an error tells it."""
    assert {*REPRODUCED, *NODES, *BY_ERRORS} == set(CATALOGUE)


@pytest.mark.parametrize("name", REPRODUCED)
def test_doctor_finds(pyvfio: Command, kernel: mock.Kernel, name: str) -> None:
    """Each finding, with its evidence and in the text too."""
    prepare, options = REPRODUCED[name]
    address = prepare(kernel)
    ran = pyvfio("doctor", *([address] if address else []), *options)
    assert f"[{name}]" in ran.out, ran
    said = pyvfio.json("doctor", *([address] if address else []), *options, code=ran.code)
    (one,) = (finding for finding in said["findings"] + said["hints"] if finding["id"] == name)
    assert one["evidence"]
    assert "pyvfio.host" not in ran.out
    assert said["usable"] == (ran.code == 0) == (not said["findings"] and not said["unknown"])
    while opened:
        opened.pop().close()


@pytest.mark.parametrize("name", NODES)
def test_a_node_that_cannot_be_opened(
    pyvfio: Command, kernel: mock.Kernel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    user, number = NODES[name]
    bound(kernel)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    kernel.failures.fail(number, call="open")
    assert [one["id"] for one in pyvfio.json("doctor", EDU, code=1)["findings"]] == [name]


def test_findings_come_in_the_order_to_deal_with_them(pyvfio: Command, kernel: mock.Kernel) -> None:
    blacklisted(kernel)
    no_iommu()(kernel)
    found = [one["id"] for one in pyvfio.json("doctor", EDU, code=1)["findings"]]
    assert found == ["vfio-missing", "iommu-off", "driver-missing", "module-blacklisted", "not-bound"]


def test_a_blacklist_of_the_command_line_is_found(pyvfio: Command, kernel: mock.Kernel) -> None:
    without_modules(kernel)
    text(kernel, "/proc/cmdline", "ro module_blacklist=nouveau,vfio_pci")
    assert "module_blacklist=nouveau,vfio_pci" in pyvfio("doctor", EDU).out


def test_the_host_is_examined_without_an_address(pyvfio: Command, kernel: mock.Kernel) -> None:
    without_modules(kernel)
    assert [one["id"] for one in pyvfio.json("doctor", code=1)["findings"]] == ["vfio-missing"]


def test_msi_switched_off_by_the_command_line_is_found(pyvfio: Command, kernel: mock.Kernel) -> None:
    address = command_line("pci=realloc,nomsi")(kernel)
    assert "/proc/cmdline has pci=realloc,nomsi" in pyvfio("doctor", str(address)).out


def test_ids_on_the_command_line_are_found(pyvfio: Command, kernel: mock.Kernel) -> None:
    text(kernel, "/proc/cmdline", "ro vfio-pci.ids=1b36:0010:1af4:1100\n")
    assert "/proc/cmdline has vfio-pci.ids=1b36:0010:1af4:1100" in pyvfio("doctor", NVME).out
    assert "ids-too-late" not in pyvfio("doctor", "0000:00:06.0").out


def test_an_override_to_a_driver_that_is_not_loaded_says_so(pyvfio: Command, kernel: mock.Kernel) -> None:
    kernel.write_file(f"{path_of(kernel, EDU)}/driver_override", b"vfio-gone\n")
    said = pyvfio.json("doctor", EDU, code=1)
    assert [one["id"] for one in said["findings"]] == ["not-bound"]
    (hint,) = said["hints"]
    assert "only vfio-gone can take it, and no such driver is loaded" in hint["reason"]


# States that look odd, and keep nothing from working


def passthrough(kernel: mock.Kernel) -> str:
    text(kernel, "/sys/kernel/iommu_groups/0/type", "identity\n")
    return str(command_line("iommu=pt iommu.passthrough=1 intel_iommu=on,sm_on")(kernel))


def lockdown(kernel: mock.Kernel) -> str:
    text(kernel, "/sys/kernel/security/lockdown", "none integrity [confidentiality]\n")
    return bound(kernel)


def no_autoprobe(kernel: mock.Kernel) -> str:
    text(kernel, "/sys/bus/pci/drivers_autoprobe", "0\n")
    text(kernel, f"{path_of(kernel, PF)}/sriov_drivers_autoprobe", "0\n")
    return bound(kernel, VF)


def resizable(kernel: mock.Kernel) -> str:
    text(kernel, f"{path_of(kernel, EDU)}/resource0_resize", "00000000000ff0\n")
    return bound(kernel)


def suspended(kernel: mock.Kernel) -> str:
    """Suspend the device, as vfio-pci does when it is not open."""
    text(kernel, f"{path_of(kernel, EDU)}/power/runtime_status", "suspended\n")
    return str(attribute("power_state", "D3hot\n")(kernel))


def other_ids(kernel: mock.Kernel) -> str:
    text(kernel, "/etc/modprobe.d/vfio.conf", "options vfio-pci ids=10de:1234\noptions kvm ids=1234:11e8\n")
    return bound(kernel)


def absent_bars(kernel: mock.Kernel) -> str:
    lines = ["0x00000000fea00000 0x00000000feafffff 0x0000000000040200", *["0x0 0x0 0x0"] * 12]
    return str(attribute("resource", "\n".join(lines) + "\n")(kernel))


def large_group(kernel: mock.Kernel) -> str:
    text(kernel, "/proc/self/cgroup", "1:name=systemd:/x\n0::/user.slice\n")
    text(kernel, "/sys/fs/cgroup/user.slice/memory.max", "max\n")
    return bound(kernel)


@pytest.mark.parametrize(
    "prepare", [passthrough, lockdown, no_autoprobe, resizable, suspended, other_ids, absent_bars, large_group]
)
def test_a_state_that_is_only_odd_has_no_finding(pyvfio: Command, kernel: mock.Kernel, prepare: Setup) -> None:
    said = pyvfio.json("doctor", str(prepare(kernel)), "--guest-memory", "1M")
    assert (said["findings"], said["hints"], said["unknown"]) == ([], [], [])


# States that are in no catalogue


def malformed_regions(kernel: mock.Kernel) -> str:
    text(kernel, "/sys/kernel/iommu_groups/0/reserved_regions", "garbage\n")
    return bound(kernel)


def new_region_type(kernel: mock.Kernel) -> str:
    text(kernel, "/sys/kernel/iommu_groups/0/reserved_regions", "0x0000000000000000 0x0000000000000fff secret\n")
    return bound(kernel)


def new_group_type(kernel: mock.Kernel) -> str:
    text(kernel, "/sys/kernel/iommu_groups/0/type", "quantum\n")
    return bound(kernel)


def no_nodes(kernel: mock.Kernel) -> str:
    bound(kernel)
    path = path_of(kernel, EDU)
    kernel.tree.remove(f"{path}/vfio-dev")
    kernel.tree.remove("/sys/class/vfio/0")
    return EDU


def strange_limit(kernel: mock.Kernel) -> str:
    text(kernel, "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "many\n")
    return bound(kernel)


UNKNOWN: dict[str, Setup] = {
    "power state is 'error'": attribute("power_state", "error\n"),
    "runtime power is 'error'": attribute("power/runtime_status", "error\n"),
    "group type is 'quantum'": new_group_type,
    "is of type 'secret'": new_region_type,
    "reserved_regions": malformed_regions,
    "neither a group node nor a device node": no_nodes,
    "dma_entry_limit is 'many'": strange_limit,
}


@pytest.mark.parametrize("says", UNKNOWN)
def test_what_is_not_recognised_is_unknown_with_its_evidence(pyvfio: Command, kernel: mock.Kernel, says: str) -> None:
    address = UNKNOWN[says](kernel)
    assert address is not None
    said = pyvfio.json("doctor", address, code=1)
    assert [line for line in said["unknown"] if says in line], said
    assert said["findings"] == []
    assert "unknown: " in pyvfio("doctor", address).out


def test_a_read_that_fails_is_unknown_and_the_rest_goes_on(
    pyvfio: Command, kernel: mock.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    attribute("reset_method", "")(kernel)
    read: Any = kernel.read_file

    def fail(path: str) -> bytes:
        if path.endswith("reserved_regions"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return bytes(read(path))

    monkeypatch.setattr(kernel, "read_file", fail)
    said = pyvfio.json("doctor", EDU, code=1)
    assert any("Input/output error" in line for line in said["unknown"])
    assert [one["id"] for one in said["hints"]] == ["no-reset"]
