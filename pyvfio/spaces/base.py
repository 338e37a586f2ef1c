"""What a Container and an Ioas share: an I/O virtual address space that devices are attached to.

An IOVA belongs to a :class:`Mapping`, not to a buffer: one buffer can be mapped twice. Mappings are recorded so that their
memory lives as long as a device can reach it; what is mapped is decided by the kernel alone.
"""

from __future__ import annotations

import errno
import resource
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, overload

from pyvfio._abi import ffi, lib
from pyvfio._core.fd import Fd
from pyvfio._core.request import Request
from pyvfio._core.resource import Resource
from pyvfio._core.text import ranges as shown
from pyvfio._core.text import size as bytes_
from pyvfio._core.text import span
from pyvfio.dirty.tracker import DirtyTracker, track
from pyvfio.errors import Closed, InvalidRequest
from pyvfio.iova import IovaRange, IovaSet
from pyvfio.memory import PAGE_SIZE, DmaBuffer, pinned
from pyvfio.spaces import refusals
from pyvfio.spaces.other_modes import OtherModes
from pyvfio.uncopyable import Uncopyable

if TYPE_CHECKING:
    from uuid import UUID

    from pyvfio.device import Device

_map = lib.pyvfio_map
_unmap = lib.pyvfio_unmap
_new: Callable[[type[Mapping]], Mapping] = object.__new__
_EINTR = errno.EINTR
#: results of pyvfio_unmap from here on are errors
_ERRORS = 2**64 - 4095
#: behind the last IOVA
_END = 2**64
#: Automatic placement leaves 64 KiB free at the bottom, so that a device that follows a null pointer faults.
_PLACES = IovaSet([IovaRange(1 << 16, 2**64 - 1)])


class Mapping(Uncopyable):
    """Memory at an IOVA of an address space. It keeps the memory alive; it can be used in a `with`.

    :ivar iova: where devices see it
    :ivar size: bytes
    :ivar buffer: what was mapped
    """

    # No __init__: a call of one costs as much as the rest of a map beside the kernel's part.
    __slots__ = ("_held", "buffer", "iova", "size", "space")

    _stands_for = "a mapping in an IOMMU"

    space: AddressSpace
    iova: int
    size: int
    buffer: Any
    _held: Any

    @property
    def range(self) -> IovaRange:
        """The IOVAs from first to last."""
        return IovaRange(self.iova, self.iova + self.size - 1)

    @property
    def mapped(self) -> bool:
        """Whether it has not been unmapped yet."""
        return self.space._mapped.get(self.iova) is self

    def unmap(self) -> int:
        """Unmap it, returning bytes: 0 when that had been done already, whatever lies at its IOVA now."""
        if self.space._mapped.get(self.iova) is not self:
            return 0
        return self.space.unmap(self.iova, self.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.space.closed:
            return
        try:
            self.unmap()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"unmapping {self!r} failed too: {failure}")

    def __repr__(self) -> str:
        return f"<Mapping {self.range}{'' if self.mapped else ' (unmapped)'}>"


def made(space: AddressSpace, iova: int, size: int, buffer: Any, held: Any) -> Mapping:
    """A Mapping of what has been mapped."""
    mapping = _new(Mapping)
    mapping.space = space
    mapping.iova = iova
    mapping.size = size
    mapping.buffer = buffer
    mapping._held = held
    return mapping


class MappingArray(Sequence[Mapping]):
    """The mappings that one `map_many` made: one array, and Mapping objects only when they are asked for."""

    def __init__(self, space: AddressSpace, rows: memoryview, held: Any) -> None:
        self.space = space
        #: u64 values, three to a row: address, IOVA and size of each mapping, as they were made
        self.rows = rows
        self._held = held
        # IOVA -> row of what is still mapped and has no Mapping object; None as long as that is every row.
        self._index: dict[int, int] | None = None
        self._objects: dict[int, Mapping] = {}

    def __len__(self) -> int:
        return len(self.rows) // 3

    @overload
    def __getitem__(self, index: int) -> Mapping: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mapping]: ...
    def __getitem__(self, index: int | slice) -> Mapping | list[Mapping]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if (mapping := self._objects.get(index)) is None:
            iova, size = self.rows[3 * index + 1], self.rows[3 * index + 2]
            mapping = self._objects[index] = made(self.space, iova, size, None, self._held)
            if self._take(iova, size):
                self.space._mapped[iova] = mapping
        return mapping

    def unmap(self) -> int:
        """Unmap those that are still mapped, returning bytes."""
        if self._index is None:
            unmapped = self.space.unmap_many(_columns(self.rows)) if self in self.space._arrays else 0
        else:
            unmapped = sum(mapping.unmap() for mapping in self._objects.values())
            live = array("Q")
            for row in self._index.values():
                live.extend(self.rows[3 * row + 1 : 3 * row + 3])
            unmapped += self.space.unmap_many(live)
        return unmapped

    def _rows_left(self) -> dict[int, int]:
        if self._index is None:
            self._index = {iova: row for row, iova in enumerate(self.rows[1::3])}
        return self._index

    def _take(self, iova: int, size: int) -> bool:
        """Forget one row, if it is here and has just that size."""
        left = self._rows_left()
        row = left.get(iova)
        if row is None or self.rows[3 * row + 2] != size:
            return False
        del left[iova]
        if not left:
            self.space._arrays.remove(self)
        return True

    def __repr__(self) -> str:
        return f"<MappingArray of {len(self)}>"


