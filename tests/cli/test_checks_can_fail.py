# SPDX-License-Identifier: MIT
"""Each conformance check fails on a kernel with a fault of its kind. A check that cannot fail would prove nothing.

The failures and their reasons are those of reasons.txt. `PYVFIO_WRITE_REASONS=1 pytest tests/cli/test_checks_can_fail.py`
records them again; look at what changed before you commit it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import mmap
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyvfio import Device, IovaRange, conformance, vfio_mock
from pyvfio._abi import ffi, lib
from pyvfio.mock.fs.tree import Text
from tests.cli.command import Command
from tests.cli.faulty import FAULTS, Fault, Faulty, _answer, _info, feature, is_feature, report_words

VF, MOCK, EDU, IGB, PLUGGABLE = "0000:41:10.1", "vfio-mock.0", "0000:00:03.0", "0000:00:07.0", "0000:01:00.0"
DRIVER = "pyvfio.vfio_mock:VfioMock"
HERE = "tests.cli.test_checks_can_fail"
REASONS = Path(__file__).with_name("reasons.txt")
EDU_RESETS = "/sys/devices/pci0000:00/0000:00:03.0/reset_method"
U40 = 1 << 40
CONFIG = lib.VFIO_PCI_CONFIG_REGION_INDEX
#: A function that changes an access to configuration space. Arguments: the kernel, the offset, the data. It returns
#: other data.
Access = Callable[["Sabotaged", int, bytes], bytes]


class Case(NamedTuple):
    """A fault, and a check that must find it.

    :ivar check: the check's name as the command prints it: `group: name` without `test_`
    :ivar read: a function that gives the data that a read of configuration space returns
    :ivar write: a function that gives the data that a write to it writes; empty for none
    :ivar memory: any part of the device's file can be mapped, and read beyond its end
    :ivar beyond: the errno of a read beyond the end of a region; 0 for the usual one
    :ivar file: a file of the host, and its content
    :ivar driver: the driver for the group `dma`
    :ivar mode: the mode of the address space; empty for the usual one
    :ivar fails: the check must fail; else it must pass
    :ivar stream: the errno with which the device refuses the data of a migration; 0 to accept any data, None for the usual answer
    """

    check: str
    address: str = VF
    fault: Fault = FAULTS["none"]
    read: Access | None = None
    write: Access | None = None
    memory: bool = False
    beyond: int = 0
    file: tuple[str, str] | None = None
    driver: str = DRIVER
    mode: str = ""
    fails: bool = True
    stream: int | None = None


class Sabotaged(Faulty):
    """A mock whose requests go through a fault, and whose configuration space reads and keeps what a case makes of it."""

    def __init__(self, case: Case) -> None:
        super().__init__(case.fault)
        self.case = case
        if case.file is not None:
            self.tree.add(case.file[0], Text(case.file[1].encode()))

    def _config(self, fd: int, offset: int) -> bool:
        return getattr(self.files.get(fd), "kind", "") == "device" and offset // U40 == CONFIG

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        try:
            data = super().pread(fd, size, offset)
        except OSError:
            if self.case.beyond:
                raise OSError(self.case.beyond, os.strerror(self.case.beyond)) from None
            if not self.case.memory:
                raise
            data = bytes(size)
        return self.case.read(self, offset % U40, data) if self.case.read and self._config(fd, offset) else data

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        if self.case.write and self._config(fd, offset):
            changed = self.case.write(self, offset % U40, bytes(data))
            if changed:
                super().pwrite(fd, changed, offset)
            return len(data)
        return super().pwrite(fd, data, offset)

    def write(self, fd: int, data: Any) -> int:
        if self.case.stream is None or getattr(self.files.get(fd), "kind", "") != "migration":
            return super().write(fd, data)
        if self.case.stream:
            raise OSError(self.case.stream, os.strerror(self.case.stream))
        return len(data)

    def mmap(self, fd: int, size: int, *, offset: int, prot: int) -> mmap.mmap:
        return mmap.mmap(-1, size) if self.case.memory else super().mmap(fd, size, offset=offset, prot=prot)


# --- faults ---------------------------------------------------------------------------------------------------------------


def refuse(request: str, error: int, when: Callable[[Faulty, Any], bool] = lambda _kernel, _argument: True) -> Fault:
    """Return a fault that refuses a request, or only those that `when` selects."""

    def fault(kernel: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        return -error if name.startswith(request) and when(kernel, argument) else make()

    return fault


def pretend(request: str, when: Callable[[Faulty, Any], bool] = lambda _kernel, _argument: True) -> Fault:
    """Return a fault that reports success for a request without executing it."""

    def fault(kernel: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        return 0 if name.startswith(request) and when(kernel, argument) else make()

    return fault


def after(count: int) -> Callable[[Faulty, Any], bool]:
    """Return a condition that is true after `count` calls."""

    def when(kernel: Faulty, _: Any) -> bool:
        kernel.last = (kernel.last or 0) + 1
        return int(kernel.last) > count

    return when


def irqs(argument: Any) -> Any:
    return ffi.cast("struct vfio_irq_set *", argument)


def with_action(action: int) -> Callable[[Faulty, Any], bool]:
    return lambda _, argument: bool(irqs(argument).flags & action)


def enabling(argument: Any) -> bool:
    call = irqs(argument)
    return bool(call.flags & lib.VFIO_IRQ_SET_DATA_EVENTFD) and call.count > 0


def triggering(argument: Any) -> bool:
    wanted = lib.VFIO_IRQ_SET_DATA_NONE | lib.VFIO_IRQ_SET_ACTION_TRIGGER
    return bool(irqs(argument).flags == wanted and irqs(argument).count)


def second_trigger(kernel: Faulty, argument: Any) -> bool:
    if not triggering(argument):
        return False
    kernel.last = not kernel.last
    return not kernel.last


def fixed_map(argument: Any) -> Any:
    return ffi.cast("struct iommu_ioas_map *", argument)


def writable(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
    """Make every mapping writable."""
    if name == "IOMMU_IOAS_MAP":
        fixed_map(argument).flags |= lib.IOMMU_IOAS_MAP_WRITEABLE
    return make()


def starting(argument: Any, when: Callable[[Any], bool]) -> bool:
    """Whether the request starts a log that `when` selects."""
    flags, data = feature("VFIO_DEVICE_FEATURE", argument)
    if not is_feature(flags, "DMA_LOGGING_START", "SET"):
        return False
    return when(ffi.cast("struct vfio_device_feature_dma_logging_control *", data))


def on_answer(name: str, change: Callable[[Any], None], struct: str) -> Fault:
    """Return a fault that changes the answer of a feature."""

    def fault(_: Faulty, request: str, argument: Any, make: Callable[[], int]) -> int:
        result = make()
        flags, data = feature(request, argument)
        if result >= 0 and flags and is_feature(flags, name, "GET"):
            change(ffi.cast(f"{struct} *", data))
        return result

    return fault


def probes_all(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
    """Answer every probe with yes."""
    return 0 if feature(name, argument)[0] & lib.VFIO_DEVICE_FEATURE_PROBE else make()


def resets(then: Fault) -> Fault:
    """Return a fault that is active after the first reset."""

    def fault(kernel: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        if name == "VFIO_DEVICE_RESET":
            kernel.last = "reset"
        return then(kernel, name, argument, make) if kernel.last == "reset" else make()

    return fault


def flags(set_: int = 0, clear: int = 0, index: int | None = None) -> Callable[[Any], None]:
    """Return a change of an info's flags, of one index."""

    def change(info: Any) -> None:
        if index is None or info.index == index:
            info.flags = (info.flags | set_) & ~clear & 0xFFFFFFFF

    return change


