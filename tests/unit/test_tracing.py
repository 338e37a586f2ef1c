# SPDX-License-Identifier: MIT
"""Traces of requests: the contents of the file, the time of tracing, and replays of traces."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

import pyvfio
from pyvfio import abi, mock, region, tracing
from pyvfio._abi import ffi, lib
from pyvfio._core import fd as descriptors
from pyvfio.migration import State
from pyvfio.spaces.opening import Mode
from pyvfio.tracing.__main__ import main
from pyvfio.tracing.records import outcome

DEVICE = "vfio-mock.0"
EDU = "0000:00:03.0"
MODES = ("type1v2", "iommufd")


def work(kernel: mock.Kernel, mode: Mode) -> None:
    """Open two devices and use most kinds of request."""
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode=mode, kernel=kernel) as device:
        space = device.address_space
        mapping = space.alloc(8192, 0x100000)
        with pytest.raises(OSError, match="HyperTransport"):
            space.map(mapping.buffer, 0xFD_0000_0000)
        device.irqs.msi.enable()
        assert device.regions[0].read32(0) == 0x10000ED
        device.irqs.msi.disable()
        mapping.unmap()
    with pyvfio.open(DEVICE, mode=mode, kernel=kernel) as device:
        mapping = device.address_space.alloc(1 << 16, 0x200000)
        with device.dirty_log([mapping.range]) as log:
            log.read()
        device.migration.state = State.STOP_COPY
        device.migration.stream.read(100)
        device.migration.state = State.RUNNING


def recorded(tmp_path: Path, mode: Mode, **fields: Any) -> Path:
    file = tmp_path / f"{mode}.json"
    with tracing.trace(file):
        work(mock.Kernel("amd", **fields), mode)
    return file


def counted(file: Path, name: str, unit: str) -> list[int]:
    """Return the values of a counter in chronological order."""
    return [event["args"][unit] for event in tracing.load(file) if event["name"] == name and event["ph"] == "C"]


def named(file: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in tracing.load(file) if event["name"].startswith(name)]


# --- the file -------------------------------------------------------------------------------------------------------------


def test_a_request_is_an_event_with_its_decoded_struct(tmp_path: Path) -> None:
    file = recorded(tmp_path, "type1v2")
    first, refused = named(file, "VFIO_IOMMU_MAP_DMA")[:2]
    assert first["ph"] == "X"
    assert first["tid"] == threading.get_native_id()
    assert {field: first["args"]["in"][field] for field in ("argsz", "flags", "iova", "size")} == {
        "argsz": 32,
        "flags": 3,
        "iova": 0x100000,
        "size": 8192,
    }
    assert first["args"]["result"] == 0
    assert refused["args"]["result"] == "EINVAL"
    assert "HyperTransport" in refused["args"]["reason"]
    assert any("nearest ranges" in line for line in refused["args"]["advice"])


def test_a_changed_field_is_shown_and_a_features_own_struct(tmp_path: Path) -> None:
    file = recorded(tmp_path, "iommufd")
    (alloc, *_) = named(file, "IOMMU_IOAS_ALLOC")
    assert alloc["args"]["out"] == {"out_ioas_id": 1}
    (change,) = named(file, "VFIO_DEVICE_FEATURE SET MIG_DEVICE_STATE STOP_COPY")
    assert change["args"]["in"]["data"]["device_state"] == State.STOP_COPY
    assert change["args"]["out"]["data"]["data_fd"] > 2


@pytest.mark.parametrize("mode", MODES)
def test_counters_follow_what_is_mapped(tmp_path: Path, mode: Mode) -> None:
    file = recorded(tmp_path, mode)
    # The second mapping is not unmapped: it ends with its address space.
    assert counted(file, "pinned", "bytes") == [8192, 0, 1 << 16, 0]
    assert counted(file, "mappings", "count") == [1, 0, 1, 0]


def test_a_copy_is_a_mapping_and_pins_nothing(tmp_path: Path) -> None:
    file = tmp_path / "copy.json"
    with tracing.trace(file), pyvfio.Iommufd(kernel=mock.Kernel("amd")) as iommufd:
        first, second = iommufd.ioas(), iommufd.ioas()
        mapping = first.alloc(4096, 0)
        second.copy(mapping)
        second.close()
        first.unmap_all()
    assert counted(file, "pinned", "bytes") == [4096, 4096, 4096, 0]
    assert counted(file, "mappings", "count") == [1, 2, 1, 0]


def test_dirty_pages_are_counted(tmp_path: Path) -> None:
    file, kernel = tmp_path / "dirty.json", mock.Kernel("mlx5")
    address = next(one.address for one in pyvfio.host.devices(kernel) if one.driver == "mlx5_vfio_pci")
    with tracing.trace(file), pyvfio.open(address, mode="type1v2", kernel=kernel) as device:
        mapping = device.address_space.alloc(1 << 22)
        with device.dirty_log([mapping.range]) as log:
            device.config.bus_master = True
            count = max(log.read().count() for _ in range(20))
    dirty = counted(file, "dirty", "pages")
    assert len(dirty) == 20
    assert max(dirty) == count


def test_an_unmap_counts_dirty_pages_and_mappings(tmp_path: Path) -> None:
    file = tmp_path / "dirty.json"
    with tracing.trace(file), pyvfio.open(DEVICE, mode="type1v2", kernel=mock.Kernel("amd")) as device:
        space = device.address_space
        assert isinstance(space, pyvfio.Container)
        mapping = space.alloc(4096, 0)
        space.start_dirty_tracking()
        space.unmap_dirty(mapping.iova, mapping.size)
    assert counted(file, "mappings", "count") == [1, 0]
    assert counted(file, "dirty", "pages") == [0]


def test_batches_are_traced_row_by_row(tmp_path: Path) -> None:
    file = tmp_path / "batch.json"
    with tracing.trace(file), pyvfio.open(DEVICE, mode="type1v2", kernel=mock.Kernel("amd")) as device:
        buffer = pyvfio.DmaBuffer(8 * 4096)
        rows = array("Q", [value for n in range(8) for value in (buffer.address + n * 4096, n * 4096, 4096)])
        device.address_space.map_many(rows, keep=buffer).unmap()
    assert len(named(file, "VFIO_IOMMU_MAP_DMA")) == 8
    assert len(named(file, "VFIO_IOMMU_UNMAP_DMA")) == 8


def test_register_accesses_are_traced(tmp_path: Path) -> None:
    (load, *_) = named(recorded(tmp_path, "type1v2"), "load")
    assert load["name"] == "load BAR0 0x0"
    assert load["args"]["on"] == f"<Region BAR0 of {EDU}>"
    assert load["args"]["result"] == hex(0x10000ED)


def test_time_starts_with_the_trace(tmp_path: Path) -> None:
    begun = time.monotonic()
    file = recorded(tmp_path, "iommufd")
    took = (time.monotonic() - begun) * 1e6
    times = [event["ts"] for event in tracing.load(file) if "ts" in event]
    assert 0 <= times[0] <= times[-1] <= took
    assert times == sorted(times)


def test_threads_have_names(tmp_path: Path) -> None:
    file = tmp_path / "threads.json"
    kernel = mock.Kernel("amd")
    with tracing.trace(file), pyvfio.open(DEVICE, mode="type1v2", kernel=kernel) as device:
        done = threading.Event()

        def other() -> None:
            device.reset()
            done.wait(60)

        thread = threading.Thread(target=other, name="the other")
        thread.start()
        while not thread.native_id:
            pass
        done.set()
        thread.join()
        device.reset()
    resets = named(file, "VFIO_DEVICE_RESET")
    assert len({event["tid"] for event in resets}) == 2


def test_a_bad_pointer_is_no_end_of_the_program(tmp_path: Path) -> None:
    tracing.start(careful=True)
    with pyvfio.address_space("iommufd", kernel=mock.Kernel("amd")) as space:
        for address in (0, 1, 1 << 46):
            assert space._fd.ioctl(abi.number("IOMMU_DESTROY"), ffi.cast("void *", address)) < 0
    tracing.stop(tmp_path / "bad.json")
    assert [event["args"]["result"] for event in named(tmp_path / "bad.json", "IOMMU_DESTROY")][:3] == ["EFAULT"] * 3


# --- on and off -----------------------------------------------------------------------------------------------------------


def test_without_a_trace_every_way_is_as_before() -> None:
    before = {name: region.Region.__dict__[name] for name in ("_load", "_store", "read", "write")}
    tracing.start()
    assert region.Region.__dict__["_load"] is not before["_load"]
    tracing.forget()
    assert {name: region.Region.__dict__[name] for name in before} == before
    assert "read32" not in region.RegionMapping.__dict__
    assert descriptors.connected is None


def test_files_open_at_the_beginning_are_traced_until_the_end(tmp_path: Path) -> None:
    with pyvfio.open(DEVICE, mode="type1v2", kernel=mock.Kernel("amd")) as device:
        with tracing.trace(tmp_path / "one.json"):
            device.reset()
        device.reset()
        with tracing.trace(tmp_path / "two.json"):
            device.reset()
    for name in ("one", "two"):
        (reset,) = named(tmp_path / f"{name}.json", "VFIO_DEVICE_RESET")
        assert reset["args"]["on"] == DEVICE


def test_two_traces_at_once_are_refused(tmp_path: Path) -> None:
    with tracing.trace(tmp_path / "one.json"), pytest.raises(RuntimeError, match="a trace is on already"):
        tracing.start()
    with pytest.raises(RuntimeError, match="no trace is on"):
        tracing.stop(tmp_path / "none.json")


def test_a_program_is_traced_by_its_environment(tmp_path: Path) -> None:
    code = f"import pyvfio; pyvfio.open({DEVICE!r}, mode='type1v2').close()"
    environment = {**os.environ, "PYVFIO_TRACE": str(tmp_path / "%p.json"), "PYVFIO_KERNEL": "mock:amd"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
    (file,) = tmp_path.iterdir()
    assert named(file, "VFIO_DEVICE_GET_INFO")


def test_a_forked_child_traces_nothing(tmp_path: Path) -> None:
    file = tmp_path / "forked.json"
    with tracing.trace(file), pyvfio.open(DEVICE, mode="type1v2", kernel=mock.Kernel("amd")) as device:
        child = os.fork()
        if not child:
            code = 1
            try:
                pyvfio.address_space("iommufd", kernel=mock.Kernel("amd")).close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        device.reset()
    assert not named(file, "IOMMU_IOAS_ALLOC")
    assert named(file, "VFIO_DEVICE_RESET")


def test_a_watch_tells_each_different_outcome_once() -> None:
    tracing.start(regions=False)
    try:
        watch = tracing.Watch()
        with pyvfio.open(DEVICE, mode="type1v2", kernel=mock.Kernel("amd")) as device:
            with pytest.raises(OSError, match="MAP_DMA"):
                device.address_space.map(bytearray(1), 0)
            device.reset()
        outcomes = watch.outcomes()
        assert ("container", "VFIO_IOMMU_MAP_DMA", "", "EINVAL") in outcomes
        assert ("device", "VFIO_DEVICE_RESET", "", "ok") in outcomes
        assert watch.outcomes() == set()
    finally:
        tracing.forget()


# --- once more ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_trace_gives_the_same_answers_on_the_same_kernel(tmp_path: Path, mode: Mode) -> None:
    events = tracing.load(recorded(tmp_path, mode))
    kernel = mock.Kernel("amd")
    again = tracing.Replay(kernel)
    assert list(again.run(events)) == []
    assert again.skipped == []
    assert again.made == sum("raw" in event.get("args", {}) for event in events) > 20
    assert not any(file.kind == "device" for file in kernel.files.values())
    assert pyvfio.host.device(EDU, kernel).driver != "vfio-pci"


@pytest.mark.parametrize("mode", MODES)
def test_another_kernels_answers_are_named(tmp_path: Path, mode: Mode) -> None:
    events = tracing.load(recorded(tmp_path, mode))
    differences = list(tracing.Replay(mock.Kernel("smmu-64k")).run(events))
    first = differences[0]
    assert first.request in ("VFIO_IOMMU_MAP_DMA", "IOMMU_IOAS_MAP")
    assert (first.traced, first.replayed) == (0, "EINVAL")
    assert "the trace has 0, this kernel answers EINVAL" in str(first)


def test_a_limit_that_the_other_kernel_has_shows(tmp_path: Path) -> None:
    events = tracing.load(recorded(tmp_path, "type1v2"))
    differences = list(tracing.Replay(mock.Kernel("amd", memlock=4096)).run(events))
    assert differences[0].replayed == "ENOMEM"


def test_a_device_that_is_not_there_is_replaced(tmp_path: Path) -> None:
    events = json.loads(json.dumps(tracing.load(recorded(tmp_path, "iommufd"))).replace(EDU, "0000:41:10.1"))
    again = tracing.Replay(mock.Kernel("amd"), {"0000:41:10.1": EDU})
    assert list(again.run(events)) == []
    assert again.skipped == []


def test_the_command_prints_the_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = recorded(tmp_path, "type1v2")
    assert main(["replay", str(file), "--kernel", "mock:amd"]) == 0
    assert "0 answered otherwise, 0 skipped" in capsys.readouterr().out
    assert main(["replay", str(file), "--kernel", "mock:smmu-64k"]) == 1
    assert "VFIO_IOMMU_MAP_DMA on /dev/vfio/vfio: the trace has 0" in capsys.readouterr().out


def test_an_errno_is_shown_by_the_kernels_name() -> None:
    assert outcome(-errno.EOPNOTSUPP) == "EOPNOTSUPP"
    assert outcome(7) == 7


def test_a_report_into_memory_that_is_not_there_is_traced(tmp_path: Path) -> None:
    with pyvfio.open("vfio-mock.0", kernel=mock.Kernel("amd")) as device, tracing.trace(tmp_path / "trace.json"):
        mapping = device.address_space.alloc(1 << 16)
        report = ffi.new("struct vfio_device_feature_dma_logging_report *", (mapping.iova, mapping.size, 4096, 0))
        request = lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | lib.VFIO_DEVICE_FEATURE_GET
        with device.dirty_log([mapping.range]):
            device.features.exchange(request, report)
    assert "DMA_LOGGING_REPORT" in (tmp_path / "trace.json").read_text()
