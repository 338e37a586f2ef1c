# SPDX-License-Identifier: MIT
"""Further programs besides the typical one. Each is interrupted at any point, and must leave nothing behind.

`python -m tests.robustness.other_programs 1` interrupts each at all of its points.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable
from typing import Any

import pyvfio
from pyvfio import DmaBuffer, Iommufd, host, mock
from pyvfio._abi import lib
from pyvfio.iommufd import Ioas, Viommu
from pyvfio.migration import State
from tests.contract import mock_domain
from tests.contract.mock_domain import MockDevice
from tests.robustness.program import FIRST, PAGE, library, stopped_at

EDU, NVME, IGB, MOCK = "0000:00:03.0", "0000:00:04.0", "0000:00:07.0", "vfio-mock.0"


class Stage:
    """A kernel, and the objects of a program on it.

    :ivar held: an object that is closed at the end
    """

    def __init__(self, profile: str, bound: str | None) -> None:
        self.kernel = mock.Kernel(profile)
        self.held: Any = None
        self.buffer = DmaBuffer(4 * PAGE)
        self.eventfd = os.eventfd(0)
        self.drivers = self.bindings()
        if bound is not None:
            host.bind(bound, "vfio-pci", kernel=self.kernel)

    def bindings(self) -> dict[str, str | None]:
        return {device.address: device.driver for device in host.devices(self.kernel)}

    def left(self) -> list[str]:
        """Close everything, restore bound devices, and return what is still open, pinned or bound."""
        for _ in range(2):
            try:
                if self.held is not None:
                    self.held.close()
            except Exception:
                continue
            break
        self.held = None
        gc.collect()
        os.close(self.eventfd)
        host.restore(kernel=self.kernel)
        locks = (self.kernel.locked, self.kernel.locked_by_user)
        return (
            [file.kind for file in self.kernel.files.values()]
            + [f"{lock.pages} pages pinned" for lock in locks if lock.pages]
            + [
                f"{address} has {driver}"
                for address, driver in self.bindings().items()
                if driver != self.drivers[address]
            ]
        )


def save_and_load(stage: Stage) -> None:
    stage.held = device = pyvfio.open(MOCK, mode="iommufd", kernel=stage.kernel)
    file = io.BytesIO()
    device.migration.save(file)
    device.migration.state = State.RUNNING
    file.seek(0)
    device.migration.load(file)
    device.migration.state = State.RUNNING
    device.reset()
    device.close()


def registers_and_interrupts(stage: Stage) -> None:
    stage.held = device = pyvfio.open(EDU, mode="type1v2", kernel=stage.kernel)
    region = device.regions[0]
    with region.mmap() as mapped:
        mapped.write32(4, mapped.read32(0))
    region.add_ioeventfd(stage.eventfd, 8, 4, 1)
    region.remove_ioeventfd(8, 4, 1)
    device.config.bus_master = True
    for vector in device.irqs.msi.enable_all():
        vector.trigger()
        vector.wait(60)
    device.irqs.msi.disable()
    (line,) = device.irqs.intx.enable()
    line.mask()
    line.unmask()
    assert device.features is not None
    device.close()


def attachments(stage: Stage) -> None:
    stage.held = iommufd = Iommufd(kernel=stage.kernel)
    first, second = iommufd.ioas(), iommufd.ioas()
    mapping = first.map(stage.buffer, FIRST)
    copy = second.copy(mapping)
    with pyvfio.open(EDU, mode="iommufd", kernel=stage.kernel) as device:
        space = device.address_space
        assert isinstance(space, Ioas)
        other = space.iommufd.ioas()
        device.detach()
        device.attach(other)
        table = other.hwpt(device.bound)
        device.attach(table)
        device.attach(space)
        table.destroy()
        other.destroy()
    copy.unmap()
    mapping.unmap()
    second.destroy()
    iommufd.close()


def a_virtual_iommu(stage: Stage) -> None:
    stage.held = iommufd = Iommufd(kernel=stage.kernel)
    ioas = iommufd.ioas()
    device = MockDevice(ioas, mock_domain.PASID)
    mapping = ioas.map(stage.buffer, mock_domain.APERTURE_START)
    parent = ioas.hwpt(device.bound, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
    parent.nested(device.bound, mock_domain.HWPT_DATA, mock_domain.NESTED).destroy()
    viommu = Viommu(parent, device.bound, mock_domain.VIOMMU_TYPE)
    made = [
        viommu.vdevice(device.bound, 0x99),
        viommu.event_queue(mock_domain.VEVENTQ_TYPE, 4),
        viommu.hw_queue(mock_domain.HW_QUEUE_TYPE, 0, mapping.iova, PAGE),
    ]
    while made:
        made.pop().destroy()
    for one in (viommu, parent, device, ioas):
        one.destroy()
    iommufd.close()


def tracking_by_the_iommu(stage: Stage) -> None:
    stage.held = device = pyvfio.open(NVME, mode="iommufd", kernel=stage.kernel)
    space = device.address_space
    mapping = space.alloc(4 * PAGE)
    for _ in range(2):
        with space.track_dirty([mapping.range]) as tracker:
            tracker.read()
    device.close()


def tracking_by_the_container(stage: Stage) -> None:
    stage.held = device = pyvfio.open(NVME, mode="type1v2", kernel=stage.kernel)
    mapping = device.address_space.alloc(4 * PAGE)
    with device.address_space.track_dirty([mapping.range]) as tracker:
        tracker.read()
    device.close()


def binding(stage: Stage) -> None:
    with (
        host.bind(IGB, "vfio-pci", kernel=stage.kernel),
        pyvfio.open(IGB, kernel=stage.kernel) as device,
    ):
        device.reset()
    with host.bind([IGB, NVME], "vfio-pci", kernel=stage.kernel):
        pass


#: The programs, each with the mock's profile, and the device that is bound to vfio-pci before it starts.
PROGRAMS: dict[Callable[[Stage], None], tuple[str, str | None]] = {
    save_and_load: ("intel-48", None),
    registers_and_interrupts: ("intel-48", EDU),
    attachments: ("intel-48", EDU),
    a_virtual_iommu: ("selftest", None),
    tracking_by_the_iommu: ("amd", NVME),
    tracking_by_the_container: ("intel-48", NVME),
    binding: ("intel-48", None),
}


def sweep_other(program: Callable[[Stage], None], points: Callable[[int], range]) -> tuple[int, list[str]]:
    """Interrupt a program at some of its points, each time on a new kernel.

    Return the number of points, and the faults.
    """
    total = 0
    for _ in range(2):  # the first run loads modules and fills caches
        stage = Stage(*PROGRAMS[program])
        total, _, _ = stopped_at(0, lambda stage=stage: program(stage), library)  # type: ignore[misc]
        assert stage.left() == []
    wrong = []
    chosen = points(total)
    for point in chosen:
        stage = Stage(*PROGRAMS[program])
        _, where, raised = stopped_at(point, lambda stage=stage: program(stage), library)  # type: ignore[misc]
        if not raised:
            wrong.append(f"point {point}, {where}: what the handler raised is lost")
        if left := stage.left():
            wrong.append(f"point {point}, {where}: left {left}")
    return len(chosen), wrong


if __name__ == "__main__":
    step = int(sys.argv[1])
    for one in PROGRAMS:
        done, bad = sweep_other(one, lambda total: range(1, total + 1, step))
        print(f"{one.__name__}: {done} points, {len(bad)} wrong")
        for text in bad[:8]:
            print("   ", text)
