# SPDX-License-Identifier: MIT
"""The limits of DMA logging: the answers of the kernel and of device drivers to VFIO_DEVICE_FEATURE_DMA_LOGGING_START.

The kernel's core checks the request (:func:`core_start`, :func:`core_report`); then the driver may combine ranges,
clamp the page size, or refuse the total. :class:`Limits` describes a driver's behaviour as data; :func:`mlx5` and :func:`pds`
return the limits of the two drivers that log in Linux 7.3, and :data:`CORE` is a device without limits of its own. The other drivers
that migrate (virtio, QAT, xe, HiSilicon) do not log: ENOTTY.

All sizes are bytes; errors are the numbers of :mod:`errno`, 0 for success.
"""

from __future__ import annotations

import errno
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

from pyvfio._core import arguments, html
from pyvfio._core.sizes import about
from pyvfio.iova import IovaRange, as_ranges

__all__ = [
    "CORE",
    "MLX5",
    "NAMED",
    "PDS",
    "Answer",
    "Limits",
    "PdsRegion",
    "combine",
    "core_report",
    "core_start",
    "mlx5",
    "mlx5_start_as_merged",
    "most_ranges",
    "pds",
    "pds_regions",
    "space_log2",
]

_U64 = 2**64
_RANGE_STRUCT_SIZE = 16


def most_ranges(host_page_size: int = 4096) -> int:
    """Return the most ranges that the kernel's core takes: as many as fit in one page (256 on 4 KiB, 4096 on 64 KiB).

    :param host_page_size: the host's page size, bytes, a power of two
    """
    host_page_size = arguments.page_size(host_page_size, "host_page_size")
    return host_page_size // _RANGE_STRUCT_SIZE


def core_start(
    ranges: Iterable[tuple[int, int]], page_size: int, host_page_size: int = 4096, *, log_ops: bool = True
) -> int:
    """Return the errno of the kernel core's own checks of DMA_LOGGING_START, in its order; 0 if the driver is asked.

    vfio_ioctl_device_feature_logging_start, the same since Linux 6.1. It takes page sizes that are not a power of two,
    and lengths of zero: only drivers object.

    :param ranges: (iova, length) as in struct vfio_device_feature_dma_logging_range
    :param page_size: the page size asked for, bytes; 64 bits
    :param host_page_size: the host's page size, bytes
    :param log_ops: whether the device's driver does DMA logging at all
    """
    page_size = arguments.u64(page_size, "page_size")
    host_page_size = arguments.page_size(host_page_size, "host_page_size")
    asked = arguments.every(_length)(ranges, "ranges")
    if not arguments.boolean(log_ops, "log_ops"):
        return errno.ENOTTY
    if not asked:
        return errno.EINVAL
    if len(asked) > most_ranges(host_page_size):
        return errno.E2BIG
    below_page = (page_size - 1) % _U64
    seen: list[tuple[int, int]] = []
    empty: list[tuple[int, int]] = []
    for iova, length in asked:
        if iova & below_page or length & below_page:
            return errno.EINVAL
        # The kernel checks the sum, not the last byte, so the last page of the address space cannot be logged.
        if iova + length >= _U64:
            return errno.EOVERFLOW
        last = (iova + length - 1) % _U64
        # The kernel's interval tree keeps an empty range as last < start; at 0 it is the whole address space. Overlaps follow from that.
        at = bisect_right(seen, (last, _U64)) - 1
        if (at >= 0 and seen[at][1] >= iova) or any(start <= last and iova <= end for start, end in empty):
            return errno.EINVAL
        if length:
            insort(seen, (iova, last))
        else:
            empty.append((iova, last))
    return 0


def _length(value: object, name: str) -> tuple[int, int]:
    """Check a pair of iova and length."""
    pair = arguments.every(arguments.u64)(value, name)
    if len(pair) != 2:
        raise ValueError(f"{name} must have (iova, length) pairs only, not {len(pair)} numbers")
    return pair[0], pair[1]


def core_report(page_size: int, iova: int = 0, length: int = 4096, *, log_ops: bool = True) -> int:
    """Return the errno of the kernel core's checks of DMA_LOGGING_REPORT; 0 if the driver is asked (Linux 6.1 on).

    :param page_size: the page size of the bitmap, bytes
    :param iova: the first address of the report
    :param length: bytes of the report
    :param log_ops: whether the device's driver does DMA logging at all
    """
    page_size = arguments.u64(page_size, "page_size")
    iova, length = arguments.u64(iova, "iova"), arguments.u64(length, "length")
    if not arguments.boolean(log_ops, "log_ops"):
        return errno.ENOTTY
    if page_size < 4096 or page_size & (page_size - 1):
        return errno.EINVAL
    if iova + length >= _U64:
        return errno.EOVERFLOW
    return 0