def fewer_regions(info: Any) -> None:
    info.num_regions = 7


def bar1_over_bar0(info: Any) -> None:
    if info.index == 1:
        info.size, info.offset, info.flags = 4096, 0, lib.VFIO_REGION_INFO_FLAG_READ


def of_no_use(info: Any) -> None:
    if info.index == 0:
        info.flags = info.cap_offset = 0


def smaller_than_its_areas(info: Any) -> None:
    if info.index == 2:
        info.size = 8192


def large_pages(answer: Any) -> None:
    answer.out_iova_alignment = 65536


def no_ranges(answer: Any) -> None:
    answer.num_iovas = 0


def other_devices(answer: Any) -> None:
    for index in range(answer.count):
        answer.devices[index].devfn ^= 0xFF


def no_stop_copy(answer: Any) -> None:
    answer.flags = lib.VFIO_MIGRATION_PRE_COPY


def no_data(answer: Any) -> None:
    answer.stop_copy_length = 0


def instead(request: str, usual: int, other: int, when: Callable[[Any], bool] = lambda _argument: True) -> Fault:
    """Return a fault that answers one errno where the kernel answers another."""

    def fault(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        result = make()
        return -other if name.startswith(request) and result == -usual and when(argument) else result

    return fault


def log_ranges(control: Any) -> list[tuple[int, int]]:
    ranges = ffi.cast("struct vfio_device_feature_dma_logging_range *", control.ranges)
    return [(ranges[index].iova, ranges[index].length) for index in range(control.num_ranges)]


def limited(error: Callable[[Any], int]) -> Fault:
    """Return a fault that refuses the START of a log with the errno that a function gives for it; 0 for none."""

    def fault(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        found = 0

        def note(control: Any) -> bool:
            nonlocal found
            found = error(control)
            return bool(found)

        return -found if name.startswith("VFIO_DEVICE_FEATURE") and starting(argument, note) else make()

    return fault


def from_bits(first: int, *errors: int) -> Callable[[Any], int]:
    """Return a function that gives an errno for each size of a single range from 2^`first` on; the last for all larger ones."""

    def error(control: Any) -> int:
        bits = log_ranges(control)[0][1].bit_length() - 1
        return 0 if control.num_ranges != 1 or bits < first else errors[min(bits - first, len(errors) - 1)]

    return error


def more_than(most: int) -> Callable[[Any], int]:
    """Return a function that refuses more ranges."""
    return lambda control: errno.ENOSPC if control.num_ranges > most else 0


def larger_units(control: Any) -> int:
    """Refuse page sizes beyond 64 KiB."""
    return errno.EOVERFLOW if control.page_size > 65536 else 0


def answers_page_size(size: Callable[[int], int]) -> Fault:
    """Return a fault that starts a log and answers another page size than that asked for."""

    def fault(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        result = make()
        flags, data = feature(name, argument)
        if result == 0 and flags and is_feature(flags, "DMA_LOGGING_START", "SET"):
            control = ffi.cast("struct vfio_device_feature_dma_logging_control *", data)
            control.page_size = size(control.page_size)
        return result

    return fault


def writes_unseen(at: int) -> Fault:
    """Return a fault by which the device writes a page of mapped memory, at a page's number, while the log starts."""

    def fault(kernel: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        flags, _ = feature(name, argument)
        if name == "IOMMU_IOAS_MAP":
            kernel.last = int(fixed_map(argument).user_va)
        if flags and is_feature(flags, "DMA_LOGGING_START", "SET") and kernel.last:
            ffi.cast("char *", kernel.last)[at * 4096] = b"!"
            kernel.last = None
        return make()

    return fault


def reports_also(page: int) -> Fault:
    """Return a fault that adds a page, by its number, to each report of 512 pages."""

    def fault(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        result = make()
        flags, data = feature(name, argument)
        if result >= 0 and flags and is_feature(flags, "DMA_LOGGING_REPORT", "GET"):
            words, count = report_words(data)
            if count == 8:
                words[page // 64] |= 1 << page % 64
        return result

    return fault


def several(*faults: Fault) -> Fault:
    """Return a fault that has the effects of several."""

    def fault(kernel: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        for one in reversed(faults):
            make = functools.partial(one, kernel, name, argument, make)
        return make()

    return fault


def states(error: int, *targets: str) -> Fault:
    """Return a fault that refuses to enter some states of migration."""

    def fault(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        flags, data = feature(name, argument)
        if flags and is_feature(flags, "MIG_DEVICE_STATE", "SET"):
            wanted = ffi.cast("struct vfio_device_feature_mig_state *", data).device_state
            if wanted in [getattr(lib, f"VFIO_DEVICE_STATE_{target}") for target in targets]:
                return -error
        return make()

    return fault


def region(index: int, **fields: int) -> Fault:
    """Return a fault that sets fields of a region's info."""

    def change(info: Any) -> None:
        if info.index == index:
            for name, value in fields.items():
                setattr(info, name, value)

    return _info("VFIO_DEVICE_GET_REGION_INFO", "struct vfio_region_info", change)


def areas(change: Callable[[Any], None]) -> Fault:
    """Return a fault that changes the mappable areas of region 2 of vfio-mock."""

    def fault(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        result = make()
        info = ffi.cast("struct vfio_region_info *", argument)
        if name == "VFIO_DEVICE_GET_REGION_INFO" and result == 0 and info.index == 2 and info.cap_offset:
            at = info.cap_offset
            while at and at < info.argsz:
                header = ffi.cast("struct vfio_info_cap_header *", argument + at)
                if header.id == lib.VFIO_REGION_INFO_CAP_SPARSE_MMAP:
                    change(ffi.cast("struct vfio_region_info_cap_sparse_mmap *", argument + at))
                at = header.next
        return result

    return fault


def unaligned_area(sparse: Any) -> None:
    sparse.areas[0].offset += 16


def empty_area(sparse: Any) -> None:
    sparse.areas[0].size = 0


def overlapping_areas(sparse: Any) -> None:
    sparse.areas[1].offset = sparse.areas[0].offset


def touching_areas(sparse: Any) -> None:
    sparse.areas[1].offset = sparse.areas[0].offset + sparse.areas[0].size


def area_to_the_end(sparse: Any) -> None:
    sparse.areas[1].offset = 0x10000 - sparse.areas[1].size


def info_of_device(**fields: int) -> Fault:
    """Return a fault that sets fields of the device's info."""

    def change(info: Any) -> None:
        for name, value in fields.items():
            setattr(info, name, value)

    return _info("VFIO_DEVICE_GET_INFO", "struct vfio_device_info", change)


def of_index(index: int) -> Callable[[Faulty, Any], bool]:
    """Return a condition for the info of a region or an interrupt: its index."""
    return lambda _, argument: bool(ffi.cast("struct vfio_irq_info *", argument).index == index)


def not_an_area_in_sysfs(answer: Any) -> None:
    ffi.cast("struct iommu_iova_range *", answer.allowed_iovas)[0].last = 0xFEE00000


def touching_ranges(answer: Any) -> None:
    ranges = ffi.cast("struct iommu_iova_range *", answer.allowed_iovas)
    if answer.num_iovas > 1:
        ranges[0].last = ranges[1].start - 1


def fewer_vectors(info: Any) -> None:
    info.num_irqs = 1


def no_pre_copy(answer: Any) -> None:
    answer.flags &= ~lib.VFIO_MIGRATION_PRE_COPY


def second_kind(answer: int) -> Fault:
    """Return a fault that gives an answer where a second kind of interrupt is refused."""

    def fault(kernel: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        if not name.startswith("VFIO_DEVICE_SET_IRQS"):
            return make()
        call = irqs(argument)
        other = kernel.last is not None and kernel.last != call.index and call.index < lib.VFIO_PCI_ERR_IRQ_INDEX
        if enabling(argument) and other:
            return answer
        result = make()
        if enabling(argument) and result == 0 and call.index < lib.VFIO_PCI_ERR_IRQ_INDEX:
            kernel.last = call.index
        elif call.count == 0 and kernel.last == call.index:
            kernel.last = None
        return result

    return fault


# --- configuration space ---------------------------------------------------------------------------------------------------


def reads(at: int, change: Callable[[bytes], bytes]) -> Access:
    """Return an access that changes the result of a read at one offset."""
    return lambda _, offset, data: change(data) if offset == at else data


def patched(at: int, value: int) -> Access:
    """Return an access that replaces the byte at one offset."""

    def access(_: Sabotaged, offset: int, data: bytes) -> bytes:
        return data[: at - offset] + bytes([value]) + data[at - offset + 1 :] if 0 <= at - offset < len(data) else data

    return access


def after_a_reset(kernel: Sabotaged, offset: int, data: bytes) -> bytes:
    return b"\xff" * len(data) if kernel.last == "reset" and offset == 0 else data


def bits(mask: int) -> Callable[[bytes], bytes]:
    return lambda data: bytes(
        [data[0] | mask & 0xFF, *(one | mask >> 8 * at & 0xFF for at, one in enumerate(data[1:], 1))]
    )


def drops(at: int) -> Access:
    """Return an access that ignores writes at one offset."""
    return lambda _, offset, data: b"" if offset == at else data


def loses_the_bar(_: Sabotaged, offset: int, data: bytes) -> bytes:
    return b"" if offset == 0x10 and data != b"\xff\xff\xff\xff" else data


def sized_smaller(_: Sabotaged, offset: int, data: bytes) -> bytes:
    sized = offset == 0x10 and len(data) == 4 and data[3] == 0xFF
    return (int.from_bytes(data, "little") | 0xFFFF0000).to_bytes(4, "little") if sized else data


def remembers(kernel: Sabotaged, offset: int, data: bytes) -> bytes:
    if offset == 0:
        kernel.last = data
    return data


def remembered(kernel: Sabotaged, offset: int, data: bytes) -> bytes:
    return kernel.last if offset == 0 and kernel.last and len(kernel.last) == len(data) else data


def clears(at: int, mask: int) -> Access:
    """Return an access that clears bits of what is written at one offset."""

    def access(_: Sabotaged, offset: int, data: bytes) -> bytes:
        return (int.from_bytes(data, "little") & ~mask).to_bytes(len(data), "little") if offset == at else data

    return access


def bar_of_ports(_: Sabotaged, offset: int, data: bytes) -> bytes:
    """Size BAR2 of e1000e as if all of its 16 upper bits were fixed, as those of a port are."""
    value = int.from_bytes(data, "little")
    return (
        (value & 0xFFFF).to_bytes(4, "little") if offset == 0x18 and len(data) == 4 and value >> 16 == 0xFFFF else data
    )


# --- drivers --------------------------------------------------------------------------------------------------------------


class Lazy(vfio_mock.VfioMock):
    """A driver that copies nothing, and sends no interrupt."""

    def copy(self, destination: int, source: int, size: int) -> None:
        pass

    def send_msi(self) -> None:
        """Send none."""


class Eager(vfio_mock.VfioMock):
    """A driver that copies more than requested."""

    def copy(self, destination: int, source: int, size: int) -> None:
        super().copy(destination, source, 2 * size)


class Beginning(vfio_mock.VfioMock):
    """A driver that writes only to the beginning of pages."""

    def copy(self, destination: int, source: int, size: int) -> None:
        if not destination % 4096:
            super().copy(destination, source, size)


class Signalling(vfio_mock.VfioMock):
    """A driver that sends an interrupt."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.vectors = device.irqs[1].enable([0])

    def send_msi(self) -> None:
        """Fire the vector of interrupt 1 that was enabled."""
        self.vectors[0].trigger()


class FirstInterrupt(vfio_mock.VfioMock):
    """A driver that enables no interrupt itself, and sends the first one."""

    def send_msi(self) -> None:
        """Fire vector 0 of interrupt 0."""
        self.device.irqs[0].vectors[0].trigger()


class Silent(vfio_mock.VfioMock):
    """A driver that reports no fault."""

    def copy(self, destination: int, source: int, size: int) -> None:
        with contextlib.suppress(OSError):
            super().copy(destination, source, size)


class Short(vfio_mock.VfioMock):
    """A driver of a device that reaches no more addresses than the checks need."""

    reach = IovaRange(0x100000, 0x300FFF)


class Nowhere(vfio_mock.VfioMock):
    """A driver of a device that reaches less than a page."""

    reach = IovaRange(0x100800, 0x101FFE)


class ReadsAreWrites(vfio_mock.VfioMock):
    """A driver that writes the source of a copy, too."""

    def copy(self, destination: int, source: int, size: int) -> None:
        super().copy(destination, source, size)
        super().copy(source, destination, size)


class Slow(vfio_mock.VfioMock):
    """A driver that starts copies and waits for them."""

    def memcpy_start(self, destination: int, source: int, size: int) -> None:
        """Note the copy."""
        self.noted = destination, source, size

    def memcpy_wait(self, timeout: float) -> None:
        """Make the copy."""
        assert timeout == 10
        self.copy(*self.noted)


class Software:
    """A driver for any device, which copies the memory of mappings itself. It heeds no permission to write."""

    reach = IovaRange(0, 2**64 - 1)

    def __init__(self, device: Device) -> None:
        assert device.config.bus_master
        self.device = device

    def _view(self, iova: int, size: int) -> memoryview:
        for mapping in self.device.address_space.mappings:
            if mapping.iova <= iova and iova + size <= mapping.iova + mapping.size:
                return memoryview(mapping.buffer.view)[iova - mapping.iova :][:size]
        raise OSError(errno.EFAULT, f"nothing is mapped at {iova:#x}")

    def copy(self, destination: int, source: int, size: int) -> None:
        """Copy memory."""
        self._view(destination, size)[:] = self._view(source, size)

    def send_msi(self) -> None:
        """Fire vector 0 of MSI-X, or of MSI on a device without."""
        irqs = self.device.irqs
        (irqs.msix if irqs.msix.count else irqs.msi).vectors[0].trigger()


class Within(Software):
    """A driver of a device whose addresses begin and end within a page."""

    reach = IovaRange(0x100010, 0x500FEF)


class NoMemory(Software):
    """A driver of a device that reaches reserved addresses alone."""

    reach = IovaRange(0xFEE00000, 0xFEEFFFFF)


class OneRange(Software):
    """A driver that does not copy to the last page below the reserved addresses."""

    def copy(self, destination: int, source: int, size: int) -> None:
        if destination != 0xFEDFF000:
            super().copy(destination, source, size)


PCI = lib.VFIO_DEVICE_FLAGS_PCI
CASES: tuple[Case, ...] = (
    Case("identity: the_device_is_of_one_kind_at_most", fault=_info("VFIO_DEVICE_GET_INFO", "struct vfio_device_info", flags(lib.VFIO_DEVICE_FLAGS_PLATFORM))),
    Case("identity: its_kind_is_that_of_its_bus", fault=_info("VFIO_DEVICE_GET_INFO", "struct vfio_device_info", flags(clear=PCI))),
    Case("identity: its_kind_is_that_of_its_bus", MOCK, _info("VFIO_DEVICE_GET_INFO", "struct vfio_device_info", flags(PCI))),
    Case("identity: a_pci_device_has_the_regions_of_the_abi", fault=_info("VFIO_DEVICE_GET_INFO", "struct vfio_device_info", fewer_regions)),
    Case("identity: ids_are_those_of_sysfs", read=reads(0, bits(0x0200))),
    Case("identity: ids_are_those_of_sysfs", read=reads(2, bits(0x0001))),
    Case("identity: ids_are_those_of_sysfs", read=reads(8, bits(0xFF000000))),
    Case("identity: bus_master_is_off_when_it_is_opened", read=reads(4, bits(4))),
    Case("identity: no_interrupt_is_enabled_when_it_is_opened", read=reads(0x7E, bits(0x8000))),
    Case("identity: no_interrupt_is_enabled_when_it_is_opened", EDU, read=reads(0x42, bits(1))),
    Case("regions: regions_do_not_overlap_in_the_file", fault=_info("VFIO_DEVICE_GET_REGION_INFO", "struct vfio_region_info", bar1_over_bar0)),
    Case("regions: every_region_can_be_used_in_some_way", fault=_info("VFIO_DEVICE_GET_REGION_INFO", "struct vfio_region_info", of_no_use)),
    Case("regions: mappable_areas_lie_within_their_region", MOCK, _info("VFIO_DEVICE_GET_REGION_INFO", "struct vfio_region_info", smaller_than_its_areas)),
    Case("regions: a_mapping_beyond_a_region_is_refused", memory=True),
    Case("regions: configuration_space_is_readable_and_not_mappable", fault=_info("VFIO_DEVICE_GET_REGION_INFO", "struct vfio_region_info", flags(lib.VFIO_REGION_INFO_FLAG_MMAP, index=CONFIG))),
    Case("regions: configuration_space_is_readable_and_not_mappable", fault=_info("VFIO_DEVICE_GET_REGION_INFO", "struct vfio_region_info", flags(clear=lib.VFIO_REGION_INFO_FLAG_WRITE, index=CONFIG))),
    Case("config: capability_lists_end", read=patched(0x41, 0x40)),
    Case("config: a_capability_of_each_interrupt_is_there", read=patched(0x34, 0)),
    Case("config: a_capability_of_each_interrupt_is_there", EDU, read=patched(0x34, 0)),
    Case("config: vectors_are_as_many_as_the_capability_says", read=reads(0x7E, bits(0x10))),
    Case("config: vectors_are_as_many_as_the_capability_says", EDU, read=reads(0x42, bits(2))),
    Case("config: extended_space_belongs_to_pci_express", read=patched(0x34, 0)),
    Case("config: each_width_reads_the_same", read=lambda _, offset, data: bytes(1) if offset == 2 and len(data) == 1 else data),
    Case("config: each_width_reads_the_same", read=lambda _, offset, data: bytes(2) if offset == 2 and len(data) == 2 else data),
    Case("config: each_width_reads_the_same", read=lambda _, offset, data: bytes(4) if offset == 44 and len(data) == 4 else data),
    Case("config: the_header_is_of_an_endpoint", read=reads(0x0E, bits(1))),
    Case("config: bars_answer_to_sizing_as_their_regions_say", EDU, read=sized_smaller),
    Case("config: bars_answer_to_sizing_as_their_regions_say", EDU, write=loses_the_bar),
    Case("config: command_bits_are_kept", write=drops(4)),
    Case("config: read_only_registers_keep_their_value", read=remembered, write=remembers),
    Case("interrupts: an_index_beyond_the_last_is_refused", fault=_answer("VFIO_DEVICE_GET_IRQ_INFO", errno.EINVAL)),
    Case("interrupts: interrupts_are_counted", fault=pretend("VFIO_DEVICE_SET_IRQS", second_trigger)),
    Case("interrupts: each_vector_signals_its_own_eventfd", fault=pretend("VFIO_DEVICE_SET_IRQS", second_trigger)),
    Case("interrupts: all_vectors_can_be_enabled", fault=refuse("VFIO_DEVICE_SET_IRQS", errno.EINVAL, lambda _, argument: irqs(argument).count > 8)),
    Case("interrupts: one_of_intx_msi_and_msix_at_a_time", IGB, _answer("VFIO_DEVICE_SET_IRQS", errno.EINVAL)),
    Case("interrupts: resizing_is_as_the_flags_say", MOCK, _answer("VFIO_DEVICE_SET_IRQS", errno.EINVAL)),
    Case("interrupts: a_vector_triggers_after_mask_and_unmask", MOCK, refuse("VFIO_DEVICE_SET_IRQS", errno.EINVAL, with_action(lib.VFIO_IRQ_SET_ACTION_UNMASK))),
    Case("interrupts: a_vector_triggers_after_mask_and_unmask", MOCK, refuse("VFIO_DEVICE_SET_IRQS", errno.EINVAL, with_action(lib.VFIO_IRQ_SET_ACTION_MASK))),
    Case("interrupts: a_trigger_of_a_disabled_interrupt_is_refused", fault=_answer("VFIO_DEVICE_SET_IRQS", errno.EINVAL)),
    Case("interrupts: vectors_can_be_enabled_again", fault=refuse("VFIO_DEVICE_SET_IRQS", errno.EBUSY, lambda kernel, argument: enabling(argument) and after(5)(kernel, argument))),
    Case("features: a_feature_that_does_not_exist_is_not_there", fault=probes_all),
    Case("features: a_feature_has_its_operations_and_no_others[MIG_DEVICE_STATE]", fault=refuse("VFIO_DEVICE_FEATURE", errno.EINVAL, lambda _, argument:
        feature("VFIO_DEVICE_FEATURE", argument)[0] & (lib.VFIO_DEVICE_FEATURE_GET | lib.VFIO_DEVICE_FEATURE_SET | lib.VFIO_DEVICE_FEATURE_MASK)
        == (lib.VFIO_DEVICE_FEATURE_GET | lib.VFIO_DEVICE_FEATURE_SET | lib.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE))),
    Case("features: migration_has_stop_copy", fault=on_answer("MIGRATION", no_stop_copy, "struct vfio_device_feature_migration")),
    Case("iovas: page_sizes_have_the_hosts", fault=_info("IOMMU_IOAS_IOVA_RANGES", "struct iommu_ioas_iova_ranges", large_pages)),
    Case("iovas: ranges_are_sorted_and_apart", fault=_info("IOMMU_IOAS_IOVA_RANGES", "struct iommu_ioas_iova_ranges", no_ranges)),
    Case("iovas: the_edges_of_every_range_can_be_mapped", fault=refuse("IOMMU_IOAS_MAP", errno.EINVAL, lambda _, argument: fixed_map(argument).iova == 0xFEF00000)),
    Case("iovas: the_edges_of_every_range_can_be_mapped", fault=refuse("IOMMU_IOAS_MAP", errno.EINVAL, lambda _, argument: fixed_map(argument).iova == 0xFEDFF000)),
    Case("iovas: memory_that_is_read_only_can_be_mapped", fault=refuse("IOMMU_IOAS_MAP", errno.EINVAL, lambda _, argument: not fixed_map(argument).flags & lib.IOMMU_IOAS_MAP_WRITEABLE)),
    Case("iovas: memory_that_is_read_only_can_be_mapped", fault=refuse("IOMMU_IOAS_MAP", errno.EINVAL, lambda _, argument: not fixed_map(argument).flags & lib.IOMMU_IOAS_MAP_READABLE)),
    Case("iovas: each_page_size_can_be_mapped", fault=refuse("IOMMU_IOAS_MAP", errno.ENOMEM, lambda _, argument: fixed_map(argument).length >= 1 << 24)),
    Case("dirty_log: a_second_log_is_refused_until_the_first_ends", fault=refuse("VFIO_DEVICE_FEATURE", errno.EIO, lambda _, argument: starting(argument, lambda control: ffi.cast("struct vfio_device_feature_dma_logging_range *", control.ranges)[0].iova == 1 << 20))),
    Case("dirty_log: a_log_can_be_started_again", fault=refuse("VFIO_DEVICE_FEATURE", errno.ENOMEM, lambda kernel, argument: starting(argument, lambda control: after(18)(kernel, control)))),
    Case("dirty_log: the_most_ranges", fault=refuse("VFIO_DEVICE_FEATURE", errno.ENOMEM, lambda _, argument: starting(argument, lambda control: control.num_ranges == 1 and not ffi.cast("struct vfio_device_feature_dma_logging_range *", control.ranges)[0].iova))),
    Case("dirty_log: a_log_starts_after_a_reset", fault=resets(refuse("VFIO_DEVICE_FEATURE", errno.ENOMEM, lambda _, argument: starting(argument, bool)))),
    Case("migration: a_reset_ends_a_migration", fault=pretend("VFIO_DEVICE_RESET")),
    Case("migration: the_estimate_is_not_zero", fault=on_answer("MIG_DATA_SIZE", no_data, "struct vfio_device_feature_mig_data_size")),
    Case("modes: the_device_opens_maps_and_closes[type1v2]", fault=refuse("VFIO_IOMMU_MAP_DMA", errno.ENOMEM)),
    Case("modes: the_device_opens_maps_and_closes[type1]", fault=refuse("VFIO_IOMMU_UNMAP_DMA", errno.EIO)),
    Case("modes: the_device_opens_maps_and_closes[iommufd]", fault=refuse("IOMMU_IOAS_UNMAP", errno.EIO)),
    Case("modes: the_device_opens_maps_and_closes[iommufd-type1v2]", fault=refuse("VFIO_IOMMU_MAP_DMA", errno.ENOMEM)),
    Case("modes: it_can_be_opened_again", fault=refuse("VFIO_DEVICE_BIND_IOMMUFD", errno.EBUSY, after(3))),
    Case("reset: a_hot_reset_affects_the_device_itself", PLUGGABLE, _info("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", "struct vfio_pci_hot_reset_info", other_devices)),
    Case("reset: a_reset_succeeds_where_the_flag_says_so", fault=refuse("VFIO_DEVICE_RESET", errno.EIO)),
    Case("reset: a_reset_succeeds_where_the_flag_says_so", EDU, pretend("VFIO_DEVICE_RESET")),
    Case("reset: mappings_survive_a_reset", fault=resets(refuse("IOMMU_IOAS_UNMAP", errno.EIO))),
    Case("reset: the_device_answers_after_a_reset", fault=resets(FAULTS["none"]), read=after_a_reset),
    Case("dma: the_device_copies_memory", MOCK, driver=f"{HERE}:Lazy"),
    Case("dma: nothing_else_is_written", MOCK, driver=f"{HERE}:Eager"),
    Case("dma: both_ends_of_a_mapping_are_reached", MOCK, driver=f"{HERE}:Beginning"),
    Case("dma: memory_that_was_unmapped_is_not_reached", MOCK, FAULTS["unmap_does_nothing"]),
    Case("dma: memory_that_is_read_only_is_not_written", MOCK, writable),
)  # fmt: skip

CASES += (
    Case("identity: regions_and_interrupts_are_as_many_as_it_says", fault=refuse("VFIO_DEVICE_GET_REGION_INFO", errno.EIO, of_index(3))),
    Case("identity: regions_and_interrupts_are_as_many_as_it_says", fault=refuse("VFIO_DEVICE_GET_IRQ_INFO", errno.EIO, of_index(4))),
    Case("identity: a_pci_device_has_the_regions_of_the_abi", fault=info_of_device(num_irqs=1)),
    Case("identity: a_pci_device_has_the_regions_of_the_abi", fault=info_of_device(num_irqs=2, num_regions=8), fails=False),
    Case("identity: bars_are_as_large_as_sysfs_says", fault=FAULTS["bar_too_large"]),
    Case("identity: bars_are_as_large_as_sysfs_says", IGB, region(3, size=0x8000)),
    Case("identity: bars_are_as_large_as_sysfs_says", fault=region(0, size=0, flags=0, cap_offset=0), fails=False),
    Case("identity: bus_master_is_off_when_it_is_opened", EDU, fails=False),
    Case("regions: an_index_beyond_the_last_is_refused", fault=FAULTS["region_too_many"]),
    Case("regions: an_index_beyond_the_last_is_refused", fault=instead("VFIO_DEVICE_GET_REGION_INFO", errno.EINVAL, errno.EIO)),
    Case("regions: regions_do_not_overlap_in_the_file", MOCK, region(3, offset=(2 << 40) + 0x10000), fails=False),
    Case("regions: regions_do_not_overlap_in_the_file", MOCK, region(3, offset=(2 << 40) + 0xFFFF)),
    *(Case("regions: every_region_can_be_used_in_some_way", MOCK, region(0, flags=flag), fails=False) for flag in (
        lib.VFIO_REGION_INFO_FLAG_READ, lib.VFIO_REGION_INFO_FLAG_WRITE)),
    Case("regions: mappable_areas_lie_within_their_region", MOCK, areas(unaligned_area)),
    Case("regions: mappable_areas_lie_within_their_region", MOCK, areas(empty_area)),
    Case("regions: mappable_areas_lie_within_their_region", MOCK, areas(overlapping_areas)),
    Case("regions: mappable_areas_lie_within_their_region", MOCK, areas(touching_areas), fails=False),
    Case("regions: mappable_areas_lie_within_their_region", MOCK, areas(area_to_the_end), fails=False),
    Case("regions: configuration_space_is_readable_and_not_mappable", fault=region(CONFIG, size=512)),
    Case("regions: configuration_space_is_readable_and_not_mappable", fault=region(CONFIG, flags=lib.VFIO_REGION_INFO_FLAG_WRITE)),
    Case("regions: a_read_across_the_end_of_configuration_space_ends_there", beyond=errno.EIO),
    Case("regions: a_read_across_the_end_of_configuration_space_ends_there", beyond=errno.EFAULT, fails=False),
    Case("config: capability_lists_end", read=patched(0x34, 0x3C)),
    Case("config: extended_space_belongs_to_pci_express", read=patched(0x40, 0x07), fails=False),
    Case("config: extended_space_belongs_to_pci_express", read=patched(0x40, 0x09)),
    Case("config: command_bits_are_kept", write=clears(4, 2)),
    Case("config: command_bits_are_kept", read=reads(4, bits(2))),
    Case("config: the_header_is_of_an_endpoint", EDU, read=patched(0x0E, 0x80), fails=False),
    Case("config: bars_answer_to_sizing_as_their_regions_say", "0000:00:06.0", fails=False),
    Case("config: bars_answer_to_sizing_as_their_regions_say", "0000:00:06.0", write=bar_of_ports, fails=False),
    Case("config: bars_answer_to_sizing_as_their_regions_say", "0000:00:06.0", region(1, size=0x10000)),
    Case("config: bars_answer_to_sizing_as_their_regions_say", "0000:00:06.0", region(2, size=0x40)),
    Case("interrupts: each_vector_signals_its_own_eventfd", fault=FAULTS["trigger_fires_two"]),
    Case("interrupts: vectors_beyond_the_last_are_refused", fault=FAULTS["vectors_too_many_accepted"]),
    Case("interrupts: vectors_beyond_the_last_are_refused", fault=instead("VFIO_DEVICE_SET_IRQS", errno.EINVAL, errno.ENOSPC, enabling)),
    Case("interrupts: all_vectors_can_be_enabled", fault=refuse("VFIO_DEVICE_SET_IRQS", errno.ENOSPC, lambda _, argument: irqs(argument).count == 16), fails=False),
    Case("interrupts: one_of_intx_msi_and_msix_at_a_time", EDU, second_kind(-errno.EBUSY)),
    Case("interrupts: one_of_intx_msi_and_msix_at_a_time", EDU, second_kind(-errno.EINVAL), fails=False),
    Case("interrupts: resizing_is_as_the_flags_say", MOCK, _info("VFIO_DEVICE_GET_IRQ_INFO", "struct vfio_irq_info", flags(lib.VFIO_IRQ_INFO_NORESIZE, index=2))),
    Case("interrupts: a_trigger_of_a_disabled_interrupt_is_refused", MOCK, instead("VFIO_DEVICE_SET_IRQS", errno.EINVAL, errno.EBADF, triggering), fails=False),
    Case("interrupts: a_trigger_of_a_disabled_interrupt_is_refused", MOCK, instead("VFIO_DEVICE_SET_IRQS", errno.EINVAL, errno.EIO, triggering)),
    Case("features: features_come_together", fault=FAULTS["report_is_missing"]),
    Case("features: pre_copy_states_follow_the_flags", fault=on_answer("MIGRATION", no_pre_copy, "struct vfio_device_feature_migration"), fails=False),
    Case("iovas: usable_ranges_leave_reserved_regions_out", fault=_info("IOMMU_IOAS_IOVA_RANGES", "struct iommu_ioas_iova_ranges", not_an_area_in_sysfs)),
    Case("iovas: ranges_are_sorted_and_apart", fault=_info("IOMMU_IOAS_IOVA_RANGES", "struct iommu_ioas_iova_ranges", touching_ranges), fails=False),
    Case("iovas: nothing_beside_the_ranges_can_be_mapped", fault=FAULTS["map_of_reserved_accepted"]),
    Case("iovas: a_second_mapping_at_a_place_is_refused", fault=FAULTS["map_over_another_accepted"]),
    Case("iovas: a_second_mapping_at_a_place_is_refused", fault=instead("IOMMU_IOAS_MAP", errno.EEXIST, errno.EINVAL)),
    Case("iovas: what_is_not_aligned_is_refused", fault=instead("IOMMU_IOAS_MAP", errno.EINVAL, errno.EIO)),
    Case("iovas: nothing_beside_the_ranges_can_be_mapped", fault=instead("IOMMU_IOAS_MAP", errno.EINVAL, errno.EADDRINUSE, lambda argument: not fixed_map(argument).iova % 4096), fails=False),
    Case("iovas: a_mapping_across_the_end_of_a_range_is_refused", fault=instead("IOMMU_IOAS_MAP", errno.EINVAL, errno.EOVERFLOW, lambda argument: fixed_map(argument).length == 8192 and not fixed_map(argument).iova % 4096), fails=False),
    Case("iovas: usable_ranges_leave_reserved_regions_out", fault=FAULTS["reserved_is_reported_usable"]),
    Case("config: vectors_are_as_many_as_the_capability_says", fault=FAULTS["vector_too_few"]),
    Case("iovas: unmapping_gives_the_place_back", fault=FAULTS["unmap_does_nothing"]),
    Case("iovas: usable_ranges_leave_reserved_regions_out", MOCK, fails=False, mode="type1v2"),
    Case("dirty_log: the_report_is_what_changed_in_memory", fault=FAULTS["report_has_a_bit_too_many"]),
    Case("dirty_log: the_report_is_what_changed_in_memory", MOCK, writes_unseen(3)),
    Case("dirty_log: the_report_is_what_changed_in_memory", MOCK, reports_also(511)),
    Case("dirty_log: the_report_is_what_changed_in_memory", MOCK, several(writes_unseen(0), reports_also(0))),
    Case("dirty_log: a_second_log_is_refused_until_the_first_ends", fault=FAULTS["second_log_accepted"]),
    Case("dirty_log: overlapping_ranges_are_refused", fault=FAULTS["overlapping_log_accepted"]),
    Case("dirty_log: overlapping_ranges_are_refused", fault=instead("VFIO_DEVICE_FEATURE", errno.EINVAL, errno.EBUSY)),
    Case("dirty_log: the_largest_total", fault=FAULTS["log_of_a_size_refused"]),
    Case("dirty_log: the_largest_total", fault=limited(from_bits(36, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSPC, errno.ENOMEM, errno.E2BIG, errno.EOVERFLOW, errno.EIO)), fails=False),
    Case("dirty_log: the_largest_total", fault=limited(from_bits(21, errno.ENOMEM)), fails=False),
    Case("dirty_log: the_largest_total", fault=limited(from_bits(30, errno.EPERM))),
    *(Case("dirty_log: the_most_ranges", fault=limited(more_than(most)), fails=False) for most in (2, 3, 4, 5, 100, 255)),
    Case("dirty_log: page_sizes[1073741824]", fault=limited(lambda control: errno.EPERM if control.page_size == 1 << 30 else 0)),
    Case("dirty_log: page_sizes[65536]", fault=reports_also(0), fails=False),
    Case("dirty_log: page_sizes[2097152]", fault=limited(larger_units), fails=False),
    Case("dirty_log: page_sizes[4096]", fault=answers_page_size(lambda size: size * 3)),
    Case("dirty_log: page_sizes[8192]", fault=answers_page_size(lambda _: 4096), fails=False),
    Case("migration: every_state_is_reached_and_left", fault=FAULTS["state_is_not_kept"]),
    Case("migration: every_state_is_reached_and_left", fault=states(errno.EIO, "PRE_COPY")),
    Case("migration: every_state_is_reached_and_left", MOCK, states(errno.EBUSY, "RUNNING")),
    Case("migration: each_step_of_a_path_can_be_made_alone", fault=states(errno.EIO, "STOP_COPY")),
    Case("migration: a_round_trip", fault=states(errno.EIO, "RESUMING")),
    Case("migration: data_of_something_else_is_refused", MOCK, stream=0, fails=False),
    Case("migration: data_of_something_else_is_refused", MOCK, stream=errno.EPERM),
    *(Case("migration: data_of_something_else_is_refused", MOCK, stream=error, fails=False) for error in (
        errno.EINVAL, errno.EIO, errno.ENOTSUP, errno.ENOENT, errno.EPROTO, errno.EBADMSG, errno.EMSGSIZE)),
    Case("modes: it_can_be_opened_once_at_a_time", fault=FAULTS["none"], fails=False),
    Case("reset: the_flag_agrees_with_sysfs", EDU, FAULTS["reset_flag_is_wrong"], file=(EDU_RESETS, "\n")),
    Case("reset: the_flag_agrees_with_sysfs", EDU, FAULTS["reset_flag_is_wrong"], file=(EDU_RESETS, "pm bus\n"), fails=False),
    Case("reset: a_reset_succeeds_where_the_flag_says_so", EDU, FAULTS["reset_flag_is_wrong"], file=(EDU_RESETS, "bus\n")),
    Case("reset: the_flag_agrees_with_sysfs", fault=_info("VFIO_DEVICE_GET_INFO", "struct vfio_device_info", flags(clear=lib.VFIO_DEVICE_FLAGS_RESET))),
    Case("reset: the_device_answers_after_a_reset", read=lambda kernel, offset, data: b"\xff\xff" if kernel.last == "reset" and offset == 2 and len(data) == 2 else data, fault=resets(FAULTS["none"])),
    Case("dma: dirty_pages_are_those_that_changed", MOCK, FAULTS["report_loses_a_bit"]),
    Case("dma: dirty_pages_are_those_that_changed", MOCK, FAULTS["report_does_not_clear"]),
    Case("dma: dirty_pages_are_those_that_changed", MOCK, FAULTS["report_has_a_bit_too_many"]),
    Case("dma: what_is_only_read_is_not_dirty", MOCK, driver=f"{HERE}:ReadsAreWrites"),
    Case("dma: the_device_copies_memory", MOCK, driver=f"{HERE}:Nowhere"),
    Case("dma: the_device_copies_memory", MOCK, driver=f"{HERE}:Short", fails=False),
    Case("dma: the_device_copies_memory", MOCK, driver=f"{HERE}:Slow", fails=False),
    Case("dma: the_device_copies_memory", MOCK, driver=DRIVER, fails=False, mode="type1v2"),
    Case("dma: an_interrupt_arrives", MOCK, driver=f"{HERE}:Signalling", fails=False),
    Case("dma: an_interrupt_arrives", MOCK, driver=f"{HERE}:FirstInterrupt", fails=False),
    Case("dma: memory_that_was_unmapped_is_not_reached", MOCK, driver=f"{HERE}:Silent", fails=False),
    Case("dma: an_interrupt_arrives", EDU, driver=f"{HERE}:Software", fails=False),
    Case("dma: an_interrupt_arrives", IGB, driver=f"{HERE}:Software", fails=False),
    Case("dma: the_edges_of_every_usable_range_are_reached", EDU, driver=f"{HERE}:Within", fails=False),
    Case("dma: the_edges_of_every_usable_range_are_reached", EDU, driver=f"{HERE}:OneRange"),
    Case("dma: the_device_copies_memory", EDU, driver=f"{HERE}:NoMemory"),
)  # fmt: skip


#: what differs from run to run or between releases of pytest, and the text in its place
VARIABLE = (
    # The kernel, and so the mock, chooses an IOVA by the alignment of the memory's address.
    (re.compile(r"\biova=0x[0-9a-f]{4,6}\b"), "iova=IOVA"),
    (re.compile(r"\bmapped at \[.*?\]"), "mapped at [IOVA]"),
    (re.compile(r"\bassert \{\d.*"), "assert PAGES"),
    (re.compile(r"DID NOT RAISE .*"), "DID NOT RAISE"),
    (re.compile(r"^AssertionError: assert "), "assert "),
    (re.compile(r"""assert b['"].*"""), "assert BYTES"),
    (re.compile(r"""len\(b['"].*"""), "BYTES"),
    (re.compile(r"\baddress=0x[0-9a-f]+"), "address=ADDRESS"),
    (re.compile(r" object at 0x[0-9a-f]+"), ""),
)


def reason(text: str) -> str:
    """Return the first line of a reason and, if that is the text of an assertion, the assertion."""
    lines = text.splitlines()
    kept = lines[:2] if lines[1:2] and lines[1].startswith("assert ") else lines[:1]
    shown = " | ".join(kept)
    for pattern, name in VARIABLE:
        shown = pattern.sub(name, shown)
    return shown[:240]


def outcome(case: Case, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, str], list[str]]:
    """Run the group of a case's check. Return the checks that failed, with the reasons, and the limits that were found."""
    group = case.check.partition(":")[0]
    options = ["--write", "--destructive", "--only", group]
    if group == "dma":
        options += ["--dma-faults", "--driver", case.driver]
    if case.mode:
        options += ["--mode", case.mode]
    document = json.loads(Command(capsys, Sabotaged(case))("--json", "check", case.address, *options).out)
    failed = {
        f"{one['group']}: {one['name'].removeprefix('test_')}": reason(one["reason"])
        for one in document["checks"]
        if one["outcome"] == "failed"
    }
    limits = [f"limit: {name}: {value}" for name, value in document["limits"].items() if "unmapping" not in name]
    return failed, limits


def named(cases: Sequence[Case]) -> Iterator[Any]:
    """Yield the cases as parameters, each named by its check and its number among the cases of that check."""
    seen: Counter[str] = Counter()
    for case in cases:
        seen[case.check] += 1
        yield pytest.param(case, id=f"{case.check.replace(': ', '-')}-{seen[case.check]}")


def recorded() -> dict[str, list[str]]:
    """Return the failures that were recorded for each case."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in REASONS.read_text().splitlines() if REASONS.exists() else ():
        if line.startswith("  "):
            found[name].append(line.strip())
        else:
            name = line
            found[name] = []
    return found


@pytest.mark.parametrize("case", list(named(CASES)))
def test_a_check_finds_a_fault_of_its_kind(
    case: Case, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    """The check fails, or passes where it should. The reasons of all that fail, and the limits found, are as recorded."""
    name = request.node.callspec.id
    failed, limits = outcome(case, capsys)
    assert (case.check in failed) == case.fails
    lines = [line.strip() for line in (*(f"{check}: {why}" for check, why in failed.items()), *limits)]
    if os.environ.get("PYVFIO_WRITE_REASONS"):
        there = recorded() | {name: lines}
        names = [parameter.id for parameter in named(CASES) if parameter.id in there]
        REASONS.write_text("".join(f"{one}\n" + "".join(f"  {line}\n" for line in there[one]) for one in names))
    assert lines == recorded()[name]


def test_every_recorded_reason_belongs_to_a_case() -> None:
    assert [*recorded()] == [parameter.id for parameter in named(CASES)]


def test_every_check_fails_on_some_fault() -> None:
    """The library itself refuses to set the state ERROR, so no kernel makes that check fail."""
    checks = {
        f"{file.stem.removeprefix('test_')}: {name.removeprefix('test_')}"
        for file in Path(conformance.__file__).parent.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    lines = "\n".join(line for lines in recorded().values() for line in lines)
    failed = set(re.findall(r"^(\w+: \w+)", lines, re.MULTILINE))
    assert checks - failed == {"migration: error_cannot_be_asked_for"}


def test_every_fault_is_in_a_case() -> None:
    faults = [case.fault for case in CASES]
    assert [name for name, fault in FAULTS.items() if fault not in faults] == []
