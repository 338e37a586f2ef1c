# SPDX-License-Identifier: MIT
"""The IOVA ranges to ask a device to log: a strategy makes a :class:`Plan`, :func:`fit` compares it with a device's limits.

A strategy is a function from sections to ranges. The strategies named `split_...` are safe versions of QEMU's: their result is valid even
where QEMU's own is empty or refused by the kernel because ranges overlap. QEMU's own result, bug for bug, is in
:mod:`pyvfio.guest.qemu`.

A plan is made once, when logging starts. Before that there is no cost: nothing is recorded while the guest maps memory.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import chain
from typing import Any, NamedTuple

from pyvfio._core import arguments, html
from pyvfio._core.sizes import about
from pyvfio.guest.limits import CORE, NAMED, Answer, Limits, combine, most_ranges
from pyvfio.guest.qemu_release import NEWEST
from pyvfio.guest.sections import Census, Counted, Sections, census
from pyvfio.iova import IovaRange, IovaSet, RangeLike, as_range, as_ranges

UINT32_MAX = 2**32 - 1
_LAST = 2**64 - 1

Strategy = Callable[[Census], Sequence[IovaRange] | IovaSet]
"""A function from the sections that count to sorted ranges that cover them and do not overlap."""


class Later(Enum):
    """The treatment of memory that is mapped after logging has started, outside the ranges that were asked for."""

    ALWAYS_DIRTY = "always dirty"
    """Such memory is reported as dirty in every report, so that no change is lost."""
    REFUSED = "refused"
    """Mapping it is an error while logging is on, as QEMU blocks hot-plug during a migration."""


def _tuple(value: Any, name: str) -> tuple[IovaRange, ...]:
    # There may be a million ranges: those in a tuple are checked later, by the functions that use the plan.
    return value if isinstance(value, tuple) else tuple(as_ranges(value, name))


@arguments.checked(ranges=_tuple, counted=arguments.of_class(IovaSet), page_size=arguments.page_size)
class Plan(NamedTuple):
    """The ranges to ask for with VFIO_DEVICE_FEATURE_DMA_LOGGING_START, and the addresses that they must cover."""

    ranges: tuple[IovaRange, ...]
    """The ranges: sorted; no two overlap; none ends at 2^64-1."""
    counted: IovaSet
    """The addresses that must be tracked."""
    page_size: int
    """The page size to ask for: the host's."""

    @property
    def total(self) -> int:
        """Bytes in all ranges, the number that a device's limit applies to."""
        return sum(range_.size for range_ in self.ranges)

    @property
    def over_tracked(self) -> int:
        """Bytes of the ranges at which nothing is mapped."""
        return self.total - self.counted.total

    def fit(self, limits: Limits | str, host_page_size: int = 4096) -> Fit:
        """Return how the ranges of this plan fit a device; see :func:`fit`.

        :param limits: a device's, or a name of :data:`pyvfio.guest.limits.NAMED`: "mlx5"
        :param host_page_size: the host's page size, bytes
        """
        return fit(self.ranges, limits, self.page_size, host_page_size)

    def _repr_html_(self) -> str:
        rows = [
            (
                f"{each.start:#x}",
                f"{each.last:#x}",
                about(each.size),
                about(each.size - (self.counted & IovaSet([each])).total),
            )
            for each in self.ranges
        ]
        title = f"Plan: {len(rows)} ranges, {about(self.total)}, pages of {about(self.page_size)}"
        return html.table(title, ("start", "last", "size", "over-tracked"), rows)

    def collapse(self) -> Plan | None:
        """Return the plan with one range fewer, by closing the smallest gap; None if there is only one."""
        if len(self.ranges) < 2:
            return None
        return self._replace(ranges=tuple(combine(self.ranges, len(self.ranges) - 1)))

    def after(self, refused: int) -> Plan | None:
        """Return the plan to try next when START has failed with this errno; None if no other can do better.

        Only E2BIG is about the number of ranges. After any other refusal, above all mlx5's EOPNOTSUPP for a total that is too
        large, closing gaps would only make the total larger.

        :param refused: the errno of the refusal
        """
        return self.collapse() if refused == errno.E2BIG else None

    def missing(self, mapped: RangeLike) -> IovaSet:
        """Return the part of a later mapping that this plan does not log.

        :param mapped: the addresses of the mapping
        """
        return IovaSet([as_range(mapped, "mapped")]) - IovaSet(self.ranges)

    def admit(self, mapped: RangeLike, later: Later) -> IovaSet:
        """Return the part of a mapping made after START that must be reported as always dirty.

        :param mapped: the addresses of the mapping
        :param later: the treatment of mappings outside the ranges
        :raises ValueError: a part of the mapping is outside the ranges, and `later` says that this is refused
        """
        missing = self.missing(mapped)
        if missing and later is Later.REFUSED:
            raise ValueError(
                f"{mapped} is not within the ranges being logged: {missing} would never be reported as dirty"
            )
        return missing


