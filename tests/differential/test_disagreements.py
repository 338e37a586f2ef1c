"""What the differential runs have found: calls that the mock once answered otherwise than Linux 7.3."""

from __future__ import annotations

from contextlib import closing

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
