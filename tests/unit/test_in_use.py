# SPDX-License-Identifier: MIT
"""Each sign by which a host shows that a device is in use, in artificial trees of sysfs and procfs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pyvfio import host
from tests.unit.test_host import EDU, NVME, PATH, FakeHost

OTHER = "0000:00:05.0"


class Host(FakeHost):
    """A machine in a directory, with device numbers of nodes, and disks that can be held exclusively."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.numbers: dict[str, str] = {}
        self.held: set[str] = set()

    def device_number(self, path: str) -> str | None:
        """Return the device number of a node, given by its path or by a link under /proc."""
        if path.startswith("/proc/"):
            path = os.readlink(self.root + path)
        return self.numbers.get(path)

    def claimed(self, path: str) -> bool:
        return path in self.held

    def node(self, name: str, number: str, path: str) -> None:
        """Create a node under /dev, and its device in sysfs."""
        self.numbers[f"/dev/{name}"] = number
        self.directory(path)
        self.link(f"/sys/dev/{number}", path)

    def disk(self, address: str, name: str) -> str:
        path = self.directory(f"{PATH}{address}/nvme/nvme0/{name}")
        self.link(f"/sys/class/block/{name}", path)
        self.node(name, "block/259:0", path)
        return path

    def interface(self, address: str, name: str, number: int = 2) -> str:
        path = self.directory(f"{PATH}{address}/net/{name}")
        self.file(f"{path}/ifindex", f"{number}\n")
        self.link(f"/sys/class/net/{name}", path)
        return path


@pytest.fixture
def machine(tmp_path: Path) -> Host:
    machine = Host(tmp_path)
    machine.pci(EDU, group=1)
    machine.pci(NVME, group=2, driver="nvme")
    machine.pci(OTHER, group=3)
    return machine


def said(machine: Host) -> list[str]:
    return [str(use) for use in host.uses(machine)]


def refused(machine: Host, address: str = EDU) -> str:
    """Assert that binding a device is refused, while another device can be bound, and return the message."""
    assert host.bind(OTHER, "vfio-pci", dry_run=True, kernel=machine).writes
    with pytest.raises(OSError, match="in use by the system") as caught:
        host.bind(address, "vfio-pci", kernel=machine)
    assert caught.value.errno == errno.EBUSY
    assert machine.writes == []
    return str(caught.value)


