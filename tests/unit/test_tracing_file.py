# SPDX-License-Identifier: MIT
"""The events of a trace, and its replay on a kernel with other descriptors and ids."""

from __future__ import annotations

import errno
import gc
import json
import os
import struct
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import pyvfio
from pyvfio import Iommufd, mock, tracing
from pyvfio._abi import ffi, lib
from pyvfio.memory import DmaBuffer
from pyvfio.migration import State
from pyvfio.tracing import records, replay

PAGE = 4096
MOCK = "vfio-mock.0"
EDU = "0000:00:03.0"
IDS = replay._ID_FIELDS
FDS = replay._FD_FIELDS


def told(event: dict[str, Any]) -> str:
    """Return an event as a line, without values that depend on the run."""
    args = event["args"]
    match event["ph"], event["cat"]:
        case "C", _:
            [(unit, value)] = args.items()
            return f"{event['name']} {unit} {value}"
        case "M", _:
            return f"thread {args['name']}"
        case "i", _:
            return f"{event['name'].partition(' ')[0]} {args['kind']} {args['on']} {args.get('device', '')}".rstrip()
        case _, "region":
            rest = {name: value for name, value in args.items() if name != "on"}
            return f"{event['name'].split()[0]} {args['on']} {rest}"
    given = {name: value for name, value in args["in"].items() if value and name in ("iova", "size", "flags", "length")}
    out = f" -> {args['out']}" if args.get("out") else ""
    reason = f": {args['reason']}" if args.get("reason") else ""
    return f"{event['name']} on {args['on']} {given}{out} = {args['result']}{reason}"


def listed(events: list[dict[str, Any]]) -> list[str]:
    """Return the lines of events."""
    return [told({"cat": ""} | event) for event in events]


def test_a_trace_tells_what_happened_in_its_order(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    kernel = mock.Kernel("amd")
    gc.collect()  # what other tests have dropped is closed now, not during the trace
    with tracing.trace(file), pyvfio.open(MOCK, mode="type1v2", kernel=kernel) as device:
        space = device.address_space
        mapping = space.map(DmaBuffer(2 * PAGE), 0x100000)
        other = space.map(DmaBuffer(PAGE), 0x200000)
        with pytest.raises(OSError, match="VFIO_IOMMU_MAP_DMA"):
            space.map(mapping.buffer, 0x101000)
        other.unmap()
        space.unmap_all()
        with device.regions[1].mmap() as memory:
            memory.write32(8, 0xFFFFFFFF)
            assert memory.read32(8) == 0xFFFFFFFF
        device.regions[1].write(16, b"abcd")
        assert device.regions[1].read(16, 2) == b"ab"
        device.regions[3].write16(2, 7)
        with pytest.raises(OSError, match="pread"):
            device.regions[0].read8(0)
    lines = [line for line in listed(tracing.load(file)) if not line.startswith("VFIO_DEVICE_GET")]
    region = f"<Region {{}} of {MOCK}>"
    mapped = f"<RegionMapping 0x0+0x100000 of <Region 1 of {MOCK}>>"
    first = next(line for line in lines if not line.startswith("thread"))
    # Threads are sorted by their ids, which begin again from low ones at times.
    assert f"thread {threading.current_thread().name}" in lines
    assert first == "open container /dev/vfio/vfio"
    closes = [line for line in lines if line.startswith("close")]
    assert (closes[0], closes[-1], len(closes)) == (f"close closed {MOCK}", "close closed /dev/vfio/vfio", 3)
    assert [
        line for line in lines if line.startswith(("VFIO_IOMMU_MAP", "VFIO_IOMMU_UNMAP", "pinned", "mappings"))
    ] == [
        "VFIO_IOMMU_MAP_DMA on /dev/vfio/vfio {'flags': 3, 'iova': 1048576, 'size': 8192} = 0",
        "pinned bytes 8192",
        "mappings count 1",
        "VFIO_IOMMU_MAP_DMA on /dev/vfio/vfio {'flags': 3, 'iova': 2097152, 'size': 4096} = 0",
        "pinned bytes 12288",
        "mappings count 2",
        "VFIO_IOMMU_MAP_DMA on /dev/vfio/vfio {'flags': 3, 'iova': 1052672, 'size': 8192} = EEXIST: it overlaps "
        "what is mapped at [0x100000, 0x101fff]",
        "VFIO_IOMMU_UNMAP_DMA on /dev/vfio/vfio {'iova': 2097152, 'size': 4096} = 0",
        "pinned bytes 8192",
        "mappings count 1",
        "VFIO_IOMMU_UNMAP_DMA ALL on /dev/vfio/vfio {'flags': 2} -> {'size': 8192} = 0",
        "pinned bytes 0",
        "mappings count 0",
    ]
    assert [line for line in lines if "<Region" in line] == [
        f"write32 {mapped} {{'offset': '0x8', 'mapped': True, 'value': '0xffffffff', 'result': 'ok'}}",
        f"read32 {mapped} {{'offset': '0x8', 'mapped': True, 'result': '0xffffffff'}}",
        f"write {region.format(1)} {{'offset': '0x10', 'mapped': False, 'size': 4, 'result': 'ok'}}",
        f"read {region.format(1)} {{'offset': '0x10', 'mapped': False, 'size': 2, 'result': 2}}",
        f"store {region.format(3)} {{'offset': '0x2', 'mapped': False, 'value': '0x7', 'result': 'ok'}}",
        f"load {region.format(0)} {{'offset': '0x0', 'mapped': False, 'result': 'EINVAL'}}",
    ]


def test_times_are_microseconds_in_order(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    with tracing.trace(file):
        pyvfio.open(MOCK, mode="type1v2", kernel=mock.Kernel("amd")).close()
    document = json.loads(file.read_text())
    assert document["displayTimeUnit"] == "ns"
    events = [event for event in document["traceEvents"] if "ts" in event]
    times = [event["ts"] for event in events]
    assert times == sorted(times)
    requests = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] > 0 for event in requests)
    # The requests follow each other in one thread, and took less than a minute together.
    assert all(one["ts"] + one["dur"] <= two["ts"] for one, two in pairwise(requests))
    assert times[-1] - times[0] < 60e6
    assert {event["tid"] for event in requests} == {threading.get_native_id()}


