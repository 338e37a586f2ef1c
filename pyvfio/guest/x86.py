# SPDX-License-Identifier: MIT
"""The layout of an x86 guest's RAM, and AMD's hole below 1 TiB, into which the first DMA mapping of a large guest fails.

AMD's IOMMU cannot map [0xfd00000000, 0xffffffffff], 12 GiB below 1 TiB, which HyperTransport uses. Since Linux 5.4 a
mapping that touches them fails with EINVAL; before, it succeeded and the device's access failed. QEMU's boards put RAM in one
piece above 4 GiB, through the hole if there is enough of it. :func:`merged` computes QEMU's layout, by QEMU's version:

=========  =======================================================================================================================
to 7.0     nothing is moved, and no address is refused (:func:`as_before`)
7.1        all RAM above 4 GiB moves to 1 TiB (:func:`merged`), for machine types from 7.1 on; for all, a vCPU with too few physical address
           bits is refused
8.2        a vCPU without 64-bit mode has no 64-bit PCI window in that sum (cf0386509e), and with machine types up to 8.1 nothing is refused.
           Without hot-plug memory the CXL windows begin at the end of RAM, not after the slots' room ("hw/i386/cxl: ensure maxram ...")
=========  =======================================================================================================================

Read in hw/i386/pc.c, pc_q35.c and pc_piix.c of 7.2, 10.0.13 and 10.2.2, compared with a running 7.2, 10.0.13 and 11.1.3; 8.0 to 9.2 are known by
the commits. Not handled: machine types before 2.11, isapc, microvm and Xen, confidential guests (TDX, SNP), the SRAT entries of SGX's EPC, and a defect of 10.1 and later: a CXL window beyond
the vCPU's address bits, which only a vCPU without 64-bit mode can have, lies over RAM at address 0 (cxl_fmws_set_memmap).

Other layouts that were discussed are in :mod:`pyvfio.guest.qemu.layouts`. All sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.guest.qemu_release import NEWEST, release
from pyvfio.iova import WHOLE, IovaRange, IovaSet, as_range, as_ranges

__all__ = [
    "AMD_ABOVE_1TB_START",
    "AMD_HT",
    "AMD_HT_END",
    "AMD_HT_SIZE",
    "AMD_HT_START",
    "AMD_USABLE",
    "E820",
    "E820_RAM",
    "E820_RESERVED",
    "FOUR_GIB",
    "I440FX_HOLE64",
    "Q35_HOLE64",
    "Affinity",
    "Board",
    "Conflict",
    "Layout",
    "Machine",
    "Placed",
    "Ram",
    "as_before",
    "cmos_above_4g",
    "crosses_hole",
    "in_one_piece",
    "merged",
    "place",
    "ram_entry",
    "ram_split",
    "round_up",
    "srat",
]

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
#: where 32-bit addresses end
FOUR_GIB = 4 * GIB
_U64 = 2**64

#: the first address of the HyperTransport hole
AMD_HT_START = 0xFD00000000
#: its last address
AMD_HT_END = 0xFFFFFFFFFF
#: its bytes
AMD_HT_SIZE = AMD_HT_END - AMD_HT_START + 1
#: where QEMU moves RAM that would lie in the hole
AMD_ABOVE_1TB_START = AMD_HT_END + 1
AMD_HT = IovaRange(AMD_HT_START, AMD_HT_END)
"""The HyperTransport hole."""
AMD_USABLE = IovaSet(
    [IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, AMD_HT_START - 1), IovaRange(AMD_ABOVE_1TB_START, _U64 - 1)]
)
"""The addresses that an AMD host's IOMMU can map (from the series' cover letter; a real one's end at its width)."""

#: the type of usable memory in an E820 table
E820_RAM = 1
#: the type of reserved memory in an E820 table
E820_RESERVED = 2


class Board(Enum):
    """QEMU's two PC boards."""

    Q35 = "q35"
    I440FX = "pc"

    @property
    def pci_hole64(self) -> int:
        """The default size of the 64-bit PCI window."""
        return 32 * GIB if self is Board.Q35 else 2 * GIB


#: bytes of q35's 64-bit PCI window, by default
Q35_HOLE64 = Board.Q35.pci_hole64
#: bytes of i440fx's 64-bit PCI window, by default
I440FX_HOLE64 = Board.I440FX.pci_hole64


