# SPDX-License-Identifier: MIT
"""A DMAR table with memory that is reserved for a device (RMRR), and an archive that makes Linux use it instead of the machine's table.

CONFIG_ACPI_TABLE_UPGRADE: an uncompressed archive in front of the initramfs has tables below kernel/firmware/acpi. A
table replaces the machine's table with the same signature and OEM ids if its revision is higher.
"""

from __future__ import annotations

import struct

#: QEMU's q35 (acpi-build.c): ids of the maker, the place of the IOMMU's registers, and of the IOAPIC among the sources
#: of requests
_OEM = (b"BOCHS ", b"BXPC    ")
_REGISTERS = 0xFED90000
_IOAPIC = bytes((3, 8, 0, 0, 0, 0xFF, 0, 0))
_DRHD, _RMRR = 0, 1
#: this IOMMU translates for all devices that are not another's
_INCLUDES_ALL = 1
_ENDPOINT = 1
_HEADER = struct.Struct("<4sIBB6s8sI4sI")


def dmar(address: str, start: int, last: int) -> bytes:
    """Return a DMAR table for one IOMMU, with a region that is reserved for a device on the root bus, such as 0000:00:05.0."""
    slot, _, function = address.rpartition(":")[2].partition(".")
    drhd = struct.pack("<HHBBHQ", _DRHD, 16 + len(_IOAPIC), _INCLUDES_ALL, 0, 0, _REGISTERS) + _IOAPIC
    scope = bytes((_ENDPOINT, 8, 0, 0, 0, 0, int(slot, 16), int(function)))
    rmrr = struct.pack("<HHHHQQ", _RMRR, 24 + len(scope), 0, 0, start, last) + scope
    # Addresses of 39 bits; interrupts are remapped.
    return _table(b"DMAR", bytes((38, 1)) + bytes(10) + drhd + rmrr)


def _table(signature: bytes, body: bytes) -> bytes:
    header = _HEADER.pack(signature, _HEADER.size + len(body), 1, 0, *_OEM, 0x7FFFFFFF, b"TEST", 1)
    data = bytearray(header + body)
    data[9] = -sum(data) & 0xFF
    return bytes(data)


def upgrade(table: bytes) -> bytes:
    """Return an archive with this table, to be put in front of an initramfs."""
    names = ("kernel", "kernel/firmware", "kernel/firmware/acpi")
    entries = [_entry(name, b"", 0o040755) for name in names]
    entries.append(_entry("kernel/firmware/acpi/dmar.aml", table, 0o100644))
    return b"".join([*entries, _entry("TRAILER!!!", b"", 0)])


def _entry(name: str, data: bytes, mode: int) -> bytes:
    """Return a file's entry in a cpio archive of the format newc."""
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + path
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
