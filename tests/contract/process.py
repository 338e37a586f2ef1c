# SPDX-License-Identifier: MIT
"""The resources of this process by the kernel's count, to see that nothing leaks."""

from __future__ import annotations

import mmap
import os
import time
from typing import NamedTuple


def status(*keys: str) -> int:
    """Sum of some fields of /proc/self/status, in bytes."""
    values = {}
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            key, _, value = line.partition(":")
            values[key] = value
    return sum(int(values[key].split()[0]) << 10 for key in keys)


def pinned() -> int:
    """Bytes that this process has locked or pinned."""
    return status("VmLck", "VmPin")


def resident() -> int:
    """Bytes of this process that are in memory."""
    return status("VmRSS")


def slab() -> int:
    """Bytes of small objects in the kernel, the whole machine's."""
    with open("/proc/meminfo", encoding="ascii") as memory:
        fields = dict(line.split(":", 1) for line in memory)
    return int(fields["Slab"].split()[0]) << 10


def slabs() -> dict[str, int]:
    """The same by cache: bytes that each has taken of the machine's memory."""
    found = {}
    with open("/proc/slabinfo", encoding="ascii") as file:
        for line in file.readlines()[2:]:  # two lines tell what the columns are
            name, _, _, _, _, pages, *_ = words = line.split()
            found[name] = int(words[words.index("slabdata") + 2]) * int(pages) * mmap.PAGESIZE
    return found


def drop_caches() -> None:
    """Have the kernel give back what it keeps for a while only: names, inodes, and what waits to be freed behind readers' backs."""
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("2")
    time.sleep(2)


def descriptors() -> list[str]:
    """Return the files of the open descriptors, in order."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # that of the folder itself
    return sorted(names)


class Held(NamedTuple):
    """The counts that must be the same before and after."""

    pinned: int
    descriptors: list[str]


def held() -> Held:
    return Held(pinned(), descriptors())