@arguments.checked(
    ram_size=arguments.within(0, _U64),
    board=arguments.member_of(Board),
    maxram_size=arguments.optional(arguments.within(0, _U64)),
    slots=arguments.u32,
    pci_hole64_size=arguments.optional(arguments.u64),
    phys_bits=arguments.within(1, 64),
    amd_cpu=arguments.boolean,
    amd_host=arguments.boolean,
    enforce_amd_1tb_hole=arguments.boolean,
    long_mode=arguments.boolean,
    cxl_windows=arguments.optional(arguments.every(arguments.u64)),
    machine_type=arguments.optional(arguments.string),
    max_ram_below_4g=arguments.optional(arguments.within(1, FOUR_GIB)),
    sgx_epc=arguments.every(arguments.u64),
)
class Machine(NamedTuple):
    """A guest, as its command line describes it.

    `pc-q35-7.0,max-ram-below-4g=2G -m 8G,slots=2,maxmem=16G` is
    `Machine(8 * GIB, maxram_size=16 * GIB, slots=2, machine_type="7.0", max_ram_below_4g=2 * GIB)`.
    """

    ram_size: int
    board: Board = Board.Q35
    maxram_size: int | None = None
    """The option -m maxmem, with memory hot-plug."""
    slots: int = 0
    """The option -m slots; each slot adds 1 GiB for alignment."""
    pci_hole64_size: int | None = None
    """Bytes of the 64-bit PCI window; None for the board's default."""
    phys_bits: int = 40
    """The vCPU's physical address bits; QEMU gives a vCPU without 64-bit mode 36, or 32 without PAE and PSE36."""
    amd_cpu: bool = False
    """Whether the *vCPU*'s vendor is AMD, which decides in :func:`merged`."""
    amd_host: bool = False
    """Whether the *host*'s CPU is AMD, which decided in the RFC."""
    enforce_amd_1tb_hole: bool = True
    """False for machine types up to 7.0 (the RFC's enforce-valid-iova: up to 6.0); `machine_type` determines it too."""
    long_mode: bool = True
    """Whether the vCPU has 64-bit mode; without it there is no 64-bit PCI window (cf0386509e, 8.2)."""
    cxl_windows: tuple[int, ...] | None = None
    """Sizes of CXL fixed windows, multiples of 256 MiB; None without CXL."""
    machine_type: str | None = None
    """The machine type's version, such as "7.0" of pc-q35-7.0; None for QEMU's own version."""
    max_ram_below_4g: int | None = None
    """The machine's max-ram-below-4g, at most 4 GiB; None for the board's default. QEMU aborts if RAM reaches past the I/O APIC's
    0xfec00000."""
    sgx_epc: tuple[int, ...] = ()
    """Sizes of SGX EPC sections (6.2 on): they lie behind the RAM above 4 GiB, where it would be if it did not move."""

    @property
    def hole64(self) -> int:
        """The 64-bit PCI window's size."""
        return self.board.pci_hole64 if self.pci_hole64_size is None else self.pci_hole64_size

    @property
    def below_4g(self) -> int:
        """RAM below 4 GiB."""
        return ram_split(self.board, self.ram_size, self.max_ram_below_4g)[0]

    @property
    def above_4g(self) -> int:
        """RAM above 4 GiB."""
        return ram_split(self.board, self.ram_size, self.max_ram_below_4g)[1]

    @property
    def keeps_amd_hole_free(self) -> bool:
        """Whether the machine type moves RAM out of AMD's hole, for an AMD vCPU."""
        return self.enforce_amd_1tb_hole and not self.type_up_to(7, 0)

    def type_up_to(self, major: int, minor: int) -> bool:
        """Whether the machine type is of this version or an older one.

        :param major: the first number of the version: 7 of "7.1"
        :param minor: the second number of the version: 1 of "7.1"
        """
        kind = self.machine_type
        return kind is not None and release(kind, since=(2, 11), name="machine_type")[:2] <= (major, minor)

    @property
    def device_memory_size(self) -> int | None:
        """The hot-plug area's size; None without hot-plug."""
        if self.maxram_size is None or self.maxram_size <= self.ram_size:
            return None
        return self.maxram_size - self.ram_size + self.slots * GIB