class TestNodes:
    def test_an_open_character_device_is_refused_with_its_holder(self, machine: Host) -> None:
        machine.node("snd/controlC0", "char/116:2", f"{PATH}{EDU}/sound/card0/controlC0")
        machine.open_in(70, 5, "/dev/snd/controlC0")
        message = refused(machine)
        assert "node:snd/controlC0 (/dev/snd/controlC0 is open in process 70 (qemu), descriptor 5)" in message
        assert host.bind(EDU, "vfio-pci", allow_in_use="node:snd/controlC0", dry_run=True, kernel=machine).writes

    def test_doctor_names_the_holder_too(self, machine: Host) -> None:
        machine.node("uio0", "char/240:0", f"{PATH}{EDU}/uio/uio0")
        machine.open_in(70, 5, "/dev/uio0")
        (finding,) = (one for one in host.examine(EDU, machine) if one.id == "in-use")
        assert finding.evidence == ("node:uio0: /dev/uio0 is open in process 70 (qemu), descriptor 5",)

    def test_a_node_below_a_usb_controller_counts(self, machine: Host) -> None:
        machine.node("input/event3", "char/13:67", f"{PATH}{EDU}/usb1/1-1/1-1:1.0/input/input3/event3")
        machine.open_in(70, 5, "/dev/input/event3")
        assert "node:input/event3" in refused(machine)

    def test_a_containers_node_counts_by_its_number(self, machine: Host) -> None:
        machine.node("dri/card0", "char/226:0", f"{PATH}{EDU}/drm/card0")
        machine.numbers["/srv/chroot/dev/gpu"] = "char/226:0"
        machine.open_in(70, 5, "/srv/chroot/dev/gpu")
        assert "/srv/chroot/dev/gpu is open in process 70" in refused(machine)

    def test_a_node_counts_by_its_name_where_numbers_are_unknown(self, machine: Host) -> None:
        machine.link("/sys/class/watchdog/watchdog0", machine.directory(f"{PATH}{EDU}/watchdog/watchdog0"))
        machine.open_in(1, 3, "/dev/watchdog0")
        assert "node:watchdog0" in refused(machine)

    def test_a_hypervisor_terminal_stands_for_the_virtio_console(self, machine: Host) -> None:
        virtio = machine.directory(f"{PATH}{EDU}/virtio3")
        machine.link("/sys/bus/virtio/drivers/virtio_console/virtio3", virtio)
        machine.node("hvc0", "char/229:0", "/sys/devices/virtual/tty/hvc0")
        machine.open_in(1, 0, "/dev/hvc0")
        assert "node:hvc0 (/dev/hvc0 is open in process 1 (qemu), descriptor 0)" in refused(machine)

    def test_a_virtual_terminal_stands_for_the_graphics_card(self, machine: Host) -> None:
        machine.file(f"{PATH}{EDU}/boot_vga", "1\n")
        machine.node("tty1", "char/4:1", "/sys/devices/virtual/tty/tty1")
        machine.open_in(70, 0, "/dev/tty1")
        assert "node:tty1" in refused(machine)

    def test_a_macvtap_stands_for_its_adapter(self, machine: Host) -> None:
        adapter = machine.interface(EDU, "eth0")
        machine.node("tap7", "char/241:1", "/sys/devices/virtual/net/macvtap0/tap7")
        machine.link("/sys/class/net/macvtap0", "/sys/devices/virtual/net/macvtap0")
        machine.link("/sys/devices/virtual/net/macvtap0/lower_eth0", adapter)
        machine.open_in(70, 5, "/dev/tap7")
        assert "node:tap7" in refused(machine)

    def test_a_disk_given_to_a_guest_counts(self, machine: Host) -> None:
        machine.disk(NVME, "nvme0n1")
        machine.open_in(70, 5, "/dev/nvme0n1")
        assert "node:nvme0n1" in refused(machine, NVME)

    def test_nodes_of_nvidia_are_found_without_sysfs(self, machine: Host) -> None:
        machine.file(f"/proc/driver/nvidia/gpus/{EDU}/information", "Model: x\nDevice Minor: \t 1\n")
        machine.open_in(70, 5, "/dev/nvidia1")
        machine.open_in(71, 5, "/dev/nvidia11")
        assert said(machine) == ["node:nvidia1 (/dev/nvidia1 is open in process 70 (qemu), descriptor 5)"]

    def test_a_bar_that_is_open_in_sysfs_counts(self, machine: Host) -> None:
        machine.open_in(70, 5, f"{PATH}{EDU}/resource0")
        machine.open_in(70, 6, f"{PATH}{OTHER}/config")
        assert f"registers:{EDU} ({PATH}{EDU}/resource0 is open in process 70" in refused(machine)

    def test_mapped_registers_count_once_their_file_is_closed(self, machine: Host) -> None:
        machine.file("/proc/70/comm", "poke\n")
        maps = (
            f"7f0000000000-7f0000001000 rw-s 00000000 00:15 99 {PATH}{EDU}/resource2_wc\n7f1-7f2 r-xp 0 0:0 0 [vdso]\n"
        )
        machine.file("/proc/70/maps", maps)
        assert said(machine) == []
        assert f"{PATH}{EDU}/resource2_wc is mapped in process 70 (poke))" in refused(machine)

    def test_many_holders_are_named_in_part(self, machine: Host) -> None:
        machine.node("uio0", "char/240:0", f"{PATH}{EDU}/uio/uio0")
        for pid in range(70, 75):
            machine.open_in(pid, 5, "/dev/uio0")
            machine.open_in(pid, 6, "/dev/uio0")
        (use,) = host.uses(machine)
        assert use.why.startswith("/dev/uio0 is open in process 70 (qemu), descriptor 5; process 71")
        assert use.why.endswith("process 72 (qemu), descriptor 5; and 2 more")

    def test_this_process_is_called_so(self, machine: Host) -> None:
        machine.node("uio0", "char/240:0", f"{PATH}{EDU}/uio/uio0")
        machine.open_in(os.getpid(), 9, "/dev/uio0")
        assert said(machine) == ["node:uio0 (/dev/uio0 is open in this process, descriptor 9)"]

    def test_ordinary_nodes_and_other_files_are_no_use(self, machine: Host) -> None:
        for number, target in enumerate(
            ("/dev/null", "/dev/pts/3", "/dev/shm/x", "/home/dev", "socket:[5]", "anon_inode:[eventfd]", "/dev/kvm")
        ):
            machine.open_in(70, number, target)
        machine.node("kvm", "char/10:232", "/sys/devices/virtual/misc/kvm")
        assert said(machine) == []

    def test_nodes_of_vfio_are_holders_and_no_other_use(self, machine: Host) -> None:
        machine.attach("pci", EDU, "vfio-pci")
        machine.node("vfio/devices/vfio0", "char/511:0", f"{PATH}{EDU}/vfio-dev/vfio0")
        machine.open_in(70, 5, "/dev/vfio/devices/vfio0")
        machine.numbers["/jail/dev/mine"] = "char/511:0"
        machine.open_in(70, 6, "/jail/dev/mine")
        assert said(machine) == []


