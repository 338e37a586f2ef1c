# SPDX-License-Identifier: MIT
"""The events of a trace in Chrome's trace format, decoded from its records."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyvfio import abi, region
from pyvfio._abi import lib
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
    decode_struct,
    operation,
    outcome,
    struct_of,
)  # fmt: skip

#: the requests that report dirty pages
_REPORTS = (
    "VFIO_DEVICE_FEATURE GET DMA_LOGGING_REPORT",
    "VFIO_IOMMU_DIRTY_PAGES GET_BITMAP",
    "VFIO_IOMMU_UNMAP_DMA GET_DIRTY_BITMAP",
    "IOMMU_HWPT_GET_DIRTY_BITMAP",
)


class _Counters:
    """The pinned bytes, the number of mappings and the dirty pages, from the requests that succeeded."""

    def __init__(self) -> None:
        #: (descriptor, IOAS id, 0 for a container) -> IOVA -> (size, pinned bytes) of each mapping
        self._spaces: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}

    def follow(self, name: str, record: Record) -> dict[str, dict[str, int]]:
        """Return the counters that a request has changed, as events have them: name -> unit -> value."""
        if record.result < 0:
            return {}
        counters = self._after(name, record)
        if record.dirty or name in _REPORTS:
            counters["dirty"] = {"pages": record.dirty}
        return counters

    def _after(self, name: str, record: Record) -> dict[str, dict[str, int]]:
        data = record.after or record.before
        match name.split()[0]:
            case "VFIO_IOMMU_MAP_DMA" if name.endswith("MAP_DMA"):
                native = struct_of("struct vfio_iommu_type1_dma_map", data)
                self._map((record.fd, 0), native.iova, native.size)
            case "IOMMU_IOAS_MAP" | "IOMMU_IOAS_MAP_FILE":
                native = struct_of(f"struct {name.lower()}", data)
                self._map((record.fd, native.ioas_id), native.iova, native.length)
            case "IOMMU_IOAS_COPY":
                native = struct_of("struct iommu_ioas_copy", data)
                # A copy pins no pages: the source mapping has pinned them.
                self._map((record.fd, native.dst_ioas_id), native.dst_iova, native.length, pinned=0)
            case "VFIO_IOMMU_UNMAP_DMA" if "VADDR" not in name:
                native = struct_of("struct vfio_iommu_type1_dma_unmap", record.before)
                everything = native.flags & lib.VFIO_DMA_UNMAP_FLAG_ALL
                self._unmap((record.fd, 0), native.iova, 2**64 if everything else native.size)
            case "IOMMU_IOAS_UNMAP":
                native = struct_of("struct iommu_ioas_unmap", record.before)
                self._unmap((record.fd, native.ioas_id), native.iova, native.length)
            case "IOMMU_DESTROY":
                return self._drop((record.fd, struct_of("struct iommu_destroy", data).id))
            case _:
                return {}
        return self._sums()

    def closed(self, descriptor: int) -> dict[str, dict[str, int]]:
        """Return the counters that the end of a descriptor has changed."""
        return self._drop(*(space for space in self._spaces if space[0] == descriptor))

    def _drop(self, *spaces: tuple[int, int]) -> dict[str, dict[str, int]]:
        dropped = [mapped for space in spaces if (mapped := self._spaces.pop(space, None))]
        return self._sums() if dropped else {}

    def _map(self, space: tuple[int, int], iova: int, size: int, pinned: int | None = None) -> None:
        self._spaces.setdefault(space, {})[iova] = size, size if pinned is None else pinned

    def _unmap(self, space: tuple[int, int], iova: int, size: int) -> None:
        mapped = self._spaces.get(space, {})
        if mapped.pop(iova, (0, 0))[0] != size:
            for start in [one for one in mapped if iova <= one < iova + size]:
                del mapped[start]

    def _sums(self) -> dict[str, dict[str, int]]:
        pinned = [one for mapped in self._spaces.values() for _, one in mapped.values()]
        return {"pinned": {"bytes": sum(pinned)}, "mappings": {"count": len(pinned)}}


class _Decoder:
    """Turns records into events, one after the other.

    :param begun: when the trace began, in nanoseconds; the times of events count from there
    """

    def __init__(self, begun: int) -> None:
        self.events: list[dict[str, Any]] = []
        self.threads: set[int] = set()
        self._begun = begun
        self._counters = _Counters()
        #: descriptor -> its kind and name
        self._files: dict[int, tuple[str, str]] = {}
        #: number of a region in the records -> its name and description
        self._regions: dict[int, tuple[str, str]] = {}
        #: thread and request -> the last event that failed; its reason is noted later, when the exception is made
        self._refused: dict[tuple[int, str], dict[str, Any]] = {}
        self._kinds = {
            OPENED: self._opened,
            CLOSED: self._closed,
            REFUSED: self._explained,
            NAMED: self._named,
            ACCESS: self._accessed,
            REQUEST: self._requested,
        }

    def add(self, record: Record) -> None:
        """Append the events of a record."""
        self.threads.add(record.thread)
        self._kinds[record.what](record)

    def _event(self, record: Record, name: str, category: str, args: dict[str, Any], *, lasts: bool) -> dict[str, Any]:
        event = {"ph": "X", "dur": (record.end - record.start) / 1000} if lasts else {"ph": "i", "s": "t"}
        event |= {"name": name, "cat": category, "pid": os.getpid(), "tid": record.thread, "args": args}
        event["ts"] = (record.start - self._begun) / 1000
        self.events.append(event)
        return event

    def _count(self, record: Record, counters: dict[str, dict[str, int]]) -> None:
        at = (record.end - self._begun) / 1000
        for name, values in counters.items():
            self.events.append({"ph": "C", "name": name, "pid": os.getpid(), "ts": at, "args": values})

    def _opened(self, record: Record) -> None:
        kind, path, kernel, device = _text(record).split("\0")
        self._files[record.fd] = kind, device or path
        args = {"fd": record.fd, "kind": kind, "on": path, "kernel": kernel, "device": device}
        self._event(record, f"open {path}", "descriptor", args, lasts=False)

    def _closed(self, record: Record) -> None:
        args = {"fd": record.fd, "kind": "closed", "on": _text(record)}
        self._event(record, f"close {_text(record)}", "descriptor", args, lasts=False)
        self._count(record, self._counters.closed(record.fd))

    def _explained(self, record: Record) -> None:
        label, reason, advice = json.loads(_text(record))
        if (event := self._refused.pop((record.thread, label.split()[0]), None)) is not None:
            event["args"] |= {"reason": reason, "advice": advice}

    def _named(self, record: Record) -> None:
        name, _, description = _text(record).partition("\0")
        self._regions[record.fd] = name, description

    def _accessed(self, record: Record) -> None:
        index, offset, given, gave, failed = ACCESS_DATA.unpack(record.before)
        kind, method = ACCESSES[index]
        name, description = self._regions[record.fd]
        stores = "store" in method or "write" in method
        args: dict[str, Any] = {"on": description, "offset": hex(offset), "mapped": kind is region.RegionMapping}
        if method in ("read", "write"):
            args["size"] = given
        elif stores:
            args["value"] = hex(given)
        args["result"] = outcome(-gave) if failed else "ok" if stores else gave if method == "read" else hex(gave)
        self._event(record, f"{method.strip('_')} {name} {offset:#x}", "region", args, lasts=True)

    def _requested(self, record: Record) -> None:
        kind, path = self._files.get(record.fd, ("", f"descriptor {record.fd}"))
        number = record.request
        name = f"{abi.name(kind, number)} {operation(kind, number, record.before)}".rstrip()
        given = decode_struct(kind, number, record.before)
        args: dict[str, Any] = {"on": path, "fd": record.fd, "result": outcome(record.result), "in": given}
        if record.after:
            changed = decode_struct(kind, number, record.after)
            args["out"] = {field: value for field, value in changed.items() if value != given.get(field)}
        raw = {"kind": kind, "request": number, "argument": hex(record.argument), "result": record.result}
        args["raw"] = raw | {"before": record.before.hex(), "after": record.after.hex(), "input": record.input.hex()}
        event = self._event(record, name, kind or "request", args, lasts=True)
        if record.result < 0:
            self._refused[record.thread, name.split()[0]] = event
        self._count(record, self._counters.follow(name, record))


def _text(record: Record) -> str:
    return record.before.decode(errors="surrogateescape")


def decode(records: Iterable[Record], threads: dict[int | None, str], begun: int) -> list[dict[str, Any]]:
    """Return the events of records in the order of time.

    :param threads: native id -> name of the threads that still run
    :param begun: when the trace began, in nanoseconds
    """
    decoder = _Decoder(begun)
    for record in records:
        decoder.add(record)
    process = os.path.basename(sys.argv[0]) or "python"
    named = [("process_name", os.getpid(), process)]
    named += [("thread_name", one, threads.get(one, f"thread {one}")) for one in sorted(decoder.threads)]
    names = [
        {"ph": "M", "name": kind, "pid": os.getpid(), "tid": thread, "args": {"name": name}}
        for kind, thread, name in named
    ]
    return names + sorted(decoder.events, key=lambda event: float(event["ts"]))


def write(file: Path, events: list[dict[str, Any]]) -> None:
    """Write events to a file, one on each line."""
    lines = ",\n".join(json.dumps(event) for event in events)
    file.write_text(f'{{"displayTimeUnit": "ns", "traceEvents": [\n{lines}\n]}}\n')