class AddressSpace(OtherModes, Resource):
    """Base of :class:`pyvfio.Container` and :class:`pyvfio.Ioas`.

    Threads may map and unmap at IOVAs of their own at the same time; what becomes of one IOVA is one thread's business.
    """

    #: one of `type1`, `type1v2`, `iommufd-type1`, `iommufd-type1v2`, `iommufd`
    mode: str
    #: whether an unmap of a part of a mapping splits it
    _splits = False

    _fd: Fd

    def _prepare(self, ioas: int) -> None:
        """Begin with nothing mapped; `ioas` as in `pyvfio_space`."""
        self._native = ffi.new("pyvfio_space *", (self._fd.door.native, ioas))
        self._mapped: dict[int, Mapping] = {}
        self._arrays: list[MappingArray] = []
        self._gap = IovaRange(0, 0)

    @property
    def gone(self) -> bool:
        """Whether its file is closed, here or by the fork that this process comes from. Not part of the API."""
        return self._fd.closed

    # What each kind of address space answers in its own way.

    def attach(self, where: str, *, vf_token: UUID | str | bytes | None = None, no_iommu: bool = False) -> Device:
        """Open a device, by its address or name, and let its DMA go through this address space."""
        raise NotImplementedError

    #: what the functions in C send
    _map_request: ClassVar[Request]
    _unmap_request: ClassVar[Request]

    def _unready(self) -> str | None:
        """Why nothing can be mapped yet; None when that is not so."""
        return None

    def _finds_the_end(self) -> bool:
        """Whether an unmap finds a mapping that ends with the 64 bits."""
        return True

    def _would_stay(self, iova: int, size: int, row: str = "") -> InvalidRequest:
        """Why what ends with the 64 bits is not mapped where `_finds_the_end` is false."""
        return InvalidRequest(
            f"{self!r}: {row}this kernel would not find {span(IovaRange.of(iova, size))} again, since it ends with the "
            "64 bits; devices would reach it until the container is closed. Leave out the last page"
        )

    @property
    def iova_ranges(self) -> IovaSet | None:
        """The usable IOVAs; None where the kernel reports none, which is not the same as none being usable."""
        raise NotImplementedError

    @property
    def page_sizes(self) -> int:
        """Bitmap of the page sizes in bytes that the IOMMU can map: bit 12 is 4 KiB."""
        raise NotImplementedError

    # Mapping.

    def map(self, buffer: Any, iova: int | None = None, *, read: bool = True, write: bool = True) -> Mapping:
        """Let the attached devices reach memory. VFIO_IOMMU_MAP_DMA or IOMMU_IOAS_MAP.

        :param buffer: a :class:`DmaBuffer`, or any object with a contiguous buffer whose address and size are
            multiples of the page size; it must be writable if `write`
        :param iova: where; None for a free and usable place, aligned so that the IOMMU can use large pages
        :param read: the devices may read it
        :param write: the devices may write it
        :raises InvalidRequest: neither `read` nor `write`: nobody has a use for it, type1 and iommufd refuse it, and in the modes between
            the kernel takes it from emulated devices and warns of it in its own log for others; under an older type1 (Linux 6.1 and
            6.12) the very last page, for it never finds that again
        :raises OSError: EINVAL outside the usable IOVAs or misaligned; EEXIST over another mapping;
            ENOMEM above the limit on locked memory; ENOSPC above the limit on mappings; EFAULT for memory that is not
            there; EOVERFLOW (EINVAL before Linux 7.0) past the end of the 64 bits
        :raises BufferError: read-only memory with `write`
        """
        prot = 3 if read and write else _prot(read, write)
        if type(buffer) is DmaBuffer:
            address = buffer.address
            size = buffer.size
            held = buffer
        else:
            address, size, held = pinned(buffer, writable=write)
        if iova is None:
            return self._map_anywhere(address, size, prot, buffer, held)
        if iova + size == _END and not self._finds_the_end():
            raise self._would_stay(iova, size)
        while error := _map(self._native, address, iova, size, prot):
            if error != -_EINTR:
                raise self._map_refused(error, address, iova, size, prot)
        mapping = self._mapped[iova] = _new(Mapping)
        mapping.space = self
        mapping.iova = iova
        mapping.size = size
        mapping.buffer = buffer
        mapping._held = held
        return mapping

    def alloc(self, size: int, iova: int | None = None, *, huge: int | None = None) -> Mapping:
        """Map new zeroed memory; see :meth:`map` and :class:`DmaBuffer`."""
        return self.map(DmaBuffer(size, huge=huge, kernel=self._fd.kernel), iova)

    def map_many(self, rows: Any, *, keep: Any = None, read: bool = True, write: bool = True) -> MappingArray:
        """Map every row of an array, in native code; all or none.

        :param rows: C-contiguous u64 values, three to a row: virtual address, IOVA, size in bytes, the order of
            `struct vfio_iommu_type1_dma_map` (a numpy array of shape (n, 3), an `array.array("Q")`, ...)
        :param keep: what the addresses point into, kept alive as long as one of the mappings is
        :raises InvalidRequest: as for :meth:`map`
        :raises OSError: as for :meth:`map`; the text names the row, and the rows before it have been unmapped again
        """
        prot = _prot(read, write)
        rows = _rows(rows, 3)
        native = ffi.from_buffer("uint64_t[]", rows.obj)  # not of a view: see memory.address_of
        done = ffi.new("size_t *")
        count = len(rows) // 3
        if (at := lib.pyvfio_row_at_the_end(native, count)) < count and not self._finds_the_end():
            _, iova, size = rows[3 * at : 3 * at + 3]
            raise self._would_stay(iova, size, row=f"row {at} of {count}: ")
        try:
            while error := lib.pyvfio_map_many(self._native, native, count, prot, done):
                if error == -_EINTR:
                    continue  # a signal's handler runs here, and may raise
                address, iova, size = rows[3 * done[0] : 3 * done[0] + 3]
                raise self._map_refused(error, address, iova, size, prot, {"row": f"{done[0]} of {count}"})
        except BaseException as failure:
            try:
                self.unmap_many(_columns(rows[: 3 * done[0]]))
            except OSError as undoing:
                failure.add_note(f"undoing the rows before it failed too: {undoing}")
            raise
        mappings = MappingArray(self, rows, keep)
        if count:
            self._arrays.append(mappings)
        return mappings

    # Unmapping.

    def unmap(self, iova: int, size: int) -> int:
        """Take mappings away. VFIO_IOMMU_UNMAP_DMA or IOMMU_IOAS_UNMAP.

        The modes differ. Of a part of a mapping: `type1` unmaps nothing when the part starts inside (0 bytes, no error), and the
        **whole** mapping when it covers its first page; `type1v2` refuses with EINVAL; `iommufd-type1` really splits it;
        `iommufd` and `iommufd-type1v2` refuse with ENOENT. Where nothing is mapped: 0 bytes, but ENOENT under `iommufd`.

        :returns: bytes unmapped
        :raises OSError: see above; EINVAL misaligned or of no size; EOVERFLOW (EINVAL before 7.0) past the end
        """
        while (unmapped := _unmap(self._native, iova, size)) >= _ERRORS:
            if (error := unmapped - 2**64) != -_EINTR:
                raise self._unmap_refused(error, iova, size)
        mapping = self._mapped.get(iova)
        if mapping is not None and mapping.size == unmapped:
            del self._mapped[iova]
        elif unmapped:
            self._forget(iova, size)
        return unmapped

    def unmap_all(self) -> int:
        """Take every mapping away, returning bytes.

        :raises OSError: as for :meth:`unmap`
        """
        raise NotImplementedError

    def unmap_many(self, rows: Any) -> int:
        """Unmap every row of an array, in native code, returning bytes.

        :param rows: C-contiguous u64 values, two to a row: IOVA and size in bytes (an array of that shape)
        :raises OSError: as for :meth:`unmap`; the text names the row; the rows before it are unmapped
        """
        rows = _rows(rows, 2)
        count = len(rows) // 2
        done, unmapped = ffi.new("size_t *"), ffi.new("uint64_t *")
        native = ffi.from_buffer("uint64_t[]", rows.obj)
        try:
            while (error := lib.pyvfio_unmap_many(self._native, native, count, done, unmapped)) == -_EINTR:
                pass  # a signal's handler runs here, and may raise
        finally:
            self._forget_rows(rows[: 2 * done[0]])
        if error:
            iova, size = rows[2 * done[0] : 2 * done[0] + 2]
            raise self._unmap_refused(error, iova, size, {"row": f"{done[0]} of {count}"})
        return int(unmapped[0])

    # What is mapped, as far as this object knows.

    @property
    def mappings(self) -> list[Mapping]:
        """The mappings made through this object and still there, by IOVA."""
        for batch in list(self._arrays):
            _ = batch[:]
        return [self._mapped[iova] for iova in sorted(self._mapped)]

    @property
    def mapped_ranges(self) -> IovaSet:
        """The IOVAs of :attr:`mappings`, without an object for each."""
        ranges = [mapping.range for mapping in list(self._mapped.values())]
        for batch in self._arrays:
            rows = batch.rows
            ranges.extend(IovaRange.of(rows[3 * row + 1], rows[3 * row + 2]) for row in batch._rows_left().values())
        return IovaSet(ranges)

    # What was refused.

    def _map_refused(
        self,
        error: int,
        address: int,
        iova: int | None,
        size: int,
        prot: int,
        more: dict[str, object] | None = None,
    ) -> Exception:
        """Return the exception for a map in C that returned -errno."""
        return self._refused(self._map_request, error, *self._map_details(address, iova, size, prot, more))

    def _map_details(
        self, address: int, iova: int | None, size: int, prot: int, more: dict[str, object] | None = None
    ) -> tuple[dict[str, object], Callable[[int], refusals.Wanted]]:
        """Return the arguments of a map, and the facts about a refusal.

        :param iova: None where the kernel is to choose
        :param more: arguments besides
        """
        read, write = bool(prot & 1), bool(prot & 2)
        arguments = (more or {}) | {
            "iova": "any" if iova is None else iova,
            "size": size,
            "address": address,
            "access": {3: "read and write", 1: "read", 2: "write"}.get(prot, "none"),
        }

        def facts(number: int) -> refusals.Wanted:
            known = self._wanted(number, iova, size)
            return known._replace(address=address, read=read, write=write, locked=self._locked())

        return arguments, facts

    def _unmap_refused(self, error: int, iova: int, size: int, more: dict[str, object] | None = None) -> Exception:
        """Return the exception for an unmap in C that returned -errno."""
        arguments = (more or {}) | {"iova": iova, "size": size}
        return self._refused(self._unmap_request, error, arguments, lambda number: self._wanted(number, iova, size))

    def _refused(
        self, request: Request, error: int, arguments: dict[str, object], facts: Callable[[int], refusals.Wanted]
    ) -> Exception:
        if self.closed:
            return Closed(f"{self!r} is closed")
        return request.error(self._fd, -error, arguments, facts)

    def _wanted(self, number: int, iova: int | None, size: int) -> refusals.Wanted:
        """What is known; what cannot be found out now is left out."""
        sizes = 0
        usable: IovaSet | None = None
        pieces: tuple[IovaRange, ...] = ()
        if (unready := self._unready()) is None:
            with suppress(OSError):
                sizes = self.page_sizes
                usable = self.iova_ranges
        if iova is not None and 0 < size <= _END - iova:
            range_ = IovaRange.of(iova, size)
            pieces = tuple(one.range for one in self.mappings if one.range.overlaps(range_))
        page = sizes & -sizes or PAGE_SIZE
        return refusals.Wanted(number, self.mode, unready, usable, self.mapped_ranges, pieces, page, iova, size)

    def _locked(self) -> refusals.Locked | None:
        kernel = self._fd.kernel
        with suppress(OSError, LookupError, ValueError):
            limit, _ = kernel.getrlimit(resource.RLIMIT_MEMLOCK)
            status = kernel.read_file("/proc/self/status").decode()
            return refusals.Locked.read(status, None if limit == resource.RLIM_INFINITY else limit)
        return None

    def _record(self, iova: int, size: int, buffer: Any, held: Any) -> Mapping:
        mapping = self._mapped[iova] = made(self, iova, size, buffer, held)
        return mapping

    def _forget_all(self) -> None:
        self._mapped.clear()
        self._arrays.clear()

    def _forget_rows(self, rows: memoryview) -> None:
        for batch in self._arrays:
            if batch._index is None and _columns(batch.rows) == rows:
                self._arrays.remove(batch)
                batch._index = {}
                return
        for iova, size in zip(rows[::2], rows[1::2], strict=True):
            self._forget(iova, size)

    def _forget(self, iova: int, size: int) -> None:
        """Drop the records of what an unmap that succeeded has taken away."""
        mapping = self._mapped.get(iova)
        if mapping is not None and mapping.size == size:
            del self._mapped[iova]
            return
        for batch in self._arrays:
            if batch._take(iova, size):
                return
        gone = IovaRange.of(iova, size)
        for mapping in self.mappings:
            here = mapping.range
            if here.last < gone.start:
                continue
            if here.start > gone.last:
                break
            if here.start < gone.start and not self._splits:
                return  # the kernel stops at a mapping that begins earlier, without an error (type1)
            del self._mapped[here.start]
            if self._splits:
                for rest in IovaSet([here]) - IovaSet([gone]):
                    self._mapped[rest.start] = made(self, rest.start, rest.size, mapping.buffer, mapping._held)

    # Devices, and what they write.

    @property
    def devices(self) -> list[Device]:
        """The open devices whose DMA goes through it."""
        raise NotImplementedError

    def track_dirty(self, ranges: Iterable[IovaRange]) -> DirtyTracker:
        """Track which pages of these ranges the devices write: by the devices' own logs where every device has one, else by the
        IOMMU, else not at all, everything being reported as dirty. Decided now; :attr:`DirtyTracker.source` tells.

        :param ranges: whole pages
        :raises InvalidRequest: no ranges, ranges that are not aligned, no devices
        :raises OSError: a device or the IOMMU refuses to start; nothing is tried in its place
        """
        return track(self, ranges)

    def _track_by_iommu(self, ranges: Iterable[IovaRange], devices: list[Device]) -> DirtyTracker | None:
        """Tracking by the IOMMU; None where it cannot."""
        raise NotImplementedError

    # Placement.

    def _map_anywhere(self, address: int, size: int, prot: int, buffer: Any, held: Any) -> Mapping:
        fresh = False
        while True:
            iova = self._place(size, fresh=fresh)
            while (error := _map(self._native, address, iova, size, prot)) == -_EINTR:
                pass
            if not error:
                return self._record(iova, size, buffer, held)
            if error != -errno.EEXIST or fresh:
                raise self._map_refused(error, address, iova, size, prot)
            # Somebody chose an IOVA of their own inside the gap that was being filled.
            fresh = True

    def _place(self, size: int, *, fresh: bool) -> int:
        """A free and usable IOVA; from the gap that is being filled, else from a new one."""
        sizes = self.page_sizes
        alignment = max(sizes & -sizes, PAGE_SIZE)
        for large in (1 << 21, 1 << 30):
            # As far as the IOMMU can use a large page there, let it.
            if size >= large and sizes & large:
                alignment = large
        iova = -(-self._gap.start // alignment) * alignment
        if fresh or iova + size - 1 > self._gap.last:
            usable = self.iova_ranges
            free = (_PLACES if usable is None else usable & _PLACES) - self.mapped_ranges
            for gap in free:
                iova = -(-gap.start // alignment) * alignment
                if iova + size - 1 <= gap.last:
                    break
            else:
                raise InvalidRequest(
                    errno.ENOSPC,
                    f"there is no free IOVA range of {bytes_(size)} aligned to {bytes_(alignment)}; free: {shown(free)}",
                )
            self._gap = gap
        # The next one starts behind this one.
        self._gap = IovaRange(min(iova + size, self._gap.last), self._gap.last)
        return iova


def _prot(read: bool, write: bool) -> int:
    if not (read or write):
        raise InvalidRequest("read=False, write=False: a mapping must allow the devices to read or to write")
    return read + 2 * write


def _rows(source: Any, columns: int) -> memoryview:
    """A private copy of the caller's u64 values (they are needed for as long as the mappings live)."""
    try:
        view = memoryview(source)
    except TypeError:
        raise TypeError(f"an array of u64 values is needed, {columns} to a row, not {type(source).__name__}") from None
    if view.format not in ("Q", "L", "N") or view.itemsize != 8 or not view.c_contiguous:
        raise TypeError(f"C-contiguous u64 values are needed, not format {view.format!r}")
    if view.nbytes % (8 * columns) or (view.ndim > 1 and view.shape is not None and view.shape[-1] != columns):
        raise ValueError(f"rows of {columns} values are needed, not shape {view.shape}")
    return memoryview(view.tobytes()).cast("Q")


def _columns(rows: memoryview) -> memoryview:
    """(address, iova, size) rows as (iova, size) rows."""
    result = array("Q", bytes(len(rows) // 3 * 16))
    view = memoryview(result)
    view[::2] = rows[1::3]
    view[1::2] = rows[2::3]
    return view
