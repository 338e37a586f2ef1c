# SPDX-License-Identifier: MIT
"""The guest computations by example: plans and devices, layouts and hosts, blockers."""

from __future__ import annotations

import ast
import errno
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyvfio.guest
from pyvfio.guest import bars, blockers, limits, mapping, planning, qemu, reserved, sections, x86
from pyvfio.guest.qemu import blocking, layouts, logs, virtio_iommu
from pyvfio.guest.sections import MemorySection, Reason
from pyvfio.iova import IovaRange, IovaSet

GIB = x86.GIB
VF = "0000:41:10.1"
LOW = IovaRange(0, 0x807FFFFF)
HIGH = IovaRange(0x100000000, 0x27FFFFFFF)
BAR = IovaRange(0x383800000000, 0x3838000FFFFF)

GUEST = [
    MemorySection(0, 0x80800000),
    MemorySection(0x100000000, 6 * GIB),
    MemorySection.bar(0x383800000000, 0x2000, VF),
    MemorySection.bar(0x383800003000, 0xFD000, VF, offset=0x3000),
]
"""The 6 GiB guest with OVMF whose migration failed in 2023: its VF's BAR is at the top of the address space."""


#: Modules that only format and check values, without a kernel.
PLAIN = {"about", "arguments", "html"}


def test_guest_imports_only_addresses_and_argument_checks() -> None:
    for path in Path(pyvfio.guest.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            home = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if home.startswith("pyvfio"):
                names = [alias.name for alias in getattr(node, "names", ())]
                assert home == "pyvfio.iova" or home.startswith("pyvfio.guest") or set(names) <= PLAIN


# Plans and devices


def test_two_ranges_are_too_wide_for_mlx5_and_three_are_not() -> None:
    two = planning.plan(GUEST, planning.split_32_64)
    three = planning.plan(GUEST, planning.split_32_64_pci)
    assert two.ranges == (LOW, IovaRange(HIGH.start, BAR.last))
    assert three.ranges == (LOW, HIGH, BAR)
    assert two.fit(limits.MLX5).answer.errno == errno.EOPNOTSUPP
    assert two.fit(limits.MLX5).answer.log_space == 46
    assert three.fit(limits.MLX5).complete


def test_the_best_for_mlx5_is_the_plan_without_the_gap() -> None:
    held = planning.plan(GUEST, planning.exact).fit(limits.mlx5(max_num_range=3))
    assert held.accepted
    assert held.best is not None
    assert sum(r.size for r in held.best) <= 9 * GIB
    assert held.best == held.answer.ranges


def test_a_device_with_one_range_undoes_the_plan_by_combining() -> None:
    plan = planning.plan(GUEST)
    held = plan.fit(limits.mlx5(max_num_range=1))
    assert held.answer.errno == errno.EOPNOTSUPP
    assert held.answer.ranges == (IovaRange(0, BAR.last),)
    assert held.over_tracked == BAR.last + 1 - plan.total
    assert held.best is None
    assert "No ranges that cover these would do" in held.explain()
    assert "combining alone adds" in held.explain()


def test_a_device_that_does_not_combine_refuses_more_ranges() -> None:
    held = planning.plan(GUEST).fit(limits.Limits(max_ranges=2))
    assert held.answer.errno == errno.E2BIG
    assert held.best == (IovaRange(0, HIGH.last), BAR)
    assert held.explain() == "Too many ranges (E2BIG). 2 ranges would do, 1.992 GiB more than these."


def test_the_kernel_itself_takes_as_many_ranges_as_fit_in_a_page() -> None:
    many = [IovaRange.of(i * 0x2000, 0x1000) for i in range(257)]
    held = planning.fit(many)
    assert held.answer.errno == errno.E2BIG
    assert held.best is not None
    assert len(held.best) == 256
    assert planning.fit(many, host_page_size=65536).accepted


def test_pds_loses_pages_beyond_16_tib_and_the_best_is_cut() -> None:
    wide = [IovaRange.of(0, 20 << 40)]
    one, three = planning.fit(wide, limits.PDS), planning.fit(wide, limits.pds(3))
    assert (one.accepted, one.complete, one.best) == (True, False, None)
    assert one.answer.lost == 16 << 40
    assert "loses 16 TiB" in one.explain()
    assert three.best is not None
    assert len(three.best) == 2
    assert planning.fit(three.best, limits.pds(3)).complete


def test_a_device_that_cannot_log_has_no_best() -> None:
    held = planning.fit([LOW], limits.pds(0))
    assert (held.answer.errno, held.best) == (errno.EOPNOTSUPP, None)
    assert held.explain() == "pds cannot log at all (EOPNOTSUPP)."


def test_a_space_below_the_devices_smallest_is_made_larger() -> None:
    held = planning.fit([IovaRange.of(0x1000, 0x1000)], limits.mlx5(log_min_addr_space=16))
    assert held.answer.errno == errno.EOPNOTSUPP
    assert held.best == (IovaRange.of(0x1000, 0x9000),)


def test_a_retry_follows_only_e2big() -> None:
    plan = planning.plan(GUEST)
    assert plan.after(errno.EOPNOTSUPP) is None
    assert plan.after(errno.EINVAL) is None
    shorter = plan.after(errno.E2BIG)
    assert shorter is not None
    assert shorter.ranges == (IovaRange(0, HIGH.last), BAR)
    last = shorter.after(errno.E2BIG)
    assert last is not None
    assert last.after(errno.E2BIG) is None


def test_start_gives_up_at_a_refusal_of_the_size() -> None:
    came = planning.start(planning.plan(GUEST), lambda plan: errno.E2BIG if len(plan.ranges) > 2 else errno.EOPNOTSUPP)
    assert came == planning.Attempts(None, errno.EOPNOTSUPP, (3, 2))


def test_ours_is_right_where_qemus_ranges_overlap() -> None:
    ivshmem = MemorySection(0x383900000000, 0x100000, ram_device=True, name="ivshmem")
    them = [*GUEST, ivshmem]
    assert qemu.track(them).kernel_errno() == errno.EINVAL
    plan = planning.plan(them)
    assert plan.ranges == (LOW, HIGH, IovaRange(BAR.start, 0x3839000FFFFF))
    assert plan.fit(limits.MLX5).complete


def test_nothing_to_track_is_an_empty_plan_and_enomem_in_qemu() -> None:
    assert planning.plan([]).ranges == ()
    with pytest.raises(OSError, match="Failed to prepare DMA logging: Cannot allocate memory"):
        qemu.track([]).prepare()


def test_all_of_the_address_space_cannot_be_logged() -> None:
    viommu = MemorySection.viommu(0, 1 << 64)
    assert qemu.track([viommu]).ranges == [(0, 0)]
    with pytest.raises(ValueError, match="EOVERFLOW"):
        planning.plan([viommu])
    with pytest.raises(ValueError, match="bits must be at most 63, not 64"):
        planning.max_iova(64)
    plan = planning.plan([viommu, MemorySection(0, GIB)], planning.max_iova(39))
    assert plan.ranges == (IovaRange(0, (1 << 39) - 1),)
    assert plan.over_tracked == 0


def test_memory_mapped_later_is_always_dirty_or_refused() -> None:
    plan = planning.plan(GUEST)
    outside = IovaRange.of(0x280000000 - 0x1000, 0x2000)
    missing = IovaSet([IovaRange.of(0x280000000, 0x1000)])
    assert plan.admit(outside, planning.Later.ALWAYS_DIRTY) == missing
    with pytest.raises(ValueError, match="never be reported as dirty"):
        plan.admit(outside, planning.Later.REFUSED)
    assert not plan.admit(HIGH, planning.Later.REFUSED)


def test_a_million_blocks_come_to_256_ranges_from_an_array() -> None:
    blocks = IovaSet(IovaRange.of(i << 22, 1 << 21) for i in range(10_000))
    plan = planning.plan_ranges(blocks, 256)
    assert len(plan.ranges) == 256
    assert plan.total == sum(r.size for r in limits.combine(list(blocks), 256))
    assert len(planning.plan_ranges(blocks).ranges) == 256


@pytest.mark.parametrize("page_size", [0, 0x3000, -4096])
def test_a_page_size_that_is_no_power_of_two_is_refused(page_size: int) -> None:
    with pytest.raises(ValueError, match=r"^page_size must be (a power of two|at least 1)"):
        planning.plan(GUEST, page_size=page_size)
    with pytest.raises(ValueError, match=r"^page_size must be (a power of two|at least 1)"):
        planning.fit([LOW], page_size=page_size)


@pytest.mark.parametrize(
    ("ranges", "page_size", "answer"),
    [
        ([(0, 0x3000)], 0x3000, errno.EINVAL),
        ([(0, 0)], 4096, 0),
        ([(0x1000, 0), (0x2000, 0)], 4096, 0),
        ([(0, 0), (0, 0)], 4096, errno.EINVAL),
        ([(0, 0x1000), (0x1000, 0x1000)], 4096, 0),
        ([(0, 0x1000)], 0, errno.EINVAL),
        ([], 4096, errno.EINVAL),
    ],
)
def test_the_kernel_core_answers_odd_requests_as_it_does(
    ranges: list[tuple[int, int]], page_size: int, answer: int
) -> None:
    # The kernel's check of alignment uses the mask 0x3000 - 1, which shares a bit with 0x3000.
    assert limits.core_start(ranges, page_size) == answer


# Sections


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (MemorySection.mmio(0xFEBE0000, 0x1000), Reason.NOT_RAM_NOR_IOMMU),
        (MemorySection(0, 0x1000, protected=True), Reason.PROTECTED),
        (MemorySection(0xFFFFFFFFFEBE0000, 0x4000), Reason.SPURIOUS),
        (MemorySection(0x1000, 0x1000, offset=0x800), Reason.MISALIGNED),
        (MemorySection(0x800, 0x1000), Reason.SUB_PAGE),
        (MemorySection(0x1000, 0), Reason.SUB_PAGE),
    ],
)
def test_a_dropped_section_says_why(section: MemorySection, reason: Reason) -> None:
    found = sections.census([section])
    assert [(each.section, each.reason) for each in found.dropped] == [(section, reason)]
    assert not found.counted


