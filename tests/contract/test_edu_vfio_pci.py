# SPDX-License-Identifier: MIT
"""edu-vfio-pci, a PCI device behind a real IOMMU: its DMA log and migration, checked by the driver's counters and by the memory itself."""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from examples.edu import (
    ACKNOWLEDGE,
    COMMAND,
    COUNT,
    DESTINATION,
    FACTORIAL,
    INTERRUPTS,
    LIVENESS,
    RAISE,
    SOURCE,
    START,
    STATUS,
    TO_MEMORY,
)

import pyvfio
from pyvfio import DmaBuffer, InvalidRequest, IovaRange, Unsupported
from pyvfio.migration import State
from pyvfio.region import Area
from pyvfio.spaces.opening import Mode
from tests.contract import dirty_memory, guest
from tests.contract.drivers.edu_vfio_pci import driver as EduVfioPci

if TYPE_CHECKING:
    from vmtest.matrix import Cell

    from pyvfio import Device, Migration
    from pyvfio.spaces.base import AddressSpace

PAGE = 4096
BASE = 0x10_0000
#: An edu below a root port. A bus reset resets it. Under QEMU 7.2's AMD IOMMU its DMA does not reach memory.
RESETTABLE = "0000:01:00.0"
PARAMETERS = Path("/sys/module/edu_vfio_pci/parameters")

pytestmark = pytest.mark.only(device="edu-vfio-pci")
#: For tests that do not depend on the kind of address space.
once = pytest.mark.only(device="edu-vfio-pci", mode=["type1v2", "iommufd"])


@pytest.fixture
def edu(logger: EduVfioPci) -> EduVfioPci:
    """The device's driver, with its registers, limits and injected failures."""
    return logger


@pytest.fixture
def another(edu: EduVfioPci, second_logger: EduVfioPci) -> EduVfioPci:
    """Another edu, in the same address space."""
    return second_logger


@pytest.fixture
def resettable(space: AddressSpace, kernel: Any, cell: Cell) -> Iterator[Device]:
    """Another edu, in the same address space, that can be reset."""
    driver = guest.driver_of(cell.device)
    with guest.ready(RESETTABLE, kernel, driver) as address, space.attach(address) as device:
        yield device


@pytest.fixture
def logged(space: AddressSpace, edu: EduVfioPci) -> IovaRange:
    """A mapped range of 64 pages, writable for the device."""
    return space.map(DmaBuffer(64 * PAGE), BASE).range


@contextlib.contextmanager
def parameter(name: str, value: int) -> Iterator[None]:
    """Set a module parameter during the block. The driver reads it when a device is opened."""
    file = PARAMETERS / name
    before = file.read_text()
    file.write_text(str(value))
    try:
        yield
    finally:
        file.write_text(before)


class TooLate(Exception):
    """A transfer (0.1 s) ended before the test could check it. Then the attempt proves nothing."""


def in_time(attempt: Callable[[], None]) -> None:
    """Repeat an attempt until it is not too late. On a busy host that may take many attempts."""
    for _ in range(300):
        with contextlib.suppress(TooLate):
            attempt()
            return
    pytest.fail("300 transfers ended before the test had come to the point")


def pages(bitmap: pyvfio.DirtyBitmap) -> list[int]:
    return list(bitmap.pages())


# --- the log ----------------------------------------------------------------------------------------------------------


def test_a_transfer_under_way_is_in_every_report(device: Device, edu: EduVfioPci, logged: IovaRange) -> None:
    wanted = [BASE + 2 * PAGE, BASE + 3 * PAGE]

    def attempt() -> None:
        edu.start_write(BASE + 3 * PAGE - 8, 16)
        reports = 0
        while edu.moving:
            assert pages(log.read()) == wanted
            reports += 1
        # The transfer may have ended after the last report, or before it.
        assert pages(log.read()) in (wanted, [])
        assert log.read().count() == 0
        if reports < 2:
            raise TooLate

    with device.dirty_log([logged]) as log:
        in_time(attempt)


@once
def test_a_transfer_started_before_the_log_is_in_it(device: Device, edu: EduVfioPci, logged: IovaRange) -> None:
    def attempt() -> None:
        edu.start_write(BASE + PAGE, 8)
        with device.dirty_log([logged]) as log:
            if not edu.moving:
                raise TooLate
            while edu.moving:
                pass
            assert pages(log.read()) == [BASE + PAGE]
            assert log.read().count() == 0

    in_time(attempt)


@once
def test_a_command_during_a_transfer_marks_nothing_else(device: Device, edu: EduVfioPci, logged: IovaRange) -> None:
    """The device ignores writes to the registers of its DMA engine during a transfer."""

    def attempt() -> None:
        edu.start_write(BASE, 8)
        edu.start_write(BASE + 5 * PAGE, 8)
        too_late = edu.registers.read32(DESTINATION) != BASE
        while edu.moving:
            pass
        found = pages(log.read())
        if too_late:
            raise TooLate
        assert found == [BASE]

    with device.dirty_log([logged]) as log:
        in_time(attempt)


