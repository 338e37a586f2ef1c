# SPDX-License-Identifier: MIT
"""Arguments that users naturally pass are accepted. Wrong arguments are refused before anything has changed."""

from __future__ import annotations

import io
from typing import Any

import numpy
import pytest

import pyvfio
from pyvfio import Device
from pyvfio.migration import State

pytestmark = pytest.mark.vfio(profile="amd")


class Silent(io.RawIOBase):
    """A non-blocking file that has no data to read and accepts none."""

    def read(self, size: int | None = -1, /) -> Any:
        return None

    def write(self, data: Any, /) -> int:
        return 0


def test_regions_and_interrupts_have_names(edu: Device) -> None:
    assert edu.regions["BAR0"] is edu.regions["bar0"] is edu.regions[0]
    assert edu.irqs["msi"] is edu.irqs.msi
    with pytest.raises(ValueError, match="one of BAR0, BAR1"):
        edu.regions["BAR9"]
    with pytest.raises(IndexError, match="index 99 does not exist; there are 9"):
        edu.regions[99]


def test_names_need_pci(device: Device) -> None:
    with pytest.raises(ValueError, match="index must be a number below 6"):
        device.regions["BAR0"]


def test_every_vector_can_be_enabled_at_once(device: Device) -> None:
    vectors = device.irqs[2].enable_all()
    assert [vector.index for vector in vectors] == list(range(device.irqs[2].count))


def test_a_number_of_vectors_is_refused_with_the_range_to_write(edu: Device) -> None:
    with pytest.raises(TypeError, match=r"range\(4\) are the first 4"):
        edu.irqs.msi.enable(4)  # type: ignore[arg-type]


def test_a_kernel_can_be_named() -> None:
    with pyvfio.open("vfio-mock.0", kernel="mock:amd") as device:
        assert device.address == "vfio-mock.0"


def test_registers_take_integers_of_numpy(device: Device) -> None:
    region = device.regions[1]
    region.write32(numpy.int64(8), numpy.uint32(7))
    assert region.read32(numpy.uint8(8)) == 7


@pytest.mark.parametrize("value", [1 << 32, -1])
def test_a_value_too_large_for_a_register_is_refused(device: Device, value: int) -> None:
    device.regions[1].write32(0, 5)
    with pytest.raises(ValueError, match="value must be at"):
        device.regions[1].write32(0, value)
    assert device.regions[1].read32(0) == 5


@pytest.mark.parametrize("source", [None, "x", 5])
def test_a_load_from_what_is_no_file_leaves_the_device_running(device: Device, source: Any) -> None:
    with pytest.raises(TypeError, match="source must be an object with a read"):
        device.migration.load(source)
    assert device.migration.state == State.RUNNING


def test_a_save_into_what_is_no_file_leaves_the_device_running(device: Device) -> None:
    with pytest.raises(TypeError, match="into must be an object with a write"):
        device.migration.pre_copy(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="into must be an object with a write"):
        device.migration.save(None)  # type: ignore[arg-type]
    assert device.migration.state == State.RUNNING


def test_a_source_with_nothing_now_is_not_at_its_end(device: Device) -> None:
    with pytest.raises(BlockingIOError, match="has no data now"):
        device.migration.load(Silent())
    assert device.migration.state == State.RESUMING
    device.reset()
    assert device.migration.state is not State.RESUMING


def test_a_sink_that_takes_nothing_is_an_error(device: Device) -> None:
    with pytest.raises(OSError, match="returned 0 for"):
        device.migration.save(Silent())


def test_a_mapping_or_a_range_can_be_unmapped(device: Device) -> None:
    space = device.address_space
    first, second = space.alloc(4096), space.alloc(8192)
    assert space.unmap(first) == 4096
    assert space.unmap(second.range) == 8192
    assert space.mappings == []
    with pytest.raises(TypeError, match="size is missing"):
        space.unmap(0x1000)


def test_a_mapped_region_can_be_mapped_for_dma(device: Device) -> None:
    window = device.regions[1].mmap()
    mapping = device.address_space.map(window, 0x400_0000)
    assert mapping.buffer is window
    assert mapping.size == window.size


@pytest.mark.parametrize("access", [{"read": "off"}, {"write": 1}])
def test_access_must_be_a_bool(device: Device, access: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(access))} must be a bool"):
        device.address_space.alloc(4096).space.map(pyvfio.DmaBuffer(4096), 0x400_0000, **access)
