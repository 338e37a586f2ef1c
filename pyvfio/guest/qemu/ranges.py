# SPDX-License-Identifier: MIT
"""The ranges that QEMU asks devices to log, and the trace lines that it prints while it computes them.

The arithmetic is that of hw/vfio/listener.c (before 10.1 hw/vfio/common.c). It has changed over time:

=========  ============================================================================================
8.0, 8.1   two ranges, :attr:`Algorithm.SPLIT_32_64`
8.2        a third range for assigned PCI devices' BARs above 4 GiB, :attr:`Algorithm.SPLIT_32_64_PCI`
11.0       read-only sections are skipped (5c9da3d65dfb). A PC's BIOS ends at 4 GiB, so the 32-bit range no longer does
=========  ============================================================================================

It is not known whether a stable update of 10.2 after 10.2.2 skips read-only sections too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable
from enum import Enum
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.guest.limits import core_start
from pyvfio.guest.qemu.dirty_logging import StartRequest
from pyvfio.guest.qemu_release import NEWEST, release
from pyvfio.guest.sections import Dropped, MemorySection, Reason, tracks_read_only, trim
from pyvfio.iova import IovaRange

_U32_LAST = 2**32 - 1
_U64 = 2**64
_U64_LAST = _U64 - 1


class Algorithm(Enum):
    """QEMU's ways to choose the ranges, over time."""

    SPLIT_32_64 = "min32/min64"
    """62c1b0024b (March 2023): QEMU 8.0, 8.1."""
    ALL_PCI = "every vfio-pci section in one pci range"
    """A proposal of 7 September 2023, superseded: it overlaps the 32-bit range where BARs lie below 4 GiB (SeaBIOS)."""
    SPLIT_32_64_PCI = "min32/min64/minpci64"
    """a31fe5daea (September 2023): QEMU 8.2 to 11.1."""

    @classmethod
    def of(cls, version: str = NEWEST) -> Algorithm:
        """Return the algorithm of a version of QEMU.

        :param version: QEMU's, from "8.0" on
        :raises ValueError: the version is not known, or before 8.0, which does not log by the device
        """
        return cls.SPLIT_32_64 if release(version, since=(8, 0)) < (8, 2) else cls.SPLIT_32_64_PCI


class Pair(NamedTuple):
    """A lowest and a highest address. Initially the lowest is all ones and the highest 0."""

    min: int
    max: int

    def with_(self, start: int, last: int) -> Pair:
        """Return the pair stretched over these addresses.

        :param start: the first address
        :param last: the last address
        """
        return Pair(min(self.min, start), max(self.max, last))

    def __str__(self) -> str:
        return f"[0x{self.min:x} - 0x{self.max:x}]"


class Tracking(NamedTuple):
    """The ranges and log lines that QEMU computes for an address space at the start of a migration."""

    algorithm: Algorithm
    page_size: int
    pairs: dict[str, Pair]
    """The pairs by the name that the trace gives them, in the order of the request."""
    updates: list[str]
    """A vfio_device_dirty_tracking_update line for each section that counts, in order."""
    dropped: list[Dropped]
    log: list[str]
    """All trace and error lines in order, each with its event's name first, the start line last."""
    version: str = NEWEST
    """The version of QEMU."""

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The (iova, length) that QEMU asks for. They may overlap, and the length of all 2^64 bytes is 0."""
        return [(pair.min, (pair.max - pair.min + 1) % _U64) for pair in self.pairs.values() if pair.max]

    @property
    def start_line(self) -> str:
        """The vfio_device_dirty_tracking_start line; QEMU prints none if there is nothing to track."""
        pairs = ", ".join(f"{name}:{pair}" for name, pair in self.pairs.items())
        return f"nr_ranges {len(self.ranges)} {pairs}"

    def prepare(self) -> StartRequest:
        """Return the request for the ranges.

        :raises OSError: ENOMEM if there are no ranges: QEMU takes the empty allocation for a failed one, and makes no ioctl
        """
        if not self.ranges:
            raise OSError(errno.ENOMEM, f"Failed to prepare DMA logging: {os.strerror(errno.ENOMEM)}")
        return StartRequest(self.ranges, self.page_size)

    def kernel_errno(self) -> int:
        """Return the kernel core's answer to the request. Without ranges QEMU makes no request."""
        return core_start(self.ranges, self.page_size, self.page_size)


