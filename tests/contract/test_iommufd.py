# SPDX-License-Identifier: MIT
"""iommufd with real devices: binding, attaching, files, options, the compatibility address space."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vmtest.matrix import Matrix

import pyvfio
from pyvfio import Device, DmaBuffer, Iommufd
from pyvfio._abi import ffi, lib
from pyvfio._core.fd import Fd
from pyvfio.iommufd import Ioas
from tests.contract.capabilities import without_capability
from tests.contract.process import held
from tests.contract.refused import refused

pytestmark = pytest.mark.only(mode="iommufd")

PAGE = 4096


def test_a_device_is_bound_attached_replaced_and_detached(kernel: Any, address: str) -> None:
    with Iommufd(kernel=kernel) as iommufd:
        device = iommufd.bind(address)
        with pytest.raises(pyvfio.Closed, match="attached to no address space"):
            _ = device.address_space
        one, other = iommufd.ioas(), iommufd.ioas()
        device.attach(one)
        assert device.address_space is one
        assert one.devices == [device]
        device.attach(other)
        assert device.address_space is other
        assert one.devices == []
        one.destroy()
        with pytest.raises(OSError) as caught:
            other.destroy()
        assert caught.value.errno == errno.EBUSY
        device.detach()
        device.detach()
        other.destroy()


def test_a_bound_device_is_not_bound_again(device: Device, address: str, kernel: Any) -> None:
    with Iommufd(kernel=kernel) as other, refused(errno.EINVAL, "is open in"):
        other.bind(address)
    with pyvfio.address_space("type1v2", kernel=kernel) as container, refused(errno.EBUSY):
        container.attach(address)


def test_a_device_that_is_open_by_its_group_is_not_bound(address: str, kernel: Any) -> None:
    with (
        pyvfio.open(address, mode="type1v2", kernel=kernel),
        Iommufd(kernel=kernel) as iommufd,
        refused(errno.EBUSY, "group"),
    ):
        iommufd.bind(address)


@pytest.mark.require("linux")
def test_a_device_is_bound_once_and_does_nothing_before(address: str, kernel: Any) -> None:
    """Make the requests of the kernel's selftest vfio_iommufd_setup_test.

    The test makes the requests directly, because pyvfio's objects bind at once.
    """
    cdev = pyvfio.host.device(address, kernel=kernel).cdev
    assert cdev is not None
    info = ffi.new("struct vfio_device_info *", {"argsz": ffi.sizeof("struct vfio_device_info")})
    attach = ffi.new("struct vfio_device_attach_iommufd_pt *", {"argsz": 12, "pt_id": 2**32 - 1})
    detach = ffi.new("struct vfio_device_detach_iommufd_pt *", {"argsz": 8})
    kind = "struct vfio_device_bind_iommufd"
    bind = ffi.new(f"{kind} *", {"argsz": ffi.offsetof(kind, "token_uuid_ptr")})
    with Iommufd(kernel=kernel) as iommufd, open("/dev/null", "rb") as null:
        fd = Fd.open(kernel, cdev, "device")
        try:
            assert fd.ioctl(lib.VFIO_DEVICE_GET_INFO, info) == -errno.EINVAL
            assert fd.ioctl(lib.VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach) == -errno.EINVAL
            for wrong, number in ((-2, errno.EINVAL), (null.fileno(), errno.EBADFD)):
                bind.iommufd = wrong
                assert fd.ioctl(lib.VFIO_DEVICE_BIND_IOMMUFD, bind) == -number
            bind.iommufd = iommufd.fileno()
            bind.flags = 1 << 31
            assert fd.ioctl(lib.VFIO_DEVICE_BIND_IOMMUFD, bind) == -errno.EINVAL
            bind.flags = 0
            assert fd.ioctl(lib.VFIO_DEVICE_BIND_IOMMUFD, bind) == 0
            assert fd.ioctl(lib.VFIO_DEVICE_GET_INFO, info) == 0
            assert fd.ioctl(lib.VFIO_DEVICE_BIND_IOMMUFD, bind) == -errno.EINVAL
            assert fd.ioctl(lib.VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach) == -errno.ENOENT
            attach.pt_id = iommufd.ioas().id
            for flags, number in ((1 << 31, errno.EINVAL), (0, 0)):
                attach.flags = detach.flags = flags
                assert fd.ioctl(lib.VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach) == -number
                assert fd.ioctl(lib.VFIO_DEVICE_DETACH_IOMMUFD_PT, detach) == -number
        finally:
            fd.close()


@pytest.mark.only(mode="iommufd", device="edu")
@pytest.mark.require("linux")
def test_the_devices_of_a_group_belong_to_one_iommufd(kernel: Any, other: Callable[..., str]) -> None:
    one, its_neighbour = other("0000:00:05.0"), other("0000:00:05.1")
    with Iommufd(kernel=kernel) as owner, Iommufd(kernel=kernel) as stranger, owner.bind(one) as first:
        before = held()
        with refused(errno.EPERM, f"{one} is open in this process"):
            stranger.bind(its_neighbour)
        assert held() == before
        with owner.bind(its_neighbour) as second:
            ioas = owner.ioas()
            first.attach(ioas)
            # Both must be attached to the same address space: they are in one group, so the IOMMU cannot distinguish
            # them.
            with refused(errno.EINVAL):
                second.attach(owner.ioas())
            second.attach(ioas)


@pytest.mark.only(mode="iommufd", device="edu")
@pytest.mark.require("linux")
def test_a_group_with_a_device_of_another_driver_is_refused(kernel: Any, other: Callable[..., str]) -> None:
    address = other("0000:02:00.1")
    with Iommufd(kernel=kernel) as iommufd:
        before = held()
        with pytest.raises(OSError, match="group") as caught:
            iommufd.bind(address)
        assert caught.value.errno == errno.EPERM
        assert held() == before


@pytest.mark.only(mode="iommufd", device="edu")
@pytest.mark.require("linux", "unsafe_interrupts")
def test_an_iommu_without_interrupt_remapping_needs_permission(kernel: Any, address: str) -> None:
    parameter = Path("/sys/module/iommufd/parameters/allow_unsafe_interrupts")
    with Iommufd(kernel=kernel) as iommufd:
        parameter.write_text("N")
        try:
            with refused(errno.EPERM, "does not isolate interrupts") as _, iommufd.bind(address) as device:
                device.attach(iommufd.ioas())
        finally:
            parameter.write_text("Y")
        with iommufd.bind(address) as device:
            device.attach(iommufd.ioas())


def test_attaching_to_what_is_not_there_is_refused(device: Device, space: Ioas, kernel: Any) -> None:
    with Iommufd(kernel=kernel) as other, pytest.raises(pyvfio.InvalidRequest, match="not to"):
        device.attach(other.ioas())
    gone = space.iommufd.ioas()
    gone.destroy()
    with pytest.raises(pyvfio.Closed):
        device.attach(gone)


@pytest.mark.require("iommu")
def test_attaching_over_a_mapping_in_a_reserved_region_fails(kernel: Any, address: str) -> None:
    with Iommufd(kernel=kernel) as iommufd:
        ioas = iommufd.ioas()
        mapping = ioas.map(DmaBuffer(PAGE), 0xFEE0_0000)
        device = iommufd.bind(address)
        with pytest.raises(OSError, match="reserved") as caught:
            device.attach(ioas)
        assert caught.value.errno == errno.EADDRINUSE
        mapping.unmap()
        device.attach(ioas)
        assert ioas.devices == [device]


@pytest.mark.require("iommu")
def test_a_page_table_is_made_and_attached(device: Device, space: Ioas) -> None:
    table = space.hwpt(device)
    device.attach(table)
    assert device.address_space is space
    with pytest.raises(OSError) as caught:
        table.destroy()
    assert caught.value.errno == errno.EBUSY
    assert any(device.address in note for note in caught.value.__notes__)
    device.attach(space)
    table.destroy()


@pytest.mark.require("iommu")
def test_hardware_info_tells_the_iommu(device: Device, cell: Any) -> None:
    info = device.bound.hw_info()
    expected = {"intel": lib.IOMMU_HW_INFO_TYPE_INTEL_VTD, "amd": lib.IOMMU_HW_INFO_TYPE_AMD, "virtio": 0}
    family = cell.iommu.partition("-")[0]
    assert info.type == expected[family]
    if family == "intel":
        assert info.decoded.cap_reg != 0
        # Extended Capability Register, bit 47: First-stage Translation Support (FSTS).
        assert info.decoded.ecap_reg >> 47 & 1 == (cell.iommu == "intel-fs")


@pytest.mark.only(mode="iommufd", device="vfio-mock")
def test_an_emulated_device_has_no_iommu(device: Device, space: Ioas) -> None:
    with pytest.raises(FileNotFoundError):
        device.bound.hw_info()
    with pytest.raises(FileNotFoundError):
        space.hwpt(device)


def test_pasids_that_are_not_there_are_refused(device: Device, space: Ioas, cell: Any) -> None:
    with pytest.raises(OSError) as caught:
        device.attach(space, pasid=7)
    # Linux 6.12 does not know the flag VFIO_DEVICE_ATTACH_PASID yet: EINVAL.
    told_so = cell.device == "vfio-mock" and cell.kernel != "6.12"
    assert caught.value.errno == (errno.EOPNOTSUPP if told_so else errno.EINVAL)
    assert device.address_space is space


@pytest.mark.only(mode="iommufd", kernel=["newest", "mock"])  # since Linux 6.14
def test_only_files_can_be_handed_to_another_process(space: Ioas) -> None:
    space.iommufd.change_process()
    space.map(DmaBuffer(PAGE), 0x10_0000)
    with pytest.raises(OSError) as caught:
        space.iommufd.change_process()
    assert caught.value.errno == errno.EINVAL


@pytest.mark.only(mode="iommufd", kernel="6.12")
@pytest.mark.parametrize(
    "call",
    [
        lambda ioas: ioas.map_file(0, 0, PAGE),
        lambda ioas: ioas.iommufd.change_process(),
        lambda ioas: ioas.physical_address(0),
    ],
    ids=["map-file", "change-process", "physical-address"],
)
def test_a_request_that_is_newer_than_the_kernel_says_so(space: Ioas, call: Callable[[Ioas], object]) -> None:
    with pytest.raises(OSError, match="this kernel does not know the request") as caught:
        call(space)
    assert caught.value.errno == errno.ENOTTY


@pytest.mark.only(mode="iommufd", kernel=["newest", "mock"])  # since Linux 7.3
def test_physical_addresses_are_for_devices_without_an_iommu(space: Ioas) -> None:
    mapping = space.alloc(PAGE, 0x10_0000)
    with refused(errno.EOPNOTSUPP):
        space.physical_address(mapping.iova)
    with refused(errno.ENOENT):
        space.physical_address(mapping.iova + PAGE)


@pytest.mark.only(mode="iommufd", kernel=["newest", "mock"])
def test_physical_addresses_are_not_for_everyone(space: Ioas, kernel: Any) -> None:
    mapping = space.alloc(PAGE, 0x10_0000)
    with without_capability("CAP_SYS_RAWIO", kernel), refused(errno.EPERM):
        space.physical_address(mapping.iova)


def test_a_token_of_the_wrong_length_is_refused(space: Ioas, address: str) -> None:
    with pytest.raises(ValueError, match="16"):
        space.iommufd.bind("0000:00:00.0" if address.startswith("vfio") else address, vf_token=b"short")


# nvme is left out: it is a physical function, and opening it with a token sets the token.
@pytest.mark.only(mode="iommufd", device=["edu", "e1000e", "vfio-mock"])
def test_a_token_that_nobody_asked_for_is_refused(kernel: Any, address: str) -> None:
    token = uuid.uuid4().bytes
    with Iommufd(kernel=kernel) as iommufd:
        if pyvfio.host.device(address, kernel).total_vfs is not None:
            # A device that can have virtual functions accepts the token, for them.
            iommufd.bind(address, vf_token=token).close()
            return
        with pytest.raises(OSError, match="does not take a vf_token") as caught:
            iommufd.bind(address, vf_token=token)
        assert caught.value.errno == errno.EINVAL
        assert any("before Linux 6.18" in note for note in caught.value.__notes__)


def test_tracking_says_who_tracks(device: Device, space: Ioas, cell: Any) -> None:
    mapping = space.alloc(4 * PAGE)
    with space.track_dirty([mapping.range]) as tracking:
        logs = "dirty_log" not in Matrix().absent(cell)
        assert tracking.source == ("device" if logs else "nobody")
        assert tracking.read().count() == (0 if logs else 4)
