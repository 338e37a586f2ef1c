# SPDX-License-Identifier: MIT
"""The display of objects in notebooks and consoles, and the arrays that numpy sees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy
import pytest

import pyvfio
from pyvfio import Device, DirtyBitmap, IovaRange, IovaSet, Unsupported
from pyvfio.guest import limits, planning
from pyvfio.guest.sections import MemorySection
from pyvfio.mock import Kernel

KERNEL = "mock:amd"
EDU = "0000:00:03.0"


class Cells(HTMLParser):
    """The texts of a table's cells; every element that opens is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def cells(shown: Any) -> list[str]:
    parser = Cells()
    parser.feed(shown._repr_html_())
    parser.close()
    assert not parser.open
    return parser.cells


@pytest.fixture
def device() -> Iterator[Device]:
    kernel = Kernel("amd")
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, kernel=kernel) as opened:
        yield opened


def test_a_device_shows_its_flags_by_name(device: Device) -> None:
    assert "flags=PCI" in repr(device.info)
    assert "PCI" in cells(device)
    device.close()
    assert cells(device) == ["<Device 0000:00:03.0 by iommufd on mock:amd (closed)>"]


@pytest.mark.parametrize("state", ["detached", "taken", "closed", "closed at once"])
def test_a_device_shows_itself_in_every_state(state: str) -> None:
    kernel = Kernel("amd")
    device = opened = pyvfio.open("vfio-mock.0", kernel=kernel, mode="iommufd")
    if state == "taken":
        device = Device.taken("vfio-mock.0", os.getpid(), opened.fileno(), kernel=kernel)
        with pytest.raises(Unsupported, match="opened by another process"):
            _ = device.bound
    parts = device, device.regions, device.irqs
    if state == "closed":
        assert [repr(part) for part in parts]
    if state == "detached":
        device.detach()
    elif state.startswith("closed"):
        device.close()
    texts = [repr(part) for part in parts]
    assert ("closed" in state) == ("(closed)" in texts[0])
    assert ("none known" in texts[1]) == ("none known" in texts[2]) == (state == "closed at once")
    assert all("vfio-mock.0" in cells(part)[0] for part in parts)
    assert state != "detached" or cells(device)[2] == "none"
    device.close()
    opened.close()


def test_regions_and_interrupts_are_tables(device: Device) -> None:
    assert repr(device.regions).startswith("<Regions of 0000:00:03.0: BAR0 1 MiB")
    shown = cells(device.regions)
    assert shown[:6] == ["Regions of 0000:00:03.0", "index", "name", "size", "flags", "mmap"]
    assert shown[shown.index("BAR0") + 1 : shown.index("BAR0") + 3] == ["1 MiB", "READ|WRITE|MMAP"]
    assert "flags=READ|WRITE" in repr(device.regions[0].info)
    assert "msi 1" in repr(device.irqs)
    assert "EVENTFD|NORESIZE" in cells(device.irqs)
    assert "flags=EVENTFD" in repr(device.irqs.msi.info)


def test_a_device_of_the_host_is_a_table_with_hexadecimal_ids() -> None:
    shown = cells(pyvfio.host.device(EDU, KERNEL))
    assert shown[shown.index("vendor") + 1] == "1234"
    assert "numa_node" not in shown


def test_a_bitmap_is_an_array_of_its_pages() -> None:
    bitmap = DirtyBitmap([IovaRange.of(0x10000, 0x3000), IovaRange.of(0, 0x2000)])
    bitmap.segments[0].words[0] = 0b101
    pages = numpy.asarray(bitmap)
    assert pages.dtype == bool
    assert pages.tolist() == [False, False, True, False, True]
    assert numpy.asarray(bitmap, dtype="u1").sum() == 2
    pages[0] = True
    assert bitmap.count() == 2
    with pytest.raises(ValueError, match="copy must not be False"):
        numpy.array(bitmap, copy=False)
    assert numpy.asarray(DirtyBitmap([])).shape == (0,)
    assert cells(bitmap)[-5:] == ["0x10000", "0x12fff", "3", "2", "66.7%"]
    assert cells(bitmap.segments[0])[0] == "Segment, pages of 4 KiB"


def test_memory_for_devices_is_an_array_of_bytes() -> None:
    buffer = pyvfio.DmaBuffer(4096)
    array = numpy.asarray(buffer)
    assert (array.dtype, array.shape) == (numpy.dtype("u1"), (4096,))
    array[5] = 7
    assert buffer.view[5] == 7
    assert numpy.asarray(buffer).view("<u4")[1] == 7 << 8
    del buffer
    assert array[5] == 7


def test_a_long_set_shows_its_beginning() -> None:
    shown = cells(IovaSet(IovaRange.of(at << 20, 4096) for at in range(150)))
    assert shown[-1] == "and 50 more"
    assert shown.count("4 KiB") == 100


def test_plans_and_answers_are_tables() -> None:
    plan = planning.plan(
        [MemorySection(0, 0xA0000, ram=True), MemorySection(0x100000000, 1 << 30, ram=True)], "min_max"
    )
    assert cells(plan)[-4:] == ["0x0", "0x13fffffff", "5 GiB", "3.999 GiB"]
    fit = plan.fit(limits.MLX5)
    assert cells(fit)[0].startswith("mlx5 accepts the plan")
    assert "1 ranges" in cells(fit.answer)[0]


def test_what_a_table_shows_is_escaped() -> None:
    from pyvfio._core import html

    assert "<b>" not in html.table("<b>", ("<b>",), [("<b>",)])
