# SPDX-License-Identifier: MIT
"""The module's parameters, /sys/module/vfio_mock/parameters: one set for all devices, read at each open."""

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
#: of a UUID and a newline
_TOKEN_SIZE = 37


class Parameters:
    """
    :param limits: what `log_*` say at first
    :ivar token: as it was written, with what may be around it
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
        """Of logs, as a device takes them at its open."""
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
        """
        :raises Errno: EACCES, it is missing or wrong; EINVAL, nobody asked for one, or the parameter is no UUID
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
