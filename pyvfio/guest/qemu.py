"""QEMU's own results, hazards and all, to compare with: what it asks devices to log, its trace lines and its messages.

Nothing here is advice; :mod:`pyvfio.guest.plan` is.  The arithmetic is that of hw/vfio/listener.c (before 2025
hw/vfio/common.c), read from 8.0 to 10.2; where versions differ, the version is a parameter.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from pyvfio.guest.limits import core_start
from pyvfio.guest.sections import Dropped, MemorySection, Reason, trim
from pyvfio.iova import IovaRange

_U32_LAST = 2**32 - 1
_U64 = 2**64
_U64_LAST = _U64 - 1

VFIO_DEVICE_FEATURE = 0x3B75
_GET, _SET, _PROBE = 1 << 16, 1 << 17, 1 << 18
_DMA_LOGGING_START, _DMA_LOGGING_STOP, _DMA_LOGGING_REPORT = 6, 7, 8
_FEATURE_SIZE = 8
_CONTROL_SIZE = 24
_RANGE_SIZE = 16
_REPORT_SIZE = 32


class Algorithm(Enum):
    """How QEMU has chosen the ranges over time."""

    SPLIT_32_64 = "min32/min64"
    """62c1b0024b (March 2023): QEMU 8.0, 8.1."""
    ALL_PCI = "every vfio-pci section in one pci range"
    """A proposal of 7 September 2023, superseded: it overlaps the 32-bit range where BARs lie below 4 GiB (SeaBIOS)."""
    SPLIT_32_64_PCI = "min32/min64/minpci64"
    """a31fe5daea (September 2023): QEMU 8.2 to 10.2."""


class Era(Enum):
    """Which QEMU's texts."""

    SEED = "2023"
    CURRENT = "since 9.1"


class Pair(NamedTuple):
    """A lowest and a highest address; untouched, the lowest is all ones and the highest 0."""

    min: int
    max: int

    def with_(self, start: int, last: int) -> Pair:
        """The pair stretched over these addresses."""
        return Pair(min(self.min, start), max(self.max, last))

    def __str__(self) -> str:
        return f"[0x{self.min:x} - 0x{self.max:x}]"


class Tracking(NamedTuple):
    """What QEMU works out for an address space at the start of a migration."""

    algorithm: Algorithm
    page_size: int
    pairs: dict[str, Pair]
    """The pairs by the name that the trace gives them, in the order of the request."""
    updates: list[str]
    """A vfio_device_dirty_tracking_update line for each section that counts, in order."""
    dropped: list[Dropped]
    log: list[str]
    """All trace and error lines in order, each with its event's name first, the start line last."""

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The (iova, length) that QEMU asks for.  They may overlap, and the length of all 2^64 bytes is 0."""
        return [(pair.min, (pair.max - pair.min + 1) % _U64) for pair in self.pairs.values() if pair.max]

    @property
    def start_line(self) -> str:
        """The vfio_device_dirty_tracking_start line; QEMU prints none if there is nothing to track."""
        pairs = ", ".join(f"{name}:{pair}" for name, pair in self.pairs.items())
        return f"nr_ranges {len(self.ranges)} {pairs}"

    def prepare(self) -> StartRequest:
        """The request that is made of the ranges.

        :raises OSError: ENOMEM if there are none: QEMU takes the empty allocation for a failed one, and calls no ioctl
        """
        if not self.ranges:
            raise OSError(errno.ENOMEM, f"Failed to prepare DMA logging: {os.strerror(errno.ENOMEM)}")
        return StartRequest(self.ranges, self.page_size)

    def kernel_errno(self) -> int:
        """What the kernel's core answers to the request; QEMU makes none without ranges."""
        return core_start(self.ranges, self.page_size, self.page_size)


def track(
    sections: Iterable[MemorySection],
    algorithm: Algorithm = Algorithm.SPLIT_32_64_PCI,
    page_size: int = 4096,
) -> Tracking:
    """The replay of an address space through QEMU's temporary listener, bug for bug.

    :param sections: in the order in which QEMU's flat view has them
    :param page_size: the host's page size, which is also what the request asks for
    """
    pairs = {"32": Pair(_U32_LAST, 0), "64": Pair(_U64_LAST, 0)}
    third = {Algorithm.ALL_PCI: "pci", Algorithm.SPLIT_32_64_PCI: "pci64"}.get(algorithm)
    if third:
        pairs[third] = Pair(_U64_LAST, 0)
    updates: list[str] = []
    dropped: list[Dropped] = []
    log: list[str] = []
    for section in sections:
        pages = trim(section, page_size)
        if isinstance(pages, Reason):
            dropped.append(Dropped(section, pages))
            log += dropped_line(section, pages, page_size, "tracking_update")
            continue
        name = _pair_for(section, pages, algorithm)
        pairs[name] = pairs[name].with_(*pages)
        updates.append(f"section 0x{pages.start:x} - 0x{pages.last:x} -> update {pairs[name]}")
        log.append(f"vfio_device_dirty_tracking_update {updates[-1]}")
    made = Tracking(algorithm, page_size, pairs, updates, dropped, log)
    if made.ranges:
        log.append(f"vfio_device_dirty_tracking_start {made.start_line}")
    return made


