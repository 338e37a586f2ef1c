# SPDX-License-Identifier: MIT
"""PCI configuration space. vfio-pci virtualises parts of it, and refuses or drops some writes."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

from pyvfio._abi import lib
from pyvfio._core import arguments
from pyvfio.errors import InvalidRequest
from pyvfio.region import Registers

if TYPE_CHECKING:
    from pyvfio.device import Device

__all__ = [
    "CAPABILITY_NAMES",
    "EXTENDED_NAMES",
    "SHORT_EXTENDED_NAMES",
    "SHORT_NAMES",
    "ConfigSpace",
    "PciCapability",
    "PciConfig",
    "SavedConfig",
]

# Offsets and bits of the PCI Local Bus and PCI Express base specifications.
VENDOR_ID, DEVICE_ID, COMMAND, STATUS, REVISION_ID = 0x00, 0x02, 0x04, 0x06, 0x08
CLASS_CODE, HEADER_TYPE, BAR0, SUBSYSTEM_VENDOR_ID, SUBSYSTEM_ID = 0x09, 0x0E, 0x10, 0x2C, 0x2E
CAPABILITY_POINTER, INTERRUPT_LINE, INTERRUPT_PIN = 0x34, 0x3C, 0x3D
COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER, COMMAND_INTX_DISABLE = 1 << 0, 1 << 1, 1 << 2, 1 << 10
STATUS_CAPABILITIES = 1 << 4
_POWER_MANAGEMENT = 0x01
_HEADER_END = 0x40
_STANDARD_END, _EXTENDED_START, _EXTENDED_END = 0x100, 0x100, 0x1000

#: lines of the output of `lspci -x`: the head of a function, and a row of its bytes
_DUMP_HEAD = re.compile(r"((?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]) ")
_DUMP_ROW = re.compile(r"([0-9a-fA-F]{2,3}): ((?:[0-9a-fA-F]{2} ?)+)\s*$")

#: names of capabilities, as lspci writes them
CAPABILITY_NAMES = {
    0x00: "Null", 0x01: "Power Management", 0x02: "AGP", 0x03: "Vital Product Data", 0x04: "Slot ID", 0x05: "MSI",
    0x06: "CompactPCI hot-swap", 0x07: "PCI-X", 0x08: "HyperTransport", 0x09: "Vendor Specific Information", 0x0A: "Debug port",
    0x0B: "CompactPCI central resource control", 0x0C: "Hot-plug capable", 0x0D: "Subsystem", 0x0E: "AGP3", 0x0F: "Secure device",
    0x10: "Express", 0x11: "MSI-X", 0x12: "SATA HBA", 0x13: "PCI Advanced Features", 0x14: "Enhanced Allocation (EA)",
    0x15: "Flattening Portal Bridge",
}  # fmt: skip
#: names of extended capabilities, as lspci writes them
EXTENDED_NAMES = {
    0x01: "Advanced Error Reporting", 0x02: "Virtual Channel", 0x03: "Device Serial Number", 0x04: "Power Budgeting",
    0x05: "Root Complex Link", 0x06: "Root Complex Internal Link", 0x07: "Root Complex Event Collector",
    0x08: "Multi-Function Virtual Channel", 0x09: "Virtual Channel", 0x0A: "Root Complex Register Block",
    0x0B: "Vendor Specific Information", 0x0C: "Configuration Access Correlation", 0x0D: "Access Control Services",
    0x0E: "Alternative Routing-ID Interpretation (ARI)", 0x0F: "Address Translation Service (ATS)",
    0x10: "Single Root I/O Virtualization (SR-IOV)", 0x11: "Multi-Root I/O Virtualization (MR-IOV)", 0x12: "Multicast",
    0x13: "Page Request Interface (PRI)", 0x15: "Physical Resizable BAR", 0x16: "Dynamic Power Allocation",
    0x17: "Transaction Processing Hints", 0x18: "Latency Tolerance Reporting", 0x19: "Secondary PCI Express",
    0x1A: "Protocol Multiplexing", 0x1B: "Process Address Space ID (PASID)", 0x1C: "LN Requester",
    0x1D: "Downstream Port Containment", 0x1E: "L1 PM Substates", 0x1F: "Precision Time Measurement", 0x20: "M-PCIe",
    0x21: "FRS Queueing", 0x22: "Readiness Time Reporting", 0x23: "Designated Vendor-Specific", 0x24: "Virtual Resizable BAR",
    0x25: "Data Link Feature", 0x26: "Physical Layer 16.0 GT/s", 0x27: "Lane Margining at the Receiver", 0x28: "Hierarchy ID",
    0x29: "Native PCIe Enclosure Management", 0x2A: "Physical Layer 32.0 GT/s", 0x2B: "Alternate Protocol",
    0x2C: "System Firmware Intermediary", 0x2D: "Shadow Functions", 0x2E: "Data Object Exchange", 0x2F: "Device 3",
    0x30: "Integrity & Data Encryption", 0x31: "Physical Layer 64.0 GT/s", 0x32: "Flit Logging",
}  # fmt: skip
#: short names that :meth:`ConfigSpace.capability` and :meth:`ConfigSpace.extended_capability` take too
SHORT_NAMES = {
    "PM": 0x01, "VPD": 0x03, "Vendor Specific": 0x09, "PCI Express": 0x10, "EXP": 0x10, "SATA": 0x12, "Advanced Features": 0x13, "AF": 0x13,
}  # fmt: skip
#: short names of extended capabilities
SHORT_EXTENDED_NAMES = {
    "AER": 0x01, "DSN": 0x03, "ACS": 0x0D, "ARI": 0x0E, "ATS": 0x0F, "SR-IOV": 0x10, "PRI": 0x13, "Resizable BAR": 0x15, "TPH": 0x17,
    "LTR": 0x18, "PASID": 0x1B, "DPC": 0x1D, "PTM": 0x1F, "DVSEC": 0x23, "DOE": 0x2E, "IDE": 0x30,
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


class ConfigSpace(Registers):
    """Configuration space of a PCI function: registers of 8, 16 and 32 bits, and the lists of capabilities.

    A broken list (it has a cycle, or points to where no capability can be) is cut off there, with a :class:`RuntimeWarning`.

    :ivar size: bytes: 256, or 4096 with extended configuration space
    """

    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes.

        :param offset: bytes from the start
        :param size: bytes
        """
        raise NotImplementedError

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
    def capabilities(self) -> list[PciCapability]:
        """The standard capabilities, in the list's order."""
        if not self.read16(STATUS) & STATUS_CAPABILITIES:
            return []
        data = self.read(0, _STANDARD_END)
        found: list[PciCapability] = []
        seen: set[int] = set()
        offset = data[CAPABILITY_POINTER] & ~3
        while offset:
            if offset < _HEADER_END:
                self._broken(f"the capability list points into the header, to {offset:#x}", found)
                break
            if offset in seen:
                self._broken(f"the capability list has a cycle at {offset:#x}", found)
                break
            seen.add(offset)
            id_ = data[offset]
            if id_ == 0xFF:
                self._broken(f"the capability list ends in ones, at {offset:#x}", found)
                break
            found.append(PciCapability(id_, offset, 0, CAPABILITY_NAMES.get(id_, f"{id_:#04x}")))
            offset = data[offset + 1] & ~3
        return found

    @property
    def extended_capabilities(self) -> list[PciCapability]:
        """The extended capabilities, in the list's order; none without extended configuration space."""
        if self.size < _EXTENDED_END:
            return []
        found: list[PciCapability] = []
        seen: set[int] = set()
        offset = _EXTENDED_START
        while offset:
            if offset < _EXTENDED_START or offset > _EXTENDED_END - 4:
                self._broken(f"the extended capability list points out of extended space, to {offset:#x}", found)
                break
            if offset in seen:
                self._broken(f"the extended capability list has a cycle at {offset:#x}", found)
                break
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

    def _broken(self, what: str, found: list[PciCapability]) -> None:
        shown = f"the {len(found)} capabilities before that are returned" if found else "it has none before that"
        warnings.warn(f"{self!r}: {what}; {shown}", RuntimeWarning, stacklevel=3)

    def capability(self, which: int | str) -> PciCapability | None:
        """Return the first standard capability of an id, or of a name as in :data:`CAPABILITY_NAMES`; None without one.

        :param which: an id (PCI_CAP_ID_MSI is 5) or a name
        :raises ValueError: there is no capability of that name
        """
        id_ = _id_of(which, CAPABILITY_NAMES, SHORT_NAMES, arguments.U8_LAST)
        return next((c for c in self.capabilities if c.id == id_), None)

    def extended_capability(self, which: int | str) -> PciCapability | None:
        """Return the first extended capability of an id, or of a name as in :data:`EXTENDED_NAMES`; None without one.

        :param which: an id (1 is AER) or a name
        :raises ValueError: there is no capability of that name
        """
        id_ = _id_of(which, EXTENDED_NAMES, SHORT_EXTENDED_NAMES, arguments.U16_LAST)
        return next((c for c in self.extended_capabilities if c.id == id_), None)


