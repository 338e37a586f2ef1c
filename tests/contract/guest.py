# SPDX-License-Identifier: MIT
"""The machine in which the suite runs: that of scripts/vm, described by environment variables, or otherwise pyvfio's mock."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vmtest.matrix import IN_PROCESS, LOCAL, SERVED, Cell

from pyvfio import host
from pyvfio.kernel import Kernel

if TYPE_CHECKING:
    from pyvfio.mock import Kernel as MockKernel

ROOT = Path(__file__).resolve().parents[2]
IOMMU = os.environ.get("PYVFIO_VM_IOMMU")
#: The kernel's name in cells, such as `7.3`; `debug` for the debug kernel, `mock` for the mock.
KERNEL = os.environ.get("PYVFIO_CELL_KERNEL") or ".".join(os.environ.get("PYVFIO_VM_KERNEL", IN_PROCESS).split(".")[:2])
#: The profile of the mock for each IOMMU of a cell.
PROFILES = {"intel": "intel-39", "amd": "amd", "virtio": "virtio", "none": "none"}
#: The name of every emulated PCI device, by address.
DEVICES: dict[str, str] = json.loads(os.environ.get("PYVFIO_VM_DEVICES", "{}")) or {
    "0000:00:03.0": "edu", "0000:00:04.0": "nvme", "0000:00:06.0": "e1000e", "0000:00:07.0": "igb",
}  # fmt: skip

#: The model for `pyvfio serve` of a device of the suite, if it does not have the device's name.
SERVED_MODELS = {"nvme": "tests.contract.served:nvme"}
MOCK = "vfio-mock"
#: edu with the kernel driver of tests/edu_vfio_pci, which supports DMA logging and migration.
EDU = "edu-vfio-pci"
#: The kernel module with the driver of a device of the suite, and the environment variable with the module's path.
MODULES = {MOCK: ("vfio_mock", "PYVFIO_MOCK_MODULE"), EDU: ("edu_vfio_pci", "PYVFIO_EDU_MODULE")}


def is_here(kernel: str) -> bool:
    """Whether cells of a kernel can run here."""
    return kernel == KERNEL or (KERNEL == IN_PROCESS and kernel in LOCAL)


@contextlib.contextmanager
def kernel_of(cell: Cell) -> Iterator[Kernel]:
    """Yield the kernel on which a cell runs."""
    if cell.kernel not in LOCAL:
        from pyvfio.kernel import LinuxKernel

        yield LinuxKernel()
        return
    from pyvfio import mock

    kernel = mock.Kernel(PROFILES[cell.iommu])
    if cell.kernel == SERVED:
        with _served(cell.device, kernel):
            yield kernel
    else:
        yield kernel


@contextlib.contextmanager
def _served(model: str, kernel: MockKernel) -> Iterator[None]:
    """Replace the mock's own device by a model that another process serves over vfio-user."""
    from pyvfio import vfio_user

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "socket")
        command = [sys.executable, "-m", "pyvfio", "serve", "--json", SERVED_MODELS.get(model, model), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as server:
            try:
                assert server.stdout is not None
                assert b"serving" in server.stdout.readline()
                address = next(address for address, name in DEVICES.items() if name == model)
                own = kernel.devices[address]
                driver = own.driver
                kernel.host.unplug(own)
                # As much as QEMU's client gets in the machines: on a busy host servers are slow.
                vfio_user.RemoteDevice(kernel, address, path, timeout=30, driver=driver)
                # A thread of this process answers the server's DMA. With the default interval, a driver that polls in
                # Python would delay each answer by 5 ms.
                sys.setswitchinterval(0.0001)
                yield
            finally:
                server.kill()


def address_of(device: str) -> str:
    """Return the address of the first device with a name. It is alone in its group."""
    if KERNEL != IN_PROCESS:
        load_driver(device)
    if device == MOCK:
        return f"{MOCK}.0"
    if device == EDU:
        device = "edu"
    return next(address for address, name in DEVICES.items() if name == device)


def second_address_of(device: str) -> str:
    """Return the address of another device of the same kind, whose DMA reaches memory under every IOMMU.

    It is alone in its group, or the other devices of the group have no driver.
    """
    return {MOCK: f"{MOCK}.1", EDU: "0000:00:05.0"}[device]


def driver_of(device: str) -> str:
    """Return the VFIO driver to which a device of the suite is bound."""
    return MODULES[EDU][0] if device == EDU else "vfio-pci"


def load_driver(device: str) -> None:
    """Load the kernel module with the driver of a device of the suite, if it has one and it is not loaded yet."""
    module, variable = MODULES.get(device, ("", ""))
    if module and not Path(f"/sys/module/{module}").exists():
        if variable not in os.environ:
            raise RuntimeError(f"tests/{module} was not built for this kernel")
        subprocess.run(["insmod", os.environ[variable]], check=True)


@contextlib.contextmanager
def mtty(ports: int = 2) -> Iterator[str]:
    """Create a device of the kernel's sample driver mtty (a serial card that supports migration), and remove it at the end."""
    for module in ("mdev", "mtty"):
        if not Path(f"/sys/module/{module}").exists():
            subprocess.run(["insmod", os.environ[f"PYVFIO_{module.upper()}_MODULE"]], check=True)
    address = str(uuid.uuid4())
    Path(f"/sys/class/mtty/mtty/mdev_supported_types/mtty-{ports}/create").write_text(address)
    try:
        yield address
    finally:
        Path(f"/sys/bus/mdev/devices/{address}/remove").write_text("1")


@contextlib.contextmanager
def ready(address: str, kernel: Kernel, driver: str = "vfio-pci") -> Iterator[str]:
    """Bind a device to a VFIO driver during the block. vfio-mock is left bound to its own driver."""
    if address.startswith(MOCK):
        yield address
        return
    with host.bind(address, driver, kernel=kernel):
        yield address
