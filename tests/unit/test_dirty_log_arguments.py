# SPDX-License-Identifier: MIT
"""The arguments that a dirty log takes as ranges."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pyvfio
from pyvfio import mock
from pyvfio.iova import WHOLE, IovaRange


@pytest.fixture
def device() -> Iterator[pyvfio.Device]:
    with pyvfio.open("vfio-mock.0", kernel=mock.Kernel("amd")) as device:
        yield device


def test_a_log_takes_mappings_ranges_and_pairs(device: pyvfio.Device) -> None:
    mapping = device.address_space.alloc(8192)
    for ranges in (mapping, [mapping], mapping.range, tuple(mapping.range), [tuple(mapping.range)]):
        with device.dirty_log(ranges) as log:  # type: ignore[arg-type]
            assert log.ranges == (mapping.range,)
            assert log.read(mapping).ranges == (mapping.range,)
            assert log.read((mapping.iova, mapping.iova + 4095)).ranges == (IovaRange.of(mapping.iova, 4096),)


@pytest.mark.parametrize(
    ("ranges", "page_size", "error", "message"),
    [
        (5, 4096, TypeError, r"^ranges must be an IovaRange"),
        ([(1, 2, 3)], 4096, ValueError, r"^ranges has an item of length 3"),
        ([(0, 4095)], 2**64, ValueError, r"^page_size must be at most 2\^64-1"),
        ([(0, 4095)], "4096", TypeError, r"^page_size must be an integer"),
        ([(0, 4095)], 6000, pyvfio.InvalidRequest, r"power of two"),
    ],
)
def test_wrong_ranges_are_named(
    device: pyvfio.Device, ranges: Any, page_size: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        device.dirty_log(ranges, page_size)


def test_all_addresses_are_too_many(device: pyvfio.Device) -> None:
    with pytest.raises(pyvfio.InvalidRequest, match="cannot be logged: a range reaches the last byte") as caught:
        device.dirty_log(WHOLE)
    assert caught.value.errno == errno.EOVERFLOW
    page_size: Any = np.int64(4096)
    with (
        device.dirty_log([(0, 4095)], page_size) as log,
        pytest.raises(TypeError, match=r"^range must be an IovaRange"),
    ):
        log.read("x")  # type: ignore[arg-type]
