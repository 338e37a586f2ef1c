# SPDX-License-Identifier: MIT
"""Failures on demand: the n-th call, or the n-th of one kind, fails, is interrupted, or returns short."""

from __future__ import annotations

import errno as _errno

from pyvfio._core import arguments
from pyvfio.mock.machine.errno import Errno


class Failure:
    """A planned failure, as `Failures.fail` returns it.

    :ivar call: which calls count: a request's name (`VFIO_IOMMU_MAP_DMA`), another call's (`open`, `read`, `write`, `pread`, `pwrite`,
        `mmap`), or a kind of descriptor as in :mod:`pyvfio.abi` (`container`); None for all
    :ivar left: how many of them are left until it happens, which it does once; 0 when it has happened
    :ivar errno: what the call fails with; None for one that succeeds in part
    :ivar size: the bytes of that part
    """

    def __init__(self, call: str | None, nth: int, errno: int | None, size: int | None) -> None:
        self.call = None if call is None else arguments.string(call, "call")
        self.left = arguments.integer(nth, "nth", 1)
        self.errno = None if errno is None else arguments.integer(errno, "errno", 1)
        self.size = None if size is None else arguments.integer(size, "size", 0)

    def __repr__(self) -> str:
        what = f"{self.size} bytes" if self.errno is None else _errno.errorcode.get(self.errno, str(self.errno))
        return f"<Failure of {self.call or 'any call'}: {what}, {f'in {self.left} calls' if self.left else 'happened'}>"


class Failures:
    """The planned failures of a mock. A call that fails does nothing else. Calls count from when a failure is planned.

    :ivar planned: what has not happened yet
    """

    def __init__(self) -> None:
        self.planned: list[Failure] = []

    def fail(self, errno: int, *, call: str | None = None, nth: int = 1) -> Failure:
        """Let the n-th call fail.

        :param errno: the errno that it fails with
        :param call: which calls count: a request (`VFIO_IOMMU_MAP_DMA`), another call (`open`, `pread`, `mmap`), or a kind of descriptor
            (`container`); None for all
        :param nth: 1 for the next one
        :raises TypeError: an argument is of a wrong type
        :raises ValueError: nth or errno is less than 1
        """
        return self._plan(Failure(call, nth, errno, None))

    def interrupt(self, *, call: str | None = None, nth: int = 1) -> Failure:
        """Let a signal interrupt the n-th call: EINTR.

        :param call: which calls count, as for :meth:`fail`
        :param nth: 1 for the next one
        """
        return self.fail(_errno.EINTR, call=call, nth=nth)

    def shorten(self, size: int, *, call: str | None = None, nth: int = 1) -> Failure:
        """Let the n-th read or write move only so many bytes.

        :param size: bytes that are moved, at most
        :param call: which calls count, as for :meth:`fail`
        :param nth: 1 for the next one
        """
        return self._plan(Failure(call, nth, None, size))

    def clear(self) -> None:
        """Forget what is planned."""
        self.planned.clear()

    def _plan(self, failure: Failure) -> Failure:
        self.planned.append(failure)
        return failure

    def check(self, *names: str, size: int | None = None) -> int | None:
        """Count a call, and return how many of its bytes are moved. The mock's own calls come here; not part of the API.

        :param names: the names that the call has
        :param size: bytes that it would move; None for a call that moves none
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