def test_the_hosts_real_width_catches_what_bit_63_does_not() -> None:
    usable = IovaSet([IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, (1 << 39) - 1)])
    stray = MemorySection.bar(0x383800000000, 0x100000, VF)
    assert not sections.is_spurious(stray.iova)
    found = sections.mappable([*GUEST, stray], usable)
    assert [each.reason for each in found.dropped] == [Reason.UNREACHABLE] * 3
    assert sections.address_width(usable) == 39
    assert sections.firmware_address_width(usable, 46) == 39
    assert sections.firmware_address_width(None, 46) == 46


def test_own_and_peer_bars_are_kept_or_left_out() -> None:
    peer = MemorySection.bar(0x383900000000, 0x1000, "0000:42:00.0")
    both = sections.mappable([*GUEST, peer], None, device=VF)
    neither = sections.mappable([*GUEST, peer], None, device=VF, own_bars=False, peer_bars=False)
    assert len(both) == 5
    assert [each.reason for each in neither.dropped] == [Reason.OWN_BAR, Reason.OWN_BAR, Reason.PEER_BAR]


def test_the_log_reads_as_qemus() -> None:
    section = MemorySection(0xFFFFFFFFFEBE0000, 0x4000)
    shifted = MemorySection(0x1000, 0x1000, offset=0x800, name="vga.ram")
    assert qemu.track([section, shifted, GUEST[0]]).log == [
        "vfio_listener_region_skip SKIPPING tracking_update 0xfffffffffebe0000 - 0xfffffffffebe3fff",
        "vfio_listener_valid_section received unaligned region vga.ram iova=0x1000 offset_within_region=0x800 "
        "qemu_real_host_page_size=0x1000",
        "vfio_device_dirty_tracking_update section 0x0 - 0x807fffff -> update [0x0 - 0x807fffff]",
        "vfio_device_dirty_tracking_start nr_ranges 1 32:[0x0 - 0x807fffff], 64:[0xffffffffffffffff - 0x0], "
        "pci64:[0xffffffffffffffff - 0x0]",
    ]


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ("9.0", "iova=0x1000 size= 0x1000 bitmap_size=0x8 start=0x2000 dirty_pages=1"),
        ("10.0.13", "iova=0x1000 size= 0x1000 bitmap_size=0x8 start=0x2000 dirty_pages=1"),
        ("10.2.2", "iova=0x1000 size= 0x1000 bitmap_size=0x8 gpa=0x2000 dirty_pages=1"),
        ("11.1.3", "iova=0x1000 size=0x1000 backend_flag=0x1 bitmap_size=0x8 gpa=0x2000 dirty_pages=1"),
        ("8.1", "container fd=9, iova=0x1000 size= 0x1000 bitmap_size=0x8 start=0x2000 dirty_pages=1"),
    ],
)
def test_the_query_line_has_each_versions_words(version: str, line: str) -> None:
    assert qemu.query_line(0x1000, 0x1000, 0x2000, 1, version=version, backend_flag=1, container_fd=9) == line


# Versions of QEMU

ROM = MemorySection(0xFFFC0000, 0x40000, readonly=True, name="pc.bios")


def test_read_only_sections_are_tracked_up_to_10_2() -> None:
    them = [MemorySection(0, 2 * GIB), ROM]
    assert "32:[0x0 - 0xffffffff]" in qemu.track(them, version="10.2").start_line
    assert "32:[0x0 - 0x7fffffff]" in qemu.track(them, version="11.0").start_line
    assert qemu.track(them) == qemu.track(them, version="11.1")
    assert "SKIPPING tracking_update 0xfffc0000 - 0xffffffff" in qemu.track(them).log[1]
    assert planning.plan(them).ranges == (IovaRange(0, 2 * GIB - 1),)
    assert planning.plan(them, version="10.2").ranges == (IovaRange(0, 0xFFFFFFFF),)
    assert [each.reason for each in sections.census(them).dropped] == [Reason.READ_ONLY]
    assert len(sections.mappable(them, None)) == 2


def test_rom_alone_leaves_nothing_to_track_since_11_0() -> None:
    assert len(qemu.track([ROM], version="10.2.2").prepare().ranges) == 1
    with pytest.raises(OSError, match="Failed to prepare DMA logging"):
        qemu.track([ROM]).prepare()


def test_the_third_range_came_with_8_2() -> None:
    names = {version: list(qemu.track(GUEST, version=version).pairs) for version in ("8.0", "8.1.5", "8.2", "11.1")}
    assert names["8.0"] == names["8.1.5"] == ["32", "64"]
    assert names["8.2"] == names["11.1"] == ["32", "64", "pci64"]
    assert qemu.track(GUEST, version="8.1").algorithm is qemu.Algorithm.SPLIT_32_64


