# SPDX-License-Identifier: MIT
"""Offloads of a network card: checksums, VLAN tags and segmentation."""

from __future__ import annotations

import struct
from typing import NamedTuple

_VLAN_TYPE = b"\x81\x00"
_UDP, _TCP = 0, 1
_CHECKSUM_AT = {_UDP: 6, _TCP: 16}
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80


class Context(NamedTuple):
    """A context descriptor: the layout of the frames that refer to it.

    :ivar mac: bytes of the Ethernet header; `ip`: of the IP header; `l4`: of the TCP or UDP header
    :ivar ipv4: the IP header is IPv4's, with a checksum
    :ivar protocol: 0 for UDP, 1 for TCP
    :ivar segment: bytes of data in each segment
    :ivar vlan: the VLAN tag
    """

    mac: int
    ip: int
    l4: int
    ipv4: bool
    protocol: int
    segment: int
    vlan: int

    @classmethod
    def unpack(cls, data: bytes) -> Context:
        """Decode the 16 bytes of a descriptor."""
        lengths, _, kind, more = struct.unpack("<4I", data)
        return cls(
            lengths >> 9 & 0x7F, lengths & 0x1FF, more >> 8 & 0xFF, bool(kind & 1 << 10), kind >> 11 & 3, more >> 16,
            lengths >> 16,
        )  # fmt: skip


def checksum(data: bytes | bytearray) -> int:
    """Return the Internet checksum of data, including the contents of the checksum field."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def with_checksums(frame: bytes, context: Context, *, ip: bool, l4: bool) -> bytes:
    """Insert the checksum of the IP header, and that of TCP or UDP, whose field holds the sum of the pseudo header."""
    made = bytearray(frame)
    start, end = context.mac, context.mac + context.ip
    if ip and context.ipv4:
        made[start + 10 : start + 12] = b"\0\0"
        made[start + 10 : start + 12] = checksum(made[start:end]).to_bytes(2, "big")
    if l4 and context.protocol in _CHECKSUM_AT:
        at = end + _CHECKSUM_AT[context.protocol]
        value = checksum(made[end:])
        # In UDP, 0 means that there is no checksum.
        made[at : at + 2] = (value or (0xFFFF if context.protocol == _UDP else 0)).to_bytes(2, "big")
    return bytes(made)


def segments(frame: bytes, context: Context, *, ip: bool, l4: bool) -> list[bytes]:
    """Split a frame into segments, each with its own adapted headers."""
    size = context.mac + context.ip + context.l4
    if not context.segment:
        return []
    parts = [frame[at : at + context.segment] for at in range(size, len(frame), context.segment)]
    made = []
    for index, part in enumerate(parts):
        header = bytearray(frame[:size])
        length = context.ip + context.l4 + len(part)
        if context.ipv4:
            _set(header, context.mac + 2, length)
            _set(header, context.mac + 4, _get(header, context.mac + 4) + index)
        else:
            _set(header, context.mac + 4, length - 40)
        _adapt_l4(header, context, index, len(parts), len(part))
        made.append(with_checksums(bytes(header) + part, context, ip=ip, l4=l4))
    return made


def _adapt_l4(header: bytearray, context: Context, index: int, count: int, size: int) -> None:
    start = context.mac + context.ip
    length = context.l4 + size
    at = start + _CHECKSUM_AT.get(context.protocol, 0)
    if context.protocol == _TCP:
        sequence = int.from_bytes(header[start + 4 : start + 8], "big") + index * context.segment
        header[start + 4 : start + 8] = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
        if index + 1 < count:
            header[start + 13] &= ~(_FIN | _PSH) & 0xFF
        if index:
            header[start + 13] &= ~_CWR & 0xFF
    else:
        _set(header, start + 4, length)
    # The driver's sum of the pseudo header does not include the length.
    total = _get(header, at) + length
    _set(header, at, (total & 0xFFFF) + (total >> 16))


def _get(data: bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _set(data: bytearray, at: int, value: int) -> None:
    data[at : at + 2] = (value & 0xFFFF).to_bytes(2, "big")


def with_tag(frame: bytes, tag: int) -> bytes:
    """Insert a VLAN tag."""
    return frame[:12] + _VLAN_TYPE + tag.to_bytes(2, "big") + frame[12:]


def tag_of(frame: bytes) -> int | None:
    """Return the VLAN tag of a frame; None if it has none."""
    return int.from_bytes(frame[14:16], "big") if frame[12:14] == _VLAN_TYPE else None


def without_tag(frame: bytes) -> bytes:
    """Remove the VLAN tag."""
    return frame[:12] + frame[16:]
