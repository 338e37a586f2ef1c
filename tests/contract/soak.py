# SPDX-License-Identifier: MIT
"""Repeat rounds of open, attach, map, unmap and close, and print the resources of the process in between.

    PYTHONPATH=.:scripts scripts/vm -- .venv/bin/python tests/contract/soak.py [--rounds 10000] [--mode MODE] [DEVICE]

DEVICE is edu, nvme, e1000e, vfio-mock, or an address. Prints a line of figures before the first round and after each
tenth of the rounds. The exit code is 1 if a resource of the process grew. The last line is printed after the kernel has
dropped its caches. Slab caches of the kernel that grew by more than 1 MiB are named.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import pyvfio
from pyvfio import DmaBuffer
from pyvfio.kernel import Kernel, LinuxKernel
from pyvfio.spaces.opening import MODES, Mode
from tests.contract import guest, process

PAGE = 4096
#: Growth in bytes that is ignored: Python and the C library allocate memory in such pieces, and free it at times of
#: their own.
SLACK = 1 << 20


class Figures(NamedTuple):
    """The resources after a number of rounds. Sizes are in bytes."""

    rounds: int
    descriptors: int
    pinned: int
    resident: int
    slab: int


def figures(rounds: int) -> Figures:
    # Descriptors and memory are released with their objects; objects in reference cycles only by the collector.
    gc.collect()
    return Figures(rounds, len(process.descriptors()), process.pinned(), process.resident(), process.slab())


def one_round(address: str, mode: Mode, kernel: Kernel, buffer: DmaBuffer) -> None:
    with pyvfio.open(address, mode=mode, kernel=kernel) as device:
        device.address_space.map(buffer, 0x10_0000).unmap()
        if device.regions[0].mmappable:
            device.regions[0].mmap(device.regions[0].info.areas[0].offset)


def rounds(address: str, mode: Mode, kernel: Kernel, count: int, stops: int, warm: int = 5) -> Iterator[Figures]:
    """Yield the figures after `warm` rounds (so that caches are filled), and then at `stops` equal intervals of `count` rounds."""
    buffer = DmaBuffer(16 * PAGE)
    for _ in range(warm):
        one_round(address, mode, kernel, buffer)
    yield figures(0)
    for done in range(1, count + 1):
        one_round(address, mode, kernel, buffer)
        if done * stops % count < stops:
            yield figures(done)


def show(now: Figures, began: float) -> None:
    print(
        f"{now.rounds:8}{now.descriptors:13}{now.pinned >> 10:12}{now.resident >> 10:14}{now.slab >> 10:10}"
        f"{time.monotonic() - began:8.1f}",
        flush=True,
    )


def grown(first: Figures, last: Figures) -> list[str]:
    """Return messages about the resources that have grown between two figures."""
    found = []
    if last.descriptors != first.descriptors:
        found.append(f"descriptors: {first.descriptors}, then {last.descriptors}")
    if last.pinned != first.pinned:
        found.append(f"pinned memory: {first.pinned} bytes, then {last.pinned}")
    if last.resident > first.resident + SLACK:
        found.append(f"resident size: {first.resident} bytes, then {last.resident}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--mode", choices=MODES, default="iommufd")
    parser.add_argument("device", nargs="?", default="edu", metavar="DEVICE")
    arguments = parser.parse_args()
    began = time.monotonic()
    seen: list[Figures] = []
    kernel = LinuxKernel()
    caches: dict[str, int] = {}
    names = (*guest.DEVICES.values(), guest.MOCK)
    where = guest.address_of(arguments.device) if arguments.device in names else arguments.device
    with guest.ready(where, kernel) as address:
        print(f"{'rounds':>8}{'descriptors':>13}{'pinned KiB':>12}{'resident KiB':>14}{'slab KiB':>10}{'s':>8}")
        for now in rounds(address, arguments.mode, kernel, arguments.rounds, 10):
            caches = caches or process.slabs()
            seen.append(now)
            show(now, began)
        process.drop_caches()
        seen.append(figures(arguments.rounds))
        show(seen[-1], began)
    for name, size in sorted(process.slabs().items(), key=lambda cache: caches.get(cache[0], 0) - cache[1]):
        if size - caches.get(name, 0) > SLACK:
            print(f"soak: the kernel's {name} grew by {size - caches.get(name, 0) >> 10} KiB")
    problems = grown(seen[0], seen[-1])
    for problem in problems:
        print(f"soak: {problem}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
