# SPDX-License-Identifier: MIT
"""An I/O address space (IOAS) of an iommufd."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
from pyvfio._core.arguments import boolean, instance, integer, u32, u64
from pyvfio._core.request import Reason, Request
from pyvfio._core.resource import Attempts
from pyvfio._core.text import span
from pyvfio.dirty.tracker import DirtyTracker, PageTableTracking, iommu_tracks
from pyvfio.errors import InvalidRequest, RequestError
from pyvfio.iommufd.hwpt import allocate
from pyvfio.iommufd.object import IOMMUFD, IommufdObject, address
from pyvfio.iommufd.option import GET_HUGE_PAGES, SET_HUGE_PAGES
from pyvfio.iova import IovaRange, IovaSet, as_range, as_ranges
from pyvfio.memory import PAGE_SIZE
from pyvfio.spaces import refusals
from pyvfio.spaces.base import AddressSpace
from pyvfio.spaces.mapping import IOAS_MAP, IOAS_UNMAP, MAP_ERRNOS, Mapping

if TYPE_CHECKING:
    from uuid import UUID

    from pyvfio.device import Device
    from pyvfio.iommufd.bound import BoundDevice
    from pyvfio.iommufd.fault_queue import FaultQueue
    from pyvfio.iommufd.hwpt import Hwpt
    from pyvfio.iommufd.iommufd import Iommufd

__all__ = ["Ioas"]

_RANGE = "struct iommu_iova_range"


ALLOC = Request("IOMMU_IOAS_ALLOC", "iommufd", "struct iommu_ioas_alloc", otherwise=IOMMUFD)
IOVA_RANGES = Request(
    "IOMMU_IOAS_IOVA_RANGES",
    "iommufd",
    "struct iommu_ioas_iova_ranges",
    errnos={errno.EMSGSIZE: None},
    otherwise=IOMMUFD,
)
ALLOW_IOVAS = Request(
    "IOMMU_IOAS_ALLOW_IOVAS",
    "iommufd",
    "struct iommu_ioas_allow_iovas",
    errnos={
        errno.EADDRINUSE: "a range overlaps a reserved region of an attached device",
        errno.EINVAL: "ranges overlap, or a range has a single byte",
    },
    otherwise=IOMMUFD,
)
_LIKE_MAP: dict[int, Any] = {**IOMMUFD, **dict.fromkeys(MAP_ERRNOS, refusals.why_map)}


def _no_file(wanted: refusals.Wanted) -> Reason | None:
    return refusals.why_map(wanted) or Reason(
        "the file is neither a memfd nor a dma-buf, or it ends before the range does"
    )


MAP_FILE = Request(
    "IOMMU_IOAS_MAP_FILE",
    "iommufd",
    "struct iommu_ioas_map_file",
    errnos={
        errno.EBADF: "fd is not an open file",
        errno.EINVAL: _no_file,
        errno.ENODEV: "the BAR behind the dma-buf is not accessible: its device is closed, asleep, or has memory decoding off",
        errno.EOPNOTSUPP: "only dma-bufs that VFIO exports can be mapped, and only those with a single area",
    },
    otherwise=_LIKE_MAP,
)
COPY = Request(
    "IOMMU_IOAS_COPY",
    "iommufd",
    "struct iommu_ioas_copy",
    errnos={errno.ENOENT: "the source range is not completely mapped, or its address space no longer exists"},
    otherwise=_LIKE_MAP,
)
GET_PA = Request(
    "IOMMU_IOAS_NOIOMMU_GET_PA",
    "iommufd",
    "struct iommu_ioas_noiommu_get_pa",
    errnos={
        errno.EOPNOTSUPP: "no device is attached to the address space in no-IOMMU mode",
        errno.ENOENT: "nothing is mapped there",
        errno.EPERM: "it requires CAP_SYS_RAWIO",
    },
    otherwise=IOMMUFD,
)


class Ioas(IommufdObject, AddressSpace):
    """An address space, mode `iommufd`.

    :meth:`Iommufd.ioas` makes one; :func:`pyvfio.address_space` makes one together with a new Iommufd.

    The kernel pins the memory that is mapped here: the pages stay pinned when the program unmaps them from its own address space.
    """

    mode = "iommufd"
    _map_request = IOAS_MAP
    _unmap_request = IOAS_UNMAP

    def __init__(self, iommufd: Iommufd) -> None:
        IommufdObject.__init__(self, iommufd)
        self._owned: Iommufd | None = None
        self._allocate(ALLOC, ALLOC.new(), {}, out_ioas_id=self._object)
        self._prepare(self._object.id)

    # Usable IOVAs and page sizes.

    @property
    def iova_ranges(self) -> IovaSet:
        """The usable IOVA ranges. IOMMU_IOAS_IOVA_RANGES.

        The kernel is asked each time, since every attached device may reserve more. The list of :meth:`allow` does not narrow them.
        """
        return self._ask_ranges()[0]

    @property
    def alignment(self) -> int:
        """The alignment of IOVAs and sizes in bytes. 1 as long as no device is attached."""
        return self._ask_ranges()[1]

    @property
    def page_sizes(self) -> int:
        """The bitmap of page sizes in bytes: every power of two from :attr:`alignment` on.

        iommufd does not report the page sizes of the IOMMU itself.
        """
        return 2**64 - max(self.alignment, PAGE_SIZE)

    def _ask_ranges(self) -> tuple[IovaSet, int]:
        count = 16
        while True:
            ranges = ffi.new(f"{_RANGE}[]", count)
            native = IOVA_RANGES.new(ioas_id=self.id, num_iovas=count, allowed_iovas=address(ranges))
            try:
                IOVA_RANGES.send(self._fd, native, {"ioas_id": self._id})
            except RequestError as error:
                if error.errno != errno.EMSGSIZE or native.num_iovas <= count:
                    raise
                count = native.num_iovas  # with EMSGSIZE the kernel reports how many there are
                continue
            return (
                IovaSet(IovaRange(ranges[i].start, ranges[i].last) for i in range(native.num_iovas)),
                native.out_iova_alignment,
            )

    def allow(self, ranges: Iterable[IovaRange]) -> None:
        """Restrict the IOVAs that mappings without a given IOVA may use. IOMMU_IOAS_ALLOW_IOVAS.

        The kernel then refuses a device only if its reserved regions overlap these ranges or a mapping. The list replaces the
        previous one; an empty list allows all IOVAs again. Mappings outside the ranges stay.

        :param ranges: the IOVAs
        :raises OSError: EADDRINUSE for a reserved region of an attached device; EINVAL for ranges that overlap or have one byte
        """
        list_ = as_ranges(ranges, "ranges")
        native = ffi.new(f"{_RANGE}[]", max(len(list_), 1))
        for index, range_ in enumerate(list_):
            native[index].start, native[index].last = range_.start, range_.last
        request = ALLOW_IOVAS.new(ioas_id=self.id, num_iovas=len(list_), allowed_iovas=address(native))
        ALLOW_IOVAS.send(self._fd, request, {"ioas_id": self._id, "ranges": list_})

    @property
    def huge_pages(self) -> bool:
        """Whether the IOMMU may use large pages. IOMMU_OPTION with IOMMU_OPTION_HUGE_PAGES.

        :raises OSError: when set: EINVAL while a device is attached and memory is mapped; EADDRINUSE while a mapping is
            smaller than a page
        """
        return bool(self.iommufd.option(GET_HUGE_PAGES, self.id))

    @huge_pages.setter
    def huge_pages(self, allowed: bool) -> None:
        self.iommufd.option(SET_HUGE_PAGES, self.id, int(boolean(allowed, "huge_pages")))

    # Mapping, in addition to the methods of every address space.

    def _map_anywhere(self, address_: int, size: int, prot: int, buffer: Any, held: Any) -> Mapping:
        """Let the kernel choose a free and allowed IOVA, congruent to the virtual address for large pages."""
        native = IOAS_MAP.new(flags=_flags(prot), ioas_id=self.id, user_va=address_, length=size)
        return self._send_map(IOAS_MAP, native, "iova", address_, None, size, prot, buffer, held)

    def map_file(
        self, fd: int, start: int, size: int, iova: int | None = None, *, read: bool = True, write: bool = True
    ) -> Mapping:
        """Map a part of a memfd or a dma-buf. IOMMU_IOAS_MAP_FILE, since Linux 6.13 (memfd), 7.0 (dma-buf).

        :param fd: descriptor of the file; it may be closed afterwards
        :param start: offset in the file, a multiple of the page size
        :param size: bytes
        :param iova: the IOVA at which devices access the memory; None for an IOVA that the kernel chooses
        :param read: the devices may read it
        :param write: the devices may write it
        :raises OSError: as :meth:`map`; EBADF for a descriptor that is not open; EINVAL for another kind of file or a range past
            its end; ENODEV for a dma-buf whose exporter has revoked it
        """
        prot = boolean(read, "read") + 2 * boolean(write, "write")
        fd = integer(fd, "fd", -1, 2**31 - 1)
        start, size = u64(start, "start"), u64(size, "size")
        iova = None if iova is None else u64(iova, "iova")
        flags = _flags(prot) | (0 if iova is None else lib.IOMMU_IOAS_MAP_FIXED_IOVA)
        native = MAP_FILE.new(flags=flags, ioas_id=self.id, fd=fd, start=start, length=size, iova=iova or 0)
        return self._send_map(MAP_FILE, native, "iova", start, iova, size, prot, None, None, {"fd": fd})

    def copy(self, source: Mapping, iova: int | None = None, *, read: bool = True, write: bool = True) -> Mapping:
        """Map the memory of a mapping in another address space of the same Iommufd here too. IOMMU_IOAS_COPY.

        The pages are pinned only once.

        :param source: a mapping of another address space
        :param iova: the IOVA at which devices access the memory; None for an IOVA that the kernel chooses
        :param read: the devices may read it
        :param write: the devices may write it
        :raises InvalidRequest: `source` belongs to another Iommufd
        :raises OSError: ENOENT when it is not mapped any more; as :meth:`map`
        """
        space = instance(source, "source", Mapping, "a pyvfio.Mapping").space
        if not isinstance(space, Ioas):
            raise InvalidRequest(f"{source!r} is not a mapping of an Ioas; only mappings of an Ioas can be copied")
        source_id = space._id_in(self.iommufd)
        return self.copy_range(source_id, source.range, iova, read=read, write=write, keep=source._held)

    def copy_range(
        self,
        source_id: int,
        range: IovaRange,
        iova: int | None = None,
        *,
        read: bool = True,
        write: bool = True,
        keep: Any = None,
    ) -> Mapping:
        """Copy any mapped range of an address space, given its id: for example the compatibility IOAS. See :meth:`copy`.

        :param source_id: the other address space's id
        :param range: mapped IOVAs there
        :param iova: the IOVA at which devices access the memory here; None for a free and usable IOVA
        :param read: the devices may read it
        :param write: the devices may write it
        :param keep: memory to keep alive as long as the mapping
        """
        prot = boolean(read, "read") + 2 * boolean(write, "write")
        source_id = u32(source_id, "source_id")
        range = as_range(range, "range")
        iova = None if iova is None else u64(iova, "iova")
        flags = _flags(prot) | (0 if iova is None else lib.IOMMU_IOAS_MAP_FIXED_IOVA)
        native = COPY.new(
            flags=flags,
            dst_ioas_id=self.id,
            src_ioas_id=source_id,
            length=range.size,
            dst_iova=iova or 0,
            src_iova=range.start,
        )
        source: dict[str, object] = {"source": f"{span(range)} of IOAS {source_id}"}
        return self._send_map(COPY, native, "dst_iova", 0, iova, range.size, prot, None, keep, source)

    def _send_map(
        self,
        request: Request,
        native: Any,
        field: str,
        address_: int,
        iova: int | None,
        size: int,
        prot: int,
        buffer: Any,
        held: Any,
        more: dict[str, object] | None = None,
    ) -> Mapping:
        mapping = self._place_by(request, native, field, buffer, held, size, prot)
        if isinstance(mapping, int):
            raise self._refused(request, mapping, *self._map_details(address_, iova, size, prot, more))
        return mapping

    def unmap_all(self) -> int:
        """Remove every mapping, and return the bytes unmapped: 0 when nothing is mapped. IOMMU_IOAS_UNMAP."""
        native = IOAS_UNMAP.new(ioas_id=self.id, iova=0, length=2**64 - 1)
        if error := self._request_unmap(IOAS_UNMAP, native, "length", (0, 2**64)):
            raise IOAS_UNMAP.error(self._fd, -error, {"range": "everything"}, self._everything)
        return int(native.length)

    def physical_address(self, iova: int, size: int = PAGE_SIZE) -> tuple[int, int]:
        """Return the physical address of an IOVA, for devices without an IOMMU. IOMMU_IOAS_NOIOMMU_GET_PA, since Linux 7.3.

        :param iova: the address
        :param size: bytes, the most that the answer covers
        :returns: the physical address, and the number of bytes (at most `size`) that are physically contiguous from there
        :raises OSError: EOPNOTSUPP unless a device is attached in no-IOMMU mode; ENOENT when nothing is mapped at the IOVA;
            EPERM without CAP_SYS_RAWIO
        """
        iova, size = u64(iova, "iova"), u64(size, "size")
        native = GET_PA.call(self._fd, ioas_id=self.id, iova=iova, length=size)
        return int(native.out_phys), int(native.length)

    # Devices and page tables.

    @property
    def ioas(self) -> Ioas:
        """This address space itself, as :attr:`Hwpt.ioas` of a page table is the address space that it maps."""
        return self

    def _track_by_iommu(self, ranges: Iterable[IovaRange], devices: list[Device]) -> DirtyTracker | None:
        tracks = [iommu_tracks(device) for device in devices]  # no generator, as in Region.mmap
        return PageTableTracking(self, ranges, devices) if all(tracks) else None

    @property
    def devices(self) -> list[Device]:
        """The devices that are attached to this address space."""
        return self._devices()

    def attach(self, where: str, *, vf_token: UUID | str | bytes | None = None, no_iommu: bool = False) -> Device:
        """Open a device by its cdev, bind it to the Iommufd of this address space and attach it.

        A device without an IOMMU uses physical addresses for DMA; :meth:`physical_address` returns them.

        :param where: the device's address, "0000:00:03.0", or its name on another bus
        :param vf_token: see :meth:`pyvfio.Device.set_vf_token`
        :param no_iommu: open a device without an IOMMU too
        :raises OSError: see :meth:`Iommufd.bind` and :meth:`Device.attach`
        """
        device = self.iommufd.bind(where, vf_token=vf_token, no_iommu=no_iommu)
        try:
            device.attach(self)
            device._live_under(self)
        except BaseException:
            device.close()
            raise
        return device

    def hwpt(self, device: Device | BoundDevice, *, flags: int = 0, fault_queue: FaultQueue | None = None) -> Hwpt:
        """Allocate a page table of this address space for the IOMMU of a device. IOMMU_HWPT_ALLOC; see :class:`Hwpt`.

        :param device: a device bound to this iommufd
        :param flags: IOMMU_HWPT_ALLOC_*
        :param fault_queue: the queue that faults are reported to
        """
        return allocate(self, device, flags=flags, fault_queue=fault_queue)

    def _release(self) -> None:
        attempts = Attempts()
        attempts.do(partial(IommufdObject._release, self), lambda: self._object.gone)
        if self._owned is not None:
            attempts.do(self._owned.close)
        if self.gone:
            self._ledger.forget_all()
        attempts.raise_first(f"closing {self!r}")

    def _has_gone(self) -> bool:
        return self.gone and (self._owned is None or self._owned.closed)

    def _mark_destroyed(self) -> None:
        super()._mark_destroyed()
        self._ledger.forget_all()

    __repr__ = IommufdObject.__repr__


def _flags(prot: int) -> int:
    return (lib.IOMMU_IOAS_MAP_READABLE if prot & 1 else 0) | (lib.IOMMU_IOAS_MAP_WRITEABLE if prot & 2 else 0)