@pytest.mark.parametrize("version", ["", "10", "ten", "10.2.2.2", "12.0", "11.2", "0.9", "7.2", "10.2-rc1", "\u0661.8"])
def test_a_version_that_is_not_known_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match=r"^version must be"):
        qemu.track(GUEST, version=version)


def test_a_pending_intx_takes_the_devices_bars_out() -> None:
    other = MemorySection.bar(0xE0000000, 0x100000, "0000:42:00.0")
    assert len(qemu.track([*GUEST, other]).ranges) == 3
    pending = qemu.track([*GUEST, other], pending_intx=[VF])
    assert len(pending.ranges) == 2
    assert "32:[0x0 - 0xe00fffff]" in pending.start_line
    assert [each.reason for each in pending.dropped] == [Reason.NOT_RAM_NOR_IOMMU] * 2
    with pytest.raises(TypeError, match=r"^pending_intx must be a collection"):
        qemu.track(GUEST, pending_intx=VF)


def test_devices_are_started_from_the_last_of_the_command_line() -> None:
    first, second = qemu.Device("v0", start=errno.EOPNOTSUPP), qemu.Device("v1")
    started = qemu.start_all(qemu.start_order([first, second]))
    assert started.calls == ["START v1", "START v0", "STOP v1"]


@pytest.mark.parametrize("version", ["8.0", "8.1", "9.0.2"])
def test_a_start_that_fails_has_two_lines_up_to_9_0(version: str) -> None:
    lines = [
        "v0: Failed to start DMA logging, err -95 (Operation not supported)",
        "vfio: Could not start dirty page tracking, err: -95 (Operation not supported)",
    ]
    assert qemu.start_failure("v0", errno.EOPNOTSUPP, version=version) == lines
    started = qemu.start_all([qemu.Device("v1", stop=5), qemu.Device("v0", start=95)], version=version)
    assert started.messages == lines
    assert started.warnings == ["v1: Failed to stop DMA logging, err -5 (Input/output error)"]


@pytest.mark.parametrize("version", ["9.1", "10.2", "11.1.3"])
def test_a_start_that_fails_has_one_line_since_9_1(version: str) -> None:
    lines = ["vfio: Could not start dirty page tracking - v0: Failed to start DMA logging: Operation not supported"]
    assert qemu.start_failure("v0", errno.EOPNOTSUPP, version=version) == lines
    started = qemu.start_all([qemu.Device("v1", stop=5), qemu.Device("v0", start=95)], version=version)
    assert started.messages == lines
    assert started.warnings == ["v1: Failed to stop DMA logging, err 5 (Input/output error)"]


@pytest.mark.parametrize("version", ["7.2", "11.2", "12.0", "9", "nine"])
def test_no_start_is_computed_for_a_version_that_is_not_known(version: str) -> None:
    with pytest.raises(ValueError, match=r"^version must be "):
        qemu.start_failure("v0", 22, version=version)
    with pytest.raises(ValueError, match=r"^version must be "):
        qemu.start_all([], version=version)


def test_a_viommu_blocks_only_tracking_by_the_device_since_11_0() -> None:
    def blocked(version: str, device_tracking: bool) -> str | None:
        return qemu.viommu_blocker(["vtd-00.0"], "v0", version=version, device_tracking=device_tracking)

    text = "Migration is currently not supported with vIOMMU enabled"
    assert blocked("8.0", True) == text
    assert blocked("10.2", False) == blocked("10.2", True) == blocked("11.0", True) == f"v0: {text}"
    assert blocked("11.0", False) is None


def test_cloud_hypervisor_asks_for_one_range_per_region_of_ram() -> None:
    assert planning.plan([*GUEST, ROM], "cloud_hypervisor").ranges == (IovaRange(0, 0x807FFFFF), HIGH)


def test_the_best_for_pds_is_in_64_pages_and_else_in_pages() -> None:
    best = planning.fit([IovaRange.of(0x1000, 0x1000), IovaRange.of(GIB, 0x41000)], limits.pds(2)).best
    assert best == (IovaRange.of(0, 0x40000), IovaRange.of(GIB, 0x80000))
    at_the_end = IovaRange.of(2**64 - 0x3000, 0x1000)
    assert planning.fit([at_the_end], limits.PDS).best == (at_the_end,)


@pytest.mark.parametrize(("asked", "given"), [(12288, 8192), (4095, 4096), (1 << 40, 1 << 31), (65536, 65536)])
def test_mlx5_takes_the_logarithm_of_a_page_size_downwards(asked: int, given: int) -> None:
    assert limits.MLX5.page_size(asked) == given
    assert limits.PDS.page_size(asked) == asked


def test_a_bar_by_its_address_cannot_be_mapped_under_iommufd() -> None:
    space = mapping.Space()
    assert mapping.iommufd_refusal(space, 0x1000, 0x1000, bar=True) == (errno.EFAULT, mapping.Because.BAR)
    assert mapping.iommufd_map(space, 0x800, 0x1000, bar=True) == errno.EINVAL
    assert mapping.type1_map(space, 0x1000, 0x1000) == 0


LOG = """
vfio_device_dirty_tracking_update section 0x0 - 0x807fffff -> update [0x0 - 0x807fffff]
1234@1694.5:vfio_device_dirty_tracking_update section 0x100000000 - 0x27fffffff -> update [0x100000000 - 0x27fffffff]
vfio_device_dirty_tracking_update section 0x383800000000 - 0x3838000fffff -> update [0x100000000 - 0x3838000fffff]
vfio_device_dirty_tracking_start nr_ranges 2 32:[0x0 - 0x807fffff], 64:[0x100000000 - 0x3838000fffff]
"""


def test_qemus_log_alone_tells_why_it_failed_and_what_would_not() -> None:
    asked = qemu.read_start(LOG)
    mapped = qemu.read_sections(LOG)
    assert asked == [LOW, IovaRange(HIGH.start, BAR.last)]
    assert [section.iova for section in mapped] == [LOW.start, HIGH.start, BAR.start]
    assert planning.fit(asked, limits.MLX5).answer.errno == errno.EOPNOTSUPP
    assert planning.plan(mapped, planning.coalesced(3)).fit(limits.MLX5).complete


def test_pairs_that_qemu_did_not_use_are_no_ranges() -> None:
    assert qemu.read_start("\n".join(qemu.track(GUEST[:1]).log)) == [LOW]


VFIO_LOG = """
vfio_region_setup Device 0000:00:03.0, region 0 "0000:00:03.0 BAR 0", flags: 0x7, offset: 0x0, size: 0x100000
vfio_region_setup Device 0000:00:03.0, region 1 "0000:00:03.0 BAR 1", flags: 0x0, offset: 0x0, size: 0x0
vfio_region_setup Device 0000:00:04.0, region 0 "0000:00:04.0 BAR 0", flags: 0x7, offset: 0x0, size: 0x1000
vfio_pci_write_config  (0000:00:03.0, @0x10, 0xffffffff, len=0x4)
vfio_pci_write_config  (0000:00:03.0, @0x10, 0x4, len=0x4)
vfio_pci_write_config  (0000:00:03.0, @0x14, 0x8, len=0x4)
vfio_pci_write_config  (0000:00:03.0, @0x4, 0x6, len=0x2)
vfio_pci_write_config  (0000:00:04.0, @0x10, 0xe0000000, len=0x4)
vfio_device_dirty_tracking_update section 0x0 - 0x7ffffff -> update [0x0 - 0x7ffffff]
vfio_device_dirty_tracking_update section 0xe0000000 - 0xe0000fff -> update [0x0 - 0xe0000fff]
vfio_device_dirty_tracking_update section 0x700000000 - 0x7003fffff -> update [0x700000000 - 0x7003fffff]
vfio_device_dirty_tracking_update section 0x800001000 - 0x8000fffff -> update [0x800001000 - 0x8000fffff]
vfio_device_dirty_tracking_update section 0x900000000 - 0x9003fffff -> update [0x700000000 - 0x9003fffff]
vfio_device_dirty_tracking_start nr_ranges 3 32:[0x0 - 0xe0000fff], 64:[0x700000000 - 0x9003fffff], pci64:[0x800001000 - 0x8000fffff]
"""
"""11.1.3's, of a guest with memory on both sides of a 64-bit BAR."""


