# SPDX-License-Identifier: MIT
"""Failures on demand: the n-th call, or the n-th of one kind, fails, is interrupted, or returns short."""

from __future__ import annotations

import errno as _errno

from pyvfio._core import arguments
from pyvfio.mock.machine.errno import Errno


class Failure:
    """A planned failure, as `Failures.fail` returns it.

    :ivar call: the calls to count: the name of an ioctl (`VFIO_IOMMU_MAP_DMA`) or of another call (`open`, `read`,
        `write`, `pread`, `pwrite`, `mmap`), or a kind of descriptor as in :mod:`pyvfio.abi` (`container`); None: all
        calls
    :ivar left: number of calls until the failure, which happens once; 0 after it has happened
    :ivar errno: the errno of the failing call; None for a short transfer
    :ivar size: bytes of a short transfer; None for a failing call
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
    """The planned failures of a mock.

    A failing call has no other effect. Calls are counted from the moment a failure is planned.

    :ivar planned: the failures that have not happened yet
    """

    def __init__(self) -> None:
        self.planned: list[Failure] = []

    def fail(self, errno: int, *, call: str | None = None, nth: int = 1) -> Failure:
        """Let the n-th call fail.

        :param errno: the errno of the call
        :param call: the calls to count: an ioctl (`VFIO_IOMMU_MAP_DMA`), another call (`open`, `pread`, `mmap`), or a
            kind of descriptor (`container`); None: all calls
        :param nth: 1 for the next call
        :raises TypeError: an argument has a wrong type
        :raises ValueError: nth or errno is less than 1
        """
        return self._plan(Failure(call, nth, errno, None))

    def interrupt(self, *, call: str | None = None, nth: int = 1) -> Failure:
        """Let a signal interrupt the n-th call: EINTR.

        :param call: the calls to count, as for :meth:`fail`
        :param nth: 1 for the next call
        """
        return self.fail(_errno.EINTR, call=call, nth=nth)

    def shorten(self, size: int, *, call: str | None = None, nth: int = 1) -> Failure:
        """Let the n-th read or write transfer at most `size` bytes.

        :param size: maximum bytes to transfer
        :param call: the calls to count, as for :meth:`fail`
        :param nth: 1 for the next call
        """
        return self._plan(Failure(call, nth, None, size))

    def clear(self) -> None:
        """Discard all planned failures."""
        self.planned.clear()

    def _plan(self, failure: Failure) -> Failure:
        self.planned.append(failure)
        return failure

    def check(self, *names: str, size: int | None = None) -> int | None:
        """Count a call, and return the number of bytes that it may transfer. For the mock itself; not part of the API.

        :param names: the names of the call
        :param size: bytes that it would transfer; None for a call without a transfer
        :raises Errno: the planned failure
        """
        for failure in list(self.planned):
            if failure.call is not None and failure.call not in names:
                continue
            if failure.errno is None and size is None:
                continue  # only a transfer can be short
            failure.left -= 1
            if failure.left:
                continue
            self.planned.remove(failure)
            if failure.errno is not None:
                raise Errno(failure.errno)
            if size is not None and failure.size is not None:
                size = min(size, failure.size)
        return size
