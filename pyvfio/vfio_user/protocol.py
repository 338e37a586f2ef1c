# SPDX-License-Identifier: MIT
"""The messages of vfio-user, version 0.1: commands, flags, layouts, negotiation.

The protocol is QEMU's (docs/interop/vfio-user.rst of its source). All numbers are in the byte order of the host.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from enum import IntEnum
from struct import Struct
from typing import Any, ClassVar, NamedTuple

from pyvfio.errors import Error


class Command(IntEnum):
    """The purpose of a message. DMA_READ and DMA_WRITE go from server to client, all others from client to server."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


class Flags(IntEnum):
    """Flags of a message.

    Not an IntFlag: each operation on one makes a new member, which takes a microsecond, and each message takes several operations.
    """

    REPLY = 0x1
    TYPE = 0xF
    NO_REPLY = 0x10
    ERROR = 0x20


#: id, command, size with the header, flags, errno
HEADER = Struct("=HHIII")
VERSION = Struct("=HH")
#: argsz, flags, offset in the file, IOVA, size
DMA_MAP = Struct("=IIQQQ")
#: argsz, flags, IOVA, size
DMA_UNMAP = Struct("=IIQQ")
#: argsz, flags, regions, interrupts
DEVICE_INFO = Struct("=IIII")
#: argsz, flags, index, offset of the capabilities, size, offset in the file
REGION_INFO = Struct("=IIIIQQ")
#: argsz, flags, index, number of sub-regions, each of which would follow with a descriptor
REGION_IO_FDS = Struct("=IIII")
#: argsz, flags, index, count
IRQ_INFO = Struct("=IIII")
#: argsz, flags, index, start, count
IRQ_SET = Struct("=IIIII")
#: offset, region, count
REGION_ACCESS = Struct("=QII")
#: IOVA, count
DMA_ACCESS = Struct("=QQ")
#: number of writes; each is a REGION_ACCESS and 8 bytes
WRITE_COUNT = Struct("=Q")
WRITE = Struct("=QII8s")
#: argsz, flags; the data follow
FEATURE = Struct("=II")
#: state, descriptor
MIG_STATE = Struct("=Ii")
#: page size, number of ranges, reserved; then IOVA and length of each
LOGGING_CONTROL = Struct("=QII")
LOGGING_RANGE = Struct("=QQ")
#: IOVA, length, page size; the bitmap follows in the reply
LOGGING_REPORT = Struct("=QQQ")
#: argsz, size; the data follow
MIG_DATA = Struct("=II")

MAJOR, MINOR = 0, 1
DMA_READABLE, DMA_WRITABLE = 1, 2
UNMAP_ALL = 2

#: bytes of data in one message, unless the other side says less
MAX_DATA = 1 << 20
#: descriptors in one message
MAX_FDS = 16
MAX_MAPS = 65535
#: bytes of the largest message: data, header and struct
MAX_MESSAGE = MAX_DATA + 4096


class ProtocolError(Error):
    """The other side does not follow the protocol; the connection ends."""

    _errno: ClassVar[int] = errno.EPROTO


class Message(NamedTuple):
    """One message.

    :ivar fds: descriptors that came with it; the receiver of the message closes them
    """

    id: int
    command: int
    flags: int
    error: int
    body: bytes
    fds: list[int]

    @property
    def is_reply(self) -> bool:
        """Whether it answers another message."""
        return bool(self.flags & Flags.REPLY)

    @property
    def wants_reply(self) -> bool:
        """Whether the sender wants an answer."""
        return not self.flags & Flags.NO_REPLY


class Capabilities(NamedTuple):
    """The limits that one side states at the beginning.

    :ivar answers_dma: whether it answers DMA even while it waits for an answer itself (`pyvfio_answers_dma`). Only this library's client
        states that; QEMU does not answer DMA meanwhile
    """

    max_msg_fds: int = 1
    max_data_xfer_size: int = MAX_DATA
    max_dma_maps: int = MAX_MAPS
    write_multiple: bool = False
    answers_dma: bool = False


#: the capabilities of this library
OWN: Mapping[str, Any] = {
    "max_msg_fds": MAX_FDS,
    "max_data_xfer_size": MAX_DATA,
    "max_dma_maps": MAX_MAPS,
    "pgsizes": 4096,
    "write_multiple": True,
    "pyvfio_answers_dma": True,
}


def pack_version(minor: int = MINOR, capabilities: Mapping[str, Any] = OWN) -> bytes:
    """Return the body of VERSION, in either direction."""
    data = json.dumps({"capabilities": dict(capabilities)}).encode() + b"\0"
    return VERSION.pack(MAJOR, minor) + data


def unpack_version(body: bytes) -> tuple[int, int, Capabilities]:
    """Return major, minor and capabilities of a VERSION.

    :raises ProtocolError: the body is malformed
    """
    if len(body) < VERSION.size:
        raise ProtocolError(f"VERSION has {len(body)} bytes, and needs {VERSION.size}")
    major, minor = VERSION.unpack_from(body)
    data = body[VERSION.size :]
    if not data:
        return major, minor, Capabilities()
    if data[-1]:
        raise ProtocolError("VERSION's data do not end with a NUL")
    try:
        given = json.loads(data[:-1] or b"{}")
        capabilities = given.get("capabilities", {}) if isinstance(given, dict) else None
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"VERSION's data are no JSON: {error}") from None
    if not isinstance(capabilities, dict):
        raise ProtocolError("VERSION's capabilities are no object")
    return (
        major,
        minor,
        Capabilities(
            _limit(capabilities, "max_msg_fds", 1, MAX_FDS),
            _limit(capabilities, "max_data_xfer_size", MAX_DATA, MAX_DATA),
            _limit(capabilities, "max_dma_maps", MAX_MAPS, MAX_MAPS),
            capabilities.get("write_multiple") is True,
            capabilities.get("pyvfio_answers_dma") is True,
        ),
    )


def _limit(capabilities: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = capabilities.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ProtocolError(f"VERSION's {name} is no number: {value!r}")
    return min(value, most)
