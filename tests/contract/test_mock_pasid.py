# SPDX-License-Identifier: MIT
"""PASIDs with the iommufd selftest driver: attach, replace and detach page tables, and the page tables that are refused."""

from __future__ import annotations

import errno
from typing import NamedTuple

import pytest

from pyvfio._abi import lib
from pyvfio.iommufd import FaultQueue, Hwpt, Ioas, Viommu
from pyvfio.iommufd.object import IommufdObject
from tests.contract import marks, mock_domain
from tests.contract.mock_domain import MockDevice
from tests.contract.refused import refused

pytestmark = marks.one_cell

PASID = lib.IOMMU_HWPT_ALLOC_PASID


class Tables(NamedTuple):
    """Page tables: `plain`, which does not support PASIDs, and others, which do."""

    parent: Hwpt
    plain: Hwpt
    nested: list[Hwpt]
    faulting: Hwpt
    queue: FaultQueue


@pytest.fixture
def device(ioas: Ioas) -> MockDevice:
    return MockDevice(ioas, mock_domain.PASID)


@pytest.fixture
def tables(ioas: Ioas, device: MockDevice) -> Tables:
    parent = ioas.hwpt(device.bound, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
    queue = ioas.iommufd.fault_queue()
    viommu = Viommu(parent, device.bound, mock_domain.VIOMMU_TYPE)
    data = (device.bound, mock_domain.HWPT_DATA, mock_domain.NESTED)
    nested = [
        parent.nested(*data, flags=PASID),
        parent.nested(*data, flags=PASID),
        viommu.hwpt(*data, flags=PASID),
    ]
    faulting = parent.nested(*data, flags=PASID, fault_queue=queue)
    return Tables(parent, ioas.hwpt(device.bound, flags=PASID), nested, faulting, queue)


def attach(device: MockDevice, pasid: int, to: IommufdObject) -> None:
    device.pasid(mock_domain.PASID_ATTACH, pasid, to)


def replace(device: MockDevice, pasid: int, to: IommufdObject) -> None:
    device.pasid(mock_domain.PASID_REPLACE, pasid, to)


def detach(device: MockDevice, pasid: int) -> None:
    device.pasid(mock_domain.PASID_DETACH, pasid)


def goes_through(device: MockDevice, pasid: int, table: Hwpt | None) -> None:
    """Assert that the PASID is attached to the page table, or, for None, to nothing."""
    device.pasid(mock_domain.PASID_CHECK_HWPT, pasid, table)


def test_the_device_itself_must_be_on_a_table_that_takes_pasids(device: MockDevice, tables: Tables) -> None:
    detach(device, 100)  # nothing is attached: no error
    device.attach(tables.parent)
    with refused(errno.EINVAL):
        attach(device, 100, tables.plain)
    device.attach(tables.plain)
    attach(device, 100, tables.nested[0])
    with refused(errno.EINVAL):
        device.attach(tables.parent)
    detach(device, 100)
    goes_through(device, 100, None)
    device.attach(tables.parent)


def test_only_tables_made_for_pasids_are_attached_to_one(device: MockDevice, tables: Tables, ioas: Ioas) -> None:
    device.attach(tables.plain)
    for wrong in (tables.parent, ioas):
        with refused(errno.EINVAL):
            attach(device, 100, wrong)
        goes_through(device, 100, None)
    for table in (tables.plain, tables.nested[0]):
        attach(device, 100, table)
        goes_through(device, 100, table)
        with refused(errno.EBUSY):
            attach(device, 100, tables.nested[1])
        goes_through(device, 100, table)
        with refused(errno.EBUSY):
            table.destroy()
        detach(device, 100)
        goes_through(device, 100, None)


def test_a_replacement_that_fails_leaves_what_was_there(device: MockDevice, tables: Tables, ioas: Ioas) -> None:
    device.attach(tables.plain)
    with refused(errno.EINVAL):
        replace(device, 200, tables.plain)
    attach(device, 200, tables.plain)
    with refused(errno.EINVAL):
        replace(device, 200, ioas)
    goes_through(device, 200, tables.plain)
    for table in tables.nested[:2]:
        replace(device, 200, table)
        goes_through(device, 200, table)
    detach(device, 200)
    stubborn = mock_domain.STUBBORN_PASID
    attach(device, stubborn, tables.plain)
    with refused(errno.ENOMEM):
        replace(device, stubborn, tables.nested[0])
    goes_through(device, stubborn, tables.plain)
    detach(device, stubborn)


def test_a_device_without_pasids_takes_the_tables_but_no_pasid(device: MockDevice, tables: Tables, ioas: Ioas) -> None:
    unable = MockDevice(ioas)
    unable.attach(tables.nested[0])
    unable.attach(ioas)
    for table in (tables.parent, tables.plain):
        with refused(errno.EINVAL):
            attach(unable, 100, table)


def test_faults_tell_the_pasid(device: MockDevice, tables: Tables) -> None:
    device.attach(tables.plain)
    attach(device, 2048, tables.faulting)
    device.trigger_fault(0x7000, pasid=2048)
    (fault,) = tables.queue.read(timeout=60)
    assert fault.pasid == 2048
    assert fault.flags & lib.IOMMU_PGFAULT_FLAGS_PASID_VALID
    tables.queue.respond(fault.cookie)
    replace(device, 2048, tables.plain)
    goes_through(device, 2048, tables.plain)
    detach(device, 2048)
    tables.faulting.destroy()
    tables.queue.destroy()
