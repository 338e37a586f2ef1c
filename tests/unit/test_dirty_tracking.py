# SPDX-License-Identifier: MIT
"""Dirty tracking: the page size, and how several devices agree on one."""

from __future__ import annotations

import errno

import pytest

import pyvfio
from pyvfio import Device, DirtyLog, DmaBuffer, IovaRange, mock
from pyvfio._abi import ffi
from pyvfio.spaces.base import AddressSpace
from pyvfio.vfio_mock import VfioMock
from tests.overriding import Overriding

PAGE = 4096
FIRST, SECOND = "vfio-mock.0", "vfio-mock.1"
EDU = "0000:00:03.0"
RANGE = IovaRange.of(0x100000, 64 * PAGE)
START = "VFIO_DEVICE_FEATURE SET DMA_LOGGING_START"
REPORT = "VFIO_DEVICE_FEATURE GET DMA_LOGGING_REPORT"
STOP = "VFIO_DEVICE_FEATURE SET DMA_LOGGING_STOP"


def larger_pages(kernel: Overriding, sizes: list[int]) -> None:
    """Make each start of logging answer with the next of these page sizes, as a device with larger pages may.

    The mock itself logs nothing.
    """
    waiting = list(sizes)

    def answer(argument: int) -> int:
        feature = ffi.cast("struct vfio_device_feature *", argument)
        control = ffi.cast("struct vfio_device_feature_dma_logging_control *", ffi.addressof(feature, "data"))
        control.page_size = waiting.pop(0)
        return 0

    kernel.answers |= {START: answer, REPORT: 0, STOP: 0}


# --- several devices ------------------------------------------------------------------------------------------------


@pytest.mark.vfio(mode="type1v2")
@pytest.mark.parametrize("sizes", [(PAGE, 4 * PAGE), (4 * PAGE, PAGE), (PAGE, PAGE)])
def test_devices_of_different_page_sizes_agree_on_the_smallest(
    kernel: Overriding, space: AddressSpace, sizes: tuple[int, int]
) -> None:
    devices = [space.attach(FIRST), space.attach(SECOND)]
    larger_pages(kernel, list(sizes))
    with DirtyLog(devices, [RANGE]) as log:
        assert log.page_size == PAGE
        assert log.read().page_size == PAGE
    # Close the devices: the log and they refer to each other, and would warn if they were collected before the space is
    # closed.
    for device in devices:
        device.close()


@pytest.mark.vfio(mode="type1v2")
@pytest.mark.parametrize("size", [0, 1, 512, 3 * PAGE])
def test_page_sizes_that_cannot_be_reported_are_a_bad_reply(kernel: Overriding, device: Device, size: int) -> None:
    larger_pages(kernel, [size])
    with pytest.raises(pyvfio.BadReply, match=f"vfio-mock.0 logs pages of {size:#x} bytes"):
        device.dirty_log([RANGE])
    assert kernel.calls.count("VFIO_DEVICE_FEATURE") >= 2, "what was started is stopped"


@pytest.mark.vfio(mode="type1v2")
def test_a_second_device_that_cannot_start_stops_the_first(kernel: Overriding, space: AddressSpace) -> None:
    devices = [space.attach(FIRST), space.attach(SECOND)]
    VfioMock(devices[1]).fail("LOG_START")
    with pytest.raises(OSError, match=r"vfio-mock\.1"):
        DirtyLog(devices, [RANGE])
    assert VfioMock(devices[0])["LOG_ACTIVE"] == 0
    DirtyLog(devices, [RANGE]).stop()
    # Close the devices: the error refers to them, and they would warn if they were collected before the space is
    # closed.
    for device in devices:
        device.close()


@pytest.mark.vfio(mode="type1v2")
def test_a_closed_device_ends_the_log_of_all(space: AddressSpace) -> None:
    devices = [space.attach(FIRST), space.attach(SECOND)]
    log = DirtyLog(devices, [RANGE])
    devices[0].close()
    assert log.closed
    assert VfioMock(devices[1])["LOG_ACTIVE"] == 0
    with pytest.raises(pyvfio.Closed):
        log.read()
    devices[1].close()


@pytest.mark.vfio(mode="type1v2")
def test_a_read_into_a_bitmap_of_other_segments_adds_to_it(device: Device) -> None:
    device.address_space.map(DmaBuffer(RANGE.size), RANGE.start)
    log = device.dirty_log([RANGE])
    half = pyvfio.DirtyBitmap([IovaRange.of(RANGE.start, 32 * PAGE)], PAGE)
    VfioMock(device).touch_each([RANGE.start, RANGE.start + 40 * PAGE])
    assert log.read(IovaRange.of(RANGE.start, 8 * PAGE), into=half) is half
    assert list(half.pages()) == [RANGE.start]
    assert list(log.read().pages()) == [RANGE.start + 40 * PAGE]
    with pytest.raises(pyvfio.InvalidRequest, match="the bitmap has pages of 0x2000 bytes, the log of 0x1000"):
        log.read(into=pyvfio.DirtyBitmap([RANGE], 2 * PAGE))


