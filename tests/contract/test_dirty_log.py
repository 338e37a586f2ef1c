# SPDX-License-Identifier: MIT
"""DMA logging: the device's own log of the pages that it wrote."""

from __future__ import annotations

import errno
import mmap
import random
import signal
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio
from pyvfio import DirtyBitmap, DmaBuffer, InvalidRequest, IovaRange, Unsupported
from pyvfio._abi import ffi, lib
from pyvfio._core.vfio_mock_registers import VALUES
from pyvfio.memory import address_of
from pyvfio.spaces.opening import Mode
from tests.contract.processes import holding
from tests.contract.refused import refused

if TYPE_CHECKING:
    from vmtest.matrix import Cell

    from pyvfio import Device, DirtyLog
    from pyvfio.spaces.base import AddressSpace
    from pyvfio.vfio_mock import VfioMock
    from tests.contract.drivers import Logger

PAGE = 4096
BASE = 0x10_0000


@pytest.fixture
def logged(space: AddressSpace, logger: Logger) -> IovaRange:
    """A mapped range of 64 pages, writable for the device."""
    return space.map(DmaBuffer(64 * PAGE), BASE).range


def pages(bitmap: DirtyBitmap) -> list[int]:
    return list(bitmap.pages())


def test_the_written_pages_are_reported_once(device: Device, logger: Logger, logged: IovaRange) -> None:
    with device.dirty_log([logged]) as log:
        assert log.page_size == PAGE
        logger.touch_each([BASE + 5 * PAGE, BASE + 6 * PAGE + 8, BASE + 40 * PAGE])
        report = log.read()
        assert [tuple(run) for run in report.runs()] == [
            (BASE + 5 * PAGE, BASE + 7 * PAGE - 1),
            (BASE + 40 * PAGE, BASE + 41 * PAGE - 1),
        ]
        assert report.count() == 3
        assert log.read().count() == 0


def test_what_was_written_before_the_start_is_not_known(device: Device, logger: Logger, logged: IovaRange) -> None:
    logger.touch(BASE, 8 * PAGE)
    with device.dirty_log([logged]) as log:
        assert log.read().count() == 0


def test_a_read_of_a_part_clears_that_part_alone(device: Device, logger: Logger, logged: IovaRange) -> None:
    with device.dirty_log([logged]) as log:
        logger.touch(BASE, 16 * PAGE)
        part = IovaRange.of(BASE + 8 * PAGE, 4 * PAGE)
        assert pages(log.read(part)) == [BASE + page * PAGE for page in range(8, 12)]
        assert log.read(part).count() == 0
        assert log.read().count() == 12


def test_reads_accumulate_in_one_bitmap(device: Device, logger: Logger, logged: IovaRange) -> None:
    with device.dirty_log([logged]) as log:
        logger.touch_each([BASE])
        bitmap = log.read()
        logger.touch_each([BASE + 3 * PAGE])
        assert log.read(into=bitmap) is bitmap
        assert pages(bitmap) == [BASE, BASE + 3 * PAGE]


def test_random_pages_in_four_windows_come_back_and_no_others(
    device: Device, space: AddressSpace, logger: Logger
) -> None:
    rng = random.Random(7)
    starts: list[int] = [
        start for start in (0x10_0000, 0x4000_0000, 0xF_0000_0000, 0x1F0_0000_0000) if start in logger.reach
    ]
    starts += [0x400_0000 * number for number in range(1, 5 - len(starts))]
    ranges = [space.map(DmaBuffer(1024 * PAGE), start).range for start in starts]
    # Log the first two mappings, and the gap between them, as one range.
    asked = [IovaRange(ranges[0].start, ranges[1].last), *ranges[2:]]
    wanted = {rng.choice(ranges).start + rng.randrange(1024) * PAGE for _ in range(logger.many)}
    order = rng.sample(sorted(wanted), len(wanted))
    seen: set[int] = set()
    with device.dirty_log(asked) as log:
        part = logger.many // 4
        for at in range(0, len(order), part):
            logger.touch_each(iova + rng.randrange(0, PAGE, 8) for iova in order[at : at + part])
            report = log.read()
            found = set(pages(report))
            assert not found & seen
            seen |= found
        assert seen == wanted
        assert log.read().count() == 0


