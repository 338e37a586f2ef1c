# SPDX-License-Identifier: MIT
"""Receive filters of a network card: by address, by VLAN, and by pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyvfio.mock.devices.ethernet import offload

RECEIVE = 0x0100
MULTICAST, VLANS = 0x5200, 0x5600
MULTIPLE_QUEUES, VIRTUALIZATION = 0x5818, 0x581C
POOL_OPTIONS, MAY_RECEIVE = 0x5AD0, 0x0C8C
POOLS = 8

_ALL_UNICAST, _ALL_MULTICAST, _LONG, _BROADCAST, _FILTER_VLANS = 1 << 3, 1 << 4, 1 << 5, 1 << 15, 1 << 18  # RECEIVE
_VALID = 1 << 31
_LONGEST, _TAG = 1514, 4
_HASH_SHIFTS = (4, 3, 2, 0)
_BY_POOL = (3, 5)  # MULTIPLE_QUEUES
_NO_DEFAULT_POOL = 1 << 29  # VIRTUALIZATION
_POOL_MULTICAST, _POOL_UNTAGGED, _POOL_BROADCAST, _POOL_ALL_MULTICAST = 1 << 25, 1 << 24, 1 << 27, 1 << 28
_EVERYBODY = b"\xff" * 6


class Filters:
    """The filters of a card, from its registers.

    :param register: function that reads a register
    :param addresses: number of MAC address registers
    """

    def __init__(self, register: Callable[[int], int], addresses: int) -> None:
        self._register = register
        self._addresses = addresses

    @property
    def by_pool(self) -> bool:
        """Whether the queues are assigned to pools (MRQC)."""
        return self._register(MULTIPLE_QUEUES) & 7 in _BY_POOL

    def accept(self, frame: bytes) -> bool:
        """Whether the card accepts a frame, without regard to pools."""
        control, destination = self._register(RECEIVE), frame[:6]
        tag = offload.tag_of(frame)
        if len(frame) > _LONGEST + (_TAG if tag is not None else 0) and not control & _LONG:
            return False
        if tag is not None and control & _FILTER_VLANS and not self._has_vlan(tag & 0xFFF):
            return False
        if destination == _EVERYBODY:
            return bool(control & _BROADCAST)
        if destination[0] & 1:
            return bool(control & _ALL_MULTICAST) or self._hashed(destination) or self._mask(destination) is not None
        return bool(control & _ALL_UNICAST) or self._mask(destination) is not None

    def pools(self, frame: bytes, *, from_wire: bool) -> list[int]:
        """Return the pools that receive a frame.

        :param frame: the frame
        :param from_wire: the frame came from the wire, so that it may go to the default pool
        """
        destination = frame[:6]
        mask = self._mask(destination)
        if destination[0] & 1:
            mask = (mask or 0) | sum(1 << pool for pool in range(POOLS) if self._wants(pool, destination))
        elif not mask and from_wire:
            options = self._register(VIRTUALIZATION)
            mask = 0 if options & _NO_DEFAULT_POOL else 1 << (options >> 7 & 7)
        tagged = offload.tag_of(frame) is not None
        mask = (mask or 0) & self._register(MAY_RECEIVE)
        return [pool for pool in range(POOLS) if mask >> pool & 1 and (tagged or self._options(pool) & _POOL_UNTAGGED)]

    def _options(self, pool: int) -> int:
        return self._register(POOL_OPTIONS + 4 * pool)

    def _wants(self, pool: int, destination: bytes) -> bool:
        options = self._options(pool)
        if destination == _EVERYBODY:
            return bool(options & _POOL_BROADCAST)
        return bool(options & _POOL_ALL_MULTICAST) or bool(options & _POOL_MULTICAST and self._hashed(destination))

    def _has_vlan(self, vlan: int) -> bool:
        return bool(self._register(VLANS + 4 * (vlan >> 5)) >> (vlan & 31) & 1)

    def _hashed(self, destination: bytes) -> bool:
        shift = _HASH_SHIFTS[self._register(RECEIVE) >> 12 & 3]
        value = (destination[5] << 8 | destination[4]) >> shift & 0xFFF
        return bool(self._register(MULTICAST + 4 * (value >> 5)) >> (value & 31) & 1)

    def _mask(self, destination: bytes) -> int | None:
        """Return the pools of a MAC address; None if the card does not have that address."""
        found = None
        for address, pools in self._own():
            if address == destination:
                found = (found or 0) | pools
        return found

    def _own(self) -> Iterator[tuple[bytes, int]]:
        for index in range(self._addresses):
            at = 0x5400 + 8 * index if index < 16 else 0x54E0 + 8 * (index - 16)
            high = self._register(at + 4)
            if high & _VALID:
                low = self._register(at)
                yield low.to_bytes(4, "little") + (high & 0xFFFF).to_bytes(2, "little"), high >> 18 & 0xFF
