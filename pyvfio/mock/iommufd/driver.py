# SPDX-License-Identifier: MIT
"""The drivers of IOMMUs: what each kind can, and what only it knows the meaning of."""

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

    :ivar page_sizes: bitmap of those that it has
    :ivar aperture: first and last IOVA
    """

    page_sizes: int
    aperture: tuple[int, int]


class Driver:
    """An IOMMU of which only the page tables can be used, as virtio's.

    :ivar flags: IOMMU_HWPT_ALLOC_* that it takes for a page table; dirty tracking if it has that
    :ivar info: type and data of IOMMU_GET_HW_INFO
    :ivar nests: page tables of guests can be made on its own
    :ivar maps_nothing: it takes mappings that allow neither reading nor writing
    :ivar page_sizes: bitmap of those of its page tables
    :ivar aperture: first and last IOVA of these
    :ivar dirty_tracking: they can keep dirty bits
    :ivar pasid_bits: of the PASIDs that devices can use
    :ivar max_pasids: how many there are, and none above is attached by; 0 for a device that is not asked
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
        """:raises Errno: EOPNOTSUPP, it has no data of that type"""
        if self.info[1] and wanted not in (lib.IOMMU_HW_INFO_TYPE_DEFAULT, self.info[0]):
            raise Errno(errno.EOPNOTSUPP)
        return self.info

    def check_paging(self, flags: int, data: UserData) -> None:
        """Whether it makes such a page table.

        :raises Errno: EOPNOTSUPP
        """
        possible = self.flags | (_DIRTY if self.dirty_tracking else 0)
        if flags & ~possible or data.size:
            raise Errno(errno.EOPNOTSUPP)

    def shape(self, data: UserData) -> Shape:
        """Of a page table that it makes by such data; `check_paging` has found that it does."""
        return Shape(self.page_sizes, self.aperture)

    def check_attach(self, hwpt: Hwpt, device: BoundDevice) -> None:
        """:raises Errno: ENODEV, devices cannot ask for pages; what else the driver has against it"""
        if hwpt.fault_queue is not None:
            raise Errno(errno.ENODEV)

    def cache(self) -> list[int]:
        """Return a new cache of a device, which a guest can invalidate."""
        return []

    def nested(self, data: UserData) -> list[int]:
        """Return a new cache of a guest's page table with that content.

        :raises Errno: EOPNOTSUPP, EINVAL, EFAULT
        """
        raise NotImplementedError  # nothing can be its parent

    def viommu(self, type_: int) -> None:
        """:raises Errno: EOPNOTSUPP, it has no virtual IOMMU of that type"""
        raise Errno(errno.EOPNOTSUPP)

    def init_viommu(self, viommu: Viommu, data: UserData) -> None:
        """Let the driver check and answer the data of a new virtual IOMMU."""

    def invalidate_nested(self, hwpt: NestedHwpt, array: UserArray) -> tuple[int, int]:
        """Entries handled, and an errno for the one behind them (0 if there is none)."""
        return 0, errno.EOPNOTSUPP

    def invalidate_viommu(self, viommu: Viommu, array: UserArray) -> tuple[int, int]:
        return 0, errno.EOPNOTSUPP

    def check_hw_queue(self, type_: int) -> None:
        """:raises Errno: EOPNOTSUPP, it has no queue of that type"""
        raise NotImplementedError  # there is no virtual IOMMU to have one

    def init_hw_queue(self, queue: HwQueue, index: int) -> None:
        """:raises Errno: EINVAL, EEXIST, EIO: that queue cannot be"""


class Intel(Driver):
    # QEMU's in legacy mode: a second stage alone.
    flags = _PASID | _FAULT
    nests = True
    maps_nothing = False

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        # The widths of addresses (SAGAW, MGAW) that its page tables have, and the one that it is set to.
        widths = sum(1 << bit for bit, width in enumerate((30, 39, 48, 57)) if 30 < width <= profile.width)
        capabilities = 0xD2008C22000086 | (profile.width - 1) << 16 | widths << 8
        self.info = lib.IOMMU_HW_INFO_TYPE_INTEL_VTD, struct.pack("=2I2Q", 1, 0, capabilities, 0xF00F4A)


class Amd(Driver):
    flags = _FAULT
    info = (lib.IOMMU_HW_INFO_TYPE_AMD, struct.pack("=2Q", 0x29D3, 0))
    maps_nothing = False

    def check_attach(self, hwpt: Hwpt, device: BoundDevice) -> None:
        # It takes a page table with a fault queue for devices that will never have a fault.
        pass

    def viommu(self, type_: int) -> None:
        # It does not ask; but none of its page tables can be a virtual IOMMU's.
        pass


class Smmu(Driver):
    flags = _FAULT


class NoIommu(Driver):
    """Page tables that no hardware looks at: they tell the physical addresses which devices without an IOMMU are to be given."""

    flags = _FAULT
    maps_nothing = False

    def hw_info(self, wanted: int) -> tuple[int, bytes]:
        raise Errno(errno.EOPNOTSUPP)
