# SPDX-License-Identifier: MIT
"""pyvfio.host with a real kernel's sysfs, in the machine of scripts/vm, as root."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyvfio
from pyvfio import host
from pyvfio.errors import Unsupported
from pyvfio.iova import IovaRange
from pyvfio.kernel import LinuxKernel
from tests.contract import guest
from tests.contract.processes import in_another_process

# Cells whose own device, vfio-mock, is not one of those that these tests bind and unbind.
behind_each_iommu = pytest.mark.only(iommu=["intel", "amd", "virtio"], mode="type1v2", device="vfio-mock")
once = pytest.mark.only(iommu="intel", mode="type1v2", device="vfio-mock")
# The driver core does the binding, in the same way in all releases. These tests are slow, so they run only on the
# newest.
once_on_the_newest = pytest.mark.only(iommu="intel", mode="type1v2", device="vfio-mock", kernel="newest")

pytestmark = pytest.mark.require("linux")

EDU = (0x1234, 0x11E8)
NVME = (0x1B36, 0x0010)
MSI = (IovaRange(0xFEE00000, 0xFEEFFFFF), "msi")
HYPERTRANSPORT = (IovaRange(0xFD00000000, 0xFFFFFFFFFF), "reserved")


def found(ids: tuple[int, int]) -> list[host.HostDevice]:
    return [one for one in host.devices() if (one.vendor, one.device) == ids]


def state(address: str) -> tuple[str | None, str | None]:
    one = host.device(address)
    return one.driver, one.driver_override


@pytest.fixture
def edu() -> host.HostDevice:
    """An edu that is alone in its group and not bound to a driver."""
    return next(one for one in found(EDU) if len(host.group_members(one.address)) == 1)


@pytest.fixture
def nvme() -> Iterator[host.HostDevice]:
    """An nvme that is alone in its group and bound to its native driver. The test must leave it in that state."""
    one = next(one for one in found(NVME) if len(host.group_members(one.address)) == 1)
    assert (one.driver, one.driver_override) == ("nvme", None)
    yield one
    assert state(one.address) == ("nvme", None)
    assert host.bindings() == []


def disk_of(nvme: host.HostDevice) -> Path:
    """Return the block device of an nvme. Wait for it: the driver creates it after its probe has returned."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for name in os.listdir("/sys/class/block"):
            path = Path(f"/sys/class/block/{name}").resolve()
            # Debian's kernel supports disks with several controllers: there a disk is below a subsystem, which has
            # links to the controllers.
            controllers = path.parent.glob("nvme[0-9]") if "/nvme-subsystem/" in str(path) else [path]
            if Path("/dev", name).exists() and any(str(each.resolve()).startswith(nvme.path) for each in controllers):
                return Path("/dev", name)
        time.sleep(0.05)
    raise AssertionError(f"{nvme.address} has no disk")


def first_page_of(disk: Path) -> bytes:
    with disk.open("rb") as file:
        return file.read(4096)


@contextlib.contextmanager
def opened_elsewhere(address: str) -> Iterator[int]:
    """Let another process hold the device open until the end of the block, or for three seconds after SIGUSR1.

    Yield its process id.
    """
    reader, writer = os.pipe()

    def hold() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        with pyvfio.open(address):
            os.write(writer, b"open")
            signal.sigwait({signal.SIGUSR1})
            time.sleep(3)

    with open(reader, "rb", buffering=0) as told, in_another_process(hold) as other:
        os.close(writer)
        assert told.read(4) == b"open"
        yield other.pid


@behind_each_iommu
class TestDiscovery:
    def test_the_machines_devices_are_all_there(self) -> None:
        there = {one.address for one in host.devices()}
        ports = {address for address, name in guest.DEVICES.items() if name == "pcie-root-port"}
        assert guest.DEVICES.keys() - ports <= there
        assert not ports & there
        assert len(found(EDU)) == list(guest.DEVICES.values()).count("edu")

    def test_a_single_look_up_tells_what_the_list_tells(self, edu: host.HostDevice) -> None:
        assert host.device(edu.address) == edu._replace(vendor_name=None, device_name=None, class_name=None)

    def test_two_functions_of_one_slot_share_a_group(self) -> None:
        one, other = (one for one in found(EDU) if one.address.startswith("0000:00:05."))
        assert one.group == other.group
        assert host.group_members(one.address) == {one.address: None, other.address: None}

    def test_reserved_regions_are_those_of_the_iommu(self, edu: host.HostDevice) -> None:
        regions = host.reserved_regions(edu.address)
        assert MSI in regions
        assert (HYPERTRANSPORT in regions) == (guest.IOMMU == "amd")
        assert edu.group is not None
        assert regions == list(host.group(edu.group).reserved_regions)

    def test_each_device_in_a_group_names_its_iommu(self) -> None:
        iommus = {one.iommu for one in host.devices() if one.group is not None and one.bus == "pci"}
        (iommu,) = iommus
        assert iommu in os.listdir("/sys/class/iommu")