@arguments.checked(name=arguments.string, range=as_range, offset=arguments.u64)
class Ram(NamedTuple):
    """A piece of guest RAM in the guest's address space."""

    name: str
    range: IovaRange
    offset: int
    """Its offset in the guest's RAM, bytes."""

    def without(self, hole: IovaSet) -> list[Ram]:
        """Return the parts of the piece that are outside `hole`.

        :param hole: the addresses to leave out
        """
        hole, start = IovaSet(as_ranges(hole, "hole")), self.range.start
        return [self._replace(range=p, offset=self.offset + p.start - start) for p in IovaSet([self.range]) - hole]


@arguments.checked(start=arguments.u64, size=arguments.within(0, _U64), type=arguments.u32)
class E820(NamedTuple):
    """An entry of the guest's memory map."""

    start: int
    size: int
    type: int

    @property
    def range(self) -> IovaRange:
        """The addresses of the entry."""
        return IovaRange.of(self.start, self.size)


class Layout(NamedTuple):
    """The layout of a guest's address space."""

    way: str
    """The function that made it."""
    described: str
    """A description of the layout, to follow "laid out as"."""
    machine: Machine
    ram: tuple[Ram, ...]
    """The pieces of RAM, from below; the first is below 4 GiB."""
    e820: tuple[E820, ...]
    """The entries of the memory map, in the order in which the guest's firmware gets them."""
    above_4g_start: int
    """The start of RAM above 4 GiB."""
    above_4g_end: int
    """The exclusive end of RAM above 4 GiB, or of SGX's EPC behind it (QEMU's RFC: maxram_start)."""
    device_memory: IovaRange | None
    """The hot-plug area."""
    pci_hole64_start: int
    max_used_gpa: int
    """The highest guest address in use, which phys-bits must reach."""
    max_used_gpa_before: int
    """The highest guest address in use before anything was moved."""
    cmos: tuple[int, int, int]
    """CMOS bytes 0x5b, 0x5c, 0x5d: RAM above 4 GiB in 64 KiB units."""
    above_1t_size: int = 0
    """RAM above 1 TiB, as the RFC kept it."""
    given_up: IovaSet = IovaSet()
    """RAM that is allocated for the guest but not usable by it."""
    no_dma: IovaSet = IovaSet()
    """RAM that must not be mapped for DMA."""
    srat_ranges: tuple[IovaRange, ...] = (WHOLE,)
    """The ranges that the SRAT splits a node's memory above 4 GiB by."""
    sgx_epc: IovaRange | None = None
    """SGX's EPC, which no device may access."""
    checks_phys_bits: bool = True
    """Whether QEMU refuses a vCPU with too few physical address bits (7.1 on)."""

    @property
    def relocated(self) -> bool:
        """Whether RAM above 4 GiB begins elsewhere than at 4 GiB."""
        return self.above_4g_start != FOUR_GIB

    @property
    def phys_bits_needed(self) -> int:
        """The least physical address bits that reach everything."""
        return self.max_used_gpa.bit_length()

    @property
    def error(self) -> str | None:
        """QEMU's fatal message if the vCPU's physical address bits are too few (7.1 on, for every CPU); else None."""
        limit = (1 << self.machine.phys_bits) - 1
        if self.max_used_gpa <= limit or not self.checks_phys_bits:
            return None
        bits = self.machine.phys_bits
        return f"Address space limit 0x{limit:x} < 0x{self.max_used_gpa:x} phys-bits too low ({bits})"

    @property
    def pci_hole64(self) -> IovaRange | None:
        """The 64-bit PCI window; None if it is empty.

        Its end is rounded up to 1 GiB (pci-hole64-end; hw/pci-host/q35.c and i440fx.c), which :attr:`max_used_gpa` does not count.
        """
        if not self.machine.hole64:
            return None
        end = round_up(self.pci_hole64_start + self.machine.hole64, GIB)
        return IovaRange(self.pci_hole64_start, min(end, _U64) - 1)

    def regions(self) -> list[Ram]:
        """Return the pieces to map for DMA, with their offsets in the guest's RAM."""
        return [part for piece in self.ram for part in piece.without(self.no_dma)]

    def conflicts(self, *reserved: IovaSet) -> list[Conflict]:
        """Return the parts of the guest's RAM and hot-plug area that an IOMMU cannot map.

        If the 64-bit PCI window lies in AMD's hole, and the hole is reserved, that is a conflict too, but not a fatal one: BARs that the
        guest's firmware places there cannot be mapped, so other devices cannot access them.

        :param reserved: the reserved regions of each group that may be plugged, now or later (sysfs:
            /sys/kernel/iommu_groups/N/reserved_regions); or the complement of an address space's `iova_ranges`
        """
        union = IovaSet()
        for each in reserved:
            union |= IovaSet(as_ranges(each, "reserved"))
        wanted = [(piece.name, piece.range) for piece in self.regions()]
        if self.device_memory:
            wanted.append(("device-memory", self.device_memory))
        found = [Conflict(name, part) for name, range_ in wanted for part in IovaSet([range_]) & union]
        window = IovaSet([self.pci_hole64] if self.pci_hole64 else []) & IovaSet([AMD_HT])
        return found + [Conflict("pci-hole64", part, fatal=False) for part in window & union]

    def srat(self, nodes: Sequence[int]) -> list[Affinity]:
        """Return the memory entries of the guest's SRAT for NUMA nodes of these sizes.

        :param nodes: bytes of each node, in order
        """
        return srat(nodes, self.machine.below_4g, self.above_4g_start, self.srat_ranges)

    def explain(self, *reserved: IovaSet) -> str:
        """Return the layout in words, with its conflicts with the reserved regions given (see :meth:`conflicts`).

        :param reserved: the reserved regions of each group that may be plugged
        """
        machine = self.machine
        lines = [f"{_size(machine.ram_size)} of RAM on {machine.board.value}, laid out as {self.described}:"]
        lines += [
            f"  {_span(p.range)} {p.name}, {_size(p.range.size)} from RAM offset 0x{p.offset:x}" for p in self.ram
        ]
        if self.device_memory:
            lines.append(f"  {_span(self.device_memory)} room for hot-plugged memory")
        if self.sgx_epc:
            lines.append(f"  {_span(self.sgx_epc)} SGX EPC")
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
        elif self.phys_bits_needed > machine.phys_bits:
            lines.append("QEMU does not check that: the guest does not reach what is above.")
        for conflict in self.conflicts(*reserved):
            if conflict.fatal:
                lines.append(
                    f"Mapping {conflict.name} fails (EINVAL): the IOMMU reserves {_span(conflict.range)} of it."
                )
            else:
                lines.append(
                    f"BARs at {_span(conflict.range)} cannot be mapped: the IOMMU reserves that part of the window."
                )
        return "\n".join(lines)


