# SPDX-License-Identifier: MIT
"""The layout of an x86 guest's RAM, and AMD's hole below 1 TiB, into which the first DMA mapping of a large guest fails.

AMD's IOMMU cannot map [0xfd00000000, 0xffffffffff], 12 GiB below 1 TiB: that is HyperTransport's. Since Linux 5.4 a
map that touches them is EINVAL; before, it succeeded and the device's access failed. QEMU's boards put RAM in one
piece above 4 GiB, straight through the hole once there is enough of it. QEMU since 7.1 moves all RAM above 4 GiB to 1 TiB (:func:`merged`);
up to 7.0 it did nothing (:func:`as_before`). Other layouts that were discussed are in :mod:`pyvfio.guest.qemu.layouts`.

All sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.iova import WHOLE, IovaRange, IovaSet, as_range

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
FOUR_GIB = 4 * GIB
_U64 = 2**64

AMD_HT_START = 0xFD00000000
AMD_HT_END = 0xFFFFFFFFFF
AMD_HT_SIZE = AMD_HT_END - AMD_HT_START + 1
AMD_ABOVE_1TB_START = AMD_HT_END + 1
AMD_HT = IovaRange(AMD_HT_START, AMD_HT_END)
"""The HyperTransport hole."""
AMD_USABLE = IovaSet(
    [IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, AMD_HT_START - 1), IovaRange(AMD_ABOVE_1TB_START, _U64 - 1)]
)
"""The addresses that an AMD host's IOMMU can map (from the series' cover letter; a real one's end at its width)."""

E820_RAM = 1
E820_RESERVED = 2


class Board(Enum):
    """QEMU's two PC boards."""

    Q35 = "q35"
    I440FX = "pc"

    @property
    def pci_hole64(self) -> int:
        """The default size of the 64-bit PCI window."""
        return 32 * GIB if self is Board.Q35 else 2 * GIB


Q35_HOLE64 = Board.Q35.pci_hole64
I440FX_HOLE64 = Board.I440FX.pci_hole64


class Machine(NamedTuple):
    """A guest, as its command line describes it."""

    ram_size: int
    board: Board = Board.Q35
    maxram_size: int | None = None
    """With memory hot-plug, -m maxmem."""
    slots: int = 0
    """-m slots; each adds 1 GiB for alignment."""
    pci_hole64_size: int | None = None
    """The 64-bit PCI window; None: the board's default."""
    phys_bits: int = 40
    """The vCPU's physical address bits."""
    amd_cpu: bool = False
    """The *vCPU*'s vendor is AMD: what the merged way goes by."""
    amd_host: bool = False
    """The *host*'s CPU is AMD: what the RFC went by."""
    enforce_amd_1tb_hole: bool = True
    """False for machine types up to 7.0 (the RFC's enforce-valid-iova: up to 6.0)."""
    long_mode: bool = True
    """The vCPU has 64-bit mode; without, there is no 64-bit PCI window (cf0386509e, 8.2)."""
    cxl_windows: tuple[int, ...] | None = None
    """Sizes of CXL fixed windows; None: no CXL."""

    @property
    def hole64(self) -> int:
        """The 64-bit PCI window's size."""
        return self.board.pci_hole64 if self.pci_hole64_size is None else self.pci_hole64_size

    @property
    def below_4g(self) -> int:
        """RAM below 4 GiB."""
        return ram_split(self.board, self.ram_size)[0]

    @property
    def above_4g(self) -> int:
        """RAM above."""
        return ram_split(self.board, self.ram_size)[1]

    @property
    def device_memory_size(self) -> int | None:
        """The hot-plug area's size; None without hot-plug."""
        if self.maxram_size is None or self.maxram_size <= self.ram_size:
            return None
        return self.maxram_size - self.ram_size + self.slots * GIB


class Ram(NamedTuple):
    """A piece of guest RAM in the guest's address space."""

    name: str
    range: IovaRange
    offset: int
    """Its offset in the guest's RAM, bytes."""

    def without(self, hole: IovaSet) -> list[Ram]:
        """Return the parts of the piece that are outside `hole`."""
        start = self.range.start
        return [self._replace(range=p, offset=self.offset + p.start - start) for p in IovaSet([self.range]) - hole]


