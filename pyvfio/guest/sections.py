# SPDX-License-Identifier: MIT
"""The sections of a guest's address space, and which of them a device can reach by DMA.

A VMM sees its guest's memory as a flat list of sections. The rules for the sections that count for DMA, and for trimming them to pages,
are those of QEMU's VFIO memory listener (hw/vfio/listener.c; before 10.1 hw/vfio/common.c). The rules for mapping are the same from
7.2 to 11.1. For dirty tracking, QEMU 11.0 and later leave out read-only sections, which no device can write. :func:`mappable` also checks
whether this host's IOMMU can map a section at all, which QEMU does not.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Self, TypeAlias

from pyvfio._core import arguments
from pyvfio.guest.qemu_release import NEWEST, release
from pyvfio.iova import IovaRange, IovaSet, RangeLike, as_range, as_ranges

__all__ = [
    "Census",
    "Counted",
    "Dropped",
    "MemorySection",
    "Reason",
    "Sections",
    "address_width",
    "census",
    "firmware_address_width",
    "is_spurious",
    "mappable",
    "tracks_read_only",
    "trim",
]

BIT_63 = 1 << 63
_U64 = 1 << 64


class Reason(StrEnum):
    """The reason why a section is left out."""

    NOT_RAM_NOR_IOMMU = "not_ram_nor_iommu"
    """Plain MMIO, or a ROM device: an access traps, and there is no memory to map."""
    PROTECTED = "protected"
    """Memory that no device may access, such as SGX's EPC."""
    READ_ONLY = "read_only"
    """ROM: it is mapped, but a device cannot write it, so it is not tracked (QEMU 11.0 and later)."""
    SPURIOUS = "spurious"
    """Bit 63 of the address is set: a 64-bit BAR caught half-way while the guest was sizing it."""
    MISALIGNED = "misaligned"
    """The offset in the page differs between guest address and memory, so no page of the IOMMU can map it."""
    SUB_PAGE = "sub_page"
    """No whole page of the host is left after trimming."""
    UNREACHABLE = "unreachable"
    """The host's IOMMU cannot map it: it is in a reserved region, or beyond the IOMMU's width."""
    OWN_BAR = "own_bar"
    """A BAR of the device itself, and the caller does not want DMA of a device to itself."""
    PEER_BAR = "peer_bar"
    """A BAR of another assigned device, and the caller does not want peer-to-peer DMA."""


class _Section(NamedTuple):
    iova: int
    """The section's first guest address (QEMU: offset_within_address_space)."""
    size: int
    """Bytes; 2^64 for an IOMMU region that spans everything."""
    offset: int | None = None
    """The section's offset in its memory region (offset_within_region); None for one with the same alignment as the address."""
    ram: bool = True
    """RAM in QEMU's sense: RAM, ROM, and BARs that are mmapped."""
    iommu: bool = False
    """The region of a virtual IOMMU."""
    ram_device: bool = False
    """An mmapped BAR, or other device memory."""
    protected: bool = False
    """Private to the guest (SGX EPC)."""
    readonly: bool = False
    """ROM. It is mapped like RAM; QEMU tracked it too up to 10.2, and does not from 11.0 on."""
    discards: bool = False
    """Memory under a RamDiscardManager (virtio-mem): dirty tracking counts all of it, whether plugged or not."""
    device: str = ""
    """The assigned PCI device *of this container* whose BAR this is; '' for all other sections.

    A device of another kind (vfio-platform, vfio-ap, vfio-ccw) must be '' here: only vfio-pci's sections go to QEMU's third range.
    Its memory is `ram_device` nevertheless.
    """
    name: str = ""
    """The memory region's name, for messages."""
    owner: str = ""
    """The QOM type of the region's owner, for messages."""


