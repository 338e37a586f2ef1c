# SPDX-License-Identifier: MIT
"""A container, `/dev/vfio/vfio`: groups that share one address space, or have none (`noiommu`)."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvfio import host
from pyvfio import kernel as _kernel
from pyvfio._abi import ffi, lib
from pyvfio._buffer import Object
from pyvfio._core import capability
from pyvfio._core.arguments import choice, instance, integer, u32, u64
from pyvfio._core.fd import Fd
from pyvfio._core.node import open_node
from pyvfio._core.reasons import SEE_LOG
from pyvfio._core.request import Arguments, Reason, Request, flag_words
from pyvfio._core.text import size as bytes_
from pyvfio._core.vf_token import uuid_of
from pyvfio.bitmap import DirtyBitmap
from pyvfio.device import Device
from pyvfio.dirty.tracker import ContainerTracking, DirtyTracker
from pyvfio.errors import BadReply, Closed, InvalidRequest, Unsupported
from pyvfio.host import diagnosis
from pyvfio.host.diagnosis import Finding
from pyvfio.host.discovery import no_group
from pyvfio.host.isolation import not_isolated
from pyvfio.host.nodes import find
from pyvfio.host.sysfs import entries
from pyvfio.iommufd.iommufd import Iommufd, open_iommu
from pyvfio.iova import IovaRange, IovaSet
from pyvfio.kernel import Kernel
from pyvfio.memory import PAGE_SIZE, DmaBuffer, pinned
from pyvfio.spaces.base import AddressSpace
from pyvfio.spaces.group import Group
from pyvfio.spaces.mapping import (
    MAP_DMA,
    MAP_DMA_VADDR,
    UNMAP_DMA,
    UNMAP_DMA_ALL,
    UNMAP_DMA_ALL_VADDR,
    UNMAP_DMA_DIRTY,
    UNMAP_DMA_VADDR,
    Mapping,
)
from pyvfio.spaces.no_iommu import admit

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["Container", "IommuInfo"]


#: mode -> the file to open, and the IOMMU type for VFIO_SET_IOMMU
_MODES = {
    "type1v2": ("/dev/vfio/vfio", lib.VFIO_TYPE1v2_IOMMU),
    "type1": ("/dev/vfio/vfio", lib.VFIO_TYPE1_IOMMU),
    "iommufd-type1v2": ("/dev/iommu", lib.VFIO_TYPE1v2_IOMMU),
    "iommufd-type1": ("/dev/iommu", lib.VFIO_TYPE1_IOMMU),
    "noiommu": ("/dev/vfio/vfio", lib.VFIO_NOIOMMU_IOMMU),
    "iommufd-noiommu": ("/dev/iommu", lib.VFIO_NOIOMMU_IOMMU),
}
_NOTHING_MAPPED = "its devices have no IOMMU: nothing can be mapped, and their DMA uses physical addresses"

GET_API_VERSION = Request("VFIO_GET_API_VERSION", "container")
CHECK_EXTENSION = Request("VFIO_CHECK_EXTENSION", "container")


class NotIsolated(NamedTuple):
    """The facts about a container whose IOMMU type could not be set.

    :ivar group: its first group
    :ivar no_iommu: whether the container is for devices without an IOMMU
    :ivar kernel: the kernel that refused it
    """

    group: int
    no_iommu: bool
    kernel: Kernel


def _not_isolated(facts: NotIsolated) -> Reason | Finding | None:
    if facts.no_iommu:
        return Reason("a container without an IOMMU requires CAP_SYS_RAWIO", ("run the program as root",))
    device = next(iter(host.group_members(facts.group, facts.kernel)))
    return not_isolated(facts.kernel, device, "vfio_iommu_type1.allow_unsafe_interrupts") or SEE_LOG


SET_IOMMU = Request("VFIO_SET_IOMMU", "container", errnos={errno.EPERM: _not_isolated})
GET_INFO = Request("VFIO_IOMMU_GET_INFO", "container", "struct vfio_iommu_type1_info")


class Tracking(NamedTuple):
    """The facts about a container that refused a request about dirty pages.

    :ivar mode: the mode of the container
    :ivar unready: the reason why nothing can be mapped yet; None if mapping is possible
    """

    mode: str
    unready: str | None


def _no_tracking(facts: Tracking) -> Reason:
    return Reason(f"mode {facts.mode} does not track dirty pages; type1v2 does, since Linux 5.8", unsupported=True)


def _not_tracked(facts: Tracking) -> Reason:
    if facts.unready is not None:
        return Reason(facts.unready)
    return Reason(
        "dirty tracking is off, or the range cuts a mapping in two",
        ("start_dirty_tracking() comes first; read whole mappings",),
    )


DIRTY_PAGES = Request(
    "VFIO_IOMMU_DIRTY_PAGES",
    "container",
    "struct vfio_iommu_type1_dirty_bitmap",
    otherwise={errno.EACCES: _no_tracking, errno.ENOTTY: _no_tracking, errno.EINVAL: _not_tracked},
    tell=flag_words(
        {
            lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_START: "START",
            lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP: "STOP",
            lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: "GET_BITMAP",
        }
    ),
)
START = DIRTY_PAGES.operation("START", errnos={errno.EACCES: _no_tracking, errno.ENOTTY: _no_tracking})
STOP = DIRTY_PAGES.operation("STOP")
GET_BITMAP = DIRTY_PAGES.operation("GET_BITMAP", errnos={errno.EINVAL: _not_tracked})


class IommuInfo(NamedTuple):
    """The properties of a container's IOMMU. VFIO_IOMMU_GET_INFO, `struct vfio_iommu_type1_info` with its capabilities.

    :ivar flags: VFIO_IOMMU_INFO_*
    :ivar page_sizes: bitmap of page sizes in bytes
    :ivar iova_ranges: usable IOVAs; None when the kernel reports none (emulated devices only, or before Linux 5.4)
    :ivar dirty_page_sizes: bitmap of page sizes at which dirty pages are reported; None without dirty tracking (before Linux 5.8)
    :ivar max_dirty_bitmap_size: the largest bitmap in bytes that the kernel fills in one call; None without dirty tracking
    :ivar dma_available: number of further mappings allowed; None when the kernel does not report it (before Linux 5.10)
    """

    flags: int
    page_sizes: int
    iova_ranges: IovaSet | None
    dirty_page_sizes: int | None
    max_dirty_bitmap_size: int | None
    dma_available: int | None


class Container(AddressSpace):
    """A VFIO container with a type1 IOMMU, or an iommufd that behaves like one (modes `iommufd-type1v2`, `iommufd-type1`).

    The IOMMU type is set when the first device is attached, as the kernel requires; until then nothing can be mapped. The modes
    `noiommu` and `iommufd-noiommu` never map: they are for devices without an IOMMU, whose DMA uses physical addresses.

    :param mode: `type1v2`; `type1`, which unmaps differently (see :meth:`unmap`); `iommufd-type1v2` or `iommufd-type1`, the same by
        iommufd's compatibility layer; for devices without an IOMMU `noiommu` or `iommufd-noiommu`
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises OSError: ENOENT without VFIO, EACCES
    :raises Unsupported: the kernel has no such IOMMU type
    """

    _map_request = MAP_DMA
    _unmap_request = UNMAP_DMA

    def __init__(self, mode: str = "type1v2", *, kernel: Kernel | str | None = None) -> None:
        path, self._type = _MODES[choice(mode, "mode", _MODES)]
        fd = _open(_kernel.resolve(kernel), path)
        try:
            super().__init__(None)
            self._fd = fd
            self._prepare(0)
            self.mode = mode
            self._splits = mode == "iommufd-type1"
            self._iommu_set = False
            self._no_iommu = self._type == lib.VFIO_NOIOMMU_IOMMU
            self._groups: dict[int, Group] = {}
            self._iommufd: Iommufd | None = None
            self._cached_info: IommuInfo | None = None
            version = self.api_version
            if version != lib.VFIO_API_VERSION:
                raise BadReply(f"VFIO API version {version}; {lib.VFIO_API_VERSION} is the only one there is")
            if not self.has_extension(self._type):
                raise Unsupported(
                    "no-IOMMU mode is off in this kernel (vfio.enable_unsafe_noiommu_mode=1, a module parameter)"
                    if self._no_iommu
                    else f"this kernel's VFIO has no {mode} IOMMU (is vfio_iommu_type1 loaded?)"
                )
        except BaseException:
            fd.close()
            raise

    # The container itself.

    @property
    def api_version(self) -> int:
        """The version of the kernel's API, 0. VFIO_GET_API_VERSION."""
        return GET_API_VERSION.send(self._fd)

    def has_extension(self, extension: int) -> bool:
        """Whether the container has an IOMMU type or an ability. VFIO_CHECK_EXTENSION.

        For some extensions the kernel's answer is right only when a device is attached.

        :param extension: VFIO_TYPE1v2_IOMMU, VFIO_UNMAP_ALL, VFIO_UPDATE_VADDR, ...
        """
        extension = u32(extension, "extension")
        return CHECK_EXTENSION.send(self._fd, ffi.cast("void *", extension), {"index": extension}) > 0

    def fileno(self) -> int:
        """Return the descriptor: of /dev/vfio/vfio, or of /dev/iommu in the compatibility modes."""
        return self._fd.fileno()

    # Groups and devices.

    @property
    def groups(self) -> list[Group]:
        """The groups in this container, in the order in which they were added."""
        return list(self._groups.values())

    def attach(self, where: str, *, vf_token: UUID | str | bytes | None = None, no_iommu: bool = False) -> Device:
        """Open a device. Its group is added to this container first, if necessary, and stays there until the container closes.

        VFIO_GROUP_SET_CONTAINER and, for the first, VFIO_SET_IOMMU; then VFIO_GROUP_GET_DEVICE_FD.

        :param where: the device's address, "0000:00:03.0", or its name on another bus
        :param vf_token: see :meth:`Device.set_vf_token`
        :param no_iommu: open a device without an IOMMU too; not needed in the modes `noiommu` and `iommufd-noiommu`
        :raises NotViable: another device of the group is bound to a driver that is not VFIO's
        :raises InvalidRequest: the device has no IOMMU and `no_iommu=True` was not given
        :raises Unsupported: the device is in no IOMMU group, or the mode does not fit: `noiommu` and `iommufd-noiommu` take the devices
            without an IOMMU, the other modes those with one
        :raises OSError: ENODEV if there is no such device, or it is not bound to a VFIO driver; EBUSY if the group or the device is open
            elsewhere; EPERM if the IOMMU cannot isolate interrupts and that has not been allowed
        """
        self._fd.check_open()
        found = find(where, self._fd.kernel)
        if found.group is None:
            # host.device() looks the device up again: if the device has vanished, ENODEV is the better error.
            raise Unsupported(str(no_group(self._fd.kernel, host.device(where, self._fd.kernel).address)))
        if self._no_iommu != found.no_iommu and (no_iommu or self._no_iommu):
            has, taken = ("has no IOMMU", "noiommu") if found.no_iommu else ("has an IOMMU, or needs none", "type1v2")
            raise Unsupported(f"{found.address} {has}: mode {self.mode} does not take it, {taken} does")
        admit(found, allowed=self._no_iommu)
        group = self._groups.get(found.group)
        fresh = group is None
        if group is None:
            group = self.add_group(found.group)
        try:
            name = found.address if vf_token is None else f"{found.address} vf_token={uuid_of(vf_token)}"
            fd = group.device_fd(name)
            try:
                return Device(fd, found.address, self, group=group)
            except BaseException:
                fd.close()
                raise
        except BaseException:
            if fresh:
                self._drop_group(group)
            raise

    def add_group(self, number: int) -> Group:
        """Put a group into this container without opening a device of it.

        :param number: the group's number
        :raises OSError: see :meth:`attach`
        """
        number = integer(number, "number", 0, 2**31 - 1)
        if number in self._groups:
            return self._groups[number]
        group = Group(number, no_iommu=self._no_iommu, kernel=self._fd.kernel, parent=self)
        try:
            group.set_container(self)
            if not self._iommu_set:
                self._set_iommu(number)
        except BaseException:
            group.close()
            raise
        self._groups[number] = group
        self._cached_info = None
        return group

    def _drop_group(self, group: Group) -> None:
        group.close()
        self._left_by(group)

    def _left_by(self, group: Group) -> None:
        """Forget a group that has left this container."""
        if self._groups.get(group.number) is group:
            del self._groups[group.number]
        self._cached_info = None
        if not self._groups:
            self._iommu_set = False
            if self._fd.kind != "iommufd":
                # A VFIO container loses its IOMMU and all mappings with its last group; iommufd's compatibility IOAS keeps them.
                self._ledger.forget_all()

    def _set_iommu(self, group: int) -> None:
        """Set the IOMMU type, for which the first group must be in the container."""
        facts = NotIsolated(group, self._no_iommu, self._fd.kernel)
        kind = ffi.cast("void *", self._type)
        made = Object()
        try:
            SET_IOMMU.receive(self._fd, kind, (ffi.NULL, made), arguments={"mode": self.mode}, facts=lambda _: facts)
        finally:
            if made.present:
                self._iommu_set = True

    def _unready(self) -> str | None:
        if self._no_iommu:
            return _NOTHING_MAPPED
        return None if self._iommu_set else "no IOMMU type is set yet: attach a device first"

    @property
    def iommufd(self) -> Iommufd:
        """The iommufd that behaves like a container, in the compatibility modes.

        It takes iommufd's own requests too: other address spaces can be allocated in it, and the mappings of this one copied to them
        (:attr:`Iommufd.vfio_ioas_id`, :meth:`Ioas.copy_range`).

        :raises Unsupported: the modes `type1v2` and `type1`, which have no iommufd
        """
        if self._fd.kind != "iommufd":
            raise Unsupported(f"mode {self.mode} is VFIO's own, without an iommufd; see iommufd-{self.mode}")
        if self._iommufd is None or self._iommufd.closed:
            self._iommufd = Iommufd._of(self, self._fd)
        return self._iommufd

    # Properties of the IOMMU.

    @property
    def info(self) -> IommuInfo:
        """The properties of the IOMMU. VFIO_IOMMU_GET_INFO; the kernel is asked each time.

        :raises OSError: EINVAL before a device is attached
        :raises Unsupported: its devices have no IOMMU
        """
        if self._no_iommu:
            raise Unsupported(f"{self!r}: {_NOTHING_MAPPED}")
        if (unready := self._unready()) is not None and not self._fd.closed:
            raise InvalidRequest(f"{self!r}: {unready}")
        answer, data = capability.ask(self._fd, GET_INFO)
        ranges: IovaSet | None = None
        dirty = largest = available = None
        if answer.flags & lib.VFIO_IOMMU_INFO_CAPS:
            for cap in capability.chain(data, answer.cap_offset, least=ffi.sizeof(answer[0])):
                if cap.id == lib.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
                    ranges = _iova_ranges(cap)
                elif cap.id == lib.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION:
                    migration = cap.read("struct vfio_iommu_type1_info_cap_migration")
                    dirty, largest = migration.pgsize_bitmap, migration.max_dirty_bitmap_size
                elif cap.id == lib.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
                    available = cap.read("struct vfio_iommu_type1_info_dma_avail").avail
        sizes = answer.iova_pgsizes if answer.flags & lib.VFIO_IOMMU_INFO_PGSIZES else 4096
        return IommuInfo(answer.flags, sizes, ranges, dirty, largest, available)

    @property
    def iova_ranges(self) -> IovaSet | None:
        """The IOVAs that every attached device can use, as VFIO_IOMMU_GET_INFO reported at the last change of
        the devices (VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, since Linux 5.4); None where the kernel does not report them.
        """
        return self._stable_info.iova_ranges

    @property
    def page_sizes(self) -> int:
        """The sizes in bytes that the IOMMU maps, one bit each (VFIO_IOMMU_GET_INFO, `iova_pgsizes`)."""
        return self._stable_info.page_sizes

    @property
    def _stable_info(self) -> IommuInfo:
        """The cached IOMMU info; use it only for fields that change on attach or detach."""
        if self._cached_info is None:
            self._cached_info = self.info
        return self._cached_info

    # Kinds of unmapping that only containers have.

    def _can_unmap_last_page(self) -> bool:
        if self._fd.kind == "iommufd" or self._unready() is not None:
            return True
        # A type1 that can unmap the last page also returns EOVERFLOW for a sum that overflows (same series, October 2025).
        return self._ledger.raw_unmap(2**64 - PAGE_SIZE, 2 * PAGE_SIZE) == -errno.EOVERFLOW

    def unmap_all(self) -> int:
        """Remove every mapping. VFIO_IOMMU_UNMAP_DMA with VFIO_DMA_UNMAP_FLAG_ALL, since Linux 5.12.

        :returns: bytes unmapped
        """
        unmap = UNMAP_DMA_ALL.new(flags=lib.VFIO_DMA_UNMAP_FLAG_ALL)
        if error := self._request_unmap(UNMAP_DMA_ALL, unmap, "size", (0, 2**64)):
            raise UNMAP_DMA_ALL.error(self._fd, -error, facts=self._everything)
        return int(unmap.size)

    def unmap_dirty(self, iova: int, size: int) -> DirtyBitmap:
        """Unmap a range, and return its dirty pages. VFIO_IOMMU_UNMAP_DMA with VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP.

        :param iova: start of a mapping
        :param size: bytes, the size of that mapping
        :raises OSError: EINVAL unless dirty tracking is on; otherwise as :meth:`unmap`
        :raises Unsupported: the container does not track dirty pages
        """
        iova, size = u64(iova, "iova"), u64(size, "size")
        bitmap = self._dirty_bitmap(iova, size)
        (segment,) = bitmap.segments
        trailing = ffi.sizeof("struct vfio_bitmap")
        flags = lib.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP
        unmap = UNMAP_DMA_DIRTY.new(trailing, flags=flags, iova=iova, size=size)
        _describe(ffi.cast("struct vfio_bitmap *", unmap.data), bitmap.page_size, segment)
        error = self._request_unmap(UNMAP_DMA_DIRTY, unmap, "size", (iova, size))
        if error:
            arguments = {"iova": iova, "size": size}
            raise UNMAP_DMA_DIRTY.error(self._fd, -error, arguments, partial(self._wanted, iova=iova, size=size))
        segment.check_guards()
        return bitmap

    # Moving memory under a mapping.

    def invalidate_addresses(self, mapping: Mapping | None = None) -> None:
        """Invalidate the virtual address of a mapping before it changes.

        VFIO_IOMMU_UNMAP_DMA with VFIO_DMA_UNMAP_FLAG_VADDR, since Linux 5.12. DMA continues; kernel code that needs the address
        waits until :meth:`set_address`.

        :param mapping: the mapping; None for all
        :raises Unsupported: the kernel does not support VFIO_UPDATE_VADDR
        :raises OSError: EBUSY while an emulated device is attached
        """
        self._require_vaddr()
        flag = lib.VFIO_DMA_UNMAP_FLAG_VADDR
        if mapping is None:
            native = UNMAP_DMA_ALL_VADDR.new(flags=flag | lib.VFIO_DMA_UNMAP_FLAG_ALL)
            UNMAP_DMA_ALL_VADDR.send(self._fd, native, facts=self._everything)
            return
        self._check_own(mapping)
        iova, size = mapping.iova, mapping.size
        native = UNMAP_DMA_VADDR.new(flags=flag, iova=iova, size=size)
        UNMAP_DMA_VADDR.send(
            self._fd, native, {"iova": iova, "size": size}, partial(self._wanted, iova=iova, size=size)
        )

    def set_address(self, mapping: Mapping, buffer: Any) -> Mapping:
        """Set the virtual address of a mapping after :meth:`invalidate_addresses`. VFIO_IOMMU_MAP_DMA with VFIO_DMA_MAP_FLAG_VADDR.

        The buffer must hold the same pages at another address, such as a second mmap of a memfd. The permissions do not change.

        :param mapping: the mapping
        :param buffer: memory of the mapping's size
        :returns: the mapping, now of that buffer; the old object counts as unmapped
        :raises OSError: EINVAL when the address had not been invalidated
        """
        self._require_vaddr()
        self._check_own(mapping)
        if type(buffer) is DmaBuffer:
            address, size, held = buffer.address, buffer.size, buffer
        else:
            address, size, held = pinned(buffer, writable=False)
        if size != mapping.size:
            raise ValueError(f"the buffer has {size:#x} bytes, the mapping {mapping.size:#x}")
        if not mapping.mapped:
            raise Closed(f"{mapping!r} is unmapped: only a mapping has an address to set")
        native = MAP_DMA_VADDR.new(flags=lib.VFIO_DMA_MAP_FLAG_VADDR, vaddr=address, iova=mapping.iova, size=size)
        arguments, facts = self._map_details(address, mapping.iova, size, mapping._protection)
        # Until the request has ended the kernel may use either memory: both mappings are recorded, which keeps both buffers alive.
        replaced = self._ledger.add(Mapping, self, buffer, held, address, mapping.iova, size, mapping._protection)
        made = Object()
        try:
            MAP_DMA_VADDR.receive(self._fd, native, (ffi.NULL, made), arguments=arguments, facts=facts)
        finally:
            self._ledger.settle(mapping if made.present else replaced, False)
        return replaced

    def _check_own(self, mapping: Mapping) -> None:
        if instance(mapping, "mapping", Mapping, "a pyvfio.Mapping").space is not self:
            raise InvalidRequest(f"{mapping!r} belongs to {mapping.space!r}, not to {self!r}")

    def _require_vaddr(self) -> None:
        if not self.has_extension(lib.VFIO_UPDATE_VADDR):
            raise Unsupported(f"mode {self.mode} on this kernel cannot update virtual addresses (VFIO_UPDATE_VADDR)")

    @property
    def devices(self) -> list[Device]:
        """The open devices that are attached to this container."""
        return [child for child in self._children if isinstance(child, Device) and not child.closed]

    def _track_by_iommu(self, ranges: Iterable[IovaRange], devices: list[Device]) -> DirtyTracker | None:
        return ContainerTracking(self, ranges) if self.tracks_dirty_pages else None

    # Dirty pages, tracked by the container.

    @property
    def tracks_dirty_pages(self) -> bool:
        """Whether the container can track dirty pages: mode `type1v2`, since Linux 5.8."""
        return self.mode == "type1v2" and self.info.dirty_page_sizes is not None

    def start_dirty_tracking(self) -> None:
        """Start dirty tracking; no effect if it is on. VFIO_IOMMU_DIRTY_PAGES with FLAG_START, since Linux 5.8.

        The report is exact for emulated devices. For devices behind an IOMMU every pinned page is reported as dirty.

        :raises Unsupported: mode `type1`, or a kernel without it
        """
        self._track(START, START.new(flags=lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_START))

    def stop_dirty_tracking(self) -> None:
        """Stop dirty tracking; no effect if it is off. VFIO_IOMMU_DIRTY_PAGES with FLAG_STOP."""
        self._track(STOP, STOP.new(flags=lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP))

    def read_dirty(self, iova: int, size: int) -> DirtyBitmap:
        """Return the pages of a range that were written, and clear them. VFIO_IOMMU_DIRTY_PAGES with FLAG_GET_BITMAP.

        :param iova: start of the range, which may hold several mappings, each as a whole
        :param size: bytes
        :raises OSError: EINVAL unless tracking is on, or when the range cuts a mapping in two
        :raises Unsupported: mode `type1`, or a kernel without it
        """
        iova, size = u64(iova, "iova"), u64(size, "size")
        bitmap = self._dirty_bitmap(iova, size)
        for segment in bitmap.segments:
            kind = "struct vfio_iommu_type1_dirty_bitmap_get"
            call = GET_BITMAP.new(ffi.sizeof(kind), flags=lib.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP)
            get = ffi.cast(f"{kind} *", call.data)
            get.iova = segment.range.start
            get.size = segment.range.size
            _describe(ffi.addressof(get, "bitmap"), bitmap.page_size, segment)
            self._track(GET_BITMAP, call, {"iova": iova, "size": size})
            segment.check_guards()
        return bitmap

    def _track(self, operation: Request, native: Any, arguments: Arguments | None = None) -> None:
        operation.send(self._fd, native, arguments or {}, lambda _: Tracking(self.mode, self._unready()))

    def _dirty_bitmap(self, iova: int, size: int) -> DirtyBitmap:
        info = self.info
        if info.dirty_page_sizes is None or self.mode != "type1v2":
            raise Unsupported(
                f"mode {self.mode} does not track dirty pages on this kernel; type1v2 does, since Linux 5.8"
            )
        page = info.dirty_page_sizes & -info.dirty_page_sizes
        if size <= 0 or iova % page or size % page:
            raise InvalidRequest(f"iova={iova:#x}, size={size:#x}: only whole pages of {bytes_(page)} are tracked")
        bitmap = DirtyBitmap([IovaRange.of(iova, size)], page)
        most = info.max_dirty_bitmap_size
        if most is not None and any(segment.nbytes > most for segment in bitmap.segments):
            raise InvalidRequest(
                f"size={size:#x}: the kernel fills bitmaps of at most {bytes_(most)}; read the range in pieces"
            )
        return bitmap

    def _release(self) -> None:
        try:
            self._fd.close()
        finally:
            self._ledger.forget_all()
            self._groups.clear()

    def _has_gone(self) -> bool:
        return self._fd.closed

    def __repr__(self) -> str:
        kernel = self._fd.kernel.name
        return (
            f"<Container {self.mode}{'' if kernel == 'linux' else ' on ' + kernel}{' (closed)' if self.closed else ''}>"
        )


def _iova_ranges(cap: capability.Capability) -> IovaSet:
    kind = "struct vfio_iommu_type1_info_cap_iova_range"
    pairs = cap.array(cap.read(kind).nr_iovas, "struct vfio_iova_range", ffi.sizeof(kind))
    try:
        return IovaSet(IovaRange(pair.start, pair.end) for pair in pairs)
    except ValueError as error:
        raise BadReply(f"the kernel reported malformed IOVA ranges: {error}") from None


def _describe(native: Any, page_size: int, segment: Any) -> None:
    native.pgsize = page_size
    native.size = segment.nbytes
    native.data = ffi.cast("void *", segment.address)


def _open(kernel: Kernel, path: str) -> Fd:
    if path == "/dev/iommu":
        return open_iommu(kernel)
    return open_node(kernel, path, "container", absent=partial(_no_container, kernel))


def _no_container(kernel: Kernel) -> Finding | None:
    """Return the reason why there is no /dev/vfio/vfio."""
    cdevs = kernel.exists("/dev/vfio/devices") or None
    missing = diagnosis.interfaces_missing(containers=False, iommufd=kernel.exists("/dev/iommu"), cdevs=cdevs)
    return diagnosis.vfio_missing(modules=entries(kernel, "/sys/module")) or missing
