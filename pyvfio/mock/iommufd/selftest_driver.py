# SPDX-License-Identifier: MIT
"""The driver of the iommufd selftest's IOMMU (CONFIG_IOMMUFD_TEST), which supports every feature of iommufd."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.iommufd.driver import Driver, Shape
from pyvfio.mock.iommufd.user_data import UserArray, UserData
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.bound import BoundDevice
    from pyvfio.mock.iommufd.hw_queue import HwQueue
    from pyvfio.mock.iommufd.hwpt import Hwpt
    from pyvfio.mock.iommufd.nested import NestedHwpt
    from pyvfio.mock.iommufd.viommu import Viommu

_FLAGS = (
    lib.IOMMU_HWPT_ALLOC_NEST_PARENT
    | lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING
    | lib.IOMMU_HWPT_FAULT_ID_VALID
    | lib.IOMMU_HWPT_ALLOC_PASID
)
_HWPT_DATA, _INVALIDATE, _VIOMMU, _HW_QUEUE = 0xDEAD, 0xDEADBEEF, 0xDEADBEEF, 0xDEADBEEF
#: the type of the driver's events; their data is the device's virtual id, a u32
EVENT = 0xBEEFBEEF
_ENTRIES, _CACHE, _QUEUES = 4, 4, 2
#: limits of the driver's second format of page tables
_HUGE = Shape(1 << 12 | 1 << 20, (0, 2**38 - 1))
_CACHED = 0xBADDAD
_ALL = 1


class Selftest(Driver):
    """The selftest's IOMMU.

    Its caches of nested page tables and of devices exist only to be invalidated and checked.
    """

    flags = _FLAGS
    info = (0xFEEDBEEF, struct.pack("=2I", 0, 0xDEADBEEF))
    nests = True

    def check_paging(self, flags: int, data: UserData) -> None:
        if flags & ~self.flags or (flags & lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING and not self.dirty_tracking):
            raise Errno(errno.EOPNOTSUPP)
        if data.size and data.type != _HWPT_DATA:
            raise Errno(errno.EOPNOTSUPP)
        if data.size:
            kind = struct.unpack("=2I", data.read(_HWPT_DATA, 4, 8))[1]
            if kind > 1:
                raise Errno(errno.EOPNOTSUPP)

    def shape(self, data: UserData) -> Shape:
        huge = data.size and struct.unpack("=2I", data.read(_HWPT_DATA, 4, 8))[1]
        return _HUGE if huge else super().shape(data)

    def check_attach(self, hwpt: Hwpt, device: BoundDevice) -> None:
        if hwpt.paging is hwpt and hwpt.domain.tracks and not self.dirty_tracking:
            raise Errno(errno.EINVAL)

    def cache(self) -> list[int]:
        return [_CACHED] * _CACHE

    def nested(self, data: UserData) -> list[int]:
        if data.type != _HWPT_DATA:
            raise Errno(errno.EOPNOTSUPP)
        return [struct.unpack("=2I", data.read(_HWPT_DATA, 4, 8))[0]] * _ENTRIES

    def viommu(self, type_: int) -> None:
        if type_ != _VIOMMU:
            raise Errno(errno.EOPNOTSUPP)

    def init_viommu(self, viommu: Viommu, data: UserData) -> None:
        if data.size:
            (value,) = struct.unpack_from("=I", data.read(_VIOMMU, 8, 24))
            content = struct.pack("=I", value).ljust(2 * viommu.ctx.kernel.profile.page_size, b"\0")
            viommu.part = part = viommu.ctx.shared.add(content)
            data.write(struct.pack("=2I2Q", value, value, part.offset, part.size))

    def invalidate_nested(self, hwpt: NestedHwpt, array: UserArray) -> tuple[int, int]:
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
                hwpt.cache[number] = 0
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
            cache = viommu.vdevices[virtual_id].device.cache
            for number in range(_CACHE) if flags else (which,):
                cache[number] = 0
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
            # iommufd_hw_queue_depend(): the lower queue cannot be destroyed before this one.
            queue.depends_on(queues[index - 1])
