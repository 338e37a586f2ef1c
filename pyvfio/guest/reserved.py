# SPDX-License-Identifier: MIT
"""The addresses that a guest's own IOMMU must reserve.

The host's IOMMU cannot map every address: the kernel refuses its MSI window and the addresses beyond its width. type1's
VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE and IOMMU_IOAS_IOVA_RANGES list the usable addresses; a virtual IOMMU must reserve all others.
Regions are resolved as in QEMU's util/reserved-region.c. :mod:`pyvfio.guest.qemu.virtio_iommu` has the way in which QEMU's virtio-iommu
tells them to the guest.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from enum import Enum, IntEnum, StrEnum
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.iova import WHOLE, IovaRange, IovaSet, as_range, as_ranges

__all__ = [
    "Q35_PROPERTY",
    "VIRT_GICV2M_PROPERTY",
    "VIRT_ITS_PROPERTY",
    "Bdf",
    "Bridge",
    "BridgeKind",
    "RegionType",
    "ReservedRegion",
    "Translation",
    "aliased",
    "device_regions",
    "granule",
    "host_reserved",
    "resolve",
    "translate",
]

_LAST = 2**64 - 1


class RegionType(IntEnum):
    """VIRTIO_IOMMU_RESV_MEM_T_*."""

    RESERVED = 0
    """An access faults."""
    MSI = 1
    """Accesses pass untranslated: they are interrupts."""


@arguments.checked(type=arguments.u32, start=arguments.u64, last=arguments.u64)
class ReservedRegion(NamedTuple):
    """A region that a guest must not allocate IOVAs from."""

    type: int
    """A :class:`RegionType`. Other numbers can be computed with, but a virtio-iommu cannot tell them to the guest."""
    start: int
    last: int

    @property
    def range(self) -> IovaRange:
        """The addresses of the region."""
        return IovaRange(self.start, self.last)

    def __str__(self) -> str:
        return f"0x{self.start:x}:0x{self.last:x}:{self.type}"


Q35_PROPERTY = ReservedRegion(RegionType.MSI, 0xFEE00000, 0xFEEFFFFF)
"""The interrupt window, as QEMU's q35 and i440fx machines give it to a virtio-iommu."""
VIRT_ITS_PROPERTY = ReservedRegion(RegionType.MSI, 0x08090000, 0x0809FFFF)
"""The Arm virt machine's with an ITS."""
VIRT_GICV2M_PROPERTY = ReservedRegion(RegionType.MSI, 0x08020000, 0x08020FFF)
"""The Arm virt machine's with a GICv2m."""


def host_reserved(usable: IovaSet | None, within: IovaRange = WHOLE) -> IovaSet:
    """Return the addresses that the host cannot map: the complement of the usable ones; none if the kernel reports no ranges.

    An empty report never means that everything is reserved: the kernel is old, or the device is emulated. QEMU's own function
    aborts for some narrower windows; this one clips the result.

    :param usable: the ranges that the kernel reports; None or empty if it reports none
    :param within: the addresses to consider; by default all of 64 bits
    """
    found = IovaSet() if usable is None else IovaSet(as_ranges(usable, "usable"))
    within = as_range(within, "within")
    return found.complement(within) if found else found


def resolve(inserts: Iterable[ReservedRegion]) -> list[ReservedRegion]:
    """Return the regions that result from inserting these in order: a later region replaces the parts of earlier ones that it covers.

    Earlier regions are trimmed, split, or deleted; equal neighbours stay apart (QEMU's resv_region_list_insert, 8.2 on). Only the order
    decides, not the type.

    :param inserts: the regions, in the order of their insertion
    :raises ValueError: last is below start, or an address has more than 64 bits
    """
    inserts = arguments.instances(inserts, "inserts", ReservedRegion)
    regions: list[ReservedRegion] = []
    for new in inserts:
        if not 0 <= new.start <= new.last <= _LAST:
            raise ValueError(f"inserts has {new}, which is not a range of 64-bit addresses")
        # The regions that it overlaps lie next to each other; of these only the outer ends remain.
        first = bisect_left(regions, new.start, key=lambda region: region.last)
        end = bisect_right(regions, new.last, key=lambda region: region.start)
        kept = [new]
        if first < end and regions[first].start < new.start:
            kept.insert(0, regions[first]._replace(last=new.start - 1))
        if first < end and regions[end - 1].last > new.last:
            kept.append(regions[end - 1]._replace(start=new.last + 1))
        regions[first:end] = kept
    return regions