@once
def test_a_transfer_from_memory_marks_nothing(device: Device, edu: EduVfioPci, logged: IovaRange) -> None:
    with device.dirty_log([logged]) as log:
        edu.read(BASE, 2048)
        assert log.read().count() == 0


@once
def test_nothing_reaches_the_registers_past_the_log(device: Device) -> None:
    bar = device.regions[0]
    assert bar.info.areas == ((PAGE, bar.size - PAGE),)
    with pytest.raises(Unsupported, match="can be mapped"):
        bar.mmap(0)
    # The same without the library.
    offset = bar.info.offset
    with pytest.raises(OSError, match="Invalid argument") as caught:
        mmap.mmap(device.fileno(), PAGE, offset=offset)
    assert caught.value.errno == errno.EINVAL
    mmap.mmap(device.fileno(), PAGE, offset=offset + PAGE).close()
    eventfd = os.eventfd(0)
    try:
        with pytest.raises(OSError, match="IOEVENTFD") as caught:
            bar.add_ioeventfd(eventfd, COMMAND, 4, START | TO_MEMORY)
        assert caught.value.errno == errno.EINVAL
        bar.add_ioeventfd(eventfd, PAGE, 4, 0)
        bar.remove_ioeventfd(PAGE, 4, 0)
    finally:
        os.close(eventfd)


@pytest.mark.require("dma_buf")
@pytest.mark.only(device="edu-vfio-pci", mode="iommufd")
def test_no_dma_buf_has_the_registers(device: Device) -> None:
    bar = device.regions[0]
    with pytest.raises(OSError, match="DMA_BUF") as caught:
        bar.dma_buf([Area(PAGE, PAGE), Area(0, PAGE)])
    assert caught.value.errno == errno.EINVAL
    with bar.dma_buf([Area(PAGE, PAGE)]) as exported:
        assert exported.size == PAGE


@once
def test_a_bar_that_cannot_be_mapped_at_all(address: str, bare_space: AddressSpace) -> None:
    with parameter("sparse", 0), bare_space.attach(address) as device:
        assert not device.regions[0].mmappable
        with pytest.raises(OSError, match="Invalid argument") as caught:
            mmap.mmap(device.fileno(), PAGE, offset=device.regions[0].info.offset + PAGE)
        assert caught.value.errno == errno.EINVAL
        assert device.regions[0].read32(0) == 0x010000ED


@once
def test_a_bar_appears_as_one_of_64_bits(address: str, bare_space: AddressSpace) -> None:
    config = Path("/sys/bus/pci/devices", address, "config")
    real = config.read_bytes()[0x10:0x18]
    assert real[0] & 7 == 0  # a 32-bit memory BAR
    with parameter("bar64", 1), bare_space.attach(address) as device:
        assert device.config.read32(0x10) == int.from_bytes(real[:4], "little") | 4
        assert device.config.read32(0x14) == 0
        for at in (0x10, 0x14):
            device.config.write32(at, 0xFFFFFFFF)
        assert (device.config.read32(0x10), device.config.read32(0x14)) == (0xFFF00004, 0xFFFFFFFF)
        device.config.write32(0x10, 0x12345678)
        device.config.write32(0x14, 0x38)
        # Reads of any width work, and reads that also include neighbouring registers.
        assert device.config.read(0x0E, 12)[2:10] == (0x38_1230_0004).to_bytes(8, "little")
        assert device.config.read16(0x12) == 0x1230
        assert device.config.read8(0x14) == 0x38
        # The real BAR has not moved.
        assert config.read_bytes()[0x10:0x18] == real
        assert device.regions[0].read32(0) == 0x010000ED
    with bare_space.attach(address) as device:
        assert device.config.read32(0x10) & 7 == 0


# --- dirty pages, judged by the memory --------------------------------------------------------------------------------


@pytest.fixture
def all_edus(edu: EduVfioPci, space: AddressSpace, kernel: Any, cell: Cell) -> Iterator[list[EduVfioPci]]:
    """All edus whose DMA reaches memory under every IOMMU, in one address space."""
    with contextlib.ExitStack() as stack:
        for address in dirty_memory.REACHING[1:]:
            stack.enter_context(guest.ready(address, kernel, guest.driver_of(cell.device)))
        devices = [stack.enter_context(space.attach(address)) for address in dirty_memory.REACHING[1:]]
        yield [edu, *(stack.enter_context(EduVfioPci(device)) for device in devices)]


