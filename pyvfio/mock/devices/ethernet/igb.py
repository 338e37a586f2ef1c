# SPDX-License-Identifier: MIT
"""An Intel 82576 network card, its physical function and its virtual ones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyvfio.mock.config import Bar, Function
from pyvfio.mock.devices.ethernet import causes, nvm, offload, ring
from pyvfio.mock.devices.ethernet.causes import Causes
from pyvfio.mock.devices.ethernet.filters import MAY_RECEIVE, POOL_OPTIONS, POOLS, RECEIVE, Filters
from pyvfio.mock.devices.ethernet.offload import Context
from pyvfio.mock.devices.ethernet.phy import Phy
from pyvfio.mock.devices.ethernet.ring import Ring
from pyvfio.mock.driver import IGB
from pyvfio.mock.pci import PciDevice

if TYPE_CHECKING:
    from pyvfio.mock.devices.ethernet.wire import Wire
    from pyvfio.mock.kernel import Kernel

QUEUES = 16
_ADDRESSES = 24
_PHY_IDENTIFIER = 0x02A80391  # an IGP03E1000
_PHY_ADDRESS = 1

_CONTROL, _STATUS, _EEPROM, _EEPROM_READ, _CONTROL_MORE, _PHY = 0x0000, 0x0008, 0x0010, 0x0014, 0x0018, 0x0020
_TRANSMIT, _ADDRESS_LOW, _ADDRESS_HIGH = 0x0400, 0x5400, 0x5404
_MANAGEMENT_CONTROL, _SEMAPHORE, _LONGEST = 0x1010, 0x5B50, 0x5004
_MAY_TRANSMIT, _RESETS, _SWITCH = 0x0C90, 0x0C88, 0x3500
_CAUSE, _CAUSE_SET, _MASK_SET, _MASK_CLEAR, _AUTO_MASK = 0x1500, 0x1504, 0x1508, 0x150C, 0x1510
_INTERRUPT_MODE, VECTORS, OTHER_VECTOR = 0x1514, 0x1700, 0x1740
#: older addresses of the same registers
_OLD = {0x00C0: _CAUSE, 0x00C8: _CAUSE_SET, 0x00D0: _MASK_SET, 0x00D8: _MASK_CLEAR, 0x00E0: _AUTO_MASK}
# Counters, which are cleared when they are read.
_FIRST_COUNTER, _LAST_COUNTER = 0x4000, 0x4130
_MISSED, _GOOD_RECEIVED, _GOOD_SENT, _ALL_RECEIVED, _ALL_SENT = 0x4010, 0x4074, 0x4080, 0x40D0, 0x40D4
# Rings: of each queue, and of the first four at older addresses.
_RECEIVE_RINGS, _TRANSMIT_RINGS, _RINGS_END, _RING_SIZE = 0xC000, 0xE000, 0x10000, 0x40
_OLD_RECEIVE_RINGS, _OLD_TRANSMIT_RINGS, _OLD_RING_SIZE, _OLD_RINGS = 0x2800, 0x3800, 0x100, 4

# CONTROL
_FULL_DUPLEX, _NO_MASTER, _SET_LINK_UP, _SPEED_1000, _RESET = 1 << 0, 1 << 2, 1 << 6, 2 << 8, 1 << 26
_STRIP_TAGS, _PHY_RESET = 1 << 30, 1 << 31
_LINK_UP, _STATUS_1000, _MASTER_ENABLED, _VIRTUAL_FUNCTIONS = 1 << 1, 2 << 6, 1 << 19, 14  # STATUS
_EEPROM_REQUEST, _EEPROM_GRANT, _EEPROM_STATE = 1 << 6, 1 << 7, 1 << 8 | 1 << 9 | 2 << 11  # present, read; 256 words
_READ_DONE = 1 << 1
_MASK_ON_READ = 1 << 27  # CONTROL_MORE
_PHY_WRITE, _PHY_READ, _PHY_READY, _PHY_ERROR = 1, 2, 1 << 28, 1 << 30
_ENABLED, _PAD, _BUFFER_SIZES, _LOOPBACK, _STRIP_CHECKSUM = 1 << 1, 1 << 3, (2048, 1024, 512, 256), 1 << 6, 1 << 26
_POOL_STRIPS_CHECKSUM, _POOL_STRIPS_TAGS = 1 << 31, 1 << 30
_SWITCHES, _TO_ITSELF = 1 << 31, 16
_SEVERAL_VECTORS = 1 << 4  # INTERRUPT_MODE
_VECTOR_VALID = 1 << 7
_CONFIGURED = 3 << 18  # MANAGEMENT_CONTROL
# Causes
_SENT, _LINK_CHANGED, _NO_ROOM, _RECEIVED, _ASSERTED = 1 << 0, 1 << 2, 1 << 6, 1 << 7, 1 << 31

_SHORTEST, _USUAL = 60, 1518
# Descriptors to send: address, command, status; then bits of the command.
_TO_SEND = struct.Struct("<QII")
_CONTEXT, _DATA = 2, 3
_END_OF_FRAME, _REPORT, _ADVANCED, _ADD_TAG, _SEGMENT = 1 << 24, 1 << 27, 1 << 29, 1 << 30, 1 << 31
_IP_CHECKSUM, _L4_CHECKSUM = 1 << 8, 1 << 9  # of the status
# Descriptors to receive, as the card writes them back: advanced ones and old ones.
_RECEIVED_ADVANCED, _RECEIVED_OLD = struct.Struct("<QIHH"), struct.Struct("<HHBBH")
_DONE, _END, _TAG_STRIPPED = 1 << 0, 1 << 1, 1 << 3
_ADVANCED_ONE_BUFFER, _OLD_DESCRIPTOR = 1, 0


class Igb(PciDevice):
    """An Intel 82576: one port of 1 Gbit/s, 16 queues of each kind, 8 pools, up to 7 virtual functions.

    Registers (BAR0, 32 bits): CTRL, STATUS, EECD, EERD (64 words with a checksum), CTRL_EXT, MDIC with an IGP PHY, SWSM, SW_FW_SYNC,
    EEMNGCTL; RCTL, TCTL, RAL/RAH (24), MTA, VFTA, RLPML; the rings (TDBAL, TDBAH, TDLEN, TDH, TDT, TXDCTL, and those to receive
    with SRRCTL) of 16 queues, of the first four at their older addresses too; ICR, ICS, IMS, IMC, IAM, EICR, EICS, EIMS, EIMC, EIAC,
    EIAM, GPIE, IVAR, IVAR_MISC; MRQC (pools), VMOLR, VFRE, VFTE, VT_CTL, DTXSWC, VFLRE; counters of frames. All other registers
    hold what is written to them until a reset: flow control, wake-up, time stamps, interrupt throttling and the mailboxes of the
    virtual functions have no effect.

    It sends advanced descriptors (data and context: checksums of IP, TCP and UDP, VLAN tags, segmentation), and receives with
    advanced ones of one buffer or with legacy ones. There is no receive-side scaling: queue 0 receives, or with pools the queue of
    each pool's number; no packet type and no checksum is reported. Interrupts are those of MSI-X by IVAR, or MSI or INTx by ICR.

    Frames go to the card itself (RCTL.LBM), to the pools (DTXSWC), and to the :class:`Wire`, if it has one. The link is always there
    while the PHY has power. DMA and interrupts of the queues n and n + 8 are the virtual function's, if there are more than n.

    :param mac: the MAC address, 6 bytes; None for one made of `name`
    :raises ValueError: `mac` has not 6 bytes

    :ivar wire: what it is connected to
    """

    function = Function(
        IGB, 0x020000, 1, bars={0: Bar(1 << 17), 1: Bar(1 << 17), 3: Bar(1 << 14)}, msi=1, msix=10, msix_table=(3, 0),
        msix_pending=(3, 0x2000), intx=True, express=True, resets=True, virtual=7, virtual_device=0x10CA,
        error_reporting=True,
    )  # fmt: skip

    def __init__(self, kernel: Kernel, name: str, *, mac: bytes | None = None, **more: Any) -> None:
        self.mac = nvm.address(name) if mac is None else bytes(mac)
        if len(self.mac) != 6:
            raise ValueError(f"mac={self.mac!r}: must have 6 bytes")
        self.wire: Wire | None = None
        self.phy = Phy(_PHY_IDENTIFIER)
        self.receive_rings = [Ring() for _ in range(QUEUES)]
        self.transmit_rings = [Ring() for _ in range(QUEUES)]
        self.causes = Causes(self.interrupt)
        self._registers: dict[int, int] = {}
        self._filters = Filters(lambda register: self._registers.get(register, 0), _ADDRESSES)
        super().__init__(kernel, name, **more)
        self._words = nvm.words(self.mac, self.function.ids, self.function.subsystem)
        self.power_on()

    def virtual_function(self, name: str, function: Function, index: int) -> PciDevice:
        return IgbVf(self.kernel, name, function=function, parent=self.parent, card=self, number=index)

    def power_on(self) -> None:
        self.phy.reset()
        self._restart()

    def _restart(self) -> None:
        """Set all registers to their values after a reset, which leaves the PHY alone."""
        for one in (*self.receive_rings, *self.transmit_rings):
            one.reset()
        self.causes.reset()
        self._registers.clear()
        self._registers[_CONTROL] = _FULL_DUPLEX | _SPEED_1000
        self._registers[_ADDRESS_LOW] = int.from_bytes(self.mac[:4], "little")
        self._registers[_ADDRESS_HIGH] = 1 << 31 | int.from_bytes(self.mac[4:], "little")
        self.deassert()

    # Registers.

    @property
    def status(self) -> int:
        """The register STATUS."""
        control = self._registers[_CONTROL]
        link = bool(control & _SET_LINK_UP) and self.phy.link
        master = 0 if control & _NO_MASTER else _MASTER_ENABLED
        functions = 0 if self.virtual is None else len(self.virtual.functions)
        return _FULL_DUPLEX | _STATUS_1000 | master | (_LINK_UP if link else 0) | functions << _VIRTUAL_FUNCTIONS

    def read(self, bar: int, offset: int, width: int) -> int:
        if bar:
            return super().read(bar, offset, width)
        if width == 8:
            return self._get(offset) | self._get(offset + 4) << 32
        return self._get(offset & ~3) >> 8 * (offset & 3) & (1 << 8 * width) - 1

    def _get(self, offset: int) -> int:
        offset = _OLD.get(offset, offset)
        if (found := self._ring(offset)) is not None:
            return found[0][found[2]]
        if offset in causes.REGISTERS:
            return self.causes.read(offset)
        value = self._registers.get(offset, 0)
        if offset == _STATUS:
            return self.status
        if offset == _EEPROM:
            return value & _EEPROM_REQUEST | (_EEPROM_GRANT if value & _EEPROM_REQUEST else 0) | _EEPROM_STATE
        if offset == _SEMAPHORE:
            self._registers[offset] = value | 1  # who reads 0 has it
        elif offset == _MANAGEMENT_CONTROL:
            return value | _CONFIGURED
        elif offset == _CAUSE:
            return self._take_causes()
        elif offset == _MASK_CLEAR:
            return self._registers.get(_MASK_SET, 0)
        elif _FIRST_COUNTER <= offset < _LAST_COUNTER:
            self._registers.pop(offset, None)
        return value

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        if bar:
            super().write(bar, offset, width, value)
        elif width == 8:
            self._set(offset, value & 0xFFFFFFFF)
            self._set(offset + 4, value >> 32)
        elif width == 4:
            self._set(offset, value)

    def _set(self, offset: int, value: int) -> None:
        offset = _OLD.get(offset, offset)
        if (found := self._ring(offset)) is not None:
            one, number, register = found
            one[register] = value
            if one is self.transmit_rings[number]:
                self.send_off(number)
        elif offset in causes.REGISTERS:
            self.causes.write(offset, value)
        elif (action := self._actions.get(offset)) is not None:
            action(self, value)
        elif offset != _STATUS:
            self._registers[offset] = value

    def _ring(self, offset: int) -> tuple[Ring, int, int] | None:
        """The ring that a register is of, its number, and the register's offset in it."""
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

    # Registers that do something.

    def _control(self, value: int) -> None:
        before = self.status & _LINK_UP
        self._registers[_CONTROL] = value & ~(_RESET | _PHY_RESET)
        if value & _RESET:
            self._restart()
            return
        if value & _PHY_RESET:
            self.phy.reset()
        if value & _PHY_RESET or self.status & _LINK_UP != before:
            self._add_causes(_LINK_CHANGED)

    def _read_eeprom(self, value: int) -> None:
        address = value >> 2 & 0x3FFF
        word = self._words[address] if address < len(self._words) else 0xFFFF
        self._registers[_EEPROM_READ] = word << 16 | address << 2 | _READ_DONE

    def _access_phy(self, value: int) -> None:
        register, address, operation = value >> 16 & 31, value >> 21 & 31, value >> 26 & 3
        if address != _PHY_ADDRESS or operation not in (_PHY_READ, _PHY_WRITE):
            self._registers[_PHY] = value | _PHY_READY | _PHY_ERROR
            return
        changed = False
        if operation == _PHY_READ:
            value = value & ~0xFFFF | self.phy.read(register)
        else:
            changed = self.phy.write(register, value & 0xFFFF)
        self._registers[_PHY] = value | _PHY_READY
        if changed:
            self._add_causes(_LINK_CHANGED)

    def _enable_transmission(self, value: int) -> None:
        self._registers[_TRANSMIT] = value
        for number in range(QUEUES):
            self.send_off(number)

    def _clear_resets(self, value: int) -> None:
        self._registers[_RESETS] = self._registers.get(_RESETS, 0) & ~value

    # Interrupts.

    def _set_causes(self, value: int) -> None:
        self._add_causes(value & ~_ASSERTED)

    def _unmask(self, value: int) -> None:
        mask = self._registers[_MASK_SET] = self._registers.get(_MASK_SET, 0) | value
        if mask & self._registers.get(_CAUSE, 0):
            self._interrupt()

    def _mask(self, value: int) -> None:
        self._registers[_MASK_SET] = self._registers.get(_MASK_SET, 0) & ~value
        self._show_causes()

    def _clear_causes(self, value: int) -> None:
        self._registers[_CAUSE] = self._registers.get(_CAUSE, 0) & ~value
        self._show_causes()

    def _take_causes(self) -> int:
        """ICR: a read clears it, and with CTRL_EXT.IAME the mask by IAM."""
        found = self._registers.get(_CAUSE, 0)
        if found & self._registers.get(_MASK_SET, 0):
            found |= _ASSERTED
            if self._registers.get(_CONTROL_MORE, 0) & _MASK_ON_READ:
                self._registers[_MASK_SET] &= ~self._registers.get(_AUTO_MASK, 0)
        self._registers[_CAUSE] = 0
        self._show_causes()
        return found

    def _add_causes(self, bits: int) -> None:
        self._registers[_CAUSE] = self._registers.get(_CAUSE, 0) | bits
        if bits & self._registers.get(_MASK_SET, 0):
            self._interrupt()

    def _interrupt(self) -> None:
        if self._several_vectors:
            self._signal(OTHER_VECTOR, 1)
        else:
            self.interrupt()

    def _show_causes(self) -> None:
        if not self._registers.get(_CAUSE, 0) & self._registers.get(_MASK_SET, 0):
            self.deassert()

    @property
    def _several_vectors(self) -> bool:
        return bool(self._registers.get(_INTERRUPT_MODE, 0) & _SEVERAL_VECTORS)

    def _signal(self, register: int, byte: int) -> None:
        """Send the vector that a byte of IVAR names."""
        signal(self.causes, self._registers.get(register, 0), byte)

    def _queue_event(self, number: int, *, sent: bool) -> None:
        """A queue has sent or received something."""
        function = self._virtual_function(number)
        if function is not None:
            function.queue_event(number // POOLS, sent=sent)
        elif self._several_vectors:
            # Four bytes for queue n and queue n + 8: to receive and to send of each.
            self._signal(VECTORS + 4 * (number % POOLS), number // POOLS * 2 + sent)
        else:
            self._add_causes(_SENT if sent else _RECEIVED)

    # Virtual functions.

    def _virtual_function(self, number: int) -> IgbVf | None:
        """The virtual function that has a queue."""
        functions = [] if self.virtual is None else self.virtual.functions
        one = functions[number % POOLS] if number % POOLS < len(functions) else None
        return one if isinstance(one, IgbVf) else None

    def _owner(self, number: int) -> PciDevice:
        return self._virtual_function(number) or self

    def reset_pool(self, number: int) -> None:
        """A virtual function was reset: its queues are off, and it may neither send nor receive."""
        for queue in (number, number + POOLS):
            self.receive_rings[queue].reset()
            self.transmit_rings[queue].reset()
        for register in MAY_RECEIVE, _MAY_TRANSMIT:
            self._registers[register] = self._registers.get(register, 0) & ~(1 << number)
        self._registers[_RESETS] = self._registers.get(_RESETS, 0) | 1 << number

    # Sending.

    def send_off(self, number: int) -> None:
        """Send what is in a ring."""
        one, owner = self.transmit_rings[number], self._owner(number)
        reported = False
        while self._registers.get(_TRANSMIT, 0) & _ENABLED and one.enabled and one.available:
            at = one.at
            descriptor = owner.dma_read(at, ring.DESCRIPTOR)
            if not owner.bus_master:
                break  # it could not read the descriptor
            address, command, status = _TO_SEND.unpack(descriptor)
            kind = command >> 20 & 15
            if not command & _ADVANCED:
                pass  # a legacy descriptor, which is skipped
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
        """Send a frame to where it belongs: the card itself, its pools, the wire."""
        if self._registers.get(_TRANSMIT, 0) & _PAD:
            frame = frame.ljust(_SHORTEST, b"\0")
        pool = number % POOLS
        pools = self._filters.by_pool
        if len(frame) < 14 or (pools and not self._registers.get(_MAY_TRANSMIT, 0) >> pool & 1):
            return
        self._count(_GOOD_SENT, _ALL_SENT)
        switch = self._registers.get(_SWITCH, 0)
        if self._registers.get(RECEIVE, 0) & _LOOPBACK:
            self.receive(frame)
        elif pools and switch & _SWITCHES:
            found = self._filters.pools(frame, from_wire=False)
            for one in found:
                if one != pool or switch >> _TO_ITSELF + pool & 1:
                    self._store(one, frame)
            if self.wire is not None and (not found or frame[0] & 1):
                self.wire.carry(self, frame)
        elif self.wire is not None:
            self.wire.carry(self, frame)

    # Receiving.

    def receive(self, frame: bytes) -> None:
        """Take a frame from the wire, without its checksum."""
        if not self._registers.get(RECEIVE, 0) & _ENABLED or not self.status & _LINK_UP:
            return
        if self._filters.by_pool:
            for pool in self._filters.pools(frame, from_wire=True):
                self._store(pool, frame)
        elif len(frame) <= max(self._registers.get(_LONGEST, 0), _USUAL) and self._filters.accept(frame):
            self._store(0, frame)

    def _store(self, number: int, frame: bytes) -> None:
        """Put a frame into the buffers of a queue; it is lost if there are too few."""
        one, owner = self.receive_rings[number], self._owner(number)
        frame, tag = self._stripped(number, frame)
        size = (one[ring.BUFFERS] & 0x7F) << 10 or _BUFFER_SIZES[self._registers.get(RECEIVE, 0) >> 16 & 3]
        if not one.enabled or one.available < -(-len(frame) // size) or not owner.bus_master:
            self._count(_MISSED)
            self._add_causes(_NO_ROOM)
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
                owner.dma_write(descriptor + 8, _RECEIVED_OLD.pack(len(part), 0, status, 0, tag or 0))
            else:
                owner.dma_write(descriptor, _RECEIVED_ADVANCED.pack(0, status, len(part), tag or 0))
            one.advance()
        self._count(_GOOD_RECEIVED, _ALL_RECEIVED)
        self._queue_event(number, sent=False)

    def _stripped(self, number: int, frame: bytes) -> tuple[bytes, int | None]:
        """A frame as it is stored, and the tag that is stored beside it."""
        options = self._registers.get(POOL_OPTIONS + 4 * (number % POOLS), 0) if self._filters.by_pool else 0
        strips_tags = options & _POOL_STRIPS_TAGS or self._registers[_CONTROL] & _STRIP_TAGS
        tag = offload.tag_of(frame) if strips_tags else None
        if tag is not None:
            frame = offload.without_tag(frame)
        if not options & _POOL_STRIPS_CHECKSUM and not self._registers.get(RECEIVE, 0) & _STRIP_CHECKSUM:
            frame += zlib.crc32(frame).to_bytes(4, "little")
        return frame, tag

    def _count(self, *counters: int) -> None:
        for counter in counters:
            self._registers[counter] = self._registers.get(counter, 0) + 1

    _actions: dict[int, Callable[[Igb, int], None]] = {  # noqa: RUF012  # never changed
        _CONTROL: _control, _EEPROM_READ: _read_eeprom, _PHY: _access_phy, _TRANSMIT: _enable_transmission,
        _RESETS: _clear_resets, _CAUSE: _clear_causes, _CAUSE_SET: _set_causes, _MASK_SET: _unmask, _MASK_CLEAR: _mask,
    }  # fmt: skip


class IgbVf(PciDevice):
    """A virtual function of an :class:`Igb`, which is made with the physical function's `sriov_numvfs`.

    Registers (BAR0, 32 bits): VTCTRL (reset), VTSTATUS, VTEICR, VTEICS, VTEIMS, VTEIMC, VTEIAC, VTEIAM, VTIVAR, and the rings of two
    queues. All others hold what is written to them: the mailbox has no effect.

    :param card: the physical function
    :param number: which of its virtual functions this one is, from 0 on
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
        if offset == _STATUS:
            return self._card.status
        if (found := self._ring(offset)) is not None:
            return found[0][found[2]]
        return self.causes.read(offset) if offset in causes.REGISTERS else self._registers.get(offset, 0)

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        if bar or width != 4:
            super().write(bar, offset, width, value)
        elif offset == _CONTROL and value & _RESET:
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
        """The ring that a register is of, its number on the card, and the register's offset in it."""
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
        """Its queue of that index has sent or received something."""
        signal(self.causes, self._registers.get(VECTORS, 0), 2 * index + sent)


def signal(causes_: Causes, value: int, byte: int) -> None:
    """Send the vector that a byte of an IVAR register names, if it is valid."""
    entry = value >> 8 * byte & 0xFF
    if entry & _VECTOR_VALID:
        causes_.add(entry & 0x1F)