@pytest.mark.vfio(mode="type1v2")
def test_kept_reports_are_handed_out_once_and_only_where_asked(kernel: Overriding, space: AddressSpace) -> None:
    devices = [space.attach(FIRST), space.attach(SECOND)]
    log = DirtyLog(devices, [RANGE])
    space.map(DmaBuffer(RANGE.size), RANGE.start)
    first, last = RANGE.start, RANGE.start + 63 * PAGE
    VfioMock(devices[0]).touch_each([first, last])
    VfioMock(devices[1]).fail("LOG_REPORT")
    with pytest.raises(OSError, match=r"vfio-mock\.1"):
        log.read()
    assert list(log.read(IovaRange.of(first, PAGE)).pages()) == [first]
    # A page that a read covers only in part stays dirty.
    assert list(log.read().pages()) == [first, last]
    assert not log.read()
    for device in devices:
        device.close()


# --- who tracks -----------------------------------------------------------------------------------------------------


@pytest.mark.vfio(mode="iommufd")
def test_devices_that_log_track_by_themselves(device: Device) -> None:
    space = device.address_space
    mapping = space.alloc(4 * PAGE)
    with space.track_dirty([mapping.range]) as tracker:
        assert (tracker.source, tracker.page_size) == ("device", PAGE)
        VfioMock(device).touch_each([mapping.iova + PAGE])
        assert list(tracker.read().pages()) == [mapping.iova + PAGE]
        assert not tracker.read()
    assert tracker.closed
    assert VfioMock(device)["LOG_ACTIVE"] == 0


@pytest.mark.parametrize("profile", ["intel-39", "amd"])
@pytest.mark.parametrize("tracks", [True, False])
def test_the_iommu_tracks_where_the_device_cannot(profile: str, tracks: bool) -> None:
    kernel = mock.Kernel(profile, dirty_tracking=tracks)
    with (
        pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel),
        pyvfio.open(EDU, mode="iommufd", kernel=kernel) as device,
    ):
        space = device.address_space
        mapping = space.alloc(9 * PAGE, 0x100000)
        with space.track_dirty([mapping.range]) as tracker:
            assert tracker.source == ("iommu" if tracks else "nobody")
            tracker.read()
            dma = kernel.devices[EDU].space
            assert dma is not None
            dma.write(mapping.iova + PAGE, b"x")
            pages = list(tracker.read().pages())
            assert pages == ([mapping.iova + PAGE] if tracks else list(range(0x100000, 0x109000, PAGE)))
        # The device is attached to the address space again, and its DMA works.
        dma = kernel.devices[EDU].space
        assert dma is not None
        dma.write(mapping.iova, b"y")
        assert mapping.buffer.view[0] == ord("y")


@pytest.mark.vfio(mode="iommufd")
@pytest.mark.parametrize(
    ("error", "source"), [(errno.ENOENT, "nobody"), (errno.EOPNOTSUPP, "nobody"), (errno.ENOTTY, "nobody"), (errno.EIO, None)]
)  # fmt: skip
def test_an_iommu_that_says_nothing_tracks_nothing(
    kernel: Overriding, space: AddressSpace, error: int, source: str | None
) -> None:
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel):
        device = space.attach(EDU)
        kernel.answers["IOMMU_GET_HW_INFO"] = -error
        if source is None:
            with pytest.raises(OSError, match="IOMMU_GET_HW_INFO") as caught:
                space.track_dirty([RANGE])
            assert caught.value.errno == error
        else:
            with space.track_dirty([RANGE]) as tracker:
                assert tracker.source == source
        device.close()


@pytest.mark.vfio(mode="type1v2")
def test_a_container_tracks_across_mappings_that_touch(kernel: Overriding, space: AddressSpace) -> None:
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel):
        device = space.attach(EDU)
        for index in range(3):
            space.map(DmaBuffer(2 * PAGE), 0x100000 + index * 2 * PAGE)
        space.map(DmaBuffer(PAGE), 0x200000)
        wanted = IovaRange.of(0x101000, 4 * PAGE)
        with space.track_dirty([wanted]) as tracker:
            assert (tracker.source, tracker.page_size) == ("iommu", PAGE)
            # For a device behind an IOMMU, type1 reports every pinned page as dirty.
            assert list(tracker.read().pages()) == list(range(0x101000, 0x105000, PAGE))
        device.close()


@pytest.mark.vfio(mode="type1v2")
def test_an_emulated_device_is_tracked_exactly_by_a_container(kernel: Overriding, device: Device) -> None:
    space = device.address_space
    space.map(DmaBuffer(8 * PAGE), 0x100000)
    kernel.answers["VFIO_DEVICE_FEATURE"] = -errno.ENOTTY
    with space.track_dirty([IovaRange.of(0x100000, 8 * PAGE)]) as tracker:
        assert tracker.source == "iommu"
        tracker.read()
        VfioMock(device).touch_each([0x103000])
        assert list(tracker.read().pages()) == [0x103000]
        assert list(tracker.read().pages()) == []
    assert "tracker" in repr(tracker).lower()
    assert "(stopped)" in repr(tracker)


@pytest.mark.vfio(mode="type1v2")
def test_tracking_needs_devices_and_aligned_ranges(space: AddressSpace) -> None:
    with pytest.raises(pyvfio.InvalidRequest, match="has no devices to track"):
        space.track_dirty([RANGE])
    device = space.attach(FIRST)
    for ranges in ([], [IovaRange(1, 5)], [IovaRange.of(0x100000, 100)]):
        with pytest.raises((ValueError, pyvfio.InvalidRequest)):
            space.track_dirty(ranges)
    device.close()
