# SPDX-License-Identifier: MIT
"""An Intel 82574 network card."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from pyvfio.mock.devices.ethernet import card, ring
from pyvfio.mock.devices.ethernet.card import Card
from pyvfio.mock.devices.ethernet.filters import RECEIVE
from pyvfio.mock.devices.ethernet.ring import Ring
from pyvfio.mock.host.driver import E1000E
from pyvfio.mock.vfio.pci.function import Bar, Function

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel

_RECEIVE_RING, _TRANSMIT_RING, _RING_SIZE = 0x2800, 0x3800, 0x20
#: a legacy transmit descriptor: IOVA, length, checksum offset, command, status, checksum start, special
_TO_SEND = struct.Struct("<QHBBBBH")
_END_OF_FRAME, _REPORT, _EXTENDED = 1 << 0, 1 << 3, 1 << 5
_DONE, _END = 1 << 0, 1 << 1


class E1000e(Card):
    """An Intel 82574: one port of 1 Gbit/s, with one receive queue and one transmit queue.

    Registers (BAR0, 32 bits): CTRL, STATUS, EECD, EERD (64 words with a checksum), CTRL_EXT, MDIC with a BM PHY, SWSM;
    RCTL, TCTL, RAL/RAH (16), MTA, VFTA; TDBAL, TDBAH, TDLEN, TDH, TDT, and the same registers of the receive ring; ICR,
    ICS, IMS, IMC, IAM; counters of frames. All other registers store the value written until a reset.

    Only legacy descriptors are supported, as scripts/examples/e1000e.py uses; Linux's e1000e driver uses others.
    Checksums, VLAN tags and receive-side scaling are not modelled. All causes interrupt through ICR: by INTx, by MSI,
    or by vector 0 of MSI-X. As with QEMU's card, a reset by a register keeps the heads and tails of the rings.

    Frames go to the card itself (RCTL.LBM), or to the :class:`Wire`, if there is one. The link is up whenever the PHY
    has power.

    :param kernel: the mock that the card is plugged into
    :param name: the PCI address, unique on this host
    :param more: as for :class:`pyvfio.mock.Device`: `driver`, `group`, ...; and `mac`
    :param mac: the MAC address, 6 bytes; None: derive one from `name`
    :raises ValueError: `mac` does not have 6 bytes
    """

    function = Function(
        E1000E, 0x020000, bars={0: Bar(1 << 17), 1: Bar(1 << 17), 2: Bar(32, ports=True), 3: Bar(1 << 14)}, msi=1, msix=5,
        msix_table=(3, 0), msix_pending=(3, 0x2000), intx=True, express=True, power_management=True, resets=True, error_reporting=True,
    )  # fmt: skip
    phy_identifier = 0x01410CB1  # a BM
    addresses = 16

    def __init__(self, kernel: Kernel, name: str, **more: Any) -> None:
        self._rings = {_RECEIVE_RING: Ring(always=True), _TRANSMIT_RING: Ring(always=True)}
        super().__init__(kernel, name, **more)

    def power_on(self) -> None:
        super().power_on()
        for one in self._rings.values():
            one.reset()

    def restart(self) -> None:
        for one in self._rings.values():
            places = one[ring.HEAD], one[ring.TAIL]
            one.reset()
            one[ring.HEAD], one[ring.TAIL] = places
        super().restart()

    def get(self, offset: int) -> int:
        start = offset & ~(_RING_SIZE - 1)
        return self._rings[start][offset - start] if start in self._rings else super().get(offset)

    def set(self, offset: int, value: int) -> None:
        start = offset & ~(_RING_SIZE - 1)
        if start in self._rings:
            self._rings[start][offset - start] = value
        else:
            super().set(offset, value)
        if start == _TRANSMIT_RING or offset == card.TRANSMIT:
            self._send_off()

    def _send_off(self) -> None:
        """Send the frames of the transmit ring."""
        one = self._rings[_TRANSMIT_RING]
        reported = False
        while self.register(card.TRANSMIT) & card.ENABLED and one.enabled and one.available:
            at = one.at
            descriptor = self.dma_read(at, ring.DESCRIPTOR)
            if not self.bus_master:
                break  # without bus master the card could not read the descriptor
            iova, length, _, command, status, _, _ = _TO_SEND.unpack(descriptor)
            if not command & _EXTENDED:
                one.frame = (one.frame or bytearray()) + self.dma_read(iova, length)
                if command & _END_OF_FRAME:
                    frame, one.frame = bytes(one.frame), None
                    self._transmit(self.padded(frame))
            if command & _REPORT:
                self.dma_write(at + 12, bytes([status | _DONE]))
                reported = True
            one.advance()
        if reported:
            self.causes.add(card.SENT)

    def _transmit(self, frame: bytes) -> None:
        self.count(card.GOOD_SENT, card.ALL_SENT)
        if self.register(RECEIVE) & card.LOOPBACK:
            self.receive(frame)
        elif self.wire is not None:
            self.wire.carry(self, frame)

    def sort(self, frame: bytes) -> None:
        if len(frame) < 14 or not self.filters.accept(frame):
            return
        one = self._rings[_RECEIVE_RING]
        frame, _ = self.stripped(frame, tags=False, checksum=bool(self.register(RECEIVE) & card.STRIP_CHECKSUM))
        size = self.buffer_size
        if not one.enabled or one.available < -(-len(frame) // size) or not self.bus_master:
            self.lose()
            return
        for at in range(0, len(frame), size):
            part = frame[at : at + size]
            status = _DONE | (_END if at + size >= len(frame) else 0)
            self.dma_write(int.from_bytes(self.dma_read(one.at, 8), "little"), part)
            self.dma_write(one.at + 8, ring.RECEIVED.pack(len(part), 0, status, 0, 0))
            one.advance()
        self.count(card.GOOD_RECEIVED, card.ALL_RECEIVED)
        self.causes.add(card.RECEIVED)