def plan(
    sections: Sections,
    strategy: Strategy | str = "split_32_64_pci",
    page_size: int = 4096,
    *,
    version: str = NEWEST,
) -> Plan:
    """Return the ranges that `strategy` tracks these sections with.

    The plan is empty if no section counts: there is nothing to log, and nothing to ask the device. Read-only sections do not count,
    since a device cannot write them.

    :param sections: MemorySections of the guest, or ranges of plain memory
    :param strategy: a function, or its name: "exact", "split_32_64"; with an argument behind a colon: "coalesced:3"
    :param page_size: the host's page size
    :param version: the QEMU by whose rules sections count; up to "10.2" read-only sections count too (:func:`~pyvfio.guest.sections.census`)
    :raises ValueError: there is no strategy of that name, or the version is not known
    :raises ValueError: a range would end at 2^64-1, which the kernel cannot log (EOVERFLOW); behind a virtual IOMMU,
        that maps all of the address space, :func:`max_iova` is the strategy
    """
    chosen = _strategy(strategy)
    found = census(sections, page_size, version=version)
    ranges = tuple(chosen(found))
    if any(each.section.iommu for each in found.special):
        # The region of a virtual IOMMU has the addresses that it can translate; they need not be mapped.
        asked = IovaSet(ranges)
        viommu = IovaSet(each.range for each in found.special if each.section.iommu)
        return _checked(Plan(ranges, _mapped(found) | viommu & asked, page_size))
    return _checked(Plan(ranges, found.covered, page_size))


class Attempts(NamedTuple):
    """The outcome of starting a plan on a device, with fewer ranges after each refusal that this could help against."""

    plan: Plan | None
    """The plan that was accepted; None if none was."""
    errno: int
    """0, or the last refusal."""
    tried: tuple[int, ...]
    """The number of ranges in each attempt."""


def start(plan: Plan, attempt: Callable[[Plan], int]) -> Attempts:
    """Try a plan, and after each E2BIG again with one range fewer, as :meth:`Plan.after` says.

    A refused START leaves no state in the kernel, so an attempt costs only the call.

    :param plan: the plan to try first
    :param attempt: starts logging with a plan and returns 0 or the errno
    """
    plan = arguments.instance(plan, "plan", Plan)
    arguments.function(attempt, "attempt")
    tried: list[int] = []
    trying: Plan | None = plan
    refused = 0
    while trying is not None:
        tried.append(len(trying.ranges))
        refused = attempt(trying)
        if not refused:
            return Attempts(trying, 0, tuple(tried))
        trying = trying.after(refused)
    return Attempts(None, refused, tuple(tried))


def plan_ranges(ranges: IovaSet, limit: int | None = None, page_size: int = 4096) -> Plan:
    """Return the plan for memory that is already known as whole pages, with at most `limit` ranges.

    For very many blocks (virtio-mem) straight from an array: `plan_ranges(IovaSet.from_array(pairs), 256)`.

    :param ranges: the memory, in whole pages
    :param limit: the most ranges; by default the kernel's limit
    :param page_size: the page size to ask for: the host's, bytes
    """
    ranges = IovaSet(ranges)
    covering = ranges.coalesce(limit or most_ranges(page_size))
    return _checked(Plan(tuple(covering), ranges, page_size))


