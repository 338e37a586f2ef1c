# SPDX-License-Identifier: MIT
"""The reasons why the kernel refuses a map or an unmap, computed from plain values about the address space."""

from __future__ import annotations

import errno
from typing import NamedTuple

from pyvfio._core.request import Reason
from pyvfio._core.text import ranges, size, span
from pyvfio.guest import mapping
from pyvfio.host import diagnosis
from pyvfio.host.caller import Caller
from pyvfio.iova import IovaRange, IovaSet
from pyvfio.process_memory import Backing

_LAST = 2**64 - 1
#: The holes that IOMMUs are known to leave. The x86 ones are fixed by the architecture.
HOLES = (
    (IovaRange(0xFD_0000_0000, 0xFF_FFFF_FFFF), "the AMD HyperTransport hole just below 1 TiB"),
    (IovaRange(0xFEE0_0000, 0xFEEF_FFFF), "the x86 interrupt window (MSI)"),
    (IovaRange(0x0800_0000, 0x080F_FFFF), "the Arm software MSI window"),
)


class Wanted(NamedTuple):
    """A map or unmap that was refused, and the known facts about the address space.

    :ivar errno: the kernel's answer
    :ivar mode: the mode of the address space
    :ivar unready: why nothing can be mapped yet; None if mapping is possible
    :ivar usable: the usable IOVAs; None if the kernel does not report them
    :ivar mapped: the IOVAs that were mapped through this object
    :ivar pieces: the mappings that overlap the range
    :ivar page: the smallest page in bytes that can be mapped
    :ivar iova: None where the kernel was to choose, or to unmap everything
    :ivar address: the virtual address of the memory in this process
    :ivar process: the calling process, with its locked memory; None if unknown
    :ivar backing: the areas that the process has mapped at the addresses of the memory; None if unknown
    :ivar made: the number of mappings made through this object
    """

    errno: int
    mode: str
    unready: str | None
    usable: IovaSet | None
    mapped: IovaSet
    pieces: tuple[IovaRange, ...]
    page: int
    iova: int | None
    size: int
    address: int = 0
    read: bool = True
    write: bool = True
    process: Caller | None = None
    backing: tuple[Backing, ...] | None = None
    made: int = 0


# Of a map.


def why_map(wanted: Wanted) -> Reason | None:
    """Return the reason for an errno of VFIO_IOMMU_MAP_DMA, IOMMU_IOAS_MAP and the requests like them."""
    if wanted.unready is not None:
        return Reason(wanted.unready)
    refusal = _refusal(wanted)
    # Before Linux 7.0 type1 returns EINVAL, not EOVERFLOW, for a range past 2^64-1.
    if refusal is not None and wanted.errno in (refusal.errno, errno.EINVAL):
        return _because(wanted, refusal.because)
    if (why := _BY_ERRNO.get(wanted.errno)) is not None:
        return why(wanted)
    return None


def why_set_address(wanted: Wanted) -> Reason | None:
    """Return the reason for an errno of VFIO_IOMMU_MAP_DMA with VFIO_DMA_MAP_FLAG_VADDR, which takes a range that is mapped."""
    if wanted.errno == errno.ENOENT:
        return Reason("nothing is mapped there")
    if (reason := why_map(wanted._replace(usable=None, mapped=IovaSet()))) is not None:
        return reason
    return Reason("its address was not invalidated before: Container.invalidate_addresses()")


def _refusal(wanted: Wanted) -> mapping.Refusal | None:
    """Return the kernel's check that the known facts fail; None if they pass all."""
    known = mapping.Space(page_sizes=wanted.page)
    if wanted.iova is not None:
        known = known._replace(usable=wanted.usable, mapped=wanted.mapped)
    place, address, read, write = wanted.iova or 0, wanted.address, wanted.read, wanted.write
    if wanted.mode.startswith("iommufd"):
        return mapping.iommufd_refusal(
            known, place, wanted.size, address=address, read=read, write=write, compat=wanted.mode != "iommufd"
        )
    return mapping.type1_refusal(known, place, wanted.size, address=address, read=read, write=write)


