# SPDX-License-Identifier: MIT
"""A signal handler that raises, at every point at which the interpreter runs handlers."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pyvfio
from pyvfio import Device, DmaBuffer, mock
from pyvfio._abi import lib
from pyvfio.migration import State
from pyvfio.spaces.opening import Mode
from tests.robustness.conftest import MODES
from tests.robustness.other_programs import PROGRAMS, Stage, sweep_other
from tests.robustness.program import FIRST, PAGE, Stop, sweep

#: Number of points that are tried in each mode. `python -m tests.robustness.program 1` tries all.
QUICK = 200
#: The same for each of the other programs.
QUICK_OTHER = 40


@pytest.fixture(params=["type1v2", "iommufd"])
def device(request: pytest.FixtureRequest, kernel: mock.Kernel) -> Iterator[Device]:
    with pyvfio.open("vfio-mock.0", mode=request.param, kernel=kernel) as device:
        yield device


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", MODES)
def test_kernel_and_library_agree_wherever_a_handler_raises(mode: Mode) -> None:
    points, wrong = sweep(mode, lambda total: range(7, total + 1, total // QUICK))
    assert points >= QUICK
    assert wrong == []


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_nothing_is_left_wherever_a_handler_raises(program: Callable[[Stage], None]) -> None:
    points, wrong = sweep_other(program, lambda total: range(5, total + 1, total // QUICK_OTHER))
    assert points >= QUICK_OTHER
    assert wrong == []


def stop_after(kernel: mock.Kernel, *requests: int) -> None:
    """Raise a signal while the kernel executes one of these requests, as may happen during a long pin."""
    real = kernel.ioctl

    def ioctl(fd: int, request: int, argument: int) -> int:
        result = real(fd, request, argument)
        if request & 0xFFFFFFFF in requests:
            kernel.ioctl = real  # type: ignore[method-assign]
            signal.raise_signal(signal.SIGUSR1)
        return result

    kernel.ioctl = ioctl  # type: ignore[method-assign]


@pytest.fixture
def raising() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Stop

    before = signal.signal(signal.SIGUSR1, stop)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("raising")
def test_an_interrupted_map_leaves_nothing_mapped(kernel: mock.Kernel, device: Device) -> None:
    """H5."""
    space, buffer = device.address_space, DmaBuffer(PAGE)
    stop_after(kernel, lib.VFIO_IOMMU_MAP_DMA, lib.IOMMU_IOAS_MAP)
    with pytest.raises(Stop):
        space.map(buffer, FIRST)
    assert space.mappings == []
    assert space.map(buffer, FIRST).mapped


@pytest.mark.usefixtures("raising")
def test_an_interrupted_unmap_is_recorded(kernel: mock.Kernel, device: Device) -> None:
    space = device.address_space
    mapping = space.map(DmaBuffer(PAGE), FIRST)
    stop_after(kernel, lib.VFIO_IOMMU_UNMAP_DMA, lib.IOMMU_IOAS_UNMAP)
    with pytest.raises(Stop):
        mapping.unmap()
    assert not mapping.mapped
    assert space.mappings == []
    assert space.map(DmaBuffer(PAGE), FIRST).mapped


def test_a_batch_is_interrupted_between_its_rows(kernel: mock.Kernel, device: Device) -> None:
    """M3."""
    space, buffer = device.address_space, DmaBuffer(PAGE)
    real, mapped = kernel.ioctl, 0

    def slow(fd: int, request: int, argument: int) -> int:
        nonlocal mapped
        if request & 0xFFFFFFFF in (lib.VFIO_IOMMU_MAP_DMA, lib.IOMMU_IOAS_MAP):
            mapped += 1
            time.sleep(0.005)
            if mapped == 20:
                signal.raise_signal(signal.SIGALRM)
        return real(fd, request, argument)

    def stop(*_: Any) -> None:
        raise Stop

    rows = array("Q")
    for index in range(400):
        rows.extend((buffer.address, FIRST + index * PAGE, PAGE))
    kernel.ioctl = slow  # type: ignore[method-assign]
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(Stop):
            space.map_many(rows, keep=buffer)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert 20 <= mapped < 200
    kernel.ioctl = real  # type: ignore[method-assign]
    assert space.mappings == []
    assert len(space.map_many(rows, keep=buffer)) == 400


@pytest.mark.usefixtures("raising")
def test_no_handler_runs_while_the_mock_answers(kernel: mock.Kernel, device: Device) -> None:
    real = kernel.ioctl
    answered: list[int] = []

    def ioctl(fd: int, request: int, argument: int) -> int:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        answered.append(real(fd, request, argument))
        return answered[-1]

    kernel.ioctl = ioctl  # type: ignore[method-assign]
    with pytest.raises(Stop):
        device.reset()
    kernel.ioctl = real  # type: ignore[method-assign]
    assert answered == [0]


@pytest.mark.usefixtures("raising")
def test_a_kernel_that_never_answers_can_be_interrupted(kernel: mock.Kernel, device: Device) -> None:
    forever, ended = threading.Event(), threading.Event()

    def ioctl(*_: object) -> int:
        os.kill(os.getpid(), signal.SIGUSR1)
        forever.wait(240)
        ended.set()
        return -errno.EIO

    kernel.ioctl = ioctl  # type: ignore[assignment, method-assign]
    with pytest.raises(Stop):
        device.reset()
    assert not ended.is_set()
    forever.set()
    assert ended.wait(60)
    del kernel.ioctl
    device.reset()


@pytest.mark.parametrize("forks", [False, True])
def test_a_handler_uses_the_kernel_that_is_waited_for(kernel: mock.Kernel, device: Device, forks: bool) -> None:
    """It came while a request took so long that handlers run: neither takes the other's answer."""
    real, go = kernel.ioctl, threading.Event()
    found: list[State] = []

    def slow(fd: int, request: int, argument: int) -> int:
        kernel.ioctl = real  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGUSR1)
        assert go.wait(60)
        return real(fd, request, argument)

    def handle(*_: object) -> None:
        if forks:
            if (child := os.fork()) == 0:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        found.append(device.migration.state)
        go.set()

    kernel.ioctl = slow  # type: ignore[method-assign]
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        device.reset()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert found == [State.RUNNING]
    assert device.migration.state == State.RUNNING


def test_the_thread_of_a_mock_ends_before_a_fork(device: Device) -> None:
    def threads() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    # The first fork ends an existing thread, and also threads of libraries, such as OpenBLAS's.
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    before = threads()
    device.reset()
    # Compare sets, not numbers of threads: threads of earlier tests may be about to end.
    (own,) = threads() - before
    if (child := os.fork()) == 0:
        os._exit(0)
    assert own not in threads()
    assert os.waitpid(child, 0)[1] == 0
    device.reset()


def test_what_a_device_model_raises_reaches_the_caller(kernel: mock.Kernel, device: Device) -> None:
    """M4."""
    real = kernel.ioctl

    def ioctl(fd: int, request: int, argument: int) -> int:
        if request & 0xFFFFFFFF == lib.VFIO_DEVICE_RESET:
            raise ZeroDivisionError("a bug in a model")
        return real(fd, request, argument)

    kernel.ioctl = ioctl  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError, match="a bug in a model"):
        device.reset()
