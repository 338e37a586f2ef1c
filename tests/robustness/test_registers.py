# SPDX-License-Identifier: MIT
"""Mapped registers: arguments whose conversion has side effects, order of accesses, waiting for bits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

import pyvfio
from pyvfio import mock
from pyvfio.region import RegionMapping


@pytest.fixture
def mapping(kernel: mock.Kernel) -> Iterator[RegionMapping]:
    with pyvfio.open("vfio-mock.0", kernel=kernel) as device:
        region = next(region for region in device.regions if region.mmappable and region.writable)
        yield region.mmap(region.info.areas[0].offset)


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("which", ["offset", "value"])
def test_an_argument_that_closes_the_mapping_stores_nothing(mapping: RegionMapping, width: int, which: str) -> None:
    """H1: the address was computed before the value's __index__ ran, so the store could hit other memory that was there by then."""

    class Closing:
        def __index__(self) -> int:
            mapping.close()
            return 0

    arguments = (Closing(), 1) if which == "offset" else (0, Closing())
    with pytest.raises(pyvfio.Closed):
        getattr(mapping, f"write{width}")(*arguments)


def test_an_offset_that_closes_the_mapping_loads_nothing(mapping: RegionMapping) -> None:
    class Closing:
        def __index__(self) -> int:
            mapping.close()
            return 0

    with pytest.raises(pyvfio.Closed):
        mapping.read32(Closing())


def test_poll_waits_for_bits(mapping: RegionMapping) -> None:
    mapping.write32(0, 0xF0)
    assert mapping.poll(0, 0xFF, 0xF0, 0) == 0xF0
    threading.Timer(0.02, mapping.write32, (0, 0x1F5)).start()
    assert mapping.poll(0, 0xF, 0x5, 60) == 0x1F5
    assert mapping.poll(0, 0xFF, 0xF5, 0, width=8) == 0xF5


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_poll_has_a_limit(mapping: RegionMapping, timeout: float) -> None:
    mapping.write32(0, 0)
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="were not 0x1 within"):
        mapping.poll(0, 1, 1, timeout)
    assert timeout <= time.monotonic() - begun < timeout + 60


def test_poll_refuses_what_never_comes(mapping: RegionMapping) -> None:
    with pytest.raises(ValueError, match="outside of mask"):
        mapping.poll(0, 1, 2, 0)
    with pytest.raises(ValueError, match="width"):
        mapping.poll(0, 1, 1, 0, width=24)


def test_closing_ends_a_poll(mapping: RegionMapping) -> None:
    mapping.write32(0, 0)
    threading.Timer(0.02, mapping.close).start()
    with pytest.raises(pyvfio.Closed):
        mapping.poll(0, 1, 1, 60)


def test_barrier_is_public() -> None:
    assert pyvfio.barrier() is None  # type: ignore[func-returns-value]
