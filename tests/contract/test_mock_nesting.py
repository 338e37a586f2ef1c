# SPDX-License-Identifier: MIT
"""Nested page tables, their invalidation, and I/O page faults of devices attached to them."""

from __future__ import annotations

import errno
from typing import Any

import pytest

import pyvfio
from pyvfio import Iommufd
from pyvfio._abi import ffi, lib
from pyvfio.iommufd import FaultQueue, Hwpt, Ioas
from tests.contract import marks, mock_domain
from tests.contract.mock_domain import MockDevice
from tests.contract.refused import refused

pytestmark = marks.one_cell

DATA, NESTED = mock_domain.HWPT_DATA, mock_domain.NESTED
PARENT = lib.IOMMU_HWPT_ALLOC_NEST_PARENT


@pytest.fixture
def parent(ioas: Ioas, mock: MockDevice) -> Hwpt:
    return ioas.hwpt(mock.bound, flags=PARENT)


@pytest.fixture
def nested(parent: Hwpt, mock: MockDevice) -> Hwpt:
    return parent.nested(mock.bound, DATA, NESTED)


def test_a_parent_must_be_made_as_one(ioas: Ioas, mock: MockDevice, parent: Hwpt) -> None:
    plain = ioas.hwpt(mock.bound)
    with refused(errno.EINVAL):
        plain.nested(mock.bound, DATA, NESTED)
    nested = parent.nested(mock.bound, DATA, NESTED)
    with refused(errno.EINVAL):
        nested.nested(mock.bound, DATA, NESTED)
    with refused(errno.EBUSY):
        parent.destroy()
    nested.destroy()
    parent.destroy()


def test_data_of_a_table_that_the_iommu_does_not_take(parent: Hwpt, mock: MockDevice, ioas: Ioas) -> None:
    for number, data_type, data, flags in (
        (errno.EINVAL, lib.IOMMU_HWPT_DATA_NONE, NESTED, 0),
        (errno.EOPNOTSUPP, DATA + 1, NESTED, 0),
        (errno.EINVAL, DATA, NESTED[:3], 0),
        (errno.EOPNOTSUPP, DATA, NESTED, PARENT),
        (errno.EOPNOTSUPP, DATA, NESTED, 1 << 31),
    ):
        with refused(number):
            parent.nested(mock.bound, data_type, data, flags=flags)
    with refused(errno.EINVAL):
        parent.nested(mock.bound, DATA, NESTED + b"\x01")
    # Longer than struct iommu_hwpt_selftest: the kernel refuses the size before it reads the data (at an invalid
    # address).
    with refused(errno.EINVAL):
        parent.nested(mock.bound, DATA, ffi.cast("struct iommu_hwpt_vtd_s1 *", 0x1000))
    with refused(errno.ENOENT):
        mock_domain.allocate_by_id(ioas.iommufd, device=0xFFFF, parent=ioas.id)
    with refused(errno.EINVAL):
        mock_domain.allocate_by_id(ioas.iommufd, device=mock.bound.id, parent=mock.bound.id)


def test_all_of_one_table_and_another_are_invalidated_by_entry(parent: Hwpt, mock: MockDevice) -> None:
    tables = [parent.nested(mock.bound, DATA, NESTED) for _ in range(2)]
    held = [mock_domain.IOTLB_DEFAULT] * mock_domain.ENTRIES

    def check() -> None:
        for index, value in enumerate(held):
            mock_domain.check_iotlb(tables[0], index, value)

    def invalidate(*entries: tuple[int, int]) -> int:
        """Invalidate entries, each given by flags and a number. Return the number of entries done."""
        return tables[0].invalidate(mock_domain.HWPT_INVALIDATE, ffi.new("uint32_t[][2]", list(entries)))

    check()
    assert invalidate() == 0
    bad = 0xFFFF_FFFF
    for number, done, *entries in (
        (errno.EOPNOTSUPP, 0, (bad, 0)),
        (errno.EINVAL, 0, (0, mock_domain.ENTRIES)),
        (errno.EOPNOTSUPP, 1, (0, 0), (bad, 1)),
        (errno.EINVAL, 1, (0, 0), (0, mock_domain.ENTRIES)),
    ):
        with refused(number, f"{done} of {len(entries)} entries handled"):
            invalidate(*entries)
        held[:done] = [0] * done
        check()
    assert invalidate((0, 1)) == 1
    held[1] = 0
    check()
    assert invalidate((0, 2), (0, 3)) == 2
    held[2:] = [0, 0]
    check()
    mock_domain.check_iotlb(tables[1], 0, mock_domain.IOTLB_DEFAULT)
    entries = ffi.new("uint32_t[1][2]", [[mock_domain.INVALIDATE_ALL, 0]])
    assert tables[1].invalidate(mock_domain.HWPT_INVALIDATE, entries) == 1
    for index in range(mock_domain.ENTRIES):
        mock_domain.check_iotlb(tables[1], index, 0)


