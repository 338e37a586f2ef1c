# SPDX-License-Identifier: MIT
"""PCI configuration space, as vfio-pci shows it: which bits hold what is written, and where a write does something."""

from __future__ import annotations

from collections.abc import Callable

from pyvfio.mock.vfio.pci.function import Function
from pyvfio.mock.vfio.pci.saved import (
    ADVANCED_ERROR_REPORTING,
    ADVANCED_FEATURES,
    EXPRESS,
    MSI,
    MSIX,
    POWER_MANAGEMENT,
    Saved,
)

COMMAND, STATUS, CACHE_LINE, BAR0, ROM, INTERRUPT_LINE, INTERRUPT_PIN = 0x04, 0x06, 0x0C, 0x10, 0x30, 0x3C, 0x3D
CAP_IO, CAP_MEMORY, CAP_MASTER, CAP_INTX_DISABLE = 1 << 0, 1 << 1, 1 << 2, 1 << 10
_SERR = 1 << 8
#: what firmware leaves in the command register
FIRMWARE = CAP_IO | CAP_MEMORY | _SERR
_HAS_CAPABILITIES = 1 << 4
_HEADER = 0x40
#: the bits of power management's control register that are the state; all of them: D3hot
POWER_STATE = 0x03
#: what a program sees of what it writes to PCI Express's device control: the sizes of payloads and of read requests; the reset bit
_DEVICE_CONTROL = 0xF0E0
#: the bits that start a function-level reset: in the upper byte of that register, and in the control byte of Advanced Features
_EXPRESS_RESET, _ADVANCED_RESET = 0x80, 0x01
#: where extended capabilities begin
_EXTENDED = 0x100
#: the errors that it knows; those that are fatal, or masked, after a reset
_UNCORRECTABLE, _CORRECTABLE, _FATAL_AT_RESET, _MASKED_AT_RESET = 0x03FFF030, 0xF1C1, 0x00462030, 0x2000
#: the bit of the status register that says that INTx is asserted
_INTERRUPT = 1 << 3
#: in its upper byte: errors that were seen, which a write of ones clears
_ERRORS = 0xF9
#: in the upper byte of power management's capabilities: from which states it wakes the host; in its control: PME's switch and status
_WAKES, _WAKE_CONTROL, _NO_SOFT_RESET = 0xF8, 0x8100, 1 << 3
#: what is switched in the control registers of MSI and MSI-X; MSI's bit for addresses of 64 bits
_MSI_SWITCHES, _MSI_WIDE, _MSIX_SWITCHES = 0x71, 1 << 7, 0xC000
#: in the upper byte of MSI-X's control register
_MSIX_ENABLE = 0x80
#: errors, and transactions that are pending, in PCI Express's device status
_DEVICE_STATUS = 0x2F
#: whether packets may have prefixes, by the second device capabilities; in the upper byte of the second device control: they may not
_TAKES_PREFIXES, _BLOCK_PREFIXES = 1 << 21, 0x80


