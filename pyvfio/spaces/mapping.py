# SPDX-License-Identifier: MIT
"""DMA mappings, and the requests that make and remove them.

These requests are made in C, by `pyvfio._buffer.Ledger` (cdefs/map_dma.c): MAP_DMA and UNMAP_DMA for a type1 container, IOAS_MAP and
IOAS_UNMAP for an IOAS. :meth:`AddressSpace.map` and :meth:`~AddressSpace.unmap` call it; the declarations here name the requests and
explain their errnos. The requests with other flags, and similar ones such as IOMMU_IOAS_MAP_FILE, are made by the methods that offer them.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from pyvfio._abi import ffi, lib
from pyvfio._buffer import Record
from pyvfio._core.request import Request, flag_words
from pyvfio.iommufd.object import IOMMUFD
from pyvfio.iova import IovaRange
from pyvfio.spaces import refusals
from pyvfio.uncopyable import Uncopyable

if TYPE_CHECKING:
    from pyvfio.spaces.base import AddressSpace

__all__ = ["Mapping", "MappingArray"]

MAP_ERRNOS = (errno.EINVAL, errno.EEXIST, errno.ENOMEM, errno.ENOSPC, errno.EFAULT, errno.EOVERFLOW)
MAP_DMA = Request(
    "VFIO_IOMMU_MAP_DMA",
    "container",
    "struct vfio_iommu_type1_dma_map",
    errnos=dict.fromkeys(MAP_ERRNOS, refusals.why_map),
    default=refusals.why_map,
    tell=lambda native: "VADDR" if native.flags & lib.VFIO_DMA_MAP_FLAG_VADDR else "",
)
MAP_DMA_VADDR = MAP_DMA.operation(
    "VADDR", errnos={errno.EINVAL: refusals.why_set_address}, otherwise={errno.ENOENT: refusals.why_set_address}
)

_UNMAP_FLAGS = {
    lib.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: "GET_DIRTY_BITMAP",
    lib.VFIO_DMA_UNMAP_FLAG_ALL: "ALL",
    lib.VFIO_DMA_UNMAP_FLAG_VADDR: "VADDR",
}


UNMAP_DMA = Request(
    "VFIO_IOMMU_UNMAP_DMA",
    "container",
    "struct vfio_iommu_type1_dma_unmap",
    errnos=dict.fromkeys((errno.EINVAL, errno.ENOENT, errno.EOVERFLOW), refusals.why_unmap),
    default=refusals.why_unmap,
    tell=flag_words(_UNMAP_FLAGS),
)
UNMAP_DMA_ALL = UNMAP_DMA.operation("ALL")
UNMAP_DMA_VADDR = UNMAP_DMA.operation(
    "VADDR", errnos={errno.EBUSY: "an emulated device is attached, which needs the addresses"}
)
UNMAP_DMA_ALL_VADDR = UNMAP_DMA.operation("ALL VADDR", documented=False)
UNMAP_DMA_DIRTY = UNMAP_DMA.operation("GET_DIRTY_BITMAP")
IOAS_MAP = Request(
    "IOMMU_IOAS_MAP",
    "iommufd",
    "struct iommu_ioas_map",
    errnos=dict.fromkeys(MAP_ERRNOS, refusals.why_map),
    otherwise=IOMMUFD,
)
IOAS_UNMAP = Request(
    "IOMMU_IOAS_UNMAP",
    "iommufd",
    "struct iommu_ioas_unmap",
    errnos={
        errno.ENOENT: refusals.why_unmap,
        errno.EOVERFLOW: refusals.why_unmap,
        errno.EBUSY: "something in the kernel still uses the pages",
    },
    otherwise={**IOMMUFD, errno.EINVAL: refusals.why_unmap},
)

#: the states of a record: its request is in progress; it is mapped; it is not mapped
PENDING, PRESENT, GONE = range(3)


class Mapping(Record, Uncopyable):
    """Memory that is mapped at an IOVA of an address space. It keeps the memory alive; the end of a `with` unmaps it.

    :ivar iova: the IOVA at which devices access the memory
    :ivar size: bytes
    :ivar buffer: the buffer that was mapped
    """

    __slots__ = ()

    _stands_for = "a mapping in an IOMMU"

    @property
    def range(self) -> IovaRange:
        """The IOVAs from first to last."""
        return IovaRange(self.iova, self.iova + self.size - 1)

    @property
    def mapped(self) -> bool:
        """Whether the mapping has not been unmapped yet."""
        return self._state == PRESENT and not self.space.gone

    def unmap(self) -> int:
        """Unmap the mapping, and return the bytes unmapped: 0 if it was unmapped before, even if the IOVA is mapped again now."""
        if self._state != PRESENT:
            return 0
        return int(self.space.unmap(self.iova, self.size))

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


class MappingArray(Sequence[Mapping]):
    """The mappings that one `map_many` made: one array, and Mapping objects only when they are asked for."""

    def __init__(self, space: AddressSpace, rows: memoryview, held: Any) -> None:
        self.space = space
        #: u64 values, three to a row: address, IOVA and size of each mapping, as they were made
        self.rows = rows
        self._held = held
        #: counters that _buffer.Ledger.run() keeps, while it maps the rows and while it unmaps them again: rows done, bytes unmapped,
        #: and how many of these bytes were records that it dropped
        self._made = array("Q", (0, 0, 0))
        self._unmade = array("Q", (0, 0, 0))
        #: whether all rows have been mapped
        self._complete = False
        #: whether another thread has unmapped something meanwhile, possibly some of the rows
        self._disturbed = False
        self._serial = 0
        # IOVA -> row, for the rows that are still mapped and have no Mapping object; None as long as that is every row.
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
            ledger = self.space._ledger
            # The record exists already if an earlier call was interrupted between these steps.
            mapping = ledger.find(iova, size, self)
            if mapping is None:
                live = self._rows_left().get(iova) == index
                mapping = ledger.add(Mapping, self.space, None, self, self.rows[3 * index], iova, size, 3)
                if not live:
                    ledger.settle(mapping, False)
            self._objects[index] = mapping
            self._take(iova, size)
        return mapping

    def unmap(self) -> int:
        """Unmap the rows that are still mapped, and return the bytes unmapped."""
        if self._index is None:
            return self.space._unmap_array(self) if self in self.space._ledger.arrays else 0
        unmapped = sum(mapping.unmap() for mapping in self._objects.values())
        live = array("Q")
        for row in list(self._rows_left().values()):
            live.extend(self.rows[3 * row + 1 : 3 * row + 3])
        return unmapped + (self.space.unmap_many(live) if live else 0)

    def _rows_left(self) -> dict[int, int]:
        """Return IOVA -> row for the rows that are mapped and have no Mapping object."""
        if self._index is None:
            first, behind = self._unmade[0], self._made[0]
            index = {self.rows[3 * row + 1]: row for row in range(first, behind)}
            if self._complete and not first:
                self._index = index
            return index
        return self._index

    def _take(self, iova: int, size: int) -> bool:
        """Take the row with exactly this IOVA and size out of the index; return whether it was there."""
        left = self._index = self._rows_left()
        row = left.get(iova)
        if row is None or self.rows[3 * row + 2] != size:
            return False
        left.pop(iova, None)
        if not left:
            self.space._ledger.drop_array(self)
        return True

    def _forget(self) -> None:
        self._index = {}
        self.space._ledger.drop_array(self)

    @cached_property
    def hull(self) -> tuple[int, int]:
        """The smallest interval of IOVAs that holds every row: the first IOVA, and the one behind the last."""
        hull = ffi.new("uint64_t[2]")
        lib.pyvfio_hull(_native(self.rows), len(self), hull)
        return hull[0], hull[1] + 1

    def is_at(self, places: memoryview) -> bool:
        """Whether (iova, size) rows are those of this array, in its order.

        :param places: u64, two to a row
        """
        count = len(self)
        return len(places) == 2 * count and bool(lib.pyvfio_same_places(_native(self.rows), _native(places), count))

    def __repr__(self) -> str:
        return f"<MappingArray of {len(self)}>"


def _native(rows: memoryview) -> Any:
    """Return rows as a C array. It refers to the array object itself, not to a memoryview: see memory.address_of."""
    return ffi.from_buffer("uint64_t[]", rows.obj)


def columns(rows: memoryview) -> memoryview:
    """Return the (iova, size) rows of (address, iova, size) rows."""
    result = array("Q", bytes(len(rows) // 3 * 16))
    view = memoryview(result)
    view[::2] = rows[1::3]
    view[1::2] = rows[2::3]
    return view
