# SPDX-License-Identifier: MIT
"""A trace, from its start to its file.

While a trace is on, the doors of all descriptors call native code (cdefs/trace.c) that appends a record of each request to a temporary
file. This module appends notes of opened and closed descriptors, of the reasons of refusals, and of accesses to regions.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from pyvfio import abi
from pyvfio._abi import ffi, lib
from pyvfio._core import fd as descriptors
from pyvfio._core import request as layer
from pyvfio._core.fd import Fd
from pyvfio.errors import RequestError
from pyvfio.kernel import python_ioctl
from pyvfio.tracing import events
from pyvfio.tracing.records import (
    ACCESS,
    ACCESS_DATA,
    ACCESSES,
    CLOSED,
    NAMED,
    OPENED,
    REFUSED,
    REQUEST,
    Record,
    operation,
    outcome,
    read_records,
)

_WRITE = layer.Call("write")
_LINUX = ffi.addressof(lib, "pyvfio_linux_ioctl")
_TRACED_LINUX = ffi.addressof(lib, "pyvfio_traced_linux")
_TRACED_PYTHON = ffi.addressof(lib, "pyvfio_traced_python")

_active: IO[bytes] | None = None
_begun = 0
_restored: list[tuple[type, str, Any]] = []


@contextmanager
def trace(file: str | os.PathLike[str]) -> Iterator[None]:
    """Trace the requests of a `with`, and write them to a file at its end.

    :param file: the path of the file
    :raises RuntimeError: a trace is on already
    """
    start()
    try:
        yield
    finally:
        stop(file)


def start(*, regions: bool = True, careful: bool = False) -> None:
    """Begin a trace; see :func:`trace`.

    :param regions: whether accesses to regions are traced too
    :param careful: whether requests may have bad addresses, as tests make them; the library's own methods never do
    """
    global _active, _begun
    if _active is not None:
        raise RuntimeError("a trace is on already: stop() ends it")
    _active = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (stop() closes it)
    lib.pyvfio_trace_begin(_active.fileno(), python_ioctl, careful)
    _begun = lib.pyvfio_trace_now()
    descriptors.connected, descriptors.closing = _connect, _note_close
    layer.refusal = _note_refusal
    for open_ in descriptors.live():
        _connect(open_)
    _regions.clear()
    for index, (kind, name) in enumerate(ACCESSES if regions else ()):
        _watch(index, kind, name)


class Outcome(NamedTuple):
    """A request and its result.

    :ivar kind: the kind of descriptor, as in :mod:`pyvfio.abi`
    :ivar operation: the operation of a request that has several; else empty
    :ivar result: `ok`, or the errno's name
    """

    kind: str
    request: str
    operation: str
    result: str


class Watch:
    """The requests of the trace that is on. Those that it returns are removed from the trace."""

    def __init__(self) -> None:
        self._files: dict[int, str] = {}

    def outcomes(self) -> set[Outcome]:
        """Return the different requests, with their results, since the last call."""
        if _active is None:
            raise RuntimeError("no trace is on: start() begins one")
        if error := lib.pyvfio_trace_flush():
            raise _WRITE.refused("the records of the trace", -error)
        found = set()
        with os.fdopen(os.dup(_active.fileno()), "rb") as file:
            file.seek(0)
            for record in read_records(file):
                if record.what == OPENED:
                    self._files[record.fd] = record.before.decode(errors="surrogateescape").partition("\0")[0]
                elif record.what == REQUEST:
                    found.add(self._outcome(record))
            # Drop the records that were read. The native code writes at the same file offset, so it starts at 0 again.
            file.seek(0)
            os.ftruncate(file.fileno(), 0)
        return found

    def _outcome(self, record: Record) -> Outcome:
        kind = self._files.get(record.fd, "")
        result = "ok" if record.result >= 0 else str(outcome(record.result))
        return Outcome(kind, abi.name(kind, record.request), operation(kind, record.request, record.before), result)


def stop(file: str | os.PathLike[str]) -> None:
    """End the trace, and write it to a file.

    :param file: the path of the file
    :raises RuntimeError: no trace is on
    :raises OSError: the file cannot be written
    """
    with _end() as spill:
        spill.seek(0)
        threads = {thread.native_id: thread.name for thread in threading.enumerate()}
        with os.fdopen(os.dup(spill.fileno()), "rb") as records:
            events.write(Path(file), events.decode(read_records(records), threads, _begun))


def forget() -> None:
    """End the trace, and write no file.

    :raises RuntimeError: no trace is on
    """
    _end().close()


def _end() -> IO[bytes]:
    """Stop tracing requests, and return the file of the records."""
    global _active
    if _active is None:
        raise RuntimeError("no trace is on: start() begins one")
    spill, _active = _active, None
    descriptors.connected = descriptors.closing = layer.refusal = None
    while _restored:
        kind, name, own = _restored.pop()
        if own is None:
            delattr(kind, name)
        else:
            setattr(kind, name, own)
    for open_ in descriptors.live():
        if open_.door.native.ioctl in (_TRACED_LINUX, _TRACED_PYTHON):
            python = open_.door.native.ioctl == _TRACED_PYTHON
            open_.reroute(python_ioctl if python else lib.pyvfio_linux_ioctl)
    if error := lib.pyvfio_trace_end():
        spill.close()
        raise _WRITE.refused("the records of the trace", -error)
    return spill


def _connect(opened: Fd) -> None:
    native = opened.door.native
    opened.reroute(_TRACED_LINUX if native.ioctl == _LINUX else _TRACED_PYTHON)
    device = ""
    if opened.name.startswith(_CDEVS):
        # Record the device's address: the name of the node, vfioN, means nothing on another host.
        node = f"/sys/class/vfio-dev/{opened.name.removeprefix(_CDEVS)}/device"
        with suppress(OSError):
            device = os.path.basename(opened.kernel.realpath(node))
    _note(OPENED, opened.door.fd, 0, f"{opened.kind}\0{opened.name}\0{opened.kernel.name}\0{device}")


def _note(what: int, number: int, begun: int, text: str) -> None:
    data = text.encode(errors="surrogateescape")
    lib.pyvfio_trace_note(what, number, begun, data, len(data))


def _note_close(closing: Fd) -> None:
    _note(CLOSED, closing.door.fd, 0, closing.name)


def _note_refusal(error: RequestError) -> None:
    _note(REFUSED, -1, 0, json.dumps([error.request, error.reason, error.advice]))


_CDEVS = "/dev/vfio/devices/"
_U64 = 2**64 - 1
#: regions by the number that stands for each in the records
_regions: dict[int, int] = {}


def _number_of(accessed: Any) -> int:
    number = _regions.setdefault(id(accessed), len(_regions))
    name = getattr(accessed, "region", accessed).name
    _note(NAMED, number, 0, f"{name}\0{accessed!r}")
    return number


def _watch(index: int, kind: type[Any], name: str) -> None:
    """Replace a method of a class by one that also records each call."""
    inner: Callable[..., Any] = getattr(kind, name)
    now, note, pack, known = lib.pyvfio_trace_now, lib.pyvfio_trace_note, ACCESS_DATA.pack, _regions.get

    def watched(self: Any, offset: int, *more: Any) -> Any:
        if (number := known(id(self))) is None:
            number = _number_of(self)
        begun = now()
        try:
            result = inner(self, offset, *more)
        except OSError as error:
            note(ACCESS, number, begun, pack(index, offset & _U64, 0, error.errno or errno.EIO, 1), ACCESS_DATA.size)
            raise
        given = more[-1] if more else 0
        if not isinstance(given, int):
            given = len(given)
        gave = result if result.__class__ is int else len(result or b"")
        note(ACCESS, number, begun, pack(index, offset, given, gave, 0), ACCESS_DATA.size)
        return result

    _restored.append((kind, name, kind.__dict__.get(name)))
    setattr(kind, name, watched)


def _in_child() -> None:
    """End the trace in a forked child, which does not write it."""
    global _active
    if _active is not None:
        lib.pyvfio_trace_forget()
        _active = None
        descriptors.connected = descriptors.closing = layer.refusal = None


os.register_at_fork(after_in_child=_in_child)


def trace_program(file: str) -> None:
    """Trace this program to its end, as `PYVFIO_TRACE` asks.

    :param file: the path of the file
    """
    start()

    def end() -> None:
        if _active is not None:
            stop(file.replace("%p", str(os.getpid())))

    atexit.register(end)
