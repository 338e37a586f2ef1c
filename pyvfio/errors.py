# SPDX-License-Identifier: MIT
"""The exceptions that pyvfio raises on purpose, and how they relate.

All of them are :class:`Error`, and so :class:`OSError` with an errno; wrong arguments alone raise :class:`TypeError` and
:class:`ValueError`. All of them pickle.

====================  ============  =================================================================================
class                 errno         meaning
====================  ============  =================================================================================
`RequestError`        the kernel's  the kernel refused a request or a system call; it is also the subclass that Python
                                    has for the errno (:class:`PermissionError`, :class:`FileExistsError`, ...)
`HostError`           the kernel's  a device, group or driver of the host is not in the required state, or sysfs refused a
                                    read or write; a `RequestError`
`Unsupported`         EOPNOTSUPP    the device, the kernel or the mode in use lacks the feature; if a request showed that,
                                    the errno is the kernel's
`InvalidRequest`      EINVAL        the library refuses a request that the kernel would accept; a :class:`ValueError` too
`Closed`              EBADF         the object, or the parent that it lives in, has been closed
`NotViable`           EPERM         the group has devices that are bound to other drivers
`BadReply`            EPROTO        the kernel's answer breaks the kernel's own ABI
====================  ============  =================================================================================
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

__all__ = [
    "BadReply",
    "Closed",
    "Error",
    "HostError",
    "InvalidRequest",
    "NoIommuWarning",
    "NotViable",
    "RequestError",
    "Unsupported",
    "errno_name",
]


def errno_name(number: int) -> str:
    """Return the name of an errno as the kernel's documentation has it; the number if it has none.

    The C library has one number for EOPNOTSUPP and ENOTSUP, and Python knows it by the second.

    :param number: the errno
    """
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, str(number))


class Error(OSError):
    """Base of all exceptions that pyvfio raises on purpose. Its text is :attr:`strerror`."""

    _errno: ClassVar[int] = errno.EIO

    def __new__(cls, *args: Any) -> Self:
        return super().__new__(cls, *(args if len(args) > 1 else (cls._errno, *args)))

    def __str__(self) -> str:
        return str(self.strerror)


class RequestError(Error):
    """The kernel refused a request (an ioctl), or another system call on one of its files.

    It is also an instance of the subclass of OSError that Python has for its errno. The text has all the information; the attributes
    are for programs. Notes of the exception (:attr:`__notes__`) repeat the advice.

    :ivar request: the name of the request, with its operation if it has several: `VFIO_DEVICE_FEATURE SET DMA_LOGGING_START`; of
        another system call its own name: `open`, `pread`, `mmap`
    :ivar arguments: name -> value of the request's arguments
    :ivar reason: why the kernel refused the request; None if unknown
    :ivar advice: what to do next, a sentence or a command in each
    """

    request: str
    arguments: dict[str, object]
    reason: str | None
    advice: tuple[str, ...]

    def __new__(
        cls,
        number: int,
        text: str,
        request: str = "",
        arguments: Mapping[str, object] | None = None,
        reason: str | None = None,
        advice: tuple[str, ...] = (),
    ) -> Self:
        self: Self = super().__new__(_with_base(cls, type(OSError(number, ""))), number, text)
        self.request = request
        self.arguments = dict(arguments or {})
        self.reason = reason
        self.advice = tuple(advice)
        return self

    def __str__(self) -> str:
        return OSError.__str__(self)

    def __reduce__(self) -> tuple[Callable[..., RequestError], tuple[Any, ...], dict[str, Any]]:
        what = (self.errno, self.strerror, self.request, self.arguments, self.reason, self.advice)
        return RequestError, what, self.__dict__


class HostError(RequestError):
    """A device, group or driver of the host is not in the required state, or sysfs refused a read or write.

    :attr:`reason` and :attr:`advice` are those of a finding of :mod:`pyvfio.host.diagnosis`, where one fits.
    """

    def __reduce__(self) -> tuple[Callable[..., RequestError], tuple[Any, ...], dict[str, Any]]:
        _, what, state = super().__reduce__()
        return HostError, what, state


_with_bases: dict[tuple[type, type], Any] = {}


def _with_base(cls: type, base: type) -> Any:
    """Return the class that derives from both `cls` and `base`, made once for each pair."""
    if issubclass(cls, base):
        return cls
    if (found := _with_bases.get((cls, base))) is None:
        name = f"{base.__name__.removesuffix('Error')}{cls.__name__}"
        body = {"__module__": cls.__module__, "__doc__": cls.__doc__}
        found = _with_bases.setdefault((cls, base), type(name, (cls, base), body))
    return found


class Closed(Error):
    """The object, or the parent that it lives in, has been closed."""

    _errno = errno.EBADF


class Unsupported(Error):
    """The device, the kernel, or the mode in use lacks the feature that was asked for."""

    _errno = errno.EOPNOTSUPP


class NotViable(Error):
    """The group cannot be used: some of its devices are bound to a driver that is not VFIO's.

    :ivar group: the group's number
    :ivar members: address -> driver, or None where no driver is bound, of every device in the group
    """

    _errno = errno.EPERM

    group: int
    members: dict[str, str | None]

    def __new__(cls, message: str, group: int = -1, members: dict[str, str | None] | None = None) -> Self:
        self = super().__new__(cls, message)
        self.group = group
        self.members = members or {}
        return self

    def __reduce__(self) -> tuple[type[NotViable], tuple[Any, ...], dict[str, Any]]:
        return NotViable, (self.strerror, self.group, self.members), self.__dict__


class BadReply(Error):
    """The kernel's answer breaks the kernel's own ABI, for example a capability chain that never ends."""

    _errno = errno.EPROTO


class NoIommuWarning(UserWarning):
    """A device without an IOMMU is opened; its DMA reaches all memory."""


class InvalidRequest(Error, ValueError):
    """The library refuses a request that the kernel would accept, because it would lose data or report something untrue.

    Examples are a page size that is not a power of two, a dirty report outside the logged ranges, and a register access that is not
    aligned. Its errno is the one that the kernel should have returned: EINVAL, unless the method documents another.
    """

    _errno = errno.EINVAL
