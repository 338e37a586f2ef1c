# SPDX-License-Identifier: MIT
"""PCI configuration space, as vfio-pci shows it: which bits hold what is written, and where a write does something."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

COMMAND, STATUS, BAR0, ROM, INTERRUPT_LINE = 0x04, 0x06, 0x10, 0x30, 0x3C
CAP_IO, CAP_MEMORY, CAP_MASTER, CAP_INTX_DISABLE = 1 << 0, 1 << 1, 1 << 2, 1 << 10
_SERR = 1 << 8
#: what firmware leaves in the command register
FIRMWARE = CAP_IO | CAP_MEMORY | _SERR
_HAS_CAPABILITIES = 1 << 4
_POWER_MANAGEMENT, _MSI, _EXPRESS, _MSIX = 0x01, 0x05, 0x10, 0x11


class Bar(NamedTuple):
    """
    :ivar size: bytes, a power of two; with `wide` it takes the next BAR's place too
    :ivar memory: programs may map it: it is memory, and nothing happens when it is written
    :ivar ports: it is not in memory, but among the processor's ports
    """

    size: int
    wide: bool = False
    prefetchable: bool = False
    memory: bool = False
    ports: bool = False


class Function(NamedTuple):
    """What a PCI function is.

    :ivar ids: vendor, device; `subsystem` likewise
    :ivar bars: index -> BAR
    :ivar msi: vectors, a power of two; 0: no such capability. So `msix`
    :ivar intx: it has the interrupt pin A
    :ivar express: it is PCI Express, with 4096 bytes of configuration space
    :ivar resets: it can be reset alone; with power management by that, else, on PCI Express, by a reset for functions
    :ivar bus_resets: a reset of its bus works
    :ivar virtual: most virtual functions that can be made of it
    :ivar virtual_device: their device ID
    :ivar virtual_at: how far behind it the first of them is, and the next behind that, in functions
    """

    ids: tuple[int, int]
    class_code: int = 0xFF0000
    revision: int = 0
    subsystem: tuple[int, int] = (0x1AF4, 0x1100)
    bars: dict[int, Bar] = {}  # noqa: RUF012  # a NamedTuple's default, never changed
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
        for index, bar in function.bars.items():
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
        found: list[tuple[int, bytes, bytes]] = []
        if function.power_management:
            found.append((_POWER_MANAGEMENT, _le(2, 0x0003) + _le(4, 0), _le(2, 0) + _le(4, 0x0103)))
        if function.msi:
            control = function.msi.bit_length() - 1 << 1 | 1 << 7
            body = _le(2, control) + bytes(10)
            found.append((_MSI, body, b"\xff\0" + b"\xff" * 10))
        if function.express:
            body = (
                _le(2, 0x0002)
                + _le(4, 0x8000 | (function.resets and not function.power_management) << 28)
                + _le(4, 0)
                + bytes(48)
            )
            found.append((_EXPRESS, body, bytes(6) + _le(2, 0x7000) + bytes(50)))
        if function.msix:
            body = _le(2, function.msix - 1) + _le(4, self.msix_bar) + _le(4, self.msix_bar | 0x800)
            found.append((_MSIX, body, _le(2, 0xC000) + bytes(8)))
        at, link = 0x40, 0x34
        for id_, body, writable in found:
            self._put(link, 1, at)
            self.data[at] = id_
            self.data[at + 2 : at + 2 + len(body)] = body
            self._writable[at + 2 : at + 2 + len(body)] = writable
            if id_ == _MSI:
                self.msi_control = at + 2
            link, at = at + 1, at + 2 + len(body) + 3 & ~3
        if found:
            self.data[STATUS] |= _HAS_CAPABILITIES

    @property
    def msix_bar(self) -> int:
        """The BAR that the MSI-X table is in: the last one."""
        return max(self._function.bars, default=0)

    def address(self, bar: int) -> int:
        """Where a BAR is."""
        at = BAR0 + 4 * bar
        width = 8 if self._function.bars[bar].wide else 4
        return int.from_bytes(self._reset_data[at : at + width], "little") & ~0xF

    # Using it.

    def on_write(self, offset: int, size: int, act: Callable[[], None]) -> None:
        """Call `act` after any of these bytes was written."""
        self._acts.append((offset, size, act))

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

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
