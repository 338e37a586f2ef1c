# SPDX-License-Identifier: MIT
"""Failures on demand: the n-th call, or the n-th of one kind, fails, is interrupted, or returns short."""

from __future__ import annotations

import errno as _errno

from pyvfio.mock.machine.errno import Errno


class Failure:
    """One that is planned.

    :ivar call: which calls count: a request's name (`VFIO_IOMMU_MAP_DMA`), another call's (`open`, `read`, `write`, `pread`, `pwrite`,
        `mmap`), or a kind of descriptor as in :mod:`pyvfio.abi` (`container`); None for all
    :ivar left: how many of them are left until it happens, which it does once; 0 when it has happened
    :ivar errno: what the call fails with; None for one that succeeds in part
    :ivar size: the bytes of that part
    """

    def __init__(self, call: str | None, nth: int, errno: int | None, size: int | None) -> None:
        if nth < 1:
            raise ValueError(f"the first call is number 1, not {nth}")
        self.call = call
        self.left = nth
        self.errno = errno
        self.size = size

    def __repr__(self) -> str:
        what = f"{self.size} bytes" if self.errno is None else _errno.errorcode.get(self.errno, str(self.errno))
        return f"<Failure of {self.call or 'any call'}: {what}, {f'in {self.left} calls' if self.left else 'happened'}>"


class Failures:
    """A planned failure; a failed call does nothing else. Calls count from when a failure is planned.

    :ivar planned: what has not happened yet
    """

    def __init__(self) -> None:
        self.planned: list[Failure] = []

    def fail(self, errno: int, *, call: str | None = None, nth: int = 1) -> Failure:
        """Let the n-th call fail; see :class:`Failure` for `call`."""
        return self._plan(Failure(call, nth, errno, None))

    def interrupt(self, *, call: str | None = None, nth: int = 1) -> Failure:
        """Let a signal interrupt the n-th call: EINTR."""
        return self.fail(_errno.EINTR, call=call, nth=nth)

    def shorten(self, size: int, *, call: str | None = None, nth: int = 1) -> Failure:
        """Let the n-th read or write move only so many bytes."""
        return self._plan(Failure(call, nth, None, size))

    def clear(self) -> None:
        """Forget what is planned."""
        self.planned.clear()

    def _plan(self, failure: Failure) -> Failure:
        self.planned.append(failure)
        return failure

    def check(self, *names: str, size: int | None = None) -> int | None:
        """A call of these names, of so many bytes; returns how many are moved.

        :raises Errno: it is to fail
        """
        for failure in list(self.planned):
            if failure.call is not None and failure.call not in names:
                continue
            if failure.errno is None and size is None:
                continue  # only what moves bytes can be short
            failure.left -= 1
            if failure.left:
                continue
            self.planned.remove(failure)
            if failure.errno is not None:
                raise Errno(failure.errno)
            if size is not None and failure.size is not None:
                size = min(size, failure.size)
        return size
