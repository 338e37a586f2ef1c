# SPDX-License-Identifier: MIT
"""Objects that a program drops without closing them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import pyvfio
from pyvfio import Device, DmaBuffer, Iommufd, mock
from pyvfio._core.weak import WeakTable
from pyvfio.migration import State

PAGE = 4096
ADDRESS = "vfio-mock.0"


def opened(kernel: mock.Kernel, mode: str = "type1v2") -> Device:
    return pyvfio.open(ADDRESS, mode=mode, kernel=kernel)  # type: ignore[arg-type]


def a_bound_function(kernel: mock.Kernel) -> Device:
    pyvfio.host.bind("0000:00:03.0", "vfio-pci", kernel=kernel)
    return pyvfio.open("0000:00:03.0", mode="type1v2", kernel=kernel)


def a_migration_stream(kernel: mock.Kernel) -> list[Any]:
    device = opened(kernel)
    device.migration.state = State.STOP_COPY
    stream = device.migration.stream
    device.migration.state = State.STOP
    return [device, stream, device.migration.__dict__.pop("_next")]


#: Objects that a program may hold, each with the function that creates it. Of a list, the last is dropped first.
HELD: dict[str, Callable[[mock.Kernel], Any]] = {
    "a device of a container": opened,
    "a device of an iommufd": lambda kernel: opened(kernel, "iommufd"),
    "an address space": lambda kernel: pyvfio.address_space("type1v2", kernel=kernel),
    "memory": lambda _: DmaBuffer(PAGE),
    "a mapping": lambda kernel: [device := opened(kernel), device.address_space.alloc(PAGE)],
    "a vector": lambda kernel: [device := opened(kernel), device.irqs[0].enable()],
    "a log": lambda kernel: [device := opened(kernel), device.dirty_log([(0x10000, 0x10FFF)])],
    "mapped registers": lambda kernel: [device := a_bound_function(kernel), device.regions[0].mmap()],
    "an iommufd": lambda kernel: Iommufd(kernel=kernel),
    "an IOAS": lambda kernel: [iommufd := Iommufd(kernel=kernel), iommufd.ioas()],
    "a fault queue": lambda kernel: [iommufd := Iommufd(kernel=kernel), iommufd.fault_queue()],
    "a migration's stream": a_migration_stream,
    "a binding": lambda kernel: pyvfio.host.bind("0000:00:07.0", "vfio-pci", kernel=kernel),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("what", HELD)
def test_no_code_of_python_runs_when_an_object_goes(kernel: mock.Kernel, what: str) -> None:
    """An exception that a signal handler raises in such code is lost. So a Ctrl-C would be lost."""
    made = HELD[what](kernel)
    held = made if isinstance(made, list) else [made]
    del made
    ran: list[str] = []

    def look(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        # Ignore the mock, which replaces a kernel, and the lookup of its close(), which is a Python method.
        if event == "call" and ("/pyvfio/" in file or "weakref" in file or file.endswith("/_weakrefset.py")):
            name = frame.f_code.co_qualname
            if "/pyvfio/mock/" not in file and name != "uninterrupted.__get__":
                ran.append(f"{file}: {name}")

    gc.collect()
    gc.disable()
    sys.setprofile(look)
    try:
        while held:
            held.pop()
        gc.collect()
    finally:
        sys.setprofile(None)
        gc.enable()
    assert ran == []


class Thing:
    """An object to store in a table."""


def test_a_table_keeps_its_order_and_nothing_alive() -> None:
    things = [Thing() for _ in range(20)]
    table: WeakTable[Thing, int] = WeakTable((one, index) for index, one in enumerate(things))
    assert table.items() == list(zip(things, range(20), strict=True))
    table.discard(things[3])
    table.discard(things[3])
    del things[:2]
    assert list(table) == [things[0], *things[2:]]
    assert things[0] in table
    assert things[1] not in table


def test_a_table_has_an_object_once() -> None:
    first, second = Thing(), Thing()
    table: WeakTable[Thing, str] = WeakTable([(first, "a"), (second, "b")])
    table[first] = "c"
    assert table.items() == [(second, "b"), (first, "c")]


def test_a_value_keeps_its_object_alive() -> None:
    table: WeakTable[Thing, Thing] = WeakTable()
    thing = Thing()
    table[thing] = thing
    del thing
    assert len(table.items()) == 1