def test_a_log_tells_which_sections_are_bars_by_its_region_lines() -> None:
    read = qemu.read_sections(VFIO_LOG)
    assert [section.device for section in read] == ["", "0000:00:04.0", "", "0000:00:03.0", ""]
    assert qemu.track(read).log[-1] in VFIO_LOG
    assert qemu.track(read).kernel_errno() == errno.EINVAL


def test_a_log_tells_which_sections_are_bars_by_its_ranges_alone() -> None:
    tracking = "\n".join(line for line in VFIO_LOG.splitlines() if "tracking" in line)
    read = qemu.read_sections(tracking)
    assert [section.device for section in read] == ["", "", "", logs.ASSIGNED, ""]
    assert qemu.track(read).log[-1] in VFIO_LOG
    cut = tracking[: tracking.index("vfio_device_dirty_tracking_start")]
    assert not any(section.device for section in qemu.read_sections(cut))


def test_bars_that_are_given_count_before_those_of_the_log() -> None:
    named = qemu.read_sections(VFIO_LOG, bars={"v0": IovaRange.of(0x800000000, 0x100000)})
    assert [section.device for section in named] == ["", "0000:00:04.0", "", "v0", ""]
    unnamed = qemu.read_sections(LOG, bars=[BAR])
    assert [(section.device, section.ram_device) for section in unnamed] == [
        ("", False),
        ("", False),
        ("assigned", True),
    ]


def test_a_bar_with_decoding_off_is_none() -> None:
    off = VFIO_LOG.replace("@0x4, 0x6", "@0x4, 0x0")
    assert qemu.read_sections(off)[3].device == logs.ASSIGNED


def test_of_several_migrations_one_is_read() -> None:
    both = LOG + VFIO_LOG
    assert qemu.count_migrations(both) == 2
    assert len(qemu.read_sections(both)) == len(qemu.read_sections(both, migration=1)) == 5
    assert len(qemu.read_sections(both, migration=0)) == len(qemu.read_sections(both, migration=-2)) == 3
    assert qemu.read_start(both, migration=0) == qemu.read_start(LOG)
    assert qemu.read_start(both) == qemu.read_start(VFIO_LOG)
    with pytest.raises(IndexError, match=r"^migration must be -2 to 1, the log has 2, not 2"):
        qemu.read_sections(both, migration=2)
    unfinished = both + "vfio_device_dirty_tracking_update section 0x0 - 0xfff -> update [0x0 - 0xfff]\n"
    assert qemu.read_sections(unfinished) == [MemorySection(0, 0x1000)]
    assert qemu.read_start(unfinished) == qemu.read_start(VFIO_LOG)


