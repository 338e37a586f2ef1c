# SPDX-License-Identifier: MIT
"""Data structures of an NVMe controller: Identify data and log pages."""

from __future__ import annotations

import hashlib

#: bytes of an Identify data structure
IDENTIFICATION = 4096
#: MDTS: log2 of the maximum transfer of one command, in pages of 4 KiB
LOG2_LARGEST = 7
#: limits of outstanding Abort commands and Asynchronous Event Requests
ABORTS, EVENT_REQUESTS = 4, 4
_TEMPERATURE, _WARNING_TEMPERATURE, _CRITICAL_TEMPERATURE = 323, 343, 373  # in kelvin
_IO_CONTROLLER = 1
_WRITE_ZEROES, _DATASET_MANAGEMENT = 1 << 3, 1 << 2
_EFFECTS_LOG, _EXTENDED_DATA = 1 << 1, 1 << 2
_NGUID, _NGUID_SIZE = 2, 16
_SUPPORTED, _CHANGES_DATA = 1 << 0, 1 << 1

ADMIN_COMMANDS = {
    "DELETE_SUBMISSION_QUEUE": 0x00, "CREATE_SUBMISSION_QUEUE": 0x01, "GET_LOG_PAGE": 0x02, "DELETE_COMPLETION_QUEUE": 0x04,
    "CREATE_COMPLETION_QUEUE": 0x05, "IDENTIFY": 0x06, "ABORT": 0x08, "SET_FEATURES": 0x09, "GET_FEATURES": 0x0A,
    "ASYNCHRONOUS_EVENT_REQUEST": 0x0C,
}  # fmt: skip
IO_COMMANDS = {"FLUSH": 0x00, "WRITE": 0x01, "READ": 0x02, "WRITE_ZEROES": 0x08, "DATASET_MANAGEMENT": 0x09}
_WRITING = ("WRITE", "WRITE_ZEROES", "DATASET_MANAGEMENT")


class Fields:
    """A structure of `size` bytes, filled in field by field."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def put(self, offset: int, size: int, value: int) -> None:
        """Set a number, little endian."""
        self.data[offset : offset + size] = value.to_bytes(size, "little")

    def text(self, offset: int, size: int, value: str) -> None:
        """Set text, padded with spaces."""
        self.data[offset : offset + size] = value.encode("ascii").ljust(size)[:size]


def controller(ids: tuple[int, int], subsystem: tuple[int, int], version: int, texts: tuple[str, str, str]) -> bytes:
    """Return the Identify Controller data structure.

    :param ids: vendor ID and device ID; `subsystem`: those of the subsystem
    :param version: the value of the register VS
    :param texts: serial number, model, firmware
    """
    serial, model, firmware = texts
    fields = Fields(IDENTIFICATION)
    fields.put(0, 2, ids[0])
    fields.put(2, 2, subsystem[0])
    fields.text(4, 20, serial)
    fields.text(24, 40, model)
    fields.text(64, 8, firmware)
    fields.put(72, 1, 6)  # the recommended arbitration burst
    fields.put(77, 1, LOG2_LARGEST)
    fields.put(80, 4, version)
    fields.put(111, 1, _IO_CONTROLLER)
    fields.put(258, 1, ABORTS - 1)
    fields.put(259, 1, EVENT_REQUESTS - 1)
    fields.put(260, 1, 1 << 1 | 1)  # one firmware slot, which is read only
    fields.put(261, 1, _EFFECTS_LOG | _EXTENDED_DATA)
    fields.put(266, 2, _WARNING_TEMPERATURE)
    fields.put(268, 2, _CRITICAL_TEMPERATURE)
    fields.put(512, 1, 0x66)  # SQES: minimum and maximum 2^6 bytes
    fields.put(513, 1, 0x44)
    fields.put(516, 4, 1)  # namespaces
    fields.put(520, 2, _DATASET_MANAGEMENT | _WRITE_ZEROES)
    fields.put(525, 1, 1)  # a volatile write cache
    name = f"nqn.2026-01.mock.pyvfio:{serial}".encode("ascii")
    fields.data[768 : 768 + len(name)] = name
    return bytes(fields.data)


def namespace(blocks: int, block_size: int, identifier: bytes) -> bytes:
    """Return the Identify Namespace data structure."""
    fields = Fields(IDENTIFICATION)
    for offset in 0, 8, 16:  # size, capacity, used
        fields.put(offset, 8, blocks)
    fields.data[104:120] = identifier
    fields.put(130, 1, block_size.bit_length() - 1)
    return bytes(fields.data)


def namespace_list(namespaces: list[int]) -> bytes:
    """Return a namespace list: identifiers in order, then zeros."""
    return b"".join(one.to_bytes(4, "little") for one in namespaces).ljust(IDENTIFICATION, b"\0")


def descriptors(identifier: bytes) -> bytes:
    """Return the list of namespace identification descriptors."""
    return (bytes([_NGUID, _NGUID_SIZE, 0, 0]) + identifier).ljust(IDENTIFICATION, b"\0")


def identifier(serial: str) -> bytes:
    """Return the 16 bytes of the namespace's globally unique identifier (NGUID)."""
    return hashlib.blake2b(serial.encode(), digest_size=_NGUID_SIZE).digest()


def health(read: tuple[int, int], written: tuple[int, int]) -> bytes:
    """Return the SMART / Health Information log page.

    :param read: bytes and commands of reads; `written`: of writes
    """
    fields = Fields(512)
    fields.put(1, 2, _TEMPERATURE)
    fields.put(3, 1, 100)  # available spare, in percent
    fields.put(4, 1, 10)
    for offset, (size, commands) in (32, read), (48, written):
        fields.put(offset, 16, -(-size // 512_000))
        fields.put(offset + 32, 16, commands)
    return bytes(fields.data)


def firmware_slots(firmware: str) -> bytes:
    """Return the Firmware Slot Information log page: slot 1 is active."""
    fields = Fields(512)
    fields.put(0, 1, 1)
    fields.text(8, 8, firmware)
    return bytes(fields.data)


def effects() -> bytes:
    """Return the Commands Supported and Effects log page."""
    fields = Fields(4096)
    for opcode in ADMIN_COMMANDS.values():
        fields.put(4 * opcode, 4, _SUPPORTED)
    for name, opcode in IO_COMMANDS.items():
        fields.put(1024 + 4 * opcode, 4, _SUPPORTED | (_CHANGES_DATA if name in _WRITING else 0))
    return bytes(fields.data)
