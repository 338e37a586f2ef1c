# SPDX-License-Identifier: MIT
"""The requests of a trace, made again on another kernel."""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pyvfio import abi, host
from pyvfio._abi import ffi, lib
from pyvfio._core import arguments
from pyvfio._core.fd import Fd
from pyvfio.kernel import Kernel
from pyvfio.tracing.records import FEATURES, outcome

#: fields that hold the number of a descriptor of this process, and those that hold the id of an object of the iommufd
_FD_FIELDS = frozenset({"fd", "iommufd", "wakeup_eventfd", "out_fault_fd", "out_veventq_fd", "data_fd"})
_ID_FIELDS = frozenset(
    {
        "ioas_id", "out_ioas_id", "dst_ioas_id", "src_ioas_id", "object_id", "id", "dev_id", "out_devid", "pt_id", "hwpt_id",
        "out_hwpt_id", "fault_id", "out_fault_id", "viommu_id", "out_viommu_id", "out_vdevice_id", "out_veventq_id",
        "out_hw_queue_id",
    }
)  # fmt: skip
#: field that holds an address -> the field with the size of the memory there
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
    """A request whose result differs from that in the trace.

    :ivar event: the number of the event in the file
    """

    event: int
    request: str
    on: str
    traced: str | int
    replayed: str | int

    def __str__(self) -> str:
        return f"event {self.event}: {self.request} on {self.on}: the trace has {self.traced}, this kernel answers {self.replayed}"


class Replay:
    """The requests of a trace, made again.

    :param kernel: the kernel that they are made on
    :param devices: the name of a device in the trace -> the name of the device to use in its place
    :ivar made: the number of requests made
    :ivar skipped: the requests and descriptors that could not be repeated, one line each
    """

    def __init__(self, kernel: Kernel, devices: dict[str, str] | None = None) -> None:
        self._kernel = arguments.instance(kernel, "kernel", Kernel, "a pyvfio.Kernel")
        self._devices = dict(arguments.instance({} if devices is None else devices, "devices", dict))
        self._fds: dict[int, Fd] = {}
        self._numbers: dict[int, int] = {}
        self._ids: dict[int, int] = {}
        self._memory: list[mmap.mmap] = []
        self._bindings: list[host.Binding] = []
        self.made = 0
        self.skipped: list[str] = []

    def run(self, events: list[dict[str, Any]]) -> Iterator[Difference]:
        """Make the requests, and yield the differences.

        :param events: those of :func:`load`
        """
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
            for binding in reversed(self._bindings):
                with suppress(OSError):
                    binding.restore()

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
        """Return the node of the device to use for the trace's. The device is bound to vfio-pci if it has no VFIO driver."""
        path: str = args["on"]
        if args["kind"] == "device":
            found = self._host_device(args["device"])
            return (found and found.cdev) or path
        if args["kind"] == "group":
            for event in rest:
                if event["name"] == "VFIO_GROUP_GET_DEVICE_FD" and event["args"]["fd"] == args["fd"]:
                    name = bytes.fromhex(event["args"]["raw"]["before"]).rstrip(b"\0").decode().partition(" ")[0]
                    found = self._host_device(name)
                    return (found and found.group_path) or path
        return path

    def _host_device(self, traced: str | None) -> host.HostDevice | None:
        """Return the device of this kernel to use for one of the trace."""
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
            self._bindings.append(host.bind(name, "vfio-pci", kernel=self._kernel))
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
        """Replace the descriptors, ids and addresses of the trace by those of this process."""
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
            data.extend(bytes(ffi.sizeof(type_) - size))  # the struct's size field stays: it limits the kernel
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
        """Return the struct of a request, and the structs that follow it or lie in it."""
        found: list[Any] = [ffi.from_buffer(f"{type_} *", data)]
        first, words = ffi.cast("char *", found[0]), name.split()
        if words[0] == "VFIO_DEVICE_FEATURE" and (inner := FEATURES.get(words[2] if len(words) > 2 else words[-1])):
            at = ffi.sizeof("struct vfio_device_feature")
            if len(data) - at >= ffi.sizeof(inner):
                found.append(ffi.cast(f"{inner} *", first + at))
        elif name == "VFIO_IOMMU_DIRTY_PAGES GET_BITMAP":
            get = ffi.cast("struct vfio_iommu_type1_dirty_bitmap_get *", first + ffi.sizeof(type_))
            found.append(get.bitmap)
        elif name == "VFIO_IOMMU_UNMAP_DMA GET_DIRTY_BITMAP":
            found.append(ffi.cast("struct vfio_bitmap *", first + ffi.sizeof(type_)))
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
        """Return the address of new memory to use for memory of the trace, at the same offset in its page."""
        into = traced % mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
        memory = mmap.mmap(-1, min(max(size, 1), 1 << 40) + into + mmap.PAGESIZE, flags=flags)
        memory[into : into + len(given)] = given
        self._memory.append(memory)
        return int(ffi.cast("uintptr_t", ffi.from_buffer(memory))) + into

    def _learn(self, name: str, type_: str | None, traced: bytes, replayed: bytes, was: int, now: int) -> None:
        """Record the descriptors and ids that the kernel returned, for the translation of those in the trace."""
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
    """Read the events of a trace.

    :param file: the path of the file
    """
    events: list[dict[str, Any]] = json.loads(Path(arguments.path(file, "file")).read_text())["traceEvents"]
    return events
