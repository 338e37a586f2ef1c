# SPDX-License-Identifier: MIT
"""Memory that can be unmapped while something still refers to it, which Python's mmap objects do not allow."""

from __future__ import annotations

import ctypes
import mmap
from types import TracebackType
from typing import Self

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 2, *[ctypes.c_int] * 2, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FIXED_NOREPLACE = 0x10_0000
_FAILED = ctypes.c_void_p(-1).value


class RawMemory:
    """Shared memory by mmap(2) and munmap(2).

    :param fd: descriptor of the file to map from `offset` on; -1 for anonymous memory
    :param aligned_to: choose an address that is a multiple of this, plus `but_for`

    :ivar address: its address
    :ivar size: its size in bytes; :meth:`shrink` reduces it
    """

    def __init__(self, size: int, fd: int = -1, offset: int = 0, *, aligned_to: int = 1, but_for: int = 0) -> None:
        flags = mmap.MAP_SHARED | (mmap.MAP_ANONYMOUS if fd < 0 else 0)
        place = None
        if aligned_to > 1:
            # Reserve an area that is large enough to contain a suitable address, and release it before the address is
            # used.
            length = size + aligned_to + but_for
            reserved = _libc.mmap(None, length, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
            assert reserved not in (None, _FAILED)
            place = reserved + -reserved % aligned_to + but_for
            assert _libc.munmap(reserved, length) == 0
            flags |= _MAP_FIXED_NOREPLACE
        address = _libc.mmap(place, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, offset)
        assert address not in (None, _FAILED)
        self.address: int = address
        self.size = size

    def shrink(self, size: int) -> None:
        """Unmap all but the first `size` bytes."""
        if size < self.size:
            assert _libc.munmap(self.address + size, self.size - size) == 0
            self.size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shrink(0)