class E820(NamedTuple):
    """An entry of the guest's memory map."""

    start: int
    size: int
    type: int

    @property
    def range(self) -> IovaRange:
        """Its addresses."""
        return IovaRange.of(self.start, self.size)


class Layout(NamedTuple):
    """The layout of a guest's address space."""

    way: str
    """The function that made it."""
    described: str
    """The same in words, to follow "laid out as"."""
    machine: Machine
    ram: tuple[Ram, ...]
    """The pieces of RAM, from below; the first is below 4 GiB."""
    e820: tuple[E820, ...]
    """In the order in which the guest's firmware is told."""
    above_4g_start: int
    """The start of RAM above 4 GiB."""
    above_4g_end: int
    """Its end, exclusive (QEMU's RFC: maxram_start)."""
    device_memory: IovaRange | None
    """The hot-plug area."""
    pci_hole64_start: int
    max_used_gpa: int
    """The highest guest address in use: what phys-bits must reach."""
    max_used_gpa_before: int
    """The same before anything was moved."""
    cmos: tuple[int, int, int]
    """CMOS bytes 0x5b, 0x5c, 0x5d: RAM above 4 GiB in 64 KiB units."""
    above_1t_size: int = 0
    """RAM above 1 TiB, as the RFC kept it."""
    given_up: IovaSet = IovaSet()
    """RAM that the guest has paid for and does not get."""
    no_dma: IovaSet = IovaSet()
    """RAM that must not be mapped for DMA."""
    srat_ranges: tuple[IovaRange, ...] = (WHOLE,)
    """The ranges that the SRAT splits a node's memory above 4 GiB by."""

    @property
    def relocated(self) -> bool:
        """RAM above 4 GiB does not begin there."""
        return self.above_4g_start != FOUR_GIB

    @property
    def phys_bits_needed(self) -> int:
        """The least physical address bits that reach everything."""
        return self.max_used_gpa.bit_length()

    @property
    def error(self) -> str | None:
        """QEMU's fatal message if the vCPU's physical address bits are too few (7.1 on, for every CPU); else None."""
        limit = (1 << self.machine.phys_bits) - 1
        if self.max_used_gpa <= limit:
            return None
        bits = self.machine.phys_bits
        return f"Address space limit 0x{limit:x} < 0x{self.max_used_gpa:x} phys-bits too low ({bits})"

    @property
    def pci_hole64(self) -> IovaRange | None:
        """The 64-bit PCI window; None if it is empty."""
        if not self.machine.hole64:
            return None
        return IovaRange(self.pci_hole64_start, min(self.pci_hole64_start + self.machine.hole64, _U64) - 1)

    def regions(self) -> list[Ram]:
        """Return the pieces to map for DMA, with their offsets in the guest's RAM."""
        return [part for piece in self.ram for part in piece.without(self.no_dma)]

    def conflicts(self, *reserved: IovaSet) -> list[Conflict]:
        """Return the parts of the guest's RAM and hot-plug area that an IOMMU cannot map.

        :param reserved: the reserved regions of each group that may be plugged, now or later (sysfs:
            /sys/kernel/iommu_groups/N/reserved_regions); or the complement of an address space's `iova_ranges`
        """
        union = IovaSet()
        for each in reserved:
            union |= each
        wanted = [(piece.name, piece.range) for piece in self.regions()]
        if self.device_memory:
            wanted.append(("device-memory", self.device_memory))
        return [Conflict(name, part) for name, range_ in wanted for part in IovaSet([range_]) & union]

    def srat(self, nodes: Sequence[int]) -> list[Affinity]:
        """Return the memory entries of the guest's SRAT for NUMA nodes of these sizes."""
        return srat(nodes, self.machine.below_4g, self.above_4g_start, self.srat_ranges)

    def explain(self, *reserved: IovaSet) -> str:
        """Return the layout in words, with its conflicts with the reserved regions given (see :meth:`conflicts`)."""
        machine = self.machine
        lines = [f"{_size(machine.ram_size)} of RAM on {machine.board.value}, laid out as {self.described}:"]
        lines += [
            f"  {_span(p.range)} {p.name}, {_size(p.range.size)} from RAM offset 0x{p.offset:x}" for p in self.ram
        ]
        if self.device_memory:
            lines.append(f"  {_span(self.device_memory)} room for hot-plugged memory")
        if self.pci_hole64:
            lines.append(f"  {_span(self.pci_hole64)} 64-bit PCI window")
        if self.relocated:
            lines.append(
                f"RAM above 4 GiB begins at 1 TiB: at 4 GiB the guest would have reached 0x{self.max_used_gpa_before:x}, "
                f"and the AMD IOMMU cannot map {_span(AMD_HT)} (HyperTransport)."
            )
        if self.given_up:
            lines.append(f"{_size(self.given_up.total)} of RAM lie in the hole and are given up.")
        if self.no_dma:
            lines.append(f"{_size(self.no_dma.total)} of RAM lie in the hole: a device that is told to use them fails.")
        lines.append(f"The vCPU needs {self.phys_bits_needed} physical address bits and has {machine.phys_bits}.")
        if self.error:
            lines.append(f"QEMU refuses: {self.error}.")
        for conflict in self.conflicts(*reserved):
            lines.append(f"Mapping {conflict.name} fails (EINVAL): the IOMMU reserves {_span(conflict.range)} of it.")
        return "\n".join(lines)


