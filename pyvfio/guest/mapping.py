# SPDX-License-Identifier: MIT
"""The kernel's answer to a DMA mapping, computed beforehand, by IOMMU backend and by the era of the kernel.

The answers are errnos, 0 for success, in the order in which the kernel's own checks run: those of 7.3
(drivers/vfio/vfio_iommu_type1.c, drivers/iommu/iommufd/), and drivers/iommu/intel/iommu.c as it was before 5.4.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from enum import Enum, IntEnum
from typing import Any, NamedTuple

from pyvfio._core import arguments
from pyvfio._core.sizes import about
from pyvfio.guest.sections import MemorySection
from pyvfio.iova import IovaRange, IovaSet, as_ranges

__all__ = [
    "Because",
    "Entries",
    "Era",
    "Refusal",
    "Space",
    "entries",
    "intel_map",
    "iommufd_map",
    "iommufd_refusal",
    "type1_map",
    "type1_refusal",
]

_U64 = 2**64


class Era(IntEnum):
    """Kernels that answer differently."""

    BEFORE_5_4 = 0
    """type1 does not check reserved regions: a map into them succeeds and the device's access fails later, unless the
    IOMMU driver itself refuses the map (Intel: EFAULT beyond its width)."""
    SINCE_5_4 = 1
    """type1 checks the list of usable ranges first: EINVAL."""
    CHECKED_SUMS = 2
    """A wrapping range is EOVERFLOW instead of EINVAL in type1 (series of October 2025; so on 7.3.4)."""


def _reported(value: Any, name: str) -> IovaSet | tuple[IovaRange, ...]:
    """Return ranges without joining neighbours, since type1 does not join them."""
    return value if isinstance(value, IovaSet) else tuple(as_ranges(value, name))


@arguments.checked(
    usable=arguments.optional(_reported),
    mapped=arguments.of_class(IovaSet),
    page_sizes=arguments.within(1, _U64 - 1),
    entries_left=arguments.optional(arguments.u64),
    intel_width=arguments.optional(arguments.within(1, 64)),
)
class Space(NamedTuple):
    """The known state of an address space before a mapping."""

    usable: Sequence[IovaRange] | IovaSet | None = None
    """The usable ranges that the kernel reports; None or empty if it reports none (emulated devices only): then all are usable."""
    mapped: IovaSet = IovaSet()
    """The addresses that are mapped already."""
    page_sizes: int = 1 << 12
    """The IOMMU's page sizes, a mask; under iommufd the lowest bit is the IOAS's alignment."""
    entries_left: int | None = None
    """Mappings that may still be made (VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, initially 65535); None without a limit."""
    intel_width: int | None = None
    """The Intel IOMMU's width, for kernels before 5.4."""


class Because(Enum):
    """The kernel's check that refuses a mapping."""

    SIZE = "the size is 0"
    WRAPS = "it goes past the end of the 64-bit address space"
    PERMISSION = "neither read nor write is allowed"
    MISALIGNED = "it is not a multiple of the smallest page size"
    MAPPED = "something is mapped there"
    ENTRIES = "no entries are left"
    UNUSABLE = "it is not whole within what is usable"
    WIDTH = "it is beyond the IOMMU's width"
    BAR = "it is the mmap of a BAR, which iommufd cannot pin; map a dma-buf of it"


class Refusal(NamedTuple):
    """The kernel's answer to a mapping that it refuses."""

    errno: int
    because: Because


def type1_refusal(
    space: Space,
    iova: int,
    size: int,
    *,
    address: int = 0,
    read: bool = True,
    write: bool = True,
    era: Era = Era.CHECKED_SUMS,
) -> Refusal | None:
    """Return why VFIO_IOMMU_MAP_DMA on a type1 container is refused; None if no check that can be computed beforehand refuses it.

    It may still fail because the memory is not mapped in the process (EFAULT) or the limit on locked memory is reached (ENOMEM).

    :param space: the state of the address space before it
    :param iova: the first address; 64 bits
    :param size: bytes, 0 to 2^64
    :param address: the address of the memory in this process
    :param read: the device may read the memory
    :param write: the device may write it
    :param era: the kernel's; by default that of 7.3
    """
    space = arguments.instance(space, "space", Space)
    iova, size = arguments.u64(iova, "iova"), arguments.integer(size, "size", 0, _U64)
    address, era = arguments.u64(address, "address"), arguments.member(era, "era", Era)
    read, write = arguments.boolean(read, "read"), arguments.boolean(write, "write")
    page = space.page_sizes & -space.page_sizes
    if not size:
        return Refusal(errno.EINVAL, Because.SIZE)
    if iova + size > _U64 or address + size > _U64:
        return Refusal(errno.EOVERFLOW if era >= Era.CHECKED_SUMS else errno.EINVAL, Because.WRAPS)
    if not (read or write):
        return Refusal(errno.EINVAL, Because.PERMISSION)
    if (iova | size | address) & (page - 1):
        return Refusal(errno.EINVAL, Because.MISALIGNED)
    wanted = IovaRange.of(iova, size)
    if space.mapped.overlaps(wanted):
        return Refusal(errno.EEXIST, Because.MAPPED)
    if space.entries_left == 0:
        return Refusal(errno.ENOSPC, Because.ENTRIES)
    if era >= Era.SINCE_5_4:
        if space.usable and not any(each.start <= iova and wanted.last <= each.last for each in space.usable):
            return Refusal(errno.EINVAL, Because.UNUSABLE)
    elif space.intel_width is not None and (refused := intel_map(space.intel_width, iova, size)):
        return Refusal(refused, Because.WIDTH)
    return None


