"""What this process holds, by the kernel's count: to see that nothing leaks."""

from __future__ import annotations

import os
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


def descriptors() -> list[str]:
    """What the open descriptors are of, in order."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # that of the folder itself
    return sorted(names)


class Held(NamedTuple):
    """What must be the same before and after."""

    pinned: int
    descriptors: list[str]


def held() -> Held:
    return Held(pinned(), descriptors())
