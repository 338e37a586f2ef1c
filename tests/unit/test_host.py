# SPDX-License-Identifier: MIT
"""pyvfio.host with a sysfs that consists of files: its contents, and every change that can happen while it is read."""

from __future__ import annotations

import errno
import gc
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyvfio import host
from pyvfio._core.fd import Fd
from pyvfio.errors import BadReply, Closed, Error, Unsupported
from pyvfio.host.changes import Changes
from pyvfio.host.journal import Journal, JournalEntry
from pyvfio.host.nodes import find
from pyvfio.iova import IovaRange
from pyvfio.kernel import Kernel, LinuxKernel, SysfsDevice

EDU = "0000:00:03.0"
NVME = "0000:00:04.0"
PATH = "/sys/devices/pci0000:00/"


def _nothing(path: str) -> None:
    pass


class FakeHost(Kernel):
    """A machine in a directory. Its drivers bind and unbind as the kernel's do."""

    name = "fake"

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.writes: list[tuple[str, str]] = []
        self.before_read: Callable[[str], None] = _nothing
        self.before_list: Callable[[str], None] = _nothing
        self.before_write: Callable[[str], None] = _nothing
        self.failing: dict[str, int] = {}
        self.blocked: dict[str, threading.Event] = {}
        self.udev: list[SysfsDevice] = []
        self.udev_is_missing = False
        #: Devices that every driver refuses, and drivers that bind only devices with an override.
        self.refused: set[str] = set()
        self.by_override: set[str] = set()
        self.vfio_count = 0
        for directory in ("/sys/bus/pci/devices", "/sys/bus/platform/devices", "/sys/bus/mdev/devices", "/proc"):
            self.directory(directory)
        for driver in ("vfio-pci", "nvme", "pci-stub"):
            self.directory(f"/sys/bus/pci/drivers/{driver}")

    # Methods with which tests set up the machine.

    def directory(self, path: str) -> str:
        os.makedirs(self.root + path, exist_ok=True)
        return path

    def file(self, path: str, text: str) -> None:
        self.directory(os.path.dirname(path))
        Path(self.root + path).write_text(text)

    def link(self, path: str, target: str) -> None:
        self.directory(os.path.dirname(path))
        os.symlink(os.path.relpath(self.root + target, os.path.dirname(self.root + path)), self.root + path)

    def remove(self, path: str) -> None:
        if os.path.islink(self.root + path):
            os.unlink(self.root + path)
        else:
            shutil.rmtree(self.root + path)

    def add(self, bus: str, path: str, *, group: int | None, driver: str | None = None, **files: str) -> str:
        name = os.path.basename(path)
        self.directory(path)
        self.link(f"{path}/subsystem", f"/sys/bus/{bus}")
        self.link(f"/sys/bus/{bus}/devices/{name}", path)
        for file, text in files.items():
            self.file(f"{path}/{file}", text)
        if group is not None:
            root = self.directory(f"/sys/kernel/iommu_groups/{group}")
            self.link(f"{path}/iommu_group", root)
            self.link(f"{root}/devices/{name}", path)
            self.file(f"{root}/type", "DMA\n")
            self.file(f"{root}/reserved_regions", "0x00000000fee00000 0x00000000feefffff msi\n")
        if driver is not None:
            self.attach(bus, name, driver)
        return path

    def pci(self, address: str, *, group: int | None, driver: str | None = None, **files: str) -> str:
        given = {
            "vendor": "0x1234\n", "device": "0x11e8\n", "class": "0x00ff00\n",
            "driver_override": "(null)\n", "numa_node": "-1\n",
        } | files  # fmt: skip
        return self.add("pci", f"/sys/devices/pci0000:00/{address}", group=group, driver=driver, **given)

    def attach(self, bus: str, name: str, driver: str) -> None:
        path = self.realpath(f"/sys/bus/{bus}/devices/{name}")
        self.link(f"{path}/driver", self.directory(f"/sys/bus/{bus}/drivers/{driver}"))
        if "vfio" in driver:
            group = os.path.basename(self.readlink(f"{path}/iommu_group"))
            vfio = f"vfio{self.vfio_count}"
            self.vfio_count += 1
            self.file(f"{path}/vfio-dev/{vfio}/dev", "511:0\n")
            self.link(f"/sys/class/vfio-dev/{vfio}", f"{path}/vfio-dev/{vfio}")
            self.link(f"{path}/vfio-dev/{vfio}/device", path)
            self.directory(f"/sys/class/vfio/{group}")

    def detach(self, bus: str, name: str) -> None:
        path = self.realpath(f"/sys/bus/{bus}/devices/{name}")
        self.remove(f"{path}/driver")
        if os.path.exists(f"{self.root}{path}/vfio-dev"):
            for vfio in os.listdir(f"{self.root}{path}/vfio-dev"):
                self.remove(f"/sys/class/vfio-dev/{vfio}")
            self.remove(f"{path}/vfio-dev")

    def open_in(self, pid: int, number: int, target: str, fdinfo: str = "") -> None:
        self.file(f"/proc/{pid}/comm", "qemu\n")
        self.directory(f"/proc/{pid}/fd")
        os.symlink(target, f"{self.root}/proc/{pid}/fd/{number}")
        self.file(f"/proc/{pid}/fdinfo/{number}", fdinfo)

    def override(self, address: str) -> str:
        return Path(f"{self.root}/sys/bus/pci/devices/{address}/driver_override").read_text()

    # Methods that pyvfio calls.

    def exists(self, path: str) -> bool:
        return os.path.exists(self.root + path)

    def listdir(self, path: str) -> list[str]:
        self.before_list(path)
        return os.listdir(self.root + path)

    def readlink(self, path: str) -> str:
        self.before_read(path)
        return os.readlink(self.root + path)

    def realpath(self, path: str) -> str:
        real = os.path.realpath(self.root + path)
        return real.removeprefix(os.path.realpath(self.root))

    def read_file(self, path: str) -> bytes:
        self.before_read(path)
        return Path(self.root + path).read_bytes()

    def write_file(self, path: str, data: bytes) -> None:
        text = data.decode()
        self.before_write(path)
        if path in self.blocked:
            self.blocked[path].wait(60)
        if path in self.failing:
            raise OSError(self.failing[path], os.strerror(self.failing[path]), path)
        if not os.path.isdir(os.path.dirname(self.root + path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.writes.append((path, text))
        parts = path.split("/")
        if parts[-1] == "unbind":
            self.detach(parts[3], text)
        elif parts[-1] == "bind":
            override = self.override(text).strip()
            if text in self.refused and override in (parts[5], "(null)"):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            if override not in ("", "(null)", parts[5]) or (parts[5] in self.by_override and override != parts[5]):
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), path)
            self.attach(parts[3], text, parts[5])
        elif parts[-1] == "driver_override":
            Path(self.root + path).write_text(text if text.strip() else "(null)\n")
        else:
            Path(self.root + path).write_bytes(data)

    def create(self, path: str) -> int:
        return super().create(self.root + path)

    def is_at(self, fd: int, path: str) -> bool:
        return super().is_at(fd, self.root + path)

    def unlink(self, path: str) -> None:
        super().unlink(self.root + path)

    def udev_devices(self, **match: str) -> Iterator[SysfsDevice]:
        if self.udev_is_missing:
            raise ImportError("No library named udev")
        return iter([one for one in self.udev if one.subsystem == match["subsystem"]])


@pytest.fixture
def machine(tmp_path: Path) -> FakeHost:
    machine = FakeHost(tmp_path)
    machine.pci(EDU, group=1)
    machine.pci(NVME, group=2, driver="nvme", vendor="0x1b36\n", device="0x0010\n", numa_node="1\n")
    machine.pci("0000:00:08.0", group=3, **{"class": "0x060400\n"})
    return machine


def bindings_written(machine: FakeHost) -> list[str]:
    return [path.rpartition("/")[2] for path, _ in machine.writes]