class MemorySection(_Section):
    """One section of a guest's flat view: `size` bytes of one memory region, at one guest address.

    Without a virtual IOMMU the guest address is the IOVA. The flags are those of QEMU's memory region.

    :raises TypeError: a field is of a wrong type
    :raises ValueError: iova or offset is not an unsigned 64-bit number, or size is not 0 to 2^64
    """

    __slots__ = ()

    def __new__(cls, iova: int, size: int, offset: int | None = None, *flags: Any, **more: Any) -> Self:
        # The usual case first, since there may be a million sections.
        if not (type(iova) is type(size) is int and 0 <= iova < _U64 and 0 <= size <= _U64):
            iova = arguments.u64(iova, "iova")
            size = arguments.integer(size, "size", 0, _U64)
        if offset is not None:
            offset = arguments.u64(offset, "offset")
        made = super().__new__(cls, iova, size, offset, *flags, **more)
        if flags or more:
            made._check()
        return made

    def _check(self) -> None:
        for name in ("ram", "iommu", "ram_device", "protected", "readonly", "discards"):
            arguments.boolean(getattr(self, name), name)
        for name in ("device", "name", "owner"):
            arguments.string(getattr(self, name), name)

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]  # typeshed declares more parameters
        return cls(*iterable)  # checked in _replace() too

    @classmethod
    def bar(cls, iova: int, size: int, device: str, *, offset: int = 0, name: str = "") -> MemorySection:
        """Return the section of a mmapped piece of an assigned device's BAR.

        :param iova: the first guest address
        :param size: bytes
        :param device: the address of the assigned device whose BAR it is
        :param offset: the offset in the BAR, bytes
        :param name: the name of the memory region, for messages
        """
        return cls(iova, size, offset, ram_device=True, device=device, name=name)

    @classmethod
    def mmio(cls, iova: int, size: int, *, name: str = "") -> MemorySection:
        """Return the section of registers whose accesses trap.

        :param iova: the first guest address
        :param size: bytes
        :param name: the name of the memory region, for messages
        """
        return cls(iova, size, ram=False, name=name)

    @classmethod
    def viommu(cls, iova: int, size: int, *, name: str = "") -> MemorySection:
        """Return the section of the addresses that a virtual IOMMU translates.

        :param iova: the first address that it translates
        :param size: bytes, up to 2^64
        :param name: the name of the memory region, for messages
        """
        return cls(iova, size, 0, ram=False, iommu=True, name=name)


Sections: TypeAlias = "MemorySection | Iterable[MemorySection | RangeLike]"
"""The argument of :func:`census`: sections, or ranges of plain memory."""


class Counted(NamedTuple):
    """A section that counts, and its whole pages."""

    section: MemorySection
    range: IovaRange


class Dropped(NamedTuple):
    """A section that does not count, and why."""

    section: MemorySection
    reason: Reason


class Census:
    """All sections of an address space, sorted into those that count and those that do not, in their order.

    It holds numbers, not objects, so that a million sections take little time; objects are made only on demand.
    """

    __slots__ = ("_sections", "_special", "dropped", "pairs")

    def __init__(self, sections: list[MemorySection], pairs: array[int], dropped: list[Dropped]) -> None:
        self._sections = sections
        self._special: list[int] | None = None
        self.pairs = pairs
        """The whole pages of the sections that count, as (start, last) numbers, flat."""
        self.dropped = dropped
        """The sections that do not count, each with its reason."""

    @property
    def counted(self) -> list[Counted]:
        """The sections that count, each with its whole pages."""
        return [self._at(index) for index in range(len(self))]

    @property
    def ranges(self) -> list[IovaRange]:
        """The whole pages of the sections that count."""
        return [IovaRange(*pair) for pair in zip(self.pairs[0::2], self.pairs[1::2], strict=True)]

    @property
    def covered(self) -> IovaSet:
        """All pages of the sections that count."""
        return IovaSet.from_array(self.pairs)

    @property
    def special(self) -> list[Counted]:
        """The sections that count and are not plain memory: BARs, other device memory, and virtual IOMMUs' regions."""
        return [self._at(index) for index in self._specials()]

    @property
    def plain_pairs(self) -> array[int]:
        """The :attr:`pairs` of all sections that are not :attr:`special`; there may be very many."""
        plain = array("Q")
        begin = 0
        for index in self._specials():
            plain += self.pairs[begin : 2 * index]
            begin = 2 * index + 2
        return plain + self.pairs[begin:]

    def _specials(self) -> list[int]:
        if self._special is None:
            self._special = [i for i, s in enumerate(self._sections) if s.iommu or s.ram_device or s.device]
        return self._special

    def _at(self, index: int) -> Counted:
        return Counted(self._sections[index], IovaRange(self.pairs[2 * index], self.pairs[2 * index + 1]))

    def __len__(self) -> int:
        return len(self._sections)

    def __repr__(self) -> str:
        return f"<Census of {len(self._sections)} sections that count, {len(self.dropped)} that do not>"


