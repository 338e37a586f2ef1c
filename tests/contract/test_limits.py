# SPDX-License-Identifier: MIT
"""Limits that the administrator sets, and the messages when one is reached."""

from __future__ import annotations

import errno
import mmap
import resource
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from examples.edu import Edu

import pyvfio
from pyvfio.spaces.opening import Mode
from tests.contract.capabilities import without_capability
from tests.contract.process import pinned

if TYPE_CHECKING:
    from pyvfio.spaces.base import AddressSpace

pytestmark = pytest.mark.require("linux")

PAGE = 4096
PARAMETERS = Path("/sys/module/vfio_iommu_type1/parameters")
IOMMUFD_PARAMETERS = Path("/sys/module/iommufd/parameters")

type1_edu = pytest.mark.only(mode=["type1v2", "type1"], device="edu")


@contextmanager
def parameter(name: str, value: str, directory: Path = PARAMETERS) -> Iterator[None]:
    file = directory / name
    before = file.read_text()
    file.write_text(value)
    try:
        yield
    finally:
        file.write_text(before)


@contextmanager
def locked_memory_limit(size: int) -> Iterator[None]:
    """Set RLIMIT_MEMLOCK, and drop CAP_IPC_LOCK, with which the limit would not apply."""
    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with without_capability("CAP_IPC_LOCK"):
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, limits[1]))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)


@type1_edu
def test_the_limit_on_locked_memory_is_named_with_what_is_used(space: AddressSpace) -> None:
    # type1 checks the limit for each new mapping.
    with locked_memory_limit(1 << 20):
        space.alloc(512 << 10)
        with pytest.raises(OSError, match="RLIMIT_MEMLOCK") as caught:
            space.alloc(1 << 20)
        assert caught.value.errno == errno.ENOMEM
        assert any("ulimit -l" in note for note in caught.value.__notes__)
        assert space.alloc(256 << 10).mapped
    space.unmap_all()


@pytest.mark.require("iommu")
def test_a_device_works_within_the_limit_on_locked_memory(address: str, mode: Mode, kernel: Any) -> None:
    with locked_memory_limit(1 << 20), pyvfio.open(address, mode=mode, kernel=kernel) as device:
        space = device.address_space
        space.alloc(512 << 10)
        before = pinned()
        with pytest.raises(OSError, match="RLIMIT_MEMLOCK") as caught:
            space.alloc(1 << 20)
        assert caught.value.errno == errno.ENOMEM
        assert pinned() == before
        assert space.alloc(256 << 10).mapped


@type1_edu
def test_the_limit_on_mappings_is_named(bare_space: AddressSpace, address: str) -> None:
    with parameter("dma_entry_limit", "4"), bare_space.attach(address) as device:
        space = device.address_space
        for _ in range(4):
            space.alloc(PAGE)
        with pytest.raises(OSError, match="dma_entry_limit") as caught:
            space.alloc(PAGE)
        assert caught.value.errno == errno.ENOSPC
        space.mappings[0].unmap()
        assert space.alloc(PAGE).mapped


@type1_edu
def test_memory_that_is_not_there_is_not_mapped(space: AddressSpace) -> None:
    memory = mmap.mmap(-1, 2 * PAGE, prot=mmap.PROT_READ)
    with pytest.raises(OSError) as caught:
        space.map_many(array("Q", [0x1000, 0x10_0000, PAGE]))
    assert caught.value.errno == errno.EFAULT
    # Read-only private memory cannot be pinned for a mapping that the device may write.
    view = memoryview(memory)
    with pytest.raises(BufferError):
        space.map(view, 0x10_0000)
    assert space.map(view, 0x10_0000, write=False).unmap() == 2 * PAGE


@pytest.mark.only(mode=["type1v2", "type1"], device="edu")
@pytest.mark.require("unsafe_interrupts")
def test_an_iommu_without_interrupt_remapping_needs_permission(bare_space: AddressSpace, address: str) -> None:
    with parameter("allow_unsafe_interrupts", "N"), pytest.raises(OSError, match="allow_unsafe_interrupts") as caught:
        bare_space.attach(address).close()
    assert caught.value.errno == errno.EPERM
    with bare_space.attach(address) as device:
        assert device.address_space.alloc(PAGE).mapped


@pytest.mark.only(iommu=["intel", "amd-x2apic"], device="edu", kernel="newest")
def test_an_iommu_that_isolates_interrupts_needs_no_parameter(bare_space: AddressSpace, address: str) -> None:
    with (
        parameter("allow_unsafe_interrupts", "N"),
        parameter("allow_unsafe_interrupts", "N", IOMMUFD_PARAMETERS),
        bare_space.attach(address) as device,
        Edu(device, interrupt=True) as edu,
    ):
        edu.raise_interrupt(0x2A)
        assert edu.interrupted() == 0x2A