class Conflict(NamedTuple):
    """A part of the guest's memory that no IOMMU mapping can be made for."""

    name: str
    range: IovaRange


class Affinity(NamedTuple):
    """A memory entry of the SRAT."""

    node: int
    start: int
    size: int


def ram_split(board: Board, ram_size: int) -> tuple[int, int]:
    """Return RAM below and above 4 GiB: the boards keep 1 GiB alignment once there is enough (QEMU, unchanged for years)."""
    if board is Board.Q35:
        low = 0x80000000 if ram_size >= 0xB0000000 else 0xB0000000
    else:
        low = 0xC0000000 if ram_size >= 0xE0000000 else 0xE0000000
    return (low, ram_size - low) if ram_size >= low else (ram_size, 0)


def crosses_hole(range_: IovaRange) -> bool:
    """Whether a mapping of this range would hit the AMD hole."""
    range_ = as_range(range_, "range_")
    return range_.overlaps(AMD_HT)


def merged(machine: Machine) -> Layout:
    """Return the layout of QEMU 7.1 to 10.2 (pc_memory_init, b3e6982b41 and 8504f12945 of July 2022).

    With an AMD *vCPU*: if anything that the guest may use reaches the hole, all RAM above 4 GiB moves to 1 TiB; and if
    the vCPU's address bits reach the hole, it is the memory map's first entry, moved or not.
    """
    machine = arguments.instance(machine, "machine", Machine)
    before = place(machine, FOUR_GIB)
    enforced = machine.amd_cpu and machine.enforce_amd_1tb_hole
    start = AMD_ABOVE_1TB_START if enforced and before.max_used >= AMD_HT_START else FOUR_GIB
    told = (E820(AMD_HT_START, AMD_HT_SIZE, E820_RESERVED),) if enforced and machine.phys_bits >= 40 else ()
    return in_one_piece("merged", "QEMU 7.1 and later do it", machine, start, before.max_used, told)


def as_before(machine: Machine) -> Layout:
    """Return the layout of QEMU up to 7.0: nothing is moved, nothing reserved."""
    return in_one_piece("as_before", "QEMU up to 7.0 did it", machine, FOUR_GIB, place(machine, FOUR_GIB).max_used, ())


def cmos_above_4g(size: int) -> tuple[int, int, int]:
    """Return CMOS bytes 0x5b, 0x5c, 0x5d for so much RAM above 4 GiB: its 64 KiB units, low byte first.

    Old firmware reads them. The merged way does not adjust them when RAM moves; the RFC counts what lies below the
    hole.
    """
    units = size // 65536
    return units & 0xFF, units >> 8 & 0xFF, units >> 16 & 0xFF


