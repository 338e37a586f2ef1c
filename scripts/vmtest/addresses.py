# SPDX-License-Identifier: MIT
"""The PCI addresses of the machine: no two functions may have the same."""

from __future__ import annotations

import itertools

ROOT_BUS = "pcie.0"
# What is there besides the devices of devices.py, or is there behind one of the IOMMUs.
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

    QEMU places a device whose address is not given in the first slot that is free at that time, and a virtual function
    that comes later then meets it. So every device is given its address, and this keeps account of them.
    """

    def __init__(self) -> None:
        self._owners: dict[tuple[str, int, int], str] = {}
        for address, owner in RESERVED.items():
            self.take(address, owner)

    def take(self, address: str, owner: str, bus: str = ROOT_BUS) -> None:
        """Give an address, slot and function in hexadecimal, to its owner.

        :raises ValueError: another device has it
        """
        slot, function = (int(number, 16) for number in address.split("."))
        previous = self._owners.setdefault((bus, slot, function), owner)
        if previous != owner:
            raise ValueError(f"{owner} and {previous} have the same PCI address {address} on {bus}")

    def take_virtual_functions(self, address: str, owner: str, bus: str, count: int, offset: int, stride: int) -> None:
        """Give the addresses of a device's virtual functions to it, as its SR-IOV capability tells them.

        :param address: the physical function
        :param offset: from the physical function to the first virtual one
        :param stride: from one virtual function to the next
        :raises ValueError: another device has one of them, or one is not on that bus
        """
        slot, function = (int(number, 16) for number in address.split("."))
        for number in range(count):
            routing = slot * 8 + function + offset + number * stride
            if routing > 0xFF:
                raise ValueError(f"virtual function {number} of {owner} would be on another bus than {bus}")
            self.take(f"{routing // 8:x}.{routing % 8}", f"virtual function {number} of {owner}", bus)

    def take_free_slot(self, owner: str) -> str:
        """Give the first slot of the root bus that is quite empty, and return the address of its function 0.

        :raises ValueError: there is none
        """
        used = {slot for bus, slot, _ in self._owners if bus == ROOT_BUS}
        slot = next(slot for slot in itertools.count() if slot not in used)
        if slot > 0x1F:
            raise ValueError(f"no PCI slot is free for {owner}")
        address = f"{slot:x}.0"
        self.take(address, owner)
        return address
