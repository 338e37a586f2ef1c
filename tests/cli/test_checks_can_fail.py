# SPDX-License-Identifier: MIT
"""Each conformance check fails on a kernel with a fault of its kind. A check that cannot fail would prove nothing."""

from __future__ import annotations

import errno
import json
import mmap
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from pyvfio import vfio_mock
from pyvfio._abi import ffi, lib
from tests.cli.command import Command
from tests.cli.faulty import FAULTS, Fault, Faulty, _answer, _info, feature, is_feature

VF, MOCK, EDU, IGB, PLUGGABLE = "0000:41:10.1", "vfio-mock.0", "0000:00:03.0", "0000:00:07.0", "0000:01:00.0"
DRIVER = "pyvfio.vfio_mock:VfioMock"
HERE = "tests.cli.test_checks_can_fail"
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
    """

    check: str
    address: str = VF
    fault: Fault = FAULTS["none"]
    read: Access | None = None
    write: Access | None = None
    memory: bool = False
    driver: str = DRIVER


class Sabotaged(Faulty):
    """A mock whose requests go through a fault, and whose configuration space reads and keeps what a case makes of it."""

    def __init__(self, case: Case) -> None:
        super().__init__(case.fault)
        self.case = case

    def _config(self, fd: int, offset: int) -> bool:
        return getattr(self.files.get(fd), "kind", "") == "device" and offset // U40 == CONFIG

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        try:
            data = super().pread(fd, size, offset)
        except OSError:
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


PCI = lib.VFIO_DEVICE_FLAGS_PCI
CASES = (
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
    Case("regions: what_is_not_mappable_is_refused", memory=True),
    Case("regions: a_read_beyond_every_region_is_refused", memory=True),
    Case("regions: configuration_space_is_readable_and_not_mappable", fault=_info("VFIO_DEVICE_GET_REGION_INFO", "struct vfio_region_info", flags(lib.VFIO_REGION_INFO_FLAG_MMAP, index=CONFIG))),
    Case("regions: configuration_space_is_readable_and_not_mappable", fault=_info("VFIO_DEVICE_GET_REGION_INFO", "struct vfio_region_info", flags(clear=lib.VFIO_REGION_INFO_FLAG_WRITE, index=CONFIG))),
    Case("regions: a_read_across_the_end_of_configuration_space_ends_there", memory=True),
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
    *(Case(f"features: a_feature_has_its_operations_and_no_others[{name}]", fault=probes_all) for name in (
        "MIGRATION", "DMA_LOGGING_START", "DMA_LOGGING_STOP", "DMA_LOGGING_REPORT", "LOW_POWER_ENTRY", "LOW_POWER_EXIT", "MIG_DATA_SIZE")),
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
    *(Case(f"dma: {name}", MOCK, driver=f"{HERE}:Lazy") for name in (
        "the_device_copies_memory", "both_ends_of_a_mapping_are_reached", "the_edges_of_every_usable_range_are_reached", "an_interrupt_arrives")),
    Case("dma: nothing_else_is_written", MOCK, driver=f"{HERE}:Eager"),
    Case("dma: both_ends_of_a_mapping_are_reached", MOCK, driver=f"{HERE}:Beginning"),
    Case("dma: memory_that_was_unmapped_is_not_reached", MOCK, FAULTS["unmap_does_nothing"]),
    Case("dma: memory_that_is_read_only_is_not_written", MOCK, writable),
)  # fmt: skip


def failing(command: Command, address: str, group: str, driver: str = DRIVER) -> list[str]:
    """Run a group of checks and return those that failed."""
    options = ["--write", "--destructive", "--only", group]
    if group == "dma":
        options += ["--dma-faults", "--driver", driver]
    ran = command("--json", "check", address, *options)
    checks = json.loads(ran.out)["checks"]
    return [f"{one['group']}: {one['name'].removeprefix('test_')}" for one in checks if one["outcome"] == "failed"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.check.replace(": ", "-"))
def test_a_check_finds_a_fault_of_its_kind(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    group = case.check.partition(":")[0]
    assert case.check in failing(Command(capsys, Sabotaged(case)), case.address, group, case.driver)