class TestDiscovery:
    def test_every_pci_function_but_bridges_is_listed_in_order(self, machine: FakeHost) -> None:
        assert [one.address for one in host.devices(machine)] == [EDU, NVME]

    def test_a_device_shows_its_ids_driver_group_and_node(self, machine: FakeHost) -> None:
        nvme = host.device(NVME, machine)
        assert (nvme.bus, nvme.vendor, nvme.device, nvme.class_code) == ("pci", 0x1B36, 0x10, 0xFF00)
        assert (nvme.driver, nvme.group, nvme.numa_node, nvme.path) == ("nvme", 2, 1, PATH + NVME)
        assert (nvme.vfio, nvme.cdev, nvme.group_path, nvme.driver_override) == (None, None, None, None)

    @pytest.mark.parametrize("text", ["", "08", "0x", "9" * 5000, "x"])
    def test_malformed_attribute_hides_no_other_device(self, machine: FakeHost, text: str) -> None:
        machine.file(f"{PATH}{NVME}/vendor", text)
        with pytest.warns(RuntimeWarning, match=f"{PATH}{NVME}/vendor is not a number"):
            assert [one.address for one in host.devices(machine)] == [EDU]
        with pytest.raises(BadReply, match=f"{PATH}{NVME}/vendor is not a number"):
            host.device(NVME, machine)

    def test_a_numa_node_of_minus_one_is_none(self, machine: FakeHost) -> None:
        assert host.device(EDU, machine).numa_node is None

    def test_a_device_that_vfio_serves_shows_its_nodes(self, machine: FakeHost) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        edu = host.device(EDU, machine)
        assert (edu.vfio, edu.cdev, edu.group_path) == ("vfio0", "/dev/vfio/devices/vfio0", "/dev/vfio/1")
        assert not edu.no_iommu
        assert edu.advice is None

    def test_find_reads_the_nodes_of_the_device_only(self, machine: FakeHost) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        edu = host.device(EDU, machine)
        read: list[str] = []
        machine.before_read = machine.before_list = read.append
        assert find(EDU, machine)._asdict().items() <= edu._asdict().items()
        assert read == [f"/sys/bus/pci/devices/{EDU}", f"{PATH}{EDU}/iommu_group", f"{PATH}{EDU}/vfio-dev"]

    def test_a_kernel_without_device_nodes_shows_no_cdev(self, machine: FakeHost) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        os.unlink(f"{machine.root}{PATH}{EDU}/vfio-dev/vfio0/dev")
        edu = host.device(EDU, machine)
        assert (edu.vfio, edu.cdev) == ("vfio0", None)

    def test_the_pci_domain_and_the_case_of_digits_may_be_left_open(self, machine: FakeHost) -> None:
        machine.pci("0000:0a:00.0", group=7)
        assert host.device("00:03.0", machine).address == EDU
        assert host.device("0A:00.0", machine).address == "0000:0a:00.0"

    @pytest.mark.parametrize("name", ["", ".", "..", "../0000:00:03.0", "a/b", "a\nb", "a\0b", " a", "x" * 256])
    def test_a_text_that_is_no_name_never_reaches_the_file_system(self, machine: FakeHost, name: str) -> None:
        machine.before_read = lambda path: pytest.fail(f"read {path}")
        with pytest.raises(ValueError, match="is not a valid device name"):
            host.device(name, machine)

    def test_an_absent_device_is_enodev_and_says_which_there_are(self, machine: FakeHost) -> None:
        with pytest.raises(OSError, match=rf"no device 0000:00:1f\.0.*{EDU}, {NVME}") as caught:
            host.device("00:1f.0", machine)
        assert caught.value.errno == errno.ENODEV

    def test_emulated_devices_are_not_taken_for_no_iommu_mode(self, machine: FakeHost) -> None:
        path = machine.add("platform", "/sys/devices/platform/vfio-mock.0", group=9)
        machine.attach("platform", "vfio-mock.0", "vfio-mock")
        machine.file("/sys/kernel/iommu_groups/9/name", "vfio-noiommu\n")
        machine.file("/sys/kernel/iommu_groups/9/type", "unknown\n")
        machine.file("/sys/kernel/iommu_groups/9/reserved_regions", "")
        mock = host.devices(machine)[-1]
        assert (mock.address, mock.bus, mock.path) == ("vfio-mock.0", "platform", path)
        assert (mock.group, mock.group_path, mock.no_iommu) == (9, "/dev/vfio/9", False)
        assert host.device("vfio-mock.0", machine) == mock
        group = host.group(9, machine)
        assert (group.name, group.type, group.reserved_regions) == ("vfio-noiommu", None, ())

    def test_no_iommu_mode_is_told_by_the_nodes(self, machine: FakeHost) -> None:
        machine.pci("0000:00:07.0", group=10)
        machine.directory("/sys/class/vfio/noiommu-10")
        machine.file(f"{PATH}0000:00:07.0/vfio-dev/noiommu-vfio4/dev", "511:4\n")
        found = host.device("0000:00:07.0", machine)
        assert (found.group_path, found.no_iommu) == ("/dev/vfio/noiommu-10", True)
        assert found.cdev == "/dev/vfio/devices/noiommu-vfio4"

    def test_a_platform_device_is_listed_only_if_vfio_could_serve_it(self, machine: FakeHost) -> None:
        machine.add("platform", "/sys/devices/platform/serial8250", group=None)
        machine.add("platform", "/sys/devices/platform/fe801000.dma", group=12)
        assert [one.address for one in host.devices(machine) if one.bus == "platform"] == ["fe801000.dma"]

    def test_a_mediated_device_is_found_by_its_uuid_in_any_case(self, machine: FakeHost) -> None:
        uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
        machine.add("mdev", f"/sys/devices/virtual/mtty/mtty/{uuid}", group=13)
        machine.attach("mdev", uuid, "vfio_mdev")
        assert host.device(uuid.upper(), machine).bus == "mdev"
        assert uuid in [one.address for one in host.devices(machine)]

    def test_of_two_devices_of_one_name_vfios_is_meant(self, machine: FakeHost) -> None:
        machine.add("acpi", "/sys/devices/acpi/twin.0", group=None)
        machine.add("platform", "/sys/devices/platform/twin.0", group=14)
        machine.directory("/sys/bus/serial/devices")
        machine.add("serial", "/sys/devices/serial/twin.0", group=None)
        assert host.device("twin.0", machine).bus == "platform"

    def test_without_an_iommu_the_devices_are_there_in_no_group(self, tmp_path: Path) -> None:
        machine = FakeHost(tmp_path)
        machine.pci(EDU, group=None)
        (edu,) = host.devices(machine)
        assert edu.group is None
        assert "is in no IOMMU group" in str(edu.advice)

    def test_virtual_functions_are_shown_in_numeric_order(self, machine: FakeHost) -> None:
        physical = machine.pci("0000:00:06.0", group=20, sriov_totalvfs="16\n")
        for index in (10, 2, 0):
            virtual = machine.pci(f"0000:00:1{index:x}.0", group=30 + index)
            machine.link(f"{virtual}/physfn", physical)
            machine.link(f"{physical}/virtfn{index}", virtual)
        found = host.device("0000:00:06.0", machine)
        assert found.virtual_functions == ("0000:00:10.0", "0000:00:12.0", "0000:00:1a.0")
        assert found.total_vfs == 16
        assert host.device("0000:00:12.0", machine).physical_function == "0000:00:06.0"

    def test_names_come_from_udevs_database(self, machine: FakeHost) -> None:
        properties = {
            "ID_VENDOR_FROM_DATABASE": "Red Hat",
            "ID_MODEL_FROM_DATABASE": "NVMe",
            "ID_PCI_CLASS_FROM_DATABASE": "Mass storage",
        }
        machine.udev = [SysfsDevice("pci", NVME, PATH + NVME, properties)]
        edu, nvme = host.devices(machine)
        assert (nvme.vendor_name, nvme.device_name, nvme.class_name) == ("Red Hat", "NVMe", "Mass storage")
        assert edu.vendor_name is None

    def test_a_host_without_libudev_has_devices_without_names(self, machine: FakeHost) -> None:
        machine.udev_is_missing = True
        assert [one.device_name for one in host.devices(machine)] == [None, None]

    @pytest.mark.parametrize("at", ["vendor", "class", "iommu_group", "driver", "driver_override", "numa_node"])
    def test_a_device_that_goes_away_while_it_is_read_is_left_out(self, machine: FakeHost, at: str) -> None:
        def unplug(path: str) -> None:
            if path == f"{PATH}{NVME}/{at}":
                machine.before_read = _nothing
                machine.remove(PATH + NVME)

        machine.before_read = unplug
        assert [one.address for one in host.devices(machine)] == [EDU]

    def test_a_device_that_answers_enodev_is_left_out(self, machine: FakeHost) -> None:
        def unplug(path: str) -> None:
            if path.startswith(PATH + NVME):
                if os.path.lexists(machine.root + PATH + NVME):
                    machine.remove(PATH + NVME)
                raise OSError(errno.ENODEV, "No such device")

        machine.before_read = unplug
        assert [one.address for one in host.devices(machine)] == [EDU]

    def test_a_read_that_fails_for_another_reason_is_an_error(self, machine: FakeHost) -> None:
        def refuse(path: str) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", path)

        machine.before_read = refuse
        with pytest.raises(PermissionError):
            host.device(EDU, machine)


