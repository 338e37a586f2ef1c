# SPDX-License-Identifier: MIT
"""The records of a trace as the native code appends them to a file (cdefs/trace.h), and their structs decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from pyvfio import abi, region
from pyvfio._abi import ffi, lib
from pyvfio.errors import errno_name

_HEAD = struct.Struct("=QQQQIIIiiIII")
#: values of :attr:`Record.what`
REQUEST = lib.PYVFIO_TRACE_REQUEST
OPENED, REFUSED, ACCESS, CLOSED, NAMED = 1, 2, 3, 4, 5
_WIDTHS = (8, 16, 32, 64)
#: the methods whose calls are recorded
ACCESSES: tuple[tuple[type[Any], str], ...] = (
    *((region.Region, name) for name in ("_load", "_store", "read", "write")),
    *((region.RegionMapping, f"{verb}{width}") for verb in ("read", "write") for width in _WIDTHS),
)
#: the data of an access: the method's place in ACCESSES, the offset, the value or size given, the one returned, whether it failed
ACCESS_DATA = struct.Struct("=IQQQI")
#: feature -> the struct behind `struct vfio_device_feature`
FEATURES = {
    "MIGRATION": "struct vfio_device_feature_migration",
    "MIG_DEVICE_STATE": "struct vfio_device_feature_mig_state",
    "MIG_DATA_SIZE": "struct vfio_device_feature_mig_data_size",
    "DMA_LOGGING_START": "struct vfio_device_feature_dma_logging_control",
    "DMA_LOGGING_REPORT": "struct vfio_device_feature_dma_logging_report",
    "LOW_POWER_ENTRY_WITH_WAKEUP": "struct vfio_device_feature_low_power_entry_with_wakeup",
    "DMA_BUF": "struct vfio_device_feature_dma_buf",
    "BUS_MASTER": "struct vfio_device_feature_bus_master",
}


class Record(NamedTuple):
    """One record, C `pyvfio_trace_record`, and the bytes that follow it.

    :ivar start: nanoseconds
    :ivar end: nanoseconds
    :ivar dirty: bits set in the bitmap that the request filled
    :ivar what: :data:`REQUEST`, or one of the notes: :data:`OPENED`, :data:`REFUSED`, ...
    :ivar before: the struct before the request; for a note, its data
    :ivar after: the struct after the request; empty if it is unchanged
    :ivar input: an array that the struct points to
    """

    start: int
    end: int
    argument: int
    dirty: int
    thread: int
    what: int
    request: int
    fd: int
    result: int
    before: bytes
    after: bytes
    input: bytes


def read_records(file: IO[bytes]) -> Iterator[Record]:
    """Read the records of a file from its position to its end."""
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        values = _HEAD.unpack(head)
        yield Record(*values[:-3], *(file.read(size) for size in values[-3:]))


def _shown(value: Any) -> Any:
    """Return a C value for JSON. Integers from 2^31 on are in hex, since JavaScript rounds those above 2^53."""
    if isinstance(value, int):
        return value if abs(value) < 1 << 31 else hex(value)
    type_ = ffi.typeof(value)
    if type_.kind == "struct" or type_.kind == "union":
        # Leave out an array without a length, the data behind the struct: cffi would show an address in this process.
        named = (name for name, field in type_.fields or () if not _is_open(field.type) and not name.startswith("__"))
        return {name: _shown(getattr(value, name)) for name in named}
    if type_.kind == "array":
        return [_shown(one) for one in value] if type_.length is not None and type_.length <= 16 else "..."
    return hex(int(ffi.cast("uintptr_t", value)))


def _is_open(type_: Any) -> bool:
    """Whether a type is an array without a length."""
    return bool(type_.kind == "array" and type_.length is None)


def decode_struct(kind: str, number: int, data: bytes) -> dict[str, Any]:
    """Return the struct of a request by the names of its fields; a feature's own struct is under `data`.

    :param kind: the kind of descriptor
    :param number: the number of the request
    :param data: the bytes of the struct
    """
    declared = abi.declared(kind, number)
    if declared is None or declared.struct is None:
        return {}
    native = struct_of(declared.struct, data)
    fields: dict[str, Any] = _shown(native[0])
    if declared.name == "VFIO_DEVICE_FEATURE" and declared.tell is not None:
        inner = FEATURES.get(declared.tell(struct_of(declared.struct, data)).split()[1])
        if inner is not None and len(data) > ffi.sizeof(declared.struct):
            native = struct_of(inner, data[ffi.sizeof(declared.struct) :])  # keeps the memory alive while it is shown
            fields["data"] = _shown(native[0])
    return fields


def operation(kind: str, number: int, data: bytes) -> str:
    """Return the operation of a request, from its struct; empty for a request without operations."""
    declared = abi.declared(kind, number)
    if declared is None or declared.tell is None or declared.struct is None or not data:
        return ""
    return declared.tell(struct_of(declared.struct, data))


def struct_of(type_: str, data: bytes) -> Any:
    """Return a pointer to a copy of the bytes as a struct; missing bytes are zeros."""
    return ffi.from_buffer(f"{type_} *", bytearray(data.ljust(ffi.sizeof(type_) + 64, b"\0")))


def outcome(result: int) -> str | int:
    """Return a result as a trace shows it: the number, or the name of the errno."""
    return result if result >= 0 else errno_name(-result)
