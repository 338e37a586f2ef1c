# SPDX-License-Identifier: MIT
"""Requests to the kernel: each is declared once, and made in one way.

A declaration stands beside the method that makes the request. It has the request's name, which gives its number, its C struct, the
errnos that it is documented to return, and the reason for each. :meth:`Request.send` makes the request::

    SET_CONTAINER = Request("VFIO_GROUP_SET_CONTAINER", "group", errnos={errno.EINVAL: "the group is in a container already"})

    SET_CONTAINER.send(self._fd, ffi.new("int32_t *", number), {"container": number})

It calls the function that the descriptor's door has for ioctls (`pyvfio_door` in cdefs/native.h), repeats the call after a signal, and
raises the exception if the kernel refuses. The requests that map and unmap are made in C (cdefs/map_dma.c), and system calls such as open are made by
the kernel object; for these too :meth:`Call.refused` makes the exception.

Some requests are several operations with one number, each with errnos of its own: VFIO_DEVICE_FEATURE has one for each feature.
:meth:`Request.operation` declares one of them. :data:`DECLARED` has all declarations; :mod:`pyvfio.abi` lists them by kind of descriptor.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from pyvfio._abi import ffi, lib
from pyvfio._buffer import Object
from pyvfio._core import text
from pyvfio._core.fd import Fd, Received
from pyvfio.errors import Error, RequestError, Unsupported, errno_name
from pyvfio.host.diagnosis import Finding


class Reason(NamedTuple):
    """The reason why the kernel refused a call, and what to do next.

    :ivar text: one line for the message; None where only advice can be given
    :ivar advice: a sentence or a command in each
    :ivar unsupported: the kernel, the device or the mode lacks the request, so the exception is :class:`pyvfio.Unsupported`
    """

    text: str | None
    advice: tuple[str, ...] = ()
    unsupported: bool = False

    @classmethod
    def of(cls, finding: Finding, *more: str) -> Reason:
        """Return a reason with the text and the cure of a finding of the catalogue, followed by more advice."""
        return cls(finding.reason, (*([finding.cure] if finding.cure else []), *more))


#: The reason for an errno: a text, a finding of the catalogue (:mod:`pyvfio.host.diagnosis`), or a function that returns one of them for
#: the facts that the caller gives, most often a NamedTuple of plain values. None where the errno's own words say it.
Explanation: TypeAlias = "str | Reason | Finding | Callable[[Any], Reason | Finding | None] | None"
Arguments: TypeAlias = Mapping[str, object]
#: a function that returns the facts for a reason, given the errno; it is called only for a call that was refused
Facts: TypeAlias = Callable[[int], Any]

#: called with each refusal while a trace is on
refusal: Callable[[RequestError], None] | None = None
#: name with operation -> declaration
DECLARED: dict[str, Request] = {}
_NONE: dict[Any, Any] = {}


class Call:
    """A call to the kernel, and the meaning of its errnos. A declaration cannot be changed.

    :ivar name: the name of the request or system call
    :ivar errnos: the documented errnos, with their reasons
    :ivar otherwise: further errnos whose reasons are known
    :ivar default: the reason for all other errnos
    """

    # Not a dataclass: every program loads this module, and the import of dataclasses, and of inspect with it, takes long.
    __slots__ = ("default", "errnos", "name", "otherwise")
    #: between the name and the object in messages
    between = " "

    name: str
    errnos: Mapping[int, Explanation]
    otherwise: Mapping[int, Explanation]
    default: Explanation

    def __init__(
        self,
        name: str,
        *,
        errnos: Mapping[int, Explanation] = _NONE,
        otherwise: Mapping[int, Explanation] = _NONE,
        default: Explanation = None,
    ) -> None:
        self._declare(name=name, errnos=errnos, otherwise=otherwise, default=default)

    def _declare(self, **fields: Any) -> None:
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self!r} is a declaration: it cannot be changed")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    @property
    def label(self) -> str:
        """The name for messages."""
        return self.name

    def refused(self, where: str, number: int, arguments: Arguments = _NONE, facts: Facts | None = None) -> Error:
        """Return the exception for a call that the kernel refused. No other code makes one.

        If finding the reason fails, the exception has none.

        :param where: the file or device that the call was made on, for the message
        :param number: the errno
        :param arguments: the arguments of the call, for the message
        :param facts: returns the facts for a reason that is a function
        """
        reason = Reason(None)
        with suppress(Exception):
            reason = self._reason(number, facts) or reason
        what = text.arguments(arguments)
        if reason.unsupported:
            missing = Unsupported(number, f"{reason.text} ({self.label}{self.between}{where}: {errno_name(number)})")
            for line in reason.advice:
                missing.add_note(line)
            return missing
        message = f"{self.label}{self.between}{where}{f' ({what})' if what else ''}: {os.strerror(number)}"
        if reason.text:
            message += f": {reason.text}"
        error = RequestError(number, message, self.label, arguments, reason.text, reason.advice)
        for line in reason.advice:
            error.add_note(line)
        if refusal is not None:
            refusal(error)
        return error

    def _reason(self, number: int, facts: Facts | None) -> Reason | None:
        found = self._explanation(number)
        if callable(found):
            found = found(facts(number) if facts is not None else None)
        if isinstance(found, str):
            return Reason(found)
        return Reason.of(found) if isinstance(found, Finding) else found

    def _explanation(self, number: int) -> Explanation:
        if number in self.errnos:
            return self.errnos[number]
        return self.otherwise.get(number, self.default)

    @contextmanager
    def explained(self, where: str, arguments: Arguments = _NONE, facts: Facts | None = None) -> Iterator[None]:
        """Make a system call in a `with`: its OSError becomes the exception of this call."""
        try:
            yield
        except OSError as error:
            raise self.explain(where, error, arguments, facts) from None

    def explain(self, where: str, error: OSError, arguments: Arguments = _NONE, facts: Facts | None = None) -> Error:
        """Return the exception for an OSError of a system call; one of the library's own, such as Closed, as it is."""
        return error if isinstance(error, Error) else self.refused(where, error.errno or errno.EIO, arguments, facts)


