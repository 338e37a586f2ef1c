# SPDX-License-Identifier: MIT
"""A hardware page table (HWPT): the I/O page table that an IOMMU walks for the attached devices."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
from pyvfio._buffer import Object
from pyvfio._core.arguments import instance, u32
from pyvfio._core.request import Request
from pyvfio._core.text import ranges as shown
from pyvfio._core.text import size as bytes_
from pyvfio._core.text import span
from pyvfio.bitmap import DirtyBitmap, Segment
from pyvfio.errors import InvalidRequest
from pyvfio.iommufd.bound import BoundDevice, bound_of
from pyvfio.iommufd.fault_queue import FaultQueue
from pyvfio.iommufd.object import IOMMUFD, IommufdObject, address
from pyvfio.iova import IovaRange, IovaSet

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.iommufd.ioas import Ioas
    from pyvfio.iommufd.viommu import Viommu

__all__ = ["Hwpt"]

#: IOMMU_HWPT_DATA_* -> the C struct that describes a page table that a guest fills
DATA = {
    lib.IOMMU_HWPT_DATA_VTD_S1: "struct iommu_hwpt_vtd_s1",
    lib.IOMMU_HWPT_DATA_ARM_SMMUV3: "struct iommu_hwpt_arm_smmuv3",
    lib.IOMMU_HWPT_DATA_AMD_GUEST: "struct iommu_hwpt_amd_guest",
}


ALLOC = Request(
    "IOMMU_HWPT_ALLOC",
    "iommufd",
    "struct iommu_hwpt_alloc",
    errnos={
        errno.EOPNOTSUPP: "the IOMMU's driver does not support such a page table",
        errno.EINVAL: "the page table cannot be made on this parent, or the data is not of the type that the IOMMU's driver accepts",
        errno.ENOENT: "the parent does not exist, or the device is emulated and has no IOMMU",
    },
    otherwise=IOMMUFD,
)
SET_DIRTY_TRACKING = Request(
    "IOMMU_HWPT_SET_DIRTY_TRACKING",
    "iommufd",
    "struct iommu_hwpt_set_dirty_tracking",
    errnos={errno.EOPNOTSUPP: "the page table was allocated without IOMMU_HWPT_ALLOC_DIRTY_TRACKING"},
    otherwise=IOMMUFD,
)
GET_DIRTY_BITMAP = Request(
    "IOMMU_HWPT_GET_DIRTY_BITMAP", "iommufd", "struct iommu_hwpt_get_dirty_bitmap", otherwise=IOMMUFD
)
INVALIDATE = Request(
    "IOMMU_HWPT_INVALIDATE",
    "iommufd",
    "struct iommu_hwpt_invalidate",
    errnos={
        errno.EINVAL: "the IOMMU's driver does not accept an entry, or the type of the entries",
        errno.EOPNOTSUPP: "the object cannot be invalidated, or its driver does not support the command in an entry",
    },
    otherwise=IOMMUFD,
)


class Hwpt(IommufdObject):
    """A hardware page table.

    :meth:`Ioas.hwpt` makes one that holds the mappings of an Ioas. :meth:`nested` and :meth:`Viommu.hwpt` make nested ones, which
    a guest fills.

    :ivar ioas: the address space whose mappings it holds; of a nested one, that of its parent
    :ivar device: the device that it was allocated for
    """

    def __init__(
        self,
        parent: Ioas | Hwpt | Viommu,
        device: BoundDevice,
        fields: dict[str, Any],
        fault_queue: FaultQueue | None,
    ) -> None:
        super().__init__(parent.iommufd, parent, *(() if fault_queue is None else (fault_queue,)))
        self.ioas: Ioas = parent.ioas
        self.device = device
        self._tracking = False
        self._allocate(ALLOC, ALLOC.new(**fields), fields, out_hwpt_id=self._object)

    def nested(
        self,
        device: Device | BoundDevice,
        data_type: int,
        data: Any,
        *,
        flags: int = 0,
        fault_queue: FaultQueue | None = None,
    ) -> Hwpt:
        """Allocate a page table nested on this one. IOMMU_HWPT_ALLOC.

        This one must have been allocated with IOMMU_HWPT_ALLOC_NEST_PARENT.

        :param device: a device bound to this iommufd
        :param data_type: IOMMU_HWPT_DATA_*
        :param data: pointer to the C struct of that type, or bytes
        :param flags: IOMMU_HWPT_*
        :param fault_queue: the queue for faults of the devices; see :meth:`Iommufd.fault_queue`
        """
        return allocate(self, device, flags=flags, data_type=data_type, data=data, fault_queue=fault_queue)

    # Dirty pages.

    def set_dirty_tracking(self, on: bool) -> None:
        """Start or stop dirty tracking. IOMMU_HWPT_SET_DIRTY_TRACKING, since Linux 6.7.

        Starting clears the dirty bits.

        :param on: whether to start it
        :raises OSError: EOPNOTSUPP if the page table was allocated without IOMMU_HWPT_ALLOC_DIRTY_TRACKING
        """
        flags = lib.IOMMU_HWPT_DIRTY_TRACKING_ENABLE if on else 0
        fields = {"hwpt_id": self.id, "flags": flags}
        made = Object()
        try:
            native = SET_DIRTY_TRACKING.new(hwpt_id=self.id, flags=flags)
            SET_DIRTY_TRACKING.receive(self._fd, native, (ffi.NULL, made), arguments=fields)
        finally:
            if made.present:
                self._tracking = on

    def read_dirty(self, range: IovaRange, page_size: int = 4096, *, clear: bool = True) -> DirtyBitmap:
        """Read which pages of a range devices wrote. IOMMU_HWPT_GET_DIRTY_BITMAP, since Linux 6.7.

        :param range: whole pages; unmapped parts of it are reported as clean
        :param page_size: bytes per bit, a power of two
        :param clear: whether to clear the dirty bits in the page table; otherwise the next read reports the pages again
        :raises InvalidRequest: the page size is not a power of two, or the range is not aligned to it; or tracking is off, where
            the kernel would report every page as clean
        """
        if page_size < 1 or page_size & (page_size - 1) or not range.is_aligned(page_size):
            raise InvalidRequest(
                f"{span(range)}, page_size={page_size:#x}: page_size must be a power of two, and the range must be aligned to it"
            )
        bitmap = DirtyBitmap([range], page_size)
        self.read_dirty_into(bitmap, clear=clear)
        return bitmap

    def read_dirty_into(self, bitmap: DirtyBitmap, *, clear: bool = True) -> None:
        """Add the dirty pages to an existing bitmap, whose dirty pages stay dirty; see :meth:`read_dirty`.

        :param bitmap: the bitmap; the ranges of its segments are read
        :param clear: whether to clear the dirty bits of the page table
        """
        _ = self.id
        if not self._tracking:
            raise InvalidRequest(f"{self!r}: dirty tracking is off; call Hwpt.set_dirty_tracking(True) first")
        mapped = self.ioas.mapped_ranges
        for segment in bitmap.segments:
            pieces = tuple(IovaSet([segment.range]) & mapped)
            if pieces == (segment.range,):
                self._read_segment(segment, clear)
                continue
            # At the first gap the kernel (7.3) stops and returns success, so the pages behind it would never be reported.
            if wrong := [piece for piece in pieces if not piece.is_aligned(bitmap.page_size)]:
                raise InvalidRequest(
                    f"{shown(wrong)}: the mappings there are not aligned to pages of {bytes_(bitmap.page_size)}; use smaller pages"
                )
            for piece in DirtyBitmap(pieces, bitmap.page_size).segments:
                self._read_segment(piece, clear)
                segment._add(piece)

    def _read_segment(self, segment: Segment, clear: bool) -> None:
        try:
            GET_DIRTY_BITMAP.call(
                self._fd,
                hwpt_id=self.id,
                flags=0 if clear else lib.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
                iova=segment.range.start,
                length=segment.range.size,
                page_size=segment.page_size,
                data=segment.address,
            )
        finally:
            segment.check_guards()

    # Invalidation after a guest has changed a nested page table.

    def invalidate(self, data_type: int, entries: Any) -> int:
        """Invalidate cached translations of a nested page table. IOMMU_HWPT_INVALIDATE, since Linux 6.8.

        :param data_type: IOMMU_HWPT_INVALIDATE_DATA_*
        :param entries: array of the C structs of that type
        :returns: the number of entries handled: all of them
        :raises OSError: EINVAL or EOPNOTSUPP from the IOMMU's driver; the message says how many entries were handled
        """
        return invalidate(self, data_type, entries)


def allocate(
    parent: Ioas | Hwpt | Viommu,
    device: Device | BoundDevice,
    *,
    flags: int = 0,
    data_type: int = lib.IOMMU_HWPT_DATA_NONE,
    data: Any = None,
    fault_queue: FaultQueue | None = None,
) -> Hwpt:
    """Allocate a page table. IOMMU_HWPT_ALLOC, `struct iommu_hwpt_alloc`, since Linux 6.6.

    :param parent: the Ioas whose mappings it holds, or the page table or virtual IOMMU that it is nested on
    :param device: the device whose IOMMU walks it
    :param flags: IOMMU_HWPT_ALLOC_*
    :param fault_queue: the queue that faults are reported to; sets IOMMU_HWPT_FAULT_ID_VALID
    :raises InvalidRequest: parent, device and fault queue belong to different Iommufds
    :raises OSError: EOPNOTSUPP if the IOMMU's driver does not support such a page table; EINVAL if the parent cannot have
        one, or the data does not fit the type; ENOENT for emulated devices, which have no IOMMU
    """
    owner = parent.iommufd
    flags = u32(flags, "flags")
    data_type = u32(data_type, "data_type")
    if fault_queue is not None:
        instance(fault_queue, "fault_queue", FaultQueue, "a pyvfio.iommufd.FaultQueue")
    target = bound_of(device)
    if target.iommufd is not owner:
        raise InvalidRequest(f"{target!r} is bound to {target.iommufd!r}, not to {owner!r}; use objects of one Iommufd")
    fields: dict[str, Any] = {
        "flags": flags,
        "dev_id": target.id,
        "pt_id": parent._id_in(owner),
        "data_type": data_type,
    }
    held = None
    if data is not None:
        held, length = native_data(data)
        fields |= {"data_len": length, "data_uptr": address(held)}
    if fault_queue is not None:
        fields["flags"] |= lib.IOMMU_HWPT_FAULT_ID_VALID
        fields["fault_id"] = fault_queue._id_in(owner)
    return Hwpt(parent, target, fields, fault_queue)


class _Handled:
    """The number of entries that were handled, for a message that is written after the request."""

    def __init__(self, native: Any, count: int) -> None:
        self._native = native
        self._count = count

    def __str__(self) -> str:
        return f"{self._native.entry_num} of {self._count} entries"


def invalidate(target: Hwpt | Viommu, data_type: int, entries: Any) -> int:
    """Invalidate caches of a nested page table or of a virtual IOMMU. IOMMU_HWPT_INVALIDATE."""
    count = len(entries)
    size = ffi.sizeof(ffi.typeof(entries).item)
    native = INVALIDATE.new(
        hwpt_id=target.id, data_uptr=address(entries), data_type=data_type, entry_len=size, entry_num=count
    )
    # On a failure too, the kernel writes the number of handled entries to entry_num.
    handled = _Handled(native, count)
    INVALIDATE.send(target.iommufd.descriptor, native, {"target": target, "handled": handled})
    return int(native.entry_num)


def native_data(data: Any) -> tuple[Any, int]:
    """Return C data for a request, and its size. The caller keeps the data alive during the request. The kernel may write to a bytearray."""
    if isinstance(data, (bytes, bytearray)):
        held = ffi.from_buffer(data if isinstance(data, bytearray) else bytearray(data))
        return held, len(held)
    return data, ffi.sizeof(data[0])
