# SPDX-License-Identifier: MIT
"""Requests as they happen, in a file; and the same requests again, on another kernel.

::

    with pyvfio.tracing.trace("trace.json"):
        with pyvfio.open("0000:41:10.1") as device:
            ...

`PYVFIO_TRACE=trace.json` in the environment traces a program from its import of pyvfio to its end (`%p` in the name is the number
of the process). The file is written when the
trace ends. It is in Chrome's trace format: https://ui.perfetto.dev and chrome://tracing show it, with a row for each thread, and
curves of the pinned bytes, the mappings and the dirty pages. Each request is an event with

========== ====================================================================================================
`in`       the struct as the program passed it, by the fields of the ABI; `out`: the fields that the kernel changed
`result`   the result, or the name of the errno
`reason`   why the kernel refused it, as the exception said, and `advice`
`on`, `fd` the name of the file, and its descriptor
`raw`      the bytes of the struct, and of an array of ranges that it points to
========== ====================================================================================================

Reads and writes of regions are events too, mapped registers among them. What a program does to a mapping's memory through its `view` is
not seen, nor is anything of a forked child.

Without a trace, nothing of this is called: the doors of the descriptors lead past it. With one, a request costs less than 2 us more
(it is copied by native code, and decoded when the trace ends).

A trace can be run again::

    python -m pyvfio.tracing replay trace.json --kernel mock:amd

makes the same requests on a kernel (a mock, most often) and prints where its answers differ: a bug of a host that one does not
have. Descriptors, object ids and addresses are translated; memory is anonymous. A device that the kernel lacks is replaced by
`--device OLD=NEW`, or by the first that the kernel has on the same bus. The exit code is 1 if an answer differs.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import json
import mmap
import os
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from pyvfio import abi, host, kernels, region
from pyvfio._abi import ffi, lib
from pyvfio._core import fd as descriptors
from pyvfio._core import request as layer
from pyvfio._core.fd import Fd
from pyvfio.errors import RequestError
from pyvfio.kernel import Kernel

_WRITE = layer.Call("write")
_RECORD = struct.Struct("=QQQQIIIiiIII")
_REQUEST = lib.PYVFIO_TRACE_REQUEST
_OPENED, _REFUSED, _ACCESS, _CLOSED, _NAMED = 1, 2, 3, 4, 5
_ERRNOS = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}
_LINUX = ffi.addressof(lib, "pyvfio_linux_ioctl")
_TRACED_LINUX = ffi.addressof(lib, "pyvfio_traced_linux")
_TRACED_PYTHON = ffi.addressof(lib, "pyvfio_traced_python")
#: feature -> the struct behind `struct vfio_device_feature`
_FEATURES = {
    "MIGRATION": "struct vfio_device_feature_migration",
    "MIG_DEVICE_STATE": "struct vfio_device_feature_mig_state",
    "MIG_DATA_SIZE": "struct vfio_device_feature_mig_data_size",
    "DMA_LOGGING_START": "struct vfio_device_feature_dma_logging_control",
    "DMA_LOGGING_REPORT": "struct vfio_device_feature_dma_logging_report",
    "LOW_POWER_ENTRY_WITH_WAKEUP": "struct vfio_device_feature_low_power_entry_with_wakeup",
    "DMA_BUF": "struct vfio_device_feature_dma_buf",
    "BUS_MASTER": "struct vfio_device_feature_bus_master",
}


class Record(NamedTuple):
    """One record of the native code, `pyvfio_trace_record`, and the bytes that follow it."""

    start: int
    end: int
    argument: int
    dirty: int
    thread: int
    what: int
    request: int
    fd: int
    result: int
    before: bytes
    after: bytes
    input: bytes


# --- recording ------------------------------------------------------------------------------------------------------------

_active: IO[bytes] | None = None
_threads: dict[int, str] = {}
_restored: list[tuple[type, str, Any]] = []


@contextmanager
def trace(file: str | os.PathLike[str]) -> Iterator[None]:
    """Trace what happens in a `with`, and write it to a file at its end.

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
    :param careful: the program makes requests with addresses that may be bad, past the library's own methods
    """
    global _active
    if _active is not None:
        raise RuntimeError("a trace is on already: stop() ends it")
    _active = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (stop() closes it)
    lib.pyvfio_trace_begin(
        _active.fileno(), ffi.cast("int (*)(void *, int, unsigned long, void *)", lib.pyvfio_python_ioctl), careful
    )
    descriptors.connected, descriptors.closing = _connect, _note_close
    layer.refusal = _note_refusal
    for open_ in descriptors.live():
        _connect(open_)
    _regions.clear()
    for index, (kind, name) in enumerate(_ACCESSES if regions else ()):
        _watch(index, kind, name)


class Outcome(NamedTuple):
    """A request of the trace that is on, and its result.

    :ivar kind: of descriptor, as in :mod:`pyvfio.abi`
    :ivar operation: which of a request's several operations it was
    :ivar result: `ok`, or the errno's name
    """

    kind: str
    request: str
    operation: str
    result: str


class Watch:
    """Tells of the requests of a trace while it is on. They are gone from the trace then."""

    def __init__(self) -> None:
        self._files: dict[int, str] = {}

    def outcomes(self) -> set[Outcome]:
        """Return every different request since this was last asked, and what became of it."""
        if _active is None:
            raise RuntimeError("no trace is on: start() begins one")
        if error := lib.pyvfio_trace_flush():
            raise _WRITE.refused("the records of the trace", -error)
        found = set()
        with os.fdopen(os.dup(_active.fileno()), "rb") as file:
            file.seek(0)
            for record in _records(file):
                if record.what == _OPENED:
                    self._files[record.fd] = record.before.decode(errors="surrogateescape").partition("\0")[0]
                elif record.what == _REQUEST:
                    found.add(self._outcome(record))
            # What has been read is not read again. The offset is the native code's too.
            file.seek(0)
            os.ftruncate(file.fileno(), 0)
        return found

    def _outcome(self, record: Record) -> Outcome:
        kind = self._files.get(record.fd, "")
        result = "ok" if record.result >= 0 else str(outcome(record.result))
        return Outcome(kind, abi.name(kind, record.request), operation(kind, record.request, record.before), result)


def stop(file: str | os.PathLike[str]) -> None:
    """End a trace, and write it to a file.

    :raises OSError: it cannot be written
    """
    with _end() as spill:
        spill.seek(0)
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        with os.fdopen(os.dup(spill.fileno()), "rb") as records:
            events = sorted(_events(_records(records), names), key=lambda event: event.get("ts", 0))
        _write(Path(file), events)


def forget() -> None:
    """End a trace, and write nothing."""
    _end().close()


def _end() -> IO[bytes]:
    """Let requests go their own way again, and return the records."""
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
            open_.reroute(lib.pyvfio_python_ioctl if python else lib.pyvfio_linux_ioctl)
    if error := lib.pyvfio_trace_end():
        spill.close()
        raise _WRITE.refused("the records of the trace", -error)
    return spill


def _connect(opened: Fd) -> None:
    native = opened.door.native
    opened.reroute(_TRACED_LINUX if native.ioctl == _LINUX else _TRACED_PYTHON)
    device = ""
    if opened.name.startswith(_CDEVS):
        # What the node is called says nothing on another host.
        node = f"/sys/class/vfio-dev/{opened.name.removeprefix(_CDEVS)}/device"
        with suppress(OSError):
            device = os.path.basename(opened.kernel.realpath(node))
    _note(_OPENED, opened.door.fd, 0, f"{opened.kind}\0{opened.name}\0{opened.kernel.name}\0{device}")


def _note(what: int, number: int, begun: int, text: str) -> None:
    data = text.encode(errors="surrogateescape")
    lib.pyvfio_trace_note(what, number, begun, data, len(data))


def _note_close(closing: Fd) -> None:
    _note(_CLOSED, closing.door.fd, 0, closing.name)


def _note_refusal(error: RequestError) -> None:
    _note(_REFUSED, -1, 0, json.dumps([error.request, error.reason, error.advice]))


_CDEVS = "/dev/vfio/devices/"
_WIDTHS = (8, 16, 32, 64)
_ACCESSES: tuple[tuple[type[Any], str], ...] = (
    *((region.Region, name) for name in ("_load", "_store", "read", "write")),
    *((region.RegionMapping, f"{verb}{width}") for verb in ("read", "write") for width in _WIDTHS),
)
#: method (its place in _ACCESSES), offset, what was given (a size where it was bytes), what came back, and whether it failed
_ACCESS_DATA = struct.Struct("=IQQQI")
_U64 = 2**64 - 1
#: regions by the number that stands for each in the records
_regions: dict[int, int] = {}


def _number_of(accessed: Any) -> int:
    number = _regions.setdefault(id(accessed), len(_regions))
    _note(_NAMED, number, 0, repr(accessed))
    return number


def _watch(index: int, kind: type[Any], name: str) -> None:
    """Have a method of a class tell of its calls."""
    inner: Callable[..., Any] = getattr(kind, name)
    now, note, pack, known = lib.pyvfio_trace_now, lib.pyvfio_trace_note, _ACCESS_DATA.pack, _regions.get

    def watched(self: Any, offset: int, *more: Any) -> Any:
        begun = now()
        try:
            result = inner(self, offset, *more)
        except OSError as error:
            if (number := known(id(self))) is None:
                number = _number_of(self)
            note(_ACCESS, number, begun, pack(index, offset & _U64, 0, error.errno or errno.EIO, 1), _ACCESS_DATA.size)
            raise
        if (number := known(id(self))) is None:
            number = _number_of(self)
        given = more[-1] if more else 0
        if not isinstance(given, int):
            given = len(given)
        gave = result if result.__class__ is int else len(result or b"")
        note(_ACCESS, number, begun, pack(index, offset, given, gave, 0), _ACCESS_DATA.size)
        return result

    _restored.append((kind, name, kind.__dict__.get(name)))
    setattr(kind, name, watched)


def _in_child() -> None:
    """A forked child traces nothing."""
    global _active
    if _active is not None:
        lib.pyvfio_trace_forget()
        _active = None
        descriptors.connected = descriptors.closing = layer.refusal = None


os.register_at_fork(after_in_child=_in_child)


def trace_program(file: str) -> None:
    """Trace this program to its end: what `PYVFIO_TRACE` asks for."""
    start()

    def end() -> None:
        if _active is not None:
            stop(file.replace("%p", str(os.getpid())))

    atexit.register(end)


# --- the file -------------------------------------------------------------------------------------------------------------


def _records(file: IO[bytes]) -> Iterator[Record]:
    while len(head := file.read(_RECORD.size)) == _RECORD.size:
        values = _RECORD.unpack(head)
        yield Record(*values[:-3], *(file.read(size) for size in values[-3:]))


def _shown(value: Any) -> Any:
    """A C value as JSON: what may exceed 2^53 in hex, which JavaScript would round."""
    if isinstance(value, int):
        return value if abs(value) < 1 << 31 else hex(value)
    type_ = ffi.typeof(value)
    if type_.kind == "struct" or type_.kind == "union":
        return {name: _shown(getattr(value, name)) for name, _ in type_.fields or () if not name.startswith("__")}
    if type_.kind == "array":
        return [_shown(one) for one in value] if type_.length is not None and type_.length <= 16 else "..."
    return hex(int(ffi.cast("uintptr_t", value)))


def decode(kind: str, number: int, data: bytes) -> dict[str, Any]:
    """Return the struct of a request by the names of its fields; a feature's own struct is under `data`.

    :param kind: of descriptor, :param number: of the request
    """
    declared = abi.declared(kind, number)
    if declared is None or declared.struct is None:
        return {}
    native = _struct(declared.struct, data)
    fields: dict[str, Any] = _shown(native[0])
    if declared.name == "VFIO_DEVICE_FEATURE" and declared.tell is not None:
        inner = _FEATURES.get(declared.tell(_struct(declared.struct, data)).split()[1])
        if inner is not None and len(data) > ffi.sizeof(declared.struct):
            native = _struct(inner, data[ffi.sizeof(declared.struct) :])  # it owns what is shown
            fields["data"] = _shown(native[0])
    return fields


def operation(kind: str, number: int, data: bytes) -> str:
    """Return which of its operations a request is, from its struct; empty for a request that has none."""
    declared = abi.declared(kind, number)
    if declared is None or declared.tell is None or declared.struct is None or not data:
        return ""
    return declared.tell(_struct(declared.struct, data))


def _struct(type_: str, data: bytes) -> Any:
    """A pointer to a copy of the bytes, with zeros behind those that are missing."""
    return ffi.from_buffer(f"{type_} *", bytearray(data.ljust(ffi.sizeof(type_) + 64, b"\0")))


class _Counters:
    """The mapped, pinned and dirty memory, by the requests that succeeded."""

    def __init__(self) -> None:
        self._mapped: dict[tuple[int, int], dict[int, int]] = {}

    def follow(self, name: str, record: Record) -> dict[str, int] | None:
        """The counters after a request, if it may have changed one."""
        if record.result < 0:
            return None
        if record.dirty:
            return {"dirty pages": record.dirty}
        data = record.after or record.before
        match name:
            case "VFIO_IOMMU_MAP_DMA":
                native = _struct("struct vfio_iommu_type1_dma_map", data)
                self._mapped.setdefault((record.fd, 0), {})[native.iova] = native.size
            case "IOMMU_IOAS_MAP" | "IOMMU_IOAS_MAP_FILE":
                native = _struct("struct iommu_ioas_map" + ("_file" if name.endswith("FILE") else ""), data)
                self._mapped.setdefault((record.fd, native.ioas_id), {})[native.iova] = native.length
            case "VFIO_IOMMU_UNMAP_DMA":
                native = _struct("struct vfio_iommu_type1_dma_unmap", record.before)
                everything = native.flags & lib.VFIO_DMA_UNMAP_FLAG_ALL
                self._unmap((record.fd, 0), native.iova, 2**64 if everything else native.size)
            case "IOMMU_IOAS_UNMAP":
                native = _struct("struct iommu_ioas_unmap", record.before)
                self._unmap((record.fd, native.ioas_id), native.iova, native.length)
            case _:
                return None
        sizes = [size for space in self._mapped.values() for size in space.values()]
        return {"pinned bytes": sum(sizes), "mappings": len(sizes)}

    def _unmap(self, space: tuple[int, int], iova: int, size: int) -> None:
        mapped = self._mapped.get(space, {})
        if mapped.pop(iova, None) != size:
            for start in [one for one in mapped if iova <= one < iova + size]:
                del mapped[start]


def _events(records: Iterator[Record], names: dict[int | None, str]) -> Iterator[dict[str, Any]]:
    """The events of Chrome's trace format."""
    process = os.getpid()
    files: dict[int, tuple[str, str]] = {}
    #: thread and request -> one that failed: its reason comes with the exception, after what finding that took
    failed: dict[tuple[int, str], dict[str, Any]] = {}
    accessed: dict[int, str] = {}
    counters = _Counters()
    seen: set[int] = set()
    for record in records:
        common = {"pid": process, "tid": record.thread, "ts": record.start / 1000}
        if record.thread not in seen:
            seen.add(record.thread)
            name = names.get(record.thread, f"thread {record.thread}")
            yield {"ph": "M", "name": "thread_name", "pid": process, "tid": record.thread, "args": {"name": name}}
        text = record.before.decode(errors="surrogateescape") if record.what not in (_REQUEST, _ACCESS) else ""
        if record.what == _OPENED:
            kind, path, kernel, device = text.split("\0")
            files[record.fd] = kind, device or path
            args = {"fd": record.fd, "kind": kind, "on": path, "kernel": kernel, "device": device}
            yield {
                "ph": "i",
                "s": "t",
                "name": f"descriptor {record.fd}: {path}",
                "cat": "descriptor",
                "args": args,
                **common,
            }
        elif record.what == _NAMED:
            accessed[record.fd] = text
        elif record.what == _CLOSED:
            args = {"fd": record.fd, "kind": "closed", "on": text}
            yield {
                "ph": "i",
                "s": "t",
                "name": f"close {record.fd}: {text}",
                "cat": "descriptor",
                "args": args,
                **common,
            }
        elif record.what == _REFUSED:
            label, reason, advice = json.loads(text)
            if (event := failed.pop((record.thread, label.split()[0]), None)) is not None:
                event["args"] |= {"reason": reason, "advice": advice}
                yield event
        elif record.what == _ACCESS:
            verb, args = _access(record, accessed.get(record.fd, ""))
            yield {
                "ph": "X",
                "dur": (record.end - record.start) / 1000,
                "name": verb,
                "cat": "region",
                "args": args,
                **common,
            }
        else:
            kind, path = files.get(record.fd, ("", f"descriptor {record.fd}"))
            event = {"ph": "X", "dur": (record.end - record.start) / 1000, **_request(kind, path, record), **common}
            if record.result < 0:
                key = record.thread, event["name"].split()[0]
                if (earlier := failed.pop(key, None)) is not None:
                    yield earlier
                failed[key] = event
            else:
                yield event
            values = counters.follow(event["name"].split()[0], record)
            for counter, value in (values or {}).items():
                yield {"ph": "C", "name": counter, "pid": process, "ts": record.end / 1000, "args": {counter: value}}
    yield from failed.values()


