"""A hardware page table: what an IOMMU walks for the devices that are attached to it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
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

#: IOMMU_HWPT_DATA_* -> the C struct that describes a page table which the guest, not the kernel, fills
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
    errnos={errno.EOPNOTSUPP: "the page table was not made with IOMMU_HWPT_ALLOC_DIRTY_TRACKING"},
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
        errno.EINVAL: "an entry, or the type of the entries, is not what the IOMMU's driver accepts",
        errno.EOPNOTSUPP: "the object cannot be invalidated, or its driver does not know an entry's request",
    },
    otherwise=IOMMUFD,
)


class Hwpt(IommufdObject):
    """A page table. Made by :meth:`Ioas.hwpt` (of what the Ioas maps), :meth:`nested` or :meth:`Viommu.hwpt` (filled by a guest).

    :ivar ioas: the address space that it shows; of a nested one, that of its parent
    :ivar device: the device that it was made for
    """

    def __init__(self, parent: Ioas | Hwpt | Viommu, id_: int, ioas: Ioas, device: BoundDevice) -> None:
        super().__init__(parent.iommufd, id_, parent)
        self.ioas = ioas
        self.device = device
        self._tracking = False

    def nested(
        self,
        device: Device | BoundDevice,
        data_type: int,
        data: Any,
        *,
        flags: int = 0,
        fault_queue: FaultQueue | None = None,
    ) -> Hwpt:
        """A page table on top of this one (which must have been made with IOMMU_HWPT_ALLOC_NEST_PARENT).

        :param data_type: IOMMU_HWPT_DATA_*
        :param data: pointer to the C struct of that type, or bytes
        """
        return allocate(self, device, flags=flags, data_type=data_type, data=data, fault_queue=fault_queue)

    # Dirty pages.

    def set_dirty_tracking(self, on: bool) -> None:
        """IOMMU_HWPT_SET_DIRTY_TRACKING; what was dirty before is forgotten when it is switched on. Since Linux 6.7.

        :raises OSError: EOPNOTSUPP unless made with IOMMU_HWPT_ALLOC_DIRTY_TRACKING
        """
        flags = lib.IOMMU_HWPT_DIRTY_TRACKING_ENABLE if on else 0
        SET_DIRTY_TRACKING.call(self._fd, hwpt_id=self.id, flags=flags)
        self._tracking = on

    def read_dirty(self, range: IovaRange, page_size: int = 4096, *, clear: bool = True) -> DirtyBitmap:
        """IOMMU_HWPT_GET_DIRTY_BITMAP: which pages of a range devices wrote.

        :param range: whole pages; what is not mapped of it is clean
        :param page_size: bytes to one bit, a power of two
        :param clear: forget them in the page table; otherwise the next read gives them again
        :raises InvalidRequest: a range or page size that is not like that; tracking is off, and the kernel would say that nothing is dirty
        """
        if page_size < 1 or page_size & (page_size - 1) or not range.is_aligned(page_size):
            raise InvalidRequest(
                f"{span(range)}, page_size={page_size:#x}: page_size must be a power of two, and the range whole pages of it"
            )
        bitmap = DirtyBitmap([range], page_size)
        self.read_dirty_into(bitmap, clear=clear)
        return bitmap

    def read_dirty_into(self, bitmap: DirtyBitmap, *, clear: bool = True) -> None:
        """As :meth:`read_dirty`, into a bitmap of one's own: its dirty pages stay dirty."""
        _ = self.id
        if not self._tracking:
            raise InvalidRequest(f"{self!r}: dirty tracking is off; set_dirty_tracking(True) comes first")
        mapped = self.ioas.mapped_ranges
        for segment in bitmap.segments:
            pieces = tuple(IovaSet([segment.range]) & mapped)
            if pieces == (segment.range,):
                self._read_segment(segment, clear)
                continue
            # At the first gap the kernel (7.3) stops, and returns success: what follows would never be seen.
            if wrong := [piece for piece in pieces if not piece.is_aligned(bitmap.page_size)]:
                raise InvalidRequest(
                    f"{shown(wrong)}: what is mapped there is not whole pages of {bytes_(bitmap.page_size)}"
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

    # Invalidation of what a guest has changed in a nested table.

    def invalidate(self, data_type: int, entries: Any) -> int:
        """IOMMU_HWPT_INVALIDATE of a nested page table, since Linux 6.8.

        :param data_type: IOMMU_HWPT_INVALIDATE_DATA_*
        :param entries: array of the C structs of that type
        :returns: how many entries were handled: all
        :raises OSError: EINVAL, EOPNOTSUPP, as the driver says; the text tells how many entries were handled before
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
    """IOMMU_HWPT_ALLOC, since Linux 6.6.

    :param parent: what the table is to show (an Ioas), or what it is nested on
    :param device: whose IOMMU is to walk it
    :param flags: IOMMU_HWPT_ALLOC_*
    :param fault_queue: where faults are to be reported; sets IOMMU_HWPT_FAULT_ID_VALID
    :raises InvalidRequest: the parts belong to different Iommufds
    :raises OSError: EOPNOTSUPP the IOMMU cannot do that; EINVAL the parent is none, or the data is not what the type wants; ENOENT for
        emulated devices, which have no IOMMU
    """
    owner = parent.iommufd
    flags = u32(flags, "flags")
    data_type = u32(data_type, "data_type")
    if fault_queue is not None:
        instance(fault_queue, "fault_queue", FaultQueue, "a pyvfio.iommufd.FaultQueue")
    target = bound_of(device)
    if target.iommufd is not owner:
        raise InvalidRequest(f"{target!r} is bound to {target.iommufd!r}, not to {owner!r}")
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
    native = ALLOC.call(owner.descriptor, **fields)
    hwpt = Hwpt(parent, native.out_hwpt_id, parent.ioas, target)
    if fault_queue is not None:
        hwpt._live_under(fault_queue)
    return hwpt


class _Handled:
    """The number of entries that were handled, for a message that is written after the request."""

    def __init__(self, native: Any, count: int) -> None:
        self._native = native
        self._count = count

    def __str__(self) -> str:
        return f"{self._native.entry_num} of {self._count} entries"


def invalidate(target: Hwpt | Viommu, data_type: int, entries: Any) -> int:
    """IOMMU_HWPT_INVALIDATE of a nested page table, or of a virtual IOMMU."""
    count = len(entries)
    size = ffi.sizeof(ffi.typeof(entries).item)
    native = INVALIDATE.new(
        hwpt_id=target.id, data_uptr=address(entries), data_type=data_type, entry_len=size, entry_num=count
    )
    # The kernel says how far it came while it fails.
    handled = _Handled(native, count)
    INVALIDATE.send(target.iommufd.descriptor, native, {"target": target, "handled": handled})
    return int(native.entry_num)


def native_data(data: Any) -> tuple[Any, int]:
    """C data for a request: memory that must be held for the call, and its bytes. The kernel may write to a bytearray."""
    if isinstance(data, (bytes, bytearray)):
        held = ffi.from_buffer(data if isinstance(data, bytearray) else bytearray(data))
        return held, len(held)
    return data, ffi.sizeof(data[0])