class Conflict(NamedTuple):
    """A part of the guest's address space that no IOMMU mapping can be made for."""

    name: str
    range: IovaRange
    fatal: bool = True
    """Whether the guest cannot have an assigned device; otherwise it only loses peer-to-peer DMA to BARs there."""


class Affinity(NamedTuple):
    """A memory entry of the SRAT."""

    node: int
    start: int
    size: int


def ram_split(board: Board, ram_size: int, max_ram_below_4g: int | None = None) -> tuple[int, int]:
    """Return RAM below and above 4 GiB: the boards keep 1 GiB alignment once there is enough (QEMU, unchanged for years).

    :param board: the board
    :param ram_size: bytes of RAM, 0 to 2^64
    :param max_ram_below_4g: the machine's option. On q35 it can only lower the split; on pc it also raises it, up to 4 GiB, for guests
        that have less RAM
    """
    board, ram_size = arguments.member(board, "board", Board), arguments.integer(ram_size, "ram_size", 0, _U64)
    most = max_ram_below_4g
    if most is not None:
        most = arguments.integer(most, "max_ram_below_4g", 1, FOUR_GIB)
    if board is Board.Q35:
        low = min(0x80000000 if ram_size >= 0xB0000000 else 0xB0000000, most or FOUR_GIB)
    else:
        low = most or 0xE0000000
        if ram_size >= low:
            low = min(low, 0xC0000000)
    return (low, ram_size - low) if ram_size >= low else (ram_size, 0)


def crosses_hole(range_: IovaRange) -> bool:
    """Whether a mapping of this range would hit the AMD hole.

    :param range_: guest addresses: a range, a pair, or an object with a range
    """
    range_ = as_range(range_, "range_")
    return range_.overlaps(AMD_HT)


