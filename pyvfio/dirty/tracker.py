# SPDX-License-Identifier: MIT
"""Dirty tracking of an address space: by the logs of its devices, by the IOMMU, or not at all."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pyvfio._abi import lib
from pyvfio._core.resource import Attempts, Resource
from pyvfio._core.text import ranges as shown
from pyvfio._core.text import size, span
from pyvfio.bitmap import DirtyBitmap, Segment
from pyvfio.dirty.log import DirtyLog
from pyvfio.errors import Closed, InvalidRequest
from pyvfio.iova import IovaRange, IovaSet

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.iommufd.hwpt import Hwpt
    from pyvfio.iommufd.ioas import Ioas
    from pyvfio.spaces.base import AddressSpace
    from pyvfio.spaces.container import Container

__all__ = ["ContainerTracking", "DeviceTracking", "DirtyTracker", "NoTracking", "PageTableTracking"]

PAGE_SIZE = 4096


class DirtyTracker(Resource):
    """The tracking of dirty pages that :meth:`AddressSpace.track_dirty` starts. It ends with :meth:`stop`, `close`, or the address space.

    :ivar ranges: the tracked ranges
    :ivar page_size: bytes per bit
    :cvar source: the source of the reports: `device`, `iommu`, or `nobody`, if every page is reported as dirty every time
    """

    source: ClassVar[Literal["device", "iommu", "nobody"]]

    def __init__(self, space: AddressSpace, ranges: Iterable[IovaRange], page_size: int) -> None:
        super().__init__(space)
        self.space = space
        self.ranges = tuple(IovaSet(ranges))
        self.page_size = page_size
        if not self.ranges:
            raise InvalidRequest("there are no ranges to track")
        for range_ in self.ranges:
            if not range_.is_aligned(page_size):
                raise InvalidRequest(f"{span(range_)} is not aligned to pages of {size(page_size)}")

    def read(self) -> DirtyBitmap:
        """Return the pages written since the last read, and clear them.

        :raises Closed: tracking has been stopped
        :raises OSError: from the device's or the IOMMU's driver
        """
        if self._closed:
            raise Closed(f"{self!r} is stopped")
        return self._read()

    def _read(self) -> DirtyBitmap:
        raise NotImplementedError

    def stop(self) -> None:
        """Stop tracking and drop unread pages; no effect if stopped."""
        self.close()

    def __repr__(self) -> str:
        return f"<DirtyTracker by {self.source}: {shown(self.ranges, 3)}{' (stopped)' if self.closed else ''}>"


class DeviceTracking(DirtyTracker):
    """Dirty tracking by the devices' own DMA logs; see :class:`pyvfio.DirtyLog`."""

    source = "device"

    def __init__(self, space: AddressSpace, ranges: Iterable[IovaRange], devices: list[Device]) -> None:
        super().__init__(space, ranges, PAGE_SIZE)
        self.log = DirtyLog(devices, self.ranges, PAGE_SIZE)
        self.page_size = self.log.page_size

    def _read(self) -> DirtyBitmap:
        return self.log.read()

    def _release(self) -> None:
        self.log.close()

    def _has_gone(self) -> bool:
        return self.log.closed

    def _undo(self) -> None:
        if "log" in self.__dict__:
            self.log.close()


class ContainerTracking(DirtyTracker):
    """Dirty tracking by a type1 container: exact for emulated devices; for others every pinned page is reported as dirty."""

    source = "iommu"

    def __init__(self, container: Container, ranges: Iterable[IovaRange]) -> None:
        self._started = False
        sizes = container.info.dirty_page_sizes or PAGE_SIZE
        super().__init__(container, ranges, sizes & -sizes)
        self._container = container
        self._started = True
        container.start_dirty_tracking()

    def _read(self) -> DirtyBitmap:
        bitmap = DirtyBitmap(self.ranges, self.page_size)
        wanted = IovaSet(self.ranges)
        for mapped in self._container.mapped_ranges:
            # The kernel reads whole mappings only. mapped_ranges joins mappings that touch, so each range consists of whole ones.
            if wanted.overlaps(mapped):
                part = self._container.read_dirty(mapped.start, mapped.size)
                for segment in bitmap.segments:
                    for other in part.segments:
                        segment._add(other)
        return bitmap

    def _release(self) -> None:
        if not self._container.gone:
            self._container.stop_dirty_tracking()

    def _has_gone(self) -> bool:
        return self._container.gone

    def _undo(self) -> None:
        if self._started:
            self._release()


class PageTableTracking(DirtyTracker):
    """Dirty tracking by the IOMMU.

    While it runs, the devices are attached to page tables allocated with IOMMU_HWPT_ALLOC_DIRTY_TRACKING; at the end they are attached to
    the address space again.
    """

    source = "iommu"

    def __init__(self, ioas: Ioas, ranges: Iterable[IovaRange], devices: list[Device]) -> None:
        super().__init__(ioas, ranges, PAGE_SIZE)
        self._ioas = ioas
        self._tables: list[tuple[Device, Hwpt]] = []
        for device in devices:
            table = ioas.hwpt(device, flags=lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
            self._tables.append((device, table))
            device.attach(table)
            table.set_dirty_tracking(True)

    def _read(self) -> DirtyBitmap:
        bitmap = DirtyBitmap(self.ranges, self.page_size)
        for _, table in self._tables:
            table.read_dirty_into(bitmap)
        return bitmap

    def _release(self) -> None:
        attempts = Attempts()
        for pair in list(self._tables):
            if attempts.do(partial(self._restore, *pair)):
                self._tables.remove(pair)
        attempts.raise_first(f"stopping {self!r}")

    def _restore(self, device: Device, table: Hwpt) -> None:
        if not device.file.closed and not self._ioas.closed and device.is_attached_to(table):
            device.attach(self._ioas)
        table.close()

    def _has_gone(self) -> bool:
        return self._ioas.gone

    def _undo(self) -> None:
        if "_tables" in self.__dict__:
            self._release()


class NoTracking(DirtyTracker):
    """No dirty tracking: every page is reported as dirty every time."""

    source = "nobody"

    def _read(self) -> DirtyBitmap:
        bitmap = DirtyBitmap(self.ranges, self.page_size)
        for segment in bitmap.segments:
            fill(segment)
        return bitmap


def fill(segment: Segment) -> None:
    """Mark all pages of a segment as dirty."""
    whole, rest = divmod(segment.page_count, 8)
    bits = segment.bits
    bits[:whole] = b"\xff" * whole
    if rest:
        bits[whole] = (1 << rest) - 1


def track(space: AddressSpace, ranges: Iterable[IovaRange]) -> DirtyTracker:
    """Start dirty tracking; see :meth:`AddressSpace.track_dirty`.

    The order is that of QEMU 10.2: by the devices if all of them can log, else by the IOMMU if it can track, else not at all.
    """
    devices = space.devices
    if not devices:
        raise InvalidRequest(f"{space!r} has no devices to track")
    # A list, not a generator: an exception that a signal handler raises while a generator is finalized is lost.
    if not [one for one in devices if not one.features.probe(lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, set=True)]:
        return DeviceTracking(space, ranges, devices)
    return space._track_by_iommu(ranges, devices) or NoTracking(space, ranges, PAGE_SIZE)


def iommu_tracks(device: Device) -> bool:
    """Whether the IOMMU of a device can track dirty pages (IOMMU_HW_CAP_DIRTY_TRACKING)."""
    try:
        return device.bound.hw_info().dirty_tracking
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENOTTY):
            return False  # ENOENT: an emulated device, without an IOMMU. The others: the kernel or the IOMMU's driver does not report it
        raise
