# SPDX-License-Identifier: MIT
"""Closing from another thread or a signal handler while a call is in progress; asyncio; descriptor numbers that are reused."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import pyvfio
from pyvfio import Device, host, mock
from pyvfio._abi import lib
from pyvfio._buffer import Door, in_call
from pyvfio._core.fd import Fd
from pyvfio.irq import Vector
from pyvfio.kernel import LinuxKernel
from pyvfio.migration import State

LIMIT = 60


@pytest.fixture
def vector(device: Device) -> Vector:
    return device.irqs[0].enable()[0]


def outcome(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start a thread that makes a call. Return the thread, and a list that gets the result or exception."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, result


def close_during(call: Callable[[], Any], close: Callable[[], None]) -> Any:
    """Return the outcome of a call that waits while its object is closed."""
    thread, result = outcome(call)
    time.sleep(0.05)
    assert thread.is_alive()
    close()
    thread.join(LIMIT)
    assert not thread.is_alive()
    return result[0]


# --- waits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 60])
def test_closing_a_vector_ends_its_wait(vector: Vector, timeout: float | None) -> None:
    assert isinstance(close_during(lambda: vector.wait(timeout), vector.close), pyvfio.Closed)


def test_closing_a_device_ends_every_wait(device: Device, vector: Vector) -> None:
    waits = [outcome(vector.wait) for _ in range(4)]
    time.sleep(0.05)
    device.close()
    for thread, result in waits:
        thread.join(LIMIT)
        assert isinstance(result[0], pyvfio.Closed)


def test_closing_a_migration_stream_ends_its_poll(device: Device) -> None:
    migration = device.migration
    migration.state = State.PRE_COPY if migration.has_pre_copy else State.RESUMING
    stream = migration.stream
    while stream.readable() and stream.read(1 << 20):
        pass
    real = stream._fd.kernel
    number = stream.fileno()
    poll = os.eventfd(0)  # a descriptor that never becomes ready, like a device without data

    def nothing(fd: int, events: int, timeout: float | None, waker: int) -> int:
        assert fd == number
        return type(real).poll_with_waker(real, poll, events, timeout, waker)

    real.poll_with_waker = nothing  # type: ignore[method-assign]
    try:
        assert isinstance(close_during(lambda: stream._fd.poll(1, None), stream.close), pyvfio.Closed)
    finally:
        os.close(poll)
        device.reset()


def test_closing_a_fault_queue_ends_its_read(kernel: mock.Kernel) -> None:
    with pyvfio.Iommufd(kernel=kernel) as iommufd:
        queue = iommufd.fault_queue()
        assert isinstance(close_during(lambda: queue.read(None), queue.close), pyvfio.Closed)


def test_closing_the_changes_of_the_host_ends_their_wait(kernel: mock.Kernel) -> None:
    changes = host.Changes(kernel)
    assert isinstance(close_during(changes.wait, changes.close), pyvfio.Closed)


def test_a_handler_may_close_what_its_thread_waits_for(vector: Vector) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: vector.close())
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(pyvfio.Closed):
            vector.wait(LIMIT)
    finally:
        signal.signal(signal.SIGALRM, before)


# --- numbers ------------------------------------------------------------------------------------------------------------


def test_a_wait_never_reads_from_another_file(device: Device, vector: Vector) -> None:
    """H4 b: during a wait, a signal handler closes the eventfd, and a pipe gets its number."""
    number = vector.fileno()
    pipe: list[int] = []

    def reuse(*_: object) -> None:
        vector.close()
        pipe.extend(os.pipe())
        os.write(pipe[1], b"data of somebody else's")

    before = signal.signal(signal.SIGALRM, reuse)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(pyvfio.Closed):
            vector.wait(LIMIT)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert number not in pipe
    os.set_blocking(pipe[0], False)
    assert os.read(pipe[0], 100) == b"data of somebody else's"
    for end in pipe:
        os.close(end)


def test_a_transfer_in_pieces_never_goes_to_another_file(kernel: mock.Kernel, device: Device) -> None:
    """H4 c: the device is closed between two pieces of a write, and a file gets its number."""
    region = next(region for region in device.regions if region.writable and region.size >= 64)
    number = device.fileno()
    victims = []

    def pwrite(fd: int, data: Any, offset: int) -> int:
        assert fd == number
        thread, _ = outcome(device.close)
        while not device._fd.closed:
            time.sleep(0.001)
        victims.append((os.memfd_create("victim"), thread))
        return 4

    kernel.pwrite = pwrite
    with pytest.raises(pyvfio.Closed):
        region.write(0, bytes(range(16)))
    ((victim, thread),) = victims
    thread.join(LIMIT)
    assert victim != number
    assert os.fstat(victim).st_size == 0
    os.close(victim)


def test_the_number_is_closed_by_the_last_call_to_end() -> None:
    closed: list[int] = []
    door = Door(SimpleNamespace(close=closed.append))
    door.take(lambda: 77)
    entered, go = threading.Event(), threading.Event()

    def work(number: int) -> int:
        entered.set()
        go.wait(LIMIT)
        return number

    thread, result = outcome(lambda: door.call(work))
    entered.wait(LIMIT)
    assert door.shut() is False
    assert closed == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        door.call(work)
    go.set()
    thread.join(LIMIT)
    assert result == [77]
    assert closed == [77]
    assert door.shut() is True
    assert not in_call()


def test_a_descriptor_is_owned_if_a_handler_raises_afterwards() -> None:
    closed: list[int] = []
    door = Door(SimpleNamespace(close=closed.append))
    door.take(lambda: 77)
    del door
    assert closed == [77]


def test_a_python_kernel_may_close_the_device_that_it_serves(
    kernel: mock.Kernel, left: Callable[[], list[str]]
) -> None:
    device = pyvfio.open("vfio-mock.0", mode="type1v2", kernel=kernel)
    real = kernel.ioctl

    def ioctl(fd: int, request: int, argument: int) -> int:
        if request & 0xFFFFFFFF == lib.VFIO_DEVICE_RESET:
            device.close()
        return real(fd, request, argument)

    kernel.ioctl = ioctl  # type: ignore[method-assign]
    device.reset()
    assert device.closed
    assert left() == []


def test_a_failing_close_is_raised_by_who_waited_for_it() -> None:
    class Failing(LinuxKernel):
        def close(self, fd: int) -> None:
            os.close(fd)
            raise OSError(5, "close")

    fd = Fd.take(Failing(), "device", "failing", os.eventfd, 0)
    with pytest.raises(OSError, match="close"):
        fd.close()
    fd.close()


# --- asyncio ------------------------------------------------------------------------------------------------------------


def test_closing_from_another_thread_ends_wait_async(vector: Vector) -> None:
    async def program() -> None:
        threading.Timer(0.05, vector.close).start()
        async with asyncio.timeout(LIMIT):
            with pytest.raises(pyvfio.Closed):
                await vector.wait_async()

    asyncio.run(program(), debug=True)


def test_two_loops_wait_for_one_vector(vector: Vector) -> None:
    got: list[int] = []

    async def program() -> None:
        async with asyncio.timeout(LIMIT):
            got.append(await vector.wait_async())

    threads = [threading.Thread(target=lambda: asyncio.run(program(), debug=True)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        time.sleep(0.05)
        before = len(got)
        vector.trigger()
        while len(got) == before:
            time.sleep(0.001)
    for thread in threads:
        thread.join(LIMIT)
    assert got == [1, 1]


def test_a_reused_number_is_watched_anew(device: Device, vector: Vector) -> None:
    async def program() -> None:
        waiting = asyncio.create_task(vector.wait_async())
        await asyncio.sleep(0.02)
        vector.close()
        (again,) = device.irqs[0].enable()
        asyncio.get_running_loop().call_later(0.05, again.trigger)
        async with asyncio.timeout(LIMIT):
            assert await again.wait_async() == 1
            with pytest.raises(pyvfio.Closed):
                await waiting

    asyncio.run(program(), debug=True)


def test_cancelled_waits_leave_nothing(vector: Vector) -> None:
    before = set(os.listdir("/proc/self/fd"))

    async def program() -> None:
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await vector.wait_async()
        vector.trigger()
        assert await vector.wait_async() == 1

    asyncio.run(program(), debug=True)
    assert set(os.listdir("/proc/self/fd")) <= before  # earlier threads may be closing some
    assert not vector._wakers