class Config:
    """
    :ivar size: bytes
    :ivar data: what is read
    """

    def __init__(self, function: Function, addresses: dict[int, int]) -> None:
        """
        :param addresses: of the BARs
        """
        saved = function.saved
        self.size = 4096 if function.express and not (saved is not None and saved.standard_only) else 256
        self.data = bytearray(self.size if saved is None else saved.data.ljust(self.size, b"\0"))
        # What is in no capability is the device's own, and writes reach it (vfio_raw_config_write): it holds them.
        self._unknown = bytearray(_HEADER) + b"\1" * (self.size - _HEADER)
        self._writable = bytearray(_HEADER) + b"\xff" * (self.size - _HEADER)
        #: bits of known registers that writes reach in the device itself
        self._hardware = bytearray(self.size)
        self._hardware[COMMAND : COMMAND + 2] = _le(2, 0xFFFF & ~CAP_INTX_DISABLE)
        self._hardware[CACHE_LINE] = 0xFF
        self._function = function
        #: offset of MSI's control register; 0 without MSI
        self.msi_control = 0
        #: of MSI-X's likewise
        self.msix_control = 0
        #: offset of power management's control register; 0 without it
        self.power_control = 0
        #: offset of a byte, and the bit in it whose write starts a function-level reset
        self.reset_bits: dict[int, int] = {}
        #: whether INTx is asserted now; whether MSI-X is enabled
        self.interrupt_asserted: Callable[[], bool] = bool
        self.msix_enabled: Callable[[], bool] = bool
        self._acts: list[tuple[int, int, Callable[[], None]]] = []
        self._header(addresses)
        if saved is None:
            self._capabilities()
        else:
            self._saved_capabilities(saved)
        self._reset_data = bytes(self.data)

    def reset(self) -> None:
        """Restore what a driver finds; registers that nobody knows keep what they hold (pci_restore_state)."""
        for at, first in enumerate(self._reset_data):
            if not self._unknown[at]:
                self.data[at] = first

    # Making it.

    def wake(self, asleep: bytes) -> None:
        """Restore what the device itself held when it went to sleep (pci_restore_state); what vfio-pci virtualises stays as it is."""
        for at in range(self.size):
            mask = self._hardware[at]
            self.data[at] = self.data[at] & ~mask | asleep[at] & mask

    def _put(self, offset: int, size: int, value: int, writable: int = 0) -> None:
        self.data[offset : offset + size] = value.to_bytes(size, "little")
        self._writable[offset : offset + size] = writable.to_bytes(size, "little")

    def _header(self, addresses: dict[int, int]) -> None:
        function = self._function
        self._put(0x00, 2, function.ids[0])
        self._put(0x02, 2, function.ids[1])
        self._put(
            COMMAND,
            2,
            FIRMWARE if function.saved is None else self._enabled(),
            CAP_IO | CAP_MEMORY | CAP_MASTER | CAP_INTX_DISABLE | _SERR,
        )
        self._put(0x08, 4, function.revision | function.class_code << 8)
        self._put(CACHE_LINE, 1, 0, 0xFF)
        self._put(0x0E, 1, function.bridge | function.multifunction << 7)
        # What was saved of the BARs, of the ROM, which the mock has none of, and of what happened.
        self.data[BAR0 : BAR0 + 24] = bytes(24)
        self.data[ROM : ROM + 4] = bytes(4)
        self.data[STATUS] &= ~_INTERRUPT
        self.data[STATUS + 1] &= ~_ERRORS
        for index, bar in function.all_bars.items():
            at = BAR0 + 4 * index
            width = 8 if bar.wide else 4
            kind = 1 if bar.ports else bar.wide << 2 | bar.prefetchable << 3
            self._put(at, width, addresses[index] | kind, (1 << 8 * width) - bar.size)
        self._put(0x2C, 2, function.subsystem[0])
        self._put(0x2E, 2, function.subsystem[1])
        if function.saved is None:
            self._put(INTERRUPT_LINE, 1, 0xB if function.intx else 0)
            self._put(INTERRUPT_PIN, 1, function.intx)
        self._writable[INTERRUPT_LINE] = 0xFF

    def _enabled(self) -> int:
        """What the command register has when a driver takes the function (pci_enable_device): what it decodes, and no bus master."""
        bars = self._function.all_bars.values()
        decodes = CAP_IO * any(bar.ports for bar in bars) | CAP_MEMORY * any(not bar.ports for bar in bars)
        return self.command & ~(CAP_MASTER | CAP_INTX_DISABLE) | decodes

    def _saved_capabilities(self, saved: Saved) -> None:
        """Capabilities where they were saved. Their switches are off, nothing is pending, and what the mock models can be written."""
        noted: set[int] = set()
        for one in saved.capabilities + saved.extended:
            self._known(one.offset, one.length)
        for id_, at, _ in saved.capabilities:
            if id_ in noted:
                continue  # the kernel finds the first of several
            noted.add(id_)
            if id_ == POWER_MANAGEMENT:
                # Who is woken up by it is the host's affair (vfio_update_pm_vconfig_bytes).
                self.data[at + 3] &= ~_WAKES
                self._put(at + 4, 2, saved.word(at + 4, 2) & ~(_WAKE_CONTROL | POWER_STATE), POWER_STATE)
            elif id_ == MSI:
                control = saved.word(at + 2, 2)
                size = 6 if not control & _MSI_WIDE else 10
                self._put(at + 2, 2, control & ~_MSI_SWITCHES, 0xFF)
                self._put(at + 4, size, 0, (1 << 8 * size) - 1)
            elif id_ == MSIX:
                self._put(at + 2, 2, saved.word(at + 2, 2) & ~_MSIX_SWITCHES)
            elif id_ == EXPRESS:
                self._put(at + 8, 2, saved.word(at + 8, 2) & ~(_EXPRESS_RESET << 8), _DEVICE_CONTROL)
                self._put(at + 10, 2, saved.word(at + 10, 2) & ~_DEVICE_STATUS)
                if saved.word(at + 2, 2) & 0xF > 1 and saved.word(at + 0x24, 4) & _TAKES_PREFIXES:
                    self._writable[at + 0x29] = self._hardware[at + 0x29] = _BLOCK_PREFIXES
            elif id_ == ADVANCED_FEATURES:
                self._put(at + 4, 2, 0, _ADVANCED_RESET)
            self._note(id_, at)
        if at := saved.find_extended(ADVANCED_ERROR_REPORTING):
            self._error_registers(at, *(saved.word(at + register, 4) for register in (0x08, 0x0C, 0x14)))

    def _known(self, at: int, length: int) -> None:
        """These bytes are a capability's, of which nothing can be written if it is not said."""
        for each in range(at, min(at + length, self.size)):
            self._unknown[each] = self._writable[each] = 0

    def _note(self, id_: int, at: int) -> None:
        """Keep where a capability's registers are that do something."""
        if id_ == MSI:
            self.msi_control = at + 2
        elif id_ == MSIX:
            self.msix_control = at + 2
        elif id_ == POWER_MANAGEMENT:
            self.power_control = at + 4
        elif id_ == EXPRESS:
            self.reset_bits[at + 9] = _EXPRESS_RESET
        elif id_ == ADVANCED_FEATURES:
            self.reset_bits[at + 4] = _ADVANCED_RESET

    def _capabilities(self) -> None:
        function = self._function
        methods = function.reset_methods
        found: list[tuple[int, bytes, bytes]] = []
        if function.power_management:
            # What wakes it up is the host's affair: PME is not shown, and cannot be enabled.
            keeps = _NO_SOFT_RESET * function.no_soft_reset
            found.append((POWER_MANAGEMENT, _le(2, 0x0003) + _le(4, keeps), _le(2, 0) + _le(4, POWER_STATE)))
        if function.msi:
            control = function.msi.bit_length() - 1 << 1 | 1 << 7
            body = _le(2, control) + bytes(10)
            found.append((MSI, body, b"\xff\0" + b"\xff" * 10))
        if function.express:
            body = _le(2, 0x0002) + _le(4, 0x8000 | ("flr" in methods) << 28) + _le(4, 0) + bytes(48)
            found.append((EXPRESS, body, bytes(6) + _le(2, _DEVICE_CONTROL) + bytes(50)))
        if function.msix:
            table, pending = function.table, function.pending
            body = _le(2, function.msix - 1) + _le(4, table[1] | table[0]) + _le(4, pending[1] | pending[0])
            found.append((MSIX, body, bytes(10)))
        if function.advanced_features:
            # Length, capabilities (transactions pending, function-level reset), control, status.
            found.append(
                (ADVANCED_FEATURES, bytes((6, 3 * ("af_flr" in methods), 0, 0)), bytes((0, 0, _ADVANCED_RESET, 0)))
            )
        at, link = 0x40, 0x34
        for id_, body, writable in found:
            self._put(link, 1, at)
            self._known(at, 2 + len(body))
            self.data[at] = id_
            self.data[at + 2 : at + 2 + len(body)] = body
            self._writable[at + 2 : at + 2 + len(body)] = writable
            self._note(id_, at)
            link, at = at + 1, at + 2 + len(body) + 3 & ~3
        if found:
            self.data[STATUS] |= _HAS_CAPABILITIES
        if function.express and function.error_reporting:
            self._error_reporting()

    def _error_reporting(self) -> None:
        """The first extended capability, version 2. Of its registers the masks and the severity can be written."""
        at = _EXTENDED
        self._known(at, 0x48)
        self._put(at, 4, ADVANCED_ERROR_REPORTING | 2 << 16)
        self._error_registers(at, 0, _FATAL_AT_RESET, _MASKED_AT_RESET)

    def _error_registers(self, at: int, masked: int, fatal: int, correctable_masked: int) -> None:
        self._put(at + 0x04, 4, 0)
        self._put(at + 0x08, 4, masked, _UNCORRECTABLE)
        self._put(at + 0x0C, 4, fatal, _UNCORRECTABLE)
        self._put(at + 0x10, 4, 0)
        self._put(at + 0x14, 4, correctable_masked, _CORRECTABLE)
        for register in 0x08, 0x0C, 0x14:
            self._hardware[at + register : at + register + 4] = b"\xff" * 4

    def address(self, bar: int) -> int:
        """Where a BAR is."""
        at = BAR0 + 4 * bar
        width = 8 if self._function.all_bars[bar].wide else 4
        return int.from_bytes(self._reset_data[at : at + width], "little") & ~0xF

    # Using it.

    def has_function_reset(self, offset: int) -> bool:
        """Whether the capability with this byte of :attr:`reset_bits` says that it has a function-level reset."""
        return ("flr" if self.reset_bits[offset] == _EXPRESS_RESET else "af_flr") in self._function.reset_methods

    def on_write(self, offset: int, size: int, act: Callable[[], None]) -> None:
        """Call `act` after any of these bytes was written."""
        self._acts.append((offset, size, act))

    def read(self, offset: int, size: int) -> bytes:
        data = bytearray(self.data[offset : offset + size])
        if offset <= STATUS < offset + size and self.interrupt_asserted():
            data[STATUS - offset] |= _INTERRUPT
        # MSI-X's control is the device's own; vfio-pci drops what is written there.
        if self.msix_control and offset <= self.msix_control + 1 < offset + size and self.msix_enabled():
            data[self.msix_control + 1 - offset] |= _MSIX_ENABLE
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        for at, byte in enumerate(data, offset):
            mask = self._writable[at]
            self.data[at] = self.data[at] & ~mask | byte & mask
        for start, size, act in self._acts:
            if start < offset + len(data) and offset < start + size:
                act()

    @property
    def command(self) -> int:
        return int.from_bytes(self.data[COMMAND : COMMAND + 2], "little")

    @command.setter
    def command(self, value: int) -> None:
        self.data[COMMAND : COMMAND + 2] = value.to_bytes(2, "little")


def _le(size: int, value: int) -> bytes:
    return value.to_bytes(size, "little")