def _access(record: Record, where: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments of an access to a region."""
    index, offset, given, gave, failed = _ACCESS_DATA.unpack(record.before)
    kind, name = _ACCESSES[index]
    stores = "store" in name or "write" in name
    args: dict[str, Any] = {"on": where, "offset": hex(offset), "mapped": kind is region.RegionMapping}
    if name in ("read", "write"):
        args["size"] = given
    elif stores:
        args["value"] = hex(given)
    args["result"] = outcome(-gave) if failed else "ok" if stores else gave if name == "read" else hex(gave)
    return name.strip("_"), args


def _request(kind: str, path: str, record: Record) -> dict[str, Any]:
    name = f"{abi.name(kind, record.request)} {operation(kind, record.request, record.before)}".rstrip()
    given = decode(kind, record.request, record.before)
    args: dict[str, Any] = {"on": path, "fd": record.fd, "result": outcome(record.result), "in": given}
    if record.after:
        changed = decode(kind, record.request, record.after)
        args["out"] = {field: value for field, value in changed.items() if value != given.get(field)}
    raw = {"kind": kind, "request": record.request, "argument": hex(record.argument), "result": record.result}
    args["raw"] = raw | {"before": record.before.hex(), "after": record.after.hex(), "input": record.input.hex()}
    return {"name": name, "cat": kind or "request", "args": args}


def outcome(result: int) -> str | int:
    """A result as it is shown: the number, or the name of the errno."""
    return result if result >= 0 else _ERRNOS.get(-result, str(result))


def _write(file: Path, events: list[dict[str, Any]]) -> None:
    with file.open("w") as out:
        out.write('{"displayTimeUnit": "ns", "traceEvents": [\n')
        out.write(",\n".join(json.dumps(event) for event in events) or "")
        out.write("\n]}\n")


# --- once more ------------------------------------------------------------------------------------------------------------

#: fields that hold the number of a descriptor of this process, and those that hold the id of an object of the iommufd
_FD_FIELDS = frozenset({"fd", "iommufd", "wakeup_eventfd", "out_fault_fd", "out_veventq_fd", "data_fd"})
_ID_FIELDS = frozenset(
    {
        "ioas_id", "out_ioas_id", "dst_ioas_id", "src_ioas_id", "object_id", "id", "dev_id", "out_devid", "pt_id", "hwpt_id",
        "out_hwpt_id", "fault_id", "out_fault_id", "viommu_id", "out_viommu_id", "out_vdevice_id", "out_veventq_id",
        "out_hw_queue_id",
    }
)  # fmt: skip
#: fields that hold an address, and the one that says how much memory is there
_MEMORY = {
    "vaddr": "size",
    "user_va": "length",
    "bitmap": "",
    "data_uptr": "",
    "allowed_iovas": "",
    "ranges": "",
    "data": "",
}
_ROOM = 1 << 22


class Difference(NamedTuple):
    """A request that was answered otherwise than in the trace.

    :ivar event: number of the event in the file
    """

    event: int
    request: str
    on: str
    traced: str | int
    replayed: str | int

    def __str__(self) -> str:
        return f"event {self.event}: {self.request} on {self.on}: the trace has {self.traced}, this kernel answers {self.replayed}"


class Replay:
    """Makes the requests of a trace again.

    :param kernel: where
    :param devices: name of a device in the trace -> name of the one to take for it
    :ivar made: how many requests were made
    :ivar skipped: what could not be made again
    """

    def __init__(self, kernel: Kernel, devices: dict[str, str] | None = None) -> None:
        self._kernel = kernel
        self._devices = dict(devices or {})
        self._fds: dict[int, Fd] = {}
        self._numbers: dict[int, int] = {}
        self._ids: dict[int, int] = {}
        self._memory: list[mmap.mmap] = []
        self._restored: list[Any] = []
        self.made = 0
        self.skipped: list[str] = []

    def run(self, events: list[dict[str, Any]]) -> Iterator[Difference]:
        """Make the requests, and yield the differences."""
        try:
            for index, event in enumerate(events):
                if event.get("cat") == "descriptor":
                    self._open(event["args"], events[index:])
                elif "raw" in event.get("args", {}):
                    yield from self._request(index, event)
        finally:
            for open_ in reversed(list(self._fds.values())):
                with suppress(OSError):
                    open_.close()
            for binding in reversed(self._restored):
                with suppress(OSError):
                    binding.__exit__(None, None, None)

    def _open(self, args: dict[str, Any], rest: list[dict[str, Any]]) -> None:
        number, kind, name = args["fd"], args["kind"], args["on"]
        if kind == "closed":
            self._close(number)
            return
        try:
            if kind == "eventfd":
                self._take(number, Fd.take(self._kernel, kind, name, self._kernel.eventfd, 0, os.EFD_NONBLOCK))
            elif name.startswith("/dev/"):
                self._take(number, Fd.open(self._kernel, self._path(args, rest), kind))
            elif number in self._numbers:
                self._take(number, Fd(self._kernel, self._numbers[number], kind, name))
            else:
                self.skipped.append(f"{name}: no request gave its descriptor")
        except OSError as error:
            self.skipped.append(f"open {name}: {error}")

    def _take(self, number: int, opened: Fd) -> None:
        self._close(number)
        self._fds[number] = opened
        self._numbers[number] = opened.fileno()

    def _close(self, number: int) -> None:
        if (opened := self._fds.pop(number, None)) is not None:
            with suppress(OSError):
                opened.close()

    def _path(self, args: dict[str, Any], rest: list[dict[str, Any]]) -> str:
        """The node of the device that stands for the trace's; it is bound to its VFIO driver if it is not."""
        path: str = args["on"]
        if args["kind"] == "device":
            found = self._host_device(args["device"])
            return (found.cdev if found is not None else None) or path
        if args["kind"] == "group":
            for event in rest:
                if event["name"] == "VFIO_GROUP_GET_DEVICE_FD" and event["args"]["fd"] == args["fd"]:
                    name = bytes.fromhex(event["args"]["raw"]["before"]).rstrip(b"\0").decode().partition(" ")[0]
                    found = self._host_device(name)
                    return (found.group_path if found is not None else None) or path
        return path

    def _host_device(self, traced: str | None) -> Any:
        """The device of this kernel that stands for one of the trace."""
        if not traced:
            return None
        if traced not in self._devices:
            known = {one.address: one for one in host.devices(self._kernel)}
            pci = traced.count(":") == 2
            same = [name for name in known if name == traced] or [
                name for name in known if (name.count(":") == 2) == pci
            ]
            if not same:
                return None
            self._devices[traced] = same[0]
        name = self._devices[traced]
        found = host.device(name, self._kernel)
        if found.vfio is None:
            binding = host.bind(name, "vfio-pci", kernel=self._kernel)
            binding.__enter__()
            self._restored.append(binding)
            found = host.device(name, self._kernel)
        return found

    def _request(self, index: int, event: dict[str, Any]) -> Iterator[Difference]:
        args, raw = event["args"], event["args"]["raw"]
        opened = self._fds.get(args["fd"])
        if opened is None:
            self.skipped.append(f"event {index}: {event['name']}: its descriptor could not be opened")
            return
        data = bytearray.fromhex(raw["before"])
        number, given = raw["request"], int(raw["argument"], 16)
        declared = abi.declared(raw["kind"], number)
        type_ = declared.struct if declared is not None else None
        if not data:
            argument: Any = ffi.cast("void *", given)
        else:
            self._translate(event["name"], type_, data, bytes.fromhex(raw["input"]))
            argument = ffi.from_buffer(data)
        result = opened.ioctl(number, argument)
        self.made += 1
        traced = raw["result"]
        if result >= 0 and traced >= 0:
            self._learn(event["name"], type_, bytes.fromhex(raw["after"] or raw["before"]), bytes(data), traced, result)
        gives_number = event["name"] in ("VFIO_GROUP_GET_DEVICE_FD", "VFIO_DEVICE_FEATURE GET DMA_BUF")
        same = outcome(result) == outcome(traced) if not gives_number else (result < 0) == (traced < 0)
        if not same:
            yield Difference(index, event["name"], args["on"], outcome(traced), outcome(result))

    def _translate(self, name: str, type_: str | None, data: bytearray, given: bytes) -> None:
        """Put this process's descriptors, ids and addresses in the place of the trace's."""
        if name == "VFIO_GROUP_SET_CONTAINER":
            number = ffi.from_buffer("int32_t *", data)
            number[0] = self._numbers.get(number[0], number[0])
            return
        if name == "VFIO_GROUP_GET_DEVICE_FD":
            traced, space, token = bytes(data).rstrip(b"\0").decode().partition(" ")
            data[:] = f"{self._devices.get(traced, traced)}{space}{token}\0".encode()
            return
        if type_ is None:
            return
        if len(data) < ffi.sizeof(type_):
            size = len(data)
            data.extend(bytes(ffi.sizeof(type_) - size))  # the size field still says how much the kernel may take
        for native in self._structs(type_, name, data):
            self._fill(native, given)
        if name.startswith("VFIO_DEVICE_SET_IRQS"):
            head = ffi.from_buffer("struct vfio_irq_set *", data)
            if head.flags & lib.VFIO_IRQ_SET_DATA_EVENTFD:
                self._replace_numbers(data, ffi.sizeof("struct vfio_irq_set"))
        elif name == "VFIO_DEVICE_PCI_HOT_RESET":
            self._replace_numbers(data, ffi.sizeof("struct vfio_pci_hot_reset"))

    def _replace_numbers(self, data: bytearray, at: int) -> None:
        for place in range(at, len(data) - 3, 4):
            (number,) = struct.unpack_from("=i", data, place)
            struct.pack_into("=i", data, place, self._numbers.get(number, number))

    @staticmethod
    def _structs(type_: str, name: str, data: bytearray) -> list[Any]:
        """The struct of a request, and what it holds at its end."""
        found = [ffi.from_buffer(f"{type_} *", data)]
        view, words = memoryview(data), name.split()
        if words[0] == "VFIO_DEVICE_FEATURE" and (inner := _FEATURES.get(words[2] if len(words) > 2 else words[-1])):
            at = ffi.sizeof("struct vfio_device_feature")
            if len(data) - at >= ffi.sizeof(inner):
                found.append(ffi.from_buffer(f"{inner} *", view[at:]))
        elif name == "VFIO_IOMMU_DIRTY_PAGES GET_BITMAP":
            at = ffi.sizeof(type_)
            get = ffi.from_buffer("struct vfio_iommu_type1_dirty_bitmap_get *", view[at:])
            found.append(get.bitmap)
        elif name == "VFIO_IOMMU_UNMAP_DMA GET_DIRTY_BITMAP":
            found.append(ffi.from_buffer("struct vfio_bitmap *", view[ffi.sizeof(type_) :]))
        return found

    def _fill(self, native: Any, given: bytes) -> None:
        whole = native[0] if ffi.typeof(native).kind == "pointer" else native
        for field, type_ in ffi.typeof(whole).fields or ():
            kind = type_.type
            if kind.kind not in ("primitive", "pointer"):
                continue
            value = (
                int(ffi.cast("uintptr_t", getattr(native, field))) if kind.kind == "pointer" else getattr(native, field)
            )
            if field in _FD_FIELDS and value in self._numbers:
                setattr(native, field, self._numbers[value])
            elif field in _ID_FIELDS and value in self._ids:
                setattr(native, field, self._ids[value])
            elif field in _MEMORY and value and ffi.sizeof(kind) == 8:
                size = getattr(native, _MEMORY[field]) if _MEMORY[field] else _ROOM
                address = self._room(size, given, value)
                setattr(native, field, ffi.cast("void *", address) if kind.kind == "pointer" else address)

    def _room(self, size: int, given: bytes, traced: int) -> int:
        """Memory of this process for that of the trace, at the same place in its page."""
        into = traced % mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
        memory = mmap.mmap(-1, min(max(size, 1), 1 << 40) + into + mmap.PAGESIZE, flags=flags)
        memory[into : into + len(given)] = given
        self._memory.append(memory)
        return int(ffi.cast("uintptr_t", ffi.from_buffer(memory))) + into

    def _learn(self, name: str, type_: str | None, traced: bytes, replayed: bytes, was: int, now: int) -> None:
        """Remember which descriptor and which id stands for which."""
        if name in ("VFIO_GROUP_GET_DEVICE_FD", "VFIO_DEVICE_FEATURE GET DMA_BUF"):
            self._numbers[was] = now
        if type_ is None:
            return
        both = (
            self._structs(type_, name, bytearray(one.ljust(ffi.sizeof(type_), b"\0"))) for one in (traced, replayed)
        )
        for old, new in zip(*both, strict=True):
            for field, _ in ffi.typeof(old[0] if ffi.typeof(old).kind == "pointer" else old).fields or ():
                if field in _ID_FIELDS and field.startswith("out_"):
                    self._ids[getattr(old, field)] = getattr(new, field)
                elif field in _FD_FIELDS and (field.startswith("out_") or field == "data_fd"):
                    self._numbers[getattr(old, field)] = getattr(new, field)
                elif field == "ioas_id" and name == "IOMMU_VFIO_IOAS":
                    self._ids[getattr(old, field)] = getattr(new, field)


def load(file: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the events of a trace."""
    events: list[dict[str, Any]] = json.loads(Path(file).read_text())["traceEvents"]
    return events


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m pyvfio.tracing`."""
    parser = argparse.ArgumentParser(prog="python -m pyvfio.tracing", description="Traces of requests.")
    commands = parser.add_subparsers(dest="command", required=True)
    replay = commands.add_parser(
        "replay", help="make the requests of a trace again, and print where the answers differ"
    )
    replay.add_argument("file", metavar="FILE")
    replay.add_argument("--kernel", default="mock:amd", help="as PYVFIO_KERNEL takes it (default: %(default)s)")
    replay.add_argument(
        "--device", action="append", default=[], metavar="OLD=NEW", help="take NEW for the trace's device OLD"
    )
    given = parser.parse_args(arguments)
    again = Replay(kernels.named(given.kernel), dict(one.split("=", 1) for one in given.device))
    differences = list(again.run(load(given.file)))
    for difference in differences:
        print(difference)
    for line in again.skipped:
        print(f"skipped: {line}")
    print(f"{again.made} requests made again, {len(differences)} answered otherwise, {len(again.skipped)} skipped")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
