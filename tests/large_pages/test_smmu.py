# SPDX-License-Identifier: MIT
"""The SMMUv3 under iommufd: what it reports, and which page tables its driver creates."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

import pyvfio
from pyvfio._abi import lib
from pyvfio.iommufd import Ioas
from pyvfio.kernel import Kernel
from pyvfio.memory import address_of
from pyvfio.spaces.container import Container
from pyvfio.spaces.mapping import MAP_DMA
from pyvfio.spaces.opening import Mode
from tests.contract.refused import refused
from tests.large_pages.conftest import EDU, PAGE, aligned


@pytest.fixture
def device(kernel: Kernel) -> Iterator[pyvfio.Device]:
    """An edu, by its cdev."""
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode="iommufd", kernel=kernel) as device:
        yield device


@pytest.fixture
def ioas(device: pyvfio.Device) -> Ioas:
    """Its address space."""
    space = device.address_space
    assert isinstance(space, Ioas)
    return space


def test_hardware_information_holds_the_smmus_registers(device: pyvfio.Device) -> None:
    info = device.bound.hw_info()
    assert info.type == lib.IOMMU_HW_INFO_TYPE_ARM_SMMUV3
    assert (info.dirty_tracking, info.max_pasid_log2) == (False, 0)
    assert info.decoded.flags == 0
    registers = [*info.decoded.idr, info.decoded.iidr, info.decoded.aidr]
    assert registers == [0xD40101A, 0x2730010, 0, 0x1404, 0, 0x74, 0, 1]


def test_alignment_is_a_page(ioas: Ioas) -> None:
    assert ioas.alignment == PAGE


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (0, 0),
        (lib.IOMMU_HWPT_ALLOC_PASID, 0),
        (lib.IOMMU_HWPT_ALLOC_NEST_PARENT, errno.EOPNOTSUPP),
        (lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING, errno.EOPNOTSUPP),
    ],
    ids=["plain", "pasid", "nest-parent", "dirty-tracking"],
)
def test_page_tables_that_the_driver_creates(device: pyvfio.Device, ioas: Ioas, flags: int, error: int) -> None:
    if error:
        with refused(error):
            ioas.hwpt(device, flags=flags)
        return
    ioas.map(aligned(PAGE), 0x10_0000)
    table = ioas.hwpt(device, flags=flags)
    device.attach(table)
    device.attach(ioas)
    table.destroy()


def test_a_mapping_that_allows_nothing_is_refused(kernel: Kernel) -> None:
    """The request itself: the library does not make it. iommufd as type1v2 leaves the answer to the IOMMU's driver."""
    mode: Mode = "iommufd-type1v2"
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode=mode, kernel=kernel) as device:
        space = device.address_space
        assert isinstance(space, Container)
        memory = aligned(PAGE)
        with refused(errno.EINVAL):
            MAP_DMA.call(space._fd, vaddr=address_of(memory), iova=0x10_0000, size=PAGE)


def test_a_device_without_page_faults_takes_no_fault_queue(device: pyvfio.Device, ioas: Ioas) -> None:
    """CONFIG_ARM_SMMU_V3_SVA is off in this kernel; the driver reports page faults only with it."""
    with device.bound.iommufd.fault_queue() as queue:
        table = ioas.hwpt(device, fault_queue=queue)
        with refused(errno.EOPNOTSUPP):
            device.attach(table)
        table.destroy()
