# SPDX-License-Identifier: MIT
"""Failure injection: calls that fail on demand."""

from __future__ import annotations

import errno
from array import array
from mmap import mmap

import pytest

import pyvfio
from pyvfio import mock
from pyvfio.memory import pinned

MOCK = "vfio-mock.0"
PAGE = 4096


def test_the_nth_map_fails_and_no_other() -> None:
    kernel = mock.Kernel()
    with pyvfio.open(MOCK, mode="type1v2", kernel=kernel) as device:
        failure = kernel.failures.fail(errno.ENOMEM, call="VFIO_IOMMU_MAP_DMA", nth=3)
        for index in range(2):
            device.address_space.alloc(PAGE, index * PAGE)
        with pytest.raises(OSError, match="MAP_DMA") as caught:
            device.address_space.alloc(PAGE, 2 * PAGE)
        assert caught.value.errno == errno.ENOMEM
        assert failure.left == 0
        device.address_space.alloc(PAGE, 2 * PAGE)


def test_a_batch_is_undone_when_one_of_its_calls_fails() -> None:
    kernel = mock.Kernel()
    memory = mmap(-1, 4 * PAGE)
    address = pinned(memory, writable=True)[0]
    with pyvfio.open(MOCK, mode="type1v2", kernel=kernel) as device:
        kernel.failures.fail(errno.ENOSPC, call="container", nth=3)
        rows = array("Q", [value for n in range(4) for value in (address + n * PAGE, n * PAGE, PAGE)])
        with pytest.raises(OSError, match="row 2 of 4"):
            device.address_space.map_many(rows)
        assert isinstance(device.address_space, pyvfio.Container)
        assert device.address_space.info.dma_available == 65535


def test_an_interrupted_call_is_made_again() -> None:
    kernel = mock.Kernel()
    with pyvfio.open(MOCK, mode="type1v2", kernel=kernel) as device:
        failure = kernel.failures.interrupt(call="VFIO_IOMMU_MAP_DMA")
        mapping = device.address_space.alloc(PAGE)
        assert failure.left == 0
        assert mapping.mapped


def test_a_transfer_returns_short() -> None:
    kernel = mock.Kernel()
    with pyvfio.open(MOCK, mode="type1v2", kernel=kernel) as device:
        failure = kernel.failures.shorten(3, call="pread")
        assert len(kernel.pread(device.fileno(), 16, 1 << 40)) == 3
        assert failure.left == 0
        assert len(kernel.pread(device.fileno(), 16, 1 << 40)) == 16


def test_open_fails() -> None:
    kernel = mock.Kernel()
    kernel.failures.fail(errno.EACCES, call="open")
    with pytest.raises(PermissionError):
        pyvfio.open(MOCK, mode="type1v2", kernel=kernel)
    assert not kernel.files