class TestGroups:
    def test_a_groups_members_are_shown_with_their_drivers(self, machine: FakeHost) -> None:
        machine.pci("0000:00:04.1", group=2)
        assert host.group_members(2, machine) == {NVME: "nvme", "0000:00:04.1": None}
        assert host.group_members("0000:00:04.1", machine) == host.group_members(2, machine)

    def test_only_foreign_drivers_are_in_the_way(self, machine: FakeHost) -> None:
        machine.pci("0000:00:04.1", group=2, driver="vfio-pci")
        machine.pci("0000:00:04.2", group=2, driver="pcieport")
        machine.pci("0000:00:04.3", group=2)
        assert host.group(2, machine).in_the_way == {NVME: "nvme"}

    def test_reserved_regions_are_read_with_their_types(self, machine: FakeHost) -> None:
        machine.file(
            "/sys/kernel/iommu_groups/1/reserved_regions",
            "0x00000000fee00000 0x00000000feefffff msi\n"
            "0x000000fd00000000 0x000000ffffffffff reserved\n"
            "0x0000000000000000 0x0000000000ffffff direct-relaxable\n",
        )
        assert host.reserved_regions(EDU, machine) == [
            (IovaRange(0, 0xFFFFFF), "direct-relaxable"),
            (IovaRange(0xFEE00000, 0xFEEFFFFF), "msi"),
            (IovaRange(0xFD00000000, 0xFFFFFFFFFF), "reserved"),
        ]
        assert host.reserved_regions(1, machine) == host.reserved_regions(EDU, machine)

    @pytest.mark.parametrize("line", ["0x1000", "0x1000 0xfff msi", "zero one msi"])
    def test_a_region_that_is_none_is_a_bad_reply(self, machine: FakeHost, line: str) -> None:
        machine.file("/sys/kernel/iommu_groups/1/reserved_regions", line + "\n")
        with pytest.raises(BadReply, match="reserved_regions"):
            host.reserved_regions(1, machine)

    def test_groups_are_listed_by_number(self, machine: FakeHost) -> None:
        machine.pci("0000:00:09.0", group=10)
        assert [group.number for group in host.groups(machine)] == [1, 2, 3, 10]

    def test_an_absent_group_and_a_device_in_none_are_enodev(self, machine: FakeHost) -> None:
        machine.pci("0000:00:0a.0", group=None)
        for where in (99, "0000:00:0a.0"):
            with pytest.raises(OSError, match="no IOMMU group") as caught:
                host.reserved_regions(where, machine)
            assert caught.value.errno == errno.ENODEV

    def test_device_left_out_by_the_iommus_is_told_from_no_iommu(self, machine: FakeHost) -> None:
        machine.pci("0000:00:0a.0", group=None)
        with pytest.raises(OSError, match="the IOMMU is off or absent"):
            host.group_members("0000:00:0a.0", machine)
        machine.directory("/sys/class/iommu/dmar0")
        with pytest.raises(OSError, match=r"no IOMMU of the host \(dmar0\)"):
            host.group_members("0000:00:0a.0", machine)


@pytest.mark.parametrize("number", [1.5, None, True, b"1"])
def test_a_groups_number_is_an_integer(machine: FakeHost, number: Any) -> None:
    for ask in (host.group, host.reserved_regions, host.group_members):
        with pytest.raises(TypeError, match=r"^(number|where) must be an integer, not "):
            ask(number, machine)
    with pytest.raises(ValueError, match=r"^number must be at least 0, not -1"):
        host.group(-1, machine)
    assert host.group(np.uint8(1), machine).members == {EDU: None}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda machine: host.device("0000:00:1f.0", machine), OSError),
        (lambda machine: host.group(77, machine), OSError),
        (lambda machine: host.bind(NVME, "no-such", kernel=machine), FileNotFoundError),
        (lambda machine: host.bind("0000:00:08.0", "vfio-pci", kernel=machine), OSError),
        (lambda machine: host.create_vfs(EDU, 1, kernel=machine), Unsupported),
    ],
)
def test_errors_of_the_host_are_the_packages_too(
    machine: FakeHost, call: Callable[[FakeHost], object], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        call(machine)
    assert isinstance(caught.value, Error)
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, kind)
    assert isinstance(again, Error)
    assert str(again) == str(caught.value)


@pytest.mark.parametrize("where", [None, 5, b"0000:00:03.0", 1.5])
def test_a_devices_name_is_a_str(machine: FakeHost, where: Any) -> None:
    for ask in (host.device, host.holders_of):
        with pytest.raises(TypeError, match=r"^where must be a str, not "):
            ask(where, machine)


class TestBind:
    def test_a_driver_is_replaced_and_comes_back(self, machine: FakeHost) -> None:
        with host.bind(NVME, "vfio-pci", kernel=machine) as bound:
            assert bound.device == host.device(NVME, machine)
            assert (bound.device.driver, bound.device.driver_override, bound.device.cdev) == (
                "vfio-pci", "vfio-pci", "/dev/vfio/devices/vfio0",
            )  # fmt: skip
        assert host.device(NVME, machine).driver == "nvme"
        assert machine.override(NVME) == "(null)\n"

    def test_no_other_driver_can_slip_in_between(self, machine: FakeHost) -> None:
        with host.bind(NVME, "vfio-pci", kernel=machine):
            pass
        assert bindings_written(machine) == ["driver_override", "unbind", "bind", "unbind", "driver_override", "bind"]

    def test_an_unbound_device_is_unbound_again(self, machine: FakeHost) -> None:
        with host.bind(EDU, "vfio-pci", kernel=machine):
            pass
        assert host.device(EDU, machine).driver is None
        assert machine.override(EDU) == "(null)\n"

    def test_a_previous_override_comes_back(self, machine: FakeHost) -> None:
        machine.write_file(f"{PATH}{NVME}/driver_override", b"nvme\n")
        with host.bind(NVME, "vfio-pci", kernel=machine):
            assert machine.override(NVME) == "vfio-pci\n"
        assert machine.override(NVME) == "nvme\n"
        assert host.device(NVME, machine).driver == "nvme"

    def test_an_exception_passes_and_the_driver_comes_back(self, machine: FakeHost) -> None:
        with pytest.raises(KeyError), host.bind(NVME, "vfio-pci", kernel=machine):
            raise KeyError("body")
        assert host.device(NVME, machine).driver == "nvme"

    def test_a_failing_restore_is_a_note_on_the_bodys_exception(self, machine: FakeHost) -> None:
        with pytest.raises(KeyError) as caught, host.bind(NVME, "vfio-pci", kernel=machine):  # noqa: PT012
            machine.failing["/sys/bus/pci/drivers/nvme/bind"] = errno.EIO
            raise KeyError("body")
        (note,) = caught.value.__notes__
        assert NVME in note
        assert "Input/output error" in note

    def test_a_failing_restore_is_the_error_when_there_is_no_other(self, machine: FakeHost) -> None:
        machine.failing["/sys/bus/pci/drivers/nvme/bind"] = errno.EIO
        with (
            pytest.raises(OSError, match=f"binding {NVME} to nvme: Input/output error") as caught,
            host.bind(NVME, "vfio-pci", kernel=machine),
        ):
            pass
        assert caught.value.errno == errno.EIO
        machine.failing.clear()
        assert host.restore(kernel=machine) == [NVME]
        assert host.device(NVME, machine).driver == "nvme"

    def test_a_driver_that_refuses_leaves_all_as_it_was(self, machine: FakeHost) -> None:
        machine.failing["/sys/bus/pci/drivers/vfio-pci/bind"] = errno.EINVAL
        with (
            pytest.raises(OSError, match=f"binding {NVME} to vfio-pci: Invalid argument") as caught,
            host.bind(NVME, "vfio-pci", kernel=machine),
        ):
            pytest.fail("bound")
        assert caught.value.errno == errno.EINVAL
        assert host.device(NVME, machine).driver == "nvme"
        assert machine.override(NVME) == "(null)\n"
        assert host.bindings(machine) == []

    def test_the_driver_it_has_already_is_left_alone(self, machine: FakeHost) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        with host.bind(EDU, "vfio-pci", kernel=machine) as bound:
            assert bound.device.driver == "vfio-pci"
        assert machine.writes == []

    def test_an_unplugged_device_ends_the_binding_in_peace(self, machine: FakeHost) -> None:
        with host.bind(NVME, "vfio-pci", kernel=machine):
            machine.remove(f"/sys/bus/pci/devices/{NVME}")
            machine.remove(PATH + NVME)
        assert host.bindings(machine) == []

    def test_an_absent_driver_says_what_to_load(self, machine: FakeHost) -> None:
        with (
            pytest.raises(FileNotFoundError, match="modprobe mlx5_vfio_pci"),
            host.bind(EDU, "mlx5_vfio_pci", kernel=machine),
        ):
            pass

    @pytest.mark.parametrize("driver", ["", "../nvme", "vfio/pci", "a\nb", ".x"])
    def test_a_text_that_is_no_drivers_name_is_refused(self, machine: FakeHost, driver: str) -> None:
        with (
            pytest.raises(ValueError, match="is not a valid driver name"),
            host.bind(EDU, driver, kernel=machine),
        ):
            pass
        assert machine.writes == []

    def test_a_device_in_no_group_is_refused_before_it_is_touched(self, machine: FakeHost) -> None:
        machine.pci("0000:00:0a.0", group=None, driver="nvme")
        with (
            pytest.raises(OSError, match="in no IOMMU group") as caught,
            host.bind("0000:00:0a.0", "vfio-pci", kernel=machine),
        ):
            pass
        assert caught.value.errno == errno.ENODEV
        assert machine.writes == []

    def test_a_bridge_is_refused_before_it_is_touched(self, machine: FakeHost) -> None:
        with pytest.raises(OSError, match="is a bridge"), host.bind("0000:00:08.0", "vfio-pci", kernel=machine):
            pass
        assert machine.writes == []

    def test_a_native_driver_gets_only_what_it_takes_by_itself(self, machine: FakeHost) -> None:
        machine.write_file(f"{PATH}{EDU}/driver_override", b"vfio-pci\n")
        with host.bind(EDU, "nvme", kernel=machine) as bound:
            assert (bound.device.driver, bound.device.driver_override) == ("nvme", None)
        assert machine.override(EDU) == "vfio-pci\n"

    def test_a_bus_whose_devices_choose_for_themselves_is_refused(self, machine: FakeHost) -> None:
        machine.add("mdev", "/sys/devices/virtual/mtty/a", group=13)
        with pytest.raises(OSError, match="no driver_override") as caught, host.bind("a", "x", kernel=machine):
            pass
        assert caught.value.errno == errno.EOPNOTSUPP

    @pytest.mark.parametrize(
        ("number", "text"), [(errno.EACCES, "takes root: no"), (errno.EPERM, "the journal is not safe: .*: no")]
    )
    def test_without_root_the_error_says_so(self, machine: FakeHost, number: int, text: str) -> None:
        def refuse(path: str) -> int:
            raise PermissionError(number, "no", path)

        machine.create = refuse  # type: ignore[method-assign]
        with pytest.raises(PermissionError, match=text) as caught:
            host.bind(EDU, "vfio-pci", kernel=machine)
        assert caught.value.errno == number


