# SPDX-License-Identifier: MIT
"""The core with a mock that answers as no real kernel does, and the path of every request through the kernel object."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import struct
import subprocess
import sys
from array import array
from typing import Any

import numpy
import pytest

import pyvfio
from pyvfio import Container, Device, DirtyLog, DmaBuffer, IovaRange, abi, kernels
from pyvfio._abi import ffi
from pyvfio._core import capability
from pyvfio._core.fd import Fd
from pyvfio._core.request import Call, Reason
from pyvfio._core.resource import Resource
from pyvfio.mock import LogLimits
from pyvfio.mock.vfio.device_file import DeviceFile
from pyvfio.vfio_mock import VfioMock
from tests.overriding import Overriding

PAGE = 4096
FIRST, SECOND = "vfio-mock.0", "vfio-mock.1"
#: vfio-mock's writable regions.
MEMORY, TYPED = 1, 3
pytestmark = pytest.mark.vfio(mode="type1v2")


@pytest.fixture
def closed(kernel: Overriding, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list of the paths and device names whose descriptors are closed after the fixture's start."""
    closed: list[str] = []
    close = kernel.close

    def note(fd: int) -> None:
        file = kernel.files[fd]
        closed.append(file.device.name if isinstance(file, DeviceFile) else str(file.target))
        close(fd)

    monkeypatch.setattr(kernel, "close", note)
    return closed


# --- the door -----------------------------------------------------------------------------------------------------------


def test_every_request_goes_through_the_kernel_object(kernel: Overriding, space: Container, device: Device) -> None:
    mapping = space.alloc(PAGE)
    buffer = DmaBuffer(4 * PAGE)
    rows = array("Q", [buffer.address, 0x100000, PAGE, buffer.address + PAGE, 0x200000, PAGE])
    batch = space.map_many(rows, keep=buffer)
    batch.unmap()
    mapping.unmap()
    assert kernel.calls.count("VFIO_IOMMU_MAP_DMA") == 3
    assert kernel.calls.count("VFIO_IOMMU_UNMAP_DMA") == 3
    assert {"VFIO_GROUP_GET_STATUS", "VFIO_GROUP_SET_CONTAINER", "VFIO_SET_IOMMU", "VFIO_DEVICE_GET_INFO"} <= set(
        kernel.calls
    )


