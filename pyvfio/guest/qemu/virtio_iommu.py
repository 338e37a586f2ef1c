# SPDX-License-Identifier: MIT
"""The reserved regions of QEMU's virtio-iommu: its properties, its answers to the guest, and its granule.

It follows hw/virtio/virtio-iommu.c and util/reserved-region.c. The way in which the host's ranges reach it has changed:
:class:`Conveyance`.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.guest.reserved import Bdf, RegionType, ReservedRegion, device_regions, granule, host_reserved
from pyvfio.iova import IovaRange, IovaSet

_LAST = 2**64 - 1
_RESV_MEM = struct.Struct("<HHB3xQQ")


def parse_property(text: str, name: str = "<prop>") -> ReservedRegion:
    """Read QEMU's `low:high:type`: two hexadecimal addresses, with or without 0x, and a decimal number.

    Any type is parsed; :func:`check_properties` is where a virtio-iommu refuses one.

    :param name: the property's name, for messages
    :raises ValueError: with QEMU's message (set_reserved_region)
    """
    arguments.string(text, "text")
    arguments.string(name, "name")
    start, rest = _leading(text, 16)
    if start is None:
        raise ValueError(f"start address of '{name}' must be a hexadecimal integer")
    if not rest.startswith(":"):
        raise ValueError("reserved region fields must be separated with ':'")
    last, rest = _leading(rest[1:], 16)
    if last is None:
        raise ValueError(f"end address of '{name}' must be a hexadecimal integer")
    if not rest.startswith(":"):
        raise ValueError("reserved region fields must be separated with ':'")
    type_, rest = _leading(rest[1:], 10)
    if type_ is None or type_ > 2**32 - 1:
        raise ValueError(f"type of '{name}' must be a non-negative decimal integer")
    return ReservedRegion(type_, start, last)


def _leading(text: str, base: int) -> tuple[int | None, str]:
    """Return the unsigned 64-bit number at the beginning of a text, as strtoull reads it, and the rest of the text."""
    digits = "0123456789abcdef"[:base]
    body = text.lstrip()
    prefix = 2 if base == 16 and body[:2].lower() == "0x" and body[2:3].lower() in digits and body[2:3] else 0
    end = prefix
    while end < len(body) and body[end].lower() in digits:
        end += 1
    value = int(body[prefix:end], base) if end > prefix else None
    return (None if value is None or value > _LAST else value), body[end:]


def check_properties(properties: Sequence[ReservedRegion]) -> None:
    """Check properties as a virtio-iommu does when it is realized.

    :raises ValueError: a property has a type that it cannot tell the guest
    """
    properties = arguments.instances(properties, "properties", ReservedRegion)
    for number, region in enumerate(properties):
        if region.type not in (RegionType.RESERVED, RegionType.MSI):
            raise ValueError(f"reserved region {number} has an invalid type")


class Status(IntEnum):
    """VIRTIO_IOMMU_S_*, as far as a probe uses them."""

    OK = 0
    INVAL = 4


class ProbeReply(NamedTuple):
    """The answer to a guest's VIRTIO_IOMMU_T_PROBE."""

    status: Status
    data: bytes
    """The properties; the rest of the buffer is zeros."""


PROBE_SIZE = 512
"""QEMU's probe buffer, bytes: 21 regions fit."""


def probe(regions: Sequence[ReservedRegion], size: int = PROBE_SIZE) -> ProbeReply:
    """Return the bytes of a probe reply: struct virtio_iommu_probe_resv_mem for each region, 24 bytes, little-endian.

    If not all regions fit, the probe fails and has none.
    """
    regions = arguments.instances(regions, "regions", ReservedRegion)
    size = arguments.integer(size, "size", 0)
    for region in regions:
        # struct virtio_iommu_probe_resv_mem has 8 bits for the type.
        arguments.u8(region.type, "regions' type")
    if len(regions) * _RESV_MEM.size > size:
        return ProbeReply(Status.INVAL, b"")
    return ProbeReply(Status.OK, b"".join(_RESV_MEM.pack(1, 20, r.type, r.start, r.last) for r in regions))