def _checked(made: Plan) -> Plan:
    if made.ranges and made.ranges[-1].last == _LAST:
        raise ValueError(
            f"{made.ranges[-1]} cannot be logged: the kernel refuses a range that ends at 2^64-1 (EOVERFLOW)"
        )
    return made


def _check_census(found: Census) -> None:
    arguments.instance(found, "found", Census, "a Census, as census() returns it")


def min_max(found: Census) -> list[IovaRange]:
    """One range from the lowest address to the highest.

    :param found: the sections that count, as `census` returns them
    """
    _check_census(found)
    return [IovaRange(min(found.pairs[0::2]), max(found.pairs[1::2]))] if found.pairs else []


def split_32_64(found: Census) -> list[IovaRange]:
    """One range for the sections that end below 4 GiB, and one for the others.

    QEMU's strategy from March to September 2023 (62c1b0024b, 8.0 and 8.1). A BAR at the top of the guest's address space
    stretches the second range over all addresses up to it.

    :param found: the sections that count, as `census` returns them
    """
    _check_census(found)
    low, high = _halves(found.pairs)
    return _disjoint([*low, *high])


def split_32_64_pci(found: Census) -> list[IovaRange]:
    """The ranges of :func:`split_32_64`, and a third range for assigned devices' BARs above 4 GiB.

    QEMU's strategy since 8.2 (a31fe5daea), the same in 11.1. If a BAR of another device (ivshmem) lies above those of the assigned devices,
    QEMU's second range contains the third and the kernel refuses both; here such BARs join the third range.

    :param found: the sections that count, as `census` returns them
    """
    _check_census(found)
    low, high, bars = _thirds(found, _is_high_bar)
    if high and bars and high[0].overlaps(bars[0]):
        low, high, bars = _thirds(found, _is_device_memory)
    return _disjoint([*low, *high, *bars])


def exact(found: Census) -> list[IovaRange]:
    """One range for each section, or for several sections that overlap.

    :param found: the sections that count, as `census` returns them
    """
    _check_census(found)
    return _disjoint(found.ranges)


def cloud_hypervisor(found: Census) -> list[IovaRange]:
    """One range for each region of guest RAM, and none for BARs or other device memory.

    The request of cloud-hypervisor since July 2026 (pull request 8528), which refuses to migrate behind a virtual IOMMU. QEMU asks for fewer
    ranges with gaps in them; a device with few ranges combines these here.

    :param found: the sections that count, as `census` returns them
    """
    _check_census(found)
    return _disjoint(_pairs(found.plain_pairs))


def coalesced(limit: int) -> Strategy:
    """At most `limit` ranges with the fewest bytes: the smallest gaps are closed first (Alex Williamson, 2023).

    :param limit: the most ranges, at least 1
    """
    limit = arguments.integer(limit, "limit", 1)

    def strategy(found: Census) -> IovaSet:
        return found.covered.coalesce(limit)

    return _called(strategy, f"coalesced({limit})")


def split_at_gaps(min_gap: int) -> Strategy:
    """A new range at every gap of at least `min_gap` bytes (1 GiB was discussed in 2023); smaller gaps are tracked too.

    :param min_gap: bytes of the smallest gap that is left out, 0 or more
    """
    min_gap = arguments.integer(min_gap, "min_gap", 0)

    def strategy(found: Census) -> IovaSet:
        return split_ranges_at_gaps(found.covered, min_gap)

    return _called(strategy, f"split_at_gaps({min_gap:#x})")


def max_iova(bits: int) -> Strategy:
    """All addresses that a virtual IOMMU of this width can translate, [0, 2^bits - 1], whatever is mapped at the moment.

    Planned for QEMU in 2023 and not in 11.1.  39 bits fit mlx5's limit of 42, 48 do not.

    :param bits: the width of the virtual IOMMU's addresses, 1 to 63
    :raises ValueError: for 64 bits or more, which the kernel cannot log
    """
    bits = arguments.integer(bits, "bits", 1, 63)

    def strategy(found: Census) -> list[IovaRange]:
        return _disjoint([IovaRange(0, (1 << bits) - 1), *_mapped(found)])

    return _called(strategy, f"max_iova({bits})")