class SavedConfig(ConfigSpace):
    """Configuration space that was saved: a copy of sysfs's file `config`, or a dump of `lspci -xxx` or `-xxxx`.

    :param data: 64 to 4096 bytes; padded with zeros to 256 bytes, or to 4096 if there are more than 256
    :raises ValueError: the data is shorter than a header, or longer than configuration space
    """

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        data = bytes(arguments.octets(data, "data"))
        if not _HEADER_END <= len(data) <= _EXTENDED_END:
            raise ValueError(f"data must have {_HEADER_END} to {_EXTENDED_END} bytes, not {len(data)}")
        self.size = _EXTENDED_END if len(data) > _STANDARD_END else _STANDARD_END
        self._data = data.ljust(self.size, b"\0")

    @classmethod
    def read_dump(cls, text: str) -> dict[str, SavedConfig]:
        """Return the functions of a dump of lspci, by address: `lspci -xxxx` (root) has all bytes, `-xxx` the first 256, `-x` 64.

        :param text: the output of lspci
        :raises ValueError: there is no dump in the text
        """
        found: dict[str, bytearray] = {}
        address: str | None = None
        for line in arguments.string(text, "text").splitlines():
            if head := _DUMP_HEAD.match(line):
                address = head.group(1)
            elif (row := _DUMP_ROW.match(line)) and address is not None:
                data = bytes.fromhex(row.group(2))
                at = int(row.group(1), 16)
                one = found.setdefault(address, bytearray())
                one.extend(bytes(max(at - len(one), 0)))
                one[at : at + len(data)] = data
        if not found:
            raise ValueError(
                "text has no dump of lspci: a line that begins with an address, and lines such as `00: 86 80 ...`"
            )
        return {address: cls(data) for address, data in found.items()}

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes.

        :param offset: bytes from the start
        :param size: bytes
        :raises InvalidRequest: the bytes are not all within configuration space
        """
        offset, size = arguments.integer(offset, "offset", 0), arguments.integer(size, "size", 0)
        if offset + size > self.size:
            raise InvalidRequest(
                f"{self!r}: {size} bytes at offset {offset:#x} lie outside; it has {self.size:#x} bytes"
            )
        return self._data[offset : offset + size]

    def _load(self, offset: SupportsIndex, width: int) -> int:
        return int.from_bytes(self.read(self._check_access(offset, width, self.size), width), "little")

    def _store(self, offset: SupportsIndex, width: int, value: SupportsIndex) -> None:
        raise InvalidRequest(f"{self!r} is a copy: writing it would change nothing")

    def __bytes__(self) -> bytes:
        return self._data

    def __repr__(self) -> str:
        return f"<SavedConfig {self.vendor:04x}:{self.device_id:04x}, {self.size} bytes>"


class PciConfig(ConfigSpace):
    """Configuration space of an open device.

    :ivar size: bytes: 256, or 4096 with extended configuration space
    """

    _FIELDS = frozenset({"device", "size", "_region"})

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute that exists. Refuse other names: a misspelt one would change no register, without an error."""
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

        :param offset: bytes from the start
        :param size: bytes
        :raises OSError: EINVAL beyond the end
        """
        return self._region.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes. Read-only bits, and those that vfio-pci virtualises, may keep their value without an error.

        :param offset: bytes from the start
        :param data: the bytes
        :raises OSError: EINVAL beyond the end
        """
        self._region.write(offset, data)

    def _load(self, offset: SupportsIndex, width: int) -> int:
        return self._region._load(offset, width)

    def _store(self, offset: SupportsIndex, width: int, value: SupportsIndex) -> None:
        self._region._store(offset, width, value)

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

    def __repr__(self) -> str:
        return f"<PciConfig of {self.device.address}>"


def _id_of(which: int | str, names: dict[int, str], short: dict[str, int], most: int) -> int:
    """Return the id of a capability, given it or one of the capability's names in any case."""
    if not isinstance(which, str):
        return arguments.integer(which, "which", 0, most)
    ids = {name.lower(): id_ for name, id_ in short.items()} | {name.lower(): id_ for id_, name in names.items()}
    if which.lower() not in ids:
        raise ValueError(f"which must be an id or one of {', '.join((*names.values(), *short))}, not {which!r}")
    return ids[which.lower()]