def _pair_for(section: MemorySection, pages: IovaRange, algorithm: Algorithm) -> str:
    if section.device and algorithm is Algorithm.ALL_PCI:
        return "pci"
    if section.device and algorithm is Algorithm.SPLIT_32_64_PCI and pages.start >= _U32_LAST:
        return "pci64"
    return "32" if pages.last <= _U32_LAST else "64"


def dropped_line(section: MemorySection, reason: Reason, page_size: int, event: str) -> list[str]:
    """What QEMU prints of a section that does not count: a trace line, an error, or nothing.

    :param event: ``region_add``, ``region_del`` or ``tracking_update``
    """
    if reason in (Reason.NOT_RAM_NOR_IOMMU, Reason.PROTECTED, Reason.SPURIOUS):
        last = (section.iova + section.size - 1) % _U64
        return [f"vfio_listener_region_skip SKIPPING {event} 0x{section.iova:x} - 0x{last:x}"]
    if reason is Reason.MISALIGNED:
        offset = section.offset or 0
        if section.owner == "tpm-crb":
            return [
                f'vfio_known_safe_misalignment Region "{section.name}" iova=0x{section.iova:x} '
                f"offset_within_region=0x{offset:x} qemu_real_host_page_size=0x{page_size:x}"
            ]
        return [
            f"vfio_listener_valid_section received unaligned region {section.name} iova=0x{section.iova:x} "
            f"offset_within_region=0x{offset:x} qemu_real_host_page_size=0x{page_size:x}"
        ]
    return []


def read_sections(log: str) -> list[MemorySection]:
    """The sections that a QEMU log's vfio_device_dirty_tracking_update lines name, as plain memory.

    For a QEMU run with ``-trace 'vfio_device_dirty_tracking*'``, any log format, any version from 8.0 on.
    """
    found = re.findall(r"section 0x([0-9a-f]+) - 0x([0-9a-f]+) -> update", log)
    return [MemorySection(int(start, 16), int(last, 16) - int(start, 16) + 1) for start, last in found]


def read_start(log: str) -> list[IovaRange]:
    """The ranges that QEMU asked for, from the last vfio_device_dirty_tracking_start line of a log; none without one."""
    lines = re.findall(r"nr_ranges \d+ (.*)", log)
    pairs = re.findall(r"\w+:\[0x([0-9a-f]+) - 0x([0-9a-f]+)\]", lines[-1]) if lines else []
    return sorted(IovaRange(int(low, 16), int(high, 16)) for low, high in pairs if int(high, 16))


class Control(NamedTuple):
    """The fields of struct vfio_device_feature_dma_logging_control but the pointer to the ranges."""

    page_size: int
    num_ranges: int
    reserved: int = 0


class StartRequest(NamedTuple):
    """VFIO_DEVICE_FEATURE with DMA_LOGGING_START as QEMU fills it in; the ranges lie apart, behind a pointer."""

    ranges: Sequence[tuple[int, int]]
    page_size: int

    @property
    def argsz(self) -> int:
        """Bytes of the header and the control struct."""
        return _FEATURE_SIZE + _CONTROL_SIZE

    @property
    def flags(self) -> int:
        """SET and the feature's number."""
        return _SET | _DMA_LOGGING_START

    @property
    def control(self) -> Control:
        """The control struct."""
        return Control(self.page_size, len(self.ranges))

    @property
    def range_bytes(self) -> int:
        """Bytes of the array of ranges."""
        return len(self.ranges) * _RANGE_SIZE


class StopRequest(NamedTuple):
    """VFIO_DEVICE_FEATURE with DMA_LOGGING_STOP: the header alone."""

    argsz: int = _FEATURE_SIZE
    flags: int = _SET | _DMA_LOGGING_STOP