def _because(wanted: Wanted, because: mapping.Because) -> Reason:
    place = wanted.iova or 0
    match because.name:
        case "WRAPS":
            return Reason(_wraps(place, wanted.size) or _wraps(wanted.address, wanted.size))
        case "MISALIGNED":
            return Reason(_misaligned(wanted.page, iova=place, size=wanted.size, address=wanted.address))
        case "MAPPED":
            there = [one for one in wanted.mapped if one.overlaps(IovaRange.of(place, wanted.size))]
            return Reason(
                f"it overlaps what is mapped at {ranges(there)}",
                ("unmap that first, or leave out iova=: then a free place is chosen",),
            )
        case "UNUSABLE":
            return why_unusable(IovaRange.of(place, wanted.size), wanted.usable or IovaSet(), wanted.page)
    return Reason(because.value)


def why_unusable(wanted: IovaRange, usable: IovaSet, alignment: int) -> Reason:
    """Return the reason why an IOMMU refuses a range, with the nearest ranges that it would accept.

    A mapping must lie in one usable range as a whole: Linux since 5.4 (before, a map into a hole succeeds).
    """
    crossed = [one for one in usable.complement() if one.overlaps(wanted)]
    words = " and ".join(_hole(one, usable) for one in crossed)
    nearest = usable.nearest(wanted, alignment)
    if nearest:
        place = f"the nearest ranges of that size that work: {ranges(nearest)}"
    else:
        place = f"no usable range holds {size(wanted.size)}: map it in smaller pieces"
    return Reason(
        f"{span(wanted)} is not usable for DMA here: it crosses {words}", (place, f"usable: {ranges(usable)}")
    )


def _hole(unusable: IovaRange, usable: IovaSet) -> str:
    """Describe a range that an IOMMU cannot use."""
    for known, words in HOLES:
        if unusable == known:
            return f"the reserved region {span(unusable)}, {words}"
    if unusable.last == _LAST:
        highest = usable[len(usable) - 1].last
        return f"{span(unusable)}, beyond the IOMMU's address width of {highest.bit_length()} bits"
    within = [words for known, words in HOLES if known.start in unusable]
    return f"the reserved region {span(unusable)}" + (f", which holds {within[0]}" if within else "")


def _not_there(wanted: Wanted) -> Reason:
    """Return the reason for EFAULT, from the areas that the process has mapped at the addresses of the memory."""
    there = wanted.backing
    if there is None:
        how = "not writable" if wanted.write else "not readable"
        return Reason(f"the memory at address {wanted.address:#x} is not mapped in this process, or {how}")
    last = wanted.address + wanted.size - 1
    at = wanted.address
    for area in there:
        if area.start > at:
            break
        at = area.last + 1
    if at <= last:
        end = min((area.start - 1 for area in there if area.start > at), default=last)
        return Reason(f"nothing is mapped in this process at addresses {at:#x} to {end:#x}")
    for area in there:
        if (reason := _kept_from(wanted, area)) is not None:
            return reason
    return Reason(
        "the memory is mapped in this process and may be accessed, and yet the kernel cannot have its pages; most likely it is memory "
        "that cannot be pinned"
    )