class TestOpenDevices:
    def test_a_device_open_in_this_process_is_not_unbound(self, machine: FakeHost) -> None:
        with (
            pytest.raises(OSError, match="still open in this process, descriptor 7; close it") as caught,
            host.bind(NVME, "vfio-pci", kernel=machine) as bound,
        ):
            machine.open_in(
                os.getpid(), 7, "anon_inode:[vfio-device]", f"pos:\t0\nvfio-device-syspath: {bound.device.path}\n"
            )
        assert caught.value.errno == errno.EBUSY
        assert host.device(NVME, machine).driver == "vfio-pci"
        machine.remove(f"/proc/{os.getpid()}")
        assert host.restore(kernel=machine) == [NVME]

    def test_device_open_elsewhere_is_left_to_restore(self, machine: FakeHost) -> None:
        unbind = "/sys/bus/pci/drivers/vfio-pci/unbind"
        closed = machine.blocked[unbind] = threading.Event()
        with (
            pytest.raises(TimeoutError, match=r"after 2 s, it is open in process 77 \(qemu\), descriptor 5"),
            host.bind(NVME, "vfio-pci", timeout=2, kernel=machine) as bound,
        ):
            machine.open_in(77, 5, str(bound.device.cdev))
        closed.set()
        for thread in threading.enumerate():
            if unbind in thread.name:
                thread.join()
        machine.remove("/proc/77")
        assert host.restore(kernel=machine) == [NVME]
        assert host.device(NVME, machine).driver == "nvme"

    def test_bind_does_not_write_while_an_unbinding_waits(self, machine: FakeHost) -> None:
        machine.open_in(77, 5, "anon_inode:[vfio-device]", f"vfio-device-syspath: {PATH}{EDU}\n")
        with pytest.raises(OSError, match="open in process 77") as caught, host.bind(EDU, "vfio-pci", kernel=machine):
            pass
        assert caught.value.errno == errno.EBUSY
        assert machine.writes == []

    def test_restore_does_not_write_while_an_unbinding_waits(self, machine: FakeHost) -> None:
        with pytest.raises(KeyError), host.bind(NVME, "vfio-pci", kernel=machine):  # noqa: PT012
            machine.failing["/sys/bus/pci/drivers/vfio-pci/unbind"] = errno.EIO
            raise KeyError
        # While an unbinding waits, the kernel shows the device without a driver and without nodes.
        machine.detach("pci", NVME)
        machine.open_in(77, 5, "/dev/vfio/devices/vfio0 (deleted)", f"vfio-device-syspath: {PATH}{NVME}\n")
        machine.writes.clear()
        with pytest.raises(OSError, match="still being unbound from a VFIO driver: it is open in process 77"):
            host.restore(kernel=machine)
        assert machine.writes == []
        machine.remove("/proc/77")
        assert host.restore(kernel=machine) == [NVME]
        assert host.device(NVME, machine).driver == "nvme"

    def test_override_is_not_read_while_an_unbinding_waits(self, machine: FakeHost) -> None:
        # On Linux 6.1 and 6.12, reading driver_override would wait too, uninterruptibly.
        machine.attach("pci", EDU, "vfio-pci")
        machine.detach("pci", EDU)
        machine.write_file(f"{PATH}{EDU}/driver_override", b"vfio-pci\n")
        assert host.device(EDU, machine).driver_override == "vfio-pci"
        for target in ("/dev/vfio/devices/vfio0 (deleted)", "anon_inode:[vfio-device]"):
            machine.open_in(77, 5, target)
            machine.open_in(77, 6, "/dev/vfio/1")
            read: list[str] = []
            machine.before_read = read.append
            assert host.device(EDU, machine).driver_override is None
            assert f"{PATH}{EDU}/driver_override" not in read
            machine.remove("/proc/77")

    def test_unreadable_process_may_hold_up_an_unbinding(self, machine: FakeHost) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        machine.detach("pci", EDU)
        machine.write_file(f"{PATH}{EDU}/driver_override", b"vfio-pci\n")
        machine.directory("/proc/77/fd")

        def refuse(path: str) -> None:
            if path.startswith("/proc/77"):
                raise PermissionError(errno.EACCES, "Permission denied", path)

        machine.before_list = refuse
        assert host.device(EDU, machine).driver_override is None
        # A process that changes its user during the search shows its descriptors, but then not the files behind them.
        machine.open_in(88, 4, "anon_inode:[vfio-device]")

        def refuse_fdinfo(path: str) -> None:
            if path.startswith(("/proc/77", "/proc/88/fdinfo")):
                raise PermissionError(errno.EACCES, "Permission denied", path)

        machine.before_read = refuse_fdinfo
        assert host.device(EDU, machine).driver_override is None
        assert host.holders_of(EDU, machine) == []
        machine.before_read = _nothing
        machine.remove("/proc/88")
        assert host.device(NVME, machine).driver == "nvme"
        assert host.holders_of(EDU, machine) == []

    def test_holders_are_told_by_node_by_fdinfo_or_by_group(self, machine: FakeHost) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        machine.open_in(1, 3, "/dev/vfio/devices/vfio0 (deleted)")
        machine.open_in(2, 4, "anon_inode:[vfio-device]", f"vfio-device-syspath: {PATH}{EDU}\n")
        machine.open_in(3, 5, "anon_inode:[vfio-device]")
        machine.open_in(3, 6, "/dev/vfio/1")
        assert [(one.pid, one.descriptor) for one in host.holders_of(EDU, machine)] == [(1, 3), (2, 4), (3, 5)]

    def test_own_devices_are_known_without_fdinfo(self, machine: FakeHost) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        number = os.memfd_create("device")
        machine.open_in(os.getpid(), number + 1, "/dev/vfio/1")
        machine.open_in(os.getpid(), number, "anon_inode:[vfio-device]")
        assert [one.descriptor for one in host.holders_of(EDU, machine)] == [number]
        own = Fd(LinuxKernel(), number, "device", f"{NVME} vf_token=00112233-4455-6677-8899-aabbccddeeff")
        assert host.holders_of(EDU, machine) == []
        assert [one.descriptor for one in host.holders_of(NVME, machine)] == [number]
        own.close()

    def test_others_devices_and_a_group_alone_hold_nothing(self, machine: FakeHost) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        machine.open_in(1, 3, "/dev/vfio/devices/vfio1")
        machine.open_in(2, 4, "anon_inode:[vfio-device]", f"vfio-device-syspath: {PATH}{NVME}\n")
        machine.open_in(3, 6, "/dev/vfio/1")
        machine.open_in(4, 0, "/dev/null")
        machine.open_in(5, 7, "anon_inode:[vfio-device]")
        machine.open_in(5, 8, "/dev/vfio/2")
        assert host.holders_of(EDU, machine) == []