def combine(ranges: Sequence[IovaRange], limit: int) -> list[IovaRange]:
    """Return at most `limit` ranges, made by closing the smallest gaps first, of equal ones the lowest.

    The kernel's vfio_combine_iova_ranges does this with a driver's ranges (Linux 6.1 on; there quadratic), and Alex Williamson proposed it
    for QEMU in 2023. Ranges within the limit stay as they are, touching ones too. No cover with
    so few ranges has fewer bytes: each closes all gaps but limit-1, and these keep the largest.

    :param ranges: none may overlap; sorted in the result
    :param limit: the most ranges of the result, at least 1
    :raises ValueError: `limit` is less than 1
    """
    ranges = as_ranges(ranges, "ranges")
    limit = arguments.integer(limit, "limit", 1)
    made = sorted(ranges)
    excess = len(made) - limit
    if excess <= 0:
        return made
    # Closing a gap does not change the others, so one stable sort gives the result of the kernel's rounds.
    closed = set(sorted(range(1, len(made)), key=lambda i: made[i].start - made[i - 1].last)[:excess])
    combined = [made[0]]
    for i in range(1, len(made)):
        if i in closed:
            combined[-1] = IovaRange(combined[-1].start, made[i].last)
        else:
            combined.append(made[i])
    return combined


class _Limits(NamedTuple):
    name: str = "any device"
    max_ranges: int = 2**32 - 1
    """The number of ranges that the device itself keeps; 0 if it cannot log. The kernel's core accepts at most a page of ranges."""
    combines: bool = False
    """Whether the driver combines surplus ranges by :func:`combine`; otherwise it refuses them with E2BIG."""
    log_min_space: int = 0
    """log2 of the smallest sum of all lengths, rounded up to a power of two, that the device accepts."""
    log_max_space: int = 64
    """log2 of the largest such sum; the driver refuses a larger one with EOPNOTSUPP."""
    min_page_size: int = 1
    max_page_size: int = 2**63
    """The page size asked for is clamped to these two, and returned."""
    max_pages: int | None = None
    """The most pages of one range that the device can count; pages beyond that are not tracked, without an error."""
    widest_range: int = 64
    """log2 of the largest size of one range in bytes; the driver refuses a larger one with EOPNOTSUPP."""
    rounds_page_size: bool = False
    """Whether a page size that is not a power of two counts as the next smaller power of two; otherwise it is used as it is."""
    page_multiple: int = 1
    """Each range should be a multiple of this number of pages, since the driver may refuse others; :func:`pyvfio.guest.planning.fit`
    does that."""


