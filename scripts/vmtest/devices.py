# SPDX-License-Identifier: MIT
"""The emulated devices of the machine, and their PCI addresses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from vmtest.addresses import ROOT_BUS, Addresses

if TYPE_CHECKING:
    from vmtest.qemu import Qemu


class VirtualFunctions(NamedTuple):
    """The virtual functions that a device can have: fields of its SR-IOV capability."""

    total: int
    offset: int
    """First VF Offset: from the physical function's routing ID to that of the first virtual function."""
    stride: int


class Device(NamedTuple):
    """A device of the machine."""

    address: str
    """Slot and function on its bus, in hexadecimal."""
    name: str
    """QEMU's name for the device model."""
    properties: str = ""
    bus: str = ROOT_BUS
    virtual_functions: VirtualFunctions | None = None

    @property
    def option(self) -> str:
        """The value of QEMU's option -device."""
        properties = f",{self.properties}" if self.properties else ""
        return f"{self.name}{properties},addr={self.address},bus={self.bus}"

    @property
    def guest_address(self) -> str:
        """The address in the guest: domain, bus, slot, function."""
        slot, _, function = self.address.partition(".")
        return f"0000:{BUS_NUMBERS[self.bus]:02x}:{int(slot, 16):02x}.{function}"


# The firmware numbers the buses in the order of their root ports.
BUS_NUMBERS = {ROOT_BUS: 0, "port1": 1, "port2": 2}

DEVICES = (
    Device("3.0", "edu"),
    Device(
        "4.0",
        "nvme",
        "id=nvme0,serial=pyvfio0,subsys=subsystem0,"
        # sriov_vq_flexible and sriov_vi_flexible: queues and vectors that the virtual functions can use.
        "sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,max_ioqpairs=6,msix_qsize=7",
        virtual_functions=VirtualFunctions(2, offset=1, stride=1),
    ),
    Device("5.0", "edu", "multifunction=on"),
    Device("5.1", "edu", "dma_mask=0xffffffff"),
    Device("6.0", "e1000e", "netdev=net0"),
    # TotalVFs is 8, but Linux's igb driver offers 7.
    Device("7.0", "igb", "netdev=net1", virtual_functions=VirtualFunctions(8, offset=0x80, stride=2)),
    Device("8.0", "pcie-root-port", "id=port1,chassis=1,slot=1"),
    Device("0.0", "edu", "id=pluggable", bus="port1"),
    Device("9.0", "pcie-root-port", "id=port2,chassis=2,slot=2"),
    Device("0.0", "e1000e", "netdev=net2,multifunction=on", bus="port2"),
    Device("0.1", "edu", bus="port2"),
)


def devices_of(qemu: Qemu) -> tuple[Device, ...]:
    """Return the devices that this QEMU can emulate: all, but igb only since QEMU 8.0."""
    return tuple(device for device in DEVICES if qemu.has_device(device.name))


def addresses_of(devices: Iterable[Device]) -> Addresses:
    """Return the addresses of these devices and their virtual functions.

    :raises ValueError: two functions have the same address
    """
    addresses = Addresses()
    for device in devices:
        owner = f"{device.name} at {device.address} of {device.bus}"
        addresses.take(device.address, owner, device.bus)
        if functions := device.virtual_functions:
            addresses.take_virtual_functions(device.address, owner, device.bus, *functions)
    return addresses
