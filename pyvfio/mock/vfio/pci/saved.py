# SPDX-License-Identifier: MIT
"""A saved configuration space, with the lists of capabilities that vfio-pci shows.

The lists are walked as in drivers/vfio/pci/vfio_pci_config.c (vfio_cap_init, vfio_ecap_init). A capability whose length
is unknown or 0 is hidden: the one before it links to the one after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

# Capability IDs.
POWER_MANAGEMENT, VITAL_PRODUCT_DATA, MSI, PCIX = 0x01, 0x03, 0x05, 0x07
VENDOR, EXPRESS, MSIX, ADVANCED_FEATURES = 0x09, 0x10, 0x11, 0x13
# Extended capability IDs.
ADVANCED_ERROR_REPORTING, POWER_BUDGETING, EXTENDED_VENDOR, VIRTUALISATION, DESIGNATED_VENDOR = (
    0x01,
    0x04,
    0x0B,
    0x10,
    0x23,
)
STANDARD, EXTENDED = 256, 4096
_HEADER = 64
_SIZES = (_HEADER, STANDARD, EXTENDED)
_STATUS, _CAPABILITIES, _HEADER_TYPE, _BAR0, _BARS = 0x06, 0x34, 0x0E, 0x10, 6
_HAS_LIST = 1 << 4
#: bytes of the capabilities of fixed length (pci_cap_length): power management, AGP, VPD, MSI-X, Advanced Features
_LENGTHS = {POWER_MANAGEMENT: 8, 0x02: 12, VITAL_PRODUCT_DATA: 8, MSIX: 12, ADVANCED_FEATURES: 6}
#: bytes of extended capabilities of fixed length (pci_ext_cap_length): AER without a root port's registers, DSN, power
#: budgeting, ARI, ATS, SR-IOV, multicast, PRI, LTR
_EXTENDED_LENGTHS = {0x01: 0x2C, 0x03: 12, 0x04: 16, 0x0E: 8, 0x0F: 8, 0x10: 64, 0x12: 40, 0x13: 16, 0x18: 8}
#: (version 1, Root Complex Integrated Endpoint) -> bytes of the PCI Express capability; such an endpoint has no link
#: registers
_EXPRESS_LENGTHS = {(True, False): 0x14, (True, True): 0x0C, (False, False): 0x34, (False, True): 0x2C}
_ROOT_COMPLEX_ENDPOINT = 9
#: resource flags in sysfs's file `resource`: I/O ports, memory, prefetchable, 64 bits
_IO, _MEMORY, _PREFETCHABLE, _WIDE = 0x100, 0x200, 0x2000, 0x100000
_LINE = re.compile(r"0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16})")


class Capability(NamedTuple):
    """A capability that vfio-pci shows."""

    id: int
    offset: int
    length: int


class SavedBar(NamedTuple):
    """A BAR, from the saved bytes or from the lines of sysfs's file `resource`.

    :ivar size: bytes; None without those lines, because a saved register does not hold the size
    """

    address: int
    ports: bool
    wide: bool
    prefetchable: bool
    size: int | None = None


@dataclass(frozen=True)
class Saved:
    """A saved configuration space.

    :ivar data: 256 or 4096 bytes
    :ivar standard_only: extended space reads as ones, so that the kernel shows 256 bytes (pci_cfg_space_size)
    :ivar capabilities: the standard capabilities that vfio-pci shows, in the list's order; `extended`: the extended
        ones
    :ivar broken: the place where a list is malformed, in words; None for well-formed lists
    :ivar placeholder: the first extended capability is hidden: its header stays, but holds only the link
    """

    data: bytes
    capabilities: tuple[Capability, ...]
    extended: tuple[Capability, ...]
    broken: str | None
    standard_only: bool = False
    placeholder: bool = False

    def word(self, offset: int, size: int) -> int:
        """Return the number at an offset."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    def find(self, id_: int) -> int:
        """Return the offset of the first standard capability of an id; 0 without one."""
        return next((one.offset for one in self.capabilities if one.id == id_), 0)

    def find_extended(self, id_: int) -> int:
        """Return the offset of the first extended capability of an id; 0 without one."""
        return next((one.offset for one in self.extended if one.id == id_), 0)