@pytest.mark.parametrize("read", [qemu.read_start, qemu.read_sections])
def test_a_log_without_the_lines_says_what_to_run(read: Callable[[str], object]) -> None:
    with pytest.raises(
        ValueError, match=r"no vfio_device_dirty_tracking_.* line in 2 lines of log: run QEMU with -trace"
    ):
        read("no such\nline")
    with pytest.raises(TypeError, match=r"^log must be a str, not BytesIO"):
        read(io.BytesIO(b""))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("read", "line", "message"),
    [
        (qemu.read_sections, "section 0x9 - 0x2 -> update", "ends before it begins"),
        (qemu.read_sections, f"section 0x0 - {1 << 64:#x} -> update", "more than 64 bits"),
        (qemu.read_start, "nr_ranges 1 32:[0x9 - 0x2]", "ends before it begins"),
        (qemu.read_start, f"nr_ranges 1 32:[0x0 - {1 << 64:#x}]", "more than 64 bits"),
        (qemu.read_start, "nr_ranges 2 32:[0x0 - 0x807fffff], 64:[0x100000000 - 0x38", "cut off: 1 of 2 ranges"),
    ],
)
def test_an_impossible_line_is_shown(read: Callable[[str], object], line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(f"before\n{line}\nafter")
    assert re.search(r"section 0x|32:\[0x", str(caught.value))


def test_reading_a_log_takes_time_in_proportion_to_it() -> None:
    # No time limit is needed: with a search from each character of the word, 4 MB would take a day.
    word = "a" * (4 << 20)
    assert qemu.read_start(f"{word} nr_ranges 1 {word}, 32:[0x0 - 0xfff], {word}") == [IovaRange(0, 0xFFF)]
    with pytest.raises(ValueError, match="cut off"):
        qemu.read_start(f"nr_ranges 1 {word}:[0x0 - 0xfff]")
    with pytest.raises(ValueError, match="no vfio_device"):
        qemu.read_sections("section 0x" * (1 << 18) + "f" * (1 << 20))


# Arguments


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MemorySection(-1, 5), ValueError, "^iova must be at least 0, not -1"),
        (lambda: MemorySection(0, -5), ValueError, "^size must be at least 0, not -5"),
        (lambda: MemorySection("0", 4096), TypeError, "^iova must be an integer, not str"),  # type: ignore[arg-type]
        (lambda: MemorySection(0, 2**65), ValueError, r"^size must be at most 2\^64, not 2\^65"),
        (lambda: MemorySection(0, 1, 2**64), ValueError, r"^offset must be at most 2\^64-1"),
        (lambda: MemorySection(0, 1, ram="no"), TypeError, "^ram must be a bool, not str"),
        (lambda: MemorySection(0, 1, device=5), TypeError, "^device must be a str, not int"),
        (lambda: MemorySection(0, 1)._replace(size=-1), ValueError, "^size must be"),
        (lambda: limits.mlx5(max_num_range=-1), ValueError, "^max_num_range must be at least 0"),
        (lambda: limits.mlx5(log_max_addr_space=99), ValueError, "^log_max_addr_space must be at most 64, not 99"),
        (lambda: limits.pds("1"), TypeError, "^max_regions must be an integer, not str"),  # type: ignore[arg-type]
        (lambda: limits.Limits(min_page_size=3), ValueError, "^min_page_size must be a power of two"),
        (
            lambda: limits.Limits(min_page_size=8192, max_page_size=4096),
            ValueError,
            "^min_page_size must be at most max",
        ),
        (lambda: limits.combine([LOW], 0), ValueError, "^limit must be at least 1"),
        (lambda: planning.coalesced(0), ValueError, "^limit must be at least 1"),
        (lambda: planning.coalesced("3"), TypeError, "^limit must be an integer"),  # type: ignore[arg-type]
        (lambda: planning.split_at_gaps(-1), ValueError, "^min_gap must be at least 0"),
        (lambda: planning.max_iova(0), ValueError, "^bits must be at least 1"),
        (lambda: planning.plan(GUEST, "exakt"), ValueError, "^strategy must be one of min_max, .*coalesced:NUMBER"),
        (lambda: planning.plan(GUEST, "coalesced"), ValueError, "^strategy must be one of"),
        (lambda: planning.plan(GUEST, "coalesced:x"), ValueError, "^strategy must have a number behind the colon"),
        (lambda: planning.plan(GUEST, 5), TypeError, "^strategy must be a function, not int"),  # type: ignore[arg-type]
        (lambda: planning.plan(5), TypeError, "^sections must be an iterable of MemorySections, not int"),  # type: ignore[arg-type]
        (lambda: planning.plan([5]), TypeError, "^sections must be an IovaRange"),  # type: ignore[list-item]
        (lambda: planning.plan(GUEST).fit("mlx6"), ValueError, "^limits must be one of core, mlx5, pds"),
        (lambda: planning.plan(GUEST).fit(5), TypeError, "^limits must be pyvfio"),  # type: ignore[arg-type]
        (lambda: planning.fit(5, "mlx5"), TypeError, "^ranges must be an IovaRange"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_named_at_once(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_strategies_and_limits_have_names() -> None:
    for name, strategy in planning.STRATEGIES.items():
        assert planning.plan(GUEST, name) == planning.plan(GUEST, strategy)
    assert planning.plan(GUEST, "coalesced:2") == planning.plan(GUEST, planning.coalesced(2))
    assert planning.plan(GUEST, "split_at_gaps:0x40000000") == planning.plan(GUEST, planning.split_at_gaps(GIB))
    assert planning.plan(GUEST).fit("mlx5") == planning.plan(GUEST).fit(limits.MLX5)
    assert [each(3).__name__ for each in (planning.coalesced, planning.max_iova)] == ["coalesced(3)", "max_iova(3)"]


def test_ranges_stand_for_plain_memory_and_numpy_counts() -> None:
    numbers: list[Any] = [np.uint64(0), np.int32(8192)]
    assert planning.plan([LOW, (HIGH.start, HIGH.last)], "exact").ranges == (LOW, HIGH)
    assert planning.plan(MemorySection(*numbers, ram=np.bool_(True)), "exact").ranges == (IovaRange(0, 8191),)
    assert pickle.loads(pickle.dumps(GUEST[0])) == GUEST[0]
    assert pickle.loads(pickle.dumps(limits.MLX5)) == limits.MLX5


def test_sizing_a_64_bit_bar_maps_it_where_no_iommu_reaches() -> None:
    bar = bars.Bar(0xFEBE0004, 0, 0x4000)
    steps = bar.size_it()
    assert [[str(event) for event in step] for step in steps] == [
        ["region_del febe0000 - febe3fff"],
        ["region_add febe0000 - febe3fff"],
        ["region_del febe0000 - febe3fff", "region_add fffffffffebe0000 - fffffffffebe3fff"],
        ["region_del fffffffffebe0000 - fffffffffebe3fff", "region_add febe0000 - febe3fff"],
    ]
    assert bar.write_low(0xFFFFFFFF)
    assert bar.low == 0xFFFFC004


def test_a_32_bit_bar_has_no_upper_register() -> None:
    bar = bars.Bar(0xFEBE0000, None, 0x1000)
    assert len(bar.size_it()) == 2
    with pytest.raises(ValueError, match="no upper register"):
        bar.write_high(0)


# Mapping


@pytest.mark.parametrize(
    ("era", "answer"),
    [(mapping.Era.BEFORE_5_4, errno.EFAULT), (mapping.Era.SINCE_5_4, errno.EINVAL)],
)
def test_a_map_beyond_the_width_is_another_error_by_era(era: mapping.Era, answer: int) -> None:
    space = mapping.Space(usable=IovaSet([IovaRange(0, (1 << 48) - 1)]), intel_width=48)
    assert mapping.type1_map(space, 0xFFFFFFFFFEBE0000, 0x4000, era=era) == answer


def test_a_wrapping_map_is_eoverflow_since_sums_are_checked() -> None:
    for era, answer in ((mapping.Era.SINCE_5_4, errno.EINVAL), (mapping.Era.CHECKED_SUMS, errno.EOVERFLOW)):
        assert mapping.type1_map(mapping.Space(), 0xFFFFFFFFFFFFF000, 0x2000, era=era) == answer


def test_the_first_of_several_mistakes_is_the_one_that_is_told() -> None:
    wraps = 0xFFFFFFFFFFFFF000
    busy = mapping.Space(usable=[IovaRange(0x100000, 0x1FFFFF)], mapped=IovaSet([IovaRange(0, 0xFFF)]), entries_left=0)
    assert mapping.type1_map(busy, wraps, 0, read=False, write=False) == errno.EINVAL
    assert mapping.type1_map(busy, wraps, 0x2000, read=False, write=False) == errno.EOVERFLOW
    assert mapping.type1_map(busy, 0, 0x1000) == errno.EEXIST
    assert mapping.type1_map(busy, 0x1000, 0x1000) == errno.ENOSPC
    assert mapping.type1_map(busy._replace(entries_left=1), 0x1000, 0x1000) == errno.EINVAL
    assert mapping.iommufd_map(busy, 0, 0x1000) == errno.EINVAL
    assert mapping.iommufd_map(busy._replace(usable=None), 0, 0x1000) == errno.EEXIST
    assert mapping.iommufd_map(busy, wraps, 0x2000, read=False, write=False) == errno.EINVAL
    assert mapping.iommufd_map(busy, wraps, 0x2000) == errno.EOVERFLOW


def test_type1_wants_one_entry_of_the_list_and_iommufd_does_not() -> None:
    touching = [IovaRange(0, 0xFFF), IovaRange(0x1000, 0x1FFF)]
    space = mapping.Space(usable=touching)
    assert mapping.type1_map(space, 0, 0x2000) == errno.EINVAL
    assert mapping.iommufd_map(space, 0, 0x2000) == 0


# Reserved regions

AMD_HOST = x86.AMD_USABLE
BUS0 = reserved.Bdf.parse("00:00.0")


def a_device(name: str, usable: IovaSet | None, page_sizes: int | None = None) -> virtio_iommu.HostIommuDevice:
    return virtio_iommu.HostIommuDevice(name, reserved.Bdf.parse(name), BUS0, usable, page_sizes)


def test_no_usable_ranges_reported_is_not_all_reserved() -> None:
    assert not reserved.host_reserved(None)
    assert not reserved.host_reserved(IovaSet())


def test_the_guest_of_an_amd_host_is_told_of_the_hole() -> None:
    viommu = virtio_iommu.VirtioIommu([reserved.Q35_PROPERTY])
    assert viommu.regions(BUS0) == [reserved.Q35_PROPERTY]
    assert viommu.set_device(a_device("0000:01:00.0", AMD_HOST)).ok
    assert [str(region) for region in viommu.regions(BUS0)] == [
        "0xfee00000:0xfeefffff:1",
        "0xfd00000000:0xffffffffff:0",
    ]
    assert reserved.translate(viommu.regions(BUS0), 0xFD00000000) is reserved.Translation.FAULT


@pytest.mark.parametrize(
    ("conveyance", "text"),
    [
        (virtio_iommu.Conveyance.MEMORY_REGION_2023, "IOMMU mr=virtio-iommu-memory-region-0-0 Conflicting"),
        (virtio_iommu.Conveyance.SEED, "virtio_iommu_set_host_iova_ranges Conflicting"),
        (virtio_iommu.Conveyance.CURRENT, "does not support aliased BDF"),
    ],
)
def test_a_second_device_that_reserves_more_is_always_refused(conveyance: virtio_iommu.Conveyance, text: str) -> None:
    viommu = virtio_iommu.VirtioIommu(conveyance=conveyance)
    assert viommu.set_device(a_device("01:00.0", IovaSet([IovaRange(0, (1 << 48) - 1)]))).ok
    narrower = viommu.set_device(a_device("02:00.0", IovaSet([IovaRange(0, (1 << 39) - 1)])))
    assert (narrower.ok, narrower.errno) == (False, errno.EINVAL)
    assert text in narrower.message


def test_a_second_device_that_reserves_less_is_refused_today() -> None:
    for conveyance in virtio_iommu.Conveyance:
        viommu = virtio_iommu.VirtioIommu(conveyance=conveyance)
        assert viommu.set_device(a_device("01:00.0", IovaSet([IovaRange(0, (1 << 39) - 1)]))).ok
        before = viommu.host_reserved(BUS0)
        wider = viommu.set_device(a_device("02:00.0", IovaSet([IovaRange(0, (1 << 48) - 1)])))
        assert wider.ok is (conveyance is not virtio_iommu.Conveyance.CURRENT)
        assert viommu.host_reserved(BUS0) == before


def test_in_the_seeds_version_a_device_after_the_probe_aborts() -> None:
    viommu = virtio_iommu.VirtioIommu(conveyance=virtio_iommu.Conveyance.SEED)
    viommu.probe(BUS0)
    with pytest.raises(AssertionError, match="probe_done"):
        viommu.set_device(a_device("01:00.0", AMD_HOST))


def test_unplugging_restores_the_properties_today() -> None:
    viommu = virtio_iommu.VirtioIommu([reserved.Q35_PROPERTY])
    device = a_device("01:00.0", AMD_HOST)
    viommu.set_device(device)
    viommu.unset_device(device)
    assert viommu.regions(BUS0) == [reserved.Q35_PROPERTY]
    assert viommu.set_device(device).ok


def test_a_frozen_granule_must_be_among_the_hosts_page_sizes() -> None:
    assert virtio_iommu.merge_page_sizes(0xFFFFFFFFFFFF0000, 0x20010000, frozen=True) == 0xFFFFFFFFFFFF0000
    with pytest.raises(ValueError, match="does not support frozen granule 0x1000"):
        virtio_iommu.merge_page_sizes(0xFFFFFFFFFFFFF000, 0x20010000, frozen=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x:0x1fff:0", "start address of 'reserved-regions\\[0\\]' must be a hexadecimal integer"),
        ("0x1000:y:0", "end address of 'reserved-regions\\[0\\]' must be a hexadecimal integer"),
        ("0x1000:0x1fff", "reserved region fields must be separated with ':'"),
        ("0x1000:0x1fff:-1", "type of 'reserved-regions\\[0\\]' must be a non-negative decimal integer"),
    ],
)
def test_a_property_that_is_none_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        virtio_iommu.parse_property(text, "reserved-regions[0]")


def test_a_property_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="reserved region 0 has an invalid type"):
        virtio_iommu.VirtioIommu([virtio_iommu.parse_property("0x1000:0x1fff:2")])