@behind_each_iommu
class TestEmulatedDevices:
    @pytest.fixture
    def mock(self) -> host.HostDevice:
        """A device of the vfio-mock module."""
        guest.load_driver(guest.MOCK)
        return next(one for one in host.devices() if one.address == f"{guest.MOCK}.0")

    def test_they_are_found_and_are_not_in_no_iommu_mode(self, mock: host.HostDevice) -> None:
        assert (mock.bus, mock.vendor, mock.iommu) == ("platform", None, None)
        assert not mock.no_iommu
        assert mock.group_path == f"/dev/vfio/{mock.group}"
        assert os.path.exists(mock.group_path)
        assert host.device(mock.address) == mock

    @pytest.mark.require("cdev")
    def test_they_have_a_node_of_their_own(self, mock: host.HostDevice) -> None:
        assert mock.cdev == f"/dev/vfio/devices/{mock.vfio}"
        assert os.path.exists(mock.cdev)

    def test_their_group_is_named_noiommu_and_has_no_reserved_regions(self, mock: host.HostDevice) -> None:
        assert mock.group is not None
        group = host.group(mock.group)
        assert (group.name, group.type, group.reserved_regions) == ("vfio-noiommu", None, ())
        assert group.members == {mock.address: mock.driver}


@once_on_the_newest
class TestBind:
    @pytest.mark.parametrize("field", ["group_path", pytest.param("cdev", marks=pytest.mark.require("cdev"))])
    def test_a_bound_device_has_its_node_and_loses_it(self, edu: host.HostDevice, field: str) -> None:
        with host.bind(edu.address, "vfio-pci") as bound:
            assert bound.device.driver == "vfio-pci"
            assert not bound.device.no_iommu
            node = getattr(bound.device, field)
            assert os.path.exists(node)
        assert state(edu.address) == (None, None)
        assert not os.path.exists(node)

    def test_the_native_driver_comes_back_and_works(self, nvme: host.HostDevice) -> None:
        with host.bind(nvme.address, "vfio-pci"):
            assert host.device(nvme.address).driver == "vfio-pci"
        assert len(first_page_of(disk_of(nvme))) == 4096

    def test_it_comes_back_after_an_exception(self, nvme: host.HostDevice) -> None:
        with pytest.raises(KeyError, match="body"), host.bind(nvme.address, "vfio-pci"):
            raise KeyError("body")
        assert host.device(nvme.address).driver == "nvme"

    def test_a_previous_override_comes_back(self, nvme: host.HostDevice) -> None:
        override = Path(nvme.path, "driver_override")
        override.write_text("nvme\n")
        try:
            with host.bind(nvme.address, "vfio-pci"):
                assert host.device(nvme.address).driver_override == "vfio-pci"
            assert state(nvme.address) == ("nvme", "nvme")
        finally:
            override.write_text("\n")

    @pytest.mark.parametrize("by", ["override", "new_id"])
    def test_a_vfio_driver_without_an_override_comes_back(self, nvme: host.HostDevice, by: str) -> None:
        drivers, override = Path("/sys/bus/pci/drivers"), Path(nvme.path, "driver_override")
        ids = "{:x} {:x}\n".format(*NVME)
        Path(drivers, "nvme/unbind").write_text(nvme.address)
        try:
            if by == "override":  # as dpdk-devbind does
                override.write_text("vfio-pci\n")
                Path(drivers, "vfio-pci/bind").write_text(nvme.address)
                override.write_text("\n")
            else:
                Path(drivers, "vfio-pci/new_id").write_text(ids)
            assert state(nvme.address) == ("vfio-pci", None)
            with host.bind(nvme.address, "nvme"):
                assert state(nvme.address) == ("nvme", None)
            assert state(nvme.address) == ("vfio-pci", None)
        finally:
            if by == "new_id":
                Path(drivers, "vfio-pci/remove_id").write_text(ids)
            Path(drivers, "vfio-pci/unbind").write_text(nvme.address)
            Path(drivers, "nvme/bind").write_text(nvme.address)

    def test_several_devices_are_bound_together(self, edu: host.HostDevice, nvme: host.HostDevice) -> None:
        planned = host.bind([edu, nvme], "vfio-pci", dry_run=True).writes
        with host.bind([edu, nvme], "vfio-pci") as binding:
            assert binding.writes == planned
            assert [state(one.address)[0] for one in (edu, nvme)] == ["vfio-pci", "vfio-pci"]
            assert host.examine(edu) == host.examine(nvme) == []
        assert [state(one.address)[0] for one in (edu, nvme)] == [None, "nvme"]
        assert os.listdir("/run/pyvfio") == []

    def test_no_driver_is_forced_onto_a_device_that_is_not_its_own(self, nvme: host.HostDevice) -> None:
        # driver_override would bind the nvme to e1000e, whose probe of it would cause an oops.
        with (
            pytest.raises(OSError, match=f"binding {nvme.address} to e1000e") as caught,
            host.bind(nvme.address, "e1000e"),
        ):
            pytest.fail("bound")
        assert caught.value.errno == errno.ENODEV

    def test_a_native_driver_can_be_bound_too(self, nvme: host.HostDevice) -> None:
        Path("/sys/bus/pci/drivers/nvme/unbind").write_text(nvme.address)
        with host.bind(nvme.address, "nvme") as bound:
            assert (bound.device.driver, bound.device.driver_override) == ("nvme", None)
        assert state(nvme.address) == (None, None)
        Path("/sys/bus/pci/drivers/nvme/bind").write_text(nvme.address)

    def test_a_driver_that_is_not_loaded_is_named(self, nvme: host.HostDevice) -> None:
        with pytest.raises(FileNotFoundError, match="modprobe no-such"), host.bind(nvme.address, "no-such"):
            pytest.fail("bound")

    def test_the_root_file_systems_device_is_refused_by_name(self) -> None:
        root = next(use for use in host.uses() if "mounted at /" in use.why and use.name == "filesystem:root")
        carrier = next(one for one in host.devices() if root.carried_by(one.path))
        with pytest.raises(OSError, match="filesystem:root") as caught, host.bind(carrier.address, "vfio-pci"):
            pytest.fail("bound")
        assert caught.value.errno == errno.EBUSY
        assert host.device(carrier.address).driver == carrier.driver

    @once
    def test_the_controller_of_a_mounted_disk_is_refused(self, nvme: host.HostDevice) -> None:
        disk = disk_of(nvme)
        libc = ctypes.CDLL(None, use_errno=True)
        # Use the disk as swap, because the guest's kernel has no file system for disks.
        header = bytearray(4096)
        size = int(Path("/sys/class/block", disk.name, "size").read_text()) * 512
        header[1024:1036] = b"".join(value.to_bytes(4, "little") for value in (1, size // 4096 - 1, 0))
        header[4086:4096] = b"SWAPSPACE2"
        disk.write_bytes(header)
        assert libc.swapon(str(disk).encode(), 0) == 0, os.strerror(ctypes.get_errno())
        try:
            with pytest.raises(OSError, match=f"disk:{disk.name} \\(swap\\)"), host.bind(nvme.address, "vfio-pci"):
                pytest.fail("bound")
        finally:
            assert libc.swapoff(str(disk).encode()) == 0
        with host.bind(nvme.address, "vfio-pci") as bound:
            assert bound.device.driver == "vfio-pci"

    def test_the_virtio_console_is_refused_with_its_holders(self) -> None:
        """The machine's output goes through the console: unbinding it would end this test."""
        console = next(one for one in host.devices() if list(Path(one.path).glob("virtio*/virtio-ports")))
        with pytest.raises(OSError, match="in use by the system") as caught:
            host.bind(console.address, "vfio-pci")
        assert caught.value.errno == errno.EBUSY
        init = re.escape(Path("/proc/1/comm").read_text().strip())
        assert re.search(rf"/dev/(vport0p|hvc)[0-9] is open in process 1 \({init}\), descriptor 3", str(caught.value))
        assert host.device(console.address).driver == console.driver
        finding = next(one for one in host.examine(console.address) if one.id == "in-use")
        assert any("is open in process 1 " in line for line in finding.evidence)

    def test_an_open_disk_is_refused_and_bound_if_told_by_name(self, nvme: host.HostDevice) -> None:
        disk = disk_of(nvme)
        node = os.open(disk, os.O_RDONLY | os.O_EXCL)
        try:
            assert LinuxKernel().claimed(str(disk))
            with pytest.raises(OSError, match=f"node:{disk.name} .*is open in this process, descriptor {node}"):
                host.bind(nvme.address, "vfio-pci")
        finally:
            os.close(node)
        assert not LinuxKernel().claimed(str(disk))

    def test_a_bar_that_a_process_has_mapped_is_refused(self, edu: host.HostDevice) -> None:
        with open(f"/sys/bus/pci/devices/{edu.address}/resource0", "r+b") as file:
            registers = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        try:
            with pytest.raises(OSError, match=f"registers:{edu.address} .*resource0 is mapped in this process"):
                host.bind(edu.address, "vfio-pci")
        finally:
            registers.close()
        with host.bind(edu.address, "vfio-pci") as bound:
            assert bound.device.driver == "vfio-pci"

    def test_a_bridge_is_refused(self) -> None:
        with pytest.raises(OSError, match="is a bridge") as caught, host.bind("0000:00:08.0", "vfio-pci"):
            pytest.fail("bound")
        assert caught.value.errno == errno.EINVAL
        assert host.device("0000:00:08.0").driver == "pcieport"

    def test_what_keeps_a_group_from_vfio_is_named(self) -> None:
        function, neighbour = "0000:02:00.1", host.device("0000:02:00.0")
        assert neighbour.driver is not None
        with host.bind(function, "vfio-pci") as bound:
            assert bound.device.group is not None
            assert host.group(bound.device.group).in_the_way == {neighbour.address: neighbour.driver}


@pytest.mark.only(iommu="intel", mode="type1v2", device="vfio-mock", kernel="6.1")
def test_an_adapter_of_another_network_namespace_is_refused() -> None:
    """This runs on 6.1, which is Debian's binary kernel: the others are built without network namespaces."""
    adapter = next(one for one in host.devices() if list(Path(one.path).glob("net/eth*")))
    name = os.listdir(f"{adapter.path}/net")[0]
    ready, done = os.pipe()

    def live_elsewhere() -> None:
        ctypes.CDLL(None).unshare(0x40000000)  # CLONE_NEWNET
        os.write(done, b"x")
        signal.pause()

    with in_another_process(live_elsewhere) as other:
        os.read(ready, 1)
        subprocess.run(["ip", "link", "set", name, "netns", str(other.pid)], check=True)
        with pytest.raises(OSError, match=r"network:elsewhere .*/net is empty"):
            host.bind(adapter.address, "vfio-pci", dry_run=True)
    os.close(ready)
    os.close(done)
    # The interface returns to this namespace when the other namespace ends.
    deadline = time.monotonic() + 60
    while not os.listdir(f"{adapter.path}/net"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert host.bind(adapter.address, "vfio-pci", dry_run=True).writes


@once_on_the_newest
class TestOpening:
    def test_without_permission_it_is_said_what_it_takes(self, edu: host.HostDevice) -> None:
        def as_nobody() -> None:
            os.setgid(65534)
            os.setuid(65534)
            for mode in ("iommufd", "type1v2"):
                with pytest.raises(PermissionError, match="root and the owner of the file"):
                    pyvfio.open(edu.address, mode=mode)
            with pytest.raises(PermissionError, match="takes root"), host.bind(edu.address, "vfio-pci"):
                pass
            with pytest.raises(PermissionError):
                host.restore()
            # Listing devices needs no permissions.
            assert edu.address in [one.address for one in host.devices()]

        with host.bind(edu.address, "vfio-pci"), in_another_process(as_nobody) as nobody:
            assert nobody.join(120) == 0

    def test_a_device_with_no_driver_comes_with_advice(self, edu: host.HostDevice, nvme: host.HostDevice) -> None:
        with pytest.raises(Unsupported, match=rf"bound to no driver: pyvfio.host.bind\('{edu.address}', 'vfio-pci'\)"):
            pyvfio.open(edu.address, mode="iommufd")
        with pytest.raises(Unsupported, match="bound to nvme, not to a VFIO driver"):
            pyvfio.open(nvme.address, mode="iommufd")
        with pytest.raises(FileNotFoundError, match="no device of group") as caught:
            pyvfio.open(edu.address, mode="type1v2")
        assert any(edu.address in note for note in caught.value.__notes__)


@once
class TestOpenDevices:
    @pytest.fixture
    def stack(self) -> Iterator[contextlib.ExitStack]:
        """An exit stack that is closed at the end of the test."""
        with contextlib.ExitStack() as stack:
            yield stack

    def test_a_device_that_is_open_here_is_not_unbound(self, edu: host.HostDevice) -> None:
        begun = time.monotonic()
        with (
            pytest.raises(OSError, match="still open in this process") as caught,
            host.bind(edu.address, "vfio-pci", timeout=600),
        ):
            device = pyvfio.open(edu.address)
        assert time.monotonic() - begun < 240
        assert caught.value.errno == errno.EBUSY
        assert host.device(edu.address).driver == "vfio-pci"
        device.close()
        assert host.restore() == [edu.address]
        assert state(edu.address) == (None, None)

    def test_another_process_gets_time_to_close(self, nvme: host.HostDevice, stack: contextlib.ExitStack) -> None:
        with host.bind(nvme.address, "vfio-pci", timeout=120):
            other = stack.enter_context(opened_elsewhere(nvme.address))
            assert [one.pid for one in host.holders_of(nvme.address)] == [other]
            os.kill(other, signal.SIGUSR1)
        assert host.device(nvme.address).driver == "nvme"

    def test_a_process_that_does_not_close_is_named(self, nvme: host.HostDevice) -> None:
        # Derive the timeout from a measured binding: under emulation, above all with the debug kernel, one may take
        # more than a second.
        begun = time.monotonic()
        host.bind(nvme.address, "vfio-pci").restore()
        context = host.bind(nvme.address, "vfio-pci", timeout=max(1, 4 * (time.monotonic() - begun)))
        context.__enter__()
        with opened_elsewhere(nvme.address) as pid:
            with pytest.raises(TimeoutError, match=f"process {pid}"):
                context.__exit__(None, None, None)
            # The unbinding still waits in the kernel. Until it ends, other operations on the device must be refused.
            with pytest.raises(OSError, match="still being unbound") as caught:
                host.restore()
            assert caught.value.errno == errno.EBUSY
        assert host.restore() == [nvme.address]

    def test_a_device_that_another_program_uses_is_not_taken_from_it(self, edu: host.HostDevice) -> None:
        with host.bind(edu.address, "vfio-pci"), opened_elsewhere(edu.address) as pid:
            (holder,) = host.holders_of(edu.address)
            assert holder.pid == pid


@once_on_the_newest
class TestKilled:
    def test_a_forked_worker_does_not_keep_a_killed_programs_device(self, nvme: host.HostDevice) -> None:
        reading, writing = os.pipe()
        program = os.fork()
        if program == 0:
            binding = host.bind(nvme.address, "vfio-pci")
            if os.fork() == 0:
                os.write(writing, b"x")  # Python's fork handlers have run, and have closed the lock file
                time.sleep(60)
                os._exit(0)
            os.close(writing)
            os.read(reading, 1)
            assert not binding.restored
            os.kill(os.getpid(), signal.SIGKILL)
        os.close(writing)
        os.waitpid(program, 0)
        os.close(reading)
        assert [one.address for one in host.bindings()] == [nvme.address]
        assert host.restore() == [nvme.address]
        assert host.device(nvme.address).driver == "nvme"

    def test_a_second_program_is_refused_while_one_has_the_device(self, nvme: host.HostDevice) -> None:
        code = f"import pyvfio.host\nwith pyvfio.host.bind({nvme.address!r}, 'vfio-pci'): pass"
        with host.bind(nvme.address, "vfio-pci"):
            second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            assert f"[Errno {errno.EBUSY}]" in second.stderr
            assert f"being kept bound by process {os.getpid()}" in second.stderr
            assert host.device(nvme.address).driver == "vfio-pci"

    def test_a_binding_survives_sigkill_at_any_point(self, nvme: host.HostDevice) -> None:
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        chance = random.Random(seed)
        begun = time.monotonic()
        with host.bind(nvme.address, "vfio-pci"):
            pass
        cycle = time.monotonic() - begun
        states: set[object] = set()
        kills = 0
        # The kills prove something only if they hit different states.
        while kills < 20 or (len(states) < 2 and kills < 100):
            kills += 1
            child = os.fork()
            if child == 0:
                while True:
                    with host.bind(nvme.address, "vfio-pci"):
                        pass
            time.sleep(chance.uniform(0, 1.5 * cycle))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            states.add(state(nvme.address))
            host.restore()
            assert state(nvme.address) == ("nvme", None)
            assert host.bindings() == []
        assert len(states) > 1
        assert len(first_page_of(disk_of(nvme))) == 4096

    def test_two_programs_that_race_for_a_device_never_spoil_it(self, nvme: host.HostDevice) -> None:
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    for _ in range(8):
                        try:
                            with host.bind(nvme.address, "vfio-pci"):
                                assert host.device(nvme.address).driver == "vfio-pci"
                        except OSError as error:
                            if error.errno != errno.EBUSY:
                                raise
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]


@once_on_the_newest
class TestHotplug:
    def test_changes_are_told_as_they_happen(self, edu: host.HostDevice) -> None:
        with host.Changes() as changes:
            with host.bind(edu.address, "vfio-pci"):
                change = changes.wait(60)
                assert change is not None
                assert (change.action, change.bus, change.address) == ("bind", "pci", edu.address)
                assert change.device is not None
                assert change.device.driver == "vfio-pci"
            while change is not None and change.action != "unbind":
                change = changes.wait(60)
            assert change is not None
            assert change.address == edu.address

    def test_an_unplugged_device_is_gone_and_comes_back(self) -> None:
        address = "0000:01:00.0"
        with host.Changes() as changes, host.bind(address, "vfio-pci") as bound:
            Path(bound.device.path, "remove").write_text("1")
            with pytest.raises(OSError, match=f"no device {address}") as caught:
                host.device(address)
            assert caught.value.errno == errno.ENODEV
            change = changes.wait(60)
            while change is not None and (change.action, change.address) != ("remove", address):
                change = changes.wait(60)
            assert change is not None
        assert host.bindings() == []
        Path("/sys/bus/pci/rescan").write_text("1")
        assert state(address) == (None, None)

    def test_the_list_can_be_read_while_devices_come_and_go(self) -> None:
        path = host.device("0000:01:00.0").path
        begun = time.monotonic()
        host.devices()
        # Make the pauses longer than one list takes, so that lists are read with and without the device on slow
        # machines too.
        pause = max(0.2, 2 * (time.monotonic() - begun))
        child = os.fork()
        if child == 0:
            try:
                while True:
                    Path(path, "remove").write_text("1")
                    time.sleep(pause)
                    Path("/sys/bus/pci/rescan").write_text("1")
                    time.sleep(pause)
            finally:
                os._exit(1)
        seen: set[bool] = set()
        begun = time.monotonic()
        while time.monotonic() - begun < 20 * pause or (len(seen) < 2 and time.monotonic() - begun < 300 * pause):
            seen.add("0000:01:00.0" in [one.address for one in host.devices()])
            host.groups()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        Path("/sys/bus/pci/rescan").write_text("1")
        assert host.device("0000:01:00.0").path == path
        assert seen == {True, False}


# On Linux 6.1 and 6.12, opening a virtual function takes 65 s: they wait in vain for QEMU's function to become ready
# after its reset.
@pytest.mark.only(iommu=["intel", "amd", "virtio"], mode="type1v2", device="vfio-mock", kernel="newest")
class TestVirtualFunctions:
    def test_a_device_without_them_says_so(self, edu: host.HostDevice) -> None:
        with pytest.raises(Unsupported, match="no SR-IOV"):
            host.create_vfs(edu.address, 1)

    def test_they_are_made_bound_and_removed(self) -> None:
        physical = next(one for one in host.devices() if one.total_vfs)
        functions = host.create_vfs(physical.address, 2, probe=False)
        try:
            assert [one.physical_function for one in functions] == [physical.address] * 2
            assert [one.driver for one in functions] == [None] * 2
            if guest.IOMMU == "amd":
                # The ACPI table (IVRS) for QEMU's AMD IOMMU lists only functions that existed at boot, so virtual ones
                # get no group.
                with pytest.raises(OSError, match="in no IOMMU group"):
                    host.bind(functions[1].address, "vfio-pci").__enter__()
                return
            with (
                host.bind(functions[1].address, "vfio-pci"),
                pyvfio.open(functions[1].address),
                pytest.raises(OSError, match="still open in this process"),
            ):
                host.remove_vfs(physical.address)
            with pytest.raises(OSError, match="has 2 virtual functions"):
                host.create_vfs(physical.address, 1)
        finally:
            host.remove_vfs(physical.address)
        assert host.device(physical.address).virtual_functions == ()