@once
def test_pages_that_changed_are_in_the_reports(all_edus: list[EduVfioPci], space: AddressSpace) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    found = dirty_memory.copy_at_random(all_edus, space, 60, seed)
    assert len(found.changed) > 60
    assert found.missed == set()
    assert found.extra == set()


@once
def test_a_log_that_loses_pages_is_noticed(all_edus: list[EduVfioPci], space: AddressSpace) -> None:
    for edu in all_edus:
        edu["LOG_LOSE"] = 3
    found = dirty_memory.copy_at_random(all_edus, space, 30, seed=3)
    assert len(found.missed) > 3


# --- migration --------------------------------------------------------------------------------------------------------


def set_registers(edu: EduVfioPci) -> None:
    for register, value in (
        (LIVENESS, 0x600DCAFE),
        (SOURCE, 0x123000),
        (DESTINATION, 0x456000),
        (COUNT, 99),
        (ACKNOWLEDGE, 0xFFFFFFFF),
        (RAISE, 0x2A),
    ):
        edu.registers.write32(register, value)
    assert edu.factorial(7) == 5040


def registers_of(edu: EduVfioPci) -> dict[int, int]:
    return {
        at: edu.registers.read32(at)
        for at in (LIVENESS, FACTORIAL, STATUS, INTERRUPTS, SOURCE, DESTINATION, COUNT, COMMAND)
        # COMMAND keeps the direction of the last transfer, which is not migrated.
        if at != COMMAND
    }


def saved(device: Device) -> bytes:
    file = io.BytesIO()
    device.migration.save(file)
    device.migration.state = State.RUNNING
    return file.getvalue()


@once
def test_registers_that_one_saves_another_loads(edu: EduVfioPci, another: EduVfioPci) -> None:
    set_registers(edu)
    wanted = registers_of(edu)
    assert wanted[INTERRUPTS] == 0x2A
    assert registers_of(another) != wanted
    another.device.migration.load(io.BytesIO(saved(edu.device)))
    another.device.migration.state = State.RUNNING
    assert registers_of(another) == wanted
    # The device still computes: the FACTORIAL register was migrated as a result, not written as a new argument.
    assert another.factorial(5) == 120
    for one in (edu, another):
        one.registers.write32(ACKNOWLEDGE, 0xFFFFFFFF)


@once
def test_a_stop_waits_for_the_transfer(
    device: Device, edu: EduVfioPci, migration: Migration, space: AddressSpace
) -> None:
    source, target = space.map(DmaBuffer(PAGE), 0x80_0000), space.map(DmaBuffer(8 * PAGE), BASE)
    source.buffer.view[:16] = b"before it stops."
    edu.read(source.iova, 16)

    def attempt() -> None:
        edu.start_write(BASE + 7 * PAGE, 16)
        too_late = not edu.moving
        migration.state = State.STOP
        assert not edu.moving
        assert bytes(target.buffer.view[7 * PAGE : 7 * PAGE + 16]) == b"before it stops."
        assert pages(log.read()) == [BASE + 7 * PAGE]
        assert log.read().count() == 0
        migration.state = State.RUNNING
        if too_late:
            raise TooLate

    with device.dirty_log([target.range]) as log:
        in_time(attempt)


@once
def test_a_device_that_is_stopped_starts_nothing(edu: EduVfioPci, migration: Migration, logged: IovaRange) -> None:
    data = saved(edu.device)
    for state in sorted(migration.states):
        migration.state = State.RUNNING
        migration.state = state
        if state == State.RESUMING:
            migration.stream.write(data)
        if state in (State.RUNNING, State.PRE_COPY):
            edu.write(BASE, 8)
            assert edu.factorial(3) == 6
            continue
        for register, value in ((COMMAND, START | TO_MEMORY), (FACTORIAL, 4)):
            with pytest.raises(OSError, match="pwrite") as caught:
                edu.registers.write32(register, value)
            assert caught.value.errno == errno.EBUSY
        edu.registers.write32(COMMAND, 0)
        assert not edu.moving
    migration.state = State.RUNNING


@once
@pytest.mark.require("pre_copy")
def test_pre_copy_sends_the_registers_after_they_were_written(edu: EduVfioPci, migration: Migration) -> None:
    migration.state = State.PRE_COPY
    stream = migration.stream
    size = migration.precopy_info.initial_bytes
    assert migration.precopy_info == (size, 0, False)
    assert len(stream.read(10) or b"") == 10
    assert migration.precopy_info == (size - 10, 0, False)
    assert len(stream.read() or b"") == size - 10
    assert (migration.precopy_info, stream.read(1), stream.poll(0)) == ((0, 0, False), None, False)
    edu.registers.write32(LIVENESS, 1)
    assert stream.poll(10)
    assert migration.precopy_info == (0, size, False)
    assert len(stream.read() or b"") == size
    assert stream.read(1) is None
    migration.state = State.STOP_COPY
    assert migration.data_size == size
    assert len(stream.read() or b"") == size
    assert (stream.read(1), migration.data_size) == (b"", 0)
    migration.state = State.RUNNING


