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

KERNEL_PARAMETERS = (
    f"console=ttyS0 root=root rootfstype=9p rootflags={NINE_P},cache=loose ro "
    # A panic ends the machine, for QEMU does not restart it.
    "panic=-1 oops=panic printk.time=1 "
    # A busy host stops the guest for seconds; that is no hang of the guest's.
    "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120 no_timer_check hugepages=64 hugepagesz=1G hugepages=1 "
    # A machine that stalls is asked for its state by sysrq, and in the end by an NMI.
    "sysrq_always_enabled unknown_nmi_panic "
    # The time stamp counter is the host's, and a busy host makes its calibration wrong.
    "tsc=reliable clocksource=hpet"
)
# For a kernel of the distribution's: what costs time and protects nothing here. Ours is built without.
READY_PARAMETERS = "nokaslr mitigations=off"
# QEMU's device that is a client of vfio-user, and how many milliseconds it waits for an answer: a busy host makes servers slow.
VFIO_USER = "vfio-user-pci"
VFIO_USER_TIMEOUT = 30_000


class Placement(NamedTuple):
    """The addresses on the root bus of what is there besides the devices of devices.py."""

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
    """Of servers of vfio-user, each with a device."""

    def placement(self, shares: Sequence[Share]) -> Placement:
        """Give addresses out."""
        addresses = addresses_of(devices_of(self.qemu))
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

        :param channels: descriptors of sockets: first the serial console's, then those of the ports from 1 on
        :param monitors: descriptors of sockets: `host` and `monitor` become QEMU's monitors, `port` a port of the guest
        :param drive: a file with the contents of the nvme device
        :raises MachineError: this QEMU lacks the IOMMU
        """
        devices = devices_of(self.qemu)
        placement = self.placement(shares)
        options = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi"]
        options += [*self.iommu.options(self.qemu), "-cpu", "max,la57=off", "-smp", str(self.cpus), "-m", self.memory]
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
        for device in devices:
            options += ["-device", device.option]
        options += ["-device", "nvme-ns,drive=drive0,bus=nvme0"]
        return [*options, *self._vfio_user_options(placement.sockets)]

    def _vfio_user_options(self, addresses: Sequence[str]) -> list[str]:
        """Return QEMU's options for the devices behind vfio-user, to whose servers it gives the guest's memory.

        :raises MachineError: this QEMU cannot do that
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
        :param further: parameters that the caller adds
        """
        parameters = [KERNEL_PARAMETERS, self.iommu.parameters, f"init={init}", further]
        options = ["-kernel", f"{kernel['kernel']}/bzImage"]
        if kernel["initramfs"]:
            options += ["-initrd", kernel["initramfs"]]
            parameters.append(READY_PARAMETERS)
        return [*options, "-append", " ".join(parameters)]
