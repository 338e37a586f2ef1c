# SPDX-License-Identifier: MIT
"""Layouts of an x86 guest's RAM that were proposed because of AMD's hole and not merged, to compare with.

=============================  ===============================================================================
:func:`rfc`                    RAM is split around the hole (RFC of June 2021, not merged)
:func:`reserved_in_place`      RAM is not moved, and the RAM in the hole is lost (discussed in 2021)
:func:`unmapped`               RAM is not moved, and devices cannot access the RAM in the hole (discussed in 2021)
=============================  ===============================================================================

:mod:`pyvfio.guest.x86` has the layout that QEMU uses. None of the layouts here refuses a vCPU with too few physical address bits, and none
has SGX EPC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pyvfio._core import arguments
from pyvfio.guest.x86 import (
    AMD_ABOVE_1TB_START,
    AMD_HT,
    AMD_HT_END,
    AMD_HT_SIZE,
    AMD_HT_START,
    E820,
    E820_RAM,
    E820_RESERVED,
    FOUR_GIB,
    GIB,
    TIB,
    Affinity,
    Layout,
    Machine,
    Ram,
    as_before,
    cmos_above_4g,
    place,
    ram_entry,
    round_up,
    srat,
)
from pyvfio.iova import IovaRange, IovaSet, as_range

_U64 = 2**64

RFC_OTHERS = (("ram-above-4g", IovaRange(FOUR_GIB, _U64 - 1)),)
"""The ranges above 4 GiB that the RFC used on a host that is not AMD's."""
RFC_AMD = (
    ("ram-above-4g", IovaRange(FOUR_GIB, AMD_HT_START - 1)),
    ("ram-above-1t", IovaRange(AMD_ABOVE_1TB_START, _U64 - 1)),
)
"""The ranges above 4 GiB that the RFC used on an AMD host."""


def reserved_in_place(machine: Machine) -> Layout:
    """Return the layout in which RAM is not moved, and the RAM in the hole is reserved: the guest loses up to 12 GiB."""
    machine = arguments.instance(machine, "machine", Machine)
    plain = as_before(machine)
    hole = IovaSet([AMD_HT])
    pieces = [part for piece in plain.ram for part in piece.without(hole)]
    pieces = [p._replace(name="ram-above-1t") if p.range.start > AMD_HT_END else p for p in pieces]
    lost = IovaSet(piece.range for piece in plain.ram) & hole
    told = [E820(AMD_HT_START, AMD_HT_SIZE, E820_RESERVED), *(ram_entry(piece) for piece in pieces)]
    return plain._replace(
        way="reserved_in_place",
        described="it always was, with the AMD hole reserved in place",
        ram=tuple(pieces),
        e820=tuple(told),
        given_up=lost,
    )


def unmapped(machine: Machine) -> Layout:
    """Return the layout in which RAM is not moved, and the RAM in the hole is not mapped: the guest can use it, its devices cannot."""
    machine = arguments.instance(machine, "machine", Machine)
    plain = as_before(machine)
    return plain._replace(
        way="unmapped",
        described="it always was, with the AMD hole left unmapped for DMA",
        no_dma=IovaSet(piece.range for piece in plain.ram) & IovaSet([AMD_HT]),
    )


def rfc(machine: Machine) -> Layout:
    """Return the layout of the RFC of June 2021 ("Fix creation of >= 1Tb guests on AMD systems with IOMMU", version 1).

    With an AMD *host*, RAM above 4 GiB is split around the hole, and the hot-plug area and the 64-bit PCI window go to
    the next 1 GiB boundary with room. Its oddities are kept: the room must be a byte more than is asked for; the room
    for hot-plug is looked for without the slots' GiB, so that area can reach into the hole; RAM that ends right at the
    hole makes the size above 1 TiB wrap.

    :raises ValueError: no room; the RFC ended QEMU there
    """
    machine = arguments.instance(machine, "machine", Machine)
    ranges = _rfc_ranges(machine)
    on_amd = len(ranges) > 1
    below, above = machine.below_4g, machine.above_4g
    ram = [Ram("ram-below-4g", IovaRange.of(0, below), 0)]
    told = [E820(0, below, E820_RAM)]
    end, offset, left = FOUR_GIB, below, above
    for index, (name, range_) in enumerate(ranges):
        if not left:
            break
        size = min(left, range_.size)
        ram.append(Ram(name, IovaRange.of(range_.start, size), offset))
        told.append(E820(range_.start, size, E820_RAM))
        left -= size
        offset += size
        end = range_.start + size
        if left and index + 1 < len(ranges):
            told.append(E820(end, ranges[index + 1][1].start - end, E820_RESERVED))
    if left:
        raise ValueError(f"unsupported amount of memory: {above}")
    above_1t = (end - TIB) % _U64 if on_amd and above and end > AMD_HT_START - 1 else 0
    devices: IovaRange | None = None
    hole64 = end
    if machine.device_memory_size is not None and machine.maxram_size is not None:
        base = _rfc_room(ranges, end, machine.maxram_size - machine.ram_size)
        if not base:
            raise ValueError(f"unable to find device memory base for {end} - {machine.maxram_size - machine.ram_size}")
        devices = IovaRange.of(base, machine.device_memory_size)
        hole64 = devices.last + 1
    hole64 = _rfc_room(ranges, hole64, machine.hole64)
    before = place(machine, FOUR_GIB).max_used
    return Layout(
        "rfc",
        "the RFC of June 2021 did it, split around the AMD hole",
        machine,
        tuple(ram),
        tuple(told),
        FOUR_GIB,
        end,
        devices,
        hole64,
        hole64 + machine.hole64 - 1,
        before,
        cmos_above_4g((above - above_1t) % _U64),
        above_1t,
        srat_ranges=tuple(range_ for _, range_ in ranges),
        checks_phys_bits=False,
    )


def srat_rfc(nodes: Iterable[int], below_4g: int, usable: Sequence[tuple[str, IovaRange]]) -> list[Affinity]:
    """Return the SRAT's memory entries of the RFC: a node's last piece is split at the AMD hole.

    Its bug is kept: the entry of a node that lies completely below 4 GiB begins at 4 GiB.

    :param usable: the named ranges above 4 GiB, :data:`RFC_AMD` or :data:`RFC_OTHERS`
    """
    return srat(nodes, below_4g, FOUR_GIB, arguments.every(_unnamed)(usable, "usable"))


def _unnamed(value: Any, name: str) -> IovaRange:
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"{name} must have (name, range) pairs only, not {value!r}")
    return as_range(value[1], name)


def _rfc_ranges(machine: Machine) -> Sequence[tuple[str, IovaRange]]:
    return RFC_AMD if machine.amd_host and machine.enforce_amd_1tb_hole else RFC_OTHERS


def _rfc_room(ranges: Sequence[tuple[str, IovaRange]], base: int, size: int) -> int:
    """Return the next 1 GiB boundary with room, 0 if there is none (the RFC's allowed_round_up)."""
    base = round_up(base, GIB)
    for _, range_ in ranges:
        start = max(round_up(range_.start, GIB), base)
        if start <= range_.last and range_.last - start >= size:
            return start
    return 0
