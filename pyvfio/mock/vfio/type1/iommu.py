# SPDX-License-Identifier: MIT
"""The type1 backend of a container: its groups, and their common mappings (vfio_iommu_type1.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
from pyvfio.iova import IovaRange
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.file import Handlers, request
from pyvfio.mock.machine.memlock import check_pinnable
from pyvfio.mock.vfio.mappings import Mappings
from pyvfio.mock.vfio.type1.info import capabilities
from pyvfio.mock.vfio.type1.mapping import READ, WRITE, Type1Mapping
from pyvfio.mock.vfio.type1.space import DomainSpace, EmulatedSpace
from pyvfio.mock.vfio.type1.tracking import Tracking
from pyvfio.mock.vfio.type1.usable import Usable

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel
    from pyvfio.mock.vfio.device import Device
    from pyvfio.mock.vfio.group import Group

_U64 = 2**64 - 1
_MAP_FLAGS = READ | WRITE | lib.VFIO_DMA_MAP_FLAG_VADDR
_UNMAP_FLAGS = lib.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | lib.VFIO_DMA_UNMAP_FLAG_ALL | lib.VFIO_DMA_UNMAP_FLAG_VADDR
_MAP = "struct vfio_iommu_type1_dma_map"
_MAP_SIZE = ffi.sizeof(_MAP)


def extension(iommu: Type1 | None, number: int) -> int:
    """Return 1 if type1 supports an extension in its present state, for VFIO_CHECK_EXTENSION.

    :param iommu: the backend; None before VFIO_SET_IOMMU
    :param number: the extension
    """
    if number in (lib.VFIO_TYPE1_IOMMU, lib.VFIO_TYPE1v2_IOMMU, lib.VFIO_UNMAP_ALL):
        return 1
    if iommu is not None and number == lib.VFIO_UPDATE_VADDR:
        return int(not iommu.emulated)
    if iommu is not None and number == lib.VFIO_DMA_CC_IOMMU:
        return int(not iommu.backed or iommu.kernel.profile.coherent)
    return 0


class Type1(Handlers):
    """The type1 backend of one container (struct vfio_iommu).

    :ivar v2: VFIO_TYPE1v2_IOMMU: an unmap must not split a mapping
    :ivar page_sizes: bitmap of the page sizes; `granule`: the smallest
    :ivar backed: groups with an IOMMU, which share one domain; `emulated`: groups of emulated devices
    :ivar devices: the open emulated devices, whose dma_unmap is called at unmaps
    :ivar available: number of further mappings allowed (dma_avail)
    :ivar invalid: number of mappings whose address is invalid (vaddr_invalid_count)
    """

    def __init__(self, kernel: Kernel, *, v2: bool) -> None:
        self.kernel = kernel
        self.v2 = v2
        self.locked = kernel.locked
        self.page = kernel.profile.page_size
        self._set_page_sizes(_U64)
        self.backed: list[Group] = []
        self.emulated: list[Group] = []
        self.devices: list[Device] = []
        self.usable = Usable()
        self.mappings: Mappings[Type1Mapping] = Mappings()
        self.available = kernel.dma_entry_limit.value
        self.invalid = 0
        self.tracking = Tracking(self)

    @classmethod
    def of_type(cls, kernel: Kernel, type: int) -> Type1:
        """Create the backend of the type that VFIO_SET_IOMMU names.

        :raises Errno: EINVAL, an extension that is not a type
        """
        if type not in (lib.VFIO_TYPE1_IOMMU, lib.VFIO_TYPE1v2_IOMMU):
            raise Errno(errno.EINVAL)
        return cls(kernel, v2=type == lib.VFIO_TYPE1v2_IOMMU)

    def _set_page_sizes(self, sizes: int) -> None:
        # Page sizes below the CPU's are reported as the CPU's, because memory is pinned in CPU pages.
        self.page_sizes = sizes & -self.page | (self.page if sizes & self.page - 1 else 0)
        self.granule = self.page_sizes & -self.page_sizes

    def extension(self, number: int) -> int:
        return extension(self, number)

    # Groups and devices.

    def attach(self, group: Group) -> None:
        """Attach a group: its usable IOVAs and page sizes apply from now on, and all mappings become valid for it.

        :raises Errno: EBUSY, an address is invalid (VFIO_DMA_UNMAP_FLAG_VADDR); EINVAL, a mapping is in a reserved
            region; ERANGE, a mapping is beyond the aperture of the first IOMMU; ENOMEM, EFAULT, from pinning mappings
            that were not pinned before
        """
        if self.invalid:
            raise Errno(errno.EBUSY)
        if group.emulated:
            self.emulated.insert(0, group)
        else:
            profile = self.kernel.profile
            aperture = IovaRange(0, 2**profile.width - 1)
            usable = self.usable.narrowed(aperture, group, self.mappings)
            self.kernel.check_isolated("vfio_iommu_type1")
            if not self.backed:
                self._pin_all(aperture)
                self._set_page_sizes(profile.page_sizes)
            self.usable.ranges = usable
            self.backed.append(group)
        for device in group.devices:
            device.space = EmulatedSpace(self) if device.emulated else DomainSpace(self)

    def detach(self, group: Group) -> None:
        """Detach a group. The last group ends all mappings; the last group with an IOMMU ends their pins."""
        for device in group.devices:
            device.space = None
        (self.emulated if group in self.emulated else self.backed).remove(group)
        if not self.emulated and not self.backed:
            self.release()
        if group.emulated:
            return
        if not self.backed:
            for mapping in self.mappings:
                mapping.unpin(self.locked, self.page)
            self._set_page_sizes(_U64)
        self.usable.refresh(self.backed)
        self.tracking.mark_all()

    def release(self) -> None:
        """Remove all mappings."""
        for mapping in self.mappings:
            mapping.unpin(self.locked, self.page)
        self.available += len(self.mappings)
        self.invalid = 0
        self.mappings.clear()

    def register(self, device: Device) -> None:
        """Note that a device is opened by its group."""
        if device.emulated:
            self.devices.insert(0, device)

    def unregister(self, device: Device) -> None:
        if device in self.devices:
            self.devices.remove(device)

    def _pin_all(self, aperture: IovaRange) -> None:
        """Pin the mappings that were made before the first IOMMU came, in ascending order."""
        done: list[Type1Mapping] = []
        try:
            for mapping in self.mappings:
                self._pin(mapping)
                done.append(mapping)
                if mapping.last > aperture.last:
                    raise Errno(errno.ERANGE)
        except Errno:
            for mapping in done:
                mapping.unpin(self.locked, self.page)
            raise

    def _pin(self, mapping: Type1Mapping) -> None:
        """Pin a whole mapping (vfio_pin_map_dma). A mapped region of a device is not charged as locked memory.

        :raises Errno: EFAULT, no memory is there, or the device does not decode memory; ENOMEM, above the limit
        """
        device = self.kernel.device_memory(mapping.address, mapping.size)
        if device is None:
            mapping.pin(self.locked, self.page)
            return
        check_pinnable(mapping.address, mapping.size, write=bool(mapping.prot & WRITE))
        if not device.decodes_memory:
            raise Errno(errno.EFAULT)

    # ioctls.

    @request(lib.VFIO_IOMMU_GET_INFO)
    def _get_info(self, argument: int) -> None:
        """Return page sizes, usable ranges and limits (vfio_iommu_type1_get_info)."""
        struct = "struct vfio_iommu_type1_info"
        least, behind = ffi.offsetof(struct, "cap_offset"), ffi.sizeof(struct)
        info = caller.take(struct, argument, least)
        if info.argsz < least:
            raise Errno(errno.EINVAL)
        size = min(info.argsz, behind)
        info.flags = lib.VFIO_IOMMU_INFO_PGSIZES | lib.VFIO_IOMMU_INFO_CAPS
        info.iova_pgsizes = self.page_sizes
        chain = capabilities(self, behind)
        if info.argsz < behind + len(chain):
            info.argsz = behind + len(chain)
        else:
            caller.write(argument + behind, chain)
            info.cap_offset = behind
        caller.give(argument, info, size)

    @request(lib.VFIO_IOMMU_MAP_DMA)
    def _map(self, argument: int) -> None:
        """Map memory (vfio_iommu_type1_map_dma)."""
        call = caller.take(_MAP, argument)
        flags, address, iova, size = call.flags, call.vaddr, call.iova, call.size
        if call.argsz < _MAP_SIZE or flags & ~_MAP_FLAGS or not size:
            raise Errno(errno.EINVAL)
        last = iova + size - 1
        if last > _U64 or address + size - 1 > _U64:
            raise Errno(errno.EOVERFLOW)
        prot, updates = flags & (READ | WRITE), flags & lib.VFIO_DMA_MAP_FLAG_VADDR
        if bool(prot) == bool(updates) or (size | iova | address) & self.granule - 1:
            raise Errno(errno.EINVAL)
        there = self.mappings.first(iova, last)
        if updates:
            self._set_address(there, iova, last, address)
            return
        if there is not None:
            raise Errno(errno.EEXIST)
        if not self.available:
            raise Errno(errno.ENOSPC)
        if not self.usable.allows(iova, last):
            raise Errno(errno.EINVAL)
        mapping = Type1Mapping(iova, last, address, prot, limited=self.locked.limit is not None)
        if self.backed:
            self._pin(mapping)
        try:
            self.tracking.add(mapping)
        except Errno:
            mapping.unpin(self.locked, self.page)
            raise
        self.available -= 1
        self.mappings.insert(mapping)

    def _set_address(self, mapping: Type1Mapping | None, iova: int, last: int, address: int) -> None:
        if mapping is None:
            raise Errno(errno.ENOENT)
        if mapping.valid or mapping.iova != iova or mapping.last != last:
            raise Errno(errno.EINVAL)
        mapping.address, mapping.valid = address, True
        self.invalid -= 1

    @request(lib.VFIO_IOMMU_UNMAP_DMA)
    def _unmap(self, argument: int) -> None:
        """Unmap a range (vfio_iommu_type1_unmap_dma)."""
        struct = "struct vfio_iommu_type1_dma_unmap"
        call = caller.take(struct, argument)
        everything = bool(call.flags & lib.VFIO_DMA_UNMAP_FLAG_ALL)
        invalidates = call.flags & lib.VFIO_DMA_UNMAP_FLAG_VADDR
        reports = call.flags & lib.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP
        if call.argsz < ffi.sizeof(struct) or call.flags & ~_UNMAP_FLAGS or (reports and (everything or invalidates)):
            raise Errno(errno.EINVAL)
        bitmap = None
        if reports:
            if call.argsz < ffi.sizeof(struct) + ffi.sizeof("struct vfio_bitmap"):
                raise Errno(errno.EINVAL)
            bitmap = self.tracking.bitmap(caller.take("struct vfio_bitmap", argument + ffi.sizeof(struct)), call.size)
        if invalidates and self.emulated:
            raise Errno(errno.EBUSY)
        last = self._last_to_unmap(call, everything)
        if bitmap is not None and not self.tracking.on:
            raise Errno(errno.EINVAL)
        if self.v2 and not everything:
            self.check_uncut(call.iova, last)
        elif (first := self.mappings.at(call.iova)) is not None and first.iova < call.iova:
            last = -1  # vfio_dma_do_unmap: v1 unmaps nothing if the first mapping starts before the range
        if invalidates:
            call.size = self._invalidate(call.iova, last)
        else:
            call.size = self._remove(call.iova, last, bitmap)
        caller.give(argument, call)

    def _last_to_unmap(self, call: Any, everything: bool) -> int:
        iova, size = call.iova, call.size
        if everything:
            if iova or size:
                raise Errno(errno.EINVAL)
            return _U64
        if not size or (iova | size) & self.granule - 1:
            raise Errno(errno.EINVAL)
        if iova + size - 1 > _U64:
            raise Errno(errno.EOVERFLOW)
        last: int = iova + size - 1
        return last

    def check_uncut(self, iova: int, last: int) -> None:
        """Check that a range splits no mapping.

        :raises Errno: EINVAL
        """
        if (first := self.mappings.at(iova)) is not None and first.iova != iova:
            raise Errno(errno.EINVAL)
        if (final := self.mappings.at(last)) is not None and final.last != last:
            raise Errno(errno.EINVAL)

    def _invalidate(self, iova: int, last: int) -> int:
        mappings = list(self.mappings.within(iova, last))
        if not all(mapping.valid for mapping in mappings):
            raise Errno(errno.EINVAL)
        for mapping in mappings:
            mapping.valid = False
        self.invalid += len(mappings)
        return sum(mapping.size for mapping in mappings)

    def _remove(self, iova: int, last: int, bitmap: int | None) -> int:
        size = 0
        for mapping in self.mappings.within(iova, last):
            if mapping.pins:
                for device in list(self.devices):
                    device.dma_unmap(mapping.iova, mapping.size)
            if bitmap is not None:
                self.tracking.report(mapping, bitmap, iova)
            mapping.unpin(self.locked, self.page)
            self.mappings.remove(mapping)
            self.available += 1
            self.invalid -= not mapping.valid
            size += mapping.size
        return size

    @request(lib.VFIO_IOMMU_DIRTY_PAGES)
    def _dirty_pages(self, argument: int) -> None:
        """Start or stop dirty tracking, or report dirty pages (vfio_iommu_type1_dirty_pages)."""
        if not self.v2:
            raise Errno(errno.EACCES)
        self.tracking.request(argument)
