# SPDX-License-Identifier: MIT
"""Memory for devices to read and write."""

from __future__ import annotations

import mmap
from typing import Any

from pyvfio import kernel as _kernel
from pyvfio._buffer import Buffer
from pyvfio._buffer import barrier as barrier
from pyvfio._buffer import pinned as _pinned
from pyvfio._core.arguments import integer, power_of_two, wrong_type
from pyvfio.kernel import Kernel
from pyvfio.uncopyable import Uncopyable

__all__ = ["PAGE_SIZE", "DmaBuffer", "barrier"]

#: bytes of a page of this process
PAGE_SIZE = mmap.PAGESIZE


class DmaBuffer(Buffer, Uncopyable):
    """Page-aligned anonymous memory, zeroed, never inherited by a forked child.

    It is a writable buffer of bytes, for `numpy.asarray` and `numpy.frombuffer`. There is nothing to close: the memory lives as long as this object, a view of it, or a mapping that refers to it.

    :param size: bytes, rounded up to whole pages
    :param huge: page size in bytes (2 MiB, 1 GiB) to take from the host's pool of huge pages; None for ordinary memory
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises OSError: ENOMEM when there is no memory, or the pool of huge pages is too small

    :ivar view: the memory as a writable memoryview of bytes
    :ivar address: its virtual address in this process
    :ivar size: bytes
    :ivar page_size: the page size in bytes that was asked for
    """

    __slots__ = ("__weakref__", "_memory", "address", "page_size", "size", "view")

    _stands_for = "memory at an address"

    def __init__(self, size: int, *, huge: int | None = None, kernel: Kernel | str | None = None) -> None:
        size = integer(size, "size", 1)
        if huge is not None and power_of_two(huge, "huge") <= PAGE_SIZE:
            raise ValueError(f"huge must be the size of a huge page, more than {PAGE_SIZE}, not {huge}")
        self.page_size = huge or PAGE_SIZE
        self.size = -(-size // self.page_size) * self.page_size
        try:
            memory = (_kernel.resolve(kernel)).memory(self.size, huge=huge)
        except OSError as error:
            if huge is not None:
                error.add_note(
                    f"{self.size // huge} huge pages of {huge >> 10} KiB are needed; see "
                    f"/sys/kernel/mm/hugepages/hugepages-{huge >> 10}kB/free_hugepages and write nr_hugepages there"
                )
            raise
        # Only this object refers to the mmap, so nobody can close it while a device uses the memory, even if all views are released.
        self._memory = memory
        self.address = address_of(memory)
        self.view = memoryview(memory)
        self._export(memory, self.address, self.size, 0, False, 1)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"DmaBuffer({self.size:#x} bytes at {self.address:#x})"


def pinned(buffer: Any, *, writable: bool) -> tuple[int, int, Any]:
    """Return the address and size of a buffer, and an object that keeps its memory in place (a bytearray cannot be resized).

    :raises BufferError: a device is to write it, and it is read-only
    :raises TypeError: it is not a contiguous buffer
    """
    try:
        return _pinned(buffer, writable)
    except TypeError:
        raise wrong_type(buffer, "buffer", "a DmaBuffer or another object with a contiguous buffer") from None
    except BufferError as error:
        if writable and memoryview(buffer).readonly:
            raise BufferError(
                f"{type(buffer).__name__} is read-only memory: a device cannot be allowed to write it; "
                "map with write=False, or map a DmaBuffer"
            ) from None
        raise BufferError(f"{type(buffer).__name__}: {error}") from None


def address_of(buffer: Any) -> int:
    """Return the address of a buffer's memory.

    The buffer's export is released before the return. CPython (3.11 to 3.13 at least) crashes when it collects a cycle with a
    memoryview that cffi still has an export of, as `ffi.from_buffer` would.
    """
    return _pinned(buffer, False)[0]
