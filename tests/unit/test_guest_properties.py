# SPDX-License-Identifier: MIT
"""Properties that hold for every guest, not only for those in the vectors."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import combinations, pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pyvfio.guest import blockers, limits, planning, qemu, reserved, x86
from pyvfio.guest.qemu import blocking, layouts
from pyvfio.guest.sections import MemorySection, Reason, census, trim
from pyvfio.iova import WHOLE, IovaRange, IovaSet

devices = st.builds(
    blockers.GuestDevice,
    name=st.sampled_from(["v0", "v1", "v2"]),
    logs=st.booleans(),
    address_space=st.sampled_from([blockers.SYSTEM_MEMORY, "vtd"]),
    limits=st.just(limits.CORE),
    viommu_bits=st.just(None),
    peers=st.just(()),
    migration_errno=st.sampled_from([errno.ENOTTY, errno.EOPNOTSUPP]),
    p2p=st.booleans(),
    migrates=st.sampled_from([True, True, False]),
    enable_migration=st.sampled_from(["auto", "auto", "on", "off"]),
    device_tracking=st.booleans(),
    iommu_tracks=st.booleans(),
    type1=st.booleans(),
)


@given(
    st.lists(devices, max_size=3, unique_by=lambda device: device.name),
    st.sampled_from(["8.1", "8.2", "9.0", "9.1", "10.2", "11.0", "11.1"]),
    st.sampled_from([0, 8 << 40, 9 << 40]),
)
def test_the_advice_covers_qemus_own_blockers(
    them: list[blockers.GuestDevice], version: str, guest_memory: int
) -> None:
    theirs = blocking.migration_blockers(them, guest_memory=guest_memory, version=version)
    ours = blockers.find(them, guest_memory=guest_memory, version=version)
    told = [blocker.qemu for blocker in ours]
    assert {*theirs.blockers, *theirs.warnings, *filter(None, [theirs.error])} <= set(told)
    kinds_qemu_misses = {blockers.Kind.UNTRACKED}
    fatal = [each for each in ours if each.fatal and each.kind not in kinds_qemu_misses]
    assert bool(fatal) == bool(theirs.blockers or theirs.error)
    if len(them) == 1 and fatal:
        assert fatal[0].qemu == (theirs.error or theirs.blockers[0])


Way = Callable[[x86.Machine], x86.Layout]

PAGE = 4096
GIB = x86.GIB


def pages(most: int) -> st.SearchStrategy[IovaRange]:
    return st.builds(
        lambda start, count: IovaRange.of(start * PAGE, count * PAGE), st.integers(0, most), st.integers(1, 16)
    )


def disjoint(ranges: list[IovaRange]) -> list[IovaRange]:
    """Return the ranges that do not overlap an earlier one."""
    kept: list[IovaRange] = []
    for range_ in ranges:
        if not any(range_.overlaps(other) for other in kept):
            kept.append(range_)
    return sorted(kept)


@st.composite
def sections(draw: st.DrawFn) -> list[MemorySection]:
    """Draw sections: RAM, BARs of the device and of others, MMIO, unaligned ones.

    They may overlap, although those of a flat view do not.
    """
    made = []
    for _ in range(draw(st.integers(0, 12))):
        near = draw(st.sampled_from([0, 1 << 20, (1 << 32) - 8 * PAGE, 1 << 40, 0x383800000000, 1 << 62, 1 << 63]))
        start = near + draw(st.integers(0, 64)) * PAGE + draw(st.sampled_from([0, 0, 0, 0x800]))
        size = draw(st.integers(1, 64)) * PAGE + draw(st.sampled_from([0, 0, 0, 0x800]))
        kind = draw(st.sampled_from(["ram", "ram", "bar", "ivshmem", "mmio", "protected", "shifted", "rom"]))
        made.append(
            MemorySection(
                start,
                size,
                offset=start + 0x400 if kind == "shifted" else None,
                ram=kind != "mmio",
                ram_device=kind in ("bar", "ivshmem"),
                protected=kind == "protected",
                readonly=kind == "rom",
                device="0000:01:00.0" if kind == "bar" else "",
            )
        )
    return made


STRATEGIES = [
    planning.min_max,
    planning.split_32_64,
    planning.split_32_64_pci,
    planning.exact,
    planning.coalesced(1),
    planning.coalesced(3),
    planning.split_at_gaps(GIB),
    planning.max_iova(39),
]
any_strategy = st.sampled_from(STRATEGIES)


@given(sections(), any_strategy)
def test_the_ranges_cover_every_counted_byte(them: list[MemorySection], strategy: planning.Strategy) -> None:
    plan = planning.plan(them, strategy)
    covered = IovaSet(plan.ranges)
    for section in them:
        whole = trim(section, readonly=False)
        if not isinstance(whole, Reason):
            assert whole in covered


@given(sections(), any_strategy)
def test_the_kernel_takes_the_ranges(them: list[MemorySection], strategy: planning.Strategy) -> None:
    plan = planning.plan(them, strategy)
    assert all(one.last < two.start for one, two in pairwise(plan.ranges))
    if plan.ranges:
        assert limits.core_start([(r.start, r.size) for r in plan.ranges], PAGE) == 0


@given(sections(), any_strategy)
def test_what_is_over_tracked_is_what_nothing_counts_at(them: list[MemorySection], strategy: planning.Strategy) -> None:
    plan = planning.plan(them, strategy)
    counted = IovaSet(census(them).ranges)
    assert plan.over_tracked == (IovaSet(plan.ranges) - counted).total


@given(sections())
def test_the_safe_split_is_qemus_where_the_kernel_takes_qemus(them: list[MemorySection]) -> None:
    theirs = qemu.track(them)
    assume(theirs.ranges and not theirs.kernel_errno())
    ours = [(r.start, r.size) for r in planning.plan(them, planning.split_32_64_pci).ranges]
    assert ours == sorted(theirs.ranges)


@given(sections(), st.sampled_from(["8.0", "8.2", "10.2", "11.1"]))
def test_the_sections_of_a_log_ask_for_what_the_log_asks_for(them: list[MemorySection], version: str) -> None:
    log = qemu.track(them, version=version)
    assume(log.updates)
    read = qemu.read_sections("\n".join(log.log))
    assert qemu.track(read, version=version).start_line == log.start_line
    assert [(each.iova, each.size) for each in read] == [
        (range_.start, range_.size) for range_ in census(them, version=version).ranges
    ]


@given(sections())
def test_leaving_out_rom_is_the_only_change_of_11_0(them: list[MemorySection]) -> None:
    without = [section for section in them if not section.readonly]
    old, new = qemu.track(without, version="10.2"), qemu.track(them, version="11.0")
    assert (old.pairs, old.updates) == (new.pairs, new.updates)
    assert {each.section for each in new.dropped} >= {section for section in them if section.readonly}


@given(st.lists(pages(200), min_size=1, max_size=7), st.integers(1, 7))
def test_combining_adds_the_fewest_bytes_that_any_cover_adds(them: list[IovaRange], limit: int) -> None:
    ranges = disjoint(them)
    gaps = range(1, len(ranges))
    keep = min(limit, len(ranges)) - 1

    def covering(open_gaps: tuple[int, ...]) -> int:
        edges = [0, *open_gaps, len(ranges)]
        return sum(ranges[b - 1].last + 1 - ranges[a].start for a, b in pairwise(edges))

    best = min(covering(open_gaps) for open_gaps in combinations(gaps, keep))
    made = limits.combine(ranges, limit)
    assert len(made) <= limit
    assert sum(r.size for r in made) == best
    assert IovaSet(ranges).coalesce(limit).total == best


@given(st.lists(pages(200), min_size=1, max_size=9), st.integers(1, 9))
def test_combining_is_what_the_kernel_does_in_rounds(them: list[IovaRange], limit: int) -> None:
    rounds = disjoint(them)
    made = limits.combine(rounds, limit)
    while len(rounds) > limit:
        at = min(range(1, len(rounds)), key=lambda i: (rounds[i].start - rounds[i - 1].last, i))
        rounds[at - 1 : at + 1] = [IovaRange(rounds[at - 1].start, rounds[at].last)]
    assert made == rounds


@given(
    st.lists(pages(500), min_size=1, max_size=8),
    st.integers(1, 8),
    st.integers(14, 24),
    st.sampled_from([None, 1, 3, 40]),
    st.integers(0, 16),
)
def test_the_best_fit_is_accepted_and_covers_and_is_minimal(
    them: list[IovaRange], most: int, log_max: int, max_pages: int | None, log_min: int
) -> None:
    ranges = disjoint(them)
    device = limits.Limits(
        max_ranges=most, combines=True, log_min_space=log_min, log_max_space=log_max, max_pages=max_pages
    )
    held = planning.fit(ranges, device)
    if held.best is not None:
        again = planning.fit(held.best, device)
        assert again.complete
        assert IovaSet(ranges) - IovaSet(held.best) == IovaSet()
        assert len(held.best) <= most
        assert held.best_over_tracked == sum(r.size for r in held.best) - sum(r.size for r in ranges)
    if held.complete:
        assert held.best is not None
        assert held.best_over_tracked <= held.over_tracked
    if held.best is None and max_pages is None and log_min <= 12:
        # Even the smallest possible cover is too large.
        assert limits.space_log2(sum(r.size for r in limits.combine(ranges, most))) > log_max


@given(st.lists(pages(10**6), max_size=8))
def test_the_complement_of_the_complement_is_the_set(them: list[IovaRange]) -> None:
    usable = IovaSet(them)
    assert usable.complement().complement() == usable
    if usable:
        assert IovaSet([WHOLE]) - reserved.host_reserved(usable) == usable


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60), st.integers(0, 20)), max_size=9))
def test_the_last_reserved_region_wins_at_every_address(inserts: list[tuple[int, int, int]]) -> None:
    regions = [reserved.ReservedRegion(kind, start, start + more) for kind, start, more in inserts]
    by_address: dict[int, int] = {}
    for region in regions:
        by_address.update(dict.fromkeys(range(region.start, region.last + 1), region.type))
    resolved = reserved.resolve(regions)
    assert {a: r.type for r in resolved for a in range(r.start, r.last + 1)} == by_address
    assert all(one.last < two.start for one, two in pairwise(resolved))


@st.composite
def machines(draw: st.DrawFn) -> x86.Machine:
    ram = draw(st.integers(1, 2100)) * GIB + draw(st.sampled_from([0, 0, 1 << 20, 512 << 20]))
    hotplug = draw(st.sampled_from([0, 0, GIB, 110 * GIB]))
    return x86.Machine(
        ram,
        draw(st.sampled_from(list(x86.Board))),
        maxram_size=ram + hotplug if hotplug else None,
        slots=draw(st.integers(0, 4)),
        pci_hole64_size=draw(st.sampled_from([None, 0, 64 * GIB])),
        phys_bits=draw(st.sampled_from([39, 40, 42, 46])),
        amd_cpu=True,
        amd_host=True,
    )


WAYS = [x86.merged, layouts.rfc, layouts.reserved_in_place, layouts.unmapped]
a_way = st.sampled_from(WAYS)


@given(machines(), st.sampled_from([x86.merged, layouts.rfc, layouts.reserved_in_place]))
@example(x86.Machine(1010 * GIB, amd_cpu=True, amd_host=True), layouts.rfc)
def test_no_layout_places_ram_in_the_hole(machine: x86.Machine, way: Way) -> None:
    layout = way(machine)
    assert not any(piece.range.overlaps(x86.AMD_HT) for piece in layout.ram)


@given(machines(), a_way)
def test_no_layout_maps_the_hole(machine: x86.Machine, way: Way) -> None:
    layout = way(machine)
    assert not any(piece.range.overlaps(x86.AMD_HT) for piece in layout.regions())
    # If RAM is not moved, the hot-plug area is not moved either. And the RFC's layout ignores the alignment of slots.
    hit = {conflict.name for conflict in layout.conflicts(IovaSet([x86.AMD_HT]))}
    assert hit <= (set() if way is x86.merged else {"device-memory", "pci-hole64"})


def test_the_rfcs_hot_plug_area_can_reach_into_the_hole() -> None:
    machine = x86.Machine(897 * GIB, maxram_size=1007 * GIB - x86.MIB, slots=4, amd_host=True)
    layout = layouts.rfc(machine)
    assert [conflict.name for conflict in layout.conflicts(IovaSet([x86.AMD_HT]))] == ["device-memory"]


@given(machines(), st.sampled_from([*WAYS, x86.as_before]))
def test_the_memory_map_covers_what_ram_covers(machine: x86.Machine, way: Way) -> None:
    layout = way(machine)
    told = IovaSet(entry.range for entry in layout.e820 if entry.type == x86.E820_RAM)
    assert told == IovaSet(piece.range for piece in layout.ram)
    kept = IovaSet(entry.range for entry in layout.e820 if entry.type == x86.E820_RESERVED)
    assert not told & kept


@given(machines(), st.sampled_from([*WAYS, x86.as_before]))
def test_every_byte_of_ram_lies_somewhere_once(machine: x86.Machine, way: Way) -> None:
    layout = way(machine)
    offsets = sorted((piece.offset, piece.range.size) for piece in layout.ram)
    assert sum(size for _, size in offsets) + layout.given_up.total == machine.ram_size
    assert all(a + size <= b for (a, size), (b, _) in pairwise(offsets))
    assert sum(piece.range.size for piece in layout.ram) == IovaSet(piece.range for piece in layout.ram).total


@given(machines(), st.sampled_from([x86.merged, x86.as_before]))
def test_the_address_bits_needed_are_just_enough(machine: x86.Machine, way: Way) -> None:
    need = way(machine).phys_bits_needed
    assert way(machine._replace(phys_bits=need)).error is None
    assert (way(machine._replace(phys_bits=need - 1)).error is not None) == (way is x86.merged)


@given(machines(), st.sampled_from(["7.1", "7.2", "8.1", "8.2", "10.2", "11.1"]), st.sampled_from([None, "7.0", "8.1"]))
def test_a_64_bit_layout_depends_on_the_version_for_cxl_only(
    machine: x86.Machine, version: str, machine_type: str | None
) -> None:
    machine = machine._replace(machine_type=machine_type)
    assert x86.merged(machine, version=version) == x86.merged(machine)
    with_cxl = machine._replace(cxl_windows=())
    old, new = x86.merged(with_cxl, version=version), x86.merged(with_cxl)
    if machine.device_memory_size is not None:
        assert old == new
    assert old.max_used_gpa >= new.max_used_gpa


@given(machines(), st.sampled_from([GIB, 2 * GIB, 3 * GIB + x86.MIB, 4 * GIB, None]))
def test_max_ram_below_4g_bounds_the_ram_there(machine: x86.Machine, most: int | None) -> None:
    below, above = x86.ram_split(machine.board, machine.ram_size, most)
    assert below + above == machine.ram_size
    assert below <= (most or 4 * GIB)
    usual = x86.ram_split(machine.board, machine.ram_size)
    assert below <= usual[0] or machine.board is x86.Board.I440FX
    layout = x86.merged(machine._replace(max_ram_below_4g=most))
    assert layout.ram[0].range.size == below


@given(machines(), st.integers(1, 3))
def test_srat_gives_each_node_all_of_its_memory_but_the_isa_hole(machine: x86.Machine, nodes: int) -> None:
    layout = x86.merged(machine)
    sizes = [machine.ram_size // nodes] * nodes
    affinities = layout.srat(sizes)
    lost = x86.MIB - 640 * x86.KIB
    assert sum(entry.size for entry in affinities) == sum(sizes) - lost
    ram = IovaSet(piece.range for piece in layout.ram)
    assert all(IovaRange.of(entry.start, entry.size) in ram for entry in affinities)


@given(machines(), st.sampled_from([x86.merged, layouts.rfc]), st.sampled_from([39, 42, 48]))
def test_a_layout_without_conflicts_can_be_mapped_on_that_host(machine: x86.Machine, way: Way, width: int) -> None:
    usable = x86.AMD_USABLE & IovaSet([IovaRange(0, (1 << width) - 1)])
    layout = way(machine)
    conflicts = [conflict for conflict in layout.conflicts(usable.complement()) if conflict.fatal]
    fits = all(piece.range in usable for piece in layout.ram[1:])
    devices = layout.device_memory is None or layout.device_memory in usable
    assert (fits and devices) == (not conflicts)


@pytest.mark.parametrize("way", [*WAYS, x86.as_before])
def test_every_layout_can_be_put_in_words(way: Way) -> None:
    text = way(x86.Machine(x86.TIB, amd_cpu=True, amd_host=True, maxram_size=x86.TIB + GIB)).explain()
    assert "1024 GiB of RAM on q35" in text