def merge_page_sizes(current: int, host: int, *, frozen: bool = False) -> int:
    """Return the page-size mask of a virtio-iommu after it has been merged with a host's (QEMU 9.1 on).

    Before the granule is frozen, at machine-init-done, the masks are intersected; after, the mask stays and the host
    must have the granule, its lowest bit.

    :param current: the virtio-iommu's mask; it begins as -granule
    :param host: the host IOMMU's mask
    :raises ValueError: the two do not agree; the text is QEMU's
    """
    current, host = arguments.u64(current, "current"), arguments.u64(host, "host")
    frozen = arguments.boolean(frozen, "frozen")
    if not current & host:
        raise ValueError(
            f"virtio-iommu reports a page size mask 0x{host:x} incompatible with currently supported mask 0x{current:x}"
        )
    if not frozen:
        return current & host
    if not granule(current) & host:
        raise ValueError(f"virtio-iommu does not support frozen granule 0x{granule(current):x}")
    return current


def initial_mask(granule_size: int = 4096) -> int:
    """Return the page-size mask of a virtio-iommu with this granule: every size from it up (default: the host's page, 9.0 on)."""
    granule_size = arguments.power_of_two(granule_size, "granule_size")
    return -granule_size & _LAST


def input_range(aw_bits: int = 64) -> IovaRange:
    """Return the addresses that a virtio-iommu of this width translates.

    QEMU 9.0 on; the default is 39 on q35, 48 on Arm's virt, 64 on others such as pc.

    :raises ValueError: unless 32 <= aw_bits <= 64
    """
    aw_bits = arguments.integer(aw_bits, "aw_bits")
    if not 32 <= aw_bits <= 64:
        raise ValueError("aw-bits must be within [32,64]")
    return IovaRange(0, (1 << aw_bits) - 1)


class Conveyance(Enum):
    """The way in which QEMU gives the host's ranges to a virtio-iommu, and its handling of a second device on an aliased function."""

    MEMORY_REGION_2023 = "30d40e39bd"
    """QEMU 8.2: by a callback of the IOMMU memory region; too late for hot-plug."""
    SEED = "cf2647a76e"
    """The fourth version of the series, June 2024: by PCIIOMMUOps; a device set after the guest's probe aborts QEMU."""
    CURRENT = "62ac01d1de"
    """July 2024, QEMU 9.1 to 10.2: a second aliased device is always refused; unplug restores the properties."""


@arguments.checked(
    name=arguments.string,
    bdf=arguments.of_class(Bdf),
    aliased=arguments.of_class(Bdf),
    usable=arguments.optional(arguments.of_class(IovaSet)),
    page_sizes=arguments.optional(arguments.u64),
    address_width=arguments.within(1, 64),
)
class HostIommuDevice(NamedTuple):
    """The facts about an assigned device that a virtual IOMMU gets (QEMU's HostIOMMUDevice)."""

    name: str
    bdf: Bdf
    """Its address in the guest."""
    aliased: Bdf
    """The address that the IOMMU sees; see :func:`pyvfio.guest.reserved.aliased`."""
    usable: IovaSet | None
    """The host's usable ranges; None if the kernel reports none."""
    page_sizes: int | None = None
    """The host IOMMU's page-size mask; None if unknown."""
    address_width: int = 64
    """The host IOMMU's width, bits."""


class Outcome(NamedTuple):
    """The outcome of giving a device to a virtual IOMMU."""

    ok: bool
    registered: bool
    """Whether the device is in the table of devices."""
    recorded: bool
    """Whether its reserved ranges are kept."""
    page_sizes_checked: bool
    errno: int = 0
    """The return value of the function that keeps the ranges; 0 if another check refused."""
    message: str = ""
    """QEMU's error; the user sees it prefixed, see :func:`pyvfio.guest.qemu.to_user`."""
    warning: str = ""


