# SPDX-License-Identifier: MIT
"""Make the n-th memory allocation of the real kernel fail, by /proc/thread-self/fail-nth.

Needs CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC and debugfs. The failure is armed just before an ioctl or an open, and
disarmed just after it. So only allocations of the kernel in these calls count, and none that Python's own system calls
cause.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pyvfio._abi import ffi, lib
from pyvfio.kernel import PythonKernel

_DEBUGFS = Path("/sys/kernel/debug")
#: With the kernel's defaults, only allocations that may not sleep fail, and no allocations of single pages.
_SETTINGS = {
    "failslab/ignore-gfp-wait": "N",
    "failslab/verbose": "0",
    "fail_page_alloc/ignore-gfp-wait": "N",
    "fail_page_alloc/ignore-gfp-highmem": "N",
    "fail_page_alloc/min-order": "0",
    "fail_page_alloc/verbose": "0",
}
#: More allocations than any call makes. A sweep that gets this far would never end.
_MOST = 5000

T = TypeVar("T")


@contextmanager
def every_allocation_may_fail() -> Iterator[None]:
    """Make `fail-nth` count allocations of every kind during the block."""
    before = {name: (_DEBUGFS / name).read_text().strip() for name in _SETTINGS}
    try:
        for name, value in _SETTINGS.items():
            (_DEBUGFS / name).write_text(value)
        yield
    finally:
        for name, value in before.items():
            (_DEBUGFS / name).write_text(value)


class Attempt:
    """A context manager: a block of calls in which one allocation fails. It catches the OSError that results.

    :ivar nth: number of the allocation that fails, from 1 on
    :ivar hit: whether the calls made that many allocations
    :ivar error: the OSError that was raised; None for none
    """

    def __init__(self, kernel: FailingKernel, nth: int) -> None:
        self._kernel = kernel
        self.nth = nth
        self.hit = False
        self.error: OSError | None = None

    def __enter__(self) -> Self:
        self._kernel.left = self.nth
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.hit = self._kernel.left == 0
        self._kernel.left = 0
        if self.hit and isinstance(error, OSError):
            self.error = error
            return True
        return False


class FailingKernel(PythonKernel):
    """The real kernel, in which one allocation fails.

    :param spared: requests whose allocations neither fail nor count

    :ivar left: number of allocations, over several calls, until the one that fails (1: the next one fails); 0 for none
    """

    def __init__(self, spared: Iterable[int] = ()) -> None:
        super().__init__()
        self._spared = frozenset(spared)
        self.left = 0

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        arguments = (ffi.NULL, fd, request, ffi.cast("void *", argument))
        if request in self._spared:
            return int(lib.pyvfio_linux_ioctl(*arguments))
        return int(self._armed(lib.pyvfio_linux_ioctl, *arguments))

    def open(self, path: str, flags: int = os.O_RDWR | os.O_CLOEXEC) -> int:
        return int(self._armed(os.open, path, flags))

    def _armed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if not self.left:
            return call(*arguments)
        # Open fail-nth here, in the thread that makes the call: the library makes the main thread's requests in another
        # thread.
        file = os.open("/proc/thread-self/fail-nth", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(file, b"%d" % self.left, 0)
            try:
                return call(*arguments)
            finally:
                self.left = int(os.pread(file, 16, 0))
                os.pwrite(file, b"0", 0)
        finally:
            os.close(file)

    def faults(self) -> Iterator[Attempt]:
        """Yield attempts in which the first allocation fails, then the second, and so on, until an attempt has fewer allocations."""
        for nth in itertools.count(1):
            assert nth < _MOST, "there is no end of allocations"
            attempt = Attempt(self, nth)
            yield attempt
            if not attempt.hit:
                return

    def sweep(self, action: Callable[[], T], undo: Callable[[T], object]) -> int:
        """Call `action` with each allocation failing in turn.

        If it succeeds nevertheless, call `undo`. Return the number of allocations.
        """
        for attempt in self.faults():
            with attempt:
                result = action()
            if attempt.error is None:
                undo(result)
        return attempt.nth - 1