def test_a_probe_conveys_all_regions_or_none() -> None:
    one = reserved.ReservedRegion(0, 0, 0xFFF)
    assert len(virtio_iommu.probe([one] * 21).data) == 504
    assert virtio_iommu.probe([one] * 22) == virtio_iommu.ProbeReply(virtio_iommu.Status.INVAL, b"")


# Layouts


def test_a_terabyte_on_amd_conflicts_unless_it_is_moved() -> None:
    machine = x86.Machine(x86.TIB, amd_cpu=True, phys_bits=42)
    hole = AMD_HOST.complement()
    before = x86.as_before(machine)
    assert before.conflicts(hole) == [x86.Conflict("ram-above-4g", x86.AMD_HT)]
    assert "Mapping ram-above-4g fails (EINVAL): the IOMMU reserves [0xfd00000000, 0xffffffffff]" in before.explain(
        hole
    )
    moved = x86.merged(machine)
    assert (moved.relocated, moved.conflicts(hole), moved.error) == (True, [], None)
    assert "RAM above 4 GiB begins at 1 TiB" in moved.explain(hole)


@pytest.mark.parametrize(("board", "stays"), [(x86.Board.Q35, 978), (x86.Board.I440FX, 1009)])
def test_the_largest_guest_that_stays_is_known(board: x86.Board, stays: int) -> None:
    assert not x86.merged(x86.Machine(stays * GIB, board, amd_cpu=True)).relocated
    assert x86.merged(x86.Machine((stays + 1) * GIB, board, amd_cpu=True)).relocated


@pytest.mark.parametrize(
    ("board", "hole64", "bits"),
    [(x86.Board.Q35, None, 42), (x86.Board.I440FX, None, 41), (x86.Board.Q35, GIB, 41)],
)
def test_a_terabyte_needs_more_address_bits_when_moved(board: x86.Board, hole64: int | None, bits: int) -> None:
    layout = x86.merged(x86.Machine(x86.TIB, board, amd_cpu=True, pci_hole64_size=hole64))
    assert layout.phys_bits_needed == bits


def test_ram_in_the_hole_is_given_up_or_kept_from_devices() -> None:
    machine = x86.Machine(x86.TIB, amd_cpu=True)
    assert layouts.reserved_in_place(machine).given_up.total == 12 * GIB
    left = layouts.unmapped(machine)
    assert left.no_dma.total == 12 * GIB
    assert [str(part.range) for part in left.regions()[1:]] == [
        "IovaRange(0x100000000..0xfcffffffff)",
        "IovaRange(0x10000000000..0x1007fffffff)",
    ]


def test_the_rfc_splits_ram_and_its_size_above_1_tib_can_wrap() -> None:
    machine = x86.Machine(1010 * GIB, amd_host=True)
    layout = layouts.rfc(machine)
    assert layout.above_4g_end == x86.AMD_HT_START
    assert layout.above_1t_size == 2**64 - x86.AMD_HT_SIZE


def test_the_rfcs_srat_places_a_node_below_4_gib_above_it() -> None:
    entries = layouts.srat_rfc([GIB, 3 * GIB], 2 * GIB, layouts.RFC_AMD)
    assert x86.Affinity(0, 4 * GIB, GIB - x86.MIB) in entries
    assert x86.srat([GIB, 3 * GIB], 2 * GIB)[1] == x86.Affinity(0, x86.MIB, GIB - x86.MIB)


def test_without_hot_plug_cxl_begins_at_the_end_of_ram_since_8_2() -> None:
    machine = x86.Machine(3583 * x86.MIB, cxl_windows=())
    assert x86.merged(machine, version="8.1").pci_hole64_start == 0x1C0000000
    assert x86.merged(machine).pci_hole64_start == 0x180000000
    # The place of CXL also decides whether RAM is moved above 1 TiB.
    large = x86.Machine(999488 * x86.MIB, amd_cpu=True, phys_bits=48, cxl_windows=(GIB,))
    assert x86.merged(large, version="7.2").relocated
    assert not x86.merged(large).relocated


def test_too_few_address_bits_are_refused_since_7_1() -> None:
    machine = x86.Machine(64 * GIB, phys_bits=36)
    assert x86.merged(machine, version="7.0").error is None
    assert "QEMU does not check that" in x86.as_before(machine).explain()
    assert x86.merged(machine, version="7.1").error == (
        "Address space limit 0xfffffffff < 0x187fffffff phys-bits too low (36)"
    )


