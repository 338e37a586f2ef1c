# SPDX-License-Identifier: MIT
"""Check dirty logs against the memory itself: compare a hash of every page before and after random writes by edu-vfio-pci.

    PYTHONPATH=.:scripts scripts/vm --iommu amd -- .venv/bin/python tests/contract/dirty_memory.py [COUNT]

Makes all edus whose DMA reaches memory write COUNT times (1000) together, and prints the numbers of pages. The exit
code is 1 if a changed page was not reported.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pyvfio
from pyvfio import DmaBuffer, host
from tests.contract.drivers import edu_vfio_pci

if TYPE_CHECKING:
    from pyvfio.spaces.base import AddressSpace

PAGE = 4096
PAGES = 2048
TARGET, SOURCE = 0x100_0000, 0x10_0000
#: The edus whose DMA reaches memory under every IOMMU. (Under QEMU 7.2's AMD IOMMU, DMA of devices below a root port
#: does not arrive.)
REACHING = ("0000:00:03.0", "0000:00:05.0", "0000:00:05.1")
LARGEST = 2048


class Found(NamedTuple):
    """Page numbers in the target: those written, those whose contents changed, and those that the log reported."""

    copies: int
    written: set[int]
    changed: set[int]
    reported: set[int]

    @property
    def missed(self) -> set[int]:
        """Pages that changed but were not reported."""
        return self.changed - self.reported

    @property
    def extra(self) -> set[int]:
        """Pages that were reported but not written."""
        return self.reported - self.written

    def __str__(self) -> str:
        return (
            f"{self.copies} copies, {len(self.written)} pages written, {len(self.changed)} changed, {len(self.reported)} reported, "
            f"{len(self.missed)} missed, {len(self.extra)} extra"
        )


def hashes(memory: memoryview) -> list[bytes]:
    """Return the hash of every page."""
    return [hashlib.blake2b(memory[at : at + PAGE], digest_size=16).digest() for at in range(0, len(memory), PAGE)]


def copy_at_random(devices: Sequence[edu_vfio_pci.driver], space: AddressSpace, count: int, seed: int) -> Found:
    """Make several devices write `count` times to random places at the same time, and read the log now and then.

    :param space: the address space of all devices; nothing is mapped in it
    """
    rng = random.Random(seed)
    target = space.map(DmaBuffer(PAGES * PAGE), TARGET)
    source = space.map(DmaBuffer(PAGE), SOURCE)
    source.buffer.view[:] = rng.randbytes(PAGE)
    target.buffer.view[:] = rng.randbytes(PAGES * PAGE)
    for device in devices:
        device.read(SOURCE, LARGEST)
    before = hashes(target.buffer.view)
    written: set[int] = set()
    reported: set[int] = set()

    with pyvfio.dirty_log([device.device for device in devices], [target.range]) as log:

        def report() -> None:
            reported.update((page - TARGET) // PAGE for page in log.read().pages())

        for number in range(count):
            device = devices[number % len(devices)]
            while device.moving:
                time.sleep(0.001)
            size = rng.randint(1, LARGEST)
            at = rng.randrange(PAGES * PAGE - size)
            device.start_write(TARGET + at, size, rng.randrange(LARGEST - size + 1))
            written.update(range(at // PAGE, (at + size - 1) // PAGE + 1))
            if rng.random() < 0.1:
                report()
        for device in devices:
            while device.moving:
                time.sleep(0.001)
        report()
    after = hashes(target.buffer.view)
    changed = {page for page in range(PAGES) if before[page] != after[page]}
    target.unmap()
    source.unmap()
    return Found(count, written, changed, reported)


def main() -> int:
    """Run the check once in mode type1v2 and once in iommufd, and return the exit code."""
    parser = argparse.ArgumentParser(description="Judge dirty pages by the memory itself.")
    parser.add_argument("count", nargs="?", type=int, default=1000)
    count = parser.parse_args().count
    from tests.contract import guest

    guest.load_driver(guest.EDU)
    missed = 0
    with host.bind(REACHING, guest.driver_of(guest.EDU)):
        for mode in ("type1v2", "iommufd"):
            seed = random.randrange(1 << 32)
            begun = time.monotonic()
            with contextlib.ExitStack() as stack:
                space = stack.enter_context(pyvfio.address_space(mode))
                opened = [stack.enter_context(space.attach(address)) for address in REACHING]
                devices = [stack.enter_context(edu_vfio_pci.driver(device)) for device in opened]
                found = copy_at_random(devices, space, count, seed)
            print(
                f"{guest.IOMMU} {guest.KERNEL} {mode}: {found}; seed {seed}, {time.monotonic() - begun:.1f} s",
                flush=True,
            )
            missed += len(found.missed)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
