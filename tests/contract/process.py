# SPDX-License-Identifier: MIT
"""Count this process's resources as the kernel sees them, to detect leaks."""

from __future__ import annotations

import mmap
import os
import time
from typing import NamedTuple


def status(*keys: str) -> int:
    """Return the sum of some fields of /proc/self/status, in bytes."""
    values = {}
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            key, _, value = line.partition(":")
            values[key] = value
    return sum(int(values[key].split()[0]) << 10 for key in keys)


def pinned() -> int:
    """Return the number of bytes that this process has locked or pinned."""
    return status("VmLck", "VmPin")


def resident() -> int:
    """Return the resident size of this process in bytes."""
    return status("VmRSS")


def slab() -> int:
    """Return the size of the whole machine's slab caches in bytes."""
    with open("/proc/meminfo", encoding="ascii") as memory:
        fields = dict(line.split(":", 1) for line in memory)
    return int(fields["Slab"].split()[0]) << 10


def slabs() -> dict[str, int]:
    """Return the size of each slab cache in bytes, by name."""
    found = {}
    with open("/proc/slabinfo", encoding="ascii") as file:
        for line in file.readlines()[2:]:  # skip the two header lines
            name, _, _, _, _, pages, *_ = words = line.split()
            found[name] = int(words[words.index("slabdata") + 2]) * int(pages) * mmap.PAGESIZE
    return found


def drop_caches() -> None:
    """Make the kernel free cached dentries and inodes, and wait for objects whose release RCU delays."""
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("2")
    time.sleep(2)


def descriptors() -> list[str]:
    """Return the names of the open descriptors' files, sorted."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # the descriptor with which listdir() read the folder
    return sorted(names)


class Held(NamedTuple):
    """The counts that must be equal before and after a test."""

    pinned: int
    descriptors: list[str]


def held() -> Held:
    return Held(pinned(), descriptors())
