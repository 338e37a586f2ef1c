# SPDX-License-Identifier: MIT
"""The requests that QEMU makes for dirty page logging, as it fills them in, and the sizes of its bitmaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.guest.sections import MemorySection

VFIO_DEVICE_FEATURE = 0x3B75
_GET, _SET, _PROBE = 1 << 16, 1 << 17, 1 << 18
_DMA_LOGGING_START, _DMA_LOGGING_STOP, _DMA_LOGGING_REPORT = 6, 7, 8
_FEATURE_SIZE = 8
_CONTROL_SIZE = 24
_RANGE_SIZE = 16
_REPORT_SIZE = 32


class Control(NamedTuple):
    """The fields of struct vfio_device_feature_dma_logging_control, without the pointer to the ranges."""

    page_size: int
    num_ranges: int
    reserved: int = 0


class StartRequest(NamedTuple):
    """VFIO_DEVICE_FEATURE with DMA_LOGGING_START as QEMU fills it in. The ranges are a separate array, to which it has a pointer."""

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


@arguments.checked(iova=arguments.u64, length=arguments.within(0, 2**64), page_size=arguments.page_size)
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
"""The flags with which QEMU probes whether a device logs at all."""


class Bitmap(NamedTuple):
    """The size of a dirty bitmap."""

    pages: int
    bytes: int
    """Whole 64-bit words."""


def bitmap_size(size: int, page_size: int) -> Bitmap:
    """Return the size of the bitmap for `size` bytes (vfio_bitmap_alloc): one bit a page, rounded up to 64.

    :param size: bytes of the range that the bitmap describes
    :param page_size: bytes per bit
    """
    size, page_size = arguments.integer(size, "size", 0, 2**64), arguments.page_size(page_size)
    pages = -(-size // page_size)
    return Bitmap(pages, -(-pages // 64) * 8)


def query_of(section: MemorySection, page_size: int = 4096) -> tuple[int, int]:
    """Return the (iova, length) for which QEMU requests a report of one section: the start rounded up, the size unchanged.

    :param section: the section
    :param page_size: the host's page size, bytes
    """
    section = arguments.instance(section, "section", MemorySection)
    page_size = arguments.page_size(page_size)
    return -(-section.iova // page_size) * page_size, section.size
