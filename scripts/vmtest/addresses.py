# SPDX-License-Identifier: MIT
"""The PCI addresses of the virtual machine. Each function gets a different one."""

from __future__ import annotations

import itertools

ROOT_BUS = "pcie.0"
# Addresses that QEMU's board or an IOMMU takes, in addition to the devices of devices.py.
RESERVED = {
    "0.0": "the host bridge",
    "1.0": "AMD's IOMMU, which QEMU places in the first free slot",
    "2.0": "virtio's IOMMU",
    "14.0": "the IOAPIC, in the eyes of AMD's IOMMU",
    "1f.0": "the LPC bridge",
    "1f.2": "AHCI",
    "1f.3": "SMBus",
}


class Addresses:
    """The PCI addresses in use, on all buses of the machine.

    QEMU places a device without an explicit address in the first slot that is free at that time. A virtual function
    that is created later may need that slot. So every device gets an explicit address, and this class records them.
    """

    def __init__(self) -> None:
        self._owners: dict[tuple[str, int, int], str] = {}
        for address, owner in RESERVED.items():
            self.take(address, owner)

    def take(self, address: str, owner: str, bus: str = ROOT_BUS) -> None:
        """Record that a device has an address: slot and function, in hexadecimal.

        :raises ValueError: another device has the address
        """
        slot, function = (int(number, 16) for number in address.split("."))
        previous = self._owners.setdefault((bus, slot, function), owner)
        if previous != owner:
            raise ValueError(f"{owner} and {previous} have the same PCI address {address} on {bus}")

    def take_virtual_functions(self, address: str, owner: str, bus: str, count: int, offset: int, stride: int) -> None:
        """Record the addresses of a device's virtual functions, computed from the fields of its SR-IOV capability.

        :param address: the physical function's address
        :param offset: First VF Offset: from the physical function to the first virtual function
        :param stride: VF Stride: from one virtual function to the next
        :raises ValueError: another device has one of the addresses, or one is on another bus
        """
        slot, function = (int(number, 16) for number in address.split("."))
        for number in range(count):
            routing = slot * 8 + function + offset + number * stride
            if routing > 0xFF:
                raise ValueError(f"virtual function {number} of {owner} would be on another bus than {bus}")
            self.take(f"{routing // 8:x}.{routing % 8}", f"virtual function {number} of {owner}", bus)

    def take_free_slot(self, owner: str) -> str:
        """Take the first slot of the root bus that has no function yet, and return the address of its function 0.

        :raises ValueError: no slot is free
        """
        used = {slot for bus, slot, _ in self._owners if bus == ROOT_BUS}
        slot = next(slot for slot in itertools.count() if slot not in used)
        if slot > 0x1F:
            raise ValueError(f"no PCI slot is free for {owner}")
        address = f"{slot:x}.0"
        self.take(address, owner)
        return address
