# SPDX-License-Identifier: MIT
"""A program that is killed, wherever it is: the devices work afterwards, and what it bound can be put back."""

from __future__ import annotations

import mmap
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pyvfio
from pyvfio import host
from pyvfio.spaces.opening import Mode
from tests.contract import guest
from tests.contract.processes import in_another_process

if TYPE_CHECKING:
    from pyvfio.kernel import Kernel
    from pyvfio.vfio_mock import VfioMock

PAGE = 4096
STAGES = ("begin", "bind", "open", "map", "interrupts", "log", "read", "unmap", "close")


@pytest.mark.require("linux")
@pytest.mark.only(iommu="intel", mode=["type1v2", "iommufd"], device="vfio-mock", kernel="newest")
def test_a_program_killed_at_any_point_leaves_nothing_that_restore_does_not_put_right(
    address: str, mode: Mode, kernel: Kernel
) -> None:
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

    with in_another_process(lambda: work(1)) as program:
        begun = time.monotonic()
        assert program.join(120) == 0
        round_takes = time.monotonic() - begun
    stages: list[str] = []
    # Ten times in each mode, and each stage at least once.
    for number in range(10):
        reached[0] = len(STAGES)
        with in_another_process(work) as program:
            # Wherever it is at a moment by chance after it came by a stage: each of them has its turn.
            limit = time.monotonic() + 120
            while reached[0] != number % len(STAGES):
                assert time.monotonic() < limit
                time.sleep(0)
            time.sleep(chance.uniform(0, round_takes / len(STAGES)))
            program.kill()
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


def still_logs(mock: pyvfio.Device) -> None:
    from pyvfio.vfio_mock import VfioMock

    logger: VfioMock = VfioMock(mock)
    with mock.address_space.alloc(4 * PAGE) as mapping, mock.dirty_log([mapping.range]) as log:
        assert log.read().count() == 0
        logger.touch_each([mapping.iova + PAGE])
        assert list(log.read().pages()) == [mapping.iova + PAGE]