class Limits(_Limits):
    """The limits of a device's driver for DMA logging, as data.

    :raises TypeError: a field is of a wrong type
    :raises ValueError: a field is impossible
    """

    __slots__ = ()

    def __new__(cls, *fields: Any, **more: Any) -> Self:
        made = super().__new__(cls, *fields, **more)
        arguments.string(made.name, "name")
        arguments.u32(made.max_ranges, "max_ranges")
        arguments.boolean(made.combines, "combines")
        for name in ("log_min_space", "log_max_space", "widest_range"):
            arguments.integer(getattr(made, name), name, 0, 64)
        for name in ("min_page_size", "max_page_size"):
            arguments.power_of_two(getattr(made, name), name)
        arguments.boolean(made.rounds_page_size, "rounds_page_size")
        arguments.power_of_two(made.page_multiple, "page_multiple")
        if made.max_pages is not None:
            arguments.integer(made.max_pages, "max_pages", 1)
        if made.min_page_size > made.max_page_size:
            raise ValueError(
                f"min_page_size must be at most max_page_size, {made.max_page_size}, not {made.min_page_size}"
            )
        return made

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]  # typeshed declares more parameters
        return cls(*iterable)  # checked in _replace() too

    def page_size(self, wanted: int) -> int:
        """Return the page size that a START with `wanted` would return.

        A size that is not a power of two, which the kernel's core lets pass, counts as the next smaller one where a driver takes its
        logarithm, as mlx5 does (mlx5vf_start_page_tracker).

        :param wanted: the page size asked for, bytes; 64 bits
        """
        wanted = arguments.u64(wanted, "wanted")
        if self.rounds_page_size and wanted:
            wanted = 1 << wanted.bit_length() - 1
        return min(max(wanted, self.min_page_size), self.max_page_size)

    def start(self, ranges: Sequence[IovaRange], page_size: int = 4096, host_page_size: int = 4096) -> Answer:
        """Return the answer of the kernel and this device to a START with these ranges.

        :param ranges: the ranges asked for, none of which may overlap
        :param page_size: the page size asked for, bytes
        :param host_page_size: the host's page size, bytes
        """
        ranges = as_ranges(ranges, "ranges")
        refused = core_start([(r.start, r.size % _U64) for r in ranges], page_size, host_page_size)
        if refused:
            return Answer(refused, (), page_size, 0)
        return self.log_start(ranges, page_size)

    def log_start(self, ranges: Sequence[IovaRange], page_size: int = 4096) -> Answer:
        """Return the answer of the driver's log_start to ranges that have passed the kernel's core.

        :param ranges: the ranges asked for
        :param page_size: the page size asked for, bytes
        """
        ranges, page_size = as_ranges(ranges, "ranges"), arguments.u64(page_size, "page_size")
        if not self.max_ranges:
            return Answer(errno.EOPNOTSUPP, (), page_size, 0)
        if len(ranges) > self.max_ranges and not self.combines:
            return Answer(errno.E2BIG, (), page_size, 0)
        kept = tuple(combine(ranges, self.max_ranges))
        total = sum(r.size for r in kept)
        negotiated = self.page_size(page_size)
        fits = self.log_min_space <= space_log2(total) <= self.log_max_space
        fits = fits and all(space_log2(r.size) <= self.widest_range for r in kept)
        lost = 0
        if self.max_pages is not None:
            # The driver stores the number of pages in too few bits, and the upper bits are lost.
            for r in kept:
                pages = -(-r.size // negotiated)
                lost += max(0, r.size - pages % (self.max_pages + 1) * negotiated)
        return Answer(0 if fits else errno.EOPNOTSUPP, kept, negotiated, lost)


class Answer(NamedTuple):
    """The answer to a START."""

    errno: int
    """0, or the errno of the refusal."""
    ranges: tuple[IovaRange, ...]
    """The ranges that the device itself tracks, or would track if it did not refuse their sum."""
    page_size: int
    """The page size that the device chooses."""
    lost: int
    """Bytes in the accepted ranges that the device does not track."""

    @property
    def total(self) -> int:
        """The sum of the device's ranges, bytes."""
        return sum(r.size for r in self.ranges)

    def _repr_html_(self) -> str:
        rows = [(f"{each.start:#x}", f"{each.last:#x}", about(each.size)) for each in self.ranges]
        refused = f" refused with {errno.errorcode.get(self.errno, self.errno)}" if self.errno else ""
        title = f"Answer to START:{refused} {len(rows)} ranges, {about(self.total)}, pages of {about(self.page_size)}"
        return html.table(title, ("start", "last", "size"), rows)

    @property
    def log_space(self) -> int:
        """log2 of that sum, rounded up: what mlx5 compares with its limits."""
        return space_log2(self.total)


def space_log2(size: int) -> int:
    """log2 of the smallest power of two that holds `size` bytes (the kernel's order_base_2).

    :param size: bytes, 0 or more
    """
    size = arguments.integer(size, "size", 0)
    return (size - 1).bit_length() if size > 1 else 0


CORE = Limits()
"""The kernel core's own limits and no others."""


def mlx5(
    max_num_range: int = 255,
    log_min_addr_space: int = 12,
    log_max_addr_space: int = 42,
    log_min_page_size: int = 12,
    log_max_page_size: int = 31,
) -> Limits:
    """NVIDIA ConnectX (drivers/vfio/pci/mlx5, Linux 6.1; the limits as checked since the fix of February 2023).

    The five parameters are the firmware's capabilities pg_track_*.  42 and 12 were reported from one host in 2023 (Cédric Le
    Goater); the limit is on the sum of all ranges, not on the highest address. The number of ranges that a real device accepts is
    not known: 255 is the most that the capability's 8 bits can hold. The defaults of the page sizes are the extremes of 5 bits.

    :param max_num_range: pg_track_max_num_range: ranges that the device keeps, 0 to 255; more are combined
    :param log_min_addr_space: pg_track_log_min_addr_space: log2 of the smallest total in bytes, 0 to 64
    :param log_max_addr_space: pg_track_log_max_addr_space: log2 of the largest total in bytes, 0 to 64
    :param log_min_page_size: pg_track_log_min_page_size: log2 of the smallest page in bytes, 0 to 63
    :param log_max_page_size: pg_track_log_max_page_size: log2 of the largest page in bytes, 0 to 63
    """
    arguments.u8(max_num_range, "max_num_range")
    for name, value in (("log_min_addr_space", log_min_addr_space), ("log_max_addr_space", log_max_addr_space)):
        arguments.integer(value, name, 0, 64)
    for name, value in (("log_min_page_size", log_min_page_size), ("log_max_page_size", log_max_page_size)):
        arguments.integer(value, name, 0, 63)
    return Limits(
        "mlx5",
        max_ranges=max_num_range,
        combines=True,
        log_min_space=log_min_addr_space,
        log_max_space=log_max_addr_space,
        min_page_size=1 << log_min_page_size,
        max_page_size=1 << log_max_page_size,
        rounds_page_size=True,
    )


#: the limits of a ConnectX with the firmware that reported 2^42 bytes
MLX5 = mlx5()


def mlx5_start_as_merged(limits: Limits, ranges: Sequence[IovaRange]) -> tuple[int, int, int]:
    """mlx5's START before the fix of February 2023 (c1d050b0d169 as merged, Linux 6.1 and early 6.2).

    Each length was one byte short and the logarithm rounded down: a sum just under 2^43 passed a limit of 42, and a
    lone 4 KiB range was refused.

    :param limits: the device's limits, as `mlx5` makes them
    :param ranges: the ranges asked for, none of which may overlap
    :returns: errno, the sum of the lengths and its logarithm, as that driver worked them out
    """
    limits = arguments.instance(limits, "limits", Limits)
    ranges = as_ranges(ranges, "ranges")
    total = sum(r.last - r.start for r in combine(ranges, limits.max_ranges))
    log = max(total.bit_length() - 1, 0)
    return 0 if limits.log_min_space <= log <= limits.log_max_space else errno.EOPNOTSUPP, total, log


class PdsRegion(NamedTuple):
    """One region as the pds driver sends it to the device (struct pds_lm_dirty_region_info)."""

    dma_base: int
    page_count: int
    """The number of pages, in 32 bits: pages of 4 KiB beyond 16 TiB are cut off."""
    page_size_log2: int


def pds(max_regions: int = 1) -> Limits:
    """AMD Pensando (drivers/vfio/pci/pds, Linux 6.6).

    The device reports its number of regions. The driver's first version always combined all ranges into one, later ones (Linux 7.3) into
    the device's number. The page size is used as asked for. The number of pages of a region is kept in 32 bits.

    It is not known outside AMD whether the device adjusts a region's number of pages, as its answer allows. If it does not, the driver
    refuses a region that is not a multiple of 64 pages (EINVAL) and one of fewer than 8 (ENOMEM), drivers/vfio/pci/pds/dirty.c in 7.3;
    :meth:`Limits.start` assumes that it does. :func:`pyvfio.guest.planning.fit` asks for multiples of 64 pages, which works in both cases.

    :param max_regions: the number of regions that the device has; more ranges are combined into that many
    """
    max_regions = arguments.u32(max_regions, "max_regions")
    return Limits("pds", max_ranges=max_regions, combines=True, max_pages=2**32 - 1, page_multiple=64)


#: the limits of AMD's Pensando DSC, with one region
PDS = pds()

NAMED = {"core": CORE, "mlx5": MLX5, "pds": PDS}
"""Limits by name, with default values, as :func:`pyvfio.guest.planning.fit` takes them."""


def pds_regions(answer: Answer) -> list[PdsRegion]:
    """Return the regions that the pds driver programs into the device for ranges that it has accepted.

    :param answer: the answer of a START, as `Limits.start` returns it
    """
    answer = arguments.instance(answer, "answer", Answer)
    arguments.integer(answer.page_size, "answer.page_size", 1)
    log2 = answer.page_size.bit_length() - 1
    return [PdsRegion(r.start, -(-r.size // answer.page_size) % 2**32, log2) for r in answer.ranges]