def device_regions(host: IovaSet, properties: Iterable[ReservedRegion] = ()) -> list[ReservedRegion]:
    """Return a device's regions: the host's as RESERVED, overlaid by the machine's properties.

    :param host: the addresses that the host cannot map, as `host_reserved` returns them
    :param properties: the reserved regions of the machine, such as `Q35_PROPERTY`
    """
    properties = arguments.instances(properties, "properties", ReservedRegion)
    host = IovaSet(as_ranges(host, "host"))
    return resolve([*(ReservedRegion(RegionType.RESERVED, *range_) for range_ in host), *properties])


class Translation(StrEnum):
    """The treatment of an access by its address, before a virtio-iommu looks for a mapping."""

    BYPASS = "passthrough (MSI bypass)"
    FAULT = "fault MAPPING"
    NORMAL = "normal translation"


def translate(regions: Iterable[ReservedRegion], address: int) -> Translation:
    """Return the treatment of an access at this address: MSI regions pass, RESERVED ones fault, all others are translated.

    :param regions: the device's regions, of which no two overlap
    :param address: the address of the access; 64 bits
    """
    regions = arguments.instances(regions, "regions", ReservedRegion)
    address = arguments.u64(address, "address")
    for region in regions:
        if region.start <= address <= region.last:
            return Translation.BYPASS if region.type == RegionType.MSI else Translation.FAULT
    return Translation.NORMAL


def granule(mask: int) -> int:
    """Return the smallest page size of a mask.

    :param mask: page sizes, one bit for each; 0 has none, and gives 0
    """
    mask = arguments.u64(mask, "mask")
    return mask & -mask


_BDF = re.compile(r"(?:[0-9a-f]{1,8}:)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])", re.IGNORECASE | re.ASCII)


@arguments.checked(bus=arguments.u8, device=arguments.within(0, 31), function=arguments.within(0, 7))
class Bdf(NamedTuple):
    """A PCI function's bus, device and function numbers."""

    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> Bdf:
        """Parse `01:00.0`; a domain in front of it is ignored.

        :param text: hexadecimal numbers, bus:device.function
        :raises ValueError: the text is no such address
        """
        found = _BDF.fullmatch(arguments.string(text, "text"))
        if not found or int(found[2], 16) > 31:
            raise ValueError(f"text must be a PCI address such as 01:00.0, not {text!r}")
        return cls(*(int(part, 16) for part in found.groups()))

    @property
    def devfn(self) -> int:
        """Device and function in one byte."""
        return self.device << 3 | self.function

    def __str__(self) -> str:
        return f"{self.bus:02x}:{self.device:02x}.{self.function:x}"


class BridgeKind(Enum):
    """The effect of a bridge on the requester id of a device."""

    PCIE_PORT = "PCIe root or switch port"
    """The bridge passes the id on."""
    PCIE_TO_PCI = "PCIe-to-PCI bridge"
    """The bridge replaces the id by its secondary bus, device and function 00.0."""
    CONVENTIONAL = "conventional PCI bridge"
    """The bridge replaces the id by its own."""


@arguments.checked(kind=arguments.member_of(BridgeKind), bdf=arguments.of_class(Bdf), secondary_bus=arguments.u8)
class Bridge(NamedTuple):
    """A bridge above a device."""

    kind: BridgeKind
    bdf: Bdf
    """The bridge's own address."""
    secondary_bus: int
    """The number of the bus below it."""


def aliased(device: Bdf, bridges: Iterable[Bridge]) -> Bdf:
    """Return the function that the IOMMU takes a device for (QEMU's pci_device_get_iommu_bus_devfn).

    :param device: the address of the device itself
    :param bridges: the bridges above it, the nearest first
    """
    device = arguments.instance(device, "device", Bdf)
    bridges = arguments.instances(bridges, "bridges", Bridge)
    seen = device
    for bridge in bridges:
        if bridge.kind is BridgeKind.PCIE_TO_PCI:
            seen = Bdf(bridge.secondary_bus, 0, 0)
        elif bridge.kind is BridgeKind.CONVENTIONAL:
            seen = bridge.bdf
    return seen