def merged(machine: Machine, *, version: str = NEWEST) -> Layout:
    """Return the layout of QEMU 7.1 to 11.1 (pc_memory_init, b3e6982b41 and 8504f12945 of July 2022).

    With an AMD *vCPU*: if anything that the guest may use reaches the hole, all RAM above 4 GiB moves to 1 TiB; and if
    the vCPU's address bits reach the hole, it is the memory map's first entry, moved or not.

    :param machine: the guest
    :param version: QEMU's; up to "7.0" the result is :func:`as_before`'s, from "8.2" on other rules hold for CXL and for vCPUs without
        64-bit mode
    :raises ValueError: the version or the machine type is not known
    """
    machine = arguments.instance(machine, "machine", Machine)
    if release(version) < (7, 1):
        return as_before(machine)
    before = place(machine, FOUR_GIB, version)
    enforced = machine.amd_cpu and machine.keeps_amd_hole_free
    start = AMD_ABOVE_1TB_START if enforced and before.max_used >= AMD_HT_START else FOUR_GIB
    told = (E820(AMD_HT_START, AMD_HT_SIZE, E820_RESERVED),) if enforced and machine.phys_bits >= 40 else ()
    return in_one_piece("merged", "QEMU 7.1 and later do it", machine, start, before.max_used, told, version)


def as_before(machine: Machine) -> Layout:
    """Return the layout of QEMU up to 7.0: nothing is moved, nothing reserved, and too few physical address bits are not refused.

    :param machine: the guest
    """
    machine = arguments.instance(machine, "machine", Machine)
    before = place(machine, FOUR_GIB, "7.0").max_used
    made = in_one_piece("as_before", "QEMU up to 7.0 did it", machine, FOUR_GIB, before, (), "7.0")
    return made._replace(checks_phys_bits=False)


def cmos_above_4g(size: int) -> tuple[int, int, int]:
    """Return CMOS bytes 0x5b, 0x5c, 0x5d for an amount of RAM above 4 GiB: its 64 KiB units, low byte first.

    Old firmware reads them. :func:`merged` does not adjust them when RAM moves; the RFC counts only the RAM below the
    hole.

    :param size: bytes, 0 to 2^64
    """
    units = arguments.integer(size, "size", 0, _U64) // 65536
    return units & 0xFF, units >> 8 & 0xFF, units >> 16 & 0xFF


def srat(
    nodes: Iterable[int], below_4g: int, above_4g_start: int = FOUR_GIB, usable: Sequence[IovaRange] = (WHOLE,)
) -> list[Affinity]:
    """Return the SRAT's memory entries for NUMA nodes of these sizes (build_srat, QEMU 7.1 to 11.1).

    640 KiB to 1 MiB, and the hole between the RAM's two parts, are cut out.

    :param nodes: bytes of each node, in order
    :param below_4g: bytes of RAM below 4 GiB
    :param above_4g_start: the address at which RAM above 4 GiB begins
    :param usable: the ranges above 4 GiB that memory may lie in
    """
    sizes = arguments.every(arguments.u64)(nodes, "nodes")
    below_4g, above_4g_start = arguments.u64(below_4g, "below_4g"), arguments.u64(above_4g_start, "above_4g_start")
    usable = as_ranges(usable, "usable")
    entries: list[Affinity] = []
    next_base = 0
    for node, node_size in enumerate(sizes):
        base, size = next_base, node_size
        next_base = base + size
        if base <= 640 * KIB < next_base:
            size -= next_base - 640 * KIB
            if size > 0:
                entries.append(Affinity(node, base, size))
            if next_base <= MIB:
                # The node ends in the gap; the next one begins behind the gap.
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