def test_an_iommufds_counters_are_those_of_its_spaces(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    with tracing.trace(file), Iommufd(kernel=mock.Kernel("amd")) as iommufd:
        one, two = iommufd.ioas(), iommufd.ioas()
        one.map(DmaBuffer(PAGE), 0x100000)
        two.map(DmaBuffer(2 * PAGE), 0x100000)
        two.map(DmaBuffer(PAGE), 0x200000)
        two.unmap(0x100000, 2 * PAGE)
        one.unmap_all()
    counted = [event for event in tracing.load(file) if event["ph"] == "C"]
    pinned = [event["args"]["bytes"] for event in counted if event["name"] == "pinned"]
    assert pinned[:5] == [PAGE, 3 * PAGE, 4 * PAGE, 2 * PAGE, PAGE]
    assert [event["args"]["count"] for event in counted if event["name"] == "mappings"][:5] == [1, 2, 3, 2, 1]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, 0), (-5, -5), ((1 << 31) - 1, (1 << 31) - 1), (1 << 31, "0x80000000"), (-(1 << 31), "-0x80000000")],
)
def test_numbers_that_javascript_would_round_are_hex(value: int, shown: int | str) -> None:
    assert records._shown(value) == shown


def test_arrays_are_shown_up_to_sixteen() -> None:
    assert records._shown(ffi.new("int[16]", list(range(16)))) == list(range(16))
    assert records._shown(ffi.new("int[17]")) == "..."
    assert records._shown(ffi.cast("void *", 0x1234)) == "0x1234"


def test_a_short_struct_is_shown_with_zeros_behind() -> None:
    data = struct.pack("=II", 8, 3)
    number = lib.VFIO_IOMMU_MAP_DMA
    assert records.decode_struct("container", number, data) == {
        "argsz": 8,
        "flags": 3,
        "vaddr": 0,
        "iova": 0,
        "size": 0,
    }
    assert records.decode_struct("container", 0x1234, data) == {}
    assert records.operation("container", number, data) == ""
    assert records.operation("device", lib.VFIO_DEVICE_FEATURE, b"") == ""


# --- a kernel that answers with other numbers -----------------------------------------------------------------------


class Shifted(mock.Kernel):
    """A mock whose descriptors and ids begin at higher numbers."""

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        fd = super().open(path, flags)
        if path == "/dev/iommu":
            for _ in range(3):
                native = ffi.new("struct iommu_ioas_alloc *", {"size": 12})
                assert super().ioctl(fd, lib.IOMMU_IOAS_ALLOC, int(ffi.cast("uintptr_t", native))) == 0
        return fd


