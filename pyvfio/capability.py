"""Capability chains: what GET_INFO, GET_REGION_INFO and IOMMU_GET_INFO append to their answers.

Each capability starts with `struct vfio_info_cap_header`: id, version, and the offset of the next one from the start of the
answer, 0 for the last. The chain comes from outside, so it is walked with every step checked.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pyvfio.errors import BadReply

_HEADER = struct.Struct("=HHI")


class Capability(NamedTuple):
    """One capability; `data` starts at its header and reaches to the end of the answer."""

    id: int
    version: int
    offset: int
    data: memoryview

    def fields(self, layout: struct.Struct, at: int = _HEADER.size) -> tuple[int, ...]:
        """Unpack `layout` at an offset from the header.

        :raises BadReply: the answer ends before it
        """
        if at + layout.size > len(self.data):
            raise BadReply(
                f"capability {self.id} at offset {self.offset} is cut short: "
                f"{len(self.data)} bytes, {at + layout.size} needed"
            )
        return layout.unpack_from(self.data, at)


def chain(answer: memoryview, first: int, *, least: int) -> list[Capability]:
    """All capabilities of an answer, in the chain's order.

    :param answer: the whole answer, argsz bytes of it
    :param first: offset of the first capability; 0 for none
    :param least: size of the answer's fixed part, in which no capability can lie
    :raises BadReply: an offset lies outside the answer, or the chain comes back to where it was
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


def argsz_answer_is_sane(asked: int, answered: int) -> bool:
    """Whether a larger argsz that the kernel asks for is one to believe (1 MiB is far beyond any real answer)."""
    return asked <= answered <= 1 << 20
