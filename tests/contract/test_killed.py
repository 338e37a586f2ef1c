# SPDX-License-Identifier: MIT
"""A program is killed at any point: the devices work afterwards, and devices that it bound can be restored."""

from __future__ import annotations

import mmap
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pyvfio
from pyvfio import host
from pyvfio.cli import program
from pyvfio.migration import State
from pyvfio.spaces.opening import Mode
from tests.contract import guest
from tests.contract.deadly import killed_at
from tests.contract.processes import in_another_process

if TYPE_CHECKING:
    from pyvfio.kernel import Kernel
    from pyvfio.vfio_mock import VfioMock

PAGE = 4096
STAGES = ("begin", "bind", "open", "map", "interrupts", "log", "read", "unmap", "close")


@pytest.mark.require("linux")
@pytest.mark.only(iommu="intel", mode=["type1v2", "iommufd"], device="vfio-mock", kernel="newest")
def test_restore_puts_right_what_a_killed_program_leaves(address: str, mode: Mode, kernel: Kernel) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    nvme = guest.address_of("nvme")
    reached = mmap.mmap(-1, mmap.PAGESIZE)

    def stage(name: str) -> None:
        reached[0] = STAGES.index(name)

    def work(rounds: int = 1 << 30) -> None:
        from pyvfio.vfio_mock import VfioMock

        for _ in range(rounds):
            stage("begin")
            with host.bind(nvme, "vfio-pci"):
                stage("bind")
                with pyvfio.open(nvme, mode=mode) as device, pyvfio.open(address, mode=mode) as mock:
                    stage("open")
                    device.address_space.alloc(1 << 20)
                    bar = device.regions[0].mmap()
                    mapping = mock.address_space.alloc(16 * PAGE)
                    stage("map")
                    device.config.bus_master = True
                    device.irqs.msix.enable(range(2))
                    stage("interrupts")
                    with mock.dirty_log([mapping.range]) as log:
                        VfioMock(mock).start("TOUCH", "REPEAT", iova=mapping.iova, length=mapping.size, stride=PAGE)
                        stage("log")
                        log.read()
                        stage("read")
                    VfioMock(mock).stop()
                    mapping.unmap()
                    bar.close()
                    stage("unmap")
                stage("close")

    with in_another_process(lambda: work(1)) as worker:
        begun = time.monotonic()
        assert worker.join(120) == 0
        round_takes = time.monotonic() - begun
    stages: list[str] = []
    # Kill the worker ten times in each mode, and in each stage at least once.
    for number in range(10):
        reached[0] = len(STAGES)
        with in_another_process(work) as worker:
            # Wait until the worker reaches a stage, and kill it at a random time after that. Each stage has its turn.
            limit = time.monotonic() + 120
            while reached[0] != number % len(STAGES):
                assert time.monotonic() < limit
                time.sleep(0)
            time.sleep(chance.uniform(0, round_takes / len(STAGES)))
            worker.kill()
        stages.append(STAGES[reached[0]])
        host.restore()
        found = host.device(nvme)
        assert (found.driver, found.driver_override) == ("nvme", None)
        assert host.bindings() == []
        assert host.holders_of(nvme) == host.holders_of(address) == []
        with pyvfio.open(address, mode=mode, kernel=kernel) as mock:
            still_logs(mock)
    print(f"killed at {', '.join(stages)}")
    disk = next(one for one in Path("/sys/class/block").iterdir() if nvme in str(one.resolve()))
    assert len(Path("/dev", disk.name).read_bytes()[:PAGE]) == PAGE
    with host.bind(nvme, "vfio-pci"), pyvfio.open(nvme, mode=mode, kernel=kernel) as device:
        assert device.address_space.alloc(PAGE).mapped


# The tests below kill each command at ten points of its calls to the kernel.

once = pytest.mark.only(iommu="intel", mode="type1v2", device="vfio-mock", kernel="newest")
DRIVER = "tests.contract.drivers.vfio_mock:driver"


def command(*arguments: str) -> Callable[[Kernel], None]:
    """Return a function that runs the command on a kernel, and asserts that it succeeds."""

    def run(kernel: Kernel) -> None:
        assert program.main([*arguments], kernel=kernel) == 0

    return run


def assert_restored(nvme: str) -> None:
    """Assert that `pyvfio restore` puts the device back, and that its disk works."""
    assert program.main(["restore"]) == 0
    found = host.device(nvme)
    assert (found.driver, found.driver_override) == ("nvme", None)
    assert host.bindings() == []
    assert host.holders_of(nvme) == []
    disk = next(one for one in Path("/sys/class/block").iterdir() if nvme in str(one.resolve()))
    with Path("/dev", disk.name).open("rb") as node:
        assert len(node.read(PAGE)) == PAGE


@once
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("bind",), id="bind"),
        pytest.param(("dirty", "--bind", "--intervals", "2", "--interval", "0"), id="dirty"),
        pytest.param(("check", "--destructive", "--only", "reset"), id="check"),
    ],
)
def test_a_command_killed_at_ten_points_is_put_right_by_restore(arguments: tuple[str, ...]) -> None:
    """The commands bind the device themselves."""
    nvme = guest.address_of("nvme")
    for point in killed_at(command(arguments[0], nvme, *arguments[1:]), 10):
        print(f"killed at {point}")
        assert_restored(nvme)
    with host.bind(nvme, "vfio-pci"), pyvfio.open(nvme) as device:
        assert device.address_space.alloc(PAGE).mapped


@once
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("dirty", "--driver", DRIVER, "--intervals", "3", "--interval", "0"), id="dirty"),
        pytest.param(("check", "--destructive", "--only", "migration"), id="check"),
    ],
)
def test_a_device_is_running_after_a_kill_at_ten_points(address: str, arguments: tuple[str, ...]) -> None:
    """The kernel closes the device of the killed process.

    This ends a migration and a DMA log, in whatever state they were.
    """
    for point in killed_at(command(arguments[0], address, *arguments[1:]), 10):
        print(f"killed at {point}")
        assert program.main(["restore"]) == 0
        assert host.bindings() == []
        assert host.holders_of(address) == []
        with pyvfio.open(address) as mock:
            assert mock.migration.state == State.RUNNING
            still_logs(mock)


def still_logs(mock: pyvfio.Device) -> None:
    from pyvfio.vfio_mock import VfioMock

    logger: VfioMock = VfioMock(mock)
    with mock.address_space.alloc(4 * PAGE) as mapping, mock.dirty_log([mapping.range]) as log:
        assert log.read().count() == 0
        logger.touch_each([mapping.iova + PAGE])
        assert list(log.read().pages()) == [mapping.iova + PAGE]