class Request(Call):
    """An ioctl, or one operation of an ioctl.

    :ivar kind: the kind of descriptor that takes it: `container`, `group`, `device`, `migration` or `iommufd`
    :ivar struct: the C type of its argument, which starts with its own size; None for an argument of another kind
    :ivar detail: the operation; empty for a request without operations
    :ivar tell: a function that returns the operation, given a pointer to the struct; None for a request without operations
    :ivar documented: whether the tests must see it succeed on a real kernel, and fail with each of its errnos
    :ivar succeeds: False if it can only fail
    :ivar number: the ioctl's number
    """

    __slots__ = ("detail", "documented", "kind", "number", "struct", "succeeds", "tell")
    between = " on "

    kind: str
    struct: str | None
    detail: str
    tell: Callable[[Any], str] | None
    documented: bool
    succeeds: bool
    number: int

    def __init__(
        self,
        name: str,
        kind: str,
        struct: str | None = None,
        *,
        errnos: Mapping[int, Explanation] = _NONE,
        otherwise: Mapping[int, Explanation] = _NONE,
        default: Explanation = None,
        detail: str = "",
        tell: Callable[[Any], str] | None = None,
        documented: bool = True,
        succeeds: bool = True,
    ) -> None:
        super().__init__(name, errnos=errnos, otherwise=otherwise, default=default)
        self._declare(kind=kind, struct=struct, detail=detail, tell=tell, documented=documented, succeeds=succeeds)
        self._declare(number=getattr(lib, name))
        if DECLARED.setdefault(self.label, self) is not self:
            raise ValueError(f"{self.label} is declared twice; use the declaration beside the method that makes it")

    @property
    def label(self) -> str:
        """The name of the request, with the operation."""
        return f"{self.name} {self.detail}" if self.detail else self.name

    def operation(
        self,
        detail: str,
        *,
        errnos: Mapping[int, Explanation] = _NONE,
        otherwise: Mapping[int, Explanation] = _NONE,
        default: Explanation = None,
        documented: bool = True,
        succeeds: bool = True,
    ) -> Request:
        """Declare an operation of this request. An errno that it does not document has the meaning that the request declares."""
        return Request(
            self.name,
            self.kind,
            self.struct,
            errnos=errnos,
            otherwise={**self.otherwise, **self.errnos, **otherwise},
            default=self.default if default is None else default,
            detail=detail,
            documented=documented,
            succeeds=succeeds,
        )

    def new(self, trailing: int = 0, *, until: str | None = None, **fields: Any) -> Any:
        """Return a pointer to a zeroed struct with its size and the given fields filled in.

        :param trailing: bytes behind the struct, which count in its size
        :param until: count the size up to this field only, for kernels that do not know the field
        """
        if self.struct is None:
            raise TypeError(f"{self.label} takes no struct")
        memory = bytearray(ffi.sizeof(self.struct) + trailing)
        native = ffi.from_buffer(f"{self.struct} *", memory)
        setattr(native, _size_field(self.struct), len(memory) if until is None else ffi.offsetof(self.struct, until))
        for name, value in fields.items():
            setattr(native, name, value)
        return native

    def send(self, fd: Fd, argument: Any = ffi.NULL, arguments: Arguments = _NONE, facts: Facts | None = None) -> int:
        """Make the request, and return its result.

        :param argument: a pointer, or NULL
        :param arguments: the arguments, for the message
        :param facts: see :meth:`refused`
        :raises Closed: the descriptor is closed
        :raises Unsupported: the errno means that the kernel or the device lacks the request
        :raises RequestError: the kernel refuses it
        """
        result = fd.ioctl(self.number, argument)
        if result < 0:
            raise self.error(fd, -result, arguments, facts)
        return result

    def receive(
        self,
        fd: Fd,
        argument: Any,
        *received: Received,
        arguments: Arguments = _NONE,
        facts: Facts | None = None,
    ) -> int:
        """Make a request that gives descriptors and ids to their owners, and return its result.

        No Python code runs between the kernel's answer and the ownership: see :meth:`Fd.receive`.

        :raises OSError: as :meth:`send`
        """
        result = fd.receive(self.number, argument, received)
        if result < 0:
            raise self.error(fd, -result, arguments, facts)
        return result

    def end(
        self, fd: Fd, argument: Any, ended: Object, arguments: Arguments = _NONE, facts: Facts | None = None
    ) -> None:
        """Make a request that destroys an object. No Python code runs between the kernel's answer and the record of it in `ended`.

        :raises OSError: as :meth:`send`; with ENOENT too the object is gone
        """
        result = ended.end(fd.door, self.number, int(ffi.cast("uintptr_t", argument)))
        if result < 0:
            raise self.error(fd, -result, arguments, facts)

    def call(self, fd: Fd, **fields: Any) -> Any:
        """Make the request with these fields of its struct, and return the struct as the kernel left it."""
        native = self.new(**fields)
        self.send(fd, native, fields)
        return native

    def error(self, fd: Fd, number: int, arguments: Arguments = _NONE, facts: Facts | None = None) -> Error:
        """Return the exception for a request that failed with an errno; Closed if the descriptor is closed."""
        return fd.closed_error() if fd.closed else self.refused(fd.name, number, arguments, facts)


def flag_words(words: Mapping[int, str]) -> Callable[[Any], str]:
    """Return a function for :attr:`Request.tell` that names the flags set in a struct."""
    return lambda native: " ".join(word for flag, word in words.items() if native.flags & flag)


@cache
def _size_field(struct: str) -> str:
    """Return the field that holds a struct's own size: its first, `argsz` or `size`."""
    first = (ffi.typeof(struct).fields or [("", None)])[0][0]
    if first not in ("argsz", "size"):
        raise TypeError(f"{struct} does not start with its size")
    return first
