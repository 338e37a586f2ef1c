"""What the differential runs have found: calls that the mock once answered otherwise than Linux 7.3."""

from __future__ import annotations

import errno
from contextlib import closing

import pytest

import pyvfio
from pyvfio import mock
from pyvfio._abi import ffi, lib

EDU = "0000:00:03.0"


def test_blanks_behind_a_device_s_name_are_nothing() -> None:
    kernel = mock.Kernel()
    with (
        pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel),
        pyvfio.address_space("type1v2", kernel=kernel) as space,
        space.add_group(kernel.devices[EDU].group.number) as group,
        closing(group.device_fd(f"{EDU} ")) as fd,
    ):
        assert fd.fileno() >= 0


def test_a_group_that_has_left_its_iommufd_gives_up_its_dma_when_its_device_closes() -> None:
    kernel = mock.Kernel()
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel):
        group = kernel.devices[EDU].group
        iommufd, file = kernel.open("/dev/iommu"), kernel.open(f"/dev/vfio/{group.number}")
        door = kernel.door(file, "group")
        lib.pyvfio_ioctl(door, lib.VFIO_GROUP_SET_CONTAINER, ffi.new("int *", iommufd))
        device = lib.pyvfio_ioctl(door, lib.VFIO_GROUP_GET_DEVICE_FD, ffi.new("char[]", EDU.encode()))
        assert device >= 0
        assert lib.pyvfio_ioctl(door, lib.VFIO_GROUP_UNSET_CONTAINER, ffi.NULL) == 0
        for fd in (device, file, iommufd):
            kernel.close(fd)
        assert group.owner is None


def test_what_is_mapped_beyond_an_iommu_s_reach_keeps_it_out_with_erange() -> None:
    kernel = mock.Kernel("intel-39")
    with (
        pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel),
        pyvfio.open("vfio-mock.0", mode="type1v2", kernel=kernel) as device,
    ):
        space = device.address_space
        assert isinstance(space, pyvfio.Container)
        space.alloc(4096, 1 << 39)
        with pytest.raises(OSError, match="SET_CONTAINER") as caught:
            space.attach(EDU)
        assert caught.value.errno == errno.ERANGE
        assert kernel.locked.pages == 0


def test_every_pci_device_has_the_error_interrupt() -> None:
    # Before Linux 7.3 only those on PCI Express had it.
    kernel = mock.Kernel()
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode="type1v2", kernel=kernel) as device:
        assert device.irqs.err.count == 1


def test_a_device_alone_on_its_bus_is_reset_with_it() -> None:
    kernel = mock.Kernel()
    alone, shared = "0000:01:00.0", EDU
    for address, resets in ((alone, True), (shared, False)):
        with pyvfio.host.bind(address, "vfio-pci", kernel=kernel), pyvfio.open(address, mode="type1v2", kernel=kernel) as device:
            assert bool(device.info.flags & lib.VFIO_DEVICE_FLAGS_RESET) == resets
            if resets:
                device.reset()
