# SPDX-License-Identifier: MIT
"""Failures on demand: the n-th call of a kind fails."""

from __future__ import annotations

import errno

from pyvfio.mock.machine.errno import Errno

KINDS = (
    "LOG_START", "LOG_STOP", "LOG_REPORT", "DMA", "RESET", "REGION_READ", "REGION_WRITE", "REGION_MMAP", "GET_INFO",
    "REGION_INFO", "IRQ_INFO", "SET_IRQS", "OPEN", "PIN", "MIG_SET_STATE", "MIG_GET_STATE", "MIG_DATA_SIZE", "MIG_READ",
    "MIG_WRITE", "MIG_PRECOPY_INFO",
)  # fmt: skip
#: offset of the registers, and bytes of the four 32-bit registers of each kind
START, SIZE = 0x400, 0x10
END = START + len(KINDS) * SIZE
_NTH, _ERRNO, _CALLS, _FIRED = 0x0, 0x4, 0x8, 0xC
_LARGEST_ERRNO = 4095


class _Failure:
    __slots__ = ("calls", "error", "fired", "nth")

    def __init__(self) -> None:
        self.nth = 0
        self.error = errno.EIO
        self.calls = 0
        self.fired = 0


class Failures:
    """The failure registers of each kind of call: the call that fails, its errno, numbers of calls and failures."""

    def __init__(self) -> None:
        self._of = {kind: _Failure() for kind in KINDS}

    def reset(self) -> None:
        """Reset all kinds at open, except OPEN itself, which was checked before."""
        self._of = {kind: self._of[kind] if kind == "OPEN" else _Failure() for kind in KINDS}

    def check(self, kind: str) -> None:
        """Count a call.

        :raises Errno: the planned failure
        """
        failure = self._of[kind]
        failure.calls += 1
        if failure.nth:
            failure.nth -= 1
            if not failure.nth:
                failure.fired += 1
                raise Errno(failure.error)

    def read(self, offset: int) -> int:
        """Read a failure register.

        :param offset: offset in the register region
        :raises Errno: EINVAL
        """
        failure, register = self._at(offset)
        values = {_NTH: failure.nth, _ERRNO: failure.error, _CALLS: failure.calls, _FIRED: failure.fired}
        if register not in values:
            raise Errno(errno.EINVAL)
        return values[register]

    def write(self, offset: int, value: int) -> None:
        """Write a failure register.

        :raises Errno: EINVAL
        """
        failure, register = self._at(offset)
        if register == _NTH:
            failure.nth = value
        elif register == _ERRNO and 0 < value <= _LARGEST_ERRNO:
            failure.error = value
        else:
            raise Errno(errno.EINVAL)

    def _at(self, offset: int) -> tuple[_Failure, int]:
        index, register = divmod(offset - START, SIZE)
        return self._of[KINDS[index]], register