def test_interrupted_call_is_repeated_after_the_signal_handler(
    kernel: Overriding, space: Container, device: Device
) -> None:
    seen: list[str] = []

    def interrupted(argument: int) -> int:
        if "interrupted" not in seen:
            seen.append("interrupted")
            os.kill(os.getpid(), signal.SIGUSR1)
            return -errno.EINTR
        seen.append("again")
        return 0

    kernel.answers["VFIO_IOMMU_MAP_DMA"] = interrupted
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append("handled"))
    try:
        space.alloc(PAGE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == ["interrupted", "handled", "again"]


@pytest.mark.parametrize("error", [RuntimeError("a bug in the mock"), KeyboardInterrupt()])
def test_exception_of_a_kernel_in_python_is_passed_on(
    kernel: Overriding, space: Container, device: Device, error: BaseException
) -> None:
    def broken(argument: int) -> int:
        raise error

    kernel.answers["VFIO_IOMMU_GET_INFO"] = broken
    with pytest.raises(type(error)) as caught:
        _ = space.info
    assert caught.value is error


def test_name_of_a_number_depends_on_the_descriptor() -> None:
    number = abi.number("VFIO_IOMMU_GET_INFO")
    assert abi.name("container", number) == "VFIO_IOMMU_GET_INFO"
    assert abi.name("device", number) == "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO"
    assert abi.name("group", 0x1234) == "0x1234"


# --- lifetime -----------------------------------------------------------------------------------------------------------


def test_devices_close_before_groups_before_the_container(kernel: Overriding, closed: list[str]) -> None:
    space = Container(kernel=kernel)
    first, second = space.attach(FIRST), space.attach(SECOND)
    space.close()
    groups = [f"/dev/vfio/{kernel.devices[name].group.number}" for name in (FIRST, SECOND)]
    assert closed == [SECOND, groups[1], FIRST, groups[0], "/dev/vfio/vfio"]
    space.close()
    first.close()
    second.close()
    assert len(closed) == 5


def test_calls_on_closed_objects_raise_closed(space: Container, device: Device) -> None:
    region = device.regions[0]
    mapping = space.alloc(PAGE)
    device.close()
    with pytest.raises(pyvfio.Closed):
        device.reset()
    with pytest.raises(pyvfio.Closed):
        region.read(0, 4)
    space.close()
    with pytest.raises(pyvfio.Closed):
        space.alloc(PAGE, 0x100000)
    with pytest.raises(pyvfio.Closed):
        space.fileno()
    assert not mapping.mapped


def test_failed_attach_leaves_nothing_open(kernel: Overriding, space: Container) -> None:
    kernel.answers["VFIO_DEVICE_GET_INFO"] = -errno.EIO
    with pytest.raises(OSError, match="VFIO_DEVICE_GET_INFO"):
        space.attach(FIRST)
    assert [file.target for file in kernel.files.values()] == ["/dev/vfio/vfio"]
    del kernel.answers["VFIO_DEVICE_GET_INFO"]
    with space.attach(FIRST) as device:
        assert device.info.num_regions == 6


def test_forgotten_descriptor_is_closed_with_a_warning(kernel: Overriding) -> None:
    with pytest.warns(ResourceWarning, match="forgotten was never closed"):
        Fd(kernel, kernel.open("/dev/vfio/vfio"), "container", "forgotten")
    assert not kernel.files


def test_failed_close_is_not_repeated_on_a_reused_number(kernel: Overriding, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = Fd(kernel, kernel.open("/dev/vfio/vfio"), "container", "failing")
    attempts: list[int] = []

    def close(number: int) -> None:
        attempts.append(number)
        raise OSError(errno.EIO, "close")

    monkeypatch.setattr(kernel, "close", close)
    with pytest.raises(OSError, match="close"):
        fd.close()
    fd.close()
    assert len(attempts) == 1


def test_exception_of_a_with_body_survives_a_failed_clean_up() -> None:
    class Failing(Resource):
        def _release(self) -> None:
            raise OSError(errno.EIO, "clean-up")

    with pytest.raises(KeyError) as caught, Failing(None):
        raise KeyError("the body's own")
    assert any("clean-up" in note for note in caught.value.__notes__)


def test_only_close_works_after_a_fork(kernel: Overriding, space: Container, device: Device) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                space.alloc(PAGE, 0x100000)
            except pyvfio.Closed as error:
                code = 0 if "fork" in str(error) else 2
            device.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert space.alloc(PAGE, 0x100000).mapped


def test_errors_pickle() -> None:
    for error in (
        pyvfio.Closed("closed"),
        pyvfio.InvalidRequest("refused"),
        pyvfio.NotViable("not viable", 7, {"a": "b"}),
        pyvfio.BadReply("bad"),
        Call("open", errnos={errno.EACCES: Reason("why", ("do",))}).refused("/dev/x", errno.EACCES, {"iova": 4096}),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.__dict__ == error.__dict__
    assert pickle.loads(pickle.dumps(pyvfio.InvalidRequest("x"))).errno == errno.EINVAL


# --- capability chains ----------------------------------------------------------------------------------------------------


def _chain(*headers: tuple[int, int, int]) -> memoryview:
    return memoryview(bytes(16) + b"".join(struct.pack("=HHI", *header) for header in headers))


def test_capability_chain_is_in_its_order() -> None:
    found = capability.chain(_chain((3, 1, 0), (5, 2, 16)), 24, least=16)
    assert [(cap.id, cap.version) for cap in found] == [(5, 2), (3, 1)]


@pytest.mark.parametrize(
    ("answer", "first"),
    [
        (_chain((1, 1, 16)), 16),
        (_chain((1, 1, 24), (1, 1, 16)), 16),
        (_chain((1, 1, 999)), 16),
        (_chain((1, 1, 0)), 8),
        (_chain(), 16),
    ],
    ids=["to itself", "in a circle", "beyond the end", "into the head", "cut short"],
)
def test_broken_capability_chain_is_a_bad_reply(answer: memoryview, first: int) -> None:
    with pytest.raises(pyvfio.BadReply):
        capability.chain(answer, first, least=16)


def test_absurd_argsz_of_an_answer_is_a_bad_reply(kernel: Overriding, space: Container, device: Device) -> None:
    def absurd(argument: int) -> int:
        ffi.cast("struct vfio_iommu_type1_info *", argument).argsz = 1 << 30
        return 0

    kernel.answers["VFIO_IOMMU_GET_INFO"] = absurd
    with pytest.raises(pyvfio.BadReply, match="argsz"):
        _ = space.info


# --- regions ----------------------------------------------------------------------------------------------------------------


def test_transfer_of_no_bytes_fails(kernel: Overriding, device: Device) -> None:
    kernel.failures.shorten(0, call="pread")
    with pytest.raises(OSError, match="0 of 4 bytes"):
        device.regions[MEMORY].read(0, 4)


def test_registers_are_read_whole_and_aligned(kernel: Overriding, device: Device) -> None:
    region = device.regions[TYPED]
    region.write32(8, 0x12345678)
    assert region.read32(8) == 0x12345678
    assert region.read8(8) == 0x78
    with pytest.raises(pyvfio.InvalidRequest, match="not a multiple of the width of 4 bytes"):
        region.read32(2)
    with pytest.raises(pyvfio.InvalidRequest, match="outside"):
        region.read32(0x4000)
    kernel.failures.shorten(2, call="pread")
    with pytest.raises(OSError, match="2 of 4 bytes"):
        region.read32(8)
    with pytest.raises(OSError, match="it has 0x4000 bytes") as caught:
        region.read(0x3FF0, 1000)
    assert caught.value.errno == errno.EINVAL


# --- mappings ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytearray, numpy.zeros, DmaBuffer], ids=["bytearray", "numpy", "DmaBuffer"])
def test_map_takes_any_writable_buffer(kernel: Overriding, space: Container, device: Device, kind: Any) -> None:
    # Let every map succeed (the kernel accepts only whole pages): the test is about the types that the library accepts.
    kernel.answers = {"VFIO_IOMMU_MAP_DMA": 0, "VFIO_IOMMU_UNMAP_DMA": 0}
    buffer = kind(PAGE) if kind is not numpy.zeros else numpy.zeros(PAGE, "u1")
    mapping = space.map(buffer, 0x100000)
    assert mapping.size == PAGE
    assert mapping.buffer is buffer
    if kind is bytearray:
        with pytest.raises(BufferError):
            buffer.append(0)
    mapping.unmap()


def test_read_only_memory_needs_write_false(kernel: Overriding, space: Container, device: Device) -> None:
    kernel.answers = {"VFIO_IOMMU_MAP_DMA": 0, "VFIO_IOMMU_UNMAP_DMA": 0}
    with pytest.raises(BufferError, match="read-only memory"):
        space.map(bytes(PAGE), 0x100000)
    assert space.map(bytes(PAGE), 0x100000, write=False).mapped


def test_alloc_avoids_an_iova_mapped_by_hand(space: Container, device: Device) -> None:
    first = space.alloc(PAGE)
    space.map(DmaBuffer(PAGE), first.iova + PAGE)
    third = space.alloc(PAGE)
    assert third.iova not in (first.iova, first.iova + PAGE)


def test_failed_batch_is_undone(kernel: Overriding, space: Container, device: Device) -> None:
    buffer = DmaBuffer(PAGE)
    rows = array("Q", [buffer.address, 0x100000, PAGE, buffer.address, 0x200000, PAGE, buffer.address, 0x100000, PAGE])
    with pytest.raises(FileExistsError, match="row 2 of 3"):
        space.map_many(rows, keep=buffer)
    assert space.unmap_all() == 0
    with pytest.raises(TypeError, match="u64"):
        space.map_many(array("I", [1, 2, 3]))
    with pytest.raises(ValueError, match="rows must have 3 values"):
        space.map_many(array("Q", [1, 2]))


def test_mappings_of_a_batch_follow_single_unmaps(space: Container, device: Device) -> None:
    buffer = DmaBuffer(PAGE)
    rows = numpy.array([[buffer.address, 0x100000 * (1 + i), PAGE] for i in range(10)], "u8")
    batch = space.map_many(rows, keep=buffer)
    assert space.unmap(0x300000, PAGE) == PAGE
    assert not batch[2].mapped
    assert batch[3].mapped
    assert len(space.mappings) == 9
    assert batch.unmap() == 9 * PAGE
    assert space.mappings == []


def test_failed_explanation_does_not_hide_the_error(kernel: Overriding, space: Container, device: Device) -> None:
    kernel.answers["VFIO_IOMMU_GET_INFO"] = -errno.EIO
    kernel.answers["VFIO_IOMMU_MAP_DMA"] = -errno.ENOMEM
    with pytest.raises(OSError, match="Cannot allocate memory") as caught:
        space.map(DmaBuffer(PAGE), 0x100000)
    assert caught.value.errno == errno.ENOMEM


# --- logs -------------------------------------------------------------------------------------------------------------------


RANGE = IovaRange.of(0x100000, 64 * PAGE)


def test_report_outside_the_logged_ranges_fails(device: Device) -> None:
    with device.dirty_log([RANGE]) as log:
        for range_ in (IovaRange.of(0x80000, PAGE), IovaRange.of(0x100000, 65 * PAGE), IovaRange.of(0x100000, 100)):
            with pytest.raises(pyvfio.InvalidRequest):
                log.read(range_)


def test_report_before_a_failure_is_in_the_next_read(kernel: Overriding, space: Container) -> None:
    devices = [space.attach(FIRST), space.attach(SECOND)]
    log = DirtyLog(devices, [RANGE])
    space.map(DmaBuffer(RANGE.size), RANGE.start)
    VfioMock(devices[0]).touch_each([0x103000])
    VfioMock(devices[1]).fail("LOG_REPORT")
    with pytest.raises(OSError, match=r"vfio-mock\.1"):
        log.read()
    assert list(log.read().pages()) == [0x103000]
    assert not log.read()
    log.stop()
    for device in devices:
        device.close()


@pytest.mark.vfio(log=LogLimits(page_size_min=1 << 16))
def test_larger_page_of_the_device_needs_aligned_ranges(kernel: Overriding, device: Device) -> None:
    with device.dirty_log([RANGE]) as log:
        assert log.page_size == 1 << 16
    with pytest.raises(pyvfio.InvalidRequest, match="not aligned"):
        device.dirty_log([IovaRange.of(0x101000, PAGE)])
    assert VfioMock(device)["LOG_ACTIVE"] == 0


def test_kernel_that_writes_past_the_bitmap_is_detected(kernel: Overriding, device: Device) -> None:
    def beyond(argument: int) -> int:
        feature = ffi.cast("struct vfio_device_feature *", argument)
        report = ffi.cast("struct vfio_device_feature_dma_logging_report *", ffi.addressof(feature, "data"))
        ffi.cast("uint64_t *", report.bitmap)[1] = 1
        return 0

    log = device.dirty_log([RANGE])
    kernel.answers["VFIO_DEVICE_FEATURE GET DMA_LOGGING_REPORT"] = beyond
    with pytest.raises(pyvfio.BadReply, match="after the bitmap"):
        log.read()


# --- the package ------------------------------------------------------------------------------------------------------------


def test_importing_loads_no_more_than_it_uses() -> None:
    code = "import sys, pyvfio; pyvfio.open; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"pyudev", "asyncio", "dataclasses", "numpy", "inspect", "pyvfio.guest.planning"} & set(loaded)


def test_the_kernel_is_chosen_by_name() -> None:
    assert kernels.named("linux").name == "linux"
    with pytest.raises(ValueError, match="no kernel is named 'plan9'; known: linux, mock"):
        kernels.named("plan9")
