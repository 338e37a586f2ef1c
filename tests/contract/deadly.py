# SPDX-License-Identifier: MIT
"""Kill a program just before or after its n-th call to the kernel: without sleeps, and at the same place each time."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pyvfio._abi import ffi
from pyvfio.kernel import LinuxKernel, python_ioctl
from tests.contract.processes import in_another_process

#: Time limit of a program, in seconds.
LIMIT = 240
_COUNTED = ("write_file", "write", "pwrite", "create", "unlink", "truncate", "chown", "flock", "open", "close")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


class DeadlyKernel(LinuxKernel):
    """The real kernel, which kills its process at a point: 2n is before the n-th call (from 0) to the kernel, 2n + 1 after it.

    :ivar at: the point; None for never
    :ivar reached: shared memory that holds the number of finished calls
    """

    def __init__(self, at: int | None, reached: mmap.mmap) -> None:
        self.at = at
        self.reached = reached
        self.calls = 0
        for name in _COUNTED:
            setattr(self, name, partial(self._counted, getattr(self, name)))

    def door(self, fd: int, kind: str) -> Any:
        """Return a struct pyvfio_door whose ioctls go through :meth:`ioctl`."""
        return ffi.new("pyvfio_door *", (python_ioctl, ffi.cast("void *", id(self)), fd))

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        """Execute an ioctl, and count it as a call."""
        return int(self._counted(self._ioctl, fd, request, argument))

    def _ioctl(self, fd: int, request: int, argument: int) -> int:
        answer = int(_libc.ioctl(fd, request, argument))
        return answer if answer >= 0 else -ctypes.get_errno()

    def _counted(self, call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        self._die_at(2 * self.calls)
        answer = call(*arguments, **more)
        self._die_at(2 * self.calls + 1)
        self.calls += 1
        self.reached[:8] = self.calls.to_bytes(8, "little")
        return answer

    def _die_at(self, point: int) -> None:
        if point == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_at(program: Callable[[DeadlyKernel], object], points: int) -> Iterator[str]:
    """Kill a program at a number of points, evenly distributed over its calls to the kernel.

    Yield after each, so that the caller can check.

    First the program runs to its end, to count its calls. The function yields after that run too.
    """
    reached = mmap.mmap(-1, mmap.PAGESIZE)
    with in_another_process(partial(program, DeadlyKernel(None, reached))) as whole:
        assert whole.join(LIMIT) == 0
    calls = int.from_bytes(reached[:8], "little")
    assert 2 * calls >= points
    yield "its end"
    for index in range(points):
        at = 2 * calls * index // points
        with in_another_process(partial(program, DeadlyKernel(at, reached))) as victim:
            assert victim.join(LIMIT) == -signal.SIGKILL, f"point {at} of {2 * calls} was not reached"
        yield f"{at} of {2 * calls}"