def type1_map(
    space: Space, iova: int, size: int, *, read: bool = True, write: bool = True, era: Era = Era.CHECKED_SUMS
) -> int:
    """Return the errno of VFIO_IOMMU_MAP_DMA on a type1 container; 0 if no check refuses it (:func:`type1_refusal`).

    EINVAL: no permission, misaligned, zero size, or not whole within *one* of the usable ranges; EOVERFLOW: wraps;
    EEXIST: overlaps a mapping; ENOSPC: no entries left.

    :param space: the state of the address space before it
    :param iova: the first address; 64 bits
    :param size: bytes, 0 to 2^64
    :param read: the device may read the memory
    :param write: the device may write it
    :param era: the kernel's; by default that of 7.3
    """
    refusal = type1_refusal(space, iova, size, read=read, write=write, era=era)
    return refusal.errno if refusal else 0


def intel_map(width: int, iova: int, size: int) -> int:
    """Return the errno of the Intel IOMMU driver's own map: EFAULT beyond its width (intel_iommu_map, 2014 to about 6.x).

    The kernel log says "iommu width (N) is not sufficient for the mapped address".

    :param width: bits of the IOMMU's addresses, 1 to 64
    :param iova: the first address
    :param size: bytes
    """
    width = arguments.integer(width, "width", 1, 64)
    iova, size = arguments.integer(iova, "iova", 0, _U64), arguments.integer(size, "size", 0, _U64)
    return errno.EFAULT if iova + size > 1 << width else 0


def iommufd_refusal(
    space: Space,
    iova: int,
    length: int,
    *,
    address: int = 0,
    read: bool = True,
    write: bool = True,
    compat: bool = False,
    bar: bool = False,
) -> Refusal | None:
    """Return why IOMMU_IOAS_MAP with a fixed IOVA is refused; None if no check that can be computed beforehand refuses it.

    Here `space.usable` is the complement of the IOAS's reserved regions. Unlike in type1, a mapping may span neighbouring ranges.

    :param space: the state of the address space before it
    :param iova: the first address; 64 bits
    :param length: bytes, 0 to 2^64
    :param address: the address of the memory in this process
    :param read: the device may read the memory
    :param write: the device may write it
    :param compat: whether it is VFIO_IOMMU_MAP_DMA on an iommufd as the container. Then only the IOMMU refuses a mapping without
        permissions; without an IOMMU (emulated devices only) it succeeds
    :param bar: whether the memory is the mmap of a device's BAR. iommufd pins pages, which a BAR does not have: EFAULT once a device with
        an IOMMU is attached (Linux 6.2 to 7.3; QEMU warns that peer-to-peer DMA will not work). IOMMU_IOAS_MAP_FILE can map a dma-buf of
        the BAR. A type1 container maps the BAR by address while the device's memory decoding is on (EFAULT otherwise)
    """
    space = arguments.instance(space, "space", Space)
    iova, length = arguments.u64(iova, "iova"), arguments.integer(length, "length", 0, _U64)
    address = arguments.u64(address, "address")
    read, write = arguments.boolean(read, "read"), arguments.boolean(write, "write")
    compat, bar = arguments.boolean(compat, "compat"), arguments.boolean(bar, "bar")
    alignment = space.page_sizes & -space.page_sizes
    if not compat:
        if iova >= _U64 - 1 or length >= _U64 - 1:
            return Refusal(errno.EOVERFLOW, Because.WRAPS)
        if not (read or write):
            return Refusal(errno.EINVAL, Because.PERMISSION)
    # The kernel adds address and length: it checks the end of the memory, not its last byte.
    if address + length >= _U64:
        return Refusal(errno.EOVERFLOW, Because.WRAPS)
    if not length:
        return Refusal(errno.EINVAL, Because.SIZE)
    if (iova | length) & (alignment - 1):
        return Refusal(errno.EINVAL, Because.MISALIGNED)
    if iova + length > _U64:
        return Refusal(errno.EOVERFLOW, Because.WRAPS)
    wanted = IovaRange.of(iova, length)
    if space.usable and wanted not in IovaSet(space.usable):
        return Refusal(errno.EINVAL, Because.UNUSABLE)
    if space.mapped.overlaps(wanted):
        return Refusal(errno.EEXIST, Because.MAPPED)
    if address & (alignment - 1):
        return Refusal(errno.EINVAL, Because.MISALIGNED)
    if space.usable and not (read or write):
        return Refusal(errno.EINVAL, Because.PERMISSION)
    if bar:
        return Refusal(errno.EFAULT, Because.BAR)
    return None