class _Endpoint:
    """The state that a virtio-iommu keeps for one aliased function (QEMU's IOMMUDevice)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.host = IovaSet()
        self.told = False
        self.probed = False


class VirtioIommu:
    """A model of QEMU's virtio-iommu for reserved regions: devices are plugged and unplugged, and the guest probes.

    :param properties: the machine's reserved regions
    :param conveyance: the version of QEMU's code
    :param page_sizes: its page-size mask
    :param first_index: the number that QEMU gives the next IOMMU memory region; it is in the region's name and so in
        messages
    :raises ValueError: a property has a type that it cannot tell the guest
    """

    def __init__(
        self,
        properties: Sequence[ReservedRegion] = (),
        *,
        conveyance: Conveyance = Conveyance.CURRENT,
        page_sizes: int = initial_mask(),
        first_index: int = 0,
    ) -> None:
        properties = arguments.instances(properties, "properties", ReservedRegion)
        check_properties(properties)
        self.properties = tuple(properties)
        self.conveyance = arguments.member(conveyance, "conveyance", Conveyance)
        self.page_sizes = arguments.u64(page_sizes, "page_sizes")
        self.granule_frozen = False
        self.devices: dict[Bdf, HostIommuDevice] = {}
        """The registered devices, by their real function."""
        self._endpoints: dict[Bdf, _Endpoint] = {}
        self._next_index = arguments.u32(first_index, "first_index")

    def freeze_granule(self) -> None:
        """End the machine's initialisation, after which the granule does not change."""
        self.granule_frozen = True

    def host_reserved(self, aliased: Bdf) -> IovaSet:
        """Return the host's reserved ranges that are kept for a function as the IOMMU sees it."""
        return self._endpoint(aliased).host

    def regions(self, aliased: Bdf) -> list[ReservedRegion]:
        """Return the regions that the guest is told for that function; before any data from the host, only the properties."""
        return device_regions(self._endpoint(aliased).host, self.properties)

    def probe(self, aliased: Bdf, size: int = PROBE_SIZE) -> ProbeReply:
        """Return the answer to a guest that probes an endpoint."""
        reply = probe(self.regions(aliased), size)
        if reply.status is Status.OK:
            self._endpoint(aliased).probed = True
        return reply

    def set_device(self, device: HostIommuDevice) -> Outcome:
        """Plug a device.

        If its page-size mask does not fit, its ranges are kept nevertheless, as in QEMU.

        :raises AssertionError: :attr:`Conveyance.SEED`, after the guest has probed: QEMU aborts there
        """
        device = arguments.instance(device, "device", HostIommuDevice)
        by_region = self.conveyance is Conveyance.MEMORY_REGION_2023
        if not by_region and device.bdf in self.devices:
            return Outcome(False, False, False, False, message="Host IOMMU device already exists")
        if not device.usable:
            # An old kernel: QEMU returns success before it checks the page sizes, and makes no entry in the table.
            return Outcome(True, False, False, False)
        kept = self._keep(self._endpoint(device.aliased), device.usable)
        if not kept.ok:
            return kept
        if by_region:
            return kept
        checked = device.page_sizes is not None and self.conveyance is Conveyance.CURRENT
        if checked and device.page_sizes is not None:
            try:
                self.page_sizes = merge_page_sizes(self.page_sizes, device.page_sizes, frozen=self.granule_frozen)
            except ValueError as refusal:
                return Outcome(False, False, True, True, message=f"{device.name}: {refusal}")
        self.devices[device.bdf] = device
        return Outcome(True, True, True, checked)

    def unset_device(self, device: HostIommuDevice) -> None:
        """Unplug a device. Its ranges are dropped with it; with :attr:`Conveyance.SEED` they stay."""
        device = arguments.instance(device, "device", HostIommuDevice)
        if self.devices.pop(device.bdf, None) is None or self.conveyance is not Conveyance.CURRENT:
            return
        endpoint = self._endpoint(device.aliased)
        endpoint.host, endpoint.told = IovaSet(), False

    def _keep(self, endpoint: _Endpoint, usable: IovaSet) -> Outcome:
        new = host_reserved(usable)
        warning = ""
        if self.conveyance is Conveyance.SEED and endpoint.probed:
            raise AssertionError("!sdev->probe_done")
        if endpoint.told:
            if self.conveyance is Conveyance.CURRENT:
                text = "virtio_iommu_set_host_iova_ranges virtio-iommu does not support aliased BDF"
                return Outcome(False, False, False, False, errno.EINVAL, text)
            if not all(range_ in endpoint.host for range_ in new):
                who = f"IOMMU mr={endpoint.name}"
                if self.conveyance is Conveyance.SEED:
                    who = "virtio_iommu_set_host_iova_ranges"
                text = f"{who} Conflicting host reserved ranges set!"
                return Outcome(False, False, False, False, errno.EINVAL, text)
            # Every new range lies within an old one: the list does not change.
            return Outcome(True, False, True, False)
        if endpoint.probed and self.conveyance is Conveyance.MEMORY_REGION_2023:
            warning = f"{endpoint.name}: Notified about new host reserved regions after probe"
        endpoint.host = new
        endpoint.told = bool(new)
        return Outcome(True, False, True, False, warning=warning)

    def _endpoint(self, aliased: Bdf) -> _Endpoint:
        aliased = arguments.instance(aliased, "aliased", Bdf)
        if aliased not in self._endpoints:
            name = f"virtio-iommu-memory-region-{self._next_index}-{aliased.devfn}"
            self._endpoints[aliased] = _Endpoint(name)
            self._next_index += 1
        return self._endpoints[aliased]