def read(config: bytes) -> Saved:
    """Parse a saved configuration space, and link past the capabilities that vfio-pci hides.

    :raises ValueError: `config` has a size that neither sysfs nor lspci gives, reads as ones, or is not an endpoint's
    """
    if len(config) not in _SIZES:
        raise ValueError(
            f"config has {len(config)} bytes: a configuration space is saved as 64 (not by root), 256 or 4096 bytes"
        )
    if set(config[:_HEADER]) == {0xFF}:
        raise ValueError("config reads as ones: the device was asleep (D3cold) or gone when it was saved")
    kind = config[_HEADER_TYPE] & 0x7F
    if kind:
        what = {1: "a PCI bridge", 2: "a CardBus bridge"}.get(kind, "unknown")
        raise ValueError(f"config has header type {kind} ({what}): VFIO takes endpoints only, which have header type 0")
    data = bytearray(config.ljust(STANDARD, b"\0"))
    whole = len(config) > _HEADER
    capabilities, broken = _standard(data) if whole else ([], None)
    if not capabilities and not broken:
        data[_STATUS] &= ~_HAS_LIST
        data[_CAPABILITIES] = 0
    extended: list[Capability] = []
    standard_only = data[STANDARD : STANDARD + 4] == b"\xff" * 4
    if standard_only or not any(one.id == EXPRESS for one in capabilities):
        del data[STANDARD:]
    elif len(data) == EXTENDED:
        extended, more = _extended(data)
        broken = broken or more
    placeholder = bool(extended) and extended[0].offset != STANDARD
    return Saved(bytes(data), tuple(capabilities), tuple(extended), broken, standard_only, placeholder)


def _standard(data: bytearray) -> tuple[list[Capability], str | None]:
    """Walk the list of standard capabilities, and link past the hidden ones (vfio_cap_init)."""
    found: list[Capability] = []
    if not data[_STATUS] & _HAS_LIST:
        return found, None
    link, seen = _CAPABILITIES, set[int]()
    while at := data[link] & ~3:
        if at < _HEADER:
            return found, f"the capability list points into the header, to {at:#x}"
        if at in seen:
            return found, f"the capability list has a cycle at {at:#x}"
        if data[at] == 0xFF:
            return found, f"the capability list ends in ones, at {at:#x}"
        seen.add(at)
        if length := _length(data, at):
            found.append(Capability(data[at], at, length))
            link = at + 1
        else:
            data[link] = data[at + 1]
    return found, None


def _extended(data: bytearray) -> tuple[list[Capability], str | None]:
    """Walk the list of extended capabilities, and link past the hidden ones (vfio_ecap_init).

    The header of the first capability cannot be skipped: if it is hidden, its ID and version are cleared.
    """
    found: list[Capability] = []
    at, previous, seen = STANDARD, 0, set[int]()
    broken = None
    while at:
        if not STANDARD <= at <= EXTENDED - 4:
            broken = f"the extended capability list points out of extended space, to {at:#x}"
            break
        if at in seen:
            broken = f"the extended capability list has a cycle at {at:#x}"
            break
        seen.add(at)
        header = int.from_bytes(data[at : at + 4], "little")
        if header in (0, 0xFFFFFFFF):
            break
        id_, following = header & 0xFFFF, header >> 20 & 0xFFC
        if length := _extended_length(data, at):
            found.append(Capability(id_, at, length))
            previous = at
        elif previous:
            before = int.from_bytes(data[previous : previous + 4], "little") & 0xFFFFF
            data[previous : previous + 4] = (before | following << 20).to_bytes(4, "little")
        else:
            data[at : at + 4] = (following << 20).to_bytes(4, "little")
            previous = at
        at = following
    if not found:
        data[STANDARD : STANDARD + 4] = bytes(4)
    return found, broken


def _length(data: bytearray, at: int) -> int:
    """Return the length of a standard capability; 0 for a hidden one."""
    flags = int.from_bytes(data[at + 2 : at + 4], "little")
    match data[at]:
        case 0x05:  # MSI: 64-bit Address Capable, Per-Vector Masking Capable
            return 10 + 4 * (flags >> 7 & 1) + 10 * (flags >> 8 & 1)
        case 0x07:  # PCI-X, by its version
            return 24 if flags >> 12 & 3 else 8
        case 0x08:  # HyperTransport: 24 bytes unless the three type bits are 0
            return 24 if data[at + 3] & 0xE0 else 28
        case 0x09:  # vendor-specific: the third byte is the length
            return data[at + 2]
        case 0x10:
            return _EXPRESS_LENGTHS[flags & 0xF == 1, flags >> 4 & 0xF == _ROOT_COMPLEX_ENDPOINT]
        case 0x12:  # SATA: longer if its index and data registers are in the capability
            return 16 if int.from_bytes(data[at + 4 : at + 5]) & 0xF == 0xF else 8
        case id_:
            return _LENGTHS.get(id_, 0)


