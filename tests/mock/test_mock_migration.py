# SPDX-License-Identifier: MIT
"""Migration of vfio-mock on the mock, through the library's objects. The contract suite has further tests."""

from __future__ import annotations

import errno
import io
import select
import time
from collections.abc import Iterator

import pytest

import pyvfio
from pyvfio import Device, mock
from pyvfio.migration import State
from pyvfio.mock.vfio.migration import next_state
from pyvfio.vfio_mock import VfioMock

PAGE = 4096
MEMORY = 1
ALL = 7


@pytest.fixture
def source(kernel: mock.Kernel) -> Iterator[Device]:
    with pyvfio.open("vfio-mock.0", kernel=kernel) as device:
        yield device


@pytest.fixture
def target(kernel: mock.Kernel) -> Iterator[Device]:
    with pyvfio.open("vfio-mock.1", kernel=kernel) as device:
        yield device


def saved(device: Device) -> bytes:
    file = io.BytesIO()
    device.migration.save(file)
    return file.getvalue()


@pytest.mark.parametrize("flags", [1, 3, 5, 7])
def test_ways_are_those_that_the_library_works_out(flags: int) -> None:
    # The contract suite compares pyvfio.migration.path with the real kernel.
    from pyvfio.migration import path, states

    for origin in states(flags):
        for target in states(flags):
            try:
                expected = list(path(origin, target, flags))
            except ValueError:
                with pytest.raises(Exception, match="EINVAL"):
                    next_state(flags, origin, target)
                continue
            way, state = [], int(origin)
            while state != target:
                state = next_state(flags, state, target)
                way.append(state)
            assert way == expected, (origin, target)


def test_memory_and_registers_arrive(source: Device, target: Device) -> None:
    source.regions[MEMORY].write(5 * PAGE + 3, b"payload")
    source.regions[3].write(0, b"typed")
    VfioMock(source)["SCRATCH64"] = 0x1122334455667788
    target.migration.load(io.BytesIO(saved(source)))
    assert target.regions[MEMORY].read(5 * PAGE + 3, 7) == b"payload"
    assert target.regions[3].read(0, 5) == b"typed"
    assert VfioMock(target)["SCRATCH64"] == 0x1122334455667788


def test_a_job_goes_on_in_the_other_device_where_it_was(source: Device, target: Device) -> None:
    here, there = source.address_space.alloc(16 * PAGE), target.address_space.map(pyvfio.DmaBuffer(16 * PAGE), 0x500000)
    engine = VfioMock(source)
    source.address_space.map(here.buffer, 0x500000)
    engine["DMA_DELAY"] = 20_000
    engine.start("TOUCH", iova=0x500000, length=16 * PAGE, stride=PAGE, pattern=9)
    limit = time.monotonic() + 60
    while engine["DMA_STEPS"] < 2:
        assert time.monotonic() < limit
    stream = saved(source)
    steps = engine["DMA_STEPS"]
    target.migration.load(io.BytesIO(stream))
    target.migration.state = State.RUNNING
    other = VfioMock(target)
    other.finish()
    assert other["DMA_STEPS"] == 16
    done = [n for n in range(16) if there.buffer.view[n * PAGE]]
    assert done == list(range(steps, 16))


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data[:64], lambda data: data + data, lambda data: b""]
)
def test_a_bad_stream_ends_in_error_until_a_reset(source: Device, target: Device, change: object) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        target.migration.load(io.BytesIO(change(saved(source))))  # type: ignore[operator]
    target.reset()
    assert target.migration.state == State.RUNNING


def test_with_pre_copy_the_stop_sends_what_was_written_meanwhile(source: Device) -> None:
    migration = source.migration
    migration.state = State.PRE_COPY
    stream = migration.stream
    assert stream is not None
    while stream.read(1 << 20):
        pass
    assert not select.select([stream], [], [], 0)[0]
    info = migration.precopy_info
    assert (info.initial_bytes, info.dirty_bytes) == (0, 0)
    source.regions[MEMORY].write(0, b"again")
    assert select.select([stream], [], [], 1)[0]
    assert migration.precopy_info.dirty_bytes == PAGE + 32
    migration.state = State.STOP_COPY
    rest = b""
    while part := stream.read(1 << 20):
        rest += part
    assert len(rest) == (32 + PAGE) + (32 + 256) + (32 + 8)


def test_what_is_mapped_is_sent_whole_at_the_stop(source: Device) -> None:
    mapped = source.regions[3].mmap(0x2000)
    migration = source.migration
    migration.state = State.PRE_COPY
    stream = migration.stream
    assert stream is not None
    while stream.read(1 << 20):
        pass
    mapped.close()
    migration.state = State.STOP_COPY
    assert migration.data_size == 4 * (32 + PAGE) + (32 + 256) + (32 + 8)


def test_a_failed_step_leaves_the_state_before_it(source: Device) -> None:
    engine = VfioMock(source)
    engine.fail("MIG_SET_STATE", 2, errno.ENOMEM)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        source.migration.state = State.STOP_COPY
    assert source.migration.state == State.RUNNING_P2P
    engine.fail("MIG_SET_STATE", 1, errno.ENOTRECOVERABLE)
    with pytest.raises(OSError, match="not recoverable"):
        source.migration.state = State.STOP
    assert source.migration.state == State.ERROR
    assert engine["MIG_STATE"] == State.ERROR
