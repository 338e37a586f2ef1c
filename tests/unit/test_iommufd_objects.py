# SPDX-License-Identifier: MIT
"""Objects of an iommufd: places of mappings, ids of other iommufds, the state after a failed destroy, and options."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

import pyvfio
from pyvfio import Device, DmaBuffer, InvalidRequest, Iommufd, IovaRange
from pyvfio._abi import lib
from pyvfio.iommufd import Ioas, Viommu
from tests.fixtures import ioas, iommufd
from tests.overriding import Overriding

__all__ = ["ioas", "iommufd"]
PAGE = 4096
EDU = "0000:00:03.0"
VIOMMU = 0xDEADBEEF
pytestmark = pytest.mark.vfio(mode="iommufd", profile="selftest")


@pytest.fixture
def edu(kernel: Overriding, iommufd: Iommufd) -> Iterator[Device]:
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), iommufd.bind(EDU) as device:
        yield device


@pytest.mark.parametrize("iova", [0, PAGE, 0x100000])
def test_a_file_is_mapped_where_it_is_asked_for(ioas: Ioas, iova: int) -> None:
    fd = os.memfd_create("test")
    os.truncate(fd, 4 * PAGE)
    mapping = ioas.map_file(fd, PAGE, 2 * PAGE, iova=iova)
    os.close(fd)
    assert mapping.range == IovaRange.of(iova, 2 * PAGE)
    assert ioas.unmap(iova, 2 * PAGE) == 2 * PAGE


@pytest.mark.parametrize("iova", [0, 0x300000])
def test_a_copy_is_where_it_is_asked_for(iommufd: Iommufd, ioas: Ioas, iova: int) -> None:
    mapping = iommufd.ioas().map(DmaBuffer(2 * PAGE), 0x100000)
    copied = ioas.copy(mapping, iova, write=False)
    assert copied.range == IovaRange.of(iova, 2 * PAGE)
    assert ioas.unmap(iova, 2 * PAGE) == 2 * PAGE


def test_only_mappings_of_an_ioas_of_the_same_iommufd_are_copied(kernel: Overriding, ioas: Ioas) -> None:
    with Iommufd(kernel=kernel) as other:
        foreign = other.ioas().map(DmaBuffer(PAGE), 0x100000)
        with pytest.raises(InvalidRequest, match="use objects of one Iommufd"):
            ioas.copy(foreign)
    with pyvfio.open("vfio-mock.0", mode="type1v2", kernel=kernel) as device:
        mapping = device.address_space.alloc(PAGE)
        with pytest.raises(InvalidRequest, match="only mappings of an Ioas can be copied"):
            ioas.copy(mapping)


def test_a_virtual_iommu_takes_no_device_of_another_iommufd(kernel: Overriding, edu: Device, ioas: Ioas) -> None:
    parent = ioas.hwpt(edu, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
    with (
        Iommufd(kernel=kernel) as other,
        other.bind("vfio-mock.0") as foreign,
        pytest.raises(InvalidRequest, match="use objects of one Iommufd"),
    ):
        Viommu(parent, foreign, VIOMMU)
    assert Viommu(parent, edu, VIOMMU).parent is parent


def test_a_destroy_that_fails_at_close_is_raised(kernel: Overriding, ioas: Ioas) -> None:
    kernel.answers["IOMMU_DESTROY"] = -errno.EBUSY
    with pytest.raises(OSError, match="IOMMU_DESTROY") as caught:
        ioas.close()
    assert caught.value.errno == errno.EBUSY
    kernel.answers["IOMMU_DESTROY"] = -errno.ENOENT
    ioas.close()
    del kernel.answers["IOMMU_DESTROY"]


def test_a_queue_is_destroyed_with_its_descriptor(kernel: Overriding, iommufd: Iommufd) -> None:
    queue = iommufd.fault_queue()
    number = queue.id
    queue.destroy()
    assert "IOMMU_DESTROY" in kernel.calls
    assert iommufd.fault_queue().id == number, "the number is free again"
    with pytest.raises(pyvfio.Closed):
        queue.fileno()


def test_locked_memory_is_accounted_as_it_is_set(iommufd: Iommufd) -> None:
    assert iommufd.rlimit_mode is False
    iommufd.rlimit_mode = True
    assert iommufd.rlimit_mode is True
    iommufd.rlimit_mode = False
    assert iommufd.rlimit_mode is False


@pytest.mark.parametrize("page_size", [0, -PAGE, 3 * PAGE, 1 << 21])
def test_dirty_pages_are_read_in_powers_of_two(edu: Device, ioas: Ioas, page_size: int) -> None:
    table = ioas.hwpt(edu, flags=lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    with pytest.raises(InvalidRequest, match="page_size must be a power of two"):
        table.read_dirty(IovaRange.of(0x100000, 4 * PAGE), page_size)


def test_dirty_pages_are_read_while_tracking_is_on(edu: Device, ioas: Ioas) -> None:
    table = ioas.hwpt(edu, flags=lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    ioas.map(DmaBuffer(4 * PAGE), 0x100000)
    wanted = IovaRange.of(0x100000, 4 * PAGE)
    for on in (False, True, False):
        table.set_dirty_tracking(on)
        if on:
            assert table.read_dirty(wanted).count() == 0
            assert table.read_dirty(IovaRange.of(0x100000, 1 << 21)).count() == 0, "gaps are clean"
            with pytest.raises(InvalidRequest, match="use smaller pages"):
                table.read_dirty(IovaRange.of(0x100000, 8 * PAGE), 8 * PAGE)
        else:
            with pytest.raises(InvalidRequest, match="dirty tracking is off"):
                table.read_dirty(wanted)


@pytest.mark.parametrize("error", [errno.ENXIO, errno.EPERM])
def test_registers_of_a_virtual_iommu_fail_with_their_errno(
    kernel: Overriding, edu: Device, ioas: Ioas, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    viommu = Viommu(ioas.hwpt(edu, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT), edu, VIOMMU)

    def refuse(*_: object, **more: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(kernel, "mmap", refuse)
    with pytest.raises(OSError, match="mmap") as caught:
        viommu.mmap(0, PAGE)
    assert caught.value.errno == error


def test_vectors_that_cannot_be_masked_say_so(edu: Device) -> None:
    (vector,) = edu.irqs.msi.enable()
    for call in (vector.mask, vector.unmask, vector.clear_unmask_eventfd):
        with pytest.raises(pyvfio.Unsupported, match="cannot be masked"):
            call()


def test_a_descriptor_may_have_the_number_0(kernel: Overriding) -> None:
    from pyvfio._core.fd import Fd

    closed: list[int] = []
    kernel.close = closed.append  # type: ignore[assignment]
    fd = Fd(kernel, 0, "container", "/dev/vfio/vfio")
    assert (fd.fileno(), fd.closed) == (0, False)
    fd.close()
    assert closed == [0]
    with pytest.raises(pyvfio.Closed):
        fd.fileno()