def _kept_from(wanted: Wanted, area: Backing) -> Reason | None:
    """Return the reason why the kernel cannot pin the pages of an area; None if the area shows none."""
    name = area.path or "anonymous memory"
    at = f"at address {max(area.start, wanted.address):#x}"
    if area.is_device:
        if wanted.mode.startswith("iommufd"):
            return Reason(
                f"the memory {at} is a region of a VFIO device, which iommufd does not pin",
                ("export it as a dma-buf: Ioas.map_file(Region.dma_buf().fileno(), 0, size)",),
            )
        return Reason(
            f"the memory {at} is a region of a VFIO device, which most likely does not decode memory now",
            ("device.config.memory_enabled = True lets it decode",),
        )
    if not area.readable or (wanted.write and not area.writable):
        how = "may not be read" if not area.readable else "is read-only"
        return Reason(
            f"the memory {at} ({name}) {how} in this process",
            ("a device that only reads it can have it: map(buffer, read=True, write=False)",) if area.readable else (),
        )
    if area.size is not None:
        needed = min(area.last, wanted.address + wanted.size - 1) - area.start + 1 + area.offset
        if needed > area.size:
            return Reason(
                f"the file {name} {at} is too short: it has {size(area.size)}, and what is to be mapped ends at {size(needed)} of it",
                (f"make the file at least that long: ftruncate(fd, {needed})",),
            )
    if area.free is not None and area.free < wanted.size:
        most_likely = "" if not area.free else "most likely "
        if area.huge:
            return Reason(
                f"{most_likely}the host's pool of huge pages has too few for {name} {at}: {size(area.free)} are free",
                ("add some: write to nr_hugepages below /sys/kernel/mm/hugepages",),
            )
        return Reason(
            f"{most_likely}the file system of {name} {at} is full: {size(area.free)} are free",
            ("make room there, or give it more (mount -o remount,size=... for tmpfs)",),
        )
    if area.on_disk and wanted.write:
        return Reason(
            f"most likely because {name} {at} is a file on a disk's file system, which a device may not write to (since Linux 6.5)",
            ("use memory: a DmaBuffer, memfd_create(2), or a file on tmpfs or hugetlbfs",),
        )
    return None


def _above_memlock(wanted: Wanted) -> Reason:
    if (process := wanted.process) is None:
        return Reason(None)
    now = f"locked {size(process.locked)}, pinned {size(process.pinned)} by this process"
    used = max(process.locked, process.pinned)
    finding = diagnosis.memory_limit(wanted.size, process.limit, used, unlimited=process.unlimited)
    if finding is None:
        return Reason(
            None, (f"{now}; the limit on locked memory does not apply", "the host is out of memory: map less")
        )
    return Reason.of(finding, now)


def _overlaps(_: Wanted) -> Reason:
    return Reason("it overlaps a mapping that was not made through this object")


def _full(wanted: Wanted) -> Reason:
    finding = diagnosis.mapping_limit(wanted.made)
    if wanted.iova is None:
        usable = f"usable: {ranges(wanted.usable or ())}"
        return Reason("no free range of that size and alignment is left", (usable, *finding.evidence))
    return Reason.of(finding, *finding.evidence)


_BY_ERRNO = {
    errno.EFAULT: _not_there,
    errno.EEXIST: _overlaps,
    errno.ENOMEM: _above_memlock,
    errno.ENOSPC: _full,
}


# Of an unmap.


def why_unmap(wanted: Wanted) -> Reason | None:
    """Return the reason for an errno of VFIO_IOMMU_UNMAP_DMA and IOMMU_IOAS_UNMAP."""
    if wanted.unready is not None:
        return Reason(wanted.unready)
    if wanted.iova is None:
        type1 = wanted.errno == errno.EINVAL and wanted.mode in ("type1", "type1v2")
        return Reason("this kernel cannot unmap everything at once; Linux 5.12 and later can") if type1 else None
    place = wanted.iova
    if not wanted.size:
        return Reason("the size is 0")
    if words := _misaligned(wanted.page, iova=place, size=wanted.size) or _wraps(place, wanted.size):
        return Reason(words)
    whole = IovaSet([IovaRange.of(place, wanted.size)])
    cut = [piece for piece in wanted.pieces if piece not in whole]
    if cut and wanted.errno in (errno.EINVAL, errno.ENOENT):
        return Reason(
            f"it would split what is mapped at {ranges(cut)}; mode {wanted.mode} unmaps whole mappings only",
            ("unmap whole mappings, or map in the pieces that are to be unmapped",),
        )
    if wanted.errno == errno.ENOENT:
        return Reason("nothing is mapped there", (f"mapped: {ranges(wanted.mapped)}",))
    return None


def _wraps(start: int, length: int) -> str | None:
    if start + length - 1 > _LAST:
        return f"{start:#x} + {length:#x} goes past the end of the 64-bit address space"
    return None


def _misaligned(page: int, **values: int) -> str | None:
    wrong = [f"{name}={value:#x}" for name, value in values.items() if value % page]
    if not wrong:
        return None
    are = "is not a multiple" if len(wrong) == 1 else "are not multiples"
    return f"{' and '.join(wrong)} {are} of the page size {size(page)}"