class TestJournal:
    @pytest.fixture
    def killed(self, machine: FakeHost) -> host.JournalEntry:
        """Return the journal entry that a program leaves if it is killed while the nvme is bound."""
        context = host.bind(NVME, "vfio-pci", kernel=machine)
        context.__enter__()
        (left,) = host.bindings(machine)
        path = f"{machine.root}/run/pyvfio/pci:{NVME}"
        content = Path(path).read_bytes()
        context.__exit__(None, None, None)
        Path(path).write_bytes(content)
        machine.writes.clear()
        return left

    @pytest.fixture
    def killed_bound(self, machine: FakeHost, killed: host.JournalEntry) -> host.JournalEntry:
        machine.detach("pci", NVME)
        machine.write_file(f"{PATH}{NVME}/driver_override", b"vfio-pci\n")
        machine.attach("pci", NVME, "vfio-pci")
        return killed

    def test_a_binding_is_written_down_while_it_lasts(self, machine: FakeHost) -> None:
        with host.bind(NVME, "vfio-pci", kernel=machine):
            (one,) = host.bindings(machine)
            assert one == host.JournalEntry("pci", NVME, "vfio-pci", "nvme", None, os.getpid())
        assert host.bindings(machine) == []

    def test_what_a_killed_program_left_is_restored(self, machine: FakeHost, killed_bound: host.JournalEntry) -> None:
        assert host.restore(kernel=machine) == [NVME]
        assert host.device(NVME, machine).driver == "nvme"
        assert machine.override(NVME) == "(null)\n"
        assert host.bindings(machine) == []
        assert host.restore(kernel=machine) == []

    @pytest.mark.parametrize("address", [NVME, "00:04.0"])
    def test_restore_can_be_told_which(self, machine: FakeHost, killed_bound: host.JournalEntry, address: str) -> None:
        assert host.restore(EDU, kernel=machine) == []
        assert host.restore(address, kernel=machine) == [NVME]

    def test_a_program_killed_between_the_drivers_is_restored(
        self, machine: FakeHost, killed: host.JournalEntry
    ) -> None:
        machine.detach("pci", NVME)
        assert host.restore(kernel=machine) == [NVME]
        assert host.device(NVME, machine).driver == "nvme"

    def test_restore_after_a_kill_before_any_change_writes_nothing(
        self, machine: FakeHost, killed: host.JournalEntry
    ) -> None:
        host.restore(kernel=machine)
        assert machine.writes == []
        assert host.bindings(machine) == []

    def test_next_bind_restores_what_was_before_the_killed_one(
        self, machine: FakeHost, killed_bound: host.JournalEntry
    ) -> None:
        with host.bind(NVME, "pci-stub", kernel=machine):
            assert host.device(NVME, machine).driver == "pci-stub"
        assert host.device(NVME, machine).driver == "nvme"

    def test_what_somebody_has_changed_since_is_left_alone(
        self, machine: FakeHost, killed_bound: host.JournalEntry
    ) -> None:
        machine.detach("pci", NVME)
        machine.write_file(f"{PATH}{NVME}/driver_override", b"\n")
        machine.attach("pci", NVME, "pci-stub")
        assert host.restore(kernel=machine) == []
        assert host.device(NVME, machine).driver == "pci-stub"
        assert host.bindings(machine) == []

    def test_a_device_that_is_gone_is_forgotten(self, machine: FakeHost, killed_bound: host.JournalEntry) -> None:
        machine.remove(f"/sys/bus/pci/devices/{NVME}")
        machine.remove(PATH + NVME)
        assert host.restore(kernel=machine) == []
        assert host.bindings(machine) == []

    def test_a_second_binding_of_one_device_is_refused(self, machine: FakeHost) -> None:
        with host.bind(NVME, "vfio-pci", kernel=machine):
            with (
                pytest.raises(OSError, match="being kept bound by this process") as caught,
                host.bind(NVME, "pci-stub", kernel=machine),
            ):
                pass
            assert caught.value.errno == errno.EBUSY
            assert host.device(NVME, machine).driver == "vfio-pci"
        assert host.device(NVME, machine).driver == "nvme"

    def test_restore_leaves_a_running_programs_binding_alone(self, machine: FakeHost) -> None:
        with host.bind(NVME, "vfio-pci", kernel=machine):
            assert host.restore(kernel=machine) == []
            assert host.device(NVME, machine).driver == "vfio-pci"

    def test_one_failure_does_not_keep_restore_from_the_others(
        self, machine: FakeHost, killed_bound: host.JournalEntry
    ) -> None:
        with pytest.raises(KeyError), host.bind(EDU, "vfio-pci", kernel=machine):  # noqa: PT012
            machine.failing["/sys/bus/pci/drivers/vfio-pci/unbind"] = errno.EIO
            raise KeyError
        with pytest.raises(OSError, match="Input/output error") as caught:
            host.restore(kernel=machine)
        assert len(caught.value.__notes__) == 1
        machine.failing.clear()
        assert sorted(host.restore(kernel=machine)) == [EDU, NVME]

    def test_half_a_line_is_no_entry(self, machine: FakeHost) -> None:
        machine.file(f"/run/pyvfio/pci:{NVME}", '{"bus": "pci", "addr')
        assert host.bindings(machine) == []
        with host.bind(NVME, "vfio-pci", kernel=machine):
            pass
        assert host.device(NVME, machine).driver == "nvme"

    def test_names_in_the_journal_are_checked_too(self, machine: FakeHost) -> None:
        machine.file(
            f"/run/pyvfio/pci:{NVME}",
            '{"bus": "pci", "address": "0000:00:04.0", "driver": "../x", "previous_driver": null,'
            ' "previous_override": null, "pid": 1}\n',
        )
        with pytest.raises(BadReply, match=rf"/run/pyvfio/pci:{NVME} is damaged .*'\.\./x' is not a valid driver name"):
            host.restore(kernel=machine)

    def test_a_forked_child_puts_nothing_back(self, machine: FakeHost) -> None:
        context = host.bind(NVME, "vfio-pci", kernel=machine)
        context.__enter__()
        child = os.fork()
        if child == 0:
            try:
                context.__exit__(None, None, None)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert host.device(NVME, machine).driver == "vfio-pci"
        # The end of the child did not release the lock either.
        assert host.restore(kernel=machine) == []
        context.__exit__(None, None, None)
        assert host.device(NVME, machine).driver == "nvme"