def iommufd_map(
    space: Space, iova: int, length: int, *, read: bool = True, write: bool = True, bar: bool = False
) -> int:
    """Return the errno of IOMMU_IOAS_MAP with a fixed IOVA (Linux 6.2 on); 0 if no check refuses it (:func:`iommufd_refusal`).

    EINVAL: no permission, misaligned, zero length, or meets a reserved region; EOVERFLOW: wraps; EEXIST: already mapped;
    EFAULT: the mmap of a BAR.

    :param space: the state of the address space before it
    :param iova: the first address; 64 bits
    :param length: bytes, 0 to 2^64
    :param read: the device may read the memory
    :param write: the device may write it
    :param bar: the memory is the mmap of a device's BAR, which cannot be pinned
    """
    refusal = iommufd_refusal(space, iova, length, read=read, write=write, bar=bar)
    return refusal.errno if refusal else 0


# The number of mappings that a guest can need.


class Entries(NamedTuple):
    """The number of DMA mappings that a guest may need if the memory that it can give back is mapped in blocks.

    :ivar needed: the most mappings that can be needed
    :ivar limit: the container's limit
    :ivar block_size: the block size that was asked about, bytes
    :ivar smallest: the smallest block size, not below the one asked about, with which the mappings fit; None if the other sections alone
        are too many
    """

    needed: int
    limit: int
    block_size: int
    smallest: int | None

    @property
    def fit(self) -> bool:
        """Whether the container accepts that many mappings."""
        return self.needed <= self.limit

    def explain(self) -> str:
        """Return the answer as a sentence."""
        said = f"with blocks of {about(self.block_size)} the guest needs up to {self.needed} DMA mappings; the container takes {self.limit}"
        if self.fit:
            return f"{said}."
        if self.smallest is None:
            return f"{said}. No block size helps: the memory that stays mapped needs more by itself."
        return f"{said}. The smallest block size that fits is {about(self.smallest)}."


def entries(
    sections: Iterable[MemorySection], block_size: int, *, limit: int = 65535, memslots: int | None = None
) -> Entries:
    """Return the number of DMA mappings that a guest can need whose memory is plugged, given back or made private in blocks.

    A section with `discards` (virtio-mem, a confidential guest's memory) may be mapped in any of its blocks, one mapping each; any
    other section is one mapping. QEMU warns by the same sum ("possibly running out of DMA mappings"), with all its memory slots
    in place of the other sections (hw/vfio/listener.c).

    :param sections: the guest's flat view
    :param block_size: the block size of virtio-mem (its `block-size`), or the page that a confidential guest converts: bytes, a power of two
    :param limit: the container's (vfio_iommu_type1.dma_entry_limit, 65535; iommufd has none)
    :param memslots: the number of mappings to count for the sections that cannot be given back, as QEMU does (512; with KVM on x86 32764)
    :raises ValueError: `block_size` is not a power of two
    """
    block_size = arguments.power_of_two(block_size, "block_size")
    limit = arguments.integer(limit, "limit", 0)
    memslots = None if memslots is None else arguments.integer(memslots, "memslots", 0)
    given_back: list[MemorySection] = []
    others = 0
    for section in arguments.instances(sections, "sections", MemorySection):
        if not section.size:
            continue
        if section.discards:
            given_back.append(section)
        else:
            others += section.ram or section.ram_device
    rest = others if memslots is None else max(memslots - len(given_back), 0)

    def needed(block: int) -> int:
        return rest + sum(-(-(one.iova + one.size) // block) - one.iova // block for one in given_back)

    smallest: int | None = block_size
    while smallest is not None and needed(smallest) > limit:
        smallest = smallest * 2 if smallest < _U64 else None
    return Entries(needed(block_size), limit, block_size, smallest)
