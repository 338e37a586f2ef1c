# SPDX-License-Identifier: MIT
"""DMA of the devices in a type1 container."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.memlock import check_pinnable
from pyvfio.mock.vfio.space import Space
from pyvfio.mock.vfio.type1.mapping import READ, WRITE, Type1Mapping

if TYPE_CHECKING:
    from pyvfio.mock.vfio.type1.iommu import Type1


def _writable(iommu: Type1) -> Iterator[tuple[int, int]]:
    return ((mapping.iova, mapping.last) for mapping in iommu.mappings if mapping.prot & WRITE)


class EmulatedSpace(Space):
    """The space of an emulated device: the kernel copies for it, and so marks the pages that it writes as dirty."""

    def __init__(self, iommu: Type1) -> None:
        self._iommu = iommu

    def _mapping(self, iova: int, prot: int) -> Type1Mapping:
        mapping = self._iommu.mappings.at(iova)
        if mapping is None:
            raise Errno(errno.EINVAL)
        if mapping.prot & prot != prot:
            raise Errno(errno.EPERM)
        return mapping

    def writable(self) -> Iterator[tuple[int, int]]:
        return _writable(self._iommu)

    def read(self, iova: int, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            mapping = self._mapping(iova, READ)
            count = min(size - len(data), mapping.last - iova + 1)
            data += caller.read(mapping.address + iova - mapping.iova, count)
            iova += count
        return bytes(data)

    def write(self, iova: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            # vfio_iommu_type1_dma_rw_chunk requires read access for writes too.
            mapping = self._mapping(iova, READ | WRITE)
            count = min(len(data) - done, mapping.last - iova + 1)
            offset = iova - mapping.iova
            caller.write(mapping.address + offset, data[done : done + count])
            if mapping.dirty is not None:
                mapping.dirty.mark(offset // self._iommu.granule, (offset + count - 1) // self._iommu.granule)
            iova, done = iova + count, done + count

    def pin(self, iova: int, *, write: bool) -> int:
        iommu = self._iommu
        if not iommu.v2:
            raise Errno(errno.EACCES)
        mapping = self._mapping(iova, READ | WRITE if write else READ)
        offset = iova - mapping.iova
        if mapping.pins is None:
            mapping.pins = {}
        if iova not in mapping.pins:
            check_pinnable(mapping.address + offset, iommu.page, write=bool(mapping.prot & WRITE))
            if not mapping.pinned:
                iommu.locked.charge(1, limited=mapping.limited)
            if mapping.dirty is not None:
                mapping.dirty.mark(offset // iommu.granule, offset // iommu.granule)
        mapping.pins[iova] = mapping.pins.get(iova, 0) + 1
        return mapping.address + offset

    def unpin(self, iova: int) -> None:
        mapping = self._iommu.mappings.at(iova)
        if mapping is None or not mapping.pins or iova not in mapping.pins:
            return
        mapping.pins[iova] -= 1
        if not mapping.pins[iova]:
            del mapping.pins[iova]
            if not mapping.pinned:
                self._iommu.locked.release(1)


class DomainSpace(Space):
    """The space of a device behind the IOMMU, limited by the page table alone."""

    def __init__(self, iommu: Type1) -> None:
        self._iommu = iommu

    def _parts(self, iova: int, size: int, prot: int) -> list[tuple[int, int]]:
        """Return address and size of each piece of memory that a range of IOVAs maps to.

        :raises Errno: EINVAL, EPERM: the IOMMU faults there
        """
        parts = []
        while size:
            mapping = self._iommu.mappings.at(iova)
            if mapping is None:
                raise Errno(errno.EINVAL)
            if not mapping.prot & prot:
                raise Errno(errno.EPERM)
            count = min(size, mapping.last - iova + 1)
            parts.append((mapping.address + iova - mapping.iova, count))
            iova, size = iova + count, size - count
        return parts

    def writable(self) -> Iterator[tuple[int, int]]:
        return _writable(self._iommu)

    def read(self, iova: int, size: int) -> bytes:
        return b"".join(bytes(caller.read(address, count)) for address, count in self._parts(iova, size, READ))

    def write(self, iova: int, data: bytes) -> None:
        done = 0
        for address, count in self._parts(iova, len(data), WRITE):
            caller.write(address, data[done : done + count])
            done += count
