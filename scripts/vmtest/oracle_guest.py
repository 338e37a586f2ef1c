# SPDX-License-Identifier: MIT
"""Random guests for the oracle: a `pyvfio.guest.x86.Machine`, and the options with which QEMU creates the same guest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from pyvfio.guest.x86 import GIB, MIB, TIB, Board, Machine

UNIT = 8192
"""QEMU rounds the size of -m up to a multiple of this."""
# Sizes at which the layout changes: the boards' splits below 4 GiB, and guests that just reach, or just do not reach,
# AMD's hole at 1 TiB.
_EDGES = (
    128 * MIB, 0x80000000, 0xB0000000, 0xC0000000, 0xE0000000, 4 * GIB, 32 * GIB, 64 * GIB, 480 * GIB, 946 * GIB, 978 * GIB, 979 * GIB, 1009 * GIB,
    1010 * GIB, 1012 * GIB, TIB, 2 * TIB, 4 * TIB,
)  # fmt: skip
_PHYS_BITS = (36, 39, 40, 40, 41, 42, 46, 48, 52)
_HOLE64 = (None, None, None, 0, MIB, GIB, 2 * GIB + 512 * MIB, 64 * GIB, TIB)
_CXL = (None, None, None, (), (256 * MIB,), (GIB, 256 * MIB), (4 * GIB,))
_BELOW = (None, None, None, None, 64 * MIB, GIB, 2 * GIB, 3 * GIB, 3 * GIB + 512 * MIB, 4 * GIB)


class Guest(NamedTuple):
    """A guest: the parameters of its layout, and further options for QEMU."""

    machine: Machine
    nodes: tuple[int, ...] = ()
    """Sizes of its NUMA nodes; () for no NUMA."""
    cpu: str = "Nehalem"


def random_guest(choose: random.Random, machine_types: Sequence[str], release: tuple[int, ...]) -> Guest:
    """Return a random guest.

    :param machine_types: versions of the machine types of the QEMU, such as 7.0
    :param release: release of the QEMU
    """
    board = choose.choice((Board.Q35, Board.Q35, Board.I440FX))
    nodes: tuple[int, ...] = ()
    if choose.random() < 0.15:
        nodes = tuple(_size(choose, 64 * GIB) for _ in range(choose.randint(1, 4)))
    ram = sum(nodes) if nodes else _size(choose, 6 * TIB)
    slots, most = 0, None
    if choose.random() < 0.4:
        slots, most = choose.choice((0, 1, 2, 8)), ram + _size(choose, 2 * TIB)
    long_mode = choose.random() < 0.85
    amd = choose.random() < 0.6
    cpu = choose.choice(("EPYC", "Opteron_G5")) if amd else choose.choice(("Nehalem", "Skylake-Server"))
    phys_bits = choose.choice(_PHYS_BITS)
    if not long_mode:
        # x86_cpu_realizefn() in target/i386/cpu.c: without long mode, phys-bits is fixed to 36 or 32.
        phys_bits = choose.choice((32, 36, 36))
        cpu += ",-lm" if phys_bits == 36 else ",-lm,-pae,-pse36"
    cxl = choose.choice(_CXL) if board is Board.Q35 and release >= (7, 1) else None
    kind = choose.choice((None, *machine_types)) if choose.random() < 0.5 else None
    machine = Machine(
        ram,
        board,
        maxram_size=most,
        slots=slots,
        pci_hole64_size=choose.choice(_HOLE64),
        phys_bits=phys_bits,
        amd_cpu=amd,
        long_mode=long_mode,
        cxl_windows=cxl,
        machine_type=kind,
        max_ram_below_4g=choose.choice(_BELOW),
    )
    return Guest(machine, nodes, cpu)


def _size(choose: random.Random, most: int) -> int:
    """Return a size of memory: at or next to one of the sizes in _EDGES, or any size (uniform in its logarithm)."""
    if choose.random() < 0.6:
        size = choose.choice(_EDGES) + choose.choice((0, 0, -GIB, GIB, -MIB, MIB, -UNIT, UNIT))
    else:
        size = int(2 ** choose.uniform(27, most.bit_length()))
        size = size // MIB * MIB if choose.random() < 0.7 else size // UNIT * UNIT
    return min(max(size, 128 * MIB), most)


def options(guest: Guest) -> list[str]:
    """Return QEMU's options that define the guest, without options for running it."""
    machine = guest.machine
    name = "q35" if machine.board is Board.Q35 else "i440fx"
    kind = f"pc-{name}-{machine.machine_type}" if machine.machine_type else machine.board.value
    if machine.max_ram_below_4g is not None:
        kind += f",max-ram-below-4g={machine.max_ram_below_4g}"
    made: list[str] = []
    if machine.cxl_windows is not None:
        kind += ",cxl=on"
        if machine.cxl_windows:
            made += ["-device", "pxb-cxl,bus=pcie.0,bus_nr=12,id=cxl"]
        for number, size in enumerate(machine.cxl_windows):
            kind += f",cxl-fmw.{number}.targets.0=cxl,cxl-fmw.{number}.size={size}"
    # reserve=off: the guest may have more memory than the host, and it is never touched.
    if guest.nodes:
        for number, size in enumerate(guest.nodes):
            made += ["-object", f"memory-backend-ram,id=m{number},size={size},reserve=off"]
            made += ["-numa", f"node,nodeid={number},memdev=m{number}"]
    else:
        kind += ",memory-backend=m"
        made += ["-object", f"memory-backend-ram,id=m,size={machine.ram_size},reserve=off"]
    memory = f"size={machine.ram_size}B"
    if machine.maxram_size is not None:
        memory += f",slots={machine.slots},maxmem={machine.maxram_size}B"
    if machine.pci_hole64_size is not None:
        host = "q35-pcihost" if machine.board is Board.Q35 else "i440FX-pcihost"
        made += ["-global", f"{host}.pci-hole64-size={machine.pci_hole64_size}"]
    cpu = guest.cpu + (f",phys-bits={machine.phys_bits}" if machine.long_mode else "")
    return ["-machine", kind, "-m", memory, "-cpu", cpu, *made]
