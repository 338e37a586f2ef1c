"""Memory that is unmapped while others still point into it, which Python's own does not allow."""

from __future__ import annotations

import ctypes
import mmap
from types import TracebackType
from typing import Self

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 2, *[ctypes.c_int] * 2, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


class RawMemory:
    """mmap(2) and munmap(2) of shared memory.

    :param fd: of a file; -1 for memory of no file

    :ivar address: where it is
    :ivar size: bytes; as they are unmapped from the end on, fewer
    """

    def __init__(self, size: int, fd: int = -1) -> None:
        flags = mmap.MAP_SHARED | (mmap.MAP_ANONYMOUS if fd < 0 else 0)
        address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
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
