# SPDX-License-Identifier: MIT
"""Migrate a working device, with and without pre-copy, and measure the downtime and the amount of data.

On a real kernel, as root in a virtual machine: `scripts/vm -- .venv/bin/python scripts/examples/migrate.py [MiB]`.
The device has 64 MiB of memory unless MiB says otherwise. On the mock (the kernel inside the process), whose devices
have 1 MiB: `PYVFIO_KERNEL=mock:amd .venv/bin/python scripts/examples/migrate.py`.

The DMA engine of vfio-mock writes to the host's memory, which stands for the memory of a guest, and stores the same
data in the device's own memory. So both change during the migration. The dirty log of the device tells which pages of
the guest's memory to copy again. The device's own memory travels in the migration stream, directly into a second
device. The copy of the guest's memory is mapped for the second device at the same IOVAs, and that device continues
where the first stopped.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from typing import Any, NamedTuple

import pyvfio
from pyvfio import Device, DirtyLog, Mapping
from pyvfio._core.vfio_mock_registers import VALUES
from pyvfio.migration import State, Stream
from pyvfio.vfio_mock import VfioMock

PAGE = 4096
MIB = 1 << 20
IOVA = 1 << 32
#: The engine writes words at random places in the first BUSY bytes of memory (in the first quarter if that is less),
#: and waits DELAY microseconds after each.
BUSY, DELAY = 4 * MIB, 200
#: Pre-copy ends when at most half of the busy bytes are dirty, or when MUCH times the size of the memory has been sent.
MUCH = 4


class Result(NamedTuple):
    """The result of one migration.

    :ivar still: downtime: seconds in which neither device worked
    :ivar before: bytes of device state that were sent while the source still worked
    :ivar after: bytes of device state that were sent during the downtime
    :ivar pages: pages of guest memory that were copied again, before and during the downtime
    """

    still: float
    before: int
    after: int
    pages: tuple[int, int]


class Counted:
    """A stream that counts what is written to it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.bytes = 0

    def write(self, data: Any) -> int | None:
        taken = self._stream.write(data)
        self.bytes += taken or 0
        return taken


def copy_dirty_pages(log: DirtyLog, source: Mapping, target: Mapping) -> int:
    """Copy the pages that the device wrote since the last call, and return their number."""
    report = log.read()
    for run in report.runs():
        part = slice(run.start - source.iova, run.last + 1 - source.iova)
        target.buffer.view[part] = source.buffer.view[part]
    return report.count()


def migrate(source: Device, target: Device, guest: Mapping, copy: Mapping, *, pre_copy: bool) -> Result:
    target.migration.state = State.RESUMING
    stream = Counted(target.migration.stream)
    before = pages = 0
    with source.dirty_log([guest.range]) as log:
        copy.buffer.view[:] = guest.buffer.view
        if pre_copy:
            for left in source.migration.pre_copy(stream):
                pages += copy_dirty_pages(log, guest, copy)
                if (
                    not left.initial_bytes and left.dirty_bytes <= busy(guest.size) // 2
                ) or stream.bytes > MUCH * guest.size:
                    break
            before = stream.bytes
        begun = time.monotonic()
        source.migration.save(stream)
        last_pages = copy_dirty_pages(log, guest, copy)
    target.migration.state = State.STOP
    still = time.monotonic() - begun
    check_equal(source, target, guest, copy)  # a check only: its time is no downtime
    begun = time.monotonic()
    target.migration.state = State.RUNNING
    still += time.monotonic() - begun
    return Result(still, before, stream.bytes - before, (pages, last_pages))


def check_equal(source: Device, target: Device, guest: Mapping, copy: Mapping) -> None:
    """Assert that the devices, and the guests' memory, have equal contents, and that both engines did the same number of steps."""
    regions = [device.regions[VALUES["REGION_MEMORY"]] for device in (source, target)]
    for at in range(0, guest.size, MIB):
        part = slice(at, at + MIB)
        contents = {bytes(mapping.buffer.view[part]) for mapping in (guest, copy)} | {
            region.read(at, MIB) for region in regions
        }
        assert len(contents) == 1, f"contents differ within the MiB at {at:#x}"
    assert VfioMock(source)["DMA_STEPS"] == VfioMock(target)["DMA_STEPS"]