def test_a_32_bit_vcpu_is_checked_by_version_and_machine_type() -> None:
    machine = x86.Machine(361716776960, x86.Board.I440FX, phys_bits=36, long_mode=False)
    assert x86.merged(machine).error is not None
    for machine_type in ("7.0", "8.1"):
        assert x86.merged(machine._replace(machine_type=machine_type)).error is None
    assert x86.merged(machine._replace(machine_type="8.2")).error is not None
    small = x86.Machine(4 * GIB, phys_bits=36, long_mode=False)
    assert x86.merged(small).max_used_gpa == small.above_4g + 4 * GIB - 1
    assert x86.merged(small, version="8.1").max_used_gpa == x86.merged(small._replace(long_mode=True)).max_used_gpa
    assert x86.merged(machine._replace(phys_bits=32), version="7.2").error is None
    with pytest.raises(ValueError, match=r"^machine_type must be 2\.11 to"):
        x86.merged(machine._replace(machine_type="2.4"))


def test_machine_types_up_to_7_0_do_not_keep_the_hole_free() -> None:
    machine = x86.Machine(x86.TIB, amd_cpu=True, phys_bits=42)
    old = x86.merged(machine._replace(machine_type="7.0"))
    assert (old.relocated, len(old.e820)) == (False, 2)
    assert x86.merged(machine._replace(machine_type="7.1")).relocated


def test_the_window_ends_at_a_whole_gib_beyond_the_check() -> None:
    layout = x86.merged(x86.Machine(128 * x86.MIB, x86.Board.I440FX, pci_hole64_size=x86.MIB))
    assert layout.pci_hole64 == IovaRange(0x100000000, 0x13FFFFFFF)
    assert layout.max_used_gpa == 0x1000FFFFF


def test_a_window_in_amds_hole_is_a_conflict_that_is_not_fatal() -> None:
    machine = x86.Machine(990 * GIB, amd_cpu=True, machine_type="7.0")
    hole = x86.AMD_USABLE.complement()
    [conflict] = x86.merged(machine).conflicts(hole)
    assert conflict == x86.Conflict("pci-hole64", IovaRange(0xFD00000000, 0xFFFFFFFFFF), fatal=False)
    assert "BARs at [0xfd00000000, 0xffffffffff] cannot be mapped" in x86.merged(machine).explain(hole)
    assert x86.merged(machine).conflicts(IovaSet([IovaRange(1 << 48, 2**64 - 1)])) == []
    assert x86.merged(machine._replace(machine_type=None)).conflicts(hole) == []


@pytest.mark.parametrize(
    ("board", "ram", "most", "split"),
    [
        (x86.Board.Q35, 8 * GIB, GIB, (GIB, 7 * GIB)),
        (x86.Board.Q35, 2600 * x86.MIB, 4 * GIB, (2600 * x86.MIB, 0)),
        (x86.Board.Q35, 8 * GIB, 4 * GIB, (2 * GIB, 6 * GIB)),
        (x86.Board.I440FX, 3968 * x86.MIB, 4 * GIB, (3968 * x86.MIB, 0)),
        (x86.Board.I440FX, 4 * GIB, 4 * GIB, (3 * GIB, GIB)),
        (x86.Board.I440FX, 4 * GIB, 2 * GIB, (2 * GIB, 2 * GIB)),
    ],
)
def test_max_ram_below_4g_moves_the_split(board: x86.Board, ram: int, most: int, split: tuple[int, int]) -> None:
    assert x86.ram_split(board, ram, most) == split
    machine = x86.Machine(ram, board, max_ram_below_4g=most)
    assert (machine.below_4g, machine.above_4g) == split
    with pytest.raises(ValueError, match=r"^max_ram_below_4g must be at most"):
        x86.ram_split(board, ram, 5 * GIB)


def test_sgx_epc_lies_behind_ram_and_pushes_the_rest_up() -> None:
    plain = x86.Machine(8 * GIB, maxram_size=16 * GIB, slots=1)
    layout = x86.merged(plain._replace(sgx_epc=(64 * x86.MIB, 64 * x86.MIB)))
    end = x86.merged(plain).above_4g_end
    assert layout.sgx_epc == IovaRange.of(end, 128 * x86.MIB)
    assert layout.e820[-1] == x86.E820(end, 128 * x86.MIB, x86.E820_RESERVED)
    assert layout.above_4g_end == end + 128 * x86.MIB
    assert layout.device_memory == IovaRange.of(end + GIB, 9 * GIB)
    assert "SGX EPC" in layout.explain()


def test_cxl_windows_push_the_top_up() -> None:
    plain = x86.merged(x86.Machine(8 * GIB))
    cxl = x86.merged(x86.Machine(8 * GIB, cxl_windows=(4 * GIB,)))
    assert cxl.pci_hole64_start == plain.pci_hole64_start + 5 * GIB


# Blockers


def kinds(found: list[blockers.Blocker]) -> list[blockers.Kind]:
    return [blocker.kind for blocker in found]


def test_a_guest_with_a_good_device_has_no_blockers() -> None:
    device = blockers.GuestDevice(VF, limits=limits.MLX5)
    assert blockers.find([device], planning.plan(GUEST)) == []


def test_a_plan_that_a_device_refuses_is_known_before_start() -> None:
    device = blockers.GuestDevice(VF, limits=limits.MLX5)
    [found] = blockers.find([device], planning.plan(GUEST, planning.split_32_64))
    assert found.kind is blockers.Kind.START_WILL_FAIL
    assert "need 2^46" in found.message


def test_loss_is_a_blocker_too() -> None:
    device = blockers.GuestDevice(VF, limits=limits.PDS)
    plan = planning.plan([MemorySection(0, 20 << 40)])
    assert kinds(blockers.find([device], plan)) == [blockers.Kind.START_WILL_LOSE]


def test_a_viommu_blocks_by_address_space_and_width() -> None:
    narrow = blockers.GuestDevice(VF, limits=limits.MLX5, address_space="vtd-41.10", viommu_bits=39)
    wide = narrow._replace(viommu_bits=48)
    [one], [other] = blockers.find([narrow]), blockers.find([wide])
    assert one.kind is other.kind is blockers.Kind.VIOMMU
    assert "this device can" in one.advice
    assert "cannot log all 48 bits" in other.advice


def test_a_viommu_permits_tracking_by_the_iommu_since_11_0() -> None:
    behind = blockers.GuestDevice("v0", address_space="vtd-00.0", iommu_tracks=True)
    for device in (behind._replace(device_tracking=False), behind._replace(logs=False)):
        assert blockers.find([device]) == []
        assert kinds(blockers.find([device], version="10.2")) == [blockers.Kind.VIOMMU]
    [found] = blockers.find([behind])
    assert "x-device-dirty-page-tracking=off): the IOMMU tracks it" in found.advice
    assert found.qemu == "v0: Migration is currently not supported with vIOMMU enabled"
    [without] = blockers.find([behind._replace(iommu_tracks=False)], version="10.2")
    assert "QEMU 11.0 or later with x-device-dirty-page-tracking=off and iommufd" in without.advice


