# SPDX-License-Identifier: MIT
"""Signals and threads on a real kernel: the library's records agree with the kernel's state, and nothing is left behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import pyvfio
from pyvfio._abi import ffi, lib
from pyvfio.kernel import PythonKernel
from pyvfio.spaces.opening import Mode
from tests.contract.process import descriptors, pinned
from tests.robustness.program import Stop, World, library, stopped_at, use_at_once
from tests.robustness.test_threads import CALLS, Pair, make_both

#: One cell of each mode, and the cells of the debug kernel. tests/robustness tries all points and pairs, on the mock.
pytestmark = [
    pytest.mark.only(iommu="intel", device="vfio-mock", kernel=["newest", "debug"]),
    pytest.mark.require("linux", "dirty_log"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
POINTS, PAIRS = 24, 24
THREADS, ROUNDS = 4, 100


class RealWorld(World):
    """The objects of a program on a real kernel."""

    def __init__(self, mode: Mode, kernel: Any, address: str) -> None:
        self._before = descriptors(), pinned()
        super().__init__(mode, kernel, address)

    def difference(self) -> str | None:
        """Unmap everything, and compare the number of bytes that the kernel unmaps with the library's records."""
        space = self.made.get("space")
        if space is None or space.gone:
            return None
        known = sum(one.size for one in space.mappings)
        had = 0
        with suppress(pyvfio.Error):  # the container has no IOMMU any more, so nothing is mapped
            had = space.unmap_all()
        return None if had == known else f"the library knew {known} bytes, the kernel had {had}"

    def left(self) -> list[str]:
        """Close everything, and return the descriptors and pinned bytes that did not exist before."""
        self.close()
        names, bytes_ = self._before
        wrong = [name for name in descriptors() if name not in names]
        return wrong + ([f"{pinned() - bytes_} bytes pinned"] if pinned() > bytes_ else [])


class Asked(PythonKernel):
    """The real kernel, with requests that go through a Python method, which a test can replace."""

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        return lib.pyvfio_linux_ioctl(ffi.NULL, fd, request, ffi.cast("void *", argument))


@contextmanager
def raising_after(microseconds: int) -> Iterator[None]:
    """Make a signal handler raise Stop after a time, during the block."""

    def stop(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_handler_that_raises_leaves_kernel_and_library_agreed(mode: Mode, kernel: Any, address: str) -> None:
    total = 0
    for _ in range(2):  # the first run loads modules and fills caches
        world = RealWorld(mode, kernel, address)
        total, _, _ = stopped_at(0, world.run, library)
        assert world.left() == []
    wrong: list[str] = []
    chosen = range(5, total + 1, total // POINTS)
    for point in chosen:
        world = RealWorld(mode, kernel, address)
        _, where, raised = stopped_at(point, world.run, library)
        found = [] if raised else ["what the handler raised is lost"]
        if (difference := world.difference()) is not None:
            found.append(difference)
        found += world.left()
        wrong += [f"point {point}, {where}: {one}" for one in found]
    assert len(chosen) >= POINTS
    assert wrong == []


def test_two_calls_at_once_leave_kernel_and_library_agreed(mode: Mode, address: str) -> None:
    """The second call is made inside the first request of the first call: before the kernel executes it, or after."""
    alone = [name for name in CALLS if name not in ("open", "attach")]  # a second device need not be bound
    pairs = [Pair(first, second, 1, after) for first in alone for second in alone for after in (False, True)]
    wrong: list[str] = []
    chosen = pairs[:: len(pairs) // PAIRS]
    for pair in chosen:
        world = RealWorld(mode, Asked(), address)
        make_both(world, pair)
        found = [difference] if (difference := world.difference()) is not None else []
        wrong += [f"{pair}: {one}" for one in found + world.left()]
    assert len(chosen) >= PAIRS
    assert wrong == []


def test_threads_leave_kernel_and_library_agreed(mode: Mode, kernel: Any, address: str) -> None:
    world = RealWorld(mode, kernel, address)
    world.made["device"] = device = pyvfio.open(address, mode=mode, kernel=kernel)
    world.made["space"] = device.address_space
    device.irqs[0].enable()
    assert use_at_once(world, THREADS, ROUNDS) == []
    assert device.address_space.mappings == []
    assert world.difference() is None
    assert world.left() == []


def test_a_real_signal_ends_a_long_map_as_a_whole(mode: Mode, kernel: Any, address: str) -> None:
    """A signal arrives while the kernel maps. CPython runs the handler when the call returns."""
    world = RealWorld(mode, kernel, address)
    world.made["device"] = device = pyvfio.open(address, mode=mode, kernel=kernel)
    world.made["space"] = space = device.address_space
    interrupted = 0
    for microseconds in range(50, 2050, 50):
        try:
            with raising_after(microseconds):
                space.map(world.buffer, 0x100000)
                space.unmap(0x100000, world.buffer.size)
        except Stop:
            interrupted += 1
        assert world.difference() is None
    assert interrupted
    assert world.left() == []
