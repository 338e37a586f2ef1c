# SPDX-License-Identifier: MIT
"""The client's memory as the server sees it: shared where the client gave a descriptor, else read and written by messages."""

from __future__ import annotations

import errno
import mmap
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.space import Space
from pyvfio.vfio_user.protocol import DMA_READABLE, DMA_WRITABLE, MAX_MAPS

_LAST = 2**64 - 1


class Messages(Protocol):
    """DMA by messages to the client."""

    def read(self, iova: int, size: int) -> bytes:
        """DMA_READ."""

    def write(self, iova: int, data: bytes) -> None:
        """DMA_WRITE."""


class _File:
    """A file of the client, mapped once for all mappings in it: a client with an IOMMU maps it page by page.

    :ivar uses: the number of mappings in it
    """

    def __init__(self) -> None:
        self.uses = 0
        self._memory: mmap.mmap | None = None
        self._size = 0

    def view(self, fd: int, offset: int, size: int, *, writable: bool) -> mmap.mmap:
        """Return the file's memory, at least as far as offset + size."""
        end = offset + size
        if self._memory is None or end > self._size:
            self._size = os.fstat(fd).st_size
            if end > self._size or not self._size:
                raise Errno(errno.EINVAL)
            try:
                self._memory = mmap.mmap(fd, self._size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            except PermissionError:
                if writable:
                    raise Errno(errno.EACCES) from None
                self._memory = mmap.mmap(fd, self._size, mmap.MAP_SHARED, mmap.PROT_READ)
            except (OSError, ValueError) as error:
                raise Errno(getattr(error, "errno", None) or errno.EINVAL) from None
        return self._memory


class _Mapping(NamedTuple):
    start: int
    last: int
    flags: int
    memory: mmap.mmap | None
    offset: int
    key: tuple[int, int] | None


class ClientMemory(Space):
    """The mappings of the client, by IOVA.

    :param messages: sends DMA_READ and DMA_WRITE, for memory that was mapped without a descriptor
    :param share: whether to use descriptors; without them all DMA goes by messages, and the client's IOMMU sees and logs each fault
    :ivar messages: the first parameter; it also works for memory that is shared
    """

    def __init__(self, messages: Messages, *, share: bool = True) -> None:
        self.messages = messages
        self._share = share
        self._starts: list[int] = []
        self._mappings: dict[int, _Mapping] = {}
        self._files: dict[tuple[int, int], _File] = {}

    def map(self, iova: int, size: int, flags: int, offset: int, fd: int | None) -> None:
        """DMA_MAP. The descriptor remains the caller's.

        :raises Errno: EINVAL; EEXIST if it overlaps another mapping; E2BIG above the limit on mappings; the errnos of mmap(2)
        """
        last = iova + size - 1
        if not size or last > _LAST or flags & ~(DMA_READABLE | DMA_WRITABLE):
            raise Errno(errno.EINVAL)
        at = bisect_right(self._starts, last)
        if at and self._mappings[self._starts[at - 1]].last >= iova:
            raise Errno(errno.EEXIST)
        if len(self._starts) >= MAX_MAPS:
            raise Errno(errno.E2BIG)
        memory, key = None, None
        if fd is not None and self._share:
            status = os.fstat(fd)
            key = (status.st_dev, status.st_ino)
            file = self._files.setdefault(key, _File())
            try:
                memory = file.view(fd, offset, size, writable=bool(flags & DMA_WRITABLE))
            except Errno:
                if not file.uses:
                    del self._files[key]
                raise
            file.uses += 1
        self._starts.insert(at, iova)
        self._mappings[iova] = _Mapping(iova, last, flags, memory, offset, key)

    def unmap(self, iova: int, size: int) -> None:
        """DMA_UNMAP: remove the mappings that lie in a range. No effect if nothing is mapped there.

        :raises Errno: EINVAL for a part of a mapping, or a range that wraps
        """
        last = iova + size - 1
        if not size or last > _LAST:
            raise Errno(errno.EINVAL)
        first, end = bisect_left(self._starts, iova), bisect_right(self._starts, last)
        if first and self._mappings[self._starts[first - 1]].last >= iova:
            raise Errno(errno.EINVAL)
        if end > first and self._mappings[self._starts[end - 1]].last > last:
            raise Errno(errno.EINVAL)
        for start in self._starts[first:end]:
            self._let_go(self._mappings.pop(start))
        del self._starts[first:end]

    def clear(self) -> None:
        """Unmap all."""
        for mapping in self._mappings.values():
            self._let_go(mapping)
        self._mappings.clear()
        self._starts.clear()

    def _let_go(self, mapping: _Mapping) -> None:
        if mapping.key is not None:
            file = self._files[mapping.key]
            file.uses -= 1
            if not file.uses:
                del self._files[mapping.key]

    def _pieces(self, iova: int, size: int, need: int) -> Iterator[tuple[int, int, _Mapping]]:
        """Yield IOVA, size and mapping of each piece of a range.

        :raises Errno: ENOENT, nothing is mapped there; EPERM, the mapping does not permit this access
        """
        end = iova + size
        while iova < end:
            at = bisect_right(self._starts, iova) - 1
            mapping = self._mappings[self._starts[at]] if at >= 0 else None
            if mapping is None or mapping.last < iova:
                raise Errno(errno.ENOENT)
            if not mapping.flags & need:
                raise Errno(errno.EPERM)
            count = min(end, mapping.last + 1) - iova
            yield iova, count, mapping
            iova += count

    def at_once(self, iova: int, size: int) -> bool:
        """Whether a range lies in one shared mapping. Other ranges are accessed page by page, so that the client's IOMMU sees each page."""
        at = bisect_right(self._starts, iova) - 1
        if at < 0:
            return False
        mapping = self._mappings[self._starts[at]]
        return mapping.memory is not None and iova + size - 1 <= mapping.last

    def read(self, iova: int, size: int) -> bytes:
        """Read the client's memory."""
        if not self._share:
            return self.messages.read(iova, size)
        parts = []
        for at, count, mapping in self._pieces(iova, size, DMA_READABLE):
            if mapping.memory is None:
                parts.append(self.messages.read(at, count))
            else:
                begin = mapping.offset + at - mapping.start
                parts.append(mapping.memory[begin : begin + count])
        return b"".join(parts)

    def write(self, iova: int, data: bytes) -> None:
        """Write to the client's memory."""
        if not self._share:
            self.messages.write(iova, data)
            return
        for at, count, mapping in self._pieces(iova, len(data), DMA_WRITABLE):
            part = data[at - iova : at - iova + count]
            if mapping.memory is None:
                self.messages.write(at, part)
            else:
                begin = mapping.offset + at - mapping.start
                mapping.memory[begin : begin + count] = part

    def writable(self) -> Iterator[tuple[int, int]]:
        """Yield the first and last address of each mapping that the device may write."""
        for start in self._starts:
            mapping = self._mappings[start]
            if mapping.flags & DMA_WRITABLE:
                yield start, mapping.last
