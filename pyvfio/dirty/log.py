# SPDX-License-Identifier: MIT
"""DMA logging: devices record the pages that they write."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

from pyvfio._abi import ffi
from pyvfio._buffer import Object
from pyvfio._core.arguments import instance, u64, wrong_type
from pyvfio._core.request import Reason
from pyvfio._core.resource import Attempts, Resource
from pyvfio._core.text import ranges as shown
from pyvfio._core.text import size, span
from pyvfio.bitmap import DirtyBitmap, Segment
from pyvfio.errors import BadReply, Closed, InvalidRequest, RequestError
from pyvfio.feature import Feature
from pyvfio.iova import WHOLE, IovaRange, IovaSet, RangeLike, as_range, as_ranges

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.guest.planning import Plan

__all__ = ["DirtyLog", "dirty_log"]

#: The smallest page size that the kernel can report. DMA_LOGGING_START also accepts smaller ones, and sizes that are no power of two.
_SMALLEST_PAGE = 4096


class Asked(NamedTuple):
    """The facts about a log that could not be started: the device, the ranges and the page size."""

    address: str
    ranges: tuple[IovaRange, ...]
    page_size: int

    @property
    def total(self) -> int:
        """The sum of the sizes of the ranges in bytes."""
        return sum(range_.size for range_ in self.ranges)


def _bad_ranges(asked: Asked) -> Reason:
    if not asked.ranges:
        return Reason("there are no ranges to log")
    if wrong := [range_ for range_ in asked.ranges if not range_.is_aligned(asked.page_size)]:
        return Reason(f"{shown(wrong)} is not aligned to pages of {size(asked.page_size)}")
    for one, other in itertools.pairwise(sorted(asked.ranges)):
        if one.overlaps(other):
            return Reason(f"{span(one)} and {span(other)} overlap")
    return Reason(
        "most likely the device is being logged already, through a descriptor that was not opened here",
        (f'pyvfio.host.holders_of("{asked.address}") finds the process',),
    )


def _too_large(asked: Asked) -> Reason:
    return Reason(
        f"{len(asked.ranges)} ranges of {size(asked.total)} in all (2^{(asked.total - 1).bit_length()}) are more than the device "
        "can log",
        (
            "devices limit the sum of the ranges (mlx5: often 2^42 bytes), and a device that takes few ranges joins those that "
            "are close to each other, gaps included: leave out gaps, above all the one below 64-bit PCI BARs",
        ),
    )


def _too_many(asked: Asked) -> Reason:
    return Reason(
        f"{len(asked.ranges)} ranges are more than the kernel, or the device, takes",
        ("the kernel takes a page of them, 256 where pages have 4 KiB; IovaSet.coalesce(limit) joins the nearest",),
    )


def _cannot_log(asked: Asked) -> Reason:
    return Reason(
        f"{asked.address} cannot log DMA: its driver lacks DMA_LOGGING_START; AddressSpace.track_dirty() uses the IOMMU where that can",
        unsupported=True,
    )


START_OVERFLOW = "a range reaches the last byte of the 64-bit address space, so that its end cannot be expressed"
START = Feature(
    "SET DMA_LOGGING_START",
    errnos={
        errno.EINVAL: _bad_ranges,
        errno.E2BIG: _too_many,
        errno.EOPNOTSUPP: _too_large,
        errno.EOVERFLOW: START_OVERFLOW,
        errno.ENOTTY: _cannot_log,
    },
)
STOP = Feature("SET DMA_LOGGING_STOP")
REPORT = Feature(
    "GET DMA_LOGGING_REPORT",
    default=Reason(
        None,
        ("pages that other devices and ranges reported in this read are in the given bitmap, or in the next read",),
    ),
)


class DirtyLog(Resource):
    """A session of DMA logging on one or several devices: all of them log, or none does. Since Linux 6.1.

    Logging starts with the construction: VFIO_DEVICE_FEATURE_DMA_LOGGING_START, `struct vfio_device_feature_dma_logging_control`.
    It ends with :meth:`stop`, `close`, the end of a `with`, or when the first of the devices is closed. The ranges are fixed while
    it runs. Pages that were written before the start are not reported.

    :param devices: one or more; each logs all of the ranges
    :param ranges: the ranges to log, as :func:`pyvfio.iova.as_ranges` takes them; aligned to `page_size`, not overlapping
    :param page_size: bytes, a power of two from 4096; a device may choose another, see :attr:`page_size`
    :raises Unsupported: a device cannot log
    :raises InvalidRequest: an invalid page size (the kernel accepts it), a device that is already logging, ranges that are
        not aligned to the page size that a device chose
    :raises OSError: EINVAL without ranges, or for misaligned or overlapping ones; E2BIG for more ranges than the kernel (256 with
        pages of 4 KiB) or the device accepts; EOPNOTSUPP if their total is more than the device can log; EOVERFLOW for a range
        that ends at 2^64-1

    :ivar devices: the devices
    :ivar ranges: the logged ranges, sorted
    :ivar page_size: bytes per bit of a report, as the device chose; the smallest one of several devices
    """

    def __init__(
        self, devices: Sequence[Device], ranges: RangeLike | Iterable[RangeLike], page_size: int = 4096
    ) -> None:
        self.devices = _devices(devices)
        self.ranges = tuple(sorted(as_ranges(ranges, "ranges")))
        self.page_size = page_size = u64(page_size, "page_size")
        if WHOLE in self.ranges:
            # Its length does not fit in the 64 bits of the struct, and would reach the kernel as 0.
            raise InvalidRequest(errno.EOVERFLOW, f"{span(WHOLE)} cannot be logged: {START_OVERFLOW}")
        if not self.devices:
            raise ValueError("devices must have one device or more")
        if len(set(self.devices)) < len(self.devices):
            raise ValueError("a device is named twice")
        if len({id(device.file.kernel) for device in self.devices}) > 1:
            raise InvalidRequest("the devices are of different kernels; each kernel takes a log of its own")
        if page_size < _SMALLEST_PAGE or page_size & (page_size - 1):
            raise InvalidRequest(f"page_size={page_size:#x}: it must be a power of two, {size(_SMALLEST_PAGE)} or more")
        for device in self.devices:
            if device._log is not None:
                raise InvalidRequest(f"{device.address} is being logged already: {device._log!r}; stop that first")
        super().__init__(None)
        self._covered = IovaSet(self.ranges)
        #: bitmaps of reads that failed halfway, with the pages that some devices had reported; the next read returns them
        self._kept: list[DirtyBitmap] = []
        #: the devices, each with an Object that is present once the kernel has started its log
        self._started: list[tuple[Device, Object]] = []
        try:
            sizes = [self._start(device, page_size) for device in self.devices]
            self.page_size = self._agreed(sizes)
        except BaseException as failure:
            started = [device for device, made in self._started if made.present]
            self._started.clear()
            for device in reversed(started):
                try:
                    STOP.exchange(device.file)
                except Exception as undoing:
                    failure.add_note(f"stopping the log of {device.address} again failed too: {undoing}")
            raise
        for device in self.devices:
            self._live_under(device)

    def _register(self) -> None:
        for device in self.devices:
            device._log = self
        super()._register()

    @classmethod
    def planned(cls, devices: Sequence[Device], plan: Plan) -> Self:
        """Start with the ranges of a plan (:mod:`pyvfio.guest.planning`); with fewer, as the plan says, if a device has too many (E2BIG).

        If their total is too large (EOPNOTSUPP), that is final: joining ranges only makes it larger.

        :param devices: one or more
        :param plan: the plan
        :raises OSError: as for :class:`DirtyLog`; E2BIG if the device does not accept a single range
        """
        if not all(hasattr(plan, name) for name in ("ranges", "page_size", "after")):
            raise wrong_type(plan, "plan", "a Plan of pyvfio.guest.planning")
        tried: list[str] = []
        while True:
            try:
                return cls(devices, plan.ranges, plan.page_size)
            except RequestError as refusal:
                fewer = plan.after(refusal.errno or errno.EIO)
                if fewer is None:
                    if tried:
                        refusal.add_note(f"tried before, with more ranges: {', '.join(tried)}")
                    raise
                tried.append(str(len(plan.ranges)))
                plan = fewer

    def _start(self, device: Device, page_size: int) -> int:
        native = ffi.new("struct vfio_device_feature_dma_logging_range[]", max(len(self.ranges), 1))
        for index, range_ in enumerate(self.ranges):
            native[index].iova = range_.start
            native[index].length = range_.size
        control = ffi.new("struct vfio_device_feature_dma_logging_control *")
        control.page_size = page_size
        control.num_ranges = len(self.ranges)
        control.ranges = int(ffi.cast("uintptr_t", native))
        asked = Asked(device.address, self.ranges, page_size)
        arguments = {"ranges": self.ranges, "page_size": page_size}
        made = Object()
        self._started.append((device, made))
        START.receive(device.file, control, (None, made), arguments, lambda _: asked)
        return int(control.page_size)

    def _agreed(self, sizes: list[int]) -> int:
        """Check the page sizes that the devices chose, and return the smallest of them, the page size of the reports."""
        for device, page in zip(self.devices, sizes, strict=True):
            if page < _SMALLEST_PAGE or page & (page - 1):
                raise BadReply(f"{device.address} logs pages of {page:#x} bytes, which cannot be reported")
            for range_ in self.ranges:
                if not range_.is_aligned(page):
                    raise InvalidRequest(
                        f"{device.address} logs pages of {size(page)}, and {span(range_)} is not aligned to that; align the "
                        "ranges to it"
                    )
        return min(sizes)

    def read(self, range: RangeLike | None = None, *, into: DirtyBitmap | None = None) -> DirtyBitmap:
        """Return the pages written since the last read, and clear them. VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT.

        It makes one request for each device and range. If one of them fails, the next read returns the pages that the others reported.

        :param range: a part of the logged ranges, aligned to :attr:`page_size`; None for all
        :param into: a bitmap to add the pages to, instead of a new one; without `range`, the ranges of its segments are read
        :returns: the bitmap, one segment for each logged range that was asked for
        :raises InvalidRequest: the range is not aligned or not logged, for which the kernel would return a wrong report
        :raises Closed: the log has been stopped
        :raises OSError: from the device's driver
        """
        if self._closed:
            raise Closed(f"{self!r} is stopped")
        if into is not None and instance(into, "into", DirtyBitmap, "a pyvfio.DirtyBitmap").page_size != self.page_size:
            raise InvalidRequest(f"the bitmap has pages of {into.page_size:#x} bytes, the log of {self.page_size:#x}")
        if range is not None:
            pieces = self._pieces(as_range(range, "range"))
        elif into is not None:
            pieces = [piece for segment in into.segments for piece in self._pieces(segment.range)]
        else:
            pieces = list(self.ranges)
        direct = into is not None and [segment.range for segment in into.segments] == pieces
        bitmap = into if into is not None and direct else DirtyBitmap(pieces, self.page_size)
        try:
            for device in self.devices:
                for segment in bitmap.segments:
                    self._report(device, segment)
        except BaseException:
            if bitmap is not into:
                self._kept.append(bitmap)
            raise
        if self._kept:
            self._hand_out(bitmap)
        if into is not None and bitmap is not into:
            into |= bitmap
            return into
        return bitmap

    def _pieces(self, range_: IovaRange) -> list[IovaRange]:
        if not range_.is_aligned(self.page_size):
            raise InvalidRequest(f"{span(range_)} is not aligned to the log's pages of {size(self.page_size)}")
        if range_ not in self._covered:
            raise InvalidRequest(f"{span(range_)} is not logged as a whole; logged: {shown(self.ranges)}")
        parts = (logged.intersection(range_) for logged in self.ranges)
        return [part for part in parts if part is not None]

    def _report(self, device: Device, segment: Segment) -> None:
        report = ffi.new("struct vfio_device_feature_dma_logging_report *")
        report.iova = segment.range.start
        report.length = segment.range.size
        report.page_size = self.page_size
        report.bitmap = segment.address
        try:
            REPORT.exchange(device.file, report, {"range": segment.range, "page_size": self.page_size})
        finally:
            segment.check_guards()

    def _hand_out(self, bitmap: DirtyBitmap) -> None:
        """Add the pages of earlier reads that failed. A bitmap that this read does not cover completely is kept: some of its pages are
        reported twice then, which is harmless, and none is lost.
        """
        covered = IovaSet(bitmap.ranges)
        for kept in self._kept:
            for segment in bitmap.segments:
                for other in kept.segments:
                    segment._add(other)
        self._kept = [kept for kept in self._kept if IovaSet(kept.ranges) - covered]

    def stop(self) -> None:
        """Stop logging on every device and drop unread pages; no effect if stopped. VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP."""
        self.close()

    def _release(self) -> None:
        attempts = Attempts()
        for device in self.devices:
            if device._log is self and (device.file.closed or attempts.do(partial(_stop, device))):
                device._log = None
        attempts.raise_first(f"stopping {self!r}")

    def _has_gone(self) -> bool:
        return all(device._log is not self or device.file.closed for device in self.devices)

    def _undo(self) -> None:
        attempts = Attempts()
        for device, made in self.__dict__.get("_started", ()):
            if device._log is self:
                device._log = None
            if made.present:
                attempts.do(partial(_stop, device))
        attempts.raise_first(f"stopping {self!r}")

    def __repr__(self) -> str:
        names = ", ".join(device.address for device in self.devices)
        return f"<DirtyLog of {names}: {shown(self.ranges, 3)}{' (stopped)' if self.closed else ''}>"


def _stop(device: Device) -> None:
    STOP.exchange(device.file)


def _devices(devices: object) -> tuple[Device, ...]:
    """Return the devices of an argument, after checking the type of each."""
    if not isinstance(devices, Iterable) or isinstance(devices, str | bytes):
        raise wrong_type(devices, "devices", "a list of pyvfio.Device")
    found = tuple(devices)
    for device in found:
        if not hasattr(device, "dirty_log"):
            raise wrong_type(device, "each of devices", "a pyvfio.Device")
    return found


def dirty_log(devices: Sequence[Device], ranges: Iterable[IovaRange], page_size: int = 4096) -> DirtyLog:
    """Have several devices log together: all or none. See :class:`DirtyLog`.

    :param devices: one or more
    :param ranges: the IOVAs to log
    :param page_size: bytes for each bit; a device may choose another
    """
    return DirtyLog(devices, ranges, page_size)
