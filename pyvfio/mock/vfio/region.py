# SPDX-License-Identifier: MIT
"""Regions of the mock's devices: their descriptions, and the memory of mappable ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from mmap import MADV_REMOVE, mmap
from typing import NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine import caller

#: a region starts at its index << OFFSET_SHIFT in the device's file, as in vfio-pci (VFIO_PCI_OFFSET_SHIFT) and
#: vfio-mock
OFFSET_SHIFT = 40
OFFSET_MASK = (1 << OFFSET_SHIFT) - 1
#: more regions than any device has
_INDICES = 64
#: bytes of a region that are mapped at a time to clear it: address space may be limited
_WINDOW = 1 << 30
_PAGE = 4096

READ = lib.VFIO_REGION_INFO_FLAG_READ
WRITE = lib.VFIO_REGION_INFO_FLAG_WRITE
MMAP = lib.VFIO_REGION_INFO_FLAG_MMAP


class Area(NamedTuple):
    """A part of a region, in bytes."""

    offset: int
    size: int


class Region(NamedTuple):
    """A region, as VFIO_DEVICE_GET_REGION_INFO describes it.

    :ivar areas: the mappable areas; empty: all of a mappable region
    :ivar type: (type, subtype) of a device-specific region; None for others
    :ivar msix_mappable: the region can be mapped together with the MSI-X table in it
    """

    size: int = 0
    flags: int = 0
    areas: tuple[Area, ...] = ()
    type: tuple[int, int] | None = None
    msix_mappable: bool = False

    def may_map(self, offset: int, size: int) -> bool:
        """Whether a part of the region can be mapped."""
        if not self.flags & MMAP or offset >= self.size or size > self.size - offset:
            return False
        areas = self.areas or (Area(0, self.size),)
        return any(area.offset <= offset and offset + size <= area.offset + area.size for area in areas)

    def capabilities(self) -> list[Capability]:
        chain = []
        if self.type is not None:
            chain.append(Capability(lib.VFIO_REGION_INFO_CAP_TYPE, _words(*self.type)))
        if self.areas:
            areas = b"".join(_longs(*area) for area in self.areas)
            chain.append(Capability(lib.VFIO_REGION_INFO_CAP_SPARSE_MMAP, _words(len(self.areas), 0) + areas))
        if self.msix_mappable:
            chain.append(Capability(lib.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, b""))
        return chain


class RegionFile:
    """The memory of a device's regions: one sparse memfd, with each region at its offset.

    All descriptors of the device refer to it.

    :param name: name of the device
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._fd: int | None = None
        self._memory: dict[int, mmap] = {}

    def fileno(self) -> int:
        if self._fd is None:
            self._fd = os.memfd_create(f"pyvfio-mock {self._name}", os.MFD_CLOEXEC)
            # Sparse: memory is allocated only where the file is written.
            os.truncate(self._fd, _INDICES << OFFSET_SHIFT)
        return self._fd

    def open(self) -> int:
        """Return a new descriptor with an open file description of its own, as each open of a device has."""
        return os.open(f"/proc/self/fd/{self.fileno()}", os.O_RDWR | os.O_CLOEXEC)

    def memory(self, index: int, size: int) -> mmap:
        """Return a mapping of `size` bytes of a region."""
        if index not in self._memory:
            self._memory[index] = mmap(self.fileno(), size, offset=index << OFFSET_SHIFT)
        return self._memory[index]

    def read(self, index: int, offset: int, size: int) -> bytes:
        """Read a region without mapping it."""
        return os.pread(self.fileno(), size, index << OFFSET_SHIFT | offset)

    def write(self, index: int, offset: int, data: bytes) -> None:
        """Write a region without mapping it."""
        os.pwrite(self.fileno(), data, index << OFFSET_SHIFT | offset)

    def contents(self, index: int, size: int) -> Iterator[tuple[int, bytes]]:
        """Yield offset and bytes of the pages of a region that are not all zeros."""
        if self._fd is None:
            return
        at, end = index << OFFSET_SHIFT, (index << OFFSET_SHIFT) + size
        while at < end:
            try:
                at = os.lseek(self._fd, at, os.SEEK_DATA)
            except OSError:  # ENXIO: no data after this offset
                return
            if at < end:
                data = os.pread(self._fd, min(_PAGE, end - at), at)
                if any(data):
                    yield at & OFFSET_MASK, data
                at += _PAGE

    def clear(self, index: int, size: int) -> None:
        """Zero a region by freeing its pages, also those that programs have mapped; only written pages cost time."""
        if self._fd is None:
            return
        for start in range(0, size, _WINDOW):
            with mmap(self._fd, min(_WINDOW, size - start), offset=(index << OFFSET_SHIFT) + start) as window:
                window.madvise(MADV_REMOVE)

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)


class Capability(NamedTuple):
    """One capability of a chain: `struct vfio_info_cap_header`, and its data."""

    id: int
    data: bytes
    version: int = 1


def chained(capabilities: list[Capability], start: int) -> bytes:
    """Return the chain of capabilities as it follows a struct of `start` bytes."""
    chain = b""
    for index, capability in enumerate(capabilities):
        data = capability.data + bytes(-len(capability.data) % 8)
        following = start + len(chain) + 8 + len(data) if index + 1 < len(capabilities) else 0
        header = capability.id | capability.version << 16 | following << 32
        chain += header.to_bytes(8, "little") + data
    return chain


def give_info(argument: int, info: object, region: Region) -> None:
    """Fill in the `struct vfio_region_info` of VFIO_DEVICE_GET_REGION_INFO, and copy it to the caller.

    :param argument: address of the caller's struct
    :param info: the caller's struct, copied in
    :param region: the region to describe
    :raises Errno: EFAULT
    """
    size = ffi.sizeof("struct vfio_region_info")
    answer = ffi.cast("struct vfio_region_info *", info)
    answer.flags = region.flags
    answer.size = region.size
    answer.offset = answer.index << OFFSET_SHIFT
    if capabilities := region.capabilities():
        chain = chained(capabilities, size)
        answer.flags |= lib.VFIO_REGION_INFO_FLAG_CAPS
        if answer.argsz < size + len(chain):
            answer.argsz = size + len(chain)
            answer.cap_offset = 0
        else:
            caller.write(argument + size, chain)
            answer.cap_offset = size
    caller.give(argument, answer, size)


def _words(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


def _longs(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)
