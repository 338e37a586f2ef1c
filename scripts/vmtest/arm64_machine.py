# SPDX-License-Identifier: MIT
"""The arm64 machine: QEMU's board "virt" with an SMMUv3, a kernel with pages of 64 KiB, and a user space of its own."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmtest.addresses import ROOT_BUS
from vmtest.arm64_root import LAUNCHER_PATH, MACHINE, PROJECT, PYCACHE
from vmtest.devices import Device, devices_of
from vmtest.guest import guest_environment, write_init
from vmtest.hardware import COMMON_PARAMETERS, Hardware
from vmtest.iommus import Iommu
from vmtest.machine import Machine, Settings
from vmtest.modules import MODULES
from vmtest.shares import Share
from vmtest.translation import DEVICE

# The name in PYVFIO_VM_IOMMU.
IOMMU_NAME = "smmuv3"
IOMMU = Iommu("", machine="virt,iommu=smmuv3,gic-version=3")
# A processor without pointer authentication and SVE, which take time under emulation.
CPU = "cortex-a72"
# The devices that are there; the network cards have no driver in this kernel.
DEVICES = ("edu", "nvme")
# The environment of a command. What the host's has is for another file system.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONPATH": f"{PROJECT}:{PROJECT / 'scripts'}",
    "PYTHONPYCACHEPREFIX": str(PYCACHE),
}
PASSED_ON = re.compile(r"CI|(PYTEST|HYPOTHESIS)_\w+")


@dataclass(frozen=True)
class Arm64Hardware(Hardware):
    """The board, its processor and its devices."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """The machine's own devices."""
        return tuple(device for device in devices_of(self.qemu) if device.name in DEVICES and device.bus == ROOT_BUS)

    @property
    def cpu(self) -> str:
        """The value of QEMU's option -cpu."""
        return CPU

    def kernel_options(self, kernel: Mapping[str, Any], init: Path, further: str) -> list[str]:
        """Return QEMU's options to boot a kernel."""
        parameters = ["console=ttyAMA0", COMMON_PARAMETERS, self.iommu.parameters, f"init={init}", further]
        return ["-kernel", f"{kernel['kernel']}/Image", "-append", " ".join(filter(None, parameters))]


@dataclass(frozen=True)
class Arm64Settings(Settings):
    """The settings of an arm64 machine. Its `here` is a copy of the project, which the guest has at /project."""

    root: Path = Path()
    """The root file system."""
    pycache: Path = Path()
    """A directory for Python's compiled modules."""


class Arm64Machine(Machine):
    """One run of QEMU for arm64, whose guest runs a command."""

    _settings: Arm64Settings

    def hardware(self) -> Arm64Hardware:
        """Return the machine's hardware."""
        settings = self._settings
        return Arm64Hardware(settings.qemu, IOMMU, settings.memory, settings.cpus)

    def shares(self, directory: Path) -> list[Share]:
        """Return the directories that the guest sees; the first is its root."""
        return [
            Share("root", self._settings.root),
            Share("machine", directory, MACHINE),
            Share("here", self._settings.here, PROJECT),
            Share("pycache", self._settings.pycache, PYCACHE),
        ]

    def write_init(self, directory: Path, mark: str, shares: Sequence[Share], devices: Sequence[Device]) -> Path:
        """Write process 1 with its files, and return the path of the program that starts it."""
        settings = self._settings
        kernel = dict(settings.kernel)
        for module in MODULES:
            kernel[module.name] = self._hand_over(Path(kernel[module.name]), directory)
        host = ENVIRONMENT | {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
        write_init(
            directory,
            mark=mark,
            here=PROJECT,
            # The launcher has mounted the machine's own files.
            shares=[share for share in shares if share.path != directory],
            environment=guest_environment(host, IOMMU_NAME, devices, kernel, settings.qemu.version),
            command=settings.command,
            check=[self._hand_over(settings.check, directory), DEVICE],
            seen_at=MACHINE,
        )
        return LAUNCHER_PATH

    def _hand_over(self, file: Path, directory: Path) -> str:
        """Copy a file to the machine's own, and return its path in the guest."""
        shutil.copy(file, directory)
        return str(MACHINE / file.name)
