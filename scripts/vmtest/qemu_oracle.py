# SPDX-License-Identifier: MIT
"""Compare `pyvfio.guest` with real QEMUs: the memory layout of random guests, refused guests, and the answers of a virtio-iommu.

QEMU creates each guest but does not run it. The memory map is read through the monitor (the tree of memory regions, the
PCI window) and through the qtest protocol (the E820 map and the ACPI tables in fw_cfg, the CMOS memory).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shlex
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from pyvfio.guest import x86
from pyvfio.guest.qemu import virtio_iommu
from pyvfio.guest.reserved import Q35_PROPERTY
from vmtest.monitor import Monitor, MonitorError
from vmtest.oracle_guest import Guest, options, random_guest
from vmtest.problems import Problem, say
from vmtest.qemu import CHOICES, Qemu, require_qemu
from vmtest.qtest import Qtest
from vmtest.virtio_iommu import VirtioIommu

_E820 = struct.Struct("<QQI")
# Timeout in seconds. QEMU answers within 0.1 s, but on a busy host it may get no processor time for minutes.
_PATIENCE = 600
_REFUSAL = re.compile(r"(Address space limit 0x.*)")
_REGION = re.compile(
    r"^ +([0-9a-f]{16})-([0-9a-f]{16}) \(prio [^)]*\): (?:alias )?([\w-]+)(?: @\S+ ([0-9a-f]{16})-)?", re.M
)


class Difference(NamedTuple):
    """A value that differs between QEMU and `pyvfio.guest`."""

    what: str
    computed: Any
    qemu: Any

    def __str__(self) -> str:
        return f"{self.what}: computed {shown(self.computed)}, QEMU has {shown(self.qemu)}"


class Outcome(NamedTuple):
    """The comparison of one guest."""

    seed: str
    command: str
    refused: bool
    compared: tuple[str, ...]
    """The names of the values that were compared."""
    differences: tuple[Difference, ...]
    known: str = ""
    """A known peculiarity of QEMU that prevents some comparisons; '' for none."""


WINDOW_OVER_RAM = "a CXL window beyond the vCPU's address bits lies over RAM at 0 (cxl_fmws_set_memmap, hw/cxl/cxl-host.c:435 of 10.2.2)"
"""Happens only with vCPUs without 64-bit mode. The window hides the RAM at 0 from fw_cfg's DMA, so the maps in fw_cfg cannot be read."""

IO_APIC = 0xFEC00000
RAM_OVER_IO_APIC = "QEMU aborts: max-ram-below-4g=4G leaves RAM above the I/O APIC (range_set_bounds, hw/pci-host/i440fx.c:271 of 7.2.0)"
"""The 32-bit PCI window would end before its start."""


def shown(value: Any) -> str:
    """Return a value as text, with numbers in hexadecimal."""
    if isinstance(value, tuple | list):
        return f"({', '.join(shown(each) for each in value)})"
    return hex(value) if isinstance(value, int) else repr(value)


# --- a QEMU that does not run -------------------------------------------------------------------------------------------


class Refused(Exception):
    """QEMU ended instead of creating the guest. The text is its stderr."""


