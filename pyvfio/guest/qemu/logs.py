"""QEMU's log lines: reading the ranges and sections of a dirty tracking start out of them, and writing them."""

from __future__ import annotations

import re

from pyvfio.guest.qemu.requests import bitmap_size
from pyvfio.guest.sections import MemorySection
from pyvfio.iova import IovaRange


def read_sections(log: str) -> list[MemorySection]:
    """The sections that a QEMU log's vfio_device_dirty_tracking_update lines name, as plain memory.

    For a QEMU run with ``-trace 'vfio_device_dirty_tracking*'``, any log format, any version from 8.0 on.
    """
    found = re.findall(r"section 0x([0-9a-f]+) - 0x([0-9a-f]+) -> update", log)
    return [MemorySection(int(start, 16), int(last, 16) - int(start, 16) + 1) for start, last in found]


def read_start(log: str) -> list[IovaRange]:
    """The ranges that QEMU asked for, from the last vfio_device_dirty_tracking_start line of a log; none without one."""
    lines = re.findall(r"nr_ranges \d+ (.*)", log)
    pairs = re.findall(r"\w+:\[0x([0-9a-f]+) - 0x([0-9a-f]+)\]", lines[-1]) if lines else []
    return sorted(IovaRange(int(low, 16), int(high, 16)) for low, high in pairs if int(high, 16))


def query_line(iova: int, size: int, start: int, dirty_pages: int, page_size: int = 4096) -> str:
    """The trace line of one dirty bitmap query (vfio_container_query_dirty_bitmap); the blank after ``size=`` is
    QEMU's.

    :param start: the guest's RAM address of the first page
    """
    bitmap = bitmap_size(size, page_size).bytes
    return f"iova=0x{iova:x} size= 0x{size:x} bitmap_size=0x{bitmap:x} start=0x{start:x} dirty_pages={dirty_pages}"
