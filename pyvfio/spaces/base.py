# SPDX-License-Identifier: MIT
"""Address spaces: the base of containers and Ioas objects, which devices are attached to.

An IOVA belongs to a :class:`Mapping`, not to a buffer: one buffer can be mapped twice. Mappings are recorded so that their
memory lives as long as a device can reach it; what is mapped is decided by the kernel alone.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pyvfio._abi import ffi, lib
from pyvfio._core.arguments import boolean, u64, wrong_type
from pyvfio._core.fd import Fd
from pyvfio._core.request import Request
from pyvfio._core.resource import Resource
from pyvfio._core.text import ranges as shown
from pyvfio._core.text import size as bytes_
from pyvfio._core.text import span
from pyvfio.dirty.tracker import DirtyTracker, track
from pyvfio.errors import Closed, InvalidRequest
from pyvfio.host.caller import calling_process
from pyvfio.iova import IovaRange, IovaSet, as_range
from pyvfio.memory import PAGE_SIZE, DmaBuffer, pinned
from pyvfio.region import RegionMapping
from pyvfio.spaces import refusals
from pyvfio.spaces.ledger import Before, Ledger
from pyvfio.spaces.mapping import Mapping, MappingArray, columns
from pyvfio.spaces.other_modes import OtherModes

if TYPE_CHECKING:
    from uuid import UUID

    from pyvfio.device import Device

__all__ = ["AddressSpace"]

#: behind the last IOVA
_END = 2**64
#: how often placement goes on behind what is mapped past the library
_PLACES_TRIED = 1000
#: Automatic placement leaves 64 KiB free at the bottom, so that a device that follows a null pointer faults.
_PLACES = IovaSet([IovaRange(1 << 16, 2**64 - 1)])
#: in which nothing fits
_NO_GAP = IovaRange(0, 0)


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
        """Begin with nothing mapped; `ioas` is the object id of an IOAS, 0 for a type1 container."""
        self._ledger = Ledger(self._fd.door, ioas)
        #: the gap that placement fills, and those after it, the next one last
        self._gap = _NO_GAP
        self._gaps: list[IovaRange] = []

    @property
    def gone(self) -> bool:
        """Whether the kernel has it no more, so that nothing is mapped: its file is closed, here or by the fork that this process
        comes from. Not part of the API.
        """
        return self._fd.closed

    # What each kind of address space answers in its own way.

    def attach(self, where: str, *, vf_token: UUID | str | bytes | None = None, no_iommu: bool = False) -> Device:
        """Open a device, by its address or name, and let its DMA go through this address space.

        :param where: the device's address, "0000:00:03.0", or its name on another bus
        :param vf_token: see :meth:`pyvfio.Device.set_vf_token`
        :param no_iommu: open a device without an IOMMU too
        """
        raise NotImplementedError

    #: the declarations of the requests that the C functions send
    _map_request: ClassVar[Request]
    _unmap_request: ClassVar[Request]

    def _unready(self) -> str | None:
        """Return the reason why nothing can be mapped yet; None if mapping is possible."""
        return None

    def _can_unmap_last_page(self) -> bool:
        """Whether this kernel can unmap a mapping whose last byte is 2^64-1."""
        return True

    def _unmappable_tail(self, iova: int, size: int, row: str = "") -> InvalidRequest:
        """Return the error for a mapping that this kernel could never unmap again."""
        return InvalidRequest(
            f"{self!r}: {row}this kernel cannot unmap {span(IovaRange.of(iova, size))}, since it ends at 2^64-1; "
            "devices would have access until the container is closed. Leave out the last page"
        )

    @property
    def iova_ranges(self) -> IovaSet | None:
        """The usable IOVA ranges, or None where the kernel does not report them."""
        raise NotImplementedError

    @property
    def page_sizes(self) -> int:
        """The bitmap of the page sizes in bytes that the IOMMU can map: bit 12 is 4 KiB."""
        raise NotImplementedError

    # Mapping.

    def map(self, buffer: Any, iova: int | None = None, *, read: bool = True, write: bool = True) -> Mapping:
        """Map memory for DMA by the attached devices. VFIO_IOMMU_MAP_DMA or IOMMU_IOAS_MAP.

        :param buffer: a :class:`DmaBuffer`, a mapped region (:meth:`Region.mmap`), or any object with a contiguous buffer whose
            address and size are multiples of the page size; it must be writable if `write`
        :param iova: where devices see it; None for a free and usable IOVA, aligned so that the IOMMU can use large pages
        :param read: the devices may read it
        :param write: the devices may write it
        :raises InvalidRequest: neither `read` nor `write`, which type1 and iommufd reject; the compatibility modes accept it for
            emulated devices and warn in the kernel log for others. Under type1 of Linux 6.1 and 6.12 also a range that ends at
            2^64-1, which those kernels cannot unmap
        :raises OSError: EINVAL outside the usable IOVAs or misaligned; EEXIST if the range overlaps a mapping; ENOMEM above the
            limit on locked memory; ENOSPC above the limit on mappings; EFAULT for memory that is not mapped in this process;
            EOVERFLOW (EINVAL before Linux 7.0) past 2^64-1
        :raises BufferError: the memory is read-only and `write` is set
        """
        prot = 3 if read is True and write is True else _prot(read, write)
        if type(buffer) is DmaBuffer:
            address = buffer.address
            size = buffer.size
            held: Any = buffer
        elif isinstance(buffer, RegionMapping):
            # Not its view: an export would keep the device from closing.
            address, size, held = buffer.address, buffer.size, buffer
        else:
            address, size, held = pinned(buffer, writable=bool(write))
        if type(iova) is not int:
            if iova is None:
                return self._map_anywhere(address, size, prot, buffer, held)
            iova = u64(iova, "iova")
        elif not 0 <= iova < _END:
            u64(iova, "iova")
        if iova + size == _END and not self._can_unmap_last_page():
            raise self._unmappable_tail(iova, size)
        ledger = self._ledger
        try:
            mapping = ledger.map_dma(Mapping, self, buffer, held, address, iova, size, prot)
        except BaseException:
            self._after_raise()
            raise
        if not isinstance(mapping, int):
            return mapping
        raise self._map_refused(mapping, address, iova, size, prot)

    def _after_raise(self) -> None:
        """After a request to map was left by an exception: where its outcome is not known, see that nothing is mapped by it."""
        if self._ledger.unknown:
            self._ledger.settle_unknown()

    def alloc(self, size: int, iova: int | None = None, *, huge: int | None = None) -> Mapping:
        """Map new zeroed memory; see :meth:`map` and :class:`DmaBuffer`.

        :param size: bytes, rounded up to whole pages
        :param iova: where devices see it; None for a free and usable IOVA
        :param huge: bytes of a huge page, 2 MiB or 1 GiB; None for pages of the usual size
        """
        if iova is not None:
            iova = u64(iova, "iova")
        return self.map(DmaBuffer(size, huge=huge, kernel=self._fd.kernel), iova)

    def map_many(self, rows: Any, *, keep: Any = None, read: bool = True, write: bool = True) -> MappingArray:
        """Map every row of an array, in native code; all or none.

        :param rows: C-contiguous u64 values, three to a row: virtual address, IOVA, size in bytes, the order of
            `struct vfio_iommu_type1_dma_map` (a numpy array of shape (n, 3), an `array.array("Q")`, ...)
        :param keep: what the addresses point into, kept alive as long as one of the mappings is
        :param read: the devices may read the memory
        :param write: the devices may write the memory
        :raises InvalidRequest: as for :meth:`map`
        :raises OSError: as for :meth:`map`; the text names the row, and the rows before it have been unmapped again
        """
        prot = _prot(read, write)
        rows = _rows(rows, 3)
        native = ffi.from_buffer("uint64_t[]", rows.obj)  # not of a view: see memory.address_of
        count = len(rows) // 3
        if (at := lib.pyvfio_row_at_the_end(native, count)) < count and not self._can_unmap_last_page():
            _, iova, size = rows[3 * at : 3 * at + 3]
            raise self._unmappable_tail(iova, size, row=f"row {at} of {count}: ")
        mappings = MappingArray(self, rows, keep)
        if not count:
            return mappings
        ledger, made = self._ledger, mappings._made
        try:
            ledger.begin_array(mappings)
            while True:
                if error := ledger.run(rows, prot, made):
                    address, iova, size = rows[3 * made[0] : 3 * made[0] + 3]
                    raise self._map_refused(error, address, iova, size, prot, {"row": f"{made[0]} of {count}"})
                if not mappings._disturbed:
                    break
                # Another thread unmapped meanwhile, and may have met some of the rows.
                self._undo_rows(mappings)
            mappings._complete = True
        except BaseException as failure:
            try:
                try:
                    self._abandon_array(mappings)
                except Exception:
                    raise
                except BaseException:
                    self._abandon_array(mappings)
                    raise
            except OSError as undoing:
                failure.add_note(f"undoing the rows before it failed too: {undoing}")
            raise
        return mappings

    def _abandon_array(self, mappings: MappingArray) -> None:
        """Unmap what an array has mapped, and forget the array; it can be called again."""
        ledger, made = self._ledger, mappings._made
        if ledger.unknown:
            # A callback raised in this row. What it means is not known; that it is not mapped afterwards is.
            ledger.unknown = 0
            ledger.raw_unmap(*mappings.rows[3 * made[0] + 1 : 3 * made[0] + 3])
        self._undo_rows(mappings)
        ledger.drop_array(mappings)

    def _undo_rows(self, mappings: MappingArray) -> None:
        """Unmap the rows that an array has mapped so far; it begins again from the first."""
        rows, unmade = columns(mappings.rows[: 3 * mappings._made[0]]), mappings._unmade
        while unmade[0] < len(rows) // 2:
            error = self._ledger.run(rows, 0, unmade)
            if error:
                if not mappings._disturbed:
                    iova, size = rows[2 * unmade[0] : 2 * unmade[0] + 2]
                    raise self._unmap_refused(error, iova, size)
                unmade[0] += 1  # the other thread had unmapped it
        mappings._disturbed = False
        for state in (mappings._made, unmade):
            state[0] = state[1] = state[2] = 0

    # Unmapping.

    def unmap(self, iova: int | Mapping | IovaRange, size: int | None = None) -> int:
        """Remove mappings. VFIO_IOMMU_UNMAP_DMA or IOMMU_IOAS_UNMAP.

        The modes differ for a part of a mapping. `type1` unmaps nothing if the part starts inside the mapping (0 bytes, no error),
        and the **whole** mapping if it starts at the mapping's first page. `type1v2` refuses with EINVAL. `iommufd-type1` splits
        the mapping. `iommufd` and `iommufd-type1v2` refuse with ENOENT. Where nothing is mapped, `iommufd` refuses with ENOENT and
        the others return 0.

        :param iova: the first IOVA; or a Mapping or a range, without `size`
        :param size: bytes
        :returns: bytes unmapped
        :raises OSError: see above; EINVAL for a misaligned range or size 0; EOVERFLOW (EINVAL before Linux 7.0) past 2^64-1
        """
        if type(iova) is not int or type(size) is not int or not (0 <= iova < _END and 0 <= size < _END):
            iova, size = _place(iova, size)
        try:
            unmapped = self._ledger.unmap_dma(iova, size)
        except BaseException:
            if self._ledger.unknown:
                error, _, _ = self._unmap_rows(memoryview(array("Q", (iova, size))))
                if error == -errno.ENOENT:
                    self._ledger.drop_at(iova, size)
            raise
        if unmapped is None:
            error, unmapped, _ = self._unmap_rows(memoryview(array("Q", (iova, size))))
            if error:
                raise self._unmap_refused(error, iova, size)
        elif unmapped < 0:
            raise self._unmap_refused(unmapped, iova, size)
        return unmapped

    def unmap_all(self) -> int:
        """Remove every mapping, and return the bytes unmapped.

        :raises OSError: as for :meth:`unmap`
        """
        raise NotImplementedError

    def unmap_many(self, rows: Any) -> int:
        """Unmap every row of an array, in native code, returning bytes.

        :param rows: C-contiguous u64 values, two to a row: IOVA and size in bytes (an array of that shape)
        :raises OSError: as for :meth:`unmap`; the text names the row; the rows before it are unmapped
        """
        rows = _rows(rows, 2)
        return self._unmap_many(rows, self._ledger.matching_array(rows) if len(rows) > 2 else None)

    def _unmap_array(self, array_: MappingArray) -> int:
        """Unmap all of an array of which nothing has been unmapped; see :meth:`unmap_many`."""
        return self._unmap_many(columns(array_.rows), array_ if array_._complete else None)

    def _unmap_many(self, rows: memoryview, known: MappingArray | None) -> int:
        count = len(rows) // 2
        error, unmapped, done = self._unmap_rows(rows, known)
        if error:
            done = min(done, count - 1)  # another thread may have gone on with the same rows
            iova, size = rows[2 * done : 2 * done + 2]
            raise self._unmap_refused(error, iova, size, {"row": f"{done} of {count}"})
        return unmapped

    def _unmap_rows(self, rows: memoryview, known: MappingArray | None = None) -> tuple[int, int, int]:
        """Unmap (iova, size) rows and drop their records: -errno or 0, the bytes, and the rows done.

        :param known: the array of which they are all, if they are
        """
        ledger = self._ledger
        state = array("Q", (0, 0, 0)) if known is None else known._unmade
        unmapped = state[1]
        before = ledger.before()
        ledger.unknown = 0
        error = 0
        try:
            try:
                error = ledger.run(rows, 0, state)
            except BaseException:
                if ledger.unknown:
                    # A callback raised in this row: whatever it did, the row is not mapped after this.
                    ledger.unknown = 0
                    at = 2 * state[0]
                    if ledger.run(rows[: at + 2], 0, state) == -errno.ENOENT:
                        state[1] += rows[at + 1]
                        state[0] += 1
                raise
        finally:
            # Not by a function that does it twice: a handler may raise as that begins.
            try:
                self._drop_rows(rows, state, known, before)
            except BaseException:
                self._drop_rows(rows, state, known, before)
                raise
        return error, state[1] - unmapped, state[0]

    def _drop_rows(self, rows: memoryview, state: array[int], known: MappingArray | None, before: Before) -> None:
        if known is not None:
            if known._objects:  # made meanwhile, for a message for example
                done = 2 * state[0]
                for iova, size in zip(rows[:done:2], rows[1:done:2], strict=True):
                    self._ledger.drop_at(iova, size)
            if state[0] == len(rows) // 2:
                known._forget()
        elif state[1] != state[2]:
            done = 2 * state[0]
            pairs = zip(rows[:done:2], rows[1:done:2], strict=True)
            self._ledger.forget(pairs, state[1] - state[2], before, splits=self._splits)

    def _request_unmap(self, request: Request, native: Any, size: str, gone: tuple[int, int]) -> int:
        """Make a request that unmaps, and drop the records of what it has unmapped: 0 or -errno.

        :param size: the field of its struct that says how much that was
        :param gone: IOVA and size of where
        """
        ledger, state = self._ledger, array("Q", (0,))
        address, asked = int(ffi.cast("uintptr_t", native)), bytes(ffi.buffer(native))
        before = ledger.before()
        ledger.unknown = 0
        error = 0
        try:
            try:
                error = ledger.request(request.number, address, state)
            except BaseException:
                if ledger.unknown:
                    # A callback raised: whatever it did, nothing is mapped there after this.
                    ledger.unknown = 0
                    ffi.buffer(native)[:] = asked
                    ledger.request(request.number, address, state)
                raise
        finally:
            if state[0]:
                try:
                    ledger.forget([gone], getattr(native, size), before, splits=self._splits)
                except BaseException:
                    ledger.forget([gone], getattr(native, size), before, splits=self._splits)
                    raise
        return min(error, 0)

    # What is mapped, as far as this object knows.

    @property
    def mappings(self) -> list[Mapping]:
        """The mappings made through this object and still there, by IOVA."""
        if self.gone:
            return []
        for mappings in list(self._ledger.arrays):
            if mappings._complete:
                mappings[:]
        return self._ledger.present()

    @property
    def mapped_ranges(self) -> IovaSet:
        """The IOVAs of :attr:`mappings`, without an object for each."""
        return IovaSet() if self.gone else self._ledger.ranges()

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
            known = self._wanted(number, iova, size)._replace(address=address, read=read, write=write)
            with suppress(OSError, ValueError):
                known = known._replace(process=calling_process(self._fd.kernel), made=self._ledger.count())
            if number == errno.EFAULT:
                with suppress(OSError, ValueError):
                    known = known._replace(backing=self._fd.kernel.backing(address, size))
            return known

        return arguments, facts

    def _unmap_refused(self, error: int, iova: int, size: int, more: dict[str, object] | None = None) -> Exception:
        """Return the exception for an unmap in C that returned -errno."""
        arguments = (more or {}) | {"iova": iova, "size": size}
        return self._refused(self._unmap_request, error, arguments, partial(self._wanted, iova=iova, size=size))

    def _everything(self, number: int) -> refusals.Wanted:
        """Return the facts about a refused request that was to unmap everything."""
        return self._wanted(number, None, 0)

    def _refused(
        self, request: Request, error: int, arguments: dict[str, object], facts: Callable[[int], refusals.Wanted]
    ) -> Exception:
        if self.closed:
            return Closed(f"{self!r} is closed")
        return request.error(self._fd, -error, arguments, facts)

    def _wanted(self, number: int, iova: int | None, size: int) -> refusals.Wanted:
        """Collect what is known of the address space; what cannot be found out now is left out."""
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

    def _place_by(
        self, request: Request, native: Any, field: str, buffer: Any, held: Any, size: int, prot: int
    ) -> Mapping | int:
        """Make a request that maps and says where: the mapping, or -errno.

        :param field: of its struct, the IOVA
        """
        struct = ffi.typeof(native).item
        ledger, address = self._ledger, int(ffi.cast("uintptr_t", native))
        try:
            return ledger.place(
                Mapping, self, buffer, held, size, prot, request.number, address, ffi.offsetof(struct, field)
            )
        except BaseException:
            if ledger.unknown:
                ledger.unknown = 0
                if iova := getattr(native, field):
                    ledger.raw_unmap(iova, size)
            raise

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
        taken = IovaSet()
        fresh = False
        while True:
            iova = self._place(size, taken)
            try:
                mapping = self._ledger.map_dma(Mapping, self, buffer, held, address, iova, size, prot)
            except BaseException:
                self._after_raise()
                raise
            if not isinstance(mapping, int):
                return mapping
            if mapping == -errno.EINVAL and not fresh:
                # What was usable when the gaps were looked for may not be so any more.
                fresh, self._gap, self._gaps = True, _NO_GAP, []
                continue
            if mapping != -errno.EEXIST or len(taken) >= _PLACES_TRIED:
                raise self._map_refused(mapping, address, iova, size, prot)
            # Another thread mapped that IOVA, or it was mapped without this object.
            taken |= IovaSet([IovaRange.of(iova, size)])

    def _place(self, size: int, taken: IovaSet) -> int:
        """A free and usable IOVA; from the gap that is being filled, else from a new one."""
        sizes = self.page_sizes
        alignment = max(sizes & -sizes, PAGE_SIZE)
        for large in (1 << 21, 1 << 30):
            # As far as the IOMMU can use a large page there, let it.
            if size >= large and sizes & large:
                alignment = large
        gap, waiting = self._gap, self._gaps
        free: IovaSet | None = None
        while (iova := -(-gap.start // alignment) * alignment) + size - 1 > gap.last or taken.overlaps(
            IovaRange.of(iova, size)
        ):
            try:
                gap = waiting.pop()
                continue
            except IndexError:
                pass  # no gap is left, perhaps since another thread took it
            if free is not None:
                raise InvalidRequest(
                    errno.ENOSPC,
                    f"there is no free IOVA range of {bytes_(size)} aligned to {bytes_(alignment)}; free: {shown(free)}",
                )
            usable = self.iova_ranges
            free = (_PLACES if usable is None else usable & _PLACES) - self.mapped_ranges - taken
            # Looked for once, and given out one after the other: what others map there meanwhile the kernel refuses.
            waiting = self._gaps = list(free)[::-1]
            gap = _NO_GAP
        # The next one starts behind this one.
        self._gap = IovaRange(min(iova + size, gap.last), gap.last)
        return iova


def _place(iova: object, size: object) -> tuple[int, int]:
    """Return the first IOVA and the size that the arguments of an unmap mean."""
    if size is not None:
        return u64(iova, "iova"), u64(size, "size")
    if hasattr(iova, "__index__"):
        raise TypeError("size is missing: unmap(iova, size), unmap(mapping) or unmap(range)")
    range_ = as_range(iova, "iova")  # type: ignore[arg-type]  # it refuses anything else
    return range_.start, range_.size


def _prot(read: object, write: object) -> int:
    read, write = boolean(read, "read"), boolean(write, "write")
    if not (read or write):
        raise InvalidRequest("read=False, write=False: a mapping must allow the devices to read or to write")
    return read + 2 * write


def _rows(source: Any, columns: int) -> memoryview:
    """A private copy of the caller's u64 values (they are needed for as long as the mappings live)."""
    try:
        view = memoryview(source)
    except TypeError:
        raise wrong_type(source, "rows", f"an array of u64 values, {columns} to a row") from None
    if view.format not in ("Q", "L", "N") or view.itemsize != 8 or not view.c_contiguous:
        raise TypeError(f"rows must be C-contiguous u64 values, not values of format {view.format!r}")
    if view.nbytes % (8 * columns) or (view.ndim > 1 and view.shape is not None and view.shape[-1] != columns):
        raise ValueError(f"rows must have {columns} values each; the shape is {view.shape}")
    return memoryview(view.tobytes()).cast("Q")