class ReportRequest(NamedTuple):
    """VFIO_DEVICE_FEATURE with DMA_LOGGING_REPORT, and the bitmap that QEMU allocates for it.

    The bitmap is zeroed by the caller: the kernel only sets bits, and every device of the container ORs into the same
    one.
    """

    iova: int
    length: int
    page_size: int

    @property
    def argsz(self) -> int:
        """Bytes of the header and the report struct."""
        return _FEATURE_SIZE + _REPORT_SIZE

    @property
    def flags(self) -> int:
        """GET and the feature's number."""
        return _GET | _DMA_LOGGING_REPORT

    @property
    def bitmap(self) -> Bitmap:
        """The bitmap's size."""
        return bitmap_size(self.length, self.page_size)


PROBE_START = _PROBE | _SET | _DMA_LOGGING_START
"""The flags by which QEMU asks whether a device logs at all."""


class Bitmap(NamedTuple):
    """The size of a dirty bitmap."""

    pages: int
    bytes: int
    """Whole 64-bit words."""


def bitmap_size(size: int, page_size: int) -> Bitmap:
    """The bitmap for ``size`` bytes (vfio_bitmap_alloc): one bit a page, rounded up to 64."""
    pages = -(-size // page_size)
    return Bitmap(pages, -(-pages // 64) * 8)


def query_line(iova: int, size: int, start: int, dirty_pages: int, page_size: int = 4096) -> str:
    """The trace line of one dirty bitmap query (vfio_container_query_dirty_bitmap); the blank after ``size=`` is
    QEMU's.

    :param start: the guest's RAM address of the first page
    """
    bitmap = bitmap_size(size, page_size).bytes
    return f"iova=0x{iova:x} size= 0x{size:x} bitmap_size=0x{bitmap:x} start=0x{start:x} dirty_pages={dirty_pages}"


def query_of(section: MemorySection, page_size: int = 4096) -> tuple[int, int]:
    """The (iova, length) that QEMU asks a report of for one section: the start rounded up, the size as it is."""
    return -(-section.iova // page_size) * page_size, section.size


class Device(NamedTuple):
    """An assigned device when logging is started."""

    name: str
    tracking: bool = False
    """It logs already."""
    start: int = 0
    """The errno that its START would give."""
    stop: int = 0
    """The errno that its STOP would give."""


class Started(NamedTuple):
    """What starting DMA logging on all devices of a container has come to."""

    ok: bool
    calls: list[str]
    """``START name`` and ``STOP name``, in order."""
    tracking: dict[str, bool]
    """Each device's flag afterwards."""
    messages: list[str]
    """The error's lines, the first one first; since 2024 there is one."""
    warnings: list[str]


def start_all(devices: Sequence[Device], era: Era = Era.CURRENT) -> Started:
    """Start logging on every device that does not log yet; at the first failure stop *all*, those that logged before
    too.

    There is no retry with fewer ranges and no falling back to the IOMMU's dirty tracking.
    """
    calls: list[str] = []
    tracking = {device.name: device.tracking for device in devices}
    messages: list[str] = []
    warnings: list[str] = []
    for device in devices:
        if device.tracking:
            continue
        calls.append(f"START {device.name}")
        if device.start:
            messages = start_failure(device.name, device.start, era)
            break
        tracking[device.name] = True
    if messages:
        for device in devices:
            if not tracking[device.name]:
                continue
            calls.append(f"STOP {device.name}")
            if device.stop:
                printed = device.stop if era is Era.CURRENT else -device.stop
                warnings.append(
                    f"{device.name}: Failed to stop DMA logging, err {printed} ({os.strerror(device.stop)})"
                )
            tracking[device.name] = False
    return Started(not messages, calls, tracking, messages, warnings)


def start_failure(name: str, number: int, era: Era = Era.CURRENT) -> list[str]:
    """What QEMU prints when a device refuses to start logging."""
    text = os.strerror(number)
    if era is Era.SEED:
        return [
            f"{name}: Failed to start DMA logging, err -{number} ({text})",
            f"vfio: Could not start dirty page tracking, err: -{number} ({text})",
        ]
    return [f"vfio: Could not start dirty page tracking - {name}: Failed to start DMA logging: {text}"]


class Backend(Enum):
    """Who tracks dirty pages in a migration."""

    DEVICE = "device"
    """Every device logs its own DMA."""
    CONTAINER = "container"
    """The IOMMU's dirty tracking (iommufd's HWPT, or type1's pinned pages)."""
    NONE = "none"
    """Nobody: everything counts as dirty."""


class Tracker(NamedTuple):
    """What QEMU knows of a device before a migration."""

    supported: bool
    """It answered the probe for DMA_LOGGING_START."""
    option: str = "auto"
    """Its x-device-dirty-page-tracking: ``auto``, ``on`` or ``off``."""


def backend(devices: Sequence[Tracker], container_supports: bool) -> Backend:
    """Who tracks: the devices if all can and none was told not to, else the container.  Decided before anything starts."""
    if all(device.supported and device.option != "off" for device in devices):
        return Backend.DEVICE
    return Backend.CONTAINER if container_supports else Backend.NONE


class Query(NamedTuple):
    """What a dirty bitmap query comes to."""

    ioctls: int
    marked: tuple[int, int] | None
    """The (guest RAM address, size) that is marked dirty unseen."""


def query(all_devices: bool, container: bool, ram_address: int, size: int, devices: int = 1) -> Query:
    """A query of one section: without anyone who tracks, all of it is marked dirty and no ioctl is made."""
    if all_devices:
        return Query(devices, None)
    if container:
        return Query(1, None)
    return Query(0, (ram_address, size))


class OneShotListener:
    """The listener by which QEMU sees the address space once, when logging starts (62c1b0024b, QEMU 8.0 on).

    Registering it replays all sections at once; it is unregistered right after and has no callback for what goes.
    """

    callbacks = ("region_add",)

    def __init__(self) -> None:
        self.registered = False
        self.fixed_at: str | None = None
        """The event after which the ranges do not change; None before."""
        self.sections: list[MemorySection] = []

    def register(self) -> None:
        """Begin; what was seen in an earlier run is forgotten."""
        self.registered = True
        self.fixed_at = None
        self.sections = []

    def region_add(self, section: MemorySection) -> bool:
        """A section appears; returns whether it is seen."""
        if self.registered:
            self.sections.append(section)
        return self.registered

    def unregister(self) -> None:
        """End."""
        self.registered = False
        self.fixed_at = "unregister"

    def tracking(self, algorithm: Algorithm = Algorithm.SPLIT_32_64_PCI, page_size: int = 4096) -> Tracking:
        """What the sections seen come to."""
        return track(self.sections, algorithm, page_size)


SYSTEM_MEMORY = "address_space_memory"
_VIOMMU_TEXT = "Migration is currently not supported with vIOMMU enabled"


def viommu_blocker(address_spaces: Iterable[str], device: str | None = None) -> str | None:
    """The message by which QEMU blocks migration because of a virtual IOMMU; None if it does not.

    What counts is that an address space is not the system's memory: a vIOMMU that is present but switched off, or in
    passthrough mode, blocks too.

    :param address_spaces: of all containers for QEMU 8.1 (e46883204c), where the blocker is global; of the device's own
        for 8.2 to 10.2 (3c26c80a0a)
    :param device: the device that the message names, since 8.2
    """
    if all(space == SYSTEM_MEMORY for space in address_spaces):
        return None
    return f"{device}: {_VIOMMU_TEXT}" if device else _VIOMMU_TEXT


class MapFailure(NamedTuple):
    """What QEMU does when a DMA mapping fails."""

    fatal: bool
    level: str
    """How it is reported."""
    how: str
    """What follows."""
    hint: str | None = None


def map_failure(*, ram_device: bool, at_init: bool = False, device: str = "") -> MapFailure:
    """What QEMU (10.2) does about a failed map: it goes on without a BAR, and cannot without RAM.

    :param ram_device: the section is a BAR or other device memory
    :param at_init: the machine, or the device, is just being made
    :param device: the PCI device that owns the BAR; QEMU's hint names it
    """
    if ram_device:
        hint = f"{device}: PCI peer-to-peer transactions on BARs are not supported." if device else None
        return MapFailure(False, "warning, once per process", "the BAR stays unmapped", hint)
    if at_init:
        return MapFailure(True, "error", "device realize fails with the first error")
    return MapFailure(True, "error", 'hw_error("vfio: DMA mapping failed, unable to continue") aborts')


def width_refusal(viommu_bits: int, host_bits: int) -> str | None:
    """intel-iommu's refusal of a host whose IOMMU is narrower than itself (vtd_check_hiod, 9.1 on); None if it fits."""
    return f"aw-bits {viommu_bits} > host aw-bits {host_bits}" if viommu_bits > host_bits else None


def to_user(message: str, device: str = "") -> str:
    """An error of a virtual IOMMU as the user of -device vfio-pci reads it."""
    return f"Failed to set vIOMMU: {device}: {message}" if device else f"Failed to set vIOMMU: {message}"