def test_invalid_invalidations_are_refused_and_handle_nothing(parent: Hwpt, nested: Hwpt) -> None:
    one = ffi.new("uint32_t[1][2]")
    for table, data_type, entries in (
        (parent, mock_domain.HWPT_INVALIDATE, one),
        (nested, mock_domain.HWPT_INVALIDATE ^ 1, one),
        (nested, mock_domain.HWPT_INVALIDATE, ffi.new("uint8_t[1][1]")),
        (nested, mock_domain.HWPT_INVALIDATE, ffi.new("uint8_t[1][4097]")),
        (nested, mock_domain.HWPT_INVALIDATE, ffi.new("uint32_t[][2]", (1 << 19) + 1)),
    ):
        with refused(errno.EINVAL, "0 of"):
            table.invalidate(data_type, entries)
    # An entry that is longer than the kernel's struct, with a byte behind it that is not zero.
    longer = ffi.new("uint8_t[1][9]", [bytes(8) + b"\x01"])
    with refused(errno.EINVAL, "0 of 1"):
        nested.invalidate(mock_domain.HWPT_INVALIDATE, longer)
    mock_domain.check_iotlb(nested, 0, mock_domain.IOTLB_DEFAULT)


def test_a_device_goes_from_table_to_table(ioas: Ioas, mock: MockDevice, parent: Hwpt) -> None:
    tables = [parent.nested(mock.bound, DATA, NESTED) for _ in range(2)]
    for table in (*tables, parent):
        mock.attach(table)
        with refused(errno.EBUSY):
            table.destroy()
    for table in tables:
        table.destroy()
    mock.attach(ioas)
    parent.destroy()


@pytest.fixture
def queue(iommufd: Iommufd) -> FaultQueue:
    return iommufd.fault_queue()


def test_faults_are_read_as_they_come_and_answered(
    ioas: Ioas, mock: MockDevice, parent: Hwpt, queue: FaultQueue
) -> None:
    assert queue.read() == []
    nested = parent.nested(mock.bound, DATA, NESTED, fault_queue=queue)
    mock.attach(nested)
    for group in range(3):
        mock.trigger_fault(0x1234000 + group, group=group, permissions=lib.IOMMU_PGFAULT_PERM_READ)
    faults = queue.read(timeout=60)
    assert [fault.group for fault in faults] == [0, 1, 2]
    assert [fault.address for fault in faults] == [0x1234000, 0x1234001, 0x1234002]
    assert all(fault.device_id == mock.bound.id and fault.last for fault in faults)
    assert all(fault.permissions == lib.IOMMU_PGFAULT_PERM_READ for fault in faults)
    assert queue.read() == []
    with refused(errno.EINVAL):
        queue.respond(faults[0].cookie + 1000)
    with refused(errno.EINVAL):
        queue.respond(faults[0].cookie, 77)
    for fault, code in zip(faults, (lib.IOMMUFD_PAGE_RESP_SUCCESS, lib.IOMMUFD_PAGE_RESP_INVALID), strict=False):
        queue.respond(fault.cookie, code)
    with refused(errno.EINVAL):
        queue.respond(faults[0].cookie)
    # One fault is never answered. That does not keep the page table from being destroyed.
    with refused(errno.EBUSY):
        nested.destroy()
    mock.attach(ioas)
    nested.destroy()
    queue.destroy()


def test_a_queue_that_a_table_uses_is_not_destroyed(mock: MockDevice, parent: Hwpt, queue: FaultQueue) -> None:
    nested = parent.nested(mock.bound, DATA, NESTED, fault_queue=queue)
    with pytest.raises(OSError) as caught:
        queue.destroy()
    assert caught.value.errno == errno.EBUSY
    assert any(repr(nested) in note for note in caught.value.__notes__)
    # The refused close changed nothing: the queue still works.
    mock.attach(nested)
    mock.trigger_fault(0x1000)
    assert len(queue.read(timeout=60)) == 1


def test_faults_need_a_queue_of_the_same_iommufd(
    ioas: Ioas, mock: MockDevice, parent: Hwpt, queue: FaultQueue, kernel: Any
) -> None:
    # A nesting parent cannot have a fault queue. Only the nested page tables can.
    with refused(errno.EOPNOTSUPP):
        ioas.hwpt(mock.bound, flags=PARENT, fault_queue=queue)
    with refused(errno.ENOENT):
        mock_domain.allocate_by_id(ioas.iommufd, device=mock.bound.id, parent=parent.id, fault_queue=0xFFFF)
    with Iommufd(kernel=kernel) as stranger, pytest.raises(pyvfio.InvalidRequest, match="not to"):
        parent.nested(mock.bound, DATA, NESTED, fault_queue=stranger.fault_queue())
    gone = ioas.iommufd.fault_queue()
    gone.destroy()
    with pytest.raises(pyvfio.Closed, match="destroyed"):
        parent.nested(mock.bound, DATA, NESTED, fault_queue=gone)
    with pytest.raises(pyvfio.Closed):
        gone.read()