def program(kernel: mock.Kernel) -> None:
    """Make requests with descriptors, ids and addresses in most of their possible places."""
    with Iommufd(kernel=kernel) as iommufd, iommufd.bind(EDU) as device:
        one, two = iommufd.ioas(), iommufd.ioas()
        mapping = one.map(DmaBuffer(4 * PAGE), 0x100000)
        two.copy(mapping, 0x300000)
        queue = iommufd.fault_queue()
        parent = one.hwpt(device, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT | lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
        device.attach(parent)
        parent.set_dirty_tracking(True)
        parent.read_dirty(mapping.range)
        viommu = pyvfio.iommufd.Viommu(parent, device, 0xDEADBEEF)
        viommu.vdevice(device, 0x10)
        viommu.event_queue(0xDEADBEEF, 8)
        device.irqs.msi.enable([0])
        device.irqs.msi.disable()
        device.detach()
        device.attach(two)
        queue.close()
    with pyvfio.open(MOCK, mode="iommufd", kernel=kernel) as device:
        mapping = device.address_space.alloc(1 << 16, 0x200000)
        with device.dirty_log([mapping.range]) as log:
            log.read()
        device.irqs[2].enable([0, 1])
        device.migration.state = State.STOP_COPY
        device.migration.state = State.RUNNING
    with pyvfio.open(MOCK, mode="type1v2", kernel=kernel) as device:
        mapping = device.address_space.alloc(PAGE, 0x200000)
        mapping.unmap()
    with pyvfio.open(MOCK, mode="iommufd-type1v2", kernel=kernel) as device:
        space = device.address_space
        assert isinstance(space, pyvfio.Container)
        space.alloc(PAGE, 0x200000)
        assert space.iommufd.vfio_ioas_id


def requests(file: Path) -> list[dict[str, Any]]:
    return [event for event in tracing.load(file) if "raw" in event.get("args", {})]


def fields(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field of a decoded struct, with its path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from fields(inner, f"{at}.{name}" if at else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from fields(inner, f"{at}.{index}")
    else:
        yield at, value


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The requests of a program, and those of the replay on a kernel with other numbers."""
    folder = tmp_path_factory.mktemp("traces")
    kernel = mock.Kernel("selftest")
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), tracing.trace(folder / "first.json"):
        program(kernel)
    shifted = Shifted("selftest")
    keep = [shifted.open("/dev/vfio/vfio") for _ in range(5)]
    with tracing.trace(folder / "second.json"):
        again = tracing.Replay(shifted)
        assert list(again.run(tracing.load(folder / "first.json"))) == []
        assert again.skipped == []
    for fd in keep:
        shifted.close(fd)
    # Requests that the test made on the shifted kernel before are not in the trace.
    return requests(folder / "first.json"), requests(folder / "second.json")


def test_a_replay_makes_the_same_requests(both: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
    first, second = both
    known = {event["args"]["raw"]["kind"] for event in first}
    assert {"container", "group", "device", "iommufd"} <= known
    assert [event["name"] for event in second] == [event["name"] for event in first]
    assert [event["args"]["raw"]["result"] >= 0 for event in second] == [
        event["args"]["raw"]["result"] >= 0 for event in first
    ]


def test_a_replay_translates_numbers_and_nothing_else(
    both: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> None:  # fmt: skip
    ids: dict[int, int] = {}
    seen: set[str] = set()
    for one, two in zip(*both, strict=True):
        here, there = dict(fields(one["args"]["in"])), dict(fields(two["args"]["in"]))
        assert list(here) == list(there)
        for path, value in here.items():
            name, other = path.rpartition(".")[2], there[path]
            if name in replay._MEMORY:
                # Both addresses have memory of the same kind, at the same offset in a page.
                assert bool(value) == bool(other), (one["name"], path)
                if isinstance(value, str) and isinstance(other, str):
                    assert int(value, 16) % PAGE == int(other, 16) % PAGE, (one["name"], path)
            elif name in IDS and value and not name.startswith("out_"):
                assert ids.setdefault(value, other) == other, (one["name"], path)
                seen.add(name)
            elif name in FDS and value not in (-1, 0):
                assert value != other or name == "data_fd", (one["name"], path)
                seen.add(name)
            elif not name.startswith("out_"):
                assert value == other, (one["name"], path)
    assert {"ioas_id", "dst_ioas_id", "src_ioas_id", "dev_id", "pt_id", "hwpt_id", "viommu_id", "id", "iommufd"} <= seen
    assert all(other == value + 3 for value, other in ids.items()), (
        "ids are those of the kernel with three more objects"
    )


def test_a_replay_says_what_it_cannot_open(tmp_path: Path) -> None:
    file = tmp_path / "first.json"
    with tracing.trace(file):
        pyvfio.open(MOCK, mode="type1v2", kernel=mock.Kernel("amd")).close()
    bare = mock.Kernel("amd")
    bare.failures.fail(errno.EMFILE, call="/dev/vfio/vfio")
    events = tracing.load(file)
    opening = next(event for event in events if event.get("args", {}).get("kind") == "container")
    opening["args"]["on"] = "/dev/none"
    again = tracing.Replay(bare)
    list(again.run(events))
    assert again.skipped[0].startswith("open /dev/none: ")
    assert any("its descriptor could not be opened" in line for line in again.skipped)
    assert not bare.files