STRATEGIES: dict[str, Strategy] = {
    each.__name__: each for each in (min_max, split_32_64, split_32_64_pci, exact, cloud_hypervisor)
}
"""The strategies without an argument, by name."""
_WITH_ARGUMENT = {each.__name__: each for each in (coalesced, split_at_gaps, max_iova)}


def _called(strategy: Strategy, name: str) -> Strategy:
    strategy.__name__ = strategy.__qualname__ = name
    return strategy


def _strategy(strategy: Strategy | str) -> Strategy:
    """Return the strategy that an argument means."""
    if not isinstance(strategy, str):
        return arguments.function(strategy, "strategy")
    name, colon, argument = strategy.partition(":")
    if name in STRATEGIES and not colon:
        return STRATEGIES[name]
    if name in _WITH_ARGUMENT and colon:
        try:
            number = int(argument, 0)
        except ValueError:
            raise ValueError(f"strategy must have a number behind the colon, not {argument!r}") from None
        return _WITH_ARGUMENT[name](number)
    known = [*STRATEGIES, *(f"{each}:NUMBER" for each in _WITH_ARGUMENT)]
    raise ValueError(f"strategy must be one of {', '.join(known)}, not {strategy!r}")


def _limits(limits: Limits | str) -> Limits:
    """Return the limits that an argument means."""
    if isinstance(limits, str):
        arguments.choice(limits, "limits", NAMED)
        return NAMED[limits]
    return arguments.instance(limits, "limits", Limits, "pyvfio.guest.limits.Limits or a name")


def split_ranges_at_gaps(ranges: IovaSet, min_gap: int) -> IovaSet:
    """Return the set, grown over every gap of less than `min_gap` bytes.

    :param ranges: the addresses to cover
    :param min_gap: bytes of the smallest gap that is left out, 0 or more
    """
    ranges = IovaSet(ranges)
    min_gap = arguments.integer(min_gap, "min_gap", 0)
    whole = span(ranges)
    if whole is None:
        return ranges
    return IovaSet(gap for gap in ranges.complement(whole) if gap.size >= min_gap).complement(whole)


def span(ranges: Iterable[IovaRange]) -> IovaRange | None:
    """Return the one range from the lowest address to the highest; None for none.

    :param ranges: ranges in any order
    """
    ranges = as_ranges(ranges, "ranges")
    spans = _spans(list(ranges))
    return spans[0] if spans else None


class Fit(NamedTuple):
    """The comparison of a plan with a device's limits."""

    limits: Limits
    answer: Answer
    """The answer of the kernel and the device to the plan's own ranges."""
    over_tracked: int
    """Bytes that the device itself adds by combining ranges."""
    best: tuple[IovaRange, ...] | None
    """The ranges to ask for: the ranges with the fewest bytes that this device accepts and tracks; None if it accepts no ranges."""
    best_over_tracked: int
    """Bytes of the best ranges beyond those of the plan."""

    @property
    def accepted(self) -> bool:
        """Whether START succeeds with the plan as it is."""
        return not self.answer.errno

    @property
    def complete(self) -> bool:
        """Whether START succeeds and the device tracks everything that it was asked to."""
        return self.accepted and not self.answer.lost

    def _repr_html_(self) -> str:
        rows = [(f"{each.start:#x}", f"{each.last:#x}", about(each.size)) for each in self.best or ()]
        return html.table(f"{self.explain()} The best ranges:", ("start", "last", "size"), rows)

    def explain(self) -> str:
        """Return the outcome, and what to do, in a sentence or two."""
        answer, limits = self.answer, self.limits
        if self.complete:
            text = f"{limits.name} accepts the plan"
            if self.over_tracked:
                text += f", but combines it to {len(answer.ranges)} ranges, which adds {about(self.over_tracked)}"
            return text + "."
        if self.accepted:
            text = f"{limits.name} accepts the plan but loses {about(answer.lost)}: it counts pages in too few bits"
        elif answer.errno == errno.E2BIG:
            text = "Too many ranges (E2BIG)"
        elif answer.errno == errno.EOPNOTSUPP and not limits.max_ranges:
            return f"{limits.name} cannot log at all (EOPNOTSUPP)."
        elif answer.errno == errno.EOPNOTSUPP:
            text = (
                f"{limits.name} refuses the total (EOPNOTSUPP): {len(answer.ranges)} ranges of {about(answer.total)} together "
                f"need 2^{answer.log_space}, and it takes 2^{limits.log_min_space} to 2^{limits.log_max_space}"
            )
            if self.over_tracked:
                text += f"; its combining alone adds {about(self.over_tracked)}"
        else:
            text = f"The kernel refuses the ranges ({errno.errorcode[answer.errno]})"
        if self.best is None:
            return text + ". No ranges that cover these would do."
        more = f", {about(self.best_over_tracked)} more than these" if self.best_over_tracked else ""
        return text + f". {len(self.best)} ranges would do{more}."