class TestFoundations:
    @pytest.fixture
    def rooted(self, machine: FakeHost) -> FakeHost:
        """The machine with the root file system on a partition of the nvme."""
        disk = f"{PATH}{NVME}/nvme/nvme0/nvme0n1"
        machine.file(f"{disk}/nvme0n1p2/partition", "2\n")
        machine.link("/sys/dev/block/259:2", f"{disk}/nvme0n1p2")
        machine.link("/sys/class/block/nvme0n1p2", f"{disk}/nvme0n1p2")
        machine.file("/proc/self/mountinfo", "21 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n")
        return machine

    def test_the_root_file_systems_controller_is_refused(self, rooted: FakeHost) -> None:
        with (
            pytest.raises(
                OSError, match=r"0000:00:04\.0 is in use by the system: disk:nvme0n1p2 \(mounted at /\)"
            ) as caught,
            host.bind(NVME, "vfio-pci", kernel=rooted),
        ):
            pass
        assert caught.value.errno == errno.EBUSY
        assert rooted.writes == []
        assert host.bindings(rooted) == []

    def test_it_is_bound_if_told_by_name(self, rooted: FakeHost) -> None:
        for allow_in_use in (["disk:nvme0n1p2"], "disk:nvme0n1p2"):
            with host.bind(NVME, "vfio-pci", allow_in_use=allow_in_use, kernel=rooted) as bound:
                assert bound.device.driver == "vfio-pci"

    def test_another_name_does_not_help(self, rooted: FakeHost) -> None:
        with (
            pytest.raises(OSError, match="in use by the system"),
            host.bind(NVME, "vfio-pci", allow_in_use="disk:nvme0n1p21", kernel=rooted),
        ):
            pass

    def test_other_devices_are_not_concerned(self, rooted: FakeHost) -> None:
        with host.bind(EDU, "vfio-pci", kernel=rooted) as bound:
            assert bound.device.driver == "vfio-pci"

    def test_a_disk_under_device_mapper_counts(self, rooted: FakeHost) -> None:
        dm = "/sys/devices/virtual/block/dm-0"
        rooted.link(f"{dm}/slaves/nvme0n1p2", "/sys/class/block/nvme0n1p2")
        rooted.link("/sys/dev/block/254:0", dm)
        rooted.link("/sys/class/block/dm-0", dm)
        rooted.file("/proc/self/mountinfo", "21 1 254:0 / /my\\040data rw - ext4 /dev/mapper/root rw\n")
        (use,) = host.uses(rooted)
        assert (use.name, use.why) == ("disk:dm-0", "mounted at /my data")
        assert use.carried_by(PATH + NVME)

    def test_file_system_with_its_own_number_counts_by_its_source(self, rooted: FakeHost) -> None:
        rooted.file("/dev/nvme0n1p2", "")
        rooted.file(
            "/proc/self/mountinfo", "21 1 0:25 /@ / rw - btrfs /dev/nvme0n1p2 rw\n22 1 0:5 / /proc rw - proc proc rw\n"
        )
        (use,) = host.uses(rooted)
        assert use.name == "disk:nvme0n1p2"

    def test_swap_counts(self, rooted: FakeHost) -> None:
        rooted.file("/dev/nvme0n1p2", "")
        rooted.file("/proc/self/mountinfo", "")
        rooted.file("/proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1p2 partition 8 0 -2\n")
        assert [str(use) for use in host.uses(rooted)] == ["disk:nvme0n1p2 (swap)"]

    def test_a_multipath_nvme_counts_on_each_of_its_controllers(self, rooted: FakeHost) -> None:
        subsystem = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0"
        rooted.directory(f"{subsystem}/nvme0n1")
        rooted.link(f"{subsystem}/nvme0", f"{PATH}{NVME}/nvme/nvme0")
        rooted.link("/sys/dev/block/259:9", f"{subsystem}/nvme0n1")
        rooted.file("/proc/self/mountinfo", "21 1 259:9 / / rw - ext4 /dev/nvme0n1 rw\n")
        (use,) = host.uses(rooted)
        assert use.carried_by(PATH + NVME)

    def test_the_default_routes_adapter_counts_through_a_bond(self, machine: FakeHost) -> None:
        adapter = f"{PATH}{EDU}/net/eth0"
        machine.directory(adapter)
        machine.link("/sys/class/net/eth0", adapter)
        machine.link("/sys/devices/virtual/net/bond0/lower_eth0", adapter)
        machine.link("/sys/class/net/bond0", "/sys/devices/virtual/net/bond0")
        machine.file(
            "/proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
            "bond0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
            "eth9\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
        )
        (use,) = host.uses(machine)
        assert (use.name, use.why, use.path) == ("network:bond0", "the default route", adapter)

    def test_the_default_route_of_ipv6_counts(self, machine: FakeHost) -> None:
        machine.link("/sys/class/net/eth0", machine.directory(f"{PATH}{EDU}/net/eth0"))
        zero = "0" * 32
        machine.file(
            "/proc/net/ipv6_route",
            f"{zero} 00 {zero} 00 fe80{'0' * 28} 00000400 1 0 00000003     eth0\n"
            f"{zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200       lo\n",
        )
        assert [use.name for use in host.uses(machine)] == ["network:eth0"]

    def test_a_serial_console_counts(self, machine: FakeHost) -> None:
        machine.link("/sys/class/tty/ttyS4", machine.directory(f"{PATH}{EDU}/tty/ttyS4"))
        machine.file("/sys/class/tty/console/active", "ttyS4\n")
        (use,) = host.uses(machine)
        assert use.name == "console:ttyS4"
        assert use.carried_by(PATH + EDU)

    def test_the_first_graphics_card_counts_for_a_virtual_terminal(self, machine: FakeHost) -> None:
        machine.pci("0000:00:02.0", group=40, boot_vga="1\n")
        machine.file("/sys/class/tty/console/active", "tty0\n")
        (use,) = host.uses(machine)
        assert (use.name, use.path) == ("console:tty0", f"{PATH}0000:00:02.0")

    def test_a_9p_file_systems_device_counts(self, machine: FakeHost) -> None:
        virtio = f"{PATH}{EDU}/virtio0"
        machine.file(f"{virtio}/mount_tag", "root\0")
        machine.link("/sys/bus/virtio/devices/virtio0", virtio)
        machine.file("/proc/self/mountinfo", "21 1 0:19 / / ro - 9p root ro,trans=virtio\n")
        (use,) = host.uses(machine)
        assert (use.name, use.path) == ("filesystem:root", virtio)


class TestVirtualFunctions:
    @pytest.fixture
    def physical(self, machine: FakeHost) -> str:
        return machine.pci(
            "0000:00:06.0", group=20, sriov_totalvfs="7\n", sriov_numvfs="0\n", sriov_drivers_autoprobe="1\n"
        )

    def test_the_count_is_written_after_whether_to_probe(self, machine: FakeHost, physical: str) -> None:
        host.create_vfs("0000:00:06.0", 2, probe=False, kernel=machine)
        assert machine.writes == [
            (f"{physical}/sriov_drivers_autoprobe", "0"),
            (f"{physical}/sriov_numvfs", "2"),
        ]

    @pytest.mark.parametrize("count", [0, -1, 8])
    def test_an_impossible_count_is_refused(self, machine: FakeHost, physical: str, count: int) -> None:
        with pytest.raises(ValueError, match="count must be 1 to 7, the total_vfs of"):
            host.create_vfs("0000:00:06.0", count, kernel=machine)
        assert machine.writes == []

    def test_a_device_without_sriov_is_told_apart(self, machine: FakeHost) -> None:
        with pytest.raises(Unsupported, match="has no SR-IOV"):
            host.create_vfs(EDU, 1, kernel=machine)

    def test_a_driver_that_makes_none_is_named(self, machine: FakeHost, physical: str) -> None:
        machine.attach("pci", "0000:00:06.0", "vfio-pci")
        machine.failing[f"{physical}/sriov_numvfs"] = errno.ENOENT
        with pytest.raises(FileNotFoundError, match=r"vfio-pci, creates no virtual functions unless.*enable_sriov"):
            host.create_vfs("0000:00:06.0", 1, kernel=machine)
        assert machine.read_file(f"{physical}/sriov_drivers_autoprobe") == b"1\n"

    def test_a_function_open_in_this_process_is_not_removed(self, machine: FakeHost, physical: str) -> None:
        virtual = machine.pci("0000:00:10.0", group=21, driver="vfio-pci")
        machine.link(f"{physical}/virtfn0", virtual)
        machine.open_in(os.getpid(), 9, "/dev/vfio/devices/vfio0")
        with pytest.raises(OSError, match=r"0000:00:10\.0 is still open in this process"):
            host.remove_vfs("0000:00:06.0", kernel=machine)
        assert machine.writes == []
        with pytest.raises(OSError, match="has 1 virtual functions"):
            host.create_vfs("0000:00:06.0", 1, kernel=machine)

    def test_removing_none_is_nothing(self, machine: FakeHost, physical: str) -> None:
        host.remove_vfs("0000:00:06.0", kernel=machine)
        assert machine.writes == []


class TestChanges:
    class Monitor:
        def __init__(self, events: list[tuple[str, SysfsDevice]]) -> None:
            self.events = events
            self.closed = False

        def poll(self, timeout: float | None) -> tuple[str, SysfsDevice] | None:
            return self.events.pop(0) if self.events else None

        def fileno(self) -> int:
            return 5

        def close(self) -> None:
            self.closed = True

    def changes(self, machine: FakeHost, *events: tuple[str, str, str]) -> Changes:
        monitor = self.Monitor(
            [(action, SysfsDevice(bus, os.path.basename(path), path, {})) for action, bus, path in events]
        )
        machine.udev_monitor = lambda: monitor  # type: ignore[method-assign,assignment,return-value]
        return host.Changes(machine)

    def test_a_change_shows_the_device_as_it_is(self, machine: FakeHost) -> None:
        with self.changes(machine, ("bind", "pci", PATH + NVME)) as changes:
            change = changes.wait(0)
            assert change == ("bind", "pci", NVME, PATH + NVME, host.device(NVME, machine))
            assert changes.wait(0) is None

    def test_what_vfio_cannot_serve_is_passed_over(self, machine: FakeHost) -> None:
        other = machine.add("usb", "/sys/devices/usb1", group=None)
        with self.changes(machine, ("add", "usb", other), ("bind", "pci", PATH + EDU)) as changes:
            assert [change.address for change in changes] == [EDU]

    def test_a_removed_device_is_told_once(self, machine: FakeHost) -> None:
        with self.changes(machine, ("remove", "pci", PATH + NVME), ("remove", "pci", PATH + NVME)) as changes:
            machine.remove(PATH + NVME)
            assert [(change.action, change.device) for change in changes] == [("remove", None)]

    def test_closed_it_says_so(self, machine: FakeHost) -> None:
        changes = self.changes(machine)
        assert changes.fileno() == 5
        changes.close()
        changes.close()
        with pytest.raises(Closed):
            changes.wait(0)
        with pytest.raises(Closed):
            changes.fileno()


