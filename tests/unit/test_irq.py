# SPDX-License-Identifier: MIT
"""Waiting for interrupts: timeouts, signals, threads, asyncio, and a close during a wait."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

import pyvfio
from pyvfio import Device
from pyvfio.irq import Vector

pytestmark = pytest.mark.vfio(device="0000:00:04.0")


@pytest.fixture
def vector(device: Device) -> Vector:
    return device.irqs.msix.enable()[0]


def seconds_until_timeout(vector: Vector, timeout: float) -> float:
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        vector.wait(timeout)
    return time.monotonic() - begun


# --- wait ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.01, 60, None])
def test_wait_returns_past_interrupts_at_once_and_counts_them(vector: Vector, timeout: float | None) -> None:
    vector.trigger()
    vector.trigger()
    vector.trigger()
    assert vector.wait(timeout) == 3


@pytest.mark.parametrize("timeout", [0, -1, -0.001])
def test_wait_without_time_only_polls(vector: Vector, timeout: float) -> None:
    assert seconds_until_timeout(vector, timeout) < 1


@pytest.mark.parametrize("timeout", [0.0001, 0.02, 0.1])
def test_wait_times_out_after_its_limit(vector: Vector, timeout: float) -> None:
    waited = seconds_until_timeout(vector, timeout)
    assert timeout <= waited < timeout + 60


def test_timeout_error_names_vector_and_limit(vector: Vector) -> None:
    with pytest.raises(TimeoutError, match=r"0000:00:04\.0 msix\[0\]: no interrupt within 0\.01 seconds"):
        vector.wait(0.01)


@pytest.mark.parametrize("timeout", [None, 30, 1e7, float("inf")])
def test_interrupt_ends_the_wait(vector: Vector, timeout: float | None) -> None:
    thread = threading.Timer(0.05, vector.trigger)
    thread.start()
    assert vector.wait(timeout) == 1
    thread.join()


def test_wait_goes_on_after_a_signal_handler(vector: Vector) -> None:
    """The timeout does not start again after a signal: otherwise it would never be reached."""
    seen: list[float] = []

    def seen_in_a_wait(limit: float) -> int:
        begun = time.monotonic()
        waited = seconds_until_timeout(vector, limit)
        assert limit <= waited < limit + 60
        return sum(begun < at < begun + waited for at in seen)

    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        # Try longer waits too: on a host that does not run this process during a wait, only one of the due signals is
        # delivered.
        assert any(seen_in_a_wait(limit) > 1 for limit in (0.2, 2, 20))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_signal_handler_that_raises_ends_the_wait(vector: Vector) -> None:
    def handler(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  (on a busy host the signal may come before the wait)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            vector.wait()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_one_of_two_waiting_threads_gets_the_interrupt(vector: Vector) -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(vector.wait())) for _ in range(2)]
    for thread in threads:
        thread.start()
    vector.trigger()
    limit = time.monotonic() + 60
    while all(thread.is_alive() for thread in threads):
        assert time.monotonic() < limit
    for thread in threads:
        thread.join(0.1)
    assert results == [1]
    vector.trigger()
    for thread in threads:
        thread.join(60)
    assert results == [1, 1]


def test_wait_on_a_closed_vector_fails(device: Device, vector: Vector) -> None:
    number = vector.fileno()
    vector.close()
    with pytest.raises(pyvfio.Closed, match=r"msix\[0\] is closed"):
        vector.wait(0)
    with pytest.raises(OSError):
        os.fstat(number)


# --- asyncio ------------------------------------------------------------------------------------------------------------


def test_wait_async_lets_other_tasks_run(vector: Vector) -> None:
    async def main() -> int:
        waiting = asyncio.create_task(vector.wait_async())
        await asyncio.sleep(0.02)
        assert not waiting.done()
        vector.trigger()
        vector.trigger()
        return await asyncio.wait_for(waiting, 60)

    assert asyncio.run(main()) == 2


def test_wait_async_returns_past_interrupts_at_once(vector: Vector) -> None:
    async def main() -> int:
        vector.trigger()
        return await vector.wait_async()

    assert asyncio.run(main()) == 1


def test_wait_async_works_after_a_cancelled_wait(vector: Vector) -> None:
    async def main() -> int:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await vector.wait_async()
        vector.trigger()
        return await vector.wait_async()

    assert asyncio.run(main()) == 1


def test_two_waiting_tasks_get_one_interrupt_each(vector: Vector) -> None:
    async def main() -> list[int]:
        first, second = asyncio.create_task(vector.wait_async()), asyncio.create_task(vector.wait_async())
        await asyncio.sleep(0.01)
        vector.trigger()
        async with asyncio.timeout(60):
            await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
            assert first.done() != second.done()
            vector.trigger()
            return [await first, await second]

    assert asyncio.run(main()) == [1, 1]


def test_one_of_two_waiting_tasks_can_be_cancelled(vector: Vector) -> None:
    async def main() -> int:
        first, second = asyncio.create_task(vector.wait_async()), asyncio.create_task(vector.wait_async())
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        vector.trigger()
        return await asyncio.wait_for(second, 60)

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize("close", [lambda v: v.close(), lambda v: v.irq.disable(), lambda v: v.irq.device.close()])
def test_closing_wakes_the_waiting_task(vector: Vector, close: object) -> None:
    async def main() -> None:
        waiting = asyncio.create_task(vector.wait_async())
        await asyncio.sleep(0.01)
        close(vector)  # type: ignore[operator]
        with pytest.raises(pyvfio.Closed):
            await asyncio.wait_for(waiting, 60)

    asyncio.run(main())