def place(machine: Machine, start: int, version: str = NEWEST) -> Placed:
    """Return the places of everything above 4 GiB if RAM above 4 GiB starts at `start`.

    :param machine: the guest
    :param start: the address at which RAM above 4 GiB begins
    :param version: QEMU's
    """
    machine = arguments.instance(machine, "machine", Machine)
    start = arguments.u64(start, "start")
    known = release(version)
    _fits(machine, start)
    epc = _sgx_epc(machine)
    end = epc.last + 1 if epc else start + machine.above_4g
    size = machine.device_memory_size
    devices = IovaRange.of(round_up(end, GIB), size) if size is not None else None
    top = devices.last + 1 if devices else end
    if machine.cxl_windows is not None:
        if not devices and known < (8, 2):
            # The windows begin behind the hot-plug area, even if that is empty.
            top = round_up(end, GIB) + machine.slots * GIB
        # 1 MiB of registers, then the windows, 256 MiB aligned.
        top += MIB
        if machine.cxl_windows:
            top = round_up(top, 256 * MIB) + sum(machine.cxl_windows)
    hole64 = round_up(top, GIB)
    if known < (8, 2):
        # Without 64-bit mode, 36 bits are taken for a 64-bit guest's, and 32 are never refused.
        wide = machine.phys_bits > 32
        return Placed(end, devices, hole64, hole64 + machine.hole64 - 1 if wide else (1 << machine.phys_bits) - 1)
    if machine.long_mode:
        return Placed(end, devices, hole64, hole64 + machine.hole64 - 1)
    if machine.type_up_to(8, 1):
        return Placed(end, devices, hole64, (1 << machine.phys_bits) - 1)
    return Placed(end, devices, hole64, (devices.last + 1 if devices else end) - 1)


def _fits(machine: Machine, start: int) -> None:
    """Check that everything above 4 GiB fits into 64-bit addresses, with room for alignment; the PCI window is clipped and not checked."""
    above = machine.above_4g + sum(machine.sgx_epc) + (machine.device_memory_size or 0) + machine.slots * GIB
    end = max(start, FOUR_GIB) + above + sum(machine.cxl_windows or ()) + 4 * GIB
    if end > _U64:
        raise ValueError(
            f"machine must end below 2^64 with its RAM, EPC, hot-plug area and CXL windows, not at {end:#x}"
        )


def _sgx_epc(machine: Machine) -> IovaRange | None:
    # pc_machine_init_sgx_epc() runs before anything is moved.
    size = sum(machine.sgx_epc)
    return IovaRange.of(FOUR_GIB + machine.above_4g, size) if size else None


def in_one_piece(
    way: str, described: str, machine: Machine, start: int, before: int, told: Sequence[E820], version: str = NEWEST
) -> Layout:
    """Return the layout that has all RAM above 4 GiB in one piece from `start` on.

    :param way: the name of the function that makes it, for `Layout.way`
    :param described: a description of the layout, to follow "laid out as"
    :param machine: the guest
    :param start: the address at which RAM above 4 GiB begins
    :param before: the highest guest address in use if nothing were moved
    :param told: entries of the memory map in front of those of RAM
    :param version: QEMU's
    """
    way, described = arguments.string(way, "way"), arguments.string(described, "described")
    machine = arguments.instance(machine, "machine", Machine)
    start, before = arguments.u64(start, "start"), arguments.integer(before, "before", 0)
    told = arguments.instances(told, "told", E820)
    placed = place(machine, start, version)
    epc = _sgx_epc(machine)
    ram = [Ram("ram-below-4g", IovaRange.of(0, machine.below_4g), 0)]
    if machine.above_4g:
        ram.append(Ram("ram-above-4g", IovaRange.of(start, machine.above_4g), machine.below_4g))
    return Layout(
        way,
        described,
        machine,
        tuple(ram),
        (*told, *(ram_entry(piece) for piece in ram), *([E820(epc.start, epc.size, E820_RESERVED)] if epc else [])),
        start,
        placed.end,
        placed.devices,
        placed.hole64,
        placed.max_used,
        before,
        cmos_above_4g(machine.above_4g),
        sgx_epc=epc,
    )


def ram_entry(piece: Ram) -> E820:
    """Return the E820 entry of a piece of RAM.

    :param piece: the piece of RAM
    """
    piece = arguments.instance(piece, "piece", Ram)
    return E820(piece.range.start, piece.range.size, E820_RAM)


def round_up(value: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is at least `value`.

    :param value: 0 or more
    :param unit: 1 or more
    """
    value, unit = arguments.integer(value, "value", 0), arguments.integer(unit, "unit", 1)
    return -(-value // unit) * unit


def _span(range_: IovaRange) -> str:
    return f"[0x{range_.start:x}, 0x{range_.last:x}]"


def _size(size: int) -> str:
    return f"{size / GIB:g} GiB" if size >= GIB else f"{size / MIB:g} MiB"
