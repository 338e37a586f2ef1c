"""The drivers of IOMMUs: what each kind can, and what only it knows the meaning of."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, ClassVar

from pyvfio._abi import lib
from pyvfio.mock.errno import Errno
from pyvfio.mock.iommufd.user_data import UserArray, UserData

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.hw_queue import HwQueue
    from pyvfio.mock.iommufd.nested import NestedHwpt
    from pyvfio.mock.iommufd.viommu import Viommu
    from pyvfio.mock.profile import Profile

_DIRTY, _PASID = lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING, lib.IOMMU_HWPT_ALLOC_PASID
_NEST, _FAULT = lib.IOMMU_HWPT_ALLOC_NEST_PARENT, lib.IOMMU_HWPT_FAULT_ID_VALID


class Driver:
    """An IOMMU of which only the page tables can be used, as virtio's.

    :ivar flags: IOMMU_HWPT_ALLOC_* that it takes for a page table; dirty tracking if the profile has it
    :ivar info: type and data of IOMMU_GET_HW_INFO
    :ivar nests: page tables of guests can be made on its own
    :ivar maps_nothing: it takes mappings that allow neither reading nor writing
    """

    flags: ClassVar[int] = 0
    info: tuple[int, bytes] = (lib.IOMMU_HW_INFO_TYPE_NONE, b"")
    nests: ClassVar[bool] = False
    maps_nothing: ClassVar[bool] = True

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def hw_info(self, wanted: int) -> tuple[int, bytes]:
        """:raises Errno: EOPNOTSUPP, it has no data of that type"""
        if self.info[1] and wanted not in (lib.IOMMU_HW_INFO_TYPE_DEFAULT, self.info[0]):
            raise Errno(errno.EOPNOTSUPP)
        return self.info

    def check_paging(self, flags: int, data: UserData) -> None:
        """Whether it makes such a page table.

        :raises Errno: EOPNOTSUPP
        """
        possible = self.flags | (_DIRTY if self.profile.dirty_tracking else 0)
        if flags & ~possible or data.size:
            raise Errno(errno.EOPNOTSUPP)

    def check_faults(self) -> None:
        """:raises Errno: ENODEV, devices cannot ask for pages"""
        raise Errno(errno.ENODEV)

    def check_nested(self, data: UserData) -> NestedState:
        """What a guest's page table of that content is to it.

        :raises Errno: EOPNOTSUPP, EINVAL, EFAULT
        """
        raise Errno(errno.EOPNOTSUPP)

    def viommu(self, type_: int) -> None:
        """:raises Errno: EOPNOTSUPP, it has no virtual IOMMU of that type"""
        raise Errno(errno.EOPNOTSUPP)

    def init_viommu(self, data: UserData) -> None:
        """What the driver says to the data of a new virtual IOMMU."""

    def invalidate_nested(self, hwpt: NestedHwpt, array: UserArray) -> tuple[int, int]:
        """Entries handled, and an errno for the one behind them (0 if there is none)."""
        return 0, errno.EOPNOTSUPP

    def invalidate_viommu(self, viommu: Viommu, array: UserArray) -> tuple[int, int]:
        return 0, errno.EOPNOTSUPP

    def check_hw_queue(self, type_: int) -> None:
        """:raises Errno: EOPNOTSUPP, it has no queue of that type"""
        raise Errno(errno.EOPNOTSUPP)

    def init_hw_queue(self, queue: HwQueue, index: int) -> None:
        """:raises Errno: EINVAL, EEXIST, EIO: that queue cannot be"""


class NestedState:
    """What a driver keeps of a guest's page table."""


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
    info = (lib.IOMMU_HW_INFO_TYPE_AMD, struct.pack("=2Q", 0, 0))


class Smmu(Driver):
    flags = _FAULT


# The kernel's own mock IOMMU.