def fit(
    ranges: RangeLike | Iterable[RangeLike],
    limits: Limits | str = CORE,
    page_size: int = 4096,
    host_page_size: int = 4096,
) -> Fit:
    """Compare ranges with a device's limits: the device's answer to them, and the best ranges that it accepts.

    The best ranges are made by closing the smallest gaps until the number fits. No cover with so few ranges has fewer bytes, so if even
    that is too large, nothing fits. If the device limits the size of a range, larger ranges are split; if ranges should be a multiple of
    some number of pages (pds: 64), they are widened.

    :param ranges: none may overlap
    :param limits: a device's, or a name of :data:`pyvfio.guest.limits.NAMED`: "mlx5"
    :param page_size: the page size to ask for, bytes, a power of two
    :param host_page_size: the host's page size, bytes
    :raises ValueError: there are no limits of that name, or page_size is not a power of two
    """
    ranges = as_ranges(ranges, "ranges")
    page_size = arguments.page_size(page_size)
    limits = _limits(limits)
    answer = limits.start(ranges, page_size, host_page_size)
    asked = sum(r.size for r in ranges)
    best = _best(ranges, limits, page_size, host_page_size)
    added = sum(r.size for r in answer.ranges) - asked if answer.ranges else 0
    return Fit(limits, answer, added, best, sum(r.size for r in best) - asked if best is not None else 0)


def _best(
    ranges: Sequence[IovaRange], limits: Limits, page_size: int, host_page_size: int
) -> tuple[IovaRange, ...] | None:
    """Return the ranges with the fewest bytes that the device accepts and tracks; None if it accepts none.

    They are multiples of the number of pages that the driver prefers, or of pages if the device does not accept those.
    """
    for unit in dict.fromkeys((page_size * limits.page_multiple, page_size)):
        if found := _best_in(unit, ranges, limits, page_size, host_page_size):
            return found
    return None


def _best_in(
    unit: int, ranges: Sequence[IovaRange], limits: Limits, page_size: int, host_page_size: int
) -> tuple[IovaRange, ...] | None:
    most = min(limits.max_ranges, most_ranges(host_page_size))
    if not ranges or not most:
        return None
    whole = _pages(ranges, unit)
    piece = 1 << limits.widest_range
    if limits.max_pages is not None:
        piece = min(piece, limits.max_pages * limits.page_size(page_size))
    piece = piece // unit * unit or piece // page_size * page_size
    for keep in range(min(most, len(whole)), 0, -1):
        pieces = [part for r in combine(whole, keep) for part in _cut(r, piece)]
        if len(pieces) > most:
            continue
        tried = tuple(_grown(pieces, 1 << limits.log_min_space >> 1, unit))
        got = limits.start(tried, page_size, host_page_size)
        return tried if not got.errno and not got.lost else None
    return None


