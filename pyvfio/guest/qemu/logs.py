# SPDX-License-Identifier: MIT
"""QEMU's log lines: reading the ranges and sections of a dirty tracking start from them, and writing them.

For a QEMU run with `-trace 'vfio_device_dirty_tracking*' -D FILE`, in any log format, any version from 8.0 on. Reading takes time in
proportion to the log's length, whatever is in it.
"""

from __future__ import annotations

import re

from pyvfio._core import arguments
from pyvfio.guest.qemu.dirty_logging import bitmap_size
from pyvfio.guest.sections import MemorySection
from pyvfio.iova import IovaRange

_U64_LAST = 2**64 - 1
_SECTION = re.compile(r"section 0x([0-9a-f]+) - 0x([0-9a-f]+) -> update")
_START = re.compile(r"nr_ranges (\d{1,9}) (.*)")
# The pair's name is bounded: without that, each of a long word's characters would begin a search to its end.
_PAIR = re.compile(r"(?<!\w)\w{1,20}:\[0x([0-9a-f]+) - 0x([0-9a-f]+)\]")


def read_sections(log: str) -> list[MemorySection]:
    """Return the sections that the vfio_device_dirty_tracking_update lines of a log name, as plain memory.

    :param log: the log's text
    :raises ValueError: the log has no such line, or one with impossible addresses
    """
    arguments.string(log, "log")
    sections = []
    for found in _SECTION.finditer(log):
        start, last = _addresses(found)
        if last < start:
            raise ValueError(f"the log has a section that ends before it begins: {found[0]!r}")
        sections.append(MemorySection(start, last - start + 1))
    if not sections:
        raise _missing(log, "vfio_device_dirty_tracking_update")
    return sections


def read_start(log: str) -> list[IovaRange]:
    """Return the ranges that QEMU asked for, from the last vfio_device_dirty_tracking_start line of a log.

    :param log: the log's text
    :raises ValueError: the log has no such line, or it is cut off or names impossible addresses
    """
    arguments.string(log, "log")
    line: re.Match[str] | None = None
    for line in _START.finditer(log):  # noqa: B007 (the last one)
        pass
    if line is None:
        raise _missing(log, "vfio_device_dirty_tracking_start")
    pairs = [_addresses(pair) for pair in _PAIR.finditer(line[2])]
    # A pair that nothing was added to ends at 0.
    asked = [pair for pair in pairs if pair[1]]
    if len(asked) != int(line[1]):
        raise ValueError(f"the log's start line is cut off: {len(asked)} of {line[1]} ranges in {line[0][:200]!r}")
    for start, last in asked:
        if last < start:
            raise ValueError(f"the log has a range that ends before it begins: {line[0][:200]!r}")
    return sorted(IovaRange(*pair) for pair in asked)


def _addresses(found: re.Match[str]) -> tuple[int, int]:
    start, last = int(found[1], 16), int(found[2], 16)
    if start > _U64_LAST or last > _U64_LAST:
        raise ValueError(f"the log has an address of more than 64 bits: {found[0][:200]!r}")
    return start, last


def _missing(log: str, event: str) -> ValueError:
    return ValueError(
        f"no {event} line in {log.count(chr(10)) + 1} lines of log: run QEMU with -trace 'vfio_device_dirty_tracking*' -D FILE, "
        "start a migration, and read that file"
    )


def query_line(iova: int, size: int, start: int, dirty_pages: int, page_size: int = 4096) -> str:
    """Return the trace line of one dirty bitmap query (vfio_container_query_dirty_bitmap). The blank after `size=` is QEMU's.

    :param start: the guest's RAM address of the first page
    """
    bitmap = bitmap_size(size, page_size).bytes
    return f"iova=0x{iova:x} size= 0x{size:x} bitmap_size=0x{bitmap:x} start=0x{start:x} dirty_pages={dirty_pages}"
