# SPDX-License-Identifier: MIT
"""PCI configuration space, as vfio-pci shows it: which bits hold what is written, and where a write does something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

COMMAND, STATUS, BAR0, ROM, INTERRUPT_LINE = 0x04, 0x06, 0x10, 0x30, 0x3C
CAP_IO, CAP_MEMORY, CAP_MASTER, CAP_INTX_DISABLE = 1 << 0, 1 << 1, 1 << 2, 1 << 10
_SERR = 1 << 8
#: what firmware leaves in the command register
FIRMWARE = CAP_IO | CAP_MEMORY | _SERR
_HAS_CAPABILITIES = 1 << 4
_POWER_MANAGEMENT, _MSI, _EXPRESS, _MSIX, _ADVANCED_FEATURES = 0x01, 0x05, 0x10, 0x11, 0x13
_BARS, _BRIDGE_BARS = 6, 2
#: the bits of power management's control register that are the state; all of them: D3hot
POWER_STATE = 0x03
#: what a program sees of what it writes to PCI Express's device control: the sizes of payloads and of read requests; the reset bit
_DEVICE_CONTROL = 0xF0E0
#: the bits that start a function-level reset: in the upper byte of that register, and in the control byte of Advanced Features
_EXPRESS_RESET, _ADVANCED_RESET = 0x80, 0x01
#: where extended capabilities begin, and the identifier of Advanced Error Reporting
_EXTENDED, _ADVANCED_ERROR_REPORTING = 0x100, 0x0001
#: the errors that it knows; those that are fatal, or masked, after a reset
_UNCORRECTABLE, _CORRECTABLE, _FATAL_AT_RESET, _MASKED_AT_RESET = 0x03FFF030, 0xF1C1, 0x00462030, 0x2000
#: the bit of the status register that says that INTx is asserted
_INTERRUPT = 1 << 3


#: the largest region of vfio-pci, whose offsets in the device's file have 40 bits
_LARGEST_BAR = 1 << 40
_LARGEST_NARROW_BAR, _LARGEST_PORTS = 1 << 31, 256
#: bytes of an entry of the MSI-X table; bytes of its array of pending bits, for 64 vectors
_MSIX_ENTRY, _MSIX_PENDING = 16, 8
_PAGE = 4096


@dataclass(frozen=True)
class Bar:
    """A BAR.

    :ivar size: bytes, a power of two, at most 1 TiB (2 GiB without `wide`); with `wide` it takes the next BAR's place too
    :ivar memory: programs may map it: it is memory, and nothing happens when it is written
    :ivar ports: it is not in memory, but among the processor's ports
    :raises ValueError: PCI has no such BAR
    """

    size: int
    wide: bool = False
    prefetchable: bool = False
    memory: bool = False
    ports: bool = False

    def __post_init__(self) -> None:
        least, most = (4, _LARGEST_PORTS) if self.ports else (16, _LARGEST_BAR if self.wide else _LARGEST_NARROW_BAR)
        if not least <= self.size <= most or self.size & self.size - 1:
            kind = "a BAR of ports" if self.ports else "a BAR of 64 bits" if self.wide else "a BAR of 32 bits"
            raise ValueError(f"size={self.size:#x}: {kind} has a power of two from {least} to {most:#x} bytes")
        if self.ports and (self.wide or self.prefetchable or self.memory):
            raise ValueError("ports=True: a BAR of ports is neither wide nor prefetchable nor memory")


@dataclass(frozen=True)
class Function:
    """A PCI function.

    :ivar ids: vendor, device; `subsystem` likewise
    :ivar bars: index -> BAR
    :ivar msi: vectors, a power of two; 0: no such capability. So `msix`
    :ivar intx: it has the interrupt pin A
    :ivar express: it is PCI Express, with 4096 bytes of configuration space
    :ivar resets: it can be reset alone, by each of these that it has: a function-level reset of PCI Express (`flr`) or of the
        Advanced Features, which a write to configuration space starts too; power management; without any of them a way of its own
    :ivar flr: it has PCI Express's function-level reset; None for yes if it resets and has no power management
    :ivar advanced_features: it has the capability of that name, by which conventional PCI has function-level resets
    :ivar bus_resets: a reset of its bus works
    :ivar virtual: most virtual functions that can be made of it
    :ivar virtual_room: how many of them the firmware left room for among the addresses of BARs; more are ENOMEM
    :ivar virtual_device: their device ID
    :ivar virtual_at: how far behind it the first of them is, and the next behind that, in functions
    :ivar error_reporting: it has PCI Express's Advanced Error Reporting; it reports no errors
    :ivar msix_table: BAR and offset of the MSI-X table, 16 bytes to a vector, which vfio-pci keeps to itself; None for a BAR of its
        own, the first that is free. The pending bits follow at `msix_pending`, or behind the table
    :raises ValueError: PCI has no such function
    """

    ids: tuple[int, int]
    class_code: int = 0xFF0000
    revision: int = 0
    subsystem: tuple[int, int] = (0x1AF4, 0x1100)
    bars: dict[int, Bar] = field(default_factory=dict, hash=False)
    msi: int = 0
    msix: int = 0
    intx: bool = False
    express: bool = False
    power_management: bool = False
    resets: bool = False
    bus_resets: bool = True
    virtual: int = 0
    virtual_device: int = 0
    virtual_at: tuple[int, int] = (0x80, 2)
    multifunction: bool = False
    bridge: bool = False
    advanced_features: bool = False
    error_reporting: bool = False
    flr: bool | None = None
    virtual_room: int = 0xFFFF
    msix_table: tuple[int, int] | None = None
    msix_pending: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_bars(self)
        if self.msix:
            self._check_msix()

    @property
    def reset_methods(self) -> tuple[str, ...]:
        """The ways to reset it alone, by their names in sysfs, the first choice first."""
        if not self.resets:
            return ()
        by_express = self.express and (not self.power_management if self.flr is None else self.flr)
        there = {"flr": by_express, "af_flr": self.advanced_features, "pm": self.power_management}
        return tuple(name for name, has in there.items() if has) or ("device_specific",)

    @property
    def table(self) -> tuple[int, int]:
        """BAR and offset of the MSI-X table, wherever it is."""
        return (self._free(), 0) if self.msix_table is None else self.msix_table

    @property
    def pending(self) -> tuple[int, int]:
        """BAR and offset of the pending bits, wherever they are."""
        bar, offset = self.table
        return (bar, offset + _MSIX_ENTRY * self.msix) if self.msix_pending is None else self.msix_pending

    @property
    def all_bars(self) -> dict[int, Bar]:
        """The BARs, with the one that is there for the MSI-X table alone."""
        if not self.msix or self.msix_table is not None:
            return self.bars
        size = _MSIX_ENTRY * self.msix + _MSIX_PENDING * -(-self.msix // 64)
        return self.bars | {self._free(): Bar(max(_PAGE, 1 << (size - 1).bit_length()))}

    def _free(self) -> int:
        """The first BAR that is not used."""
        taken = set(self.bars) | {index + 1 for index, bar in self.bars.items() if bar.wide}
        return next((index for index in range(_BARS) if index not in taken), _BARS)

    def _check_msix(self) -> None:
        bars = self.all_bars
        if self.msix_table is None and self._free() == _BARS:
            raise ValueError(
                f"msix={self.msix}: no BAR is left for its table; say where it is with msix_table=(bar, offset)"
            )
        for name, (bar, offset), size in (
            ("msix_table", self.table, _MSIX_ENTRY * self.msix),
            ("msix_pending", self.pending, _MSIX_PENDING * -(-self.msix // 64)),
        ):
            if bar not in bars or bars[bar].ports or offset % 8 or not 0 <= offset <= bars[bar].size - size:
                raise ValueError(
                    f"{name}=({bar}, {offset:#x}): {size:#x} bytes there are not within a memory BAR, at a multiple of 8"
                )


def _check_numbers(function: Function) -> None:
    limits = {
        "ids": (function.ids, 0xFFFF),
        "subsystem": (function.subsystem, 0xFFFF),
        "class_code": ((function.class_code,), 0xFFFFFF),
        "revision": ((function.revision,), 0xFF),
        "msix": ((function.msix,), 2048),
        "virtual": ((function.virtual,), 0xFFFF),
        "virtual_device": ((function.virtual_device,), 0xFFFF),
        "virtual_at": (function.virtual_at, 0xFFFF),
    }
    for name, (values, most) in limits.items():
        if wrong := [value for value in values if not 0 <= value <= most]:
            raise ValueError(f"{name} must be 0 to {most:#x}, not {wrong[0]:#x}")
    if function.msi not in (0, 1, 2, 4, 8, 16, 32):
        raise ValueError(f"msi={function.msi}: MSI has 1, 2, 4, 8, 16 or 32 vectors, or is not there (0)")
    if function.virtual and not function.express:
        raise ValueError(
            f"virtual={function.virtual}: only functions of PCI Express (express=True) have virtual functions"
        )
    if function.virtual and 0 in function.virtual_at:
        raise ValueError(
            f"virtual_at={function.virtual_at}: virtual functions are behind the physical one, each at a place of its own"
        )


def _check_bars(function: Function) -> None:
    most = _BRIDGE_BARS if function.bridge else _BARS
    for index, bar in function.bars.items():
        if not 0 <= index < most or (bar.wide and index + 1 >= most):
            raise ValueError(f"bars: {bar} cannot be BAR{index}: they are 0 to {most - 1}, and a wide one takes two")
        if bar.wide and index + 1 in function.bars:
            raise ValueError(f"bars: BAR{index} is wide and takes the place of BAR{index + 1} too")


class Config:
    """
    :ivar size: bytes
    :ivar data: what is read
    """

    def __init__(self, function: Function, addresses: dict[int, int]) -> None:
        """
        :param addresses: of the BARs
        """
        self.size = 4096 if function.express else 256
        self.data = bytearray(self.size)
        self._writable = bytearray(self.size)
        self._function = function
        #: offset of MSI's control register; 0 without MSI
        self.msi_control = 0
        #: offset of power management's control register; 0 without it
        self.power_control = 0
        #: offset of a byte, and the bit in it whose write starts a function-level reset
        self.reset_bits: dict[int, int] = {}
        #: whether INTx is asserted now
        self.interrupt_asserted: Callable[[], bool] = bool
        self._acts: list[tuple[int, int, Callable[[], None]]] = []
        self._header(addresses)
        self._capabilities()
        self._reset_data = bytes(self.data)

    def reset(self) -> None:
        self.data[:] = self._reset_data

    # Making it.

    def _put(self, offset: int, size: int, value: int, writable: int = 0) -> None:
        self.data[offset : offset + size] = value.to_bytes(size, "little")
        self._writable[offset : offset + size] = writable.to_bytes(size, "little")

    def _header(self, addresses: dict[int, int]) -> None:
        function = self._function
        self._put(0x00, 2, function.ids[0])
        self._put(0x02, 2, function.ids[1])
        self._put(COMMAND, 2, FIRMWARE, CAP_IO | CAP_MEMORY | CAP_MASTER | CAP_INTX_DISABLE | _SERR)
        self._put(0x08, 4, function.revision | function.class_code << 8)
        self._put(0x0C, 1, 0, 0xFF)  # the cache line's size
        self._put(0x0E, 1, function.bridge | function.multifunction << 7)
        for index, bar in function.all_bars.items():
            at = BAR0 + 4 * index
            width = 8 if bar.wide else 4
            kind = 1 if bar.ports else bar.wide << 2 | bar.prefetchable << 3
            self._put(at, width, addresses[index] | kind, (1 << 8 * width) - bar.size)
        self._put(0x2C, 2, function.subsystem[0])
        self._put(0x2E, 2, function.subsystem[1])
        self._put(INTERRUPT_LINE, 1, 0xB if function.intx else 0, 0xFF)
        self._put(0x3D, 1, function.intx)

    def _capabilities(self) -> None:
        function = self._function
        methods = function.reset_methods
        found: list[tuple[int, bytes, bytes]] = []
        if function.power_management:
            # What wakes it up is the host's affair: PME is not shown, and cannot be enabled.
            found.append((_POWER_MANAGEMENT, _le(2, 0x0003) + _le(4, 0), _le(2, 0) + _le(4, POWER_STATE)))
        if function.msi:
            control = function.msi.bit_length() - 1 << 1 | 1 << 7
            body = _le(2, control) + bytes(10)
            found.append((_MSI, body, b"\xff\0" + b"\xff" * 10))
        if function.express:
            body = _le(2, 0x0002) + _le(4, 0x8000 | ("flr" in methods) << 28) + _le(4, 0) + bytes(48)
            found.append((_EXPRESS, body, bytes(6) + _le(2, _DEVICE_CONTROL) + bytes(50)))
        if function.msix:
            table, pending = function.table, function.pending
            body = _le(2, function.msix - 1) + _le(4, table[1] | table[0]) + _le(4, pending[1] | pending[0])
            found.append((_MSIX, body, _le(2, 0xC000) + bytes(8)))
        if function.advanced_features:
            # Length, capabilities (transactions pending, function-level reset), control, status.
            found.append(
                (_ADVANCED_FEATURES, bytes((6, 3 * ("af_flr" in methods), 0, 0)), bytes((0, 0, _ADVANCED_RESET, 0)))
            )
        at, link = 0x40, 0x34
        for id_, body, writable in found:
            self._put(link, 1, at)
            self.data[at] = id_
            self.data[at + 2 : at + 2 + len(body)] = body
            self._writable[at + 2 : at + 2 + len(body)] = writable
            if id_ == _MSI:
                self.msi_control = at + 2
            elif id_ == _POWER_MANAGEMENT:
                self.power_control = at + 4
            elif id_ == _EXPRESS:
                self.reset_bits[at + 9] = _EXPRESS_RESET
            elif id_ == _ADVANCED_FEATURES:
                self.reset_bits[at + 4] = _ADVANCED_RESET
            link, at = at + 1, at + 2 + len(body) + 3 & ~3
        if found:
            self.data[STATUS] |= _HAS_CAPABILITIES
        if function.express and function.error_reporting:
            self._error_reporting()

    def _error_reporting(self) -> None:
        """The first extended capability, version 2. Of its registers the masks and the severity can be written."""
        at = _EXTENDED
        self._put(at, 4, _ADVANCED_ERROR_REPORTING | 2 << 16)
        self._put(at + 0x08, 4, 0, _UNCORRECTABLE)
        self._put(at + 0x0C, 4, _FATAL_AT_RESET, _UNCORRECTABLE)
        self._put(at + 0x14, 4, _MASKED_AT_RESET, _CORRECTABLE)

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


def bars(*sizes: int) -> dict[int, Bar]:
    """BARs of registers, of these sizes, from the first on."""
    return {index: Bar(size) for index, size in enumerate(sizes)}
