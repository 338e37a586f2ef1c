# SPDX-License-Identifier: MIT
"""The dirty log of the mock's devices, compared with a plain set of pages."""

from __future__ import annotations

import ctypes
import errno
import mmap
import random

import pytest

from pyvfio._abi import ffi
from pyvfio.iova import IovaRange
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.profile import LogLimits
from pyvfio.mock.vfio.log import Log, LoggedRange

UNIT = 4096


def bits(memory: bytearray, count: int) -> set[int]:
    return {n for n in range(count) if memory[n // 8] >> n % 8 & 1}


def report(log: Log, iova: int, length: int, page_size: int) -> set[int]:
    """Return the numbers of the reported pages, and assert that no memory around the bitmap changes."""
    count = -(-length // page_size)
    size = -(-count // 64) * 8
    memory = bytearray(b"\xa5" * 16 + bytes(size) + b"\xa5" * 16)
    with memoryview(memory):
        log.report(iova, length, page_size, int(ffi.cast("uintptr_t", ffi.from_buffer(memory))) + 16)
    assert memory[:16] == memory[-16:] == b"\xa5" * 16
    return bits(memory[16:-16], 8 * size)


@pytest.mark.parametrize("seed", range(8))
def test_reports_are_what_was_written_and_clear_that_alone(seed: int) -> None:
    rng = random.Random(seed)
    tracked = 1 << rng.choice((12, 13, 16))
    log = Log(LogLimits(page_size_min=tracked, page_size_max=tracked))
    base, span = rng.choice((0, 1 << 30, (1 << 48) - (1 << 26))), 1 << 25
    assert log.start([LoggedRange(base, base + span - 1)], UNIT) == tracked
    dirty: set[int] = set()
    for _ in range(100):
        if rng.random() < 0.7:
            at = base + rng.randrange(span)
            size = min(rng.choice((1, 8, 4096, 100_000)), base + span - at)
            log.mark(at, size)
            first, last = at // tracked * tracked, (at + size - 1) // tracked * tracked + tracked - 1
            dirty.update(range(first // UNIT, last // UNIT + 1))
        else:
            shift = rng.choice((12, 13, 21))
            start = base + rng.randrange(span >> shift << shift) // (1 << shift) * (1 << shift)
            length = min(rng.randrange(1, 64) << shift, base + span - start)
            there = {unit for unit in dirty if start <= unit * UNIT < start + length}
            assert report(log, start, length, 1 << shift) == {(unit * UNIT - start) >> shift for unit in there}
            dirty -= there
        assert log.dirty == len(dirty)


def test_what_lies_outside_of_the_ranges_is_not_tracked() -> None:
    log = Log(LogLimits(page_size_min=1 << 16))
    log.start([LoggedRange(0x10000, 0x1FFFF), LoggedRange(0x40000, 0x4FFFF)], 1 << 16)
    log.mark(0x1FFFF, 0x30000)
    assert report(log, 0, 0x80000, 1 << 16) == {1, 4}


def test_a_second_start_and_a_report_without_one_are_refused() -> None:
    log = Log(LogLimits())
    with pytest.raises(Errno) as refused:
        log.report(0, UNIT, UNIT, 0)
    assert refused.value.number == errno.EINVAL
    log.start([LoggedRange(0, UNIT - 1)], UNIT)
    with pytest.raises(Errno):
        log.start([LoggedRange(0, UNIT - 1)], UNIT)
    log.stop()
    log.stop()
    log.start([LoggedRange(0, UNIT - 1)], UNIT)


def test_the_total_is_rounded_up_to_a_power_of_two() -> None:
    for size in (UNIT, 1 << 42):
        Log(LogLimits()).start([LoggedRange(0, size - 1)], UNIT)
    for size in (UNIT // 2, (1 << 42) + UNIT):
        with pytest.raises(Errno) as refused:
            Log(LogLimits()).start([LoggedRange(0, size - 1)], UNIT)
        assert refused.value.number == errno.EOPNOTSUPP


def test_empty_ranges_count_for_nothing() -> None:
    log = Log(LogLimits(ranges=1))
    log.start([LoggedRange(0, 2**64 - 1), LoggedRange(UNIT, UNIT - 1), LoggedRange(2 * UNIT, 3 * UNIT - 1)], UNIT)
    assert log.ranges == [IovaRange(2 * UNIT, 3 * UNIT - 1)]


def test_sizes_that_are_no_power_of_two_are_negotiated_down() -> None:
    assert Log(LogLimits()).start([LoggedRange(0, 0x3000 - 1)], 0x3000) == 0x2000


def test_bits_for_a_missing_page_of_the_bitmap_are_lost() -> None:
    log = Log(LogLimits())
    pages = 3 * UNIT * 8
    log.start([LoggedRange(0, pages * UNIT - 1)], UNIT)
    for page in (5, 9, UNIT * 8 + 3, 2 * UNIT * 8 + 1):
        log.mark(page * UNIT, 1)
    # A bitmap of three pages, of which the middle one is read-only.
    memory = mmap.mmap(-1, 3 * UNIT)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + UNIT), UNIT, mmap.PROT_READ) == 0
    log.report(0, pages * UNIT, UNIT, address)
    found = bits(bytearray(memory), pages)
    assert found == {5, 9, 2 * UNIT * 8 + 1}
    assert log.dirty == 0