def test_the_device_chooses_the_page_size(device: Device, logger: Logger, logged: IovaRange) -> None:
    logger["LOG_PAGE_MIN"] = 4 * PAGE
    with device.dirty_log([logged]) as log:
        assert log.page_size == 4 * PAGE
        logger.touch_each([BASE + 5 * PAGE])
        report = log.read()
        assert report.page_size == 4 * PAGE
        assert [tuple(run) for run in report.runs()] == [(BASE + 4 * PAGE, BASE + 8 * PAGE - 1)]


def test_too_large_a_total_says_so(device: Device, logger: Logger) -> None:
    ranges = [IovaRange.of(0, 1 << 31), IovaRange.of(1 << 32, 1 << 42)]
    with pytest.raises(OSError, match="more than the device can log") as caught:
        device.dirty_log(ranges)
    assert caught.value.errno == errno.EOPNOTSUPP
    assert any("2^42" in note for note in caught.value.__notes__)
    with device.dirty_log([IovaRange.of(0, 1 << 31)]):
        pass


@pytest.mark.parametrize(
    ("ranges", "error", "words"),
    [
        ([], errno.EINVAL, "no ranges"),
        ([IovaRange.of(BASE, PAGE // 2)], errno.EINVAL, "not aligned"),
        ([IovaRange.of(BASE, 4 * PAGE), IovaRange.of(BASE + PAGE, PAGE)], errno.EINVAL, "overlap"),
        ([IovaRange(2**64 - PAGE, 2**64 - 1)], errno.EOVERFLOW, "last byte"),
        ([IovaRange.of(BASE + 2 * page * PAGE, PAGE) for page in range(257)], errno.E2BIG, "257 ranges"),
    ],
    ids=["none", "misaligned", "overlapping", "to-the-end", "too-many"],
)
def test_ranges_that_cannot_be_logged_are_refused(
    device: Device, logger: Logger, ranges: list[IovaRange], error: int, words: str
) -> None:
    with pytest.raises(OSError, match=words) as caught:
        device.dirty_log(ranges)
    assert caught.value.errno == error
    assert logger["LOG_ACTIVE"] == 0
    with device.dirty_log([IovaRange.of(BASE, PAGE)]):
        assert logger["LOG_ACTIVE"] == 1


def test_a_page_of_ranges_is_taken(device: Device, logger: Logger, space: AddressSpace) -> None:
    ranges = [space.map(DmaBuffer(PAGE), BASE + 2 * page * PAGE).range for page in range(256)]
    with device.dirty_log(ranges) as log:
        logger.touch_each([ranges[0].start, ranges[255].start])
        assert pages(log.read()) == [ranges[0].start, ranges[255].start]


@pytest.mark.only(device="vfio-mock")
def test_reads_while_the_device_writes_report_each_page_once(
    device: Device, logger: VfioMock, logged: IovaRange
) -> None:
    with device.dirty_log([logged]) as log:
        logger["DMA_DELAY"] = 5000  # microseconds before each page
        logger.start("TOUCH", iova=BASE, length=64 * PAGE, stride=PAGE)
        found: list[int] = []
        reads = 0
        while logger["DMA_STATUS"] == VALUES["DMA_BUSY"]:
            found += pages(log.read())
            reads += 1
        logger.finish()
        assert reads > 1
        found += pages(log.read())
        # Each page was written once, so the reports have the pages in the order of writing.
        assert found == [BASE + page * PAGE for page in range(64)]


@pytest.mark.parametrize("page_size", [0, 512, 0x3000])
def test_page_sizes_that_are_none_are_refused(device: Device, logger: Logger, page_size: int) -> None:
    with pytest.raises(InvalidRequest, match="power of two"):
        device.dirty_log([IovaRange.of(BASE, 0x3000)], page_size=page_size)


def test_reports_outside_the_ranges_are_refused(device: Device, logger: Logger, logged: IovaRange) -> None:
    with device.dirty_log([logged]) as log:
        for wrong in (IovaRange.of(BASE - PAGE, 2 * PAGE), IovaRange.of(BASE + 64 * PAGE, PAGE)):
            with pytest.raises(InvalidRequest, match="not logged"):
                log.read(wrong)
        with pytest.raises(InvalidRequest, match="not aligned"):
            log.read(IovaRange.of(BASE + 8, PAGE))


def test_a_second_log_names_the_first(device: Device, logger: Logger, logged: IovaRange) -> None:
    with device.dirty_log([logged]), pytest.raises(InvalidRequest, match="being logged already: <DirtyLog of"):
        device.dirty_log([logged])


def test_a_stopped_log_can_be_stopped_again_and_reads_no_more(
    device: Device, logger: Logger, logged: IovaRange
) -> None:
    log = device.dirty_log([logged])
    log.stop()
    log.stop()
    assert logger["LOG_ACTIVE"] == 0
    with pytest.raises(pyvfio.Closed):
        log.read()


def test_stop_without_start_is_no_error(device: Device, logger: Logger) -> None:
    device.features.set(lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP)


def test_a_start_that_fails_leaves_the_device_usable(device: Device, logger: Logger, logged: IovaRange) -> None:
    logger.fail("LOG_START", error=errno.ENOMEM)
    with pytest.raises(OSError) as caught:
        device.dirty_log([logged])
    assert caught.value.errno == errno.ENOMEM
    with device.dirty_log([logged]) as log:
        logger.touch_each([BASE])
        assert log.read().count() == 1


def test_a_report_that_fails_loses_nothing(device: Device, logger: Logger, space: AddressSpace) -> None:
    ranges = [space.map(DmaBuffer(16 * PAGE), start).range for start in (BASE, 0x400_0000)]
    with device.dirty_log(ranges) as log:
        logger.touch_each([BASE, 0x400_0000])
        logger.fail("LOG_REPORT", nth=2, error=errno.EIO)
        with pytest.raises(OSError, match="DMA_LOGGING_REPORT") as caught:
            log.read()
        assert caught.value.errno == errno.EIO
        assert pages(log.read()) == [BASE, 0x400_0000]


@pytest.mark.parametrize("where", ["nowhere", "in memory that may only be read"])
def test_a_bitmap_that_cannot_be_written_loses_the_report(
    device: Device, logger: Logger, logged: IovaRange, cell: Cell, where: str
) -> None:
    """The test makes the request directly. This is why the library allocates the bitmaps itself."""
    memory = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)
    bitmap = 0 if where == "nowhere" else address_of(memory)
    report = ffi.new("struct vfio_device_feature_dma_logging_report *", (logged.start, logged.size, PAGE, bitmap))
    request = lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | lib.VFIO_DEVICE_FEATURE_GET
    with device.dirty_log([logged]) as log:
        logger.touch_each([BASE + 3 * PAGE])
        if cell.kernel == "6.1":
            # Linux 6.1 checks the bitmap before it asks the device.
            with refused(errno.EFAULT):
                device.features.exchange(request, report)
            assert pages(log.read()) == [BASE + 3 * PAGE]
        else:
            device.features.exchange(request, report)
            assert log.read().count() == 0


def test_several_devices_log_together_or_none_does(
    device: Device, logger: Logger, second_logger: Logger, logged: IovaRange
) -> None:
    devices = [device, second_logger.device]
    with pyvfio.dirty_log(devices, [logged]) as log:
        logger.touch_each([BASE])
        second_logger.touch_each([BASE + PAGE])
        assert pages(log.read()) == [BASE, BASE + PAGE]
    second_logger.fail("LOG_START", error=errno.ENOSPC)
    with pytest.raises(OSError) as caught:
        pyvfio.dirty_log(devices, [logged])
    assert caught.value.errno == errno.ENOSPC
    assert (logger["LOG_ACTIVE"], second_logger["LOG_ACTIVE"]) == (0, 0)


@pytest.mark.require("functions", "pci")
@pytest.mark.only(device=["edu", "nvme", "e1000e", "igb"])
def test_a_device_that_cannot_log_says_so(device: Device) -> None:
    with pytest.raises(Unsupported, match="cannot log DMA"):
        device.dirty_log([IovaRange.of(BASE, PAGE)])


@pytest.mark.require("linux", "dirty_log")
def test_a_process_killed_while_logging_leaves_the_device_usable(address: str, mode: Mode, kernel: Any) -> None:
    def use() -> tuple[Device, DirtyLog]:
        device = pyvfio.open(address, mode=mode)
        return device, device.dirty_log([device.address_space.alloc(1 << 20).range])

    with holding(use) as program:
        assert program.kill() == -signal.SIGKILL
    with pyvfio.open(address, mode=mode, kernel=kernel) as device:
        mapping = device.address_space.alloc(1 << 20)
        with device.dirty_log([mapping.range]) as log:
            assert log.read().count() == 0
