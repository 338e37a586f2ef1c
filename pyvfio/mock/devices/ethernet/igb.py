# SPDX-License-Identifier: MIT
"""An Intel 82576 network card: its physical function and its virtual functions."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, ClassVar

from pyvfio.mock.devices.ethernet import card, causes, offload, ring
from pyvfio.mock.devices.ethernet.card import Card
from pyvfio.mock.devices.ethernet.causes import Causes
from pyvfio.mock.devices.ethernet.filters import MAY_RECEIVE, POOL_OPTIONS, POOLS, RECEIVE
from pyvfio.mock.devices.ethernet.offload import Context
from pyvfio.mock.devices.ethernet.ring import Ring
from pyvfio.mock.host.driver import IGB
from pyvfio.mock.vfio.pci.device import PciDevice
from pyvfio.mock.vfio.pci.function import Bar, Function

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel

QUEUES = 16
_MANAGEMENT_CONTROL, _MAY_TRANSMIT, _RESETS, _SWITCH = 0x1010, 0x0C90, 0x0C88, 0x3500
_INTERRUPT_MODE, VECTORS, OTHER_VECTOR = 0x1514, 0x1700, 0x1740
# Registers of the rings: of each queue, and of the first four queues also at older offsets.
_RECEIVE_RINGS, _TRANSMIT_RINGS, _RING_SIZE = 0xC000, 0xE000, 0x40
_OLD_RECEIVE_RINGS, _OLD_TRANSMIT_RINGS, _OLD_RING_SIZE, _OLD_RINGS = 0x2800, 0x3800, 0x100, 4

_VIRTUAL_FUNCTIONS = 14  # STATUS: shift of the number of virtual functions
_POOL_STRIPS_CHECKSUM, _POOL_STRIPS_TAGS = 1 << 31, 1 << 30
_SWITCHES, _TO_ITSELF = 1 << 31, 16
_SEVERAL_VECTORS = 1 << 4  # INTERRUPT_MODE
_VECTOR_VALID = 1 << 7
_CONFIGURED = 3 << 18  # MANAGEMENT_CONTROL

# Transmit descriptors: address, command, status; then bits of the command.
_TO_SEND = struct.Struct("<QII")
_CONTEXT, _DATA = 2, 3
_END_OF_FRAME, _REPORT, _ADVANCED, _ADD_TAG, _SEGMENT = 1 << 24, 1 << 27, 1 << 29, 1 << 30, 1 << 31
_IP_CHECKSUM, _L4_CHECKSUM = 1 << 8, 1 << 9  # bits of the status
#: an advanced receive descriptor, as the card writes it back
_RECEIVED = struct.Struct("<QIHH")
_DONE, _END, _TAG_STRIPPED = 1 << 0, 1 << 1, 1 << 3
_OLD_DESCRIPTOR = 0


class Igb(Card):
    """An Intel 82576: one port of 1 Gbit/s, 16 receive and 16 transmit queues, 8 pools, up to 7 virtual functions.

    Registers (BAR0, 32 bits): CTRL, STATUS, EECD, EERD (64 words with a checksum), CTRL_EXT, MDIC with an IGP PHY,
    SWSM, SW_FW_SYNC, EEMNGCTL; RCTL, TCTL, RAL/RAH (24), MTA, VFTA, RLPML; the rings (TDBAL, TDBAH, TDLEN, TDH, TDT,
    TXDCTL, and the receive registers with SRRCTL) of 16 queues, of the first four also at their older offsets; ICR,
    ICS, IMS, IMC, IAM, EICR, EICS, EIMS, EIMC, EIAC, EIAM, GPIE, IVAR, IVAR_MISC; MRQC (pools), VMOLR, VFRE, VFTE,
    VT_CTL, DTXSWC, VFLRE; counters of frames. All other registers store the value written until a reset: flow control,
    wake-up, time stamps, interrupt throttling and the mailboxes of the virtual functions have no effect.

    The card sends from advanced descriptors (data and context: checksums of IP, TCP and UDP, VLAN tags, segmentation),
    and receives into advanced descriptors of one buffer, or into legacy ones. There is no receive-side scaling: queue 0
    receives, or with pools the queue whose number is the pool's. No packet type and no checksum is reported. Interrupts
    are MSI-X by IVAR, or MSI or INTx by ICR.

    Frames go to the card itself (RCTL.LBM), to the pools (DTXSWC), and to the :class:`Wire`, if there is one. The link
    is up whenever the PHY has power. Virtual function n, if it exists, does the DMA and sends the interrupts of the
    queues n and n + 8.

    :param kernel: the mock that the card is plugged into
    :param name: the PCI address, unique on this host
    :param more: as for :class:`pyvfio.mock.Device`: `driver`, `group`, ...; and `mac`
    :param mac: the MAC address, 6 bytes; None: derive one from `name`
    :raises ValueError: `mac` does not have 6 bytes
    """

    function = Function(
        IGB, 0x020000, 1, bars={0: Bar(1 << 17), 1: Bar(1 << 17), 3: Bar(1 << 14)}, msi=1, msix=10, msix_table=(3, 0),
        msix_pending=(3, 0x2000), intx=True, express=True, resets=True, virtual=7, virtual_device=0x10CA,
        error_reporting=True,
    )  # fmt: skip

    phy_identifier = 0x02A80391  # an IGP03E1000
    addresses = 24
    aliases: ClassVar[dict[int, int]] = {
        0x1500: card.CAUSE, 0x1504: card.CAUSE_SET, 0x1508: card.MASK_SET, 0x150C: card.MASK_CLEAR, 0x1510: card.AUTO_MASK,
    }  # fmt: skip

    def __init__(self, kernel: Kernel, name: str, **more: Any) -> None:
        self.receive_rings = [Ring() for _ in range(QUEUES)]
        self.transmit_rings = [Ring() for _ in range(QUEUES)]
        self.vectors = Causes(self.interrupt)
        super().__init__(kernel, name, **more)

    def virtual_function(self, name: str, function: Function, index: int) -> PciDevice:
        return IgbVf(self.kernel, name, function=function, parent=self.parent, card=self, number=index)

    def restart(self) -> None:
        for one in (*self.receive_rings, *self.transmit_rings):
            one.reset()
        self.vectors.reset()
        super().restart()

    # Registers.

    @property
    def status(self) -> int:
        functions = 0 if self.virtual is None else len(self.virtual.functions)
        return super().status | functions << _VIRTUAL_FUNCTIONS

    def get(self, offset: int) -> int:
        if (found := self._ring(offset)) is not None:
            return found[0][found[2]]
        if offset in causes.REGISTERS:
            return self.vectors.read(offset)
        value = super().get(offset)
        return value | _CONFIGURED if offset == _MANAGEMENT_CONTROL else value

    def set(self, offset: int, value: int) -> None:
        if (found := self._ring(offset)) is not None:
            one, number, register = found
            one[register] = value
            if one is self.transmit_rings[number]:
                self.send_off(number)
        elif offset in causes.REGISTERS:
            self.vectors.write(offset, value)
        elif offset == _RESETS:
            self.registers[offset] = self.register(offset) & ~value
        else:
            super().set(offset, value)
            if offset == card.TRANSMIT:
                for number in range(QUEUES):
                    self.send_off(number)

    def _ring(self, offset: int) -> tuple[Ring, int, int] | None:
        """Return the ring of a register, its number, and the register's offset in it; None for other registers."""
        for rings, new, old in (
            (self.receive_rings, _RECEIVE_RINGS, _OLD_RECEIVE_RINGS),
            (self.transmit_rings, _TRANSMIT_RINGS, _OLD_TRANSMIT_RINGS),
        ):
            if new <= offset < new + QUEUES * _RING_SIZE:
                number, register = divmod(offset - new, _RING_SIZE)
            elif old <= offset < old + _OLD_RINGS * _OLD_RING_SIZE and (offset - old) % _OLD_RING_SIZE < _RING_SIZE:
                number, register = divmod(offset - old, _OLD_RING_SIZE)
            else:
                continue
            return rings[number], number, register
        return None

    # Interrupts.

    def signal_causes(self) -> None:
        if self._several_vectors:
            self._signal(OTHER_VECTOR, 1)
        else:
            self.interrupt()

    @property
    def _several_vectors(self) -> bool:
        return bool(self.register(_INTERRUPT_MODE) & _SEVERAL_VECTORS)

    def _signal(self, register: int, byte: int) -> None:
        """Send the vector in a byte of an IVAR register."""
        signal(self.vectors, self.register(register), byte)

    def _queue_event(self, number: int, *, sent: bool) -> None:
        """Interrupt for a queue that has sent or received frames."""
        function = self._virtual_function(number)
        if function is not None:
            function.queue_event(number // POOLS, sent=sent)
        elif self._several_vectors:
            # Each IVAR register has four bytes: receive and transmit of queue n, then of queue n + 8.
            self._signal(VECTORS + 4 * (number % POOLS), number // POOLS * 2 + sent)
        else:
            self.causes.add(card.SENT if sent else card.RECEIVED)

    # Virtual functions.

    def _virtual_function(self, number: int) -> IgbVf | None:
        """Return the virtual function that owns a queue; None if it is the physical function's."""
        functions = [] if self.virtual is None else self.virtual.functions
        one = functions[number % POOLS] if number % POOLS < len(functions) else None
        return one if isinstance(one, IgbVf) else None

    def _owner(self, number: int) -> PciDevice:
        return self._virtual_function(number) or self

    def reset_pool(self, number: int) -> None:
        """Disable the queues of a virtual function that was reset, and its sending and receiving (VFTE, VFRE).

        :param number: number of the virtual function, from 0 on
        """
        for queue in (number, number + POOLS):
            self.receive_rings[queue].reset()
            self.transmit_rings[queue].reset()
        for register in MAY_RECEIVE, _MAY_TRANSMIT:
            self.registers[register] = self.register(register) & ~(1 << number)
        self.registers[_RESETS] = self.register(_RESETS) | 1 << number

    # Sending.

    def send_off(self, number: int) -> None:
        """Send the frames of a transmit ring.

        :param number: number of the ring, 0 to 15
        """
        one, owner = self.transmit_rings[number], self._owner(number)
        reported = False
        while self.register(card.TRANSMIT) & card.ENABLED and one.enabled and one.available:
            at = one.at
            descriptor = owner.dma_read(at, ring.DESCRIPTOR)
            if not owner.bus_master:
                break  # without bus master the function could not read the descriptor
            address, command, status = _TO_SEND.unpack(descriptor)
            kind = command >> 20 & 15
            if not command & _ADVANCED:
                pass  # legacy descriptors are skipped
            elif kind == _CONTEXT:
                one.contexts[int.from_bytes(descriptor[12:], "little") >> 4 & 7] = descriptor
            elif kind == _DATA:
                if one.frame is None:
                    one.frame, one.options = bytearray(), status
                one.frame += owner.dma_read(address, command & 0xFFFF)
                if command & _END_OF_FRAME:
                    self._finish_frame(number, bytes(one.frame), command)
            if command & _REPORT:
                owner.dma_write(at + 12, (status | _DONE).to_bytes(4, "little"))
                reported = True
            one.advance()
        if reported:
            self._queue_event(number, sent=True)

    def _finish_frame(self, number: int, frame: bytes, command: int) -> None:
        one = self.transmit_rings[number]
        one.frame, status = None, one.options
        context = Context.unpack(one.contexts.get(status >> 4 & 7, bytes(16)))
        ip, l4 = bool(status & _IP_CHECKSUM), bool(status & _L4_CHECKSUM)
        if command & _SEGMENT:
            frames = offload.segments(frame, context, ip=ip, l4=l4)
        else:
            frames = [offload.with_checksums(frame, context, ip=ip, l4=l4)] if ip or l4 else [frame]
        for made in frames:
            self._transmit(number, offload.with_tag(made, context.vlan) if command & _ADD_TAG else made)

    def _transmit(self, number: int, frame: bytes) -> None:
        """Deliver a frame: to the card itself, its pools, or the wire."""
        frame = self.padded(frame)
        pool = number % POOLS
        pools = self.filters.by_pool
        if len(frame) < 14 or (pools and not self.register(_MAY_TRANSMIT) >> pool & 1):
            return
        self.count(card.GOOD_SENT, card.ALL_SENT)
        switch = self.register(_SWITCH)
        if self.register(RECEIVE) & card.LOOPBACK:
            self.receive(frame)
        elif pools and switch & _SWITCHES:
            found = self.filters.pools(frame, from_wire=False)
            for one in found:
                if one != pool or switch >> _TO_ITSELF + pool & 1:
                    self._store(one, frame)
            if self.wire is not None and (not found or frame[0] & 1):
                self.wire.carry(self, frame)
        elif self.wire is not None:
            self.wire.carry(self, frame)

    # Receiving.

    def sort(self, frame: bytes) -> None:
        if self.filters.by_pool:
            for pool in self.filters.pools(frame, from_wire=True):
                self._store(pool, frame)
        elif len(frame) <= max(self.register(card.LONGEST), card.USUAL) and self.filters.accept(frame):
            self._store(0, frame)

    def _store(self, number: int, frame: bytes) -> None:
        """Put a frame into the buffers of a queue; it is lost if there are too few."""
        one, owner = self.receive_rings[number], self._owner(number)
        options = self.register(POOL_OPTIONS + 4 * (number % POOLS)) if self.filters.by_pool else 0
        frame, tag = self.stripped(
            frame,
            tags=bool(options & _POOL_STRIPS_TAGS or self.registers[card.CONTROL] & card.STRIP_TAGS),
            checksum=bool(options & _POOL_STRIPS_CHECKSUM or self.register(RECEIVE) & card.STRIP_CHECKSUM),
        )
        size = (one[ring.BUFFERS] & 0x7F) << 10 or self.buffer_size
        if not one.enabled or one.available < -(-len(frame) // size) or not owner.bus_master:
            self.lose()
            return
        old = one[ring.BUFFERS] >> 25 & 7 == _OLD_DESCRIPTOR
        for at in range(0, len(frame), size):
            part = frame[at : at + size]
            status = _DONE | (_END if at + size >= len(frame) else 0)
            if tag is not None:
                status |= _TAG_STRIPPED
            descriptor = one.at
            owner.dma_write(int.from_bytes(owner.dma_read(descriptor, 8), "little"), part)
            if old:
                owner.dma_write(descriptor + 8, ring.RECEIVED.pack(len(part), 0, status, 0, tag or 0))
            else:
                owner.dma_write(descriptor, _RECEIVED.pack(0, status, len(part), tag or 0))
            one.advance()
        self.count(card.GOOD_RECEIVED, card.ALL_RECEIVED)
        self._queue_event(number, sent=False)


class IgbVf(PciDevice):
    """A virtual function of an :class:`Igb`, created by a write to the physical function's `sriov_numvfs`.

    Registers (BAR0, 32 bits): VTCTRL (reset), VTSTATUS, VTEICR, VTEICS, VTEIMS, VTEIMC, VTEIAC, VTEIAM, VTIVAR, and the
    rings of two queues. All other registers store the value written: the mailbox has no effect.

    :param kernel: the mock that the function is plugged into
    :param name: the PCI address, unique on this host
    :param card: the physical function
    :param number: number of this virtual function, from 0 on
    :param more: as for :class:`pyvfio.mock.Device`: `driver`, `group`, ...
    """

    def __init__(self, kernel: Kernel, name: str, *, card: Igb, number: int, **more: Any) -> None:
        self._card, self._number = card, number
        self._registers: dict[int, int] = {}
        self.causes = Causes(self.interrupt)
        super().__init__(kernel, name, **more)

    def power_on(self) -> None:
        self._registers.clear()
        self.causes.reset()
        self._card.reset_pool(self._number)

    def read(self, bar: int, offset: int, width: int) -> int:
        if bar or width != 4:
            return super().read(bar, offset, width)
        if offset == card.STATUS:
            return self._card.status
        if (found := self._ring(offset)) is not None:
            return found[0][found[2]]
        return self.causes.read(offset) if offset in causes.REGISTERS else self._registers.get(offset, 0)

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        if bar or width != 4:
            super().write(bar, offset, width, value)
        elif offset == card.CONTROL and value & card.RESET:
            self.power_on()
        elif (found := self._ring(offset)) is not None:
            one, number, register = found
            one[register] = value
            self._card.send_off(number)
        elif offset in causes.REGISTERS:
            self.causes.write(offset, value)
        else:
            self._registers[offset] = value

    def _ring(self, offset: int) -> tuple[Ring, int, int] | None:
        """Return the ring of a register, its number on the card, and the offset in it; None for other registers."""
        for rings, start in (
            (self._card.receive_rings, _OLD_RECEIVE_RINGS),
            (self._card.transmit_rings, _OLD_TRANSMIT_RINGS),
        ):
            index, register = divmod(offset - start, _OLD_RING_SIZE)
            if 0 <= index < 2 and register < _RING_SIZE:
                number = self._number + POOLS * index
                return rings[number], number, register
        return None

    def queue_event(self, index: int, *, sent: bool) -> None:
        """Interrupt for a queue that has sent or received frames.

        :param index: index of the queue in this function, 0 or 1
        :param sent: True: it has sent; False: it has received
        """
        signal(self.causes, self._registers.get(VECTORS, 0), 2 * index + sent)


def signal(causes_: Causes, value: int, byte: int) -> None:
    """Send the vector in a byte of an IVAR register, if it is valid."""
    entry = value >> 8 * byte & 0xFF
    if entry & _VECTOR_VALID:
        causes_.add(entry & 0x1F)
