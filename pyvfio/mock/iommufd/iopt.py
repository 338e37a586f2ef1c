# SPDX-License-Identifier: MIT
"""The mappings and reserved IOVAs of an IOAS (struct io_pagetable)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from pyvfio.mock.iommufd.area import LAST, WRITE, Area
from pyvfio.mock.iommufd.pages import Pages
from pyvfio.mock.iommufd.places import Places, holes
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.mappings import Mappings

if TYPE_CHECKING:
    from pyvfio.mock.machine.profile import Profile

#: a slice of pages: the pages, the offset in them, the size
Slice = tuple[Pages, int, int]


class Access(Protocol):
    """An in-kernel user of the mappings, without an IOMMU (struct iommufd_access), as this module sees it."""

    @property
    def alignment(self) -> int: ...

    def unmapped(self, iova: int, size: int) -> None:
        """Unpin all pages of a range that is being unmapped."""


class Domain(Protocol):
    """A page table of an IOMMU, as this module sees it."""

    @property
    def page_sizes(self) -> int: ...

    @property
    def aperture(self) -> tuple[int, int]: ...

    def check(self, area: Area) -> None:
        """Check that the IOMMU can map an area.

        :raises Errno: it cannot
        """

    def unmapped(self, area: Area) -> None:
        """Discard the state of a mapping that has been unmapped."""


class IoPageTable:
    """The mappings of an IOAS. Every page table of an IOMMU that is created from the IOAS maps all of them.

    :ivar areas: the mappings, by IOVA
    :ivar alignment: required alignment of IOVAs, sizes and memory
    :ivar huge_pages: IOMMU_OPTION_HUGE_PAGES; if it is off, mappings can be split while an IOMMU maps them
    """

    def __init__(self, profile: Profile) -> None:
        self._page_size = profile.page_size
        self.areas: Mappings[Area] = Mappings()
        self.alignment = 1
        self.huge_pages = True
        self.domains: list[Domain] = []
        self.accesses: list[Access] = []
        self._reserved: list[tuple[int, int, object]] = []
        self._allowed: list[tuple[int, int]] = []
        self._places = Places(self.areas, profile.page_size)
        self._limit()

    # Usable IOVAs.

    def reserve(self, start: int, last: int, owner: object) -> None:
        """Exclude a range from mappings.

        :param owner: the object to pass to :meth:`unreserve`
        :raises Errno: EADDRINUSE, it overlaps a mapping, or a range of IOMMU_IOAS_ALLOW_IOVAS
        """
        if self.areas.first(start, last) is not None or any(a <= last and start <= b for a, b in self._allowed):
            raise Errno(errno.EADDRINUSE)
        self._reserved.append((start, last, owner))
        self._limit()

    def unreserve(self, owner: object) -> None:
        self._reserved = [entry for entry in self._reserved if entry[2] is not owner]
        self._limit()

    def usable(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges between the reserved regions."""
        return holes(self._reserved_spans(), 0, LAST)

    def allow(self, ranges: list[tuple[int, int]]) -> None:
        """Set the ranges of IOMMU_IOAS_ALLOW_IOVAS.

        :raises Errno: EADDRINUSE, a range overlaps a reserved region
        """
        if any(a <= last and start <= b for a, b, _ in self._reserved for start, last in ranges):
            raise Errno(errno.EADDRINUSE)
        self._allowed = sorted(ranges)
        self._limit()

    def _limit(self) -> None:
        self._places.limit(self._reserved_spans(), self._allowed)

    def _reserved_spans(self) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for start, last, _ in sorted(self._reserved, key=lambda entry: entry[:2]):
            if spans and start <= spans[-1][1] + 1:
                spans[-1] = spans[-1][0], max(last, spans[-1][1])
            else:
                spans.append((start, last))
        return spans

    # Mapping.

    def map(self, slices: list[Slice], size: int, iova: int | None, prot: int) -> int:
        """Map slices of pages at consecutive IOVAs.

        :param iova: the first IOVA; None: choose one
        :returns: the first IOVA
        :raises Errno: EINVAL, EOVERFLOW, EEXIST, ENOSPC, EPERM; or that of pinning the pages
        """
        if not size or size & self.alignment - 1:
            raise Errno(errno.EINVAL)
        if iova is None:
            pages, start, _ = slices[0]
            iova = self._places.find(pages.address + start, size, self.alignment)
        else:
            self._check_free(iova, size)
        areas = []
        at = iova
        for pages, start, length in slices:
            if prot & WRITE and not pages.writable:
                raise Errno(errno.EPERM)
            if start % self._page_size & self.alignment - 1:
                raise Errno(errno.EINVAL)
            areas.append(Area(at, at + length - 1, pages, start, prot))
            at += length
        if self.domains:
            _pin(areas, self.domains)
        for area in areas:
            self.areas.insert(area)
        return iova

    def _check_free(self, iova: int, size: int) -> None:
        if iova & self.alignment - 1:
            raise Errno(errno.EINVAL)
        last = iova + size - 1
        if last > LAST:
            raise Errno(errno.EOVERFLOW)
        for start, end, _ in self._reserved:
            if start <= last and iova <= end:
                raise Errno(errno.EINVAL)
        if self.areas.first(iova, last) is not None:
            raise Errno(errno.EEXIST)

    # Unmapping.

    def unmap(self, start: int, last: int) -> tuple[int, int]:
        """Unmap all mappings of a range (iopt_unmap_iova_range).

        :returns: the bytes unmapped, and an errno, or 0. On an error the mappings before the failing one have been
            unmapped
        """
        done = tries = 0
        while (area := self.areas.first(start, last)) is not None:
            if area.locks:
                return done, errno.EBUSY
            if area.iova < start or area.last > last:
                return done, errno.ENOENT
            if area.iova != start:
                tries = 0
            if area.accesses:
                start = area.iova
                area.closing = True
                for access in list(self.accesses):
                    access.unmapped(area.iova, area.size)
                tries += 1
                if tries > 100:
                    return done, errno.EDEADLK
                continue
            self.areas.remove(area)
            if self.domains:
                area.unpin()
            for domain in self.domains:
                domain.unmapped(area)
            done += area.size
            self._places.freed(area)
            if area.last >= last:
                break
            start = area.last + 1
        return done, 0

    def cut(self, iovas: list[int]) -> None:
        """Split mappings so that each of `iovas` is the last IOVA of a mapping (iopt_cut_iova).

        :raises Errno: EINVAL, EBUSY, EOPNOTSUPP: the mapping cannot be split there
        """
        for iova in iovas:
            area = self.areas.at(iova)
            if area is None or iova in (area.iova, area.last):
                continue
            start = iova + 1
            if area.closing:
                raise Errno(errno.EBUSY)
            if area.pages.is_dma_buf:
                raise Errno(errno.EOPNOTSUPP)
            if (start | area.offset(start)) & self.alignment - 1 or area.accesses or (self.domains and self.huge_pages):
                raise Errno(errno.EINVAL)
            self.areas.remove(area)
            if self.domains:
                area.unpin()
            halves = [
                Area(area.iova, iova, area.pages, area.at, area.prot),
                Area(start, area.last, area.pages, area.offset(start), area.prot),
            ]
            for half in halves:
                if self.domains:
                    half.pages.pin(half.at, half.offset(half.last))
                self.areas.insert(half)

    # Lookup.

    def contiguous(self, start: int, last: int) -> Iterator[tuple[Area, int, int]]:
        """Yield the contiguous mappings from `start` on, each with its part of the range; stop at the first gap."""
        while start <= last:
            area = self.areas.at(start)
            if area is None:
                return
            end = min(area.last, last)
            yield area, start, end
            start = end + 1

    def slices(self, start: int, size: int) -> list[Slice]:
        """Return the slices of pages that are mapped in a range.

        :raises Errno: EINVAL, EOVERFLOW; ENOENT, the range is not fully mapped
        """
        if not size:
            raise Errno(errno.EINVAL)
        last = start + size - 1
        if last > LAST:
            raise Errno(errno.EOVERFLOW)
        found = [(area.pages, area.offset(a), b - a + 1) for area, a, b in self.contiguous(start, last)]
        if sum(length for _, _, length in found) != size:
            raise Errno(errno.ENOENT)
        return found

    # Page tables of IOMMUs, and in-kernel users.

    def add_domain(self, domain: Domain) -> None:
        """Map everything in a page table of an IOMMU; from now on its alignment and aperture limit the mappings.

        :raises Errno: EINVAL, EADDRINUSE: a mapping does not fit; or that of pinning
        """
        alignment = max(domain.page_sizes & -domain.page_sizes, self.alignment)
        if alignment > self._page_size:
            raise Errno(errno.EINVAL)
        if alignment != self.alignment:
            self._check_alignment(alignment)
        first, last = domain.aperture
        try:
            if first:
                self.reserve(0, first - 1, domain)
            if last != LAST:
                self.reserve(last + 1, LAST, domain)
            if not self.domains:
                _pin(list(self.areas), [domain])
        except Errno:
            self.unreserve(domain)
            raise
        self.alignment = alignment
        self.domains.append(domain)

    def remove_domain(self, domain: Domain) -> None:
        self.domains.remove(domain)
        if not self.domains:
            for area in self.areas:
                area.unpin()
        self.unreserve(domain)
        self._align()

    def add_access(self, access: Access) -> None:
        """Add an in-kernel user, whose alignment limits the mappings.

        :raises Errno: EADDRINUSE, a mapping is not aligned to it
        """
        self.accesses.append(access)
        try:
            self._align()
        except Errno:
            self.accesses.remove(access)
            raise

    def remove_access(self, access: Access) -> None:
        self.accesses.remove(access)
        self._align()

    def use_huge_pages(self, on: bool) -> None:
        """Set IOMMU_OPTION_HUGE_PAGES.

        :raises Errno: EINVAL, an IOMMU has mappings already; EADDRINUSE, a mapping does not consist of whole pages
        """
        if on:
            self.huge_pages = True
            self._align()
        elif self.huge_pages:
            if self.domains and len(self.areas):
                raise Errno(errno.EINVAL)
            self.huge_pages = False
            try:
                self._align()
            except Errno:
                self.huge_pages = True
                raise

    def _align(self) -> None:
        alignment = max(
            1 if self.huge_pages else self._page_size,
            *(domain.page_sizes & -domain.page_sizes for domain in self.domains),
            *(access.alignment for access in self.accesses),
            1,
        )
        if alignment > self.alignment:
            self._check_alignment(alignment)
        self.alignment = alignment

    def _check_alignment(self, alignment: int) -> None:
        for area in self.areas:
            if (area.iova | area.size | area.at % self._page_size) & alignment - 1:
                raise Errno(errno.EADDRINUSE)


def _pin(areas: list[Area], domains: list[Domain]) -> None:
    done = []
    try:
        for area in areas:
            area.pin()
            done.append(area)
            for domain in domains:
                domain.check(area)
    except Errno:
        for area in done:
            area.unpin()
        raise
