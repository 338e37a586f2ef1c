# SPDX-License-Identifier: MIT
"""The IOMMU drivers: their features, and the interpretation of driver-specific data."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pyvfio._abi import lib
from pyvfio.mock.iommufd.area import LAST
from pyvfio.mock.iommufd.user_data import UserArray, UserData
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.bound import BoundDevice
    from pyvfio.mock.iommufd.hw_queue import HwQueue
    from pyvfio.mock.iommufd.hwpt import Hwpt
    from pyvfio.mock.iommufd.nested import NestedHwpt
    from pyvfio.mock.iommufd.viommu import Viommu
    from pyvfio.mock.machine.profile import Profile

_DIRTY, _PASID = lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING, lib.IOMMU_HWPT_ALLOC_PASID
_NEST, _FAULT = lib.IOMMU_HWPT_ALLOC_NEST_PARENT, lib.IOMMU_HWPT_FAULT_ID_VALID


class Shape(NamedTuple):
    """The limits of a page table.

    :ivar page_sizes: bitmap of the supported page sizes
    :ivar aperture: first and last IOVA
    """

    page_sizes: int
    aperture: tuple[int, int]


class Driver:
    """An IOMMU that supports only plain page tables, such as virtio's.

    :ivar flags: IOMMU_HWPT_ALLOC_* that the driver accepts for a page table, besides dirty tracking
    :ivar info: type and data of IOMMU_GET_HW_INFO
    :ivar nests: nested page tables are supported
    :ivar maps_nothing: mappings that allow neither reading nor writing are accepted
    :ivar page_sizes: bitmap of the page sizes of a page table
    :ivar aperture: first and last IOVA of a page table
    :ivar dirty_tracking: dirty tracking is supported
    :ivar pasid_bits: width of the PASIDs that devices can use
    :ivar max_pasids: PASIDs from this on cannot be attached; 0: no check
    """

    flags: ClassVar[int] = 0
    info: tuple[int, bytes] = (lib.IOMMU_HW_INFO_TYPE_NONE, b"")
    nests: ClassVar[bool] = False
    maps_nothing: ClassVar[bool] = True

    def __init__(self, profile: Profile) -> None:
        self.page_sizes = profile.page_sizes
        self.aperture = (0, min(LAST, (1 << profile.width) - 1))
        self.dirty_tracking = profile.dirty_tracking
        self.pasid_bits = profile.pasid_bits
        self.max_pasids = 1 << self.pasid_bits if self.pasid_bits else 0

    def hw_info(self, wanted: int) -> tuple[int, bytes]:
        """Return type and data of IOMMU_GET_HW_INFO.

        :raises Errno: EOPNOTSUPP, the driver has no data of that type
        """
        if self.info[1] and wanted not in (lib.IOMMU_HW_INFO_TYPE_DEFAULT, self.info[0]):
            raise Errno(errno.EOPNOTSUPP)
        return self.info

    def check_paging(self, flags: int, data: UserData) -> None:
        """Check that the driver can create such a page table.

        :raises Errno: EOPNOTSUPP
        """
        possible = self.flags | (_DIRTY if self.dirty_tracking else 0)
        if flags & ~possible or data.size:
            raise Errno(errno.EOPNOTSUPP)

    def shape(self, data: UserData) -> Shape:
        """Return the limits of a page table for data that `check_paging` has accepted."""
        return Shape(self.page_sizes, self.aperture)

    def check_attach(self, hwpt: Hwpt, device: BoundDevice) -> None:
        """Check that the device can be attached to the page table.

        :raises Errno: ENODEV, the driver does not support I/O page faults; or another error of the driver
        """
        if hwpt.fault_queue is not None:
            raise Errno(errno.ENODEV)

    def cache(self) -> list[int]:
        """Return a new device cache, which a guest can invalidate."""
        return []

    def nested(self, data: UserData) -> list[int]:
        """Return a new cache of a nested page table, filled from `data`.

        :raises Errno: EOPNOTSUPP, EINVAL, EFAULT
        """
        raise NotImplementedError  # no page table of this driver can be its parent

    def viommu(self, type_: int) -> None:
        """Check that the driver supports virtual IOMMUs of that type.

        :raises Errno: EOPNOTSUPP
        """
        raise Errno(errno.EOPNOTSUPP)

    def init_viommu(self, viommu: Viommu, data: UserData) -> None:
        """Let the driver check the data of a new virtual IOMMU, and write its response there."""

    def invalidate_nested(self, hwpt: NestedHwpt, array: UserArray) -> tuple[int, int]:
        """Return the number of entries handled, and the errno of the one after them (0 without an error)."""
        return 0, errno.EOPNOTSUPP

    def invalidate_viommu(self, viommu: Viommu, array: UserArray) -> tuple[int, int]:
        return 0, errno.EOPNOTSUPP

    def check_hw_queue(self, type_: int) -> None:
        """Check that the driver supports hardware queues of that type.

        :raises Errno: EOPNOTSUPP
        """
        raise NotImplementedError  # this driver has no virtual IOMMUs

    def init_hw_queue(self, queue: HwQueue, index: int) -> None:
        """Let the driver set up a new hardware queue.

        :raises Errno: EINVAL, EEXIST, EIO
        """


class Intel(Driver):
    # QEMU's intel-iommu in legacy mode: second-stage translation only.
    flags = _PASID | _FAULT
    nests = True
    maps_nothing = False

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        # SAGAW (supported widths of the page tables) and MGAW (maximum width of guest addresses).
        widths = sum(1 << bit for bit, width in enumerate((30, 39, 48, 57)) if 30 < width <= profile.width)
        capabilities = 0xD2008C22000086 | (profile.width - 1) << 16 | widths << 8
        self.info = lib.IOMMU_HW_INFO_TYPE_INTEL_VTD, struct.pack("=2I2Q", 1, 0, capabilities, 0xF00F4A)


class Amd(Driver):
    flags = _FAULT
    info = (lib.IOMMU_HW_INFO_TYPE_AMD, struct.pack("=2Q", 0x29D3, 0))
    maps_nothing = False

    def check_attach(self, hwpt: Hwpt, device: BoundDevice) -> None:
        # The AMD driver attaches a page table with a fault queue even for devices that cannot report page faults.
        pass

    def viommu(self, type_: int) -> None:
        # amd_iommufd_get_viommu_size accepts every type; the ioctl fails later, as no page table here can be a nest
        # parent.
        pass


class Smmu(Driver):
    # QEMU's smmuv3 has one stage and no substreams. The driver accepts the PASID flag all the same, as Linux does.
    flags = _PASID | _FAULT
    # IDR0 to IDR5, IIDR and AIDR, as QEMU 7.2 has them.
    info = (
        lib.IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
        struct.pack("=10I", 0, 0, 0xD40101A, 0x2730010, 0, 0x1404, 0, 0x74, 0, 1),
    )
    maps_nothing = False

    def check_attach(self, hwpt: Hwpt, device: BoundDevice) -> None:
        # arm_smmu_enable_iopf, in a kernel without CONFIG_ARM_SMMU_V3_SVA. With it, the driver attaches such a page
        # table also for devices that cannot report page faults.
        if hwpt.fault_queue is not None:
            raise Errno(errno.EOPNOTSUPP)


class NoIommu(Driver):
    """Page tables that no hardware walks: they hold the physical addresses for the DMA of devices without an IOMMU."""

    flags = _FAULT
    maps_nothing = False

    def hw_info(self, wanted: int) -> tuple[int, bytes]:
        raise Errno(errno.EOPNOTSUPP)
