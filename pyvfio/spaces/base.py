# SPDX-License-Identifier: MIT
"""Address spaces: the base of containers and Ioas objects, which devices are attached to.

An IOVA belongs to a :class:`Mapping`, not to a buffer: one buffer can be mapped twice. The library records mappings only to keep
their memory alive while devices can access it; the kernel decides what is mapped.
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

#: one more than the last IOVA
_END = 2**64
#: the most IOVAs that automatic placement tries when EEXIST shows that each is mapped already, by another thread or outside pyvfio
_PLACES_TRIED = 1000
#: errors of an unmap after which iommufd may have unmapped some of several mappings
_STOPS_BETWEEN = (-errno.ENOENT, -errno.EBUSY, -errno.EDEADLK)
#: Automatic placement leaves 64 KiB free at the bottom, so that a device that follows a null pointer faults.
_PLACES = IovaSet([IovaRange(1 << 16, 2**64 - 1)])
#: a gap that no mapping fits in
_NO_GAP = IovaRange(0, 0)


class AddressSpace(OtherModes, Resource):
    """Base of :class:`pyvfio.Container` and :class:`pyvfio.Ioas`.

    Several threads may map and unmap at the same time, if each works on its own IOVAs.
    """

    #: one of `type1`, `type1v2`, `iommufd-type1`, `iommufd-type1v2`, `iommufd`
    mode: str
    #: whether an unmap of a part of a mapping splits it
    _splits = False

    _fd: Fd

    def _prepare(self, ioas: int) -> None:
        """Make an empty ledger; `ioas` is the object id of an IOAS, 0 for a type1 container."""
        self._ledger = Ledger(self._fd.door, ioas)
        #: the gap that automatic placement fills, and the gaps above it, the next one last
        self._gap = _NO_GAP
        self._gaps: list[IovaRange] = []

    @property
    def gone(self) -> bool:
        """Whether nothing is mapped any more, since the descriptor is closed: by this process, or because this is a forked child. Not
        part of the API.
        """
        return self._fd.closed

    # Container and Ioas override these.

    def attach(self, where: str, *, vf_token: UUID | str | bytes | None = None, no_iommu: bool = False) -> Device:
        """Open a device and attach it to this address space.

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
        :param iova: the IOVA at which devices access the memory; None for a free and usable IOVA, aligned so that the IOMMU can use large pages
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
            # Hold the RegionMapping, not its view: with an exported view, closing the device would raise BufferError.
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
        """After an exception in a map request: if the outcome of the request is unknown, unmap what it may have mapped."""
        if self._ledger.unknown:
            self._ledger.settle_unknown()

    def alloc(self, size: int, iova: int | None = None, *, huge: int | None = None) -> Mapping:
        """Map new zeroed memory; see :meth:`map` and :class:`DmaBuffer`.

        :param size: bytes, rounded up to whole pages
        :param iova: the IOVA at which devices access the memory; None for a free and usable IOVA
        :param huge: bytes of a huge page, 2 MiB or 1 GiB; None for pages of the usual size
        """
        if iova is not None:
            iova = u64(iova, "iova")
        return self.map(DmaBuffer(size, huge=huge, kernel=self._fd.kernel), iova)

    def map_many(self, rows: Any, *, keep: Any = None, read: bool = True, write: bool = True) -> MappingArray:
        """Map every row of an array, in native code; all or none.

        :param rows: C-contiguous u64 values, three to a row: virtual address, IOVA, size in bytes, the order of
            `struct vfio_iommu_type1_dma_map` (a numpy array of shape (n, 3), an `array.array("Q")`, ...)
        :param keep: the object that owns the memory; kept alive as long as one of the mappings exists
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
                # Another thread has unmapped something meanwhile, possibly some of these rows: unmap the rows and start again.
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
        """Unmap the rows that an array has mapped, and drop the array. After an interrupt it can be called again."""
        ledger, made = self._ledger, mappings._made
        if ledger.unknown:
            # A PythonKernel raised for this row, so whether the row is mapped is unknown: unmap it, unless it cannot have been mapped,
            # because something else is mapped there.
            ledger.unknown = 0
            _, iova, size = mappings.rows[3 * made[0] : 3 * made[0] + 3]
            if size and not ledger.ranges().overlaps(IovaRange.of(iova, size)):
                ledger.raw_unmap(iova, size)
        self._undo_rows(mappings)
        ledger.drop_array(mappings)

    def _undo_rows(self, mappings: MappingArray) -> None:
        """Unmap the rows that an array has mapped so far, and set its counters to 0, so that mapping starts at the first row."""
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
        """Unmap all rows of an array, none of which has been unmapped; see :meth:`unmap_many`."""
        return self._unmap_many(columns(array_.rows), array_ if array_._complete else None)

    def _unmap_many(self, rows: memoryview, known: MappingArray | None) -> int:
        count = len(rows) // 2
        error, unmapped, done = self._unmap_rows(rows, known)
        if error:
            done = min(done, count - 1)  # another thread may have unmapped the rest of the same rows
            iova, size = rows[2 * done : 2 * done + 2]
            raise self._unmap_refused(error, iova, size, {"row": f"{done} of {count}"})
        return unmapped

    def _unmap_rows(self, rows: memoryview, known: MappingArray | None = None) -> tuple[int, int, int]:
        """Unmap (iova, size) rows and drop their records. Return 0 or -errno, the bytes unmapped, and the rows done.

        :param known: the array that has exactly these rows; None if there is none
        """
        ledger = self._ledger
        state = array("Q", (0, 0, 0)) if known is None else known._unmade
        unmapped = state[1]
        before = ledger.before()
        ledger.unknown = 0
        error = 0
        again: tuple[int, int] | None = None
        try:
            try:
                error = ledger.run(rows, 0, state)
            except BaseException:
                if ledger.unknown:
                    # A PythonKernel raised for this row, so whether the row was unmapped is unknown: unmap it again.
                    ledger.unknown = 0
                    at = 2 * state[0]
                    again = rows[at], rows[at + 1]
                    error = ledger.run(rows[: at + 2], 0, state)
                    if error == -errno.ENOENT and known is not None:
                        error = 0
                        state[1] += rows[at + 1]
                        state[0] += 1
                raise
        finally:
            # The second call is written out here: in a helper that retries, a signal handler could raise before the first call.
            try:
                self._drop_rows(rows, state, known, before)
            except BaseException:
                self._drop_rows(rows, state, known, before)
                raise
            # Another thread that unmaps the same array may have finished it meanwhile.
            if error in _STOPS_BETWEEN and 2 * state[0] < len(rows):
                ledger.forget_unmapped(*rows[2 * state[0] : 2 * state[0] + 2], one_too=again is not None)
            elif again is not None and known is None and not error:
                ledger.forget([again], 0, before, splits=self._splits)
        return error, state[1] - unmapped, state[0]

    def _drop_rows(self, rows: memoryview, state: array[int], known: MappingArray | None, before: Before) -> None:
        if known is not None:
            if known._objects:  # Mapping objects were made meanwhile, for example for a message
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
        """Make a request that unmaps, and drop the records of the mappings that it unmapped. Return 0 or -errno.

        :param size: the field of the request's struct where the kernel writes the bytes unmapped
        :param gone: IOVA and size of the range
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
                    # A PythonKernel raised, so the outcome is unknown: make the request again.
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

    # The mappings that were made through this object.

    @property
    def mappings(self) -> list[Mapping]:
        """The mappings that were made through this object and not unmapped, sorted by IOVA."""
        if self.gone:
            return []
        for mappings in list(self._ledger.arrays):
            if mappings._complete:
                mappings[:]
        return self._ledger.present()

    @property
    def mapped_ranges(self) -> IovaSet:
        """The IOVAs of :attr:`mappings`; no Mapping objects are made."""
        return IovaSet() if self.gone else self._ledger.ranges()

    # Exceptions for refused requests.

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
        :param more: further arguments for the message
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
        """Collect the facts about a refused request. Facts that cannot be found out are left empty."""
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
        """Make a map request whose struct holds the IOVA afterwards. Return the mapping, or -errno.

        :param field: the field of the struct with the IOVA
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

    # Devices and dirty tracking.

    @property
    def devices(self) -> list[Device]:
        """The open devices that are attached to the address space."""
        raise NotImplementedError

    def track_dirty(self, ranges: Iterable[IovaRange]) -> DirtyTracker:
        """Track which pages of these ranges the devices write.

        If every device has a dirty log, the devices' logs are used; else the IOMMU, if it can track; else every page is reported as
        dirty. :attr:`DirtyTracker.source` says which of them was chosen.

        :param ranges: whole pages
        :raises InvalidRequest: no ranges, ranges that are not aligned, no devices
        :raises OSError: a device or the IOMMU refuses to start; nothing is tried in its place
        """
        return track(self, ranges)

    def _track_by_iommu(self, ranges: Iterable[IovaRange], devices: list[Device]) -> DirtyTracker | None:
        """Return a tracker that uses the IOMMU; None if the IOMMU cannot track."""
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
                # The usable ranges may have shrunk since the gaps were computed: compute them again, once.
                fresh, self._gap, self._gaps = True, _NO_GAP, []
                continue
            if mapping != -errno.EEXIST or len(taken) >= _PLACES_TRIED:
                raise self._map_refused(mapping, address, iova, size, prot)
            # Another thread mapped that IOVA, or it was mapped without this object.
            taken |= IovaSet([IovaRange.of(iova, size)])

    def _place(self, size: int, taken: IovaSet) -> int:
        """Return a free and usable IOVA: from the gap that is being filled, else from the next one."""
        sizes = self.page_sizes
        alignment = max(sizes & -sizes, PAGE_SIZE)
        for large in (1 << 21, 1 << 30):
            # Align the IOVA so that the IOMMU can use large pages.
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
            # The gaps are computed once, and filled one after the other. If something else is mapped in one meanwhile, map() gets
            # EEXIST and tries the next place.
            waiting = self._gaps = list(free)[::-1]
            gap = _NO_GAP
        # The next mapping starts behind this one.
        self._gap = IovaRange(min(iova + size, gap.last), gap.last)
        return iova


def _place(iova: object, size: object) -> tuple[int, int]:
    """Return the first IOVA and the size that the arguments of an unmap mean."""
    if size is not None:
        return u64(iova, "iova"), u64(size, "size")
    if hasattr(iova, "__index__"):
        raise TypeError("size is missing: unmap(iova, size), unmap(mapping) or unmap(range)")
    range_ = as_range(iova, "iova")  # type: ignore[arg-type]  # as_range refuses other types
    return range_.start, range_.size


def _prot(read: object, write: object) -> int:
    read, write = boolean(read, "read"), boolean(write, "write")
    if not (read or write):
        raise InvalidRequest("read=False, write=False: a mapping must allow the devices to read or to write")
    return read + 2 * write


def _rows(source: Any, columns: int) -> memoryview:
    """Return a private copy of the caller's u64 values, which are needed as long as the mappings live."""
    try:
        view = memoryview(source)
    except TypeError:
        raise wrong_type(source, "rows", f"an array of u64 values, {columns} to a row") from None
    if view.format not in ("Q", "L", "N") or view.itemsize != 8 or not view.c_contiguous:
        raise TypeError(f"rows must be C-contiguous u64 values, not values of format {view.format!r}")
    if view.nbytes % (8 * columns) or (view.ndim > 1 and view.shape is not None and view.shape[-1] != columns):
        raise ValueError(f"rows must have {columns} values each; the shape is {view.shape}")
    return memoryview(view.tobytes()).cast("Q")