def test_a_device_that_the_kernel_does_not_migrate_is_a_blocker() -> None:
    device = blockers.GuestDevice("v0", migrates=False, logs=False, address_space="vtd-00.0")
    [found] = blockers.find([device], version="10.2")
    assert (found.kind, found.qemu) == (
        blockers.Kind.NO_MIGRATION,
        "v0: VFIO migration is not supported in kernel",
    )
    assert [blocker.qemu for blocker in blockers.find([device])] == [
        "v0: VFIO migration init failed: migration is not supported in kernel: Inappropriate ioctl for device"
    ]
    [other] = blockers.find([device._replace(migration_errno=errno.EOPNOTSUPP)], version="10.2")
    assert other.qemu == ("v0: Migration couldn't be initialized for VFIO device, err: -95 (Operation not supported)")
    [off] = blockers.find([device._replace(enable_migration="off")])
    assert (off.kind, off.qemu) == (blockers.Kind.DISABLED, "v0: Migration is disabled for VFIO device")
    with pytest.raises(ValueError, match="enable_migration must be one of"):
        blockers.find([device._replace(enable_migration="maybe")])


def test_an_untracked_device_is_a_warning_if_migration_is_forced() -> None:
    device = blockers.GuestDevice("v0", logs=False)
    [found] = blockers.find([device])
    assert (found.fatal, found.qemu) == (True, "v0: VFIO device doesn't support device and IOMMU dirty tracking")
    [old] = blockers.find([device], version="9.0", iommu_tracks=True)
    assert old.qemu == "v0: VFIO device doesn't support device dirty tracking"
    [forced] = blockers.find([device._replace(enable_migration="on")])
    assert not forced.fatal
    [off] = blockers.find([blockers.GuestDevice("v0", device_tracking=False)])
    assert (off.kind, "switched off" in off.message) == (blockers.Kind.NO_LOGGING, True)


@pytest.mark.parametrize(
    ("version", "memory", "page_size", "blocked"),
    [("11.0", 8, 4096, False), ("11.0", 9, 4096, True), ("10.2", 9, 4096, False), ("11.1", 9, 65536, False)],
)
def test_more_than_8_tib_in_type1_is_a_blocker_since_11_0(
    version: str, memory: int, page_size: int, blocked: bool
) -> None:
    device = blockers.GuestDevice("v0", logs=False, enable_migration="on", type1=True)
    found = blockers.find([device], guest_memory=memory << 40, version=version, page_size=page_size)
    assert (blockers.Kind.LARGE_MEMORY in kinds(found)) is blocked
    logging = blockers.find([device._replace(logs=True)], guest_memory=memory << 40, version=version)
    assert logging == []


def test_a_type1_container_has_no_iommu_tracking_for_qemu() -> None:
    device = blockers.GuestDevice("v0", logs=False, type1=True, iommu_tracks=True)
    assert kinds(blockers.find([device])) == [blockers.Kind.NO_LOGGING]


def test_writes_are_lost_if_the_iommu_tracks_some_devices_only() -> None:
    logs_alone = blockers.GuestDevice("v0", iommu_tracks=False)
    tracked = blockers.GuestDevice("v1", logs=False, iommu_tracks=True)
    [found] = blockers.find([logs_alone, tracked])
    assert (found.kind, found.device) == (blockers.Kind.UNTRACKED, "v0")
    assert found.qemu == "IOMMU instance for device v0 doesn't support dirty tracking"
    assert blockers.find([logs_alone, tracked._replace(logs=True)]) == []


def test_qemu_8_1_migrates_one_device_only() -> None:
    two = [blockers.GuestDevice("v0"), blockers.GuestDevice("v1")]
    assert kinds(blockers.find(two, version="8.1")) == [blockers.Kind.SEVERAL_DEVICES] * 2
    assert blockers.find(two, version="8.2") == []
    unmigrated = [two[0], two[1]._replace(migrates=False, p2p=False)]
    assert kinds(blockers.find(unmigrated)) == [blockers.Kind.NO_MIGRATION]


def test_qemus_own_blockers_have_its_order() -> None:
    bad = blockers.GuestDevice("v0", logs=False, p2p=False, address_space="vtd-00.0")
    good = blockers.GuestDevice("v1", address_space="vtd-00.1")
    off = blockers.GuestDevice("v2", enable_migration="off", migrates=False)
    assert blocking.migration_blockers([bad, good, off]) == (
        [
            "v0: VFIO device doesn't support device and IOMMU dirty tracking",
            "Multiple VFIO devices migration is supported only if all of them support P2P migration",
            "v1: Migration is currently not supported with vIOMMU enabled",
            "v2: Migration is disabled for VFIO device",
        ],
        None,
        [],
    )


def test_a_device_that_must_migrate_and_cannot_ends_qemu() -> None:
    forced = blockers.GuestDevice("v0", logs=False, p2p=False, enable_migration="on")
    first = blocking.migration_blockers([forced, blockers.GuestDevice("v1")])
    assert (first.error, len(first.blockers), len(first.warnings)) == (None, 1, 1)
    second = blocking.migration_blockers([blockers.GuestDevice("v1"), forced])
    assert second.error == "Multiple VFIO devices migration is supported only if all of them support P2P migration"
    large = blocking.migration_blockers([forced._replace(type1=True)], guest_memory=9 << 40)
    assert large.error == (
        "v0: Migration is currently not supported with large memory VM due to dirty tracking limitation in backend"
    )


def test_devices_without_logging_need_an_iommu_that_tracks() -> None:
    device = blockers.GuestDevice(VF, logs=False)
    assert kinds(blockers.find([device])) == [blockers.Kind.NO_LOGGING]
    assert blockers.find([device], iommu_tracks=True) == []


def test_several_devices_each_need_peer_to_peer_states() -> None:
    two = [blockers.GuestDevice(VF), blockers.GuestDevice("0000:42:00.0", p2p=False)]
    assert [(b.kind, b.device) for b in blockers.find(two)] == [(blockers.Kind.SEVERAL_DEVICES, "0000:42:00.0")]
    assert blockers.find(two[1:]) == []


def test_a_root_port_in_the_group_warns_and_a_busy_member_blocks() -> None:
    port = blockers.Peer("0000:40:01.0", "pcieport", bridge=True)
    disk = blockers.Peer("0000:41:00.1", "nvme")
    device = blockers.GuestDevice(VF, peers=(port, disk))
    found = blockers.find([device])
    assert [(b.kind, b.fatal) for b in found] == [
        (blockers.Kind.GROUP_NOT_VIABLE, True),
        (blockers.Kind.GROUP_SHARED, False),
    ]
    assert "0000:41:00.1 (nvme)" in str(found[0])


@pytest.mark.parametrize(
    ("block", "more", "needed", "smallest"),
    [
        (4096, {}, 4194305, 512 << 10),
        (2 << 20, {}, 8193, 2 << 20),
        (4096, {"memslots": 512}, 4194815, 512 << 10),
        (4096, {"limit": 5000000}, 4194305, 4096),
        (4096, {"limit": 1}, 4194305, None),
    ],
)
def test_mappings_of_a_guest_of_blocks(block: int, more: dict[str, int], needed: int, smallest: int | None) -> None:
    """C16: a confidential guest converts 16 GiB in pieces of 4 KiB, and the container allows 65535 mappings."""
    guest = [MemorySection(0, 2 * GIB), MemorySection(4 * GIB, 16 * GIB, discards=True), MemorySection(1 << 50, 0)]
    found = mapping.entries(guest, block, **more)
    assert (found.needed, found.smallest, found.fit) == (needed, smallest, smallest == block)
    assert str(needed) in found.explain()


def test_blocks_that_a_section_begins_in_count() -> None:
    """As in QEMU, the first block is rounded down, and the last one up."""
    assert mapping.entries([MemorySection(0x1000, 0x2000, discards=True)], 0x2000).needed == 2
    with pytest.raises(ValueError, match=r"^block_size must be a power of two"):
        mapping.entries([], 3000)