class TestDisks:
    def test_an_active_volume_counts_without_a_mount(self, machine: Host) -> None:
        disk = machine.disk(NVME, "nvme0n1")
        volume = "/sys/devices/virtual/block/dm-0"
        machine.file(f"{volume}/dm/name", "vg-data\n")
        machine.link(f"{volume}/slaves/nvme0n1", disk)
        machine.link(f"{disk}/holders/dm-0", volume)
        machine.link("/sys/class/block/dm-0", volume)
        assert said(machine) == ["disk:dm-0 (device mapper's vg-data is active)"]
        refused(machine, NVME)

    def test_a_volume_under_another_is_said_once(self, machine: Host) -> None:
        disk = machine.disk(NVME, "nvme0n1")
        for name, below in (("dm-0", disk), ("dm-1", "/sys/devices/virtual/block/dm-0")):
            path = f"/sys/devices/virtual/block/{name}"
            machine.file(f"{path}/dm/name", f"{name}-title\n")
            machine.link(f"{path}/slaves/{os.path.basename(below)}", below)
            machine.link(f"/sys/class/block/{name}", path)
        machine.link("/sys/devices/virtual/block/dm-0/holders/dm-1", "/sys/devices/virtual/block/dm-1")
        assert said(machine) == ["disk:dm-1 (device mapper's dm-1-title is active)"]

    def test_a_member_of_an_array_counts(self, machine: Host) -> None:
        disk = machine.disk(NVME, "nvme0n1")
        array = "/sys/devices/virtual/block/md127"
        machine.file(f"{array}/md/level", "raid1\n")
        machine.link(f"{array}/slaves/nvme0n1", disk)
        machine.link("/sys/class/block/md127", array)
        assert said(machine) == ["disk:md127 (a member of the array md127 (raid1))"]

    def test_a_loop_device_on_a_disk_counts(self, machine: Host) -> None:
        machine.disk(NVME, "nvme0n1")
        machine.file("/dev/nvme0n1", "")
        machine.file("/sys/devices/virtual/block/loop0/loop/backing_file", "/dev/nvme0n1\n")
        machine.link("/sys/class/block/loop0", "/sys/devices/virtual/block/loop0")
        assert said(machine) == ["disk:loop0 (loop0 is set up on /dev/nvme0n1)"]
        refused(machine, NVME)

    def test_each_disk_of_a_btrfs_counts(self, machine: Host) -> None:
        disk = machine.disk(NVME, "nvme0n1")
        second = machine.directory(f"{PATH}{EDU}/block/sda")
        machine.link("/sys/class/block/sda", second)
        machine.file("/dev/nvme0n1", "")
        for name, path in (("nvme0n1", disk), ("sda", second)):
            machine.link(f"/sys/fs/btrfs/some-uuid/devices/{name}", path)
        machine.file("/proc/self/mountinfo", "21 1 0:25 / /data rw - btrfs /dev/nvme0n1 rw\n")
        assert said(machine) == ["disk:nvme0n1 (mounted at /data)", "disk:sda (mounted at /data)"]

    def test_a_disk_that_something_holds_exclusively_is_refused(self, machine: Host) -> None:
        """ZFS and iSCSI targets are not visible in sysfs."""
        machine.disk(NVME, "nvme0n1")
        machine.held.add("/dev/nvme0n1")
        assert "disk:nvme0n1 (/dev/nvme0n1 is held exclusively" in refused(machine, NVME)
        assert said(machine) == []


