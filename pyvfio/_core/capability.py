# SPDX-License-Identifier: MIT
"""Capability chains, which GET_INFO, GET_REGION_INFO and IOMMU_GET_INFO append to their answers.

Each capability starts with `struct vfio_info_cap_header`: id, version, and the offset of the next one from the start of the
answer, 0 for the last. Offsets come from the kernel, or from another process (vfio-user), so each one is checked.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from pyvfio._abi import ffi
from pyvfio._core.fd import Fd
from pyvfio._core.request import Request
from pyvfio.errors import BadReply

_HEADER = struct.Struct("=HHI")
#: far beyond any real answer
_LONGEST = 1 << 20


class Capability(NamedTuple):
    """One capability; `data` starts at its header and reaches to the end of the answer."""

    id: int
    version: int
    offset: int
    data: memoryview

    def read(self, struct_: str) -> Any:
        """Return a pointer to a copy of this capability as a C struct.

        :raises BadReply: the answer ends before the struct does
        """
        if ffi.sizeof(struct_) > len(self.data):
            raise BadReply(
                f"capability {self.id} at offset {self.offset} is cut short: "
                f"{len(self.data)} bytes, {ffi.sizeof(struct_)} needed"
            )
        return ffi.from_buffer(f"{struct_} *", bytes(self.data))

    def array(self, count: int, struct_: str, at: int) -> Any:
        """Return an array of `count` structs that begins `at` bytes after the start of the capability's header.

        :raises BadReply: the answer ends before the array does
        """
        last = at + count * ffi.sizeof(struct_)
        if last > len(self.data):
            raise BadReply(
                f"capability {self.id} at offset {self.offset} is cut short: "
                f"{count} entries need {last} bytes, there are {len(self.data)}"
            )
        return ffi.from_buffer(f"{struct_}[]", bytes(self.data[at:last]))


def chain(answer: memoryview, first: int, *, least: int) -> list[Capability]:
    """Return all capabilities of an answer, in the chain's order.

    :param answer: the whole answer, argsz bytes of it
    :param first: offset of the first capability; 0 for none
    :param least: size of the answer's fixed part, in which no capability can lie
    :raises BadReply: an offset lies outside the answer, or the chain has a cycle
    """
    found: list[Capability] = []
    seen: set[int] = set()
    offset = first
    while offset:
        if offset < least or offset + _HEADER.size > len(answer):
            raise BadReply(
                f"capability chain leaves the answer: offset {offset}, answer of {len(answer)} bytes, "
                f"capabilities from {least} on"
            )
        if offset in seen:
            raise BadReply(f"capability chain has a cycle at offset {offset}")
        seen.add(offset)
        id_, version, following = _HEADER.unpack_from(answer, offset)
        found.append(Capability(id_, version, offset, answer[offset:]))
        offset = following
    return found


def ask(fd: Fd, request: Request, **fields: Any) -> tuple[Any, memoryview]:
    """Make a request, and repeat it with more room until the size of the full answer, which the kernel writes into `argsz`, fits.

    :param fields: fields of the request's struct, which starts with argsz and flags
    :returns: the struct, and all bytes of the answer
    :raises OSError: the request fails
    :raises BadReply: argsz is larger than any real answer
    """
    trailing = 0
    while True:
        answer = request.new(trailing, **fields)
        size = answer.argsz
        request.send(fd, answer, fields)
        wanted = answer.argsz
        if wanted <= size:
            return answer, memoryview(ffi.buffer(answer, size))
        if wanted > _LONGEST:
            raise BadReply(f"{request.name} on {fd.name}: the kernel reports an answer of {wanted} bytes (argsz)")
        trailing += wanted - size