def test_importing_host_does_not_load_pyudev() -> None:
    code = "import sys, pyvfio.host; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    loaded = set(run.stdout.split())
    assert "pyvfio.host.discovery" in loaded
    assert "pyudev" not in loaded


class TestSeveral:
    """Several devices at once, dry runs, and bindings without `with`."""

    def test_bind_without_with_stays_bound_and_in_the_journal(self, machine: FakeHost) -> None:
        host.bind(NVME, "vfio-pci", kernel=machine)
        gc.collect()
        assert host.device(NVME, machine).driver == "vfio-pci"
        assert [(one.address, one.previous_driver) for one in host.bindings(machine)] == [(NVME, "nvme")]
        assert host.restore(NVME, kernel=machine) == [NVME]
        assert host.device(NVME, machine).driver == "nvme"

    def test_restore_is_a_method_too_and_its_state_is_shown(self, machine: FakeHost) -> None:
        binding = host.bind(NVME, "vfio-pci", kernel=machine)
        assert repr(binding) == f"<Binding to vfio-pci, bound: {NVME} (was nvme)>"
        assert not binding.restored
        binding.restore()
        assert repr(binding) == f"<Binding to vfio-pci, restored: {NVME} (was nvme)>"
        machine.writes.clear()
        binding.restore()
        assert binding.restored
        assert machine.writes == []

    def test_a_failed_restore_can_be_tried_again(self, machine: FakeHost) -> None:
        binding = host.bind(NVME, "vfio-pci", kernel=machine)
        machine.failing["/sys/bus/pci/drivers/nvme/bind"] = errno.EIO
        with pytest.raises(OSError, match="Input/output error"):
            binding.restore()
        assert not binding.restored
        machine.failing.clear()
        binding.restore()
        assert binding.restored
        assert host.device(NVME, machine).driver == "nvme"

    def test_a_second_restore_finishes_the_rest_only(self, machine: FakeHost) -> None:
        binding = host.bind([EDU, NVME], "vfio-pci", kernel=machine)
        machine.failing["/sys/bus/pci/drivers/nvme/bind"] = errno.EIO
        with pytest.raises(OSError, match="Input/output error"):
            binding.restore()
        assert host.device(EDU, machine).driver is None
        machine.failing.clear()
        machine.remove(f"/sys/bus/pci/devices/{EDU}")
        machine.remove(PATH + EDU)
        binding.restore()
        assert binding.restored
        assert host.device(NVME, machine).driver == "nvme"

    def test_a_second_restore_leaves_bindings_of_others_alone(self, machine: FakeHost) -> None:
        binding = host.bind(NVME, "vfio-pci", kernel=machine)
        machine.failing["/sys/bus/pci/drivers/nvme/bind"] = errno.EIO
        with pytest.raises(OSError, match="Input/output error"):
            binding.restore()
        machine.failing.clear()
        assert host.restore(kernel=machine) == [NVME]
        with host.bind(NVME, "pci-stub", kernel=machine):
            with pytest.raises(OSError, match="is being kept bound by this process"):
                binding.restore()
            assert not binding.restored
        machine.file(f"/run/pyvfio/pci:{NVME}", entry(NVME, driver="pci-stub", previous_driver="nvme"))
        machine.writes.clear()
        binding.restore()
        assert binding.restored
        assert machine.writes == []

    @pytest.mark.parametrize(
        "again", [lambda _, binding: binding.restore(), lambda machine, _: host.restore(kernel=machine)]
    )
    def test_an_override_that_was_not_restored_is_the_next_time(
        self, machine: FakeHost, again: Callable[[FakeHost, host.Binding], object]
    ) -> None:
        override = f"{PATH}{NVME}/driver_override"
        machine.write_file(override, b"nvme\n")
        binding = host.bind(NVME, "pci-stub", kernel=machine)
        machine.failing["/sys/bus/pci/drivers/nvme/bind"] = errno.EIO
        with pytest.raises(OSError, match="Input/output error"):
            binding.restore()
        machine.failing.clear()
        # The state of a program that ended between the attach and the clearing of the override.
        machine.attach("pci", NVME, "nvme")
        machine.write_file(override, b"\n")
        again(machine, binding)
        assert machine.override(NVME) == "nvme\n"

    def test_an_override_is_written_with_a_time_limit(self, machine: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pyvfio.host.binding.PROBE_TIMEOUT", 2)
        machine.attach("pci", EDU, "vfio-pci")
        binding = host.bind(EDU, "nvme", timeout=2, kernel=machine)
        probed = threading.Event()
        # A probe holds the device's lock, which a write to driver_override needs.
        machine.blocked["/sys/bus/pci/drivers/vfio-pci/bind"] = probed
        writes = iter([None, probed])

        def block(path: str) -> None:
            if path.endswith("driver_override") and (event := next(writes, None)):
                machine.blocked[path] = event

        machine.before_write = block
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match=f"binding {EDU} to vfio-pci: not done after"):
            binding.restore()
        assert time.monotonic() - begun < 50
        probed.set()

    def test_an_override_that_takes_too_long_is_reported(self, machine: FakeHost) -> None:
        probed = machine.blocked[f"{PATH}{EDU}/driver_override"] = threading.Event()
        with pytest.raises(TimeoutError, match=f"setting the driver_override of {EDU} to vfio-pci: not done after"):
            host.bind(EDU, "vfio-pci", timeout=0.05, kernel=machine)
        probed.set()

    def test_several_devices_are_bound_and_restored_together(self, machine: FakeHost) -> None:
        with host.bind([EDU, host.device(NVME, machine)], "vfio-pci", kernel=machine) as binding:
            assert [one.address for one in binding.devices] == [EDU, NVME]
            assert {host.device(one, machine).driver for one in (EDU, NVME)} == {"vfio-pci"}
            with pytest.raises(ValueError, match="2 devices are bound"):
                _ = binding.device
        assert [host.device(one, machine).driver for one in (EDU, NVME)] == [None, "nvme"]

    def test_of_several_devices_all_are_bound_or_none(self, machine: FakeHost) -> None:
        machine.pci("0000:00:09.0", group=7, driver="nvme")
        machine.refused.add(EDU)
        with pytest.raises(OSError, match=f"binding {EDU} to vfio-pci: Input/output error"):
            host.bind([NVME, EDU, "0000:00:09.0"], "vfio-pci", kernel=machine)
        assert [host.device(one, machine).driver for one in (NVME, EDU, "0000:00:09.0")] == ["nvme", None, "nvme"]
        assert host.bindings(machine) == []
        assert machine.listdir("/run/pyvfio") == []

    def test_nothing_is_written_when_one_of_several_cannot_be_bound(self, machine: FakeHost) -> None:
        with pytest.raises(OSError, match="is a bridge"):
            host.bind([NVME, "0000:00:08.0"], "vfio-pci", kernel=machine)
        assert machine.writes == []
        assert machine.listdir("/run/pyvfio") == []

    def test_a_dry_run_lists_what_a_run_writes(self, machine: FakeHost) -> None:
        planned = host.bind([NVME, EDU], "vfio-pci", dry_run=True, kernel=machine)
        assert "dry run" in repr(planned)
        assert machine.writes == []
        assert not machine.exists("/run/pyvfio")
        planned.restore()
        with host.bind([NVME, EDU], "vfio-pci", kernel=machine) as binding:
            assert binding.writes == planned.writes
            assert [(write.path, write.text) for write in binding.writes] == [
                (path, text.strip()) for path, text in machine.writes
            ]

    def test_a_dry_run_refuses_what_a_run_refuses(self, machine: FakeHost) -> None:
        with pytest.raises(FileNotFoundError, match="modprobe no-such"):
            host.bind(NVME, "no-such", dry_run=True, kernel=machine)

    @pytest.mark.parametrize("driver", ["vfio-pci", "pci-stub"])
    def test_a_vfio_driver_bound_without_an_override_is_restored(self, machine: FakeHost, driver: str) -> None:
        # The state that dpdk-devbind leaves: bound, with the override cleared. VFIO's drivers match by override only.
        machine.attach("pci", EDU, driver)
        machine.by_override.add(driver)
        with host.bind(EDU, "nvme", kernel=machine):
            assert host.device(EDU, machine).driver == "nvme"
        assert host.device(EDU, machine).driver == driver
        assert machine.override(EDU) == "(null)\n"

    def test_a_lent_override_does_not_stay_when_the_attach_fails(self, machine: FakeHost) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        binding = host.bind(EDU, "nvme", kernel=machine)
        machine.refused.add(EDU)
        with pytest.raises(OSError, match="Input/output error"):
            binding.restore()
        assert machine.override(EDU) == "(null)\n"
        machine.refused.clear()
        binding.restore()
        assert host.device(EDU, machine).driver == "vfio-pci"

    def test_restore_after_a_kill_with_a_lent_override(self, machine: FakeHost) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        machine.write_file(f"{PATH}{EDU}/driver_override", b"vfio-pci\n")
        machine.file(f"/run/pyvfio/pci:{EDU}", entry(EDU, driver="nvme", previous_driver="vfio-pci"))
        assert host.restore(kernel=machine) == [EDU]
        assert machine.override(EDU) == "(null)\n"

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"where": None}, TypeError, "^where must be a device's address"),
            ({"where": 5}, TypeError, "^where must be a device's address"),
            ({"where": []}, ValueError, "^where has no device"),
            ({"where": [NVME, "00:04.0"]}, ValueError, "^where has a device twice"),
            ({"where": [5]}, TypeError, "^where must be a str, not int"),
            ({"driver": None}, TypeError, "^the name of a driver must be a str, not NoneType"),
            ({"timeout": "10"}, TypeError, "^timeout must be a number of seconds, not str"),
            ({"timeout": math.nan}, ValueError, "^timeout must be"),
            ({"timeout": -1}, ValueError, "^timeout must be"),
            ({"allow_in_use": 5}, TypeError, "^allow_in_use must be the names of uses, not int"),
            ({"dry_run": "no"}, TypeError, "^dry_run must be a bool, not str"),
        ],
    )
    def test_wrong_arguments_change_nothing(
        self, machine: FakeHost, arguments: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        where, driver = arguments.pop("where", NVME), arguments.pop("driver", "vfio-pci")
        with pytest.raises(error, match=message):
            host.bind(where, driver, kernel=machine, **arguments)
        assert machine.writes == []
        assert host.bindings(machine) == []


def entry(address: str, /, **fields: object) -> str:
    """Return a line of the journal."""
    values: dict[str, object] = {
        "bus": "pci", "address": address, "driver": "vfio-pci", "previous_driver": None, "previous_override": None, "pid": 1,
    }  # fmt: skip
    return json.dumps(values | fields) + "\n"


class TestDamagedJournal:
    DAMAGED = (
        "garbage\n", "[]\n", "null\n", "{}\n", "5\n", "[" * 100000 + "\n", "\0" * 20 + "\n", '{"bus": "pci"}\n',
        entry(EDU, address=5), entry(EDU, bus=None), entry(EDU, driver=None), entry(EDU, pid="1"), entry(EDU, bus="../x"),
    )  # fmt: skip

    @pytest.mark.parametrize("content", DAMAGED)
    def test_a_damaged_file_stops_nothing_else_and_is_named(self, machine: FakeHost, content: str) -> None:
        machine.file(f"/run/pyvfio/pci:{EDU}", content)
        machine.attach("pci", "0000:00:08.0", "vfio-pci")
        machine.file("/run/pyvfio/pci:0000:00:08.0", entry("0000:00:08.0"))
        with pytest.warns(RuntimeWarning, match=f"/run/pyvfio/pci:{EDU} is damaged"):
            assert [one.address for one in host.bindings(machine)] == ["0000:00:08.0"]
        with pytest.raises(BadReply, match=f"/run/pyvfio/pci:{EDU} is damaged"):
            host.restore(kernel=machine)
        assert host.device("0000:00:08.0", machine).driver is None
        with pytest.raises(BadReply, match=f"/run/pyvfio/pci:{EDU} is damaged"):
            host.bind(EDU, "vfio-pci", kernel=machine)
        with host.bind(NVME, "vfio-pci", kernel=machine):
            assert host.restore(NVME, kernel=machine) == []

    def test_a_newer_versions_fields_are_passed_over(self, machine: FakeHost) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        machine.file(f"/run/pyvfio/pci:{EDU}", entry(EDU, started=5))
        assert host.restore(kernel=machine) == [EDU]

    def test_journal_entry_that_does_not_fit_binds_nothing(
        self, machine: FakeHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machine, "pwrite", lambda fd, data, offset: os.pwrite(fd, bytes(data)[:5], offset))
        with pytest.raises(OSError, match="could not be written whole") as caught:
            host.bind(NVME, "vfio-pci", kernel=machine)
        assert caught.value.errno == errno.ENOSPC
        assert machine.writes == []
        assert machine.listdir("/run/pyvfio") == []

    def test_an_entry_replaces_a_longer_one_as_a_whole(self, machine: FakeHost) -> None:
        nodes = find(EDU, machine)
        plain = JournalEntry("pci", EDU, "vfio-pci", None, None, os.getpid())
        with Journal(machine, nodes) as journal:
            journal.record(plain._replace(driver="a" * 200))
            journal.record(plain)
            content = machine.read_file(f"/run/pyvfio/pci:{EDU}")
            assert content.count(b"\n") == 1
            assert content.endswith(b"}\n")
            journal.clear()
        assert machine.listdir("/run/pyvfio") == []

    def test_a_file_that_cannot_be_removed_is_not_locked_for_ever(
        self, machine: FakeHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nodes = find(EDU, machine)

        def fail(path: str) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

        journal = Journal(machine, nodes)
        with monkeypatch.context() as patch:
            patch.setattr(machine, "unlink", fail)
            # The exception, which is kept, keeps the frames in which it was raised.
            with pytest.raises(OSError, match="Read-only") as caught:
                journal.close()
        with Journal(machine, nodes) as again:
            assert again.left is None
        assert caught.value.errno == errno.EROFS

    def test_nothing_stays_in_the_journal_after_a_binding(self, machine: FakeHost) -> None:
        with host.bind(NVME, "vfio-pci", kernel=machine):
            assert machine.listdir("/run/pyvfio") == [f"pci:{NVME}"]
        assert machine.listdir("/run/pyvfio") == []

    def test_a_file_that_its_owner_removes_meanwhile_is_made_anew(
        self, machine: FakeHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flock, once = machine.flock, [True]

        def remove_first(fd: int, operation: int) -> None:
            if once.pop():
                once.append(False)
                machine.unlink(f"/run/pyvfio/pci:{NVME}")
            flock(fd, operation)

        monkeypatch.setattr(machine, "flock", remove_first)
        with host.bind(NVME, "vfio-pci", kernel=machine):
            assert machine.listdir("/run/pyvfio") == [f"pci:{NVME}"]

    def test_forked_worker_does_not_keep_a_killed_programs_lock(self, machine: FakeHost) -> None:
        reading, writing = os.pipe()
        program = os.fork()
        if program == 0:
            binding = host.bind(NVME, "vfio-pci", kernel=machine)
            if os.fork() == 0:
                os.write(writing, b"x")  # Python's fork handlers have run, and have closed the lock file
                time.sleep(20)  # the worker, which lives on
                os._exit(0)
            os.read(reading, 1)
            del binding
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(program, 0)
        assert host.restore(kernel=machine) == [NVME]
        assert host.device(NVME, machine).driver == "nvme"
        os.close(reading)
        os.close(writing)


class TestJournalFile:
    """The journal in a real file system: a file that another user could change is not trusted."""

    def refuse(self, path: Path, message: str) -> None:
        with pytest.raises(OSError, match=message):
            os.close(LinuxKernel().create(str(path)))

    def test_a_private_file_is_made_with_its_directory(self, tmp_path: Path) -> None:
        path = tmp_path / "journal" / "entry"
        kernel = LinuxKernel()
        fd = kernel.create(str(path))
        try:
            assert kernel.is_at(fd, str(path))
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parent.stat().st_mode & 0o777 == 0o700
            kernel.unlink(str(path))
            assert not kernel.is_at(fd, str(path))
            path.touch()
            assert not kernel.is_at(fd, str(path))
        finally:
            os.close(fd)

    def test_a_linked_directory_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir(0o700)
        (tmp_path / "journal").symlink_to("real")
        self.refuse(tmp_path / "journal" / "entry", "Not a directory|Too many levels")

    def test_a_directory_that_others_may_write_to_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "journal").mkdir()
        (tmp_path / "journal").chmod(0o777)
        self.refuse(tmp_path / "journal" / "entry", "others may write to it .mode 777.")

    def test_files_that_are_not_ours_alone_are_refused(self, tmp_path: Path) -> None:
        journal = tmp_path / "journal"
        journal.mkdir(0o700)
        os.mkfifo(journal / "fifo", 0o600)
        self.refuse(journal / "fifo", "not a plain file")
        (journal / "target").touch(0o600)
        (journal / "link").symlink_to("target")
        self.refuse(journal / "link", "Too many levels")
        (journal / "open").touch()
        (journal / "open").chmod(0o666)
        self.refuse(journal / "open", "others may write")