@once
@pytest.mark.require("pre_copy")
def test_memory_and_registers_move_while_the_device_writes(
    edu: EduVfioPci, mode: Mode, kernel: Any, cell: Cell
) -> None:
    """The device writes between all steps of the migration.

    Memory and registers arrive, and the other device continues.
    """
    rng = random.Random(5)
    size = 64 * PAGE
    ram = edu.device.address_space.map(DmaBuffer(size), BASE)
    with (
        guest.ready(guest.second_address_of(cell.device), kernel, guest.driver_of(cell.device)) as address,
        pyvfio.address_space(mode, kernel=kernel) as elsewhere,
        elsewhere.attach(address) as target,
    ):
        copy = elsewhere.map(DmaBuffer(size), BASE)
        ram.buffer.view[:] = rng.randbytes(size)
        edu.read(BASE, 2048)
        with edu.device.dirty_log([ram.range]) as log:
            copy.buffer.view[:] = ram.buffer.view

            def copy_dirty_memory() -> None:
                for run in log.read().runs():
                    part = slice(run.start - BASE, run.last + 1 - BASE)
                    copy.buffer.view[part] = ram.buffer.view[part]

            target.migration.state = State.RESUMING
            for number, _ in enumerate(edu.device.migration.pre_copy(target.migration.stream)):
                copy_dirty_memory()
                while edu.moving:
                    pass
                edu.start_write(BASE + rng.randrange(size - 2048), rng.randint(1, 2048))
                if number == 7:
                    break
            edu.device.migration.save(target.migration.stream)
            copy_dirty_memory()
            assert copy.buffer.view == ram.buffer.view
            target.migration.state = State.RUNNING
            with EduVfioPci(target) as twin:
                assert registers_of(twin) == registers_of(edu)
                twin.read(BASE, 16)
                twin.write(BASE + 9 * PAGE, 16)
                assert copy.buffer.view[9 * PAGE : 9 * PAGE + 16] == copy.buffer.view[:16]
            edu.device.migration.state = State.RUNNING


def cut(data: bytes) -> bytes:
    return data[:-1]


def nothing(data: bytes) -> bytes:
    return b""


def changed_start(data: bytes) -> bytes:
    return b"X" + data[1:]


def changed_register(data: bytes) -> bytes:
    return data[:30] + bytes([data[30] ^ 1]) + data[31:]


def twice_over(data: bytes) -> bytes:
    return data * 2


def from_the_middle(data: bytes) -> bytes:
    return data[8:]


def foreign(data: bytes) -> bytes:
    """Return a record of the same length that begins as vfio-mock's streams do."""
    return b"vfiomock" + (1).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(len(data) - 16)


@once
@pytest.mark.parametrize(
    ("spoil", "shows_at_write"),
    [
        (cut, False),
        (nothing, False),
        (changed_start, True),
        (changed_register, True),
        (twice_over, True),
        (from_the_middle, True),
        (foreign, True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)).replace("_", "-"),
)
def test_a_stream_that_is_no_good_is_refused(
    edu: EduVfioPci, resettable: Device, spoil: Callable[[bytes], bytes], shows_at_write: bool
) -> None:
    good = saved(edu.device)
    with pytest.raises(OSError, match=r"does not accept the data|incomplete, damaged") as caught:
        resettable.migration.load(io.BytesIO(spoil(good)))
    assert caught.value.errno == errno.EINVAL
    assert (f"write {RESETTABLE}" in str(caught.value)) == shows_at_write
    assert resettable.migration.state == (State.RESUMING if shows_at_write else State.ERROR)
    if shows_at_write:
        with pytest.raises(OSError, match="the device is in ERROR"):
            resettable.migration.state = State.STOP
    with pytest.raises(InvalidRequest, match="only a reset"):
        resettable.migration.state = State.RUNNING
    resettable.reset()
    assert resettable.migration.state == State.RUNNING
    resettable.migration.load(io.BytesIO(good))
    resettable.migration.state = State.RUNNING


@once
def test_a_reset_ends_a_migration_and_not_the_log(resettable: Device) -> None:
    migration = resettable.migration
    migration.state = State.STOP_COPY
    stream = migration.stream
    with resettable.dirty_log([IovaRange.of(BASE, PAGE)]) as log:
        resettable.reset()
        with pytest.raises(OSError, match="the stream has ended") as caught:
            stream.read(1)
        assert caught.value.errno == errno.ENODEV
        assert migration.state == State.RUNNING
        assert log.read().count() == 0
