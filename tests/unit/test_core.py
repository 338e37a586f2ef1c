"""The core, with a fake behind the door: what no real kernel does, and that nothing goes past the door."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import signal
import struct
import subprocess
import sys
from array import array
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

import pyvfio
from pyvfio import Container, Device, DirtyLog, DmaBuffer, IovaRange, kernels, requests
from pyvfio._abi import ffi, lib
from pyvfio._core import capability
from pyvfio._core.fd import Fd
from pyvfio._core.request import Call, Reason
from pyvfio._core.resource import Resource
from tests.unit.fake import FakeKernel

PAGE = 4096


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def space(kernel: FakeKernel) -> Iterator[Container]:
    with Container(kernel=kernel) as space:
        yield space


@pytest.fixture
def device(space: Container) -> Device:
    return space.attach("fake.0")


# --- the door -----------------------------------------------------------------------------------------------------------


def test_every_call_goes_through_the_door(kernel: FakeKernel, space: Container, device: Device) -> None:
    mapping = space.alloc(PAGE)
    buffer = DmaBuffer(4 * PAGE)
    rows = array("Q", [buffer.address, 0x100000, PAGE, buffer.address + PAGE, 0x200000, PAGE])
    batch = space.map_many(rows, keep=buffer)
    batch.unmap()
    mapping.unmap()
    names = [name for _, name in kernel.calls]
    assert names.count("VFIO_IOMMU_MAP_DMA") == 3
    assert names.count("VFIO_IOMMU_UNMAP_DMA") == 3
    assert {"VFIO_GROUP_GET_STATUS", "VFIO_GROUP_SET_CONTAINER", "VFIO_SET_IOMMU", "VFIO_DEVICE_GET_INFO"} <= set(names)


def test_a_call_that_a_signal_interrupts_is_made_again_after_its_handler(
    kernel: FakeKernel, space: Container, device: Device
) -> None:
    seen: list[str] = []

    def interrupted(fd: int, argument: int) -> int:
        if "interrupted" not in seen:
            seen.append("interrupted")
            os.kill(os.getpid(), signal.SIGUSR1)
            return -errno.EINTR
        seen.append("again")
        return 0

    kernel.answers["container", "VFIO_IOMMU_MAP_DMA"] = interrupted
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append("handled"))
    try:
        space.alloc(PAGE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == ["interrupted", "handled", "again"]


@pytest.mark.parametrize("error", [RuntimeError("a bug in the mock"), KeyboardInterrupt()])
def test_what_a_kernel_in_python_raises_is_passed_on(
    kernel: FakeKernel, space: Container, device: Device, error: BaseException
) -> None:
    def broken(fd: int, argument: int) -> int:
        raise error

    kernel.answers["container", "VFIO_IOMMU_GET_INFO"] = broken
    with pytest.raises(type(error)) as caught:
        _ = space.info
    assert caught.value is error


def test_a_number_has_a_name_by_the_kind_of_descriptor() -> None:
    number = requests.number("VFIO_IOMMU_GET_INFO")
    assert requests.name("container", number) == "VFIO_IOMMU_GET_INFO"
    assert requests.name("device", number) == "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO"
    assert requests.name("group", 0x1234) == "0x1234"


# --- lifetime -----------------------------------------------------------------------------------------------------------


def test_closing_closes_devices_before_groups_before_the_container(kernel: FakeKernel) -> None:
    space = Container(kernel=kernel)
    first, second = space.attach("fake.0"), space.attach("fake.1")
    space.close()
    assert kernel.closed == ["fake.1", "/dev/vfio/8", "fake.0", "/dev/vfio/7", "/dev/vfio/vfio"]
    space.close()
    first.close()
    second.close()
    assert len(kernel.closed) == 5


def test_what_is_closed_says_so(space: Container, device: Device) -> None:
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


def test_an_attach_that_fails_leaves_nothing_open(kernel: FakeKernel, space: Container) -> None:
    kernel.answers["device", "VFIO_DEVICE_GET_INFO"] = lambda fd, argument: -errno.EIO
    with pytest.raises(OSError, match="VFIO_DEVICE_GET_INFO"):
        space.attach("fake.0")
    assert [name for _, name in kernel.fds.values()] == ["/dev/vfio/vfio"]
    del kernel.answers["device", "VFIO_DEVICE_GET_INFO"]
    with space.attach("fake.0") as device:
        assert device.info.num_regions == 1


def test_a_forgotten_descriptor_is_closed_with_a_warning(kernel: FakeKernel) -> None:
    with pytest.warns(ResourceWarning, match="forgotten was never closed"):
        Fd(kernel, kernel.open("/dev/vfio/vfio"), "container", "forgotten")
    assert kernel.closed == ["/dev/vfio/vfio"]


def test_a_close_that_fails_is_not_tried_on_anothers_number(kernel: FakeKernel) -> None:
    fd = Fd(kernel, kernel.open("/dev/vfio/vfio"), "container", "failing")
    attempts: list[int] = []

    def close(number: int) -> None:
        attempts.append(number)
        raise OSError(errno.EIO, "close")

    kernel.close = close  # type: ignore[method-assign, assignment]  # its parameter has another name
    with pytest.raises(OSError, match="close"):
        fd.close()
    fd.close()
    assert len(attempts) == 1


def test_the_exception_of_a_with_body_survives_a_failing_clean_up() -> None:
    class Failing(Resource):
        def _release(self) -> None:
            raise OSError(errno.EIO, "clean-up")

    with pytest.raises(KeyError) as caught, Failing(None):
        raise KeyError("the body's own")
    assert any("clean-up" in note for note in caught.value.__notes__)


def test_after_a_fork_only_close_works(kernel: FakeKernel, space: Container, device: Device) -> None:
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


def test_a_chain_is_walked_in_its_order() -> None:
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
def test_a_chain_that_breaks_the_abi_is_a_bad_reply(answer: memoryview, first: int) -> None:
    with pytest.raises(pyvfio.BadReply):
        capability.chain(answer, first, least=16)


def test_an_absurd_length_of_an_answer_is_a_bad_reply(kernel: FakeKernel, space: Container, device: Device) -> None:
    def absurd(fd: int, argument: int) -> int:
        ffi.cast("struct vfio_iommu_type1_info *", argument).argsz = 1 << 30
        return 0

    kernel.answers["container", "VFIO_IOMMU_GET_INFO"] = absurd
    with pytest.raises(pyvfio.BadReply, match="argsz"):
        _ = space.info


# --- regions ----------------------------------------------------------------------------------------------------------------


def test_short_transfers_are_continued(kernel: FakeKernel, device: Device) -> None:
    kernel.transfer = 7
    data = os.urandom(100)
    device.regions[0].write(10, data)
    assert device.regions[0].read(10, 100) == data


def test_a_transfer_that_stops_is_an_error(kernel: FakeKernel, device: Device) -> None:
    kernel.transfer = 0
    with pytest.raises(OSError, match="0 of 4 bytes"):
        device.regions[0].read(0, 4)


def test_registers_are_read_in_one_piece_and_aligned(kernel: FakeKernel, device: Device) -> None:
    region = device.regions[0]
    region.write32(8, 0x12345678)
    assert region.read32(8) == 0x12345678
    assert region.read8(8) == 0x78
    with pytest.raises(pyvfio.InvalidRequest, match="not a multiple of the width of 4 bytes"):
        region.read32(2)
    with pytest.raises(pyvfio.InvalidRequest, match="outside"):
        region.read32(8192)
    kernel.transfer = 2
    with pytest.raises(OSError, match="2 of 4 bytes"):
        region.read32(8)
    with pytest.raises(OSError, match="it has 0x2000 bytes") as caught:
        region.read(8000, 1000)
    assert caught.value.errno == errno.EINVAL


# --- mappings ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytearray, numpy.zeros, DmaBuffer], ids=["bytearray", "numpy", "DmaBuffer"])
def test_any_writable_buffer_is_mapped(space: Container, device: Device, kind: Any) -> None:
    buffer = kind(PAGE) if kind is not numpy.zeros else numpy.zeros(PAGE, "u1")
    mapping = space.map(buffer, 0x100000)
    assert mapping.size == PAGE
    assert mapping.buffer is buffer
    if kind is bytearray:
        with pytest.raises(BufferError):
            buffer.append(0)
    mapping.unmap()


def test_read_only_memory_is_mapped_for_reading_only(space: Container, device: Device) -> None:
    with pytest.raises(BufferError, match="read-only memory"):
        space.map(bytes(PAGE), 0x100000)
    assert space.map(bytes(PAGE), 0x100000, write=False).mapped


def test_a_collision_with_a_place_of_ones_own_is_avoided(space: Container, device: Device) -> None:
    first = space.alloc(PAGE)
    space.map(DmaBuffer(PAGE), first.iova + PAGE)
    third = space.alloc(PAGE)
    assert third.iova not in (first.iova, first.iova + PAGE)


def test_a_batch_that_fails_is_undone(kernel: FakeKernel, space: Container, device: Device) -> None:
    buffer = DmaBuffer(PAGE)
    rows = array("Q", [buffer.address, 0x100000, PAGE, buffer.address, 0x200000, PAGE, buffer.address, 0x100000, PAGE])
    with pytest.raises(FileExistsError, match="row 2 of 3"):
        space.map_many(rows, keep=buffer)
    assert kernel.mapped == {}
    with pytest.raises(TypeError, match="u64"):
        space.map_many(array("I", [1, 2, 3]))
    with pytest.raises(ValueError, match="rows of 3"):
        space.map_many(array("Q", [1, 2]))


def test_objects_of_a_batch_are_made_when_asked_for(space: Container, device: Device) -> None:
    buffer = DmaBuffer(PAGE)
    rows = numpy.array([[buffer.address, 0x100000 * (1 + i), PAGE] for i in range(10)], "u8")
    batch = space.map_many(rows, keep=buffer)
    assert space.unmap(0x300000, PAGE) == PAGE
    assert not batch[2].mapped
    assert batch[3].mapped
    assert len(space.mappings) == 9
    assert batch.unmap() == 9 * PAGE
    assert space.mappings == []


def test_memory_stays_while_it_is_mapped(kernel: FakeKernel, space: Container, device: Device) -> None:
    mapping = space.map(DmaBuffer(PAGE), 0x100000)
    view = mapping.buffer.view
    del mapping
    gc.collect()
    view[0] = 1
    (again,) = space.mappings
    assert again.buffer.view[0] == 1


def test_explaining_never_hides_the_error(kernel: FakeKernel, space: Container, device: Device) -> None:
    kernel.answers["container", "VFIO_IOMMU_GET_INFO"] = lambda fd, argument: -errno.EIO
    kernel.answers["container", "VFIO_IOMMU_MAP_DMA"] = lambda fd, argument: -errno.ENOMEM
    with pytest.raises(OSError, match="Cannot allocate memory") as caught:
        space.map(DmaBuffer(PAGE), 0x100000)
    assert caught.value.errno == errno.ENOMEM


# --- logs -------------------------------------------------------------------------------------------------------------------


RANGE = IovaRange.of(0x100000, 64 * PAGE)


def test_a_log_reports_and_forgets(kernel: FakeKernel, device: Device) -> None:
    with device.dirty_log([RANGE]) as log:
        kernel.dirty = [0x100000, 0x105000]
        assert list(log.read().pages()) == [0x100000, 0x105000]
        assert not log.read()
        with pytest.raises(pyvfio.InvalidRequest, match="being logged already"):
            device.dirty_log([RANGE])
    assert kernel.logging == {}
    with pytest.raises(pyvfio.Closed):
        log.read()


@pytest.mark.parametrize("page_size", [0, 512, 0x3000])
def test_page_sizes_that_the_kernel_lets_pass_are_refused(kernel: FakeKernel, device: Device, page_size: int) -> None:
    with pytest.raises(pyvfio.InvalidRequest, match="power of two"):
        device.dirty_log([RANGE], page_size)
    assert kernel.logging == {}


def test_a_report_of_what_is_not_logged_is_refused(device: Device) -> None:
    with device.dirty_log([RANGE]) as log:
        for range_ in (IovaRange.of(0x80000, PAGE), IovaRange.of(0x100000, 65 * PAGE), IovaRange.of(0x100000, 100)):
            with pytest.raises(pyvfio.InvalidRequest):
                log.read(range_)


def test_all_devices_log_or_none(kernel: FakeKernel, space: Container) -> None:
    devices = [space.attach("fake.0"), space.attach("fake.1")]
    kernel.refuse_log = "fake.1"
    with pytest.raises(OSError, match=r"fake\.1") as caught:
        pyvfio.dirty_log(devices, [RANGE])
    assert caught.value.errno == errno.EOPNOTSUPP
    assert kernel.logging == {}
    kernel.refuse_log = None
    with pyvfio.dirty_log(devices, [RANGE]):
        assert len(kernel.logging) == 2
    assert kernel.logging == {}


def test_what_was_reported_before_a_failure_is_in_the_next_read(kernel: FakeKernel, space: Container) -> None:
    devices = [space.attach("fake.0"), space.attach("fake.1")]
    log = DirtyLog(devices, [RANGE])
    kernel.dirty = [0x103000]
    real = kernel._VFIO_DEVICE_FEATURE
    count = 0

    def second_fails(fd: int, argument: int) -> int:
        nonlocal count
        count += 1
        return -errno.EIO if count == 2 else real(fd, argument)

    kernel.answers["device", "VFIO_DEVICE_FEATURE"] = second_fails
    with pytest.raises(OSError, match=r"fake\.1"):
        log.read()
    assert list(log.read().pages()) == [0x103000]
    assert not log.read()
    log.stop()
    for device in devices:
        device.close()


def test_a_larger_page_of_the_device_needs_aligned_ranges(kernel: FakeKernel, device: Device) -> None:
    kernel.log_page_size = 1 << 16
    with device.dirty_log([RANGE]) as log:
        assert log.page_size == 1 << 16
    with pytest.raises(pyvfio.InvalidRequest, match="not aligned"):
        device.dirty_log([IovaRange.of(0x101000, PAGE)])
    assert kernel.logging == {}


def test_a_kernel_that_writes_beyond_the_bitmap_is_found_out(kernel: FakeKernel, device: Device) -> None:
    def beyond(fd: int, argument: int) -> int:
        feature = ffi.cast("struct vfio_device_feature *", argument)
        if feature.flags & lib.VFIO_DEVICE_FEATURE_MASK == lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
            report = ffi.cast("struct vfio_device_feature_dma_logging_report *", ffi.addressof(feature, "data"))
            ffi.cast("uint64_t *", report.bitmap)[1] = 1
        return 0

    log = device.dirty_log([RANGE])
    kernel.answers["device", "VFIO_DEVICE_FEATURE"] = beyond
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