_HWPT_DATA, _INVALIDATE, _VIOMMU, _HW_QUEUE = 0xDEAD, 0xDEADBEEF, 0xDEADBEEF, 0xDEADBEEF
#: the type of its events, which are the device's virtual id as a u32
EVENT = 0xBEEFBEEF
_ENTRIES, _CACHE, _QUEUES = 4, 4, 2
_ALL = 1


class SelftestState(NestedState):
    """:ivar iotlb: its cache, which has no other meaning than to be invalidated"""

    def __init__(self, value: int) -> None:
        self.iotlb = [value] * _ENTRIES


class Selftest(Driver):
    """The mock IOMMU of the kernel's selftest (CONFIG_IOMMUFD_TEST), which has all that there is."""

    flags = _NEST | _DIRTY | _PASID | _FAULT
    info = (0xFEEDBEEF, struct.pack("=2I", 0, 0xDEADBEEF))
    nests = True

    def check_paging(self, flags: int, data: UserData) -> None:
        if flags & ~self.flags or (data.size and data.type != _HWPT_DATA):
            raise Errno(errno.EOPNOTSUPP)
        if data.size:
            kind = struct.unpack("=2I", data.read(_HWPT_DATA, 4, 8))[1]
            if kind > 1:
                raise Errno(errno.EOPNOTSUPP)

    def check_faults(self) -> None:
        pass

    def check_nested(self, data: UserData) -> NestedState:
        if data.type != _HWPT_DATA:
            raise Errno(errno.EOPNOTSUPP)
        return SelftestState(struct.unpack("=2I", data.read(_HWPT_DATA, 4, 8))[0])

    def viommu(self, type_: int) -> None:
        if type_ != _VIOMMU:
            raise Errno(errno.EOPNOTSUPP)

    def init_viommu(self, data: UserData) -> None:
        if data.size:
            (value,) = struct.unpack_from("=I", data.read(_VIOMMU, 8, 24))
            # What could be mapped of it: nothing here, and it says so.
            data.write(struct.pack("=2I2Q", value, value, 0, 0))

    def invalidate_nested(self, hwpt: NestedHwpt, array: UserArray) -> tuple[int, int]:
        assert isinstance(hwpt.state, SelftestState)
        if array.type != _INVALIDATE:
            return 0, errno.EINVAL
        for index in range(array.number):
            try:
                entry = UserData(array.type, array.address + index * array.entry_size, array.entry_size)
                flags, which = struct.unpack("=2I", entry.read(_INVALIDATE, 8, 8))
            except Errno as error:
                return index, error.number
            if flags & ~_ALL:
                return index, errno.EOPNOTSUPP
            if which >= _ENTRIES:
                return index, errno.EINVAL
            for number in range(_ENTRIES) if flags else (which,):
                hwpt.state.iotlb[number] = 0
        return array.number, 0

    def invalidate_viommu(self, viommu: Viommu, array: UserArray) -> tuple[int, int]:
        if array.type != _INVALIDATE:
            return 0, errno.EINVAL
        try:
            entries = [struct.unpack("=3I", array.entry(index, 12)) for index in range(array.number)]
        except Errno as error:
            return 0, error.number
        for index, (flags, virtual_id, which) in enumerate(entries):
            if flags & ~_ALL:
                return index, errno.EOPNOTSUPP
            if which >= _CACHE or virtual_id not in viommu.vdevices:
                return index, errno.EINVAL
        return array.number, 0

    def check_hw_queue(self, type_: int) -> None:
        if type_ != _HW_QUEUE:
            raise Errno(errno.EOPNOTSUPP)

    def init_hw_queue(self, queue: HwQueue, index: int) -> None:
        queues = queue.viommu.hw_queues
        if index >= _QUEUES:
            raise Errno(errno.EINVAL)
        if index in queues:
            raise Errno(errno.EEXIST)
        if index:
            if index - 1 not in queues:
                raise Errno(errno.EIO)
            # The first must stay as long as the second.
            queue.depends_on(queues[index - 1])


DRIVERS = {"intel": Intel, "amd": Amd, "smmu": Smmu, "virtio": Driver, "selftest": Selftest}
