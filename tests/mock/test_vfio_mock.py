# SPDX-License-Identifier: MIT
"""vfio-mock on the mock, with the contract suite's driver: it behaves as the README of tests/vfio_mock says."""

from __future__ import annotations

import errno
import os
import re
import select
import time
from pathlib import Path

import pytest

import pyvfio
from pyvfio import Device, IovaRange, Unsupported, mock
from pyvfio._core.vfio_mock_registers import VALUES, WIDTHS
from pyvfio.mock.devices.vfio_mock import failures, registers
from pyvfio.spaces.mapping import Mapping
from pyvfio.vfio_mock import VfioMock
from tests.fixtures import BY_GROUP_AND_CDEV

PAGE = 4096
MEMORY = VALUES["REGION_MEMORY"]


@pytest.fixture(params=BY_GROUP_AND_CDEV)
def device(vfio_device: Device) -> Device:
    """The device, in each mode."""
    return vfio_device


@pytest.fixture
def engine(device: Device) -> VfioMock:
    return VfioMock(device)


@pytest.fixture
def mapping(device: Device) -> Mapping:
    return device.address_space.map(pyvfio.DmaBuffer(1 << 20), 0x100000)


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


# The register map is that of the module.


def test_every_register_is_where_the_module_has_it() -> None:
    offsets = {name: value for name, value in VALUES.items() if name.startswith("REG_") and name in WIDTHS}
    here = {f"REG_{name}": (register.offset, 8 * register.width) for name, register in registers.HELD.items()}
    assert here == {name: (offsets[name], WIDTHS[name]) for name in here}
    known = {register.offset for register in registers.HELD.values()} | set(registers._SHOWN) | set(registers._ACTING)
    assert known == set(offsets.values())


def test_the_packages_register_map_is_the_headers() -> None:
    header = Path(__file__).parents[1] / "vfio_mock" / "vfio_mock_regs.h"
    pattern = r"^#define MOCK_(\w+)\s+(0x[0-9a-f]+|\d+)(?:\s+/\*\s+(8|16|32|64) )?"
    defined = re.findall(pattern, header.read_text(), re.M)
    assert {name: int(value, 0) for name, value, _ in defined} == VALUES
    assert {name: int(width) for name, _, width in defined if width} == WIDTHS