def is_spurious(iova: int) -> bool:
    """Whether QEMU takes a section at this address for a BAR that the guest is sizing.

    QEMU's rule since 2.0 (d3a2fd9b29): bit 63 is set. It accepts addresses between the IOMMU's true width and 2^63-1;
    :func:`mappable` is the better rule.

    :param iova: the address of the section; 64 bits
    """
    iova = arguments.u64(iova, "iova")
    return bool(iova & BIT_63)


def tracks_read_only(version: str = NEWEST) -> bool:
    """Whether QEMU of this version tracks dirty pages of read-only sections.

    True up to 10.2, False from 11.0 on (5c9da3d65dfb of January 2026; in 11.1.3 as it runs, not in the source of 10.2.2).

    :param version: QEMU's, such as "10.2"
    """
    return release(version) < (11, 0)


def trim(section: MemorySection, page_size: int = 4096, *, readonly: bool = True) -> IovaRange | Reason:
    """Return the whole host pages of a section that counts, or the reason why it does not.

    :param section: the section, or a range of plain memory
    :param page_size: the host's page size, bytes
    :param readonly: whether read-only sections count: they do for mapping, and for tracking as :func:`tracks_read_only` says
    """
    if type(section) is not MemorySection:
        section = _section(section)
    page_size, readonly = arguments.page_size(page_size), arguments.boolean(readonly, "readonly")
    if not section.ram and not section.iommu:
        return Reason.NOT_RAM_NOR_IOMMU
    if section.protected:
        return Reason.PROTECTED
    if section.readonly and not readonly:
        return Reason.READ_ONLY
    if section.iova & BIT_63:
        return Reason.SPURIOUS
    offset_in_page = page_size - 1
    if section.offset is not None and (section.iova ^ section.offset) & offset_in_page:
        return Reason.MISALIGNED
    start = (section.iova + offset_in_page) & ~offset_in_page
    # An exclusive end may be 2^64, so the arithmetic is wider than 64 bits (QEMU: Int128).
    end = (section.iova + section.size) & ~offset_in_page
    if start >= end:
        return Reason.SUB_PAGE
    return IovaRange(start, end - 1)


def census(sections: Sections, page_size: int = 4096, *, version: str = NEWEST) -> Census:
    """Sort sections into those that count for dirty tracking, trimmed to host pages, and those that do not, with the reason.

    :param sections: MemorySections, or ranges of plain memory
    :param page_size: the host's page size, bytes
    :param version: the QEMU whose rules count; with one up to "10.2" read-only sections count too
    :raises TypeError: an item is neither
    :raises ValueError: page_size is not a power of two, or the version is not known
    """
    return _census(sections, page_size, tracks_read_only(version))


def _census(sections: Sections, page_size: int, readonly_counts: bool) -> Census:
    page_size = arguments.page_size(page_size)
    offset_in_page = page_size - 1
    counted: list[MemorySection] = []
    bounds: list[int] = []
    dropped: list[Dropped] = []
    count, bound = counted.append, bounds.append
    for section in _several(sections):
        if type(section) is not MemorySection:
            section = _section(section)
        iova, size, offset, ram, _, _, protected, readonly, _, _, _, _ = section
        if (
            ram
            and size
            and (readonly_counts or not readonly)
            and not (protected or (iova | size) & offset_in_page)
            and (offset is None or not (iova ^ offset) & offset_in_page)
            and iova < BIT_63
        ):
            # Nearly all sections need no trimming; this branch takes a fraction of the time.
            count(section)
            bound(iova)
            bound(iova + size - 1)
            continue
        outcome = trim(section, page_size, readonly=readonly_counts)
        if isinstance(outcome, Reason):
            dropped.append(Dropped(section, outcome))
        else:
            count(section)
            bounds += outcome
    return Census(counted, array("Q", bounds), dropped)


