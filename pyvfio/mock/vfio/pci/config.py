# SPDX-License-Identifier: MIT
"""PCI configuration space as vfio-pci presents it: which bits are writable, and which writes have a side effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pyvfio.mock.vfio.pci.function import Function
from pyvfio.mock.vfio.pci.saved import (
    ADVANCED_ERROR_REPORTING,
    ADVANCED_FEATURES,
    DESIGNATED_VENDOR,
    EXPRESS,
    EXTENDED_VENDOR,
    MSI,
    MSIX,
    PCIX,
    POWER_BUDGETING,
    POWER_MANAGEMENT,
    VENDOR,
    VITAL_PRODUCT_DATA,
    Capability,
    Saved,
)

COMMAND, STATUS, CACHE_LINE, BAR0, ROM, INTERRUPT_LINE, INTERRUPT_PIN = 0x04, 0x06, 0x0C, 0x10, 0x30, 0x3C, 0x3D
_LATENCY, _SELF_TEST = 0x0D, 0x0F
CAP_IO, CAP_MEMORY, CAP_MASTER, CAP_INTX_DISABLE = 1 << 0, 1 << 1, 1 << 2, 1 << 10
_SERR = 1 << 8
#: the command register as firmware leaves it
FIRMWARE = CAP_IO | CAP_MEMORY | _SERR
_HAS_CAPABILITIES = 1 << 4
_HEADER = 0x40
#: PowerState in PMCSR; all ones is D3hot
POWER_STATE = 0x03
#: bits of Device Control that vfio-pci virtualises: Max_Payload_Size, Max_Read_Request_Size and Initiate Function Level
#: Reset
_DEVICE_CONTROL = 0xF0E0
#: error reporting enables of Device Control, which every function stores (PCI Express specification)
_REPORTED = 0x000F
#: Initiate FLR: in the upper byte of Device Control, and in the control byte of Advanced Features
_EXPRESS_RESET, _ADVANCED_RESET = 0x80, 0x01
#: offset of the first extended capability
_EXTENDED = 0x100
#: error bits that the uncorrectable and the correctable registers implement; uncorrectable errors that are fatal after
#: a reset
_UNCORRECTABLE, _CORRECTABLE, _FATAL_AT_RESET = 0x03FFF030, 0xF1C1, 0x00462030
#: errors masked after a reset, by the specification's later revisions; without Advisory Non-Fatal, which pci_aer_init
#: unmasks
_MASKED_UNCORRECTABLE, _MASKED_CORRECTABLE = 0x02400000, 0xC000
#: Interrupt Status, in the status register
_INTERRUPT = 1 << 3
#: error bits in the upper byte of the status register, which a write of 1 clears
_ERRORS = 0xF9
#: PME_Support, in the upper byte of PMC; PME_En and PME_Status, in PMCSR; No_Soft_Reset, in PMCSR
_WAKES, _WAKE_CONTROL, _NO_SOFT_RESET = 0xF8, 0x8100, 1 << 3
#: in Message Control: MSI Enable and Multiple Message Enable; 64-bit Address Capable; MSI-X Enable and Function Mask
_MSI_SWITCHES, _MSI_WIDE, _MSIX_SWITCHES = 0x71, 1 << 7, 0xC000
#: MSI-X Enable, in the upper byte of Message Control
_MSIX_ENABLE = 0x80
#: errors detected, and Transactions Pending, in Device Status
_DEVICE_STATUS = 0x2F
#: in Advanced Error Capabilities and Control: ECRC generation and checking are possible; ECRC generation and checking
#: are enabled
_ECRC_ABLE, _ECRC_ON = 0xA0, 0x140
#: Per-Vector Masking Capable, in MSI Message Control
_MSI_MASKS = 1 << 8
#: bits that do not reach the device: of Device Control, the virtualised ones and Phantom Functions Enable; of Device
#: Control 2, ARI
_NO_CONTROL, _NO_CONTROL_2 = _DEVICE_CONTROL | 1 << 9, 1 << 5
#: bits of PMCSR that do not reach the device: PowerState, PME_En, PME_Status
_NO_POWER_CONTROL = 0x8103
#: End-End TLP Prefix Supported, in Device Capabilities 2; End-End TLP Prefix Blocking, in the upper byte of Device
#: Control 2
_TAKES_PREFIXES, _BLOCK_PREFIXES = 1 << 21, 0x80


class Config:
    """The configuration space of one function.

    :ivar size: bytes
    :ivar data: the bytes that a read returns, without Interrupt Status and MSI-X Enable
    """

    def __init__(self, function: Function, addresses: dict[int, int]) -> None:
        """
        :param addresses: BAR -> bus address
        """
        saved = function.saved
        self.size = 4096 if function.express and not (saved is not None and saved.standard_only) else 256
        self.data = bytearray(self.size if saved is None else saved.data.ljust(self.size, b"\0"))
        # Registers outside every capability are device-specific: vfio_raw_config_write passes writes through to the
        # device.
        self._unknown = bytearray(_HEADER) + b"\1" * (self.size - _HEADER)
        self._writable = bytearray(_HEADER) + b"\xff" * (self.size - _HEADER)
        #: bits whose writes vfio-pci passes through to the device, which stores some of them
        self._through = bytearray(_HEADER) + b"\xff" * (self.size - _HEADER)
        self._through[COMMAND : COMMAND + 2] = _le(2, 0xFFFF & ~CAP_INTX_DISABLE)
        for place in CACHE_LINE, _LATENCY, _SELF_TEST:
            self._through[place] = 0xFF
        #: bytes that pci_save_state saves, and that are restored in the device when it leaves D3hot
        self._kept = bytearray(self.size)
        self._kept[COMMAND] = self._kept[COMMAND + 1] = self._kept[CACHE_LINE] = self._kept[_LATENCY] = 1
        self._function = function
        #: offset of MSI's control register; 0 without MSI
        self.msi_control = 0
        #: offset of MSI-X's control register; 0 without MSI-X
        self.msix_control = 0
        #: offset of PMCSR; 0 without power management
        self.power_control = 0
        #: offset of a byte -> the bit in it that starts a function-level reset
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
        self._store(function.stored)
        self._reset_data = bytes(self.data)

    def reset(self) -> None:
        """Restore the state that a driver finds (pci_restore_state); device-specific registers keep their contents."""
        for at, first in enumerate(self._reset_data):
            if not self._unknown[at]:
                self.data[at] = first

    # Construction.

    def wake(self, asleep: bytes) -> None:
        """Restore the device's registers as they were when it entered D3hot (pci_restore_state).

        Bits that vfio-pci virtualises keep their value.
        """
        for at in range(self.size):
            mask = self._through[at] if self._kept[at] else 0
            self.data[at] = self.data[at] & ~mask | asleep[at] & mask

    def _store(self, stored: Mapping[int, int]) -> None:
        """Make only these bits writable, among those that vfio-pci passes through to the device."""
        for offset, bits in stored.items():
            for at, byte in enumerate(bits.to_bytes(4, "little"), offset):
                through = self._through[at]
                self._writable[at] = self._writable[at] & ~through | byte & through

    def _put(self, offset: int, size: int, value: int, writable: int = 0) -> None:
        room = max(self.size - offset, 0)  # a saved capability may claim to extend past the end of the space
        self.data[offset : offset + size] = value.to_bytes(size, "little")[:room]
        self._writable[offset : offset + size] = writable.to_bytes(size, "little")[:room]

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
        # Discard the saved BARs (set below), the ROM (the mock has none), a pending INTx and recorded errors.
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
        """Return the command register after pci_enable_device: the function decodes its BARs, and bus master is off."""
        bars = self._function.all_bars.values()
        decodes = CAP_IO * any(bar.ports for bar in bars) | CAP_MEMORY * any(not bar.ports for bar in bars)
        return self.command & ~(CAP_MASTER | CAP_INTX_DISABLE) | decodes

    def _saved_capabilities(self, saved: Saved) -> None:
        """Put the saved capabilities at their offsets: disabled, nothing pending; modelled registers are writable."""
        noted: set[int] = set()
        for one in saved.capabilities + saved.extended:
            self._raw(one.offset + one.length, max(_own_length(one, saved) - one.length, 0))
        if saved.placeholder:
            self._known(_EXTENDED, 4)
        for one in saved.capabilities + saved.extended:
            self._known(one.offset, one.length)
            self._permit(one, saved)
        for id_, at, _ in saved.capabilities:
            if id_ in noted:
                continue  # pci_find_capability returns the first of several
            noted.add(id_)
            if id_ == POWER_MANAGEMENT:
                # vfio_update_pm_vconfig_bytes hides PME: wake-up events belong to the host.
                self.data[at + 3] &= ~_WAKES
                self._put(at + 4, 2, saved.word(at + 4, 2) & ~(_WAKE_CONTROL | POWER_STATE), POWER_STATE)
            elif id_ == MSI:
                control = saved.word(at + 2, 2)
                size = 6 if not control & _MSI_WIDE else 10
                self._put(at + 2, 2, control & ~_MSI_SWITCHES, 0xFF)
                self._put(at + 4, size, 0, (1 << 8 * size) - 1)
                if control & _MSI_MASKS:
                    # Mask Bits, one bit per vector, and Pending Bits.
                    self._put(at + 4 + (size + 3 & ~3), 8, 0, (1 << (1 << (control >> 1 & 7))) - 1)
            elif id_ == MSIX:
                self._put(at + 2, 2, saved.word(at + 2, 2) & ~_MSIX_SWITCHES)
            elif id_ == EXPRESS:
                self._put(at + 8, 2, saved.word(at + 8, 2) & ~(_EXPRESS_RESET << 8), _DEVICE_CONTROL | _REPORTED)
                self._put(at + 10, 2, saved.word(at + 10, 2) & ~_DEVICE_STATUS)
                if saved.word(at + 2, 2) & 0xF > 1 and saved.word(at + 0x24, 4) & _TAKES_PREFIXES:
                    self._writable[at + 0x29] = _BLOCK_PREFIXES
            elif id_ == ADVANCED_FEATURES:
                self._put(at + 4, 2, 0, _ADVANCED_RESET)
            self._note(id_, at)
        if at := saved.find_extended(ADVANCED_ERROR_REPORTING):
            self._error_registers(at, *(saved.word(at + register, 4) for register in (0x08, 0x0C, 0x14, 0x18)))

    def _permit(self, one: Capability, saved: Saved) -> None:
        """Set which bits of a capability reach the device, and which vfio-pci virtualises (vfio_pci_init_perm_bits)."""
        at = one.offset
        if at >= _EXTENDED:
            if one.id == POWER_BUDGETING:
                # PCI_PWR_DATA. The kernel means to let the selector be written (init_pci_ext_cap_pwr_perm), which is at
                # offset 4.
                self._through[at + 8] = 0xFF
            elif one.id in (EXTENDED_VENDOR, DESIGNATED_VENDOR):
                self._raw(at, one.length)
        elif one.id == POWER_MANAGEMENT:
            self._let_through(at + 4, 4, 0xFFFFFFFF & ~_NO_POWER_CONTROL)
        elif one.id == VITAL_PRODUCT_DATA:
            # vfio_vpd_config_write toggles PCI_VPD_ADDR_F once the device has answered. The mock's devices have no VPD
            # data and never answer, so the flag stays as written.
            self._put(at + 2, 6, saved.word(at + 2, 6), 0xFFFFFFFFFFFF)
        elif one.id == PCIX:
            self._let_through(at + 2, 2, 0xFFFF)
            if one.length > 8:
                self._let_through(at + 8, 4, 0xFFFFFFFF)
        elif one.id == VENDOR:
            self._raw(at, one.length)
        elif one.id == EXPRESS:
            self._express_through(at)
        elif one.id == MSI and saved.word(at + 2, 2) & _MSI_MASKS:
            self._let_through(at + (0x10 if saved.word(at + 2, 2) & _MSI_WIDE else 0x0C), 8, (1 << 64) - 1)

    def _express_through(self, at: int) -> None:
        self._let_through(at + 0x08, 2, 0xFFFF & ~_NO_CONTROL)
        self._let_through(at + 0x28, 2, 0xFFFF & ~_NO_CONTROL_2)
        for place in {at + 0x08, at + 0x09, at + 0x28, at + 0x29} & set(range(self.size)):
            self._kept[place] = 1

    def _raw(self, at: int, length: int) -> None:
        """Pass writes through to the device (vfio_raw_config_write), which ignores them.

        No reset restores these bytes.
        """
        for each in range(at, min(at + length, self.size)):
            self._unknown[each], self._writable[each], self._through[each] = 1, 0, 0xFF

    def _known(self, at: int, length: int) -> None:
        """Mark bytes as part of a capability: read-only until another method makes them writable."""
        for each in range(at, min(at + length, self.size)):
            self._unknown[each] = self._writable[each] = self._through[each] = 0

    def _let_through(self, at: int, size: int, bits: int) -> None:
        """Set which bits of a register vfio-pci passes through to the device."""
        self._through[at : at + size] = _le(size, bits)[: max(self.size - at, 0)]

    def _note(self, id_: int, at: int) -> None:
        """Record the offsets of the registers whose writes have a side effect."""
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
            # vfio_update_pm_vconfig_bytes hides PME, and PME cannot be enabled: wake-up events belong to the host.
            keeps = _NO_SOFT_RESET * function.no_soft_reset
            found.append((POWER_MANAGEMENT, _le(2, 0x0003) + _le(4, keeps), _le(2, 0) + _le(4, POWER_STATE)))
        if function.msi:
            control = function.msi.bit_length() - 1 << 1 | 1 << 7
            body = _le(2, control) + bytes(10)
            found.append((MSI, body, b"\xff\0" + b"\xff" * 10))
        if function.express:
            body = _le(2, 0x0002) + _le(4, 0x8000 | ("flr" in methods) << 28) + _le(4, 0) + bytes(48)
            found.append((EXPRESS, body, bytes(6) + _le(2, _DEVICE_CONTROL | _REPORTED) + bytes(50)))
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
            if id_ == POWER_MANAGEMENT:
                self._let_through(at + 4, 4, 0xFFFFFFFF & ~_NO_POWER_CONTROL)
            elif id_ == EXPRESS:
                self._express_through(at)
            self._note(id_, at)
            link, at = at + 1, at + 2 + len(body) + 3 & ~3
        if found:
            self.data[STATUS] |= _HAS_CAPABILITIES
        if function.express and function.error_reporting:
            self._error_reporting()

    def _error_reporting(self) -> None:
        """Add Advanced Error Reporting, version 2, at 0x100. Masks, severity and ECRC enables are writable."""
        at = _EXTENDED
        self._known(at, 0x2C)
        self._raw(at + 0x2C, 0x1C)
        self._put(at, 4, ADVANCED_ERROR_REPORTING | 2 << 16)
        self._error_registers(at, _MASKED_UNCORRECTABLE, _FATAL_AT_RESET, _MASKED_CORRECTABLE, _ECRC_ABLE)

    def _error_registers(self, at: int, masked: int, fatal: int, correctable_masked: int, control: int) -> None:
        self._put(at + 0x04, 4, 0)
        self._put(at + 0x08, 4, masked, _UNCORRECTABLE)
        self._put(at + 0x0C, 4, fatal, _UNCORRECTABLE)
        self._put(at + 0x10, 4, 0)
        self._put(at + 0x14, 4, correctable_masked, _CORRECTABLE)
        # Each ECRC enable is the bit above its capability bit, and is writable only with it.
        self._put(at + 0x18, 4, control, (control & _ECRC_ABLE) << 1)
        for register, bits in (
            (0x04, _UNCORRECTABLE), (0x08, _UNCORRECTABLE), (0x0C, _UNCORRECTABLE), (0x10, _CORRECTABLE), (0x14, _CORRECTABLE),
            (0x18, _ECRC_ON),
        ):  # fmt: skip
            self._let_through(at + register, 4, bits)
        for register in 0x08, 0x0C, 0x14, 0x18:
            self._kept[at + register : at + register + 4] = b"\1" * 4

    def address(self, bar: int) -> int:
        """Return the address of a BAR."""
        at = BAR0 + 4 * bar
        width = 8 if self._function.all_bars[bar].wide else 4
        return int.from_bytes(self._reset_data[at : at + width], "little") & ~0xF

    # Access.

    def has_function_reset(self, offset: int) -> bool:
        """Whether the capability with this byte of :attr:`reset_bits` reports a function-level reset."""
        return ("flr" if self.reset_bits[offset] == _EXPRESS_RESET else "af_flr") in self._function.reset_methods

    def on_write(self, offset: int, size: int, act: Callable[[], None]) -> None:
        """Call `act` after a write to any of these bytes."""
        self._acts.append((offset, size, act))

    def read(self, offset: int, size: int) -> bytes:
        data = bytearray(self.data[offset : offset + size])
        if offset <= STATUS < offset + size and self.interrupt_asserted():
            data[STATUS - offset] |= _INTERRUPT
        # MSI-X Message Control is read from the device, where the kernel sets MSI-X Enable; vfio-pci drops writes to
        # it.
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


def _own_length(one: Capability, saved: Saved) -> int:
    """Return the length of a capability in the device, which may be greater than the length in vfio-pci's tables.

    Writes to the rest reach the device, which ignores them.
    """
    if one.offset >= _EXTENDED and one.id == ADVANCED_ERROR_REPORTING:
        return 0x48 if saved.word(one.offset, 4) >> 16 & 0xF > 1 else 0x40
    if one.offset < _EXTENDED and one.id == EXPRESS:
        return 0x14 if saved.word(one.offset + 2, 2) & 0xF == 1 else 0x3C
    return one.length


def _le(size: int, value: int) -> bytes:
    return value.to_bytes(size, "little")