def test_widths_and_directions_are_the_modules() -> None:
    header = Path(__file__).parents[1] / "vfio_mock" / "vfio_mock_regs.h"
    defined = re.findall(r"^#define MOCK_REG_\w+\s+(0x[0-9a-f]+)\s+/\* +(\d+) (RO|RW|WO)", header.read_text(), re.M)
    held = {register.offset: register.width for register in registers.HELD.values()}
    for offset, width, access in ((int(offset, 16), int(width) // 8, access) for offset, width, access in defined):
        shown, acting = registers._SHOWN.get(offset), registers._ACTING.get(offset)
        assert {one[0] for one in (shown, acting) if one} | {held.get(offset, width)} == {width}
        assert ("R" in access) == (shown is not None or offset in held), hex(offset)
        assert ("W" in access) == (acting is not None or offset in held), hex(offset)
    assert defined


def test_kinds_of_failures_are_the_modules() -> None:
    numbers = {name.removeprefix("FAULT_"): value for name, value in VALUES.items() if name.startswith("FAULT_")}
    assert [numbers[kind] for kind in failures.KINDS] == list(range(VALUES["NUM_FAULTS"]))


def test_a_register_has_one_width(device: Device) -> None:
    region = device.regions[0]
    region.write16(VALUES["REG_SCRATCH16"], 0xABCD)
    assert region.read16(VALUES["REG_SCRATCH16"]) == 0xABCD
    for call in (region.read32, region.read8):
        with refused(errno.EINVAL):
            call(VALUES["REG_SCRATCH16"])
    with refused(errno.EINVAL):
        region.write32(VALUES["REG_MAGIC"], 0)
    with refused(errno.EINVAL):
        region.read32(VALUES["REG_PIN_COMMAND"])


# Regions.


def test_regions_are_those_of_the_module(device: Device) -> None:
    sizes = [region.size for region in device.regions]
    assert sizes == [0x1000, 1 << 20, 0x10000, 0x4000, 0, 0x1000]
    assert [tuple(area) for area in device.regions[2].info.areas] == [(0x1000, 0x2000), (0x8000, 0x1000)]
    assert device.regions[3].info.type == (VALUES["REGION_TYPE"], VALUES["REGION_SUBTYPE"])
    assert device.regions[5].read(0xFE, 4) == b"\xfe\xff\x00\x01"


def test_mapped_memory_is_the_devices_own(device: Device) -> None:
    region = device.regions[2].mmap(0x1000)
    region.write32(4, 0xCAFE)
    assert device.regions[2].read32(0x1004) == 0xCAFE
    device.regions[2].write32(0x1008, 0xBEEF)
    assert region.read32(8) == 0xBEEF


def test_what_lies_outside_the_areas_cannot_be_mapped(kernel: mock.Kernel, device: Device) -> None:
    for offset, size in ((2 << 40, PAGE), ((2 << 40) + 0x2000, 0x2000), (0, PAGE), (5 << 40, PAGE), (1 << 40, 2 << 20)):
        with refused(errno.EINVAL):
            kernel.mmap(device.fileno(), size, offset=offset, prot=1)


def test_a_transfer_across_the_end_is_short(kernel: mock.Kernel, device: Device) -> None:
    end = (1 << 40) + (1 << 20)
    assert len(kernel.pread(device.fileno(), 16, end - 4)) == 4
    assert kernel.pwrite(device.fileno(), bytes(16), end - 4) == 4
    with refused(errno.EINVAL):
        kernel.pread(device.fileno(), 1, end)


def test_short_transfers_are_continued_by_the_library(device: Device, engine: VfioMock) -> None:
    engine["TRANSFER_MAX"] = 100
    device.regions[MEMORY].write(0, bytes(range(256)) * 4)
    assert device.regions[MEMORY].read(0, 1024) == bytes(range(256)) * 4


def test_reset_clears_memory_and_registers(device: Device, engine: VfioMock) -> None:
    device.regions[MEMORY].write(0, b"x")
    engine["SCRATCH64"] = 1
    device.reset()
    assert device.regions[MEMORY].read(0, 1) == b"\0"
    assert engine["SCRATCH64"] == 0
    assert engine["DMA_STRIDE"] == PAGE
    assert engine["RESETS"] == 1


# The engine.


def test_it_copies_between_iovas_across_pages(engine: VfioMock, mapping: Mapping) -> None:
    view = mapping.buffer.view
    view[100:10100] = bytes(range(250)) * 40
    engine.copy(mapping.iova + 0x8003, mapping.iova + 100, 10000)
    assert view[0x8003 : 0x8003 + 10000] == bytes(range(250)) * 40
    assert engine["DMA_BYTES"] == 10000
    assert engine["BYTES_READ"] == engine["BYTES_WRITTEN"] == 10000


def test_byte_n_of_a_fill_is_byte_n_of_the_pattern(engine: VfioMock, mapping: Mapping) -> None:
    engine.fill(mapping.iova + PAGE - 3, 10, 0x0807060504030201)
    assert mapping.buffer.view[PAGE - 3 : PAGE + 8] == bytes([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 0])


def test_counting_words_differ_from_round_to_round(engine: VfioMock, mapping: Mapping) -> None:
    engine["DMA_IOVA"], engine["DMA_LENGTH"], engine["DMA_PATTERN"] = mapping.iova, 24, 5
    engine["DMA_COMMAND"] = VALUES["DMA_FILL"] | VALUES["DMA_COUNTING"]
    words = mapping.buffer.view[:24].cast("Q")
    assert list(words) == [5, 6, 7]


def test_scatter_goes_where_its_seed_says(device: Device, engine: VfioMock, mapping: Mapping) -> None:
    # The first outputs of splitmix64 for seed 0.
    outputs = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    engine["DMA_COUNT"], engine["DMA_SEED"] = 3, 0
    engine._run("SCATTER", iova=mapping.iova, length=mapping.size, stride=PAGE, pattern=7)
    written = {n for n in range(mapping.size // PAGE) if any(mapping.buffer.view[n * PAGE : n * PAGE + 8])}
    assert written == {output % (mapping.size // PAGE) for output in outputs}


def test_kept_writes_are_in_memory_too(device: Device, engine: VfioMock, mapping: Mapping) -> None:
    engine["DMA_IOVA"], engine["DMA_LENGTH"], engine["DMA_MEMORY"], engine["DMA_PATTERN"] = mapping.iova, 16, 64, 0x41
    engine["DMA_COMMAND"] = VALUES["DMA_FILL"] | VALUES["DMA_KEEP"]
    assert device.regions[MEMORY].read(64, 16) == bytes(mapping.buffer.view[:16])
    assert engine["DMA_BYTES"] == 16


@pytest.mark.parametrize(
    ("operation", "values", "error"),
    [
        ("FILL", {"iova": 0x100000, "length": 0}, errno.EINVAL),
        ("TOUCH", {"iova": 0x100000, "length": 8, "stride": 0}, errno.EINVAL),
        ("FILL", {"iova": 2**64 - 8, "length": 9}, errno.EOVERFLOW),
        ("WRITE", {"iova": 0x100000, "length": 16, "memory": (1 << 20) - 8}, errno.ERANGE),
        ("LIST", {"count": 2, "memory": (1 << 20) - 8}, errno.ERANGE),
        ("SCATTER", {"iova": 0x100000, "length": 8, "stride": 16, "count": 1}, errno.EINVAL),
    ],
)
def test_what_cannot_be_a_job_ends_before_it_begins(
    engine: VfioMock, operation: str, values: dict[str, int], error: int
) -> None:
    with refused(error):
        engine._run(operation, **values)
    assert engine["DMA_STEPS"] == 0


def test_a_job_stops_where_nothing_is_mapped(device: Device, engine: VfioMock, mapping: Mapping) -> None:
    nothing = errno.ENOENT if device._bound else errno.EINVAL
    with refused(nothing):
        engine.fill(mapping.range.last + 1 - PAGE, 2 * PAGE, 1)
    assert engine["DMA_FAULT"] == mapping.range.last + 1
    assert engine["DMA_BYTES"] == PAGE


def test_a_job_in_the_background_goes_on_until_it_is_stopped(engine: VfioMock, mapping: Mapping) -> None:
    engine.start("TOUCH", "REPEAT", iova=mapping.iova, length=4 * PAGE, stride=PAGE)
    with refused(errno.EBUSY):
        engine.start("FILL", iova=mapping.iova, length=1)
    limit = time.monotonic() + 60
    while engine["DMA_ROUNDS"] < 3:
        assert time.monotonic() < limit
    engine.stop()
    assert engine["DMA_STATUS"] == VALUES["DMA_DONE"]
    rounds = engine["DMA_ROUNDS"]
    time.sleep(0.01)
    assert engine["DMA_ROUNDS"] == rounds


def test_a_delayed_job_is_slow_and_stops_at_once(engine: VfioMock, mapping: Mapping) -> None:
    engine["DMA_DELAY"] = 60_000_000
    engine.start("TOUCH", iova=mapping.iova, length=4 * PAGE, stride=PAGE)
    assert engine["DMA_STATUS"] == VALUES["DMA_BUSY"]
    start = time.monotonic()
    engine.stop()
    assert time.monotonic() - start < 50
    assert engine["DMA_STEPS"] == 0


def test_closing_ends_a_job(kernel: mock.Kernel) -> None:
    with pyvfio.open("vfio-mock.0", kernel=kernel) as device:
        mapping = device.address_space.alloc(PAGE)
        VfioMock(device).start("TOUCH", "REPEAT", iova=mapping.iova, length=PAGE, stride=8)
    with pyvfio.open("vfio-mock.0", kernel=kernel) as device:
        assert VfioMock(device)["DMA_STATUS"] == VALUES["DMA_IDLE"]


# Interrupts.


def test_a_job_raises_its_interrupt_when_its_status_is_final(
    device: Device, engine: VfioMock, mapping: Mapping
) -> None:
    (vector,) = device.irqs[VALUES["IRQ_MSIX"]].enable([3])
    engine["DMA_IRQ"] = VALUES["IRQ_MSIX"] << 16 | 3
    engine.start("FILL", "RAISE", iova=mapping.iova, length=PAGE)
    assert vector.wait(60) == 1
    assert engine["DMA_STATUS"] == VALUES["DMA_DONE"]


def test_intx_fires_again_until_it_is_deasserted(device: Device, engine: VfioMock) -> None:
    (vector,) = device.irqs[0].enable()
    engine["IRQ_RAISE"] = 0
    assert vector.wait(1) == 1
    assert engine["IRQ_MASKED"] == 1
    with pytest.raises(TimeoutError):
        vector.wait(0)
    vector.unmask()
    assert vector.wait(1) == 1
    engine["IRQ_LINE"] = 1
    vector.unmask()
    with pytest.raises(TimeoutError):
        vector.wait(0)


def test_intx_is_unmasked_by_an_eventfd(device: Device, engine: VfioMock) -> None:
    (vector,) = device.irqs[0].enable()
    eventfd = os.eventfd(0)
    try:
        vector.set_unmask_eventfd(eventfd)
        engine["IRQ_RAISE"] = 0
        assert vector.wait(1) == 1
        os.eventfd_write(eventfd, 1)
        assert vector.wait(60) == 1
        vector.clear_unmask_eventfd()
        os.eventfd_write(eventfd, 1)
        with pytest.raises(TimeoutError):
            vector.wait(0.05)
    finally:
        os.close(eventfd)


def test_msi_and_msix_exclude_each_other_and_msi_cannot_grow(device: Device) -> None:
    msi, msix = device.irqs[1], device.irqs[2]
    msi.enable([0, 1])
    with refused(errno.EINVAL):
        msix.enable()
    with refused(errno.EINVAL):
        msi.enable([0, 1, 2])
    msi.disable()
    msix.enable()
    msix.enable([0, 1, 2])


def test_eventfds_are_set_all_or_none(device: Device, engine: VfioMock) -> None:
    (vector,) = device.irqs[2].enable()
    with refused(errno.EINVAL):
        device.irqs[2]._set(4 | 32, 0, 2, [-1, 0])
    vector.trigger()
    assert vector.wait(1) == 1


# Logging.


def test_a_report_is_exactly_what_was_written(device: Device, engine: VfioMock, mapping: Mapping) -> None:
    with device.dirty_log([mapping.range]) as log:
        engine.fill(mapping.iova + 2 * PAGE - 1, 2)
        engine.touch_each([mapping.iova + 100 * PAGE, mapping.range.last - 7])
        assert engine["LOG_DIRTY"] == 4
        pages = [(page - mapping.iova) // PAGE for page in log.read().pages()]
        assert pages == [1, 2, 100, 255]
        assert log.read().count() == 0


def test_ranges_beyond_the_limit_are_combined_or_refused(device: Device, engine: VfioMock) -> None:
    ranges = [IovaRange.of(start, PAGE) for start in (0, 0x10000, 0x12000, 0x40000)]
    engine["LOG_MAX_RANGES"] = 3
    with device.dirty_log(ranges):
        assert engine.logged_ranges == [ranges[0], IovaRange(0x10000, 0x12FFF), ranges[3]]
    engine["LOG_OVERFLOW"] = VALUES["LOG_REFUSE"]
    with refused(errno.E2BIG):
        device.dirty_log(ranges)


def test_a_report_in_larger_pages_and_of_a_part_clears_that_part(
    device: Device, engine: VfioMock, mapping: Mapping
) -> None:
    engine["LOG_PAGE_MIN"] = 1 << 16
    with device.dirty_log([mapping.range]) as log:
        assert log.page_size == 1 << 16
        engine.touch_each([mapping.iova, mapping.iova + (5 << 16) + PAGE])
        part = log.read(IovaRange.of(mapping.iova, 2 << 16))
        assert [IovaRange(*run) for run in part.runs()] == [IovaRange.of(mapping.iova, 1 << 16)]
        rest = log.read()
        assert [IovaRange(*run) for run in rest.runs()] == [IovaRange.of(mapping.iova + (5 << 16), 1 << 16)]


def test_a_report_of_a_terabyte_costs_by_what_is_dirty(device: Device, engine: VfioMock, mapping: Mapping) -> None:
    with device.dirty_log([IovaRange(0, 2**40 - 1)]) as log:
        engine.touch(mapping.iova, mapping.size)
        bitmap = log.read()
        start = time.process_time()
        log.read(into=bitmap)
        assert time.process_time() - start < 30
    assert bitmap.count() == mapping.size // PAGE


def test_the_bits_of_a_report_that_has_no_bitmap_are_lost(device: Device, engine: VfioMock, mapping: Mapping) -> None:
    from pyvfio._abi import ffi, lib

    with device.dirty_log([mapping.range]) as log:
        engine.fill(mapping.iova, PAGE)
        report = ffi.new("struct vfio_device_feature_dma_logging_report *", (mapping.iova, mapping.size, PAGE, 0))
        device.features.exchange(lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | lib.VFIO_DEVICE_FEATURE_GET, report)
        assert log.read().count() == 0


def test_the_modules_parameters_hold_from_the_next_open_on(kernel: mock.Kernel) -> None:
    with pyvfio.open("vfio-mock.0", kernel=kernel) as device:
        kernel.write_file("/sys/module/vfio_mock/parameters/log_max_ranges", b"7\n")
        kernel.write_file("/sys/module/vfio_mock/parameters/log_page_max", b"70000\n")
        assert VfioMock(device)["LOG_MAX_RANGES"] == 255
    with pyvfio.open("vfio-mock.0", kernel=kernel) as device:
        assert VfioMock(device)["LOG_MAX_RANGES"] == 7
        assert VfioMock(device)["LOG_PAGE_MAX"] == 65536


# Failures, pinning.


def test_the_nth_call_fails_once(device: Device, engine: VfioMock, mapping: Mapping) -> None:
    engine.fail("DMA", 2, errno.ENOSPC)
    with refused(errno.ENOSPC):
        engine.fill(mapping.iova, 3 * PAGE)
    assert engine["DMA_BYTES"] == PAGE
    engine.fill(mapping.iova, 3 * PAGE)


def test_open_fails_once_and_then_works(kernel: mock.Kernel) -> None:
    with pyvfio.open("vfio-mock.0", kernel=kernel) as device:
        VfioMock(device).fail("OPEN", error=errno.ENOMEM)
    with refused(errno.ENOMEM):
        pyvfio.open("vfio-mock.0", kernel=kernel)
    pyvfio.open("vfio-mock.0", kernel=kernel).close()


def test_pinned_pages_are_written_directly_and_let_go_at_unmap(
    device: Device, engine: VfioMock, mapping: Mapping
) -> None:
    engine["PIN_IOVA"], engine["PIN_COUNT"], engine["PIN_COMMAND"] = mapping.iova, 4, VALUES["PIN_PIN"]
    assert engine["PIN_PINNED"] == 4
    with refused(errno.EEXIST):
        engine["PIN_COMMAND"] = VALUES["PIN_PIN"]
    engine["DMA_IOVA"], engine["DMA_LENGTH"], engine["DMA_PATTERN"] = mapping.iova, 5 * PAGE, 0x4141414141414141
    engine["DMA_COMMAND"] = VALUES["DMA_FILL"] | VALUES["DMA_PINNED"]
    assert engine["DMA_ERRNO"] == errno.EFAULT
    assert engine["DMA_FAULT"] == mapping.iova + 4 * PAGE
    assert bytes(mapping.buffer.view[: 4 * PAGE]) == b"A" * 4 * PAGE
    mapping.unmap()
    assert engine["PIN_PINNED"] == 0
    assert engine["UNMAPS"] == 1


def test_poll_sees_the_eventfd(device: Device, engine: VfioMock) -> None:
    (vector,) = device.irqs[1].enable()
    assert not select.select([vector], [], [], 0)[0]
    engine["IRQ_RAISE"] = 1 << 16
    assert select.select([vector], [], [], 1)[0]


def test_it_is_no_pci_device(device: Device) -> None:
    with pytest.raises(Unsupported):
        _ = device.config