def _grown(ranges: list[IovaRange], at_least: int, page_size: int) -> list[IovaRange]:
    """Return the ranges, with the last one made longer if their sum is not more than `at_least`."""
    short = at_least - sum(r.size for r in ranges)
    if at_least < 1 or short < 0:
        return ranges
    more = (short // page_size + 1) * page_size
    first, last = ranges[0], ranges[-1]
    if last.last + more < _LAST:
        return [*ranges[:-1], IovaRange(last.start, last.last + more)]
    if first.start >= more:
        return [IovaRange(first.start - more, first.last), *ranges[1:]]
    return ranges


def _cut(range_: IovaRange, piece: int) -> list[IovaRange]:
    starts = range(range_.start, range_.last + 1, piece)
    return [IovaRange(start, min(start + piece - 1, range_.last)) for start in starts]


def _pages(ranges: Sequence[IovaRange], page_size: int) -> list[IovaRange]:
    """Return the ranges, widened to whole pages."""
    return _disjoint(
        [IovaRange(r.start // page_size * page_size, -(-(r.last + 1) // page_size) * page_size - 1) for r in ranges]
    )


def _is_high_bar(each: Counted) -> bool:
    # QEMU compares with UINT32_MAX, not with 4 GiB; for whole pages the result is the same.
    return bool(each.section.device) and each.range.start >= UINT32_MAX


def _is_device_memory(each: Counted) -> bool:
    return _is_high_bar(each) or (each.section.ram_device and each.range.last > UINT32_MAX)


def _thirds(found: Census, is_bar: Callable[[Counted], bool]) -> tuple[list[IovaRange], ...]:
    bars = [each.range for each in found.special if is_bar(each)]
    others = [each.range for each in found.special if not is_bar(each)]
    return *_halves(chain(found.plain_pairs, chain.from_iterable(others))), _spans(bars)


def _mapped(found: Census) -> IovaSet:
    """Return the mapped addresses, without the virtual IOMMUs' regions."""
    return IovaSet.from_array(found.plain_pairs) | IovaSet(e.range for e in found.special if not e.section.iommu)


def _halves(pairs: Iterable[int]) -> tuple[list[IovaRange], list[IovaRange]]:
    """Return the span of the (start, last) pairs that end below 4 GiB, and the span of the others."""
    start32 = start64 = _LAST
    last32 = last64 = -1
    numbers = iter(pairs)
    for start, last in zip(numbers, numbers, strict=True):
        if last <= UINT32_MAX:
            start32 = min(start, start32)
            last32 = max(last, last32)
        else:
            start64 = min(start, start64)
            last64 = max(last, last64)
    low = [IovaRange(start32, last32)] if last32 >= 0 else []
    return low, [IovaRange(start64, last64)] if last64 >= 0 else []


def _pairs(numbers: Sequence[int]) -> list[IovaRange]:
    return [IovaRange(*pair) for pair in zip(numbers[0::2], numbers[1::2], strict=True)]


def _spans(ranges: Sequence[IovaRange]) -> list[IovaRange]:
    return [IovaRange(min(r.start for r in ranges), max(r.last for r in ranges))] if ranges else []


def _disjoint(ranges: Iterable[IovaRange]) -> list[IovaRange]:
    """Return the ranges sorted, with overlapping ones merged; ranges that only touch stay apart."""
    made: list[IovaRange] = []
    for range_ in sorted(ranges):
        if made and range_.start <= made[-1].last:
            made[-1] = IovaRange(made[-1].start, max(made[-1].last, range_.last))
        else:
            made.append(range_)
    return made


__all__ = [
    "Attempts",
    "Fit",
    "Later",
    "Plan",
    "Strategy",
    "cloud_hypervisor",
    "coalesced",
    "exact",
    "fit",
    "max_iova",
    "min_max",
    "plan",
    "plan_ranges",
    "span",
    "split_32_64",
    "split_32_64_pci",
    "split_at_gaps",
    "split_ranges_at_gaps",
    "start",
]