def _several(sections: Any) -> Iterable[Any]:
    if isinstance(sections, MemorySection):
        return (sections,)
    if isinstance(sections, str) or not isinstance(sections, Iterable):
        raise arguments.wrong_type(sections, "sections", "an iterable of MemorySections")
    return sections


def _section(given: Any) -> MemorySection:
    """Return the section for an item: a MemorySection, or plain memory at a range."""
    if isinstance(given, MemorySection):
        return given
    range_ = as_range(given, "sections")
    return MemorySection(range_.start, range_.size)


def mappable(
    sections: Sections,
    usable: IovaSet | None,
    page_size: int = 4096,
    *,
    device: str = "",
    own_bars: bool = True,
    peer_bars: bool = True,
) -> Census:
    """Sort sections into those that this host's IOMMU can map into the address space of `device`, and the others.

    A section counts if it lies completely in one usable range (VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, IOMMU_IOAS_IOVA_RANGES), so spurious
    and far-off BARs are dropped whatever the width is. QEMU's test of bit 63 approximates that. Read-only sections are mapped in every
    version.

    Under iommufd a BAR cannot be mapped by the address of its mmap (EFAULT): map a dma-buf of it (`Region.dma_buf`, Linux 6.19 on), or
    leave BARs out with `own_bars` and `peer_bars`. See :func:`pyvfio.guest.mapping.iommufd_refusal`.

    :param sections: MemorySections, or ranges of plain memory
    :param usable: the ranges that the kernel reports; None if it reports none (emulated devices), then only bit 63 decides
    :param page_size: the host's page size, bytes
    :param device: the address of the assigned device, as in `MemorySection.device`; "" for none
    :param own_bars: keep the device's own BARs, that is, let it do DMA to itself
    :param peer_bars: keep the other assigned devices' BARs (peer-to-peer DMA)
    """
    usable, device = _usable(usable), arguments.string(device, "device")
    own_bars, peer_bars = arguments.boolean(own_bars, "own_bars"), arguments.boolean(peer_bars, "peer_bars")
    all_sections = _census(sections, page_size, True)
    dropped = all_sections.dropped
    kept: list[MemorySection] = []
    pairs = array("Q")
    for section, range_ in all_sections.counted:
        if usable is not None and range_ not in usable:
            dropped.append(Dropped(section, Reason.UNREACHABLE))
        elif section.device and section.device == device and not own_bars:
            dropped.append(Dropped(section, Reason.OWN_BAR))
        elif section.device and section.device != device and not peer_bars:
            dropped.append(Dropped(section, Reason.PEER_BAR))
        else:
            kept.append(section)
            pairs.extend(range_)
    return Census(kept, pairs, dropped)


def _usable(usable: Any) -> IovaSet | None:
    """Return the usable ranges that an argument means."""
    return usable if usable is None or isinstance(usable, IovaSet) else IovaSet(as_ranges(usable, "usable"))


def address_width(usable: Sequence[IovaRange] | IovaSet | None) -> int:
    """Return the bits of the host IOMMU's address space: the position of the last usable address's top bit, plus one.

    As QEMU computes it since 9.1 (vfio_device_get_aw_bits); 64 where the kernel reports no ranges.

    :param usable: the ranges that the kernel reports; None or empty if it reports none
    """
    usable = _usable(usable)
    return usable[len(usable) - 1].last.bit_length() if usable else 64


def firmware_address_width(usable: IovaSet | None, cpu_bits: int) -> int:
    """Return the physical address bits to tell the guest's firmware, so that it places 64-bit BARs where devices reach them.

    OVMF puts its 64-bit PCI window at the top of the CPU's physical addresses; if the IOMMU is narrower (39 bits on many client machines) a BAR
    there cannot be mapped, and peer-to-peer DMA is lost. For QEMU 9.1 and later the number goes to `-cpu ...,guest-phys-bits=N`.

    :param usable: the ranges that the kernel reports; None or empty if it reports none
    :param cpu_bits: the guest CPU's physical address bits
    """
    cpu_bits = arguments.integer(cpu_bits, "cpu_bits", 1, 64)
    return min(cpu_bits, address_width(usable))