def track(
    sections: Iterable[MemorySection],
    algorithm: Algorithm | None = None,
    page_size: int = 4096,
    *,
    version: str = NEWEST,
    pending_intx: Collection[str] = (),
) -> Tracking:
    """Replay an address space through QEMU's temporary listener, bug for bug.

    If a device has raised an INTx that the guest has not acknowledged yet, QEMU has its BARs unmapped, to notice the acknowledgement. A
    migration that starts at that moment does not track them (vfio_mmap_set_enabled in hw/vfio/pci.c; run with 11.1.3).

    :param sections: the sections, in the order of QEMU's flat view
    :param algorithm: QEMU's algorithm; by default that of the version
    :param page_size: the host's page size, which the request asks for too
    :param version: QEMU's; up to "10.2" read-only sections are tracked too
    :param pending_intx: the assigned devices (:attr:`MemorySection.device`) whose INTx waits to be acknowledged
    :raises ValueError: the version is not known, or before 8.0, which does not log by the device
    """
    page_size = arguments.page_size(page_size)
    usual = Algorithm.of(version)
    algorithm = usual if algorithm is None else arguments.member(algorithm, "algorithm", Algorithm)
    read_only = tracks_read_only(version)
    if isinstance(pending_intx, str):
        raise arguments.wrong_type(pending_intx, "pending_intx", "a collection of devices' names")
    pending_intx = arguments.strings(pending_intx, "pending_intx")
    sections = arguments.instances(sections, "sections", MemorySection)
    pairs = {"32": Pair(_U32_LAST, 0), "64": Pair(_U64_LAST, 0)}
    third = {Algorithm.ALL_PCI: "pci", Algorithm.SPLIT_32_64_PCI: "pci64"}.get(algorithm)
    if third:
        pairs[third] = Pair(_U64_LAST, 0)
    updates: list[str] = []
    dropped: list[Dropped] = []
    log: list[str] = []
    for section in sections:
        pages = trim(section, page_size, readonly=read_only)
        if section.device and section.device in pending_intx:
            pages = Reason.NOT_RAM_NOR_IOMMU
        if isinstance(pages, Reason):
            dropped.append(Dropped(section, pages))
            log += dropped_line(section, pages, page_size, "tracking_update")
            continue
        name = _pair_for(section, pages, algorithm)
        pairs[name] = pairs[name].with_(*pages)
        updates.append(f"section 0x{pages.start:x} - 0x{pages.last:x} -> update {pairs[name]}")
        log.append(f"vfio_device_dirty_tracking_update {updates[-1]}")
    made = Tracking(algorithm, page_size, pairs, updates, dropped, log, version)
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
    """Return the lines that QEMU prints about a section that does not count: a trace line, an error, or nothing.

    :param section: the section
    :param reason: the reason why it does not count
    :param page_size: the host's page size, bytes
    :param event: `region_add`, `region_del` or `tracking_update`
    """
    section = arguments.instance(section, "section", MemorySection)
    reason, page_size = arguments.member(reason, "reason", Reason), arguments.page_size(page_size)
    arguments.choice(event, "event", ("region_add", "region_del", "tracking_update"))
    if reason in (Reason.NOT_RAM_NOR_IOMMU, Reason.PROTECTED, Reason.READ_ONLY, Reason.SPURIOUS):
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


class OneShotListener:
    """The listener with which QEMU reads the address space once, when logging starts (62c1b0024b, QEMU 8.0 on).

    Registering it replays all sections at once. It is unregistered right after that, and has no callback for sections that disappear.
    """

    callbacks = ("region_add",)

    def __init__(self) -> None:
        self.registered = False
        self.fixed_at: str | None = None
        """The event after which the ranges do not change; None before that."""
        self.sections: list[MemorySection] = []

    def register(self) -> None:
        """Begin a run, and drop the sections of an earlier run."""
        self.registered = True
        self.fixed_at = None
        self.sections = []

    def region_add(self, section: MemorySection) -> bool:
        """Report a section that appears; return whether the listener sees it.

        :param section: the section
        """
        section = arguments.instance(section, "section", MemorySection)
        if self.registered:
            self.sections.append(section)
        return self.registered

    def unregister(self) -> None:
        """End the run."""
        self.registered = False
        self.fixed_at = "unregister"

    def tracking(self, algorithm: Algorithm | None = None, page_size: int = 4096, *, version: str = NEWEST) -> Tracking:
        """Return the ranges for the sections that were seen.

        :param algorithm: QEMU's algorithm; None for that of the version
        :param page_size: the host's page size, bytes
        :param version: QEMU's
        """
        return track(self.sections, algorithm, page_size, version=version)
