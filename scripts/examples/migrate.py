"""Migrate a device that works all the while, with pre-copy and without: how long does it stand still, and how much is sent?

Runs as root in the machine: `scripts/vm -- .venv/bin/python scripts/examples/migrate.py [MiB]`, 64 unless it is said.

vfio-mock's engine writes to the host's memory, here the memory of a "guest", and keeps what it wrote in memory of its own, so both change. The
guest's memory is copied by the device's DMA log, its own by its migration stream, straight into a second device, which has the copied
memory at the same IOVAs and goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pyvfio
from pyvfio import Device, DirtyLog, Mapping
from pyvfio.migration import State, Stream

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "contract"))

from drivers.vfio_mock import VALUES, VfioMock

PAGE = 4096
IOVA = 1 << 32
#: the engine writes a word here and there in so much of the memory, once every so many microseconds
BUSY, DELAY = 1 << 20, 200


class Result(NamedTuple):
    """Of one migration.

    :ivar stopped: seconds from the last moment in which the first device worked to the first of the second
    :ivar running_bytes: of the device's state, sent before the stop
    """

    stopped: float
    total: float
    running_bytes: int
    stopped_bytes: int
    pages: int


class Counted:
    """A stream that counts."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.bytes = 0

    def write(self, data: Any) -> int | None:
        taken = self._stream.write(data)
        self.bytes += taken or 0
        return taken


def copy_dirty_pages(log: DirtyLog, source: Mapping, target: Mapping) -> int:
    pages = 0
    for run in log.read().runs():
        part = slice(run.start - source.iova, run.last + 1 - source.iova)
        target.buffer.view[part] = source.buffer.view[part]
        pages += run.size // PAGE
    return pages


def migrate(source: Device, target: Device, guest: Mapping, copy: Mapping, *, pre_copy: bool) -> Result:
    begun = time.monotonic()
    target.migration.state = State.RESUMING
    into = Counted(target.migration.stream)
    pages = 0
    with source.dirty_log([guest.range]) as log:
        copy.buffer.view[:] = guest.buffer.view
        if pre_copy:
            for left in source.migration.pre_copy(into):
                pages += copy_dirty_pages(log, guest, copy)
                if not left.initial_bytes and left.dirty_bytes <= 2 * BUSY:
                    break
        running_bytes = into.bytes
        stopped = time.monotonic()
        source.migration.save(into)
        pages += copy_dirty_pages(log, guest, copy)
    target.migration.state = State.STOP
    target.migration.state = State.RUNNING
    ended = time.monotonic()
    return Result(ended - stopped, ended - begun, running_bytes, into.bytes - running_bytes, pages)


def check(source: Device, target: Device, guest: Mapping, copy: Mapping) -> None:
    """Hold the second device still for a moment: all its memory is as the first's but for what it has written since."""
    first, second = VfioMock(source), VfioMock(target)
    second.finish_after(1000)
    source_memory, target_memory = (device.regions[VALUES["REGION_MEMORY"]] for device in (source, target))
    size = guest.size
    assert target_memory.read(0, size) == bytes(copy.buffer.view), "the second device's memory is not what it wrote"
    assert source_memory.read(0, size) == bytes(guest.buffer.view), "the first device's memory is not what it wrote"
    assert first["DMA_STEPS"] < second["DMA_STEPS"]


def main() -> None:
    ...


if __name__ == "__main__":
    main()
