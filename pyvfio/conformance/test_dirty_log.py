# SPDX-License-Identifier: MIT
"""DMA logging: requests that succeed, requests that are refused, and no reports for a device that does nothing."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pyvfio import Device, IovaRange
from pyvfio._abi import ffi, lib

pytestmark = pytest.mark.vfio_require("dirty_log")

PAGE = 4096
#: the errnos by which drivers refuse a log that is too large for them
TOO_MUCH = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSPC, errno.ENOMEM, errno.E2BIG, errno.EOVERFLOW, errno.EIO)


def starts(device: Device, ranges: list[IovaRange], page_size: int = PAGE) -> bool:
    """Whether a log of these ranges starts. It is stopped at once."""
    try:
        device.dirty_log(ranges, page_size).close()
    except OSError as error:
        if error.errno not in TOO_MUCH:
            raise
        return False
    return True


def test_a_page_can_be_logged(device: Device) -> None:
    """A log of a single page starts, and its report has at most that page."""
    with device.dirty_log([IovaRange.of(0x100000, PAGE)]) as log:
        assert log.read().count() <= 1


def test_the_report_is_what_changed_in_memory(device: Device) -> None:
    """Each of ten reports of 2 MiB has the pages whose memory changed, and no others; none if the device does nothing."""
    mapping = device.address_space.alloc(2 << 20)
    view = mapping.buffer.view
    known = bytes(view)
    with device.dirty_log([mapping.range]) as log:
        size = log.page_size
        for _ in range(10):
            before = bytes(view)
            report = log.read()
            after = bytes(view)
            reported = {page for run in report.runs() for page in range(run.start, run.last + 1, PAGE)}
            assert changed(known, before, mapping.iova, PAGE) <= reported, "a page that was written is not reported"
            units = changed(known, after, mapping.iova, size)
            assert {page // size * size for page in reported} <= units, "a page that was not written is reported"
            known = after


def changed(old: bytes, new: bytes, iova: int, size: int) -> set[int]:
    """Return the IOVAs of the pages that differ."""
    return {(iova + at) // size * size for at in range(0, len(old), PAGE) if old[at : at + PAGE] != new[at : at + PAGE]}


def test_a_second_log_is_refused_until_the_first_ends(device: Device, refused: Callable[..., Any]) -> None:
    """A device has only one log at a time."""
    # The request itself: the library does not ask the kernel for a second log.
    range_ = ffi.new("struct vfio_device_feature_dma_logging_range *", {"iova": 1 << 20, "length": 1 << 20})
    control = ffi.new("struct vfio_device_feature_dma_logging_control *")
    control.page_size, control.num_ranges, control.ranges = PAGE, 1, int(ffi.cast("uintptr_t", range_))
    with device.dirty_log([IovaRange.of(0, 1 << 20)]), refused(errno.EINVAL, errno.EBUSY):
        device.features.set(lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, control)
    device.dirty_log([IovaRange.of(1 << 20, 1 << 20)]).close()


def test_overlapping_ranges_are_refused(device: Device, refused: Callable[..., Any]) -> None:
    """The kernel returns EINVAL for ranges that overlap."""
    with refused(errno.EINVAL):
        device.dirty_log([IovaRange.of(0, 2 * PAGE), IovaRange.of(PAGE, 2 * PAGE)])


def test_no_range_is_refused(device: Device, refused: Callable[..., Any]) -> None:
    """The kernel returns EINVAL for no ranges."""
    with refused(errno.EINVAL):
        device.dirty_log([])


def test_a_log_can_be_started_again(device: Device) -> None:
    """A log starts twenty times in a row, since each stop leaves no log behind."""
    for _ in range(20):
        device.dirty_log([IovaRange.of(0, 1 << 20)]).close()


def test_the_largest_total(device: Device, limit: Callable[[str, object], None]) -> None:
    """Logs of growing powers of two: if one size starts, all smaller sizes start too."""
    answers = [starts(device, [IovaRange.of(0, 1 << bits)]) for bits in range(20, 64)]
    largest = 19 + sum(answers)
    assert answers == sorted(answers, reverse=True), "a larger log starts where a smaller one does not"
    assert any(answers)
    limit("largest log", f"2^{largest} bytes")
    # After the refusal of a larger log, the device still starts a small one.
    assert starts(device, [IovaRange.of(0, 1 << 20)])


def test_the_most_ranges(device: Device, limit: Callable[[str, object], None]) -> None:
    """Logs of more and more ranges, up to 256, each of 1 MiB and with gaps between; at least one range starts."""
    most = 0
    for count in (1, 2, 3, 4, 8, 16, 32, 64, 128, 255, 256):
        if not starts(device, [IovaRange.of(2 * index << 20, 1 << 20) for index in range(count)]):
            break
        most = count
    limit("most ranges", most)
    assert most


@pytest.mark.parametrize("page_size", [1 << bits for bits in (12, 13, 16, 21, 30)])
def test_page_sizes(device: Device, page_size: int, limit: Callable[[str, object], None]) -> None:
    """The device uses the page size asked for or another power of two, or refuses the log; the first report is empty."""
    ranges = [IovaRange.of(1 << 32, 4 * page_size)]
    try:
        log = device.dirty_log(ranges, page_size)
    except OSError as error:
        assert error.errno in TOO_MUCH  # noqa: PT017 (an error or an answer: both are allowed)
        return
    with log:
        limit(f"page size for {page_size:#x}", f"{log.page_size:#x}")
        assert log.page_size & (log.page_size - 1) == 0
        assert log.read().count() == 0


@pytest.mark.vfio_destructive
def test_a_log_starts_after_a_reset(device: Device) -> None:
    """A log can be started after a reset."""
    if not device.info.resettable:
        pytest.skip("the device has no reset of its own")
    device.reset()
    assert starts(device, [IovaRange.of(0, 1 << 20)])
