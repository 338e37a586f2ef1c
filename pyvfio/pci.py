# SPDX-License-Identifier: MIT
"""PCI configuration space. vfio-pci virtualises parts of it, and refuses or drops some writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

from pyvfio._abi import lib
from pyvfio._core import arguments
from pyvfio.errors import BadReply
from pyvfio.region import Registers

if TYPE_CHECKING:
    from pyvfio.device import Device

# Offsets and bits of the PCI Local Bus and PCI Express base specifications.
VENDOR_ID, DEVICE_ID, COMMAND, STATUS, REVISION_ID = 0x00, 0x02, 0x04, 0x06, 0x08
CLASS_CODE, HEADER_TYPE, BAR0, SUBSYSTEM_VENDOR_ID, SUBSYSTEM_ID = 0x09, 0x0E, 0x10, 0x2C, 0x2E
CAPABILITY_POINTER, INTERRUPT_LINE, INTERRUPT_PIN = 0x34, 0x3C, 0x3D
COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER, COMMAND_INTX_DISABLE = 1 << 0, 1 << 1, 1 << 2, 1 << 10
STATUS_CAPABILITIES = 1 << 4
_POWER_MANAGEMENT = 0x01
_STANDARD_END, _EXTENDED_START, _EXTENDED_END = 0x100, 0x100, 0x1000

#: names of capabilities, as lspci writes them
CAPABILITY_NAMES = {
    0x01: "Power Management", 0x03: "VPD", 0x05: "MSI", 0x09: "Vendor Specific", 0x0A: "Debug port",
    0x0D: "Subsystem", 0x10: "PCI Express", 0x11: "MSI-X", 0x12: "SATA", 0x13: "Advanced Features",
    0x14: "Enhanced Allocation",
}  # fmt: skip
EXTENDED_NAMES = {
    0x01: "Advanced Error Reporting", 0x02: "Virtual Channel", 0x03: "Device Serial Number", 0x04: "Power Budgeting",
    0x0B: "Vendor Specific", 0x0D: "Access Control Services", 0x0E: "Alternative Routing-ID", 0x0F: "ATS",
    0x10: "SR-IOV", 0x13: "Page Request", 0x15: "Resizable BAR", 0x17: "TPH", 0x18: "LTR", 0x19: "Secondary PCI Express",
    0x1B: "PASID", 0x1E: "L1 PM Substates", 0x1F: "Precision Time Measurement", 0x23: "Designated Vendor-Specific",
    0x25: "Data Link Feature",
}  # fmt: skip


class PciCapability(NamedTuple):
    """A capability in configuration space.

    :ivar offset: offset of its first byte
    :ivar version: 0 for a standard capability, which has none
    """

    id: int
    offset: int
    version: int
    name: str


class PciConfig(Registers):
    """Configuration space of a device: registers of 8, 16 and 32 bits, and the lists of capabilities.

    :ivar size: bytes: 256, or 4096 with extended configuration space
    """

    _FIELDS = frozenset({"device", "size", "_region"})

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute that exists. Refuse others, since setting a misspelt one would not change any register."""
        if name not in self._FIELDS and not isinstance(getattr(type(self), name, None), property):
            raise AttributeError(
                f"PciConfig has no attribute {name!r} that can be set; it has bus_master, memory_enabled and command"
            )
        super().__setattr__(name, value)

    def __init__(self, device: Device) -> None:
        self.device = device
        self._region = device.regions[lib.VFIO_PCI_CONFIG_REGION_INDEX]
        self.size = self._region.size

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes.

        :raises OSError: EINVAL beyond the end
        """
        return self._region.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes. Read-only bits, and those that vfio-pci virtualises, may keep their value without an error.

        :raises OSError: EINVAL beyond the end
        """
        self._region.write(offset, data)

    def _load(self, offset: SupportsIndex, width: int) -> int:
        return self._region._load(offset, width)

    def _store(self, offset: SupportsIndex, width: int, value: SupportsIndex) -> None:
        self._region._store(offset, width, value)

    @property
    def vendor(self) -> int:
        """The vendor ID, 16 bits."""
        return self.read16(VENDOR_ID)

    @property
    def device_id(self) -> int:
        """The device ID, 16 bits."""
        return self.read16(DEVICE_ID)

    @property
    def class_code(self) -> int:
        """The class code, 24 bits: base class, subclass, programming interface."""
        return self.read32(REVISION_ID) >> 8

    @property
    def command(self) -> int:
        """The command register: COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER, ..."""
        return self.read16(COMMAND)

    @command.setter
    def command(self, value: int) -> None:
        self.write16(COMMAND, arguments.u16(value, "command"))

    @property
    def bus_master(self) -> bool:
        """Whether the device may do DMA and send message-signalled interrupts."""
        return bool(self.command & COMMAND_MASTER)

    @bus_master.setter
    def bus_master(self, on: bool) -> None:
        self._switch(COMMAND_MASTER, arguments.boolean(on, "bus_master"))

    @property
    def memory_enabled(self) -> bool:
        """Whether the device answers accesses to its memory BARs."""
        return bool(self.command & COMMAND_MEMORY)

    @memory_enabled.setter
    def memory_enabled(self, on: bool) -> None:
        self._switch(COMMAND_MEMORY, arguments.boolean(on, "memory_enabled"))

    @property
    def asleep(self) -> bool:
        """Whether the device is in D3hot by its own power management (PMCSR)."""
        found = self.capability(_POWER_MANAGEMENT)
        return found is not None and self.read16(found.offset + 4) & 3 == 3

    def _switch(self, bit: int, on: bool) -> None:
        command = self.command
        wanted = command | bit if on else command & ~bit
        if wanted != command:
            self.command = wanted

    @property
    def capabilities(self) -> list[PciCapability]:
        """The standard capabilities, in the list's order.

        :raises BadReply: the list points into the header, or has a cycle
        """
        if not self.read16(STATUS) & STATUS_CAPABILITIES:
            return []
        data = self.read(0, _STANDARD_END)
        found: list[PciCapability] = []
        seen: set[int] = set()
        offset = data[CAPABILITY_POINTER] & ~3
        while offset:
            if offset < 0x40:
                raise BadReply(f"{self!r}: the capability list points into the header, to {offset:#x}")
            if offset in seen:
                raise BadReply(f"{self!r}: the capability list has a cycle at {offset:#x}")
            seen.add(offset)
            id_ = data[offset]
            found.append(PciCapability(id_, offset, 0, CAPABILITY_NAMES.get(id_, f"{id_:#04x}")))
            offset = data[offset + 1] & ~3
        return found

    @property
    def extended_capabilities(self) -> list[PciCapability]:
        """The extended capabilities; none without extended configuration space.

        :raises BadReply: the list points out of extended space, or has a cycle
        """
        if self.size < _EXTENDED_END:
            return []
        found: list[PciCapability] = []
        seen: set[int] = set()
        offset = _EXTENDED_START
        while offset:
            if offset < _EXTENDED_START or offset > _EXTENDED_END - 4:
                raise BadReply(f"{self!r}: the extended capability list points out of extended space, to {offset:#x}")
            if offset in seen:
                raise BadReply(f"{self!r}: the extended capability list has a cycle at {offset:#x}")
            seen.add(offset)
            header = self.read32(offset)
            if header in (0, 0xFFFFFFFF):
                break
            id_, version = header & 0xFFFF, header >> 16 & 0xF
            # An id of 0 is a placeholder by which vfio-pci hides the list's first capability.
            if id_:
                found.append(PciCapability(id_, offset, version, EXTENDED_NAMES.get(id_, f"{id_:#06x}")))
            following = header >> 20 & ~3
            if not id_ and following <= offset:
                break
            offset = following
        return found

    def capability(self, which: int | str) -> PciCapability | None:
        """Return the first standard capability of an id, or of a name as in :data:`CAPABILITY_NAMES`; None without one.

        :raises ValueError: there is no capability of that name
        """
        id_ = _id_of(which, CAPABILITY_NAMES, arguments.U8_LAST)
        return next((c for c in self.capabilities if c.id == id_), None)

    def extended_capability(self, which: int | str) -> PciCapability | None:
        """Return the first extended capability of an id, or of a name as in :data:`EXTENDED_NAMES`; None without one.

        :raises ValueError: there is no capability of that name
        """
        id_ = _id_of(which, EXTENDED_NAMES, arguments.U16_LAST)
        return next((c for c in self.extended_capabilities if c.id == id_), None)

    def __repr__(self) -> str:
        return f"<PciConfig of {self.device.address}>"


def _id_of(which: int | str, names: dict[int, str], most: int) -> int:
    """Return the id of a capability, given it or the capability's name in any case."""
    if not isinstance(which, str):
        return arguments.integer(which, "which", 0, most)
    ids = {name.lower(): id_ for id_, name in names.items()}
    if which.lower() not in ids:
        raise ValueError(f"which must be an id or one of {', '.join(names.values())}, not {which!r}")
    return ids[which.lower()]