def srat(
    nodes: Iterable[int], below_4g: int, above_4g_start: int = FOUR_GIB, usable: Sequence[IovaRange] = (WHOLE,)
) -> list[Affinity]:
    """Return the SRAT's memory entries for NUMA nodes of these sizes (build_srat, QEMU 7.1 to 10.2).

    640 KiB to 1 MiB, and the hole between the RAM's two parts, are cut out.

    :param usable: the ranges above 4 GiB that memory may lie in
    """
    entries: list[Affinity] = []
    next_base = 0
    for node, node_size in enumerate(nodes):
        base, size = next_base, node_size
        next_base = base + size
        if base <= 640 * KIB < next_base:
            size -= next_base - 640 * KIB
            if size > 0:
                entries.append(Affinity(node, base, size))
            if next_base <= MIB:
                # The node ends in the gap itself; the next one begins behind it.
                next_base = MIB
                continue
            base = MIB
            size = next_base - MIB
        if base <= below_4g < next_base:
            size -= next_base - below_4g
            if size > 0:
                entries.append(Affinity(node, base, size))
            base = above_4g_start
            size = next_base - below_4g
        for range_ in usable:
            if size <= 0 or range_.last < base:
                continue
            start = max(range_.start, base)
            piece = min(range_.last - start + 1, size)
            entries.append(Affinity(node, start, piece))
            size -= piece
            next_base = start + piece
    return entries


class Placed(NamedTuple):
    """The places of everything above 4 GiB for a given start of RAM there."""

    end: int
    devices: IovaRange | None
    hole64: int
    max_used: int


def place(machine: Machine, start: int) -> Placed:
    """Return the places of everything above 4 GiB if RAM above 4 GiB starts at `start`."""
    machine = arguments.instance(machine, "machine", Machine)
    end = start + machine.above_4g
    size = machine.device_memory_size
    devices = IovaRange.of(round_up(end, GIB), size) if size is not None else None
    top = devices.last + 1 if devices else end
    if machine.cxl_windows is not None:
        # CXL begins behind the hot-plug area, even an empty one: 1 MiB of registers, then the windows, 256 MiB aligned.
        top = (devices.last + 1 if devices else round_up(end, GIB) + machine.slots * GIB) + MIB
        if machine.cxl_windows:
            top = round_up(top, 256 * MIB) + sum(machine.cxl_windows)
    hole64 = round_up(top, GIB)
    if machine.long_mode:
        return Placed(end, devices, hole64, hole64 + machine.hole64 - 1)
    return Placed(end, devices, hole64, (devices.last + 1 if devices else end) - 1)


def in_one_piece(way: str, described: str, machine: Machine, start: int, before: int, told: Sequence[E820]) -> Layout:
    """Return the layout that has all RAM above 4 GiB in one piece from `start` on."""
    machine = arguments.instance(machine, "machine", Machine)
    placed = place(machine, start)
    ram = [Ram("ram-below-4g", IovaRange.of(0, machine.below_4g), 0)]
    if machine.above_4g:
        ram.append(Ram("ram-above-4g", IovaRange.of(start, machine.above_4g), machine.below_4g))
    return Layout(
        way,
        described,
        machine,
        tuple(ram),
        (*told, *(ram_entry(piece) for piece in ram)),
        start,
        placed.end,
        placed.devices,
        placed.hole64,
        placed.max_used,
        before,
        cmos_above_4g(machine.above_4g),
    )


def ram_entry(piece: Ram) -> E820:
    """Return the E820 entry of a piece of RAM."""
    piece = arguments.instance(piece, "piece", Ram)
    return E820(piece.range.start, piece.range.size, E820_RAM)


def round_up(value: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is at least `value`."""
    return -(-value // unit) * unit


def _span(range_: IovaRange) -> str:
    return f"[0x{range_.start:x}, 0x{range_.last:x}]"


def _size(size: int) -> str:
    return f"{size / GIB:g} GiB" if size >= GIB else f"{size / MIB:g} MiB"