def wait_for_steps(mock: VfioMock, count: int) -> None:
    """Wait until the engine has done `count` more steps.

    :raises RuntimeError: the engine stopped
    """
    goal = mock["DMA_STEPS"] + count
    while mock["DMA_STEPS"] < goal:
        if mock["DMA_STATUS"] != VALUES["DMA_BUSY"]:
            raise RuntimeError(f"the engine has stopped: errno {mock['DMA_ERRNO']}")
        time.sleep(0.01)


def busy(size: int) -> int:
    """Return how many bytes the engine keeps writing to on a device with `size` bytes of memory."""
    return min(BUSY, size // 4)


def run(size: int) -> dict[bool, Result]:
    """Migrate from the first device to the second with pre-copy, and back without.

    :param size: bytes of memory of each device
    :returns: the results, with `pre_copy` as the key
    """
    results: dict[bool, Result] = {}
    with pyvfio.open("vfio-mock.0") as one, pyvfio.open("vfio-mock.1") as other:
        ends = [(device, device.address_space.alloc(size, IOVA)) for device in (one, other)]
        mock = VfioMock(one)
        mock.start("FILL", "KEEP", "COUNTING", iova=IOVA, memory=0, length=size, pattern=0x0123456789ABCDEF)
        mock.finish(timeout=600)
        mock.start(
            "SCATTER", "KEEP", "REPEAT", "COUNTING",
            iova=IOVA, memory=0, length=busy(size), stride=8, count=1 << 16, seed=1, delay=DELAY,
        )  # fmt: skip
        for pre_copy in (True, False):
            (source, guest), (target, copy) = ends
            wait_for_steps(VfioMock(source), 1000)
            results[pre_copy] = migrate(source, target, guest, copy, pre_copy=pre_copy)
            source.reset()
            wait_for_steps(VfioMock(target), 1000)
            ends.reverse()
        VfioMock(ends[0][0]).stop()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mib", nargs="?", type=int, help="memory of the device, and of the guest; 64 unless given")
    mib = parser.parse_args().mib
    if module := os.environ.get("PYVFIO_MOCK_MODULE"):
        subprocess.run(["insmod", module, f"memory={(mib or 64) * MIB}"], check=True)
    if not any(device.address == "vfio-mock.0" for device in pyvfio.host.devices()):
        parser.error(
            "there is no vfio-mock.0: set PYVFIO_MOCK_MODULE to the module of tests/vfio_mock, or PYVFIO_KERNEL to mock:amd"
        )
    with pyvfio.open("vfio-mock.0") as device:
        size = device.regions[VALUES["REGION_MEMORY"]].size
    if mib not in (None, size // MIB):
        parser.error(f"vfio-mock.0 has {size // MIB} MiB of memory; only a module that is loaded here can have {mib}")
    results = run(size)
    print(
        f"A device with {size // MIB} MiB of memory, whose engine writes to {busy(size) / MIB:g} MiB of it and of the guest's all the while:"
    )
    print(f"{'':18}{'stands still':>14}{'sent before':>14}{'sent after':>14}{'in all':>14}{'pages again':>16}")
    for pre_copy, r in results.items():
        sent = "".join(f"{bytes_ / MIB:>10.2f} MiB" for bytes_ in (r.before, r.after, r.before + r.after))
        again = f"{r.pages[0]} + {r.pages[1]}"
        print(f"{'with pre-copy' if pre_copy else 'without pre-copy':18}{r.still:>12.3f} s{sent}{again:>16}")
    with_, without = results[True], results[False]
    print(f"It stands still {without.still / with_.still:.1f} times shorter with pre-copy, ", end="")
    print(f"for {(with_.before + with_.after) / (without.before + without.after):.2f} times the bytes.")
    print("Contents were equal both times, and the engine went on where it was.")


if __name__ == "__main__":
    main()
