# SPDX-License-Identifier: MIT
"""The guest computations at the edges: the last accepted value, and the first refused one."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvfio.guest import bars, blockers, limits, mapping, sections, x86
from pyvfio.guest.limits import MLX5, PDS, Limits
from pyvfio.guest.mapping import Because, Era, Refusal, Space
from pyvfio.guest.qemu import iova_tree, layouts
from pyvfio.guest.sections import MemorySection
from pyvfio.iova import IovaRange, IovaSet

PAGE = 4096
U64 = 1 << 64
GIB = 1 << 30

# --- sections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [(U64, 1), (-1, 1), (0, U64 + 1), (0, -1), (0, 1, U64), (0, 1, -1)])
def test_a_section_beyond_64_bits_is_refused(field: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        MemorySection(*field)


@pytest.mark.parametrize("field", [(U64 - 1, 1), (0, 0), (0, U64), (0, 1, U64 - 1)])
def test_a_section_may_reach_the_end_of_the_64_bits(field: tuple[int, ...]) -> None:
    assert MemorySection(*field)[: len(field)] == field


byte_sections = st.builds(
    lambda near, iova, size, shift, ram, protected: MemorySection(
        near + iova, size, None if shift is None else iova + shift, ram=ram, protected=protected
    ),
    st.sampled_from([0, 1 << 32, (1 << 63) - 3 * PAGE, 1 << 63]),
    st.integers(0, 2 * PAGE + 1),
    st.integers(0, 3 * PAGE + 1),
    st.sampled_from([None, 0, PAGE, 1, PAGE - 1]),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(byte_sections, max_size=5), st.sampled_from([PAGE, 1 << 14, 1 << 16]))
def test_the_census_is_the_trim_of_each_section(them: list[MemorySection], page_size: int) -> None:
    each = [(section, sections.trim(section, page_size)) for section in them]
    counted = sections.census(them, page_size)
    assert [tuple(one) for one in counted.counted] == [pair for pair in each if isinstance(pair[1], IovaRange)]
    assert [tuple(one) for one in counted.dropped] == [pair for pair in each if not isinstance(pair[1], IovaRange)]


@given(byte_sections, st.sampled_from([PAGE, 1 << 16]))
def test_a_trim_leaves_the_whole_pages(section: MemorySection, page_size: int) -> None:
    outcome = sections.trim(section, page_size)
    if isinstance(outcome, IovaRange):
        assert outcome.is_aligned(page_size)
        assert section.iova <= outcome.start < section.iova + page_size
        assert section.iova + section.size - page_size < outcome.last + 1 <= section.iova + section.size
    elif outcome is sections.Reason.SUB_PAGE:
        start = -(-section.iova // page_size) * page_size
        assert start + page_size > section.iova + section.size


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (MemorySection.mmio(0x1000, PAGE), sections.Reason.NOT_RAM_NOR_IOMMU),
        (MemorySection(0x1000, PAGE, protected=True), sections.Reason.PROTECTED),
        (MemorySection(1 << 63, PAGE), sections.Reason.SPURIOUS),
        (MemorySection(0x1000, PAGE, 0x800), sections.Reason.MISALIGNED),
        (MemorySection(0x1001, PAGE), sections.Reason.SUB_PAGE),
        (MemorySection(0x1000, PAGE - 1), sections.Reason.SUB_PAGE),
        (MemorySection((1 << 63) - PAGE, PAGE), IovaRange.of((1 << 63) - PAGE, PAGE)),
        (MemorySection(0x1000, PAGE, 0x3000), IovaRange.of(0x1000, PAGE)),
        (MemorySection.viommu(0, 1 << 48), IovaRange(0, (1 << 48) - 1)),
        (MemorySection.bar(0x1000, PAGE, "0000:01:00.0"), IovaRange.of(0x1000, PAGE)),
    ],
)
def test_a_section_counts_or_has_its_reason(section: MemorySection, reason: object) -> None:
    assert sections.trim(section) == reason


# --- BARs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "size", "start"),
    [
        (0xFEBE0000, None, PAGE, 0xFEBE0000),
        (0xFEBE0000, 0, PAGE, 0xFEBE0000),
        (0, 0x20, PAGE, 0x20_0000_0000),
        (0x1000, 0x20, PAGE, 0x20_0000_1000),
        (0x1800, 0x20, PAGE, 0x20_0000_1000),  # aligned to its size
        (0, None, PAGE, None),
        (0, 0, PAGE, None),
        (0xFFFFE000, None, PAGE, 0xFFFFE000),
        (0xFFFFF000, None, PAGE, None),  # ends at 2^32 - 1
        (0xFFFFF000, 0, PAGE, 0xFFFFF000),
        (0xFFFFE000, 0xFFFFFFFF, PAGE, U64 - 2 * PAGE),
        (0xFFFFF000, 0xFFFFFFFF, PAGE, None),  # ends at 2^64 - 1
    ],
)
def test_a_bar_decodes_where_its_registers_say(low: int, high: int | None, size: int, start: int | None) -> None:
    expected = None if start is None else IovaRange.of(start, size)
    assert bars.decode(low, high, size) == expected
    assert bars.decode(low, high, size, memory_enabled=False) is None
    bar = bars.Bar(low | 4 * (high is not None), high, size, covered=IovaSet())
    assert bar.range == expected
    assert (bar.low & 0xF, bar.high is None) == (4 * (high is not None), high is None)


def test_registers_of_a_bar_are_written_one_by_one() -> None:
    bar = bars.Bar(0xC, 0x20, 1 << 16, covered=IovaSet())
    assert (bar.low, bar.high, bar.range) == (0xC, 0x20, IovaRange.of(0x20_0000_0000, 1 << 16))
    assert bar.write_low(0x12345678) == [
        bars.Event(False, IovaRange.of(0x20_0000_0000, 1 << 16)),
        bars.Event(True, IovaRange.of(0x20_1234_0000, 1 << 16)),
    ]
    assert bar.low == 0x1234000C, "the low bits are read-only"
    bar.write_high(0x21)
    assert (bar.low, bar.high, bar.range) == (0x1234000C, 0x21, IovaRange.of(0x21_1234_0000, 1 << 16))
    assert bar.write_high(0x21) == []
    assert bar.write(0, 0) == bar.write(0, 0) + bar.write(4, 0x21) + [
        bars.Event(False, IovaRange.of(0x21_1234_0000, 1 << 16)),
        bars.Event(True, IovaRange.of(0x21_0000_0000, 1 << 16)),
    ]
    with pytest.raises(ValueError, match="no register of this BAR is at offset 0x8"):
        bar.write(8, 0)
    with pytest.raises(ValueError, match="a 32-bit BAR has no upper register"):
        bars.Bar(0xFEBE0000, None, PAGE).write(4, 0)


def test_sizing_a_bar_leaves_it_as_it_was() -> None:
    bar = bars.Bar(0x4, 0x20, PAGE)
    steps = bar.size_it()
    assert (len(steps), bar.low, bar.high) == (4, 0x4, 0x20)
    assert [len(events) for events in steps] == [2, 2, 2, 2]
    assert len(bars.Bar(0xFEBE0000, None, PAGE).size_it()) == 2


def test_a_bar_under_the_firmware_is_hidden() -> None:
    bar = bars.Bar(0xFFFC0004, 0, 1 << 17)
    assert bar.range == IovaRange.of(0xFFFC0000, 1 << 17)
    assert not bar.visible
    assert bars.Bar(0xFFF80004, 0, 1 << 19).visible == IovaSet([IovaRange(0xFFF80000, 0xFFFBFFFF)])


# --- the IOVA tree --------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 6)), max_size=25),
)
def test_the_tree_is_a_list_of_entries_that_do_not_overlap(steps: list[tuple[bool, int, int]]) -> None:
    tree = iova_tree.IovaTree()
    model: list[tuple[int, int]] = []
    for insert, iova, size in steps:
        overlapping = [(at, most) for at, most in model if at <= iova + size and iova <= at + most]
        if insert:
            result = tree.insert(iova, size)
            assert result is (iova_tree.Result.IOVA_ERR_OVERLAP if overlapping else iova_tree.Result.IOVA_OK)
            model += [] if overlapping else [(iova, size)]
        else:
            assert [(e.iova, e.size) for e in tree.remove(iova, size)] == sorted(overlapping)
            model = [entry for entry in model if entry not in overlapping]
        assert [(e.iova, e.size) for e in tree] == sorted(model)
        assert len(tree) == len(model)


def test_results_of_the_tree_have_qemus_errnos() -> None:
    assert [result.errno for result in iova_tree.Result] == [0, errno.EINVAL, errno.EEXIST, errno.ENOMEM]
    tree = iova_tree.IovaTree()
    assert tree.insert(U64 - 1, 0) is iova_tree.Result.IOVA_OK
    assert tree.insert(U64 - 2, 2) is iova_tree.Result.IOVA_ERR_INVALID
    assert tree.insert(0, 0, iova_tree.Permission.NONE) is iova_tree.Result.IOVA_ERR_INVALID
    assert [entry.last for entry in tree] == [U64 - 1]
    assert str(iova_tree.Result.IOVA_ERR_OVERLAP) == "IOVA_ERR_OVERLAP(-2)"


# --- the kernel's checks of a log -----------------------------------------------------------------------------------


def core_start(asked: list[tuple[int, int]]) -> int:
    """Check ranges as VFIO's core does, each against all before it.

    An empty range is one whose end is before its start.
    """
    held: list[tuple[int, int]] = []
    for iova, length in asked:
        if iova % PAGE or length % PAGE:
            return errno.EINVAL
        if iova + length >= U64:
            return errno.EOVERFLOW
        last = (iova + length - 1) % U64
        if any(start <= last and iova <= end for start, end in held):
            return errno.EINVAL
        held.append((iova, last))
    return 0


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 3, 5, (U64 // PAGE) - 2, (U64 // PAGE) - 1]), st.integers(0, 3)),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([0, 0, 0, 0x800]),
)
def test_the_core_takes_ranges_as_an_interval_tree_does(asked: list[tuple[int, int]], shift: int) -> None:
    ranges = [(page * PAGE, count * PAGE) for page, count in asked]
    ranges[-1] = (ranges[-1][0] + shift, ranges[-1][1])
    assert limits.core_start(ranges, PAGE) == core_start(ranges)


@pytest.mark.parametrize(("count", "expected"), [(0, errno.EINVAL), (1, 0), (256, 0), (257, errno.E2BIG)])
def test_the_core_takes_a_page_of_ranges(count: int, expected: int) -> None:
    assert limits.core_start([(n * 2 * PAGE, PAGE) for n in range(count)], PAGE) == expected
    assert limits.core_start([(n * 2 * PAGE, PAGE) for n in range(count)], PAGE, log_ops=False) == errno.ENOTTY
    assert limits.most_ranges(1 << 16) == 16 * limits.most_ranges(PAGE) == 4096


@pytest.mark.parametrize(
    ("page_size", "iova", "length", "expected"),
    [
        (PAGE, 0, PAGE, 0),
        (2048, 0, PAGE, errno.EINVAL),
        (PAGE + 1, 0, PAGE, errno.EINVAL),
        (0, 0, PAGE, errno.EINVAL),
        (1 << 63, 0, PAGE, 0),
        (PAGE, U64 - 2 * PAGE, PAGE, 0),
        (PAGE, U64 - PAGE, PAGE, errno.EOVERFLOW),
        (PAGE, U64 - PAGE, PAGE - 1, 0),
    ],
)
def test_the_core_checks_a_report(page_size: int, iova: int, length: int, expected: int) -> None:
    assert limits.core_report(page_size, iova, length) == expected
    assert limits.core_report(page_size, iova, length, log_ops=False) == errno.ENOTTY


@pytest.mark.parametrize(
    ("size", "log2"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (PAGE, 12), (PAGE + 1, 13), (U64, 64)]
)
def test_log2_of_a_size_is_rounded_up(size: int, log2: int) -> None:
    assert limits.space_log2(size) == log2


def of(*sizes: int) -> list[IovaRange]:
    """Return ranges of these sizes, 1 TiB apart."""
    return [IovaRange.of(number << 43, size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("device", "ranges", "error"),
    [
        (MLX5, of(1 << 42), 0),
        (MLX5, of((1 << 42) + PAGE), errno.EOPNOTSUPP),
        (MLX5, of(1 << 41, 1 << 41), 0),
        (MLX5, of(1 << 41, (1 << 41) + PAGE), errno.EOPNOTSUPP),
        (MLX5, of(PAGE), 0),
        (limits.mlx5(log_min_addr_space=13), of(PAGE), errno.EOPNOTSUPP),
        (limits.mlx5(log_min_addr_space=13), of(2 * PAGE), 0),
        (limits.mlx5(0), of(PAGE), errno.EOPNOTSUPP),
        (Limits(max_ranges=1), of(PAGE), 0),
        (Limits(max_ranges=1), of(PAGE, PAGE), errno.E2BIG),
        (Limits(max_ranges=1, combines=True), of(PAGE, PAGE), 0),
        (Limits(widest_range=13), of(2 * PAGE), 0),
        (Limits(widest_range=13), of(PAGE, 3 * PAGE), errno.EOPNOTSUPP),
        (Limits(), [], errno.EINVAL),
    ],
)
def test_a_device_takes_what_its_limits_say(device: Limits, ranges: list[IovaRange], error: int) -> None:
    answer = device.start(ranges)
    assert answer.errno == error
    if not error:
        assert answer.lost == 0
        assert answer.total == sum(r.size for r in answer.ranges)
        assert answer.log_space == limits.space_log2(answer.total)


@pytest.mark.parametrize(
    ("count", "lost"), [(2**32 - 1, 0), (2**32, 2**32), (2**32 + 1, 2**32), (2**33, 2**33), (2**33 + 5, 2**33)]
)
def test_pds_loses_the_pages_beyond_32_bits(count: int, lost: int) -> None:
    answer = PDS.start([IovaRange.of(0, count * PAGE)])
    assert (answer.errno, answer.lost) == (0, lost * PAGE)
    [region] = limits.pds_regions(answer)
    assert (region.dma_base, region.page_count, region.page_size_log2) == (0, count % 2**32, 12)


@pytest.mark.parametrize(
    ("wanted", "page"), [(1, 2 * PAGE), (PAGE, 2 * PAGE), (4 * PAGE, 4 * PAGE), (1 << 20, 1 << 16)]
)
def test_a_page_size_is_brought_within_the_limits(wanted: int, page: int) -> None:
    device = Limits(min_page_size=2 * PAGE, max_page_size=1 << 16)
    assert device.page_size(wanted) == page
    if wanted >= PAGE:
        assert device.start(of(1 << 20), wanted).page_size == page


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_ranges": 2**32}, {"max_ranges": -1}, {"log_min_space": 65}, {"widest_range": -1}, {"min_page_size": 3},
        {"max_pages": 0}, {"min_page_size": 2 * PAGE, "max_page_size": PAGE},
    ],
)  # fmt: skip
def test_impossible_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(wrong)):
        Limits(**wrong)
    Limits(max_ranges=2**32 - 1, log_min_space=64, widest_range=0, max_pages=1, min_page_size=PAGE, max_page_size=PAGE)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", 5),
        ("max_ranges", 1.0),
        ("combines", 1),
        ("rounds_page_size", "on"),
        ("page_multiple", True),
        ("max_pages", "1"),
    ],
)
def test_limits_of_a_wrong_type_are_refused(field: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=field):
        Limits(**{field: wrong})
    with pytest.raises(TypeError, match=field):
        limits.MLX5._replace(**{field: wrong})


@pytest.mark.parametrize("field", ["log_min_addr_space", "log_max_addr_space"])
@pytest.mark.parametrize(("value", "good"), [(0, True), (64, True), (65, False), (-1, False)])
def test_capabilities_of_mlx5_have_their_widths(field: str, value: int, good: bool) -> None:
    if good:
        limits.mlx5(**{field: value})
    else:
        with pytest.raises(ValueError, match=field):
            limits.mlx5(**{field: value})


@pytest.mark.parametrize("value", [-1, 64])
def test_page_sizes_of_mlx5_are_powers_below_2_to_64(value: int) -> None:
    with pytest.raises(ValueError, match="log_max_page_size"):
        limits.mlx5(log_max_page_size=value)
    assert limits.mlx5(log_min_page_size=0, log_max_page_size=63).max_page_size == 1 << 63
    with pytest.raises(ValueError, match="max_num_range"):
        limits.mlx5(256)


@pytest.mark.parametrize(
    ("sizes", "error", "log"),
    [
        ((PAGE,), errno.EOPNOTSUPP, 11),
        ((PAGE + 1,), 0, 12),
        ((1 << 43,), 0, 42),
        (((1 << 43) + 1,), errno.EOPNOTSUPP, 43),
    ],
)
def test_mlx5_as_merged_was_a_byte_short(sizes: tuple[int, ...], error: int, log: int) -> None:
    assert limits.mlx5_start_as_merged(MLX5, of(*sizes)) == (error, sum(sizes) - len(sizes), log)


# --- the kernel's checks of a mapping -------------------------------------------------------------------------------

SPACE = Space(
    usable=[IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, (1 << 39) - 1)],
    mapped=IovaSet([IovaRange.of(0x100000, 4 * PAGE)]),
)


@pytest.mark.parametrize(
    ("iova", "size", "more", "expected"),
    [
        (0, 0, {}, Refusal(errno.EINVAL, Because.SIZE)),
        (0, PAGE, {}, None),
        (U64 - PAGE, 2 * PAGE, {}, Refusal(errno.EOVERFLOW, Because.WRAPS)),
        (U64 - PAGE, 2 * PAGE, {"era": Era.SINCE_5_4}, Refusal(errno.EINVAL, Because.WRAPS)),
        (U64 - PAGE, PAGE, {}, Refusal(errno.EINVAL, Because.UNUSABLE)),
        (0, 2 * PAGE, {"address": U64 - PAGE}, Refusal(errno.EOVERFLOW, Because.WRAPS)),
        (0, PAGE, {"address": U64 - PAGE}, None),
        (0, PAGE, {"read": False, "write": False}, Refusal(errno.EINVAL, Because.PERMISSION)),
        (0, PAGE, {"read": False}, None),
        (0, PAGE, {"write": False}, None),
        (1, PAGE, {}, Refusal(errno.EINVAL, Because.MISALIGNED)),
        (0, PAGE + 1, {}, Refusal(errno.EINVAL, Because.MISALIGNED)),
        (0, PAGE, {"address": 1}, Refusal(errno.EINVAL, Because.MISALIGNED)),
        (0x104000, PAGE, {}, None),
        (0x103000, PAGE, {}, Refusal(errno.EEXIST, Because.MAPPED)),
        (0xFF000, PAGE, {}, None),
        (0xFF000, 2 * PAGE, {}, Refusal(errno.EEXIST, Because.MAPPED)),
        (0xFEDFF000, PAGE, {}, None),
        (0xFEDFF000, 2 * PAGE, {}, Refusal(errno.EINVAL, Because.UNUSABLE)),
        (0xFEEFF000, 2 * PAGE, {}, Refusal(errno.EINVAL, Because.UNUSABLE)),
        (0xFEF00000, PAGE, {}, None),
        ((1 << 39) - PAGE, PAGE, {}, None),
        ((1 << 39) - PAGE, 2 * PAGE, {}, Refusal(errno.EINVAL, Because.UNUSABLE)),
    ],
)
def test_type1_refuses_a_mapping_by_its_first_check(
    iova: int, size: int, more: dict[str, Any], expected: Refusal | None
) -> None:
    assert mapping.type1_refusal(SPACE, iova, size, **more) == expected
    if "address" not in more:
        assert mapping.type1_map(SPACE, iova, size, **more) == (expected.errno if expected else 0)


def test_type1_counts_its_entries() -> None:
    assert mapping.type1_refusal(SPACE._replace(entries_left=0), 0, PAGE) == Refusal(errno.ENOSPC, Because.ENTRIES)
    assert mapping.type1_refusal(SPACE._replace(entries_left=1), 0, PAGE) is None


def test_before_5_4_the_width_of_the_iommu_decides() -> None:
    old = SPACE._replace(intel_width=39)
    era = min(Era)
    assert mapping.type1_refusal(old, (1 << 39) - PAGE, PAGE, era=era) is None
    assert mapping.type1_refusal(old, 1 << 39, PAGE, era=era) == Refusal(errno.EFAULT, Because.WIDTH)
    assert mapping.type1_refusal(SPACE, 1 << 39, PAGE, era=era) is None
    assert mapping.type1_refusal(old, 0xFEE00000, PAGE, era=era) is None
    for width, at, expected in ((1, 2, errno.EFAULT), (1, 1, 0), (64, U64 - 1, 0), (64, U64, errno.EFAULT)):
        assert mapping.intel_map(width, at, 1) == expected
    for width in (0, 65):
        with pytest.raises(ValueError, match="width"):
            mapping.intel_map(width, 0, 1)


@pytest.mark.parametrize(
    ("iova", "length", "more", "expected"),
    [
        (0, PAGE, {}, None),
        (U64 - 1, 1, {}, Refusal(errno.EOVERFLOW, Because.WRAPS)),
        (U64 - 2, 1, {}, Refusal(errno.EINVAL, Because.MISALIGNED)),
        (0, U64 - 1, {}, Refusal(errno.EOVERFLOW, Because.WRAPS)),
        (0, U64 - 2, {}, Refusal(errno.EINVAL, Because.MISALIGNED)),
        (U64 - 1, 1, {"compat": True}, Refusal(errno.EINVAL, Because.MISALIGNED)),
        (0, PAGE, {"read": False, "write": False}, Refusal(errno.EINVAL, Because.PERMISSION)),
        (0, PAGE, {"read": False, "write": False, "compat": True}, Refusal(errno.EINVAL, Because.PERMISSION)),
        (0, PAGE, {"read": False}, None),
        (0, PAGE, {"write": False, "compat": True}, None),
        (0, PAGE, {"address": U64 - PAGE}, Refusal(errno.EOVERFLOW, Because.WRAPS)),
        (0, PAGE, {"address": U64 - 2 * PAGE}, None),
        (0, 0, {}, Refusal(errno.EINVAL, Because.SIZE)),
        (1, PAGE, {}, Refusal(errno.EINVAL, Because.MISALIGNED)),
        (0, 1, {}, Refusal(errno.EINVAL, Because.MISALIGNED)),
        (0, PAGE, {"address": 1}, Refusal(errno.EINVAL, Because.MISALIGNED)),
        (U64 - PAGE, 2 * PAGE, {}, Refusal(errno.EOVERFLOW, Because.WRAPS)),
        (U64 - PAGE, PAGE, {}, Refusal(errno.EINVAL, Because.UNUSABLE)),
        (0x103000, PAGE, {}, Refusal(errno.EEXIST, Because.MAPPED)),
        (0x103000, PAGE, {"address": 1}, Refusal(errno.EEXIST, Because.MAPPED)),
        (0x104000, PAGE, {}, None),
        (0xFEDFF000, 2 * PAGE, {}, Refusal(errno.EINVAL, Because.UNUSABLE)),
    ],
)
def test_iommufd_refuses_a_mapping_by_its_first_check(
    iova: int, length: int, more: dict[str, Any], expected: Refusal | None
) -> None:
    assert mapping.iommufd_refusal(SPACE, iova, length, **more) == expected
    if not {"address", "compat"} & set(more):
        assert mapping.iommufd_map(SPACE, iova, length, **more) == (expected.errno if expected else 0)


def test_without_an_iommu_nothing_is_unusable() -> None:
    bare = Space()
    assert mapping.type1_refusal(bare, U64 - PAGE, PAGE) is None
    assert mapping.iommufd_refusal(bare, U64 - PAGE, PAGE) is None
    assert mapping.iommufd_refusal(bare, 0, PAGE, read=False, write=False, compat=True) is None
    touching = Space(usable=[IovaRange(0, PAGE - 1), IovaRange(PAGE, 2 * PAGE - 1)])
    assert mapping.type1_refusal(touching, 0, 2 * PAGE) == Refusal(errno.EINVAL, Because.UNUSABLE)
    assert mapping.iommufd_refusal(touching, 0, 2 * PAGE) is None


# --- groups and layouts ---------------------------------------------------------------------------------------------

VF = "0000:41:00.0"
PORT = blockers.Peer("0000:40:01.0", "pcieport", bridge=True)


@pytest.mark.parametrize(
    ("peers", "kinds"),
    [
        ((), []),
        ((PORT,), [blockers.Kind.GROUP_SHARED]),
        ((PORT._replace(driver=None),), [blockers.Kind.GROUP_SHARED]),
        ((blockers.Peer("0000:41:00.1", "nvme"),), [blockers.Kind.GROUP_NOT_VIABLE]),
        ((blockers.Peer("0000:41:00.1", None),), []),
        ((blockers.Peer("0000:41:00.1", "vfio-pci"),), []),
        ((blockers.Peer("0000:41:00.1", "nvme"), PORT), [blockers.Kind.GROUP_NOT_VIABLE, blockers.Kind.GROUP_SHARED]),
        ((blockers.Peer(VF, "vfio-pci"),), []),
    ],
)
def test_members_of_a_group_block_only_in_the_hosts_use(
    peers: tuple[blockers.Peer, ...], kinds: list[blockers.Kind]
) -> None:
    found = blockers.find([blockers.GuestDevice(VF, peers=peers)])
    assert [blocker.kind for blocker in found] == kinds
    assert [blocker.fatal for blocker in found] == [kind is blockers.Kind.GROUP_NOT_VIABLE for kind in kinds]
    for blocker in found:
        assert ("0000:40:01.0" in blocker.message) is (blocker.kind is blockers.Kind.GROUP_SHARED)


def test_devices_of_one_guest_in_one_group_are_told() -> None:
    other = "0000:41:00.1"
    both = (blockers.Peer(VF, "vfio-pci"), blockers.Peer(other, "vfio-pci"))
    found = blockers.find([blockers.GuestDevice(VF, peers=both), blockers.GuestDevice(other, peers=both)])
    told = [(b.device, b.fatal) for b in found if b.kind is blockers.Kind.GROUP_SHARED]
    assert told == [(VF, False), (other, False)]
    assert [other in b.message for b in found if b.kind is blockers.Kind.GROUP_SHARED] == [True, False]


def test_the_rfc_ends_where_it_finds_no_room() -> None:
    small = x86.Machine(8 * GIB, amd_host=True)
    assert layouts.rfc(small).above_4g_end == 4 * GIB + small.above_4g
    with pytest.raises(ValueError, match="unsupported amount of memory"):
        layouts.rfc(x86.Machine(1 << 64, amd_host=True))
    with pytest.raises(ValueError, match="unable to find device memory base"):
        layouts.rfc(x86.Machine(8 * GIB, maxram_size=1 << 64, slots=1))