class Paused:
    """A QEMU process that has created a guest and does not run it.

    :param qemu: the QEMU to start
    :param arguments: its options
    :raises Refused: QEMU ended
    """

    def __init__(self, qemu: Qemu, arguments: Sequence[str]) -> None:
        self._sockets: list[socket.socket] = []
        theirs = []
        for _ in range(2):
            ours, other = socket.socketpair()
            self._sockets.append(ours)
            theirs.append(other)
        command = [
            *qemu.command, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-accel", "tcg,tb-size=1",
            "-chardev", f"socket,id=monitor,fd={theirs[0].fileno()}", "-mon", "chardev=monitor,mode=control",
            "-chardev", f"socket,id=qtest,fd={theirs[1].fileno()}",
            # -object instead of -qtest: the option needs the accelerator qtest, which is a separate module, or missing,
            # in Debian's packages.
            "-object", "qtest,id=server,chardev=qtest,log=/dev/null",
            *arguments,
        ]  # fmt: skip
        try:
            self._process = subprocess.Popen(
                command,
                env=os.environ | qemu.environment,
                pass_fds=[end.fileno() for end in theirs],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        finally:
            for end in theirs:
                end.close()
        self.monitor = Monitor(self._sockets[0], timeout=_PATIENCE)
        self.qtest = Qtest(self._sockets[1], timeout=_PATIENCE)
        try:
            self.monitor.execute("query-status")
        except MonitorError as error:
            raise Refused(self.close() or str(error)) from error

    def close(self) -> str:
        """End QEMU and return its stderr."""
        for end in self._sockets:
            end.close()
        # Closing the monitor does not end QEMU. A QEMU that refuses the guest gets time to print its message.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.05)
        self._process.kill()
        return self._process.communicate()[1].decode(errors="replace").strip()

    def __enter__(self) -> Paused:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self.close()


def machine_types(qemu: Qemu) -> list[str]:
    """Return the versions, from 2.11 on, for which this QEMU has machine types of both boards."""
    with Paused(qemu, ["-machine", "none"]) as paused:
        names = {entry["name"] for entry in paused.monitor.execute("query-machines")}
    found = [match[1] for name in names if (match := re.fullmatch(r"pc-q35-(\d+\.\d+)", name))]
    versions = sorted((tuple(map(int, each.split("."))), each) for each in found if f"pc-i440fx-{each}" in names)
    return [text for version, text in versions if version >= (2, 11)]


# --- reading ------------------------------------------------------------------------------------------------------------


def read_e820(data: bytes) -> tuple[tuple[int, int, int], ...]:
    """Return the entries (start, size, type) of etc/e820."""
    return tuple(_E820.iter_unpack(data))


def read_tree(text: str) -> dict[str, tuple[int, int, int]]:
    """Return (start, last, offset in the aliased memory) of the regions in `info mtree` by name; of regions with the same name, the first."""
    _, _, memory = text.partition("address-space: memory\n")
    memory, _, _ = memory.partition("\n\n")
    found: dict[str, tuple[int, int, int]] = {}
    for start, last, name, offset in _REGION.findall(memory):
        found.setdefault(name, (int(start, 16), int(last, 16), int(offset or "0", 16)))
    return found


def read_srat(tables: bytes) -> tuple[tuple[int, int, int], ...]:
    """Return the entries (node, start, size) for present memory in the SRAT in etc/acpi/tables.

    ACPI 6: memory affinity structures have type 1 and 40 bytes. Flag bit 0 means enabled, bit 1 hot-pluggable.
    """
    at = tables.find(b"SRAT")
    if at < 0:
        return ()
    (length,) = struct.unpack_from("<I", tables, at + 4)
    table = tables[at : at + length]
    entries = []
    at = 48
    while at + 2 <= len(table):
        kind, size = table[at], table[at + 1]
        if kind == 1:
            node, _, start, bytes_, _, flags = struct.unpack_from("<IHQQII", table, at + 2)
            if flags & 3 == 1:
                entries.append((node, start, bytes_))
        at += max(size, 2)
    return tuple(entries)


# --- comparing ----------------------------------------------------------------------------------------------------------


def computed(layout: x86.Layout, nodes: Sequence[int]) -> dict[str, Any]:
    """Return the values that `pyvfio.guest` computes for a layout, by name."""
    window = layout.pci_hole64
    values: dict[str, Any] = {
        "e820": tuple((each.start, each.size, each.type) for each in layout.e820),
        "cmos": layout.cmos,
        "hole64 start": layout.pci_hole64_start,
        "hole64 end": window.last + 1 if window else layout.pci_hole64_start,
        "device memory": tuple(layout.device_memory) if layout.device_memory else None,
        "ram-below-4g": None,
        "ram-above-4g": None,
    }
    values |= {piece.name: (*piece.range, piece.offset) for piece in layout.ram}
    if nodes:
        values["srat"] = tuple((each.node, each.start, each.size) for each in layout.srat(nodes))
    return values


def asked(paused: Paused, machine: x86.Machine, nodes: Sequence[int]) -> dict[str, Any]:
    """Return QEMU's values of the same names, as far as they can be read."""
    tree = read_tree(paused.monitor.execute_human("info mtree"))
    covered = tree.get("cxl-fixed-memory-region", (1, 0, 0))[0] == 0
    host = "/machine/q35" if machine.board is x86.Board.Q35 else "/machine/i440fx"
    window = [paused.monitor.execute("qom-get", path=host, property=f"pci-hole64-{end}") for end in ("start", "end")]
    devices = tree.get("device-memory")
    values = {
        "cmos": tuple(paused.qtest.cmos(register) for register in (0x5B, 0x5C, 0x5D)),
        "hole64 start": window[0],
        "hole64 end": window[1],
        "device memory": devices[:2] if devices else None,
        "ram-below-4g": tree.get("ram-below-4g"),
        "ram-above-4g": tree.get("ram-above-4g"),
    }
    if covered:
        return values
    values["e820"] = read_e820(paused.qtest.fw_cfg_file("etc/e820"))
    if nodes:
        values["srat"] = read_srat(paused.qtest.fw_cfg_file("etc/acpi/tables"))
    return values


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[Difference, ...]:
    """Return the differences between values that both sides have."""
    both = [name for name in ours if name in theirs]
    return tuple(Difference(name, ours[name], theirs[name]) for name in both if ours[name] != theirs[name])


def check(qemu: Qemu, version: str, guest: Guest, seed: str) -> Outcome:
    """Create one guest and compare it.

    :raises Problem: QEMU refuses the guest for a reason other than its addresses
    """
    layout = x86.merged(guest.machine, version=version)
    arguments = options(guest)
    done = partial(Outcome, seed, shlex.join(arguments))
    try:
        paused = Paused(qemu, arguments)
    except Refused as refusal:
        if "range_invariant" in str(refusal) and guest.machine.below_4g > IO_APIC:
            return done(True, (), (), RAM_OVER_IO_APIC)
        if not (found := _REFUSAL.search(str(refusal))):
            raise Problem(f"QEMU {version} does not make {shlex.join(arguments)}: {refusal}") from refusal
        differs = found[1] != layout.error
        return done(True, ("refusal",), (Difference("refusal", layout.error, found[1]),) if differs else ())
    with paused:
        if layout.error:
            return done(False, ("refusal",), (Difference("refusal", layout.error, None),))
        ours = computed(layout, guest.nodes)
        try:
            theirs = asked(paused, guest.machine, guest.nodes)
        except Problem as problem:
            raise Problem(f"QEMU {version} with {shlex.join(arguments)}: {problem}") from problem
        known = "" if "e820" in theirs else WINDOW_OVER_RAM
        return done(False, tuple(name for name in ours if name in theirs), compare(ours, theirs), known)


# --- the virtio-iommu ---------------------------------------------------------------------------------------------------


def check_virtio_iommu(qemu: Qemu, board: x86.Board, aw_bits: int | None, granule: int | None) -> Outcome:
    """Probe a virtio-iommu with a device behind it, and compare its configuration and its answer.

    :param aw_bits: its address width in bits; None for QEMU's default
    :param granule: its smallest page size in bytes; None for QEMU's default
    """
    properties = "" if aw_bits is None else f",aw-bits={aw_bits}"
    properties += "" if granule is None else f",granule={granule >> 10}k"
    arguments = [
        "-machine", board.value, "-m", "128M",
        "-device", f"virtio-iommu-pci,addr=3.0{properties}", "-device", "pci-testdev,addr=5.0",
    ]  # fmt: skip
    width = 39 if qemu.release >= (9, 0) and board is x86.Board.Q35 else 64
    reply = virtio_iommu.probe([Q35_PROPERTY])
    ours = {
        "virtio-iommu width": virtio_iommu.input_range(aw_bits or width).last,
        "virtio-iommu page sizes": virtio_iommu.initial_mask(granule or 4096),
        "virtio-iommu probe": (reply.status.value, reply.data.ljust(virtio_iommu.PROBE_SIZE, b"\0").hex()),
    }
    with Paused(qemu, arguments) as paused:
        device = VirtioIommu(paused.qtest, slot=3)
        status, data = device.probe(5 << 3)
        theirs = {
            "virtio-iommu width": device.config.input_last,
            "virtio-iommu page sizes": device.config.page_size_mask,
            "virtio-iommu probe": (status, data.hex()),
        }
    return Outcome("virtio-iommu", shlex.join(arguments), False, tuple(ours), compare(ours, theirs))


def virtio_iommus(qemu: Qemu) -> Iterator[Outcome]:
    """Yield the outcomes for several widths and granules of this QEMU's virtio-iommu.

    (Before QEMU 9.0 they cannot be chosen.)
    """
    choices: list[tuple[int | None, int | None]] = [(None, None)]
    if qemu.release >= (9, 0):
        choices += [(width, granule) for width in (32, 39, 48, 64) for granule in (4096, 8192, 16384, 65536)]
    for board in x86.Board:
        for width, granule in choices:
            yield check_virtio_iommu(qemu, board, width, granule)


# --- the run ------------------------------------------------------------------------------------------------------------


def run(choice: str, count: int, seed: int, jobs: int, skip: int = 0) -> Iterator[Outcome]:
    """Yield the outcomes of random guests under one QEMU, and of its virtio-iommu.

    :param choice: a QEMU, as for :func:`vmtest.qemu.require_qemu`
    :param count: the number of guests
    :param skip: the number of guests to leave out at the beginning
    """
    qemu = require_qemu(choice)
    version = ".".join(map(str, qemu.release[:3]))
    kinds = machine_types(qemu)

    def one(number: int) -> Outcome:
        name = f"{seed}/{number}"
        guest = random_guest(random.Random(name), kinds, qemu.release)
        return check(qemu, version, guest, name)

    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(one, range(skip, count))
    yield from virtio_iommus(qemu)


def main(description: str) -> int:
    """Run the command. The exit code is 1 if anything differs."""
    parser = argparse.ArgumentParser(
        description=description.partition("\n")[0], epilog=description.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--qemu", nargs="+", default=list(CHOICES), metavar="CHOICE", help="which QEMUs (default: all)")
    parser.add_argument("--guests", type=int, default=200, help="guests in all (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the random guests (default: 0)")
    parser.add_argument(
        "--skip",
        type=int,
        default=0,
        help="of each QEMU's guests leave out so many, to go on with a run that was ended",
    )
    parser.add_argument("--jobs", type=int, default=2, help="QEMUs at the same time (default: 2)")
    parser.add_argument("--json", metavar="FILE", help="write every outcome to a file, one on a line")
    arguments = parser.parse_args()
    differing = 0
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(open(arguments.json, "w")) if arguments.json else None
        for number, choice in enumerate(arguments.qemu):
            count = arguments.guests // len(arguments.qemu) + (number < arguments.guests % len(arguments.qemu))
            try:
                differing += _report(choice, count, arguments, out)
            except Problem as problem:
                say(str(problem))
                return 2
    return 1 if differing else 0


def _report(choice: str, count: int, given: argparse.Namespace, out: Any) -> int:
    began = time.monotonic()
    counts: Counter[str] = Counter()
    different: Counter[str] = Counter()
    known: Counter[str] = Counter()
    refused = differing = 0
    for outcome in run(choice, count, given.seed, given.jobs, given.skip):
        refused += outcome.refused
        counts.update(outcome.compared)
        different.update(difference.what for difference in outcome.differences)
        differing += bool(outcome.differences)
        known.update(filter(None, [outcome.known]))
        if outcome.differences:
            print(f"{choice} {outcome.seed}: {outcome.command}")
            print("".join(f"    {difference}\n" for difference in outcome.differences), end="")
        if out:
            out.write(json.dumps({"qemu": choice, **outcome._asdict()}) + "\n")
    print(
        f"QEMU {require_qemu(choice).version}: {max(count - given.skip, 0)} guests in {time.monotonic() - began:.0f} s, {refused} refused, "
        f"{counts.total()} values ({', '.join(f'{name} {number}' for name, number in sorted(counts.items()))}); "
        f"{differing} guests differ{''.join(f', {name} {number}' for name, number in different.items())}"
    )
    for text, number in known.items():
        print(f"    known, {number} guests: {text}")
    sys.stdout.flush()
    return differing
