# SPDX-License-Identifier: MIT
"""Drive the documentation's Adder through Linux's vfio-pci: registers, MSI, DMA through shared memory and by messages, and faults."""

from __future__ import annotations

import os

import pyvfio
from tests.vfio_user_guest.programs.guest import LIMIT, address_of, kernel_log, step, wait_until

#: The log messages for blocked DMA, by IOMMU. QEMU's AMD IOMMU reports no event for it.
LOGGED = {"intel": "DMAR: [DMA Read", "virtio": "fault from EP"}


def add(device: pyvfio.Device, iova: int, values: list[int]) -> int:
    """Make the device add the values at an IOVA, and return its result."""
    (vector,) = device.irqs.msi.enable()
    device.regions[0].write32(0x00, iova)
    device.regions[0].write32(0x04, iova >> 32)
    device.regions[0].write32(0x08, len(values))
    vector.wait(timeout=LIMIT)
    device.irqs.msi.disable()
    return device.regions[0].read32(0x10)


def drive(address: str, mode: str) -> None:
    """Open the device in a mode, and let it add."""
    with pyvfio.open(address, mode=mode) as device:  # type: ignore[arg-type]  # mode is a name
        device.config.bus_master = True
        mapping = device.address_space.alloc(3 * 4096)
        for values in ([1, 2, 3], list(range(1000))):
            mapping.buffer.view[: 8 * len(values)] = b"".join(n.to_bytes(8, "little") for n in values)
            assert add(device, mapping.iova, values) == sum(values)
        print(f"{device!r}: sum {add(device, mapping.iova, [0, 1, 2])}")


def touch_unmapped(address: str) -> None:
    """Let the device read an unmapped IOVA. The IOMMU blocks it, the device reads zeros, and Linux logs the fault."""
    before = kernel_log()
    with pyvfio.open(address) as device:
        device.config.bus_master = True
        device.regions[0].write32(0x10, 77)
        # The device reads zeros there. It replaces the 77 only when it has the answer, so wait for its interrupt before reading the sum.
        assert add(device, 0x5000, [1]) == 0
        if word := LOGGED.get(os.environ["PYVFIO_VM_IOMMU"]):
            wait_until(lambda: word in kernel_log()[len(before) :], "a fault in the kernel's log")


def main() -> None:
    for name in ("adder", "messages"):
        address = address_of(name)
        with pyvfio.host.bind(address, "vfio-pci"):
            for mode in ("iommufd", "type1v2"):
                with step(f"{name} by {mode}"):
                    drive(address, mode)
            if name == "messages":
                with step("an unmapped IOVA"):
                    touch_unmapped(address)


if __name__ == "__main__":
    main()
