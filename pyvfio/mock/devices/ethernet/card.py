# SPDX-License-Identifier: MIT
"""The common part of the models of Intel's network cards: MAC address, PHY, NVM, interrupt causes, filters."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pyvfio.mock.devices.ethernet import nvm, offload
from pyvfio.mock.devices.ethernet.causes import ASSERTED, CauseRegister
from pyvfio.mock.devices.ethernet.filters import RECEIVE, Filters
from pyvfio.mock.devices.ethernet.phy import Phy
from pyvfio.mock.vfio.pci.device import PciDevice

if TYPE_CHECKING:
    from pyvfio.mock.devices.ethernet.wire import Wire
    from pyvfio.mock.machine.kernel import Kernel

CONTROL, STATUS, EEPROM, EEPROM_READ, CONTROL_MORE, PHY, TRANSMIT = (
    0x0000,
    0x0008,
    0x0010,
    0x0014,
    0x0018,
    0x0020,
    0x0400,
)
CAUSE, CAUSE_SET, MASK_SET, MASK_CLEAR, AUTO_MASK = 0x00C0, 0x00C8, 0x00D0, 0x00D8, 0x00E0
ADDRESS_LOW, ADDRESS_HIGH, LONGEST, SEMAPHORE = 0x5400, 0x5404, 0x5004, 0x5B50
# Counters, which a read clears.
_FIRST_COUNTER, _LAST_COUNTER = 0x4000, 0x4130
MISSED, GOOD_RECEIVED, GOOD_SENT, ALL_RECEIVED, ALL_SENT = 0x4010, 0x4074, 0x4080, 0x40D0, 0x40D4

# CONTROL
_FULL_DUPLEX, _NO_MASTER, _SET_LINK_UP, _SPEED_1000, RESET = 1 << 0, 1 << 2, 1 << 6, 2 << 8, 1 << 26
STRIP_TAGS, _PHY_RESET = 1 << 30, 1 << 31
LINK_UP, _STATUS_1000, _MASTER_ENABLED = 1 << 1, 2 << 6, 1 << 19  # STATUS
_EEPROM_REQUEST, _EEPROM_GRANT, _EEPROM_STATE = 1 << 6, 1 << 7, 1 << 8 | 1 << 9 | 2 << 11  # present, read; 256 words
_READ_DONE = 1 << 1
_MASK_ON_READ = 1 << 27  # CONTROL_MORE
_PHY_ADDRESS, _PHY_WRITE, _PHY_READ, _PHY_READY, _PHY_ERROR = 1, 1, 2, 1 << 28, 1 << 30
ENABLED, _PAD, LOOPBACK, STRIP_CHECKSUM = 1 << 1, 1 << 3, 1 << 6, 1 << 26  # RECEIVE and TRANSMIT
_BUFFER_SIZES = (2048, 1024, 512, 256)
# Causes
SENT, LINK_CHANGED, NO_ROOM, RECEIVED = 1 << 0, 1 << 2, 1 << 6, 1 << 7

_SHORTEST, USUAL = 60, 1518


class Card(PciDevice):
    """The common part of a model.

    :param mac: the MAC address, 6 bytes; None: derive one from `name`
    :raises ValueError: `mac` does not have 6 bytes

    :ivar wire: the wire that the card is connected to; None without one
    :ivar phy_identifier: the PHY's registers 2 and 3; `addresses`: the number of MAC addresses
    :ivar aliases: additional offset of a register -> its offset
    """

    phy_identifier: ClassVar[int]
    addresses: ClassVar[int]
    aliases: ClassVar[Mapping[int, int]] = {}

    def __init__(self, kernel: Kernel, name: str, *, mac: bytes | None = None, **more: Any) -> None:
        self.mac = nvm.address(name) if mac is None else bytes(mac)
        if len(self.mac) != 6:
            raise ValueError(f"mac={self.mac!r}: must have 6 bytes")
        self.wire: Wire | None = None
        self.phy = Phy(self.phy_identifier)
        self.causes = CauseRegister(self.signal_causes, self.deassert)
        self.registers: dict[int, int] = {}
        self.filters = Filters(self.register, self.addresses)
        super().__init__(kernel, name, **more)
        self._words = nvm.words(self.mac, self.function.ids, self.function.subsystem)
        self.power_on()

    def power_on(self) -> None:
        self.phy.reset()
        self.restart()

    def restart(self) -> None:
        """Set all registers to their values after a reset. The PHY is not reset."""
        self.registers.clear()
        self.registers[CONTROL] = _FULL_DUPLEX | _SPEED_1000
        self.registers[ADDRESS_LOW] = int.from_bytes(self.mac[:4], "little")
        self.registers[ADDRESS_HIGH] = 1 << 31 | int.from_bytes(self.mac[4:], "little")
        self.causes.reset()

    def signal_causes(self) -> None:
        """Interrupt for a cause."""
        self.interrupt()

    # Registers.

    def register(self, offset: int) -> int:
        """Return the stored value of a register."""
        return self.registers.get(offset, 0)

    @property
    def status(self) -> int:
        """The register STATUS."""
        control = self.registers[CONTROL]
        link = bool(control & _SET_LINK_UP) and self.phy.link
        return _FULL_DUPLEX | _STATUS_1000 | (0 if control & _NO_MASTER else _MASTER_ENABLED) | (LINK_UP if link else 0)

    def read(self, bar: int, offset: int, width: int) -> int:
        if bar:
            return super().read(bar, offset, width)
        if width == 8:
            return self.get(offset) | self.get(offset + 4) << 32
        return self.get(offset & ~3) >> 8 * (offset & 3) & (1 << 8 * width) - 1

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        if bar:
            super().write(bar, offset, width, value)
        elif width == 8:
            self.set(offset, value & 0xFFFFFFFF)
            self.set(offset + 4, value >> 32)
        elif width == 4:
            self.set(offset, value)

    def get(self, offset: int) -> int:
        """Read a register, with the side effects of a read.

        :param offset: offset in BAR0, a multiple of 4
        """
        offset = self.aliases.get(offset, offset)
        value = self.register(offset)
        if offset == STATUS:
            return self.status
        if offset == EEPROM:
            return value & _EEPROM_REQUEST | (_EEPROM_GRANT if value & _EEPROM_REQUEST else 0) | _EEPROM_STATE
        if offset == CAUSE:
            return self.causes.take(masks=bool(self.register(CONTROL_MORE) & _MASK_ON_READ))
        if offset in (MASK_SET, MASK_CLEAR):
            return self.causes.mask
        if offset == AUTO_MASK:
            return self.causes.auto_mask
        if offset == SEMAPHORE:
            self.registers[offset] = value | 1  # a read of 0 acquires the semaphore
        elif _FIRST_COUNTER <= offset < _LAST_COUNTER:
            self.registers.pop(offset, None)
        return value

    def set(self, offset: int, value: int) -> None:
        """Write a register.

        :param offset: offset in BAR0, a multiple of 4
        :param value: 32 bits
        """
        offset = self.aliases.get(offset, offset)
        if (action := self._actions.get(offset)) is not None:
            action(self, value)
        elif offset != STATUS:
            self.registers[offset] = value

    def _control(self, value: int) -> None:
        before = self.status & LINK_UP
        self.registers[CONTROL] = value & ~(RESET | _PHY_RESET)
        if value & RESET:
            self.restart()
            return
        if value & _PHY_RESET:
            self.phy.reset()
        if value & _PHY_RESET or self.status & LINK_UP != before:
            self.causes.add(LINK_CHANGED)

    def _read_eeprom(self, value: int) -> None:
        address = value >> 2 & 0x3FFF
        word = self._words[address] if address < len(self._words) else 0xFFFF
        self.registers[EEPROM_READ] = word << 16 | address << 2 | _READ_DONE

    def _access_phy(self, value: int) -> None:
        register, address, operation = value >> 16 & 31, value >> 21 & 31, value >> 26 & 3
        if address != _PHY_ADDRESS or operation not in (_PHY_READ, _PHY_WRITE):
            self.registers[PHY] = value | _PHY_READY | _PHY_ERROR
            return
        changed = False
        if operation == _PHY_READ:
            value = value & ~0xFFFF | self.phy.read(register)
        else:
            changed = self.phy.write(register, value & 0xFFFF)
        self.registers[PHY] = value | _PHY_READY
        if changed:
            self.causes.add(LINK_CHANGED)

    def _set_causes(self, value: int) -> None:
        self.causes.add(value & ~ASSERTED)

    def _set_auto_mask(self, value: int) -> None:
        self.causes.auto_mask = value

    _actions: ClassVar[dict[int, Callable[[Card, int], None]]] = {
        CONTROL: _control, EEPROM_READ: _read_eeprom, PHY: _access_phy, CAUSE_SET: _set_causes, AUTO_MASK: _set_auto_mask,
        CAUSE: lambda self, value: self.causes.clear(value), MASK_SET: lambda self, value: self.causes.allow(value),
        MASK_CLEAR: lambda self, value: self.causes.forbid(value),
    }  # fmt: skip

    # Frames.

    def padded(self, frame: bytes) -> bytes:
        """Return a frame padded to the minimum length, if TCTL enables padding."""
        return frame.ljust(_SHORTEST, b"\0") if self.register(TRANSMIT) & _PAD else frame

    def receive(self, frame: bytes) -> None:
        """Take a frame from the wire, without its checksum."""
        if self.register(RECEIVE) & ENABLED and self.status & LINK_UP:
            self.sort(frame)

    def sort(self, frame: bytes) -> None:
        """Put a frame from the wire into the queues that accept it.

        :param frame: the frame, without its checksum
        """
        raise NotImplementedError

    @property
    def buffer_size(self) -> int:
        """The size of a receive buffer in bytes, from RCTL."""
        return _BUFFER_SIZES[self.register(RECEIVE) >> 16 & 3]

    def stripped(self, frame: bytes, *, tags: bool, checksum: bool) -> tuple[bytes, int | None]:
        """Return a frame as it is stored in memory, and the VLAN tag that is stored in the descriptor.

        :param frame: the frame from the wire, without its checksum
        :param tags: remove the VLAN tag from the frame
        :param checksum: store the frame without its checksum
        """
        tag = offload.tag_of(frame) if tags else None
        if tag is not None:
            frame = offload.without_tag(frame)
        return frame if checksum else frame + zlib.crc32(frame).to_bytes(4, "little"), tag

    def lose(self) -> None:
        """Count a frame that was lost for lack of buffers."""
        self.count(MISSED)
        self.causes.add(NO_ROOM)

    def count(self, *counters: int) -> None:
        """Increment counters."""
        for counter in counters:
            self.registers[counter] = self.register(counter) + 1