def _extended_length(data: bytearray, at: int) -> int:
    """Return the length of an extended capability; 0 for a hidden one."""
    words = [int.from_bytes(data[at + 4 * index : at + 4 * index + 4], "little") for index in range(4)]
    match words[0] & 0xFFFF:
        case 0x02 | 0x08 | 0x09:  # virtual channels, with their arbitration table of 4 bits per phase
            length = 16 + 12 * (1 + (words[1] & 7))
            phases = next((128 >> shift for shift in range(3) if words[2] & 8 >> shift), 0)
            return (length + 15 & ~15) + phases // 2 if phases else length
        case 0x0B | 0x23:  # vendor-specific, and designated vendor-specific
            return words[1] >> 20
        case 0x0D:  # ACS, with an egress control vector of that many bits; 0 means 256
            return 8 + ((words[1] >> 8 & 0xFF or 256) + 31 & ~31) // 8 if words[1] >> 5 & 1 else 8
        case 0x15:  # resizable BARs
            return 4 + 8 * (words[2] >> 5 & 7)
        case 0x16:  # dynamic power allocation
            return 16 + (words[1] & 0x1F) + 1
        case 0x17:  # TLP processing hints, with the steering tag table if it is in the capability
            return 12 + (2 * (words[1] >> 16 & 0x7FF) + 2 if words[1] >> 9 & 3 == 1 else 0)
        case id_:
            return _EXTENDED_LENGTHS.get(id_, 0)


def bars(saved: Saved, resource: str | None) -> dict[int, SavedBar]:
    """Return the BARs, from the saved bytes and, if given, the text of sysfs's file `resource`.

    :raises ValueError: a BAR is not valid, or a line is not one of that file
    """
    found: dict[int, SavedBar] = {}
    upper = False
    for index in range(_BARS):
        low = saved.word(_BAR0 + 4 * index, 4)
        if upper:
            upper = False
        elif low & 1:
            found[index] = SavedBar(low & ~3, True, False, False)
        elif low:
            if low >> 1 & 3 == 3:
                raise ValueError(f"BAR{index} reads {low:#x}: its type, bits 1 and 2, is reserved")
            upper = low >> 1 & 3 == 2
            if upper and index == _BARS - 1:
                raise ValueError(f"BAR{index} reads {low:#x}: the last BAR cannot have 64 bits")
            high = saved.word(_BAR0 + 4 * index + 4, 4) if upper else 0
            found[index] = SavedBar(high << 32 | low & ~0xF, False, upper, bool(low & 8))
    return found if resource is None else _with_lines(found, resource)


def _with_lines(found: dict[int, SavedBar], resource: str) -> dict[int, SavedBar]:
    """Add sizes from sysfs's lines, and the BARs that read as zeros (those of virtual functions do)."""
    lines = resource.strip().splitlines()
    if len(lines) < _BARS:
        raise ValueError(f"resource has {len(lines)} lines: sysfs's file has one for each of the six BARs, and more")
    every = dict(found)
    for index, line in enumerate(lines[:_BARS]):
        match = _LINE.fullmatch(line.strip().lower())
        if match is None:
            raise ValueError(
                f"resource: {line!r} is not a line of the sysfs file `resource`, such as 0x00000000fe000000 ... ..."
            )
        start, last, flags = (int(number, 16) for number in match.groups())
        if not flags & (_IO | _MEMORY):
            if index in every:
                raise ValueError(f"resource: the kernel has no BAR{index}, and config has one")
            continue
        known = every.get(index)
        if known is not None and known.ports != bool(flags & _IO):
            raise ValueError(f"resource: BAR{index} is of another kind there than in config")
        bar = known or SavedBar(start, bool(flags & _IO), bool(flags & _WIDE), bool(flags & _PREFETCHABLE))
        every[index] = bar._replace(size=last - start + 1)
    return every
