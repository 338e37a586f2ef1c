"""The few exceptions that have no errno.

A call that the kernel refuses raises a plain :class:`OSError` (Python picks :class:`PermissionError`,
:class:`FileExistsError`, ... by errno). The classes here are for what no errno exists: nothing was asked of the kernel, or
it gave an answer that its own ABI rules out. All of them pickle.
"""

from __future__ import annotations

import errno
from typing import Any, Self


class Error(Exception):
    """Base of what pyvfio raises on its own account."""


class Closed(Error):
    """The object, or the parent that it lives in, has been closed."""


class Unsupported(Error):
    """The device, the kernel, or the mode in use does not have what was asked for."""


class NotInMode(Unsupported, AttributeError):
    """An address space of another mode can do that; the text says which."""


class NotViable(Error):
    """The group cannot be used: some of its devices are bound to a driver that is not VFIO's.

    :ivar group: the group's number
    :ivar members: address -> driver name, or None where no driver is bound, of every device in the group
    """

    def __init__(self, message: str, group: int = -1, members: dict[str, str | None] | None = None) -> None:
        super().__init__(message, group, members)
        self.group = group
        self.members = members or {}

    def __str__(self) -> str:
        return str(self.args[0])


#: why there is no /dev/iommu
NO_IOMMUFD = "this kernel has no iommufd (Linux 6.2 has it, built with CONFIG_IOMMUFD; module iommufd)"


class BadReply(Error):
    """The kernel's answer breaks the kernel's own ABI, for example a capability chain that never ends."""


class NoIommuWarning(UserWarning):
    """A device is opened that no IOMMU holds back."""


class InvalidRequest(Error, OSError, ValueError):
    """The library refuses what the kernel would let pass, because it would lose data or say nothing true.

    A page size that is no power of two, a dirty report outside the logged ranges, a register access that is not aligned, and the
    like. It is an OSError with the errno that the kernel should have given, EINVAL.
    """

    def __new__(cls, *args: Any) -> Self:
        return super().__new__(cls, *(args if len(args) > 1 else (errno.EINVAL, *args)))
