# SPDX-License-Identifier: MIT
"""The parameters of the module vfio_mock: one set for all devices, read at each open."""

from __future__ import annotations

import errno
import uuid
from typing import TYPE_CHECKING

from pyvfio.mock.fs.sysfs import shown, text
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.parameter import Parameter
from pyvfio.mock.machine.profile import LogLimits

if TYPE_CHECKING:
    from pyvfio.mock.fs.tree import Tree

_ROOT = "/sys/module/vfio_mock/parameters"
#: bytes of a UUID and a newline
_TOKEN_SIZE = 37


class Parameters:
    """The files below /sys/module/vfio_mock/parameters.

    :param limits: initial values of `log_*`
    :ivar token: the VF token as written, including surrounding whitespace
    """

    def __init__(self, tree: Tree, limits: LogLimits) -> None:
        def writable(name: str, value: int, bits: int = 32) -> Parameter:
            return Parameter(tree, "vfio_mock", name, value, bits)

        self.token = ""
        self._ranges = writable("log_max_ranges", limits.ranges)
        self._overflow = writable("log_overflow", int(limits.refuse))
        self._page_min = writable("log_page_min", limits.page_size_min, 64)
        self._page_max = writable("log_page_max", limits.page_size_max, 64)
        self._size_min = writable("log_size_min", limits.log2_size_min)
        self._size_max = writable("log_size_max", limits.log2_size_max)
        tree.add(f"{_ROOT}/token", shown(lambda: self.token, self._set_token))
        for name, value in (
            ("devices", 2),
            ("memory", 1 << 20),
            ("msi", 4),
            ("msix", 8),
            ("migration", 7),
            ("reset_set", 1),
        ):
            tree.add(f"{_ROOT}/{name}", text(value))

    @property
    def limits(self) -> LogLimits:
        """The limits of a device's log, which a device takes over at its open."""
        return LogLimits(
            ranges=max(self._ranges.value, 1),
            refuse=bool(self._overflow.value),
            log2_size_min=min(self._size_min.value, 64),
            log2_size_max=min(self._size_max.value, 64),
            page_size_min=_power_of_two(self._page_min.value),
            page_size_max=_power_of_two(self._page_max.value),
        )

    def _set_token(self, data: bytes) -> None:
        if len(data) > _TOKEN_SIZE:
            raise Errno(errno.ENOSPC)
        self.token = data.decode("ascii", "replace")

    def check_token(self, given: bytes | None) -> None:
        """Check the VF token of a program that opens a device; None: it gave none.

        :raises Errno: EACCES, the token is missing or wrong; EINVAL, no token is required, or the parameter is not a
            UUID
        """
        if not self.token.strip():
            if given is not None:
                raise Errno(errno.EINVAL)
            return
        try:
            wanted = uuid.UUID(self.token.strip()).bytes
        except ValueError:
            raise Errno(errno.EINVAL) from None
        if given != wanted:
            raise Errno(errno.EACCES)


def _power_of_two(size: int) -> int:
    return 4096 if size < 4096 else 1 << size.bit_length() - 1
