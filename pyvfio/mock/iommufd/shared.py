# SPDX-License-Identifier: MIT
"""The mappable parts of an open /dev/iommu: registers of an IOMMU that a guest can use directly."""

from __future__ import annotations

import errno
import os
import weakref
from mmap import mmap

from pyvfio.mock.machine.errno import Errno, descriptors


class Part:
    """One mappable part. Its owner cannot be destroyed while it is mapped."""

    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.size = size
        self._mappings: list[weakref.ref[mmap]] = []

    @property
    def mapped(self) -> bool:
        mappings = [mapping() for mapping in self._mappings]
        return any(mapping is not None and not mapping.closed for mapping in mappings)

    def keep(self, mapping: mmap) -> None:
        self._mappings.append(weakref.ref(mapping))


class Shared:
    """The memory behind the descriptor, and its allocated parts."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        with descriptors():
            self._fd = os.memfd_create("pyvfio-mock-iommufd", os.MFD_CLOEXEC)
        self._parts: list[Part] = []

    def descriptor(self) -> int:
        return os.dup(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def add(self, content: bytes) -> Part:
        """Allocate a part in the lowest gap; the first page stays free, so that no offset is 0."""
        offset = self._page_size
        for part in self._parts:
            if offset + len(content) <= part.offset:
                break
            offset = part.offset + part.size
        part = Part(offset, len(content))
        self._parts = sorted([*self._parts, part], key=lambda one: one.offset)
        os.truncate(self._fd, max(os.fstat(self._fd).st_size, offset + len(content)))
        os.pwrite(self._fd, content, offset)
        return part

    def remove(self, part: Part) -> None:
        self._parts.remove(part)

    def find(self, offset: int, size: int) -> Part:
        """Return the part that a mapping covers.

        :raises Errno: ENXIO, the range is not exactly one part
        """
        size = -(-size // self._page_size) * self._page_size
        for part in self._parts:
            if (part.offset, part.size) == (offset, size):
                return part
        raise Errno(errno.ENXIO)
