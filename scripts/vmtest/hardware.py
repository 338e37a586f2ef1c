# SPDX-License-Identifier: MIT
"""The machine's hardware as QEMU's options, and the kernel's parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vmtest.addresses import ROOT_BUS
from vmtest.devices import Device, addresses_of, devices_of
from vmtest.exit_code import ExitCode, MachineError
from vmtest.iommus import Iommu
from vmtest.qemu import Qemu
from vmtest.shares import NINE_P, Share

# Parameters for a kernel of any architecture.
COMMON_PARAMETERS = (
    f"root=root rootfstype=9p rootflags={NINE_P},cache=loose ro "
    # On a panic the kernel reboots at once, and QEMU, which runs with -no-reboot, ends.
    "panic=-1 oops=panic printk.time=1 sysrq_always_enabled "
    # A busy host stops the guest for seconds. The watchdogs must not take that for a hang of the guest.
    "rcupdate.rcu_cpu_stall_timeout=120"
)
KERNEL_PARAMETERS = (
    f"console=ttyS0 {COMMON_PARAMETERS} watchdog_thresh=60 no_timer_check hugepages=64 hugepagesz=1G hugepages=1 "
    # If a machine stalls, vmtest.machine makes the kernel log its state by sysrq, and at last by an NMI.
    "unknown_nmi_panic "
    # The guest sees the host's time stamp counter. On a busy host the kernel would calibrate it wrongly.
    "tsc=reliable clocksource=hpet"
)
# Additional parameters for the distribution's kernel: they turn off protections that cost time and are useless here.
# The kernels of scripts/build_kernel are built without them.
READY_PARAMETERS = "nokaslr mitigations=off"
# QEMU's vfio-user client device, and its timeout for an answer in milliseconds: on a busy host servers are slow.
VFIO_USER = "vfio-user-pci"
VFIO_USER_TIMEOUT = 30_000


class Placement(NamedTuple):
    """The addresses of the devices on the root bus that are not in devices.py."""

    serial: str
    shares: Sequence[str]
    sockets: Sequence[str]


@dataclass(frozen=True)
class Hardware:
    """The machine's processors, memory, IOMMU and devices."""

    qemu: Qemu
    iommu: Iommu
    memory: str
    cpus: int
    sockets: Sequence[Path] = ()
    """Sockets of vfio-user servers, one for each additional device."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """The machine's own devices."""
        return devices_of(self.qemu)

    @property
    def cpu(self) -> str:
        """The value of QEMU's option -cpu."""
        return "max,la57=off"

    def placement(self, shares: Sequence[Share]) -> Placement:
        """Return a free address for each of these devices."""
        addresses = addresses_of(self.devices)
        return Placement(
            addresses.take_free_slot("virtio-serial"),
            [addresses.take_free_slot(f"the share {share.tag}") for share in shares],
            [addresses.take_free_slot(f"the server {path}") for path in self.sockets],
        )

    def served_devices(self, shares: Sequence[Share]) -> list[Device]:
        """Return the devices behind vfio-user, with their addresses."""
        placed = self.placement(shares).sockets
        return [Device(address, f"vfio-user:{path}") for address, path in zip(placed, self.sockets, strict=True)]

    def options(
        self, shares: Sequence[Share], channels: Mapping[str, int], monitors: Mapping[str, int], drive: Path
    ) -> list[str]:
        """Return QEMU's options for all hardware.

        :param channels: descriptors of sockets: first the serial console, then the virtio ports from 1 on
        :param monitors: descriptors of sockets: `host` and `monitor` become QEMU's monitors, `port` a virtio port of
            the guest
        :param drive: a file with the contents of the nvme device
        :raises MachineError: this QEMU does not have the IOMMU
        """
        placement = self.placement(shares)
        options = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi"]
        options += [*self.iommu.options(self.qemu), "-cpu", self.cpu, "-smp", str(self.cpus), "-m", self.memory]
        options += ["-device", f"virtio-serial-pci,addr={placement.serial}"]
        for share, address in zip(shares, placement.shares, strict=True):
            options += share.options(address)
        for name, descriptor in {**channels, **monitors}.items():
            options += ["-chardev", f"socket,id={name},fd={descriptor}"]
        console, *ports = channels
        options += ["-serial", f"chardev:{console}"]
        for number, name in enumerate(ports, 1):
            options += ["-device", f"virtserialport,nr={number},chardev={name}"]
        options += ["-qmp", "chardev:host", "-qmp", "chardev:monitor"]
        options += ["-device", f"virtserialport,nr={len(channels)},chardev=port,name=pyvfio.qmp"]
        options += ["-blockdev", f"driver=file,node-name=drive0,filename={drive}"]
        for number in range(3):
            options += ["-netdev", f"hubport,id=net{number},hubid=0"]
        options += ["-device", "nvme-subsys,id=subsystem0"]
        for device in self.devices:
            options += ["-device", device.option]
        options += ["-device", "nvme-ns,drive=drive0,bus=nvme0"]
        return [*options, *self._vfio_user_options(placement.sockets)]

    def _vfio_user_options(self, addresses: Sequence[str]) -> list[str]:
        """Return QEMU's options for the devices behind vfio-user, and for guest memory that QEMU can share with their servers.

        :raises MachineError: this QEMU has no vfio-user client
        """
        if not self.sockets:
            return []
        if not self.qemu.has_device(VFIO_USER):
            raise MachineError(
                f"--device: QEMU {self.qemu.version} has no {VFIO_USER}; try --qemu newest", ExitCode.CANNOT_RUN
            )
        options = [
            "-object",
            f"memory-backend-memfd,id=ram,size={self.memory},share=on",
            "-machine",
            "memory-backend=ram",
        ]
        for path, address in zip(self.sockets, addresses, strict=True):
            device = {
                "driver": VFIO_USER,
                "socket": {"type": "unix", "path": str(path)},
                "x-msg-timeout": VFIO_USER_TIMEOUT,
                "addr": address,
                "bus": ROOT_BUS,
            }
            options += ["-device", json.dumps(device)]
        return options

    def kernel_options(self, kernel: Mapping[str, Any], init: Path, further: str) -> list[str]:
        """Return QEMU's options to boot a kernel.

        :param kernel: the paths that `scripts/build_kernel --json` prints
        :param init: the guest's process 1
        :param further: additional kernel parameters
        """
        parameters = [KERNEL_PARAMETERS, self.iommu.parameters, f"init={init}", further]
        options = ["-kernel", f"{kernel['kernel']}/bzImage"]
        if kernel["initramfs"]:
            options += ["-initrd", kernel["initramfs"]]
            parameters.append(READY_PARAMETERS)
        return [*options, "-append", " ".join(parameters)]