class TestNetworks:
    HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"

    def test_an_interface_with_a_route_counts(self, machine: Host) -> None:
        machine.interface(EDU, "eth0")
        machine.file("/proc/net/route", f"{self.HEAD}eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n")
        assert said(machine) == ["network:eth0 (a route)"]
        refused(machine)

    def test_link_local_addresses_are_no_use(self, machine: Host) -> None:
        machine.interface(EDU, "eth0")
        zero = "0" * 32
        local = [f"fe80{'0' * 28} 40", f"ff00{'0' * 28} 08"]
        lines = "".join(f"{one} {zero} 00 {zero} 00000100 1 0 00000001     eth0\n" for one in local)
        machine.file("/proc/net/ipv6_route", lines)
        assert said(machine) == []
        machine.file("/proc/net/ipv6_route", f"20010db8{'0' * 24} 40 {zero} 00 {zero} 00000100 1 0 00000001     eth0\n")
        assert said(machine) == ["network:eth0 (a route)"]

    def test_a_port_of_a_bridge_counts(self, machine: Host) -> None:
        path = machine.interface(EDU, "eth0")
        machine.link(f"{path}/master", machine.directory("/sys/devices/virtual/net/br0"))
        assert said(machine) == ["network:eth0 (a port of br0)"]

    def test_a_packet_socket_counts_but_for_lldp(self, machine: Host) -> None:
        machine.interface(EDU, "eth0", 2)
        machine.interface(OTHER, "eth1", 3)
        head = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"
        rows = "0 3 3 0003 2 1 0 0 5\n0 3 3 88cc 3 1 0 0 6\n0 3 3 0003 0 1 0 0 7\n"
        machine.file("/proc/net/packet", head + rows)
        assert said(machine) == ["network:eth0 (a packet socket is bound to it)"]

    def test_a_netconsole_counts(self, machine: Host) -> None:
        machine.interface(EDU, "eth0")
        machine.file("/sys/kernel/config/netconsole/target/dev_name", "eth0\n")
        machine.file("/sys/kernel/config/netconsole/target/enabled", "0\n")
        assert said(machine) == []
        machine.file("/sys/kernel/config/netconsole/target/enabled", "1\n")
        assert said(machine) == ["network:eth0 (netconsole target)"]

    def test_an_interface_in_another_network_namespace_is_refused(self, machine: Host) -> None:
        machine.directory(f"{PATH}{EDU}/net")
        assert f"network:elsewhere ({PATH}{EDU}/net is empty" in refused(machine)

    def test_virtual_interfaces_are_left_out(self, machine: Host) -> None:
        machine.link("/sys/class/net/docker0", machine.directory("/sys/devices/virtual/net/docker0"))
        machine.file("/proc/net/route", f"{self.HEAD}docker0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n")
        assert said(machine) == []


class TestOthers:
    def test_a_dma_channel_that_is_taken_counts(self, machine: Host) -> None:
        channel = f"{PATH}{EDU}/dma/dma0chan0"
        machine.link("/sys/class/dma/dma0chan0", machine.directory(channel))
        machine.file(f"{channel}/in_use", "0\n")
        assert said(machine) == []
        machine.file(f"{channel}/in_use", "2\n")
        assert said(machine) == ["dma:dma0chan0 (clients of the DMA engine's channel: 2)"]

    def test_uses_of_vfs_are_those_of_their_physical_function(self, machine: Host) -> None:
        function = machine.pci("0000:00:10.0", group=21)
        machine.file(f"{PATH}{EDU}/sriov_totalvfs", "7\n")
        machine.link(f"{PATH}{EDU}/virtfn0", function)
        machine.node("uio0", "char/240:0", f"{function}/uio/uio0")
        machine.open_in(70, 5, "/dev/uio0")
        assert "node:uio0" in refused(machine)

    def test_a_virtual_function_open_through_vfio_is_named(self, machine: Host) -> None:
        function = machine.pci("0000:00:10.0", group=21, driver="vfio-pci")
        machine.file(f"{PATH}{EDU}/sriov_totalvfs", "7\n")
        machine.link(f"{PATH}{EDU}/virtfn0", function)
        assert host.bind(EDU, "vfio-pci", dry_run=True, kernel=machine).writes
        machine.open_in(70, 5, "/dev/vfio/devices/vfio0")
        assert "vfio:0000:00:10.0 (open in process 70 (qemu), descriptor 5)" in refused(machine)

    def test_a_mediated_device_open_through_vfio_is_named(self, machine: Host) -> None:
        uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
        machine.add("mdev", f"{PATH}{EDU}/{uuid}", group=22, driver="vfio_mdev")
        machine.open_in(70, 5, "/dev/vfio/devices/vfio0")
        assert f"vfio:{uuid} (open in process 70 (qemu), descriptor 5)" in refused(machine)
