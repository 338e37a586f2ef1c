# SPDX-License-Identifier: MIT
"""Mock kernels with one planted fault each, for the conformance checks to find: `mock:tests.cli.faulty:NAME`."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from pyvfio import mock
from pyvfio._abi import ffi, lib
from pyvfio.mock.machine import ioctl_names

#: A fault. Arguments: the kernel, the name of the request, a pointer to its struct, and a function that makes the real
#: request.
Fault = Callable[["Faulty", str, Any, Callable[[], int]], int]
FEATURE_SIZE = ffi.sizeof("struct vfio_device_feature")


class Faulty(mock.Kernel):
    """A mock kernel whose requests go through a fault."""

    def __init__(self, fault: Fault, profile: str = "mlx5") -> None:
        super().__init__(profile)
        self.fault = fault
        self.last: Any = None

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        """Make a request, through the fault."""
        file = self.files.get(fd)
        name = "" if file is None else str(ioctl_names.name(file.kind, request))
        return self.fault(
            self, name, ffi.cast("char *", argument), lambda: super(Faulty, self).ioctl(fd, request, argument)
        )


def feature(name: str, argument: Any) -> tuple[int, Any]:
    """Return the flags of VFIO_DEVICE_FEATURE and the data behind its header; flags 0 for another request."""
    if not name.startswith("VFIO_DEVICE_FEATURE"):
        return 0, None
    return int(ffi.cast("struct vfio_device_feature *", argument).flags), argument + FEATURE_SIZE


def is_feature(flags: int, feature_name: str, operation: str) -> bool:
    """Whether flags belong to an operation of a feature that is no probe."""
    number = getattr(lib, f"VFIO_DEVICE_FEATURE_{feature_name}")
    wanted = getattr(lib, f"VFIO_DEVICE_FEATURE_{operation}")
    return (
        flags & lib.VFIO_DEVICE_FEATURE_MASK == number
        and bool(flags & wanted)
        and not flags & lib.VFIO_DEVICE_FEATURE_PROBE
    )


def report_words(data: Any) -> tuple[Any, int]:
    """Return the bitmap of a report and the number of its words."""
    report = ffi.cast("struct vfio_device_feature_dma_logging_report *", data)
    pages = report.length // report.page_size
    return ffi.cast("uint64_t *", report.bitmap), -(-pages // 64)


def _on_report(change: Callable[[Faulty, Any, int], None]) -> Fault:
    def fault(kernel: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        result = make()
        flags, data = feature(name, argument)
        if result >= 0 and flags and is_feature(flags, "DMA_LOGGING_REPORT", "GET"):
            change(kernel, *report_words(data))
        return result

    return fault


def _lose(_: Faulty, words: Any, count: int) -> None:
    for index in range(count):
        words[index] &= words[index] - 1 if words[index] else 0


def _add(_: Faulty, words: Any, count: int) -> None:
    if count:
        words[count - 1] |= 1 << 40


def _keep(kernel: Faulty, words: Any, count: int) -> None:
    seen = kernel.last or [0] * count
    for index in range(min(count, len(seen))):
        words[index] |= seen[index]
    kernel.last = [words[index] for index in range(count)]


def _answer(request: str, wrong: int, right: int = 0, *, feature_name: str = "") -> Fault:
    """Return a fault that answers `right` where the kernel answers `wrong`."""

    def fault(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        result = make()
        if feature_name and not is_feature(feature(name, argument)[0], feature_name, "SET"):
            return result
        return right if name.startswith(request) and result == -wrong else result

    return fault


def _info(request: str, struct: str, change: Callable[[Any], None]) -> Fault:
    """Return a fault that changes the answer of a request."""

    def fault(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
        result = make()
        if name == request and result == 0:
            change(ffi.cast(f"{struct} *", argument))
        return result

    return fault


def _double_bar(info: Any) -> None:
    if info.index == 0:
        info.size *= 2


def _wide_last_range(answer: Any) -> None:
    ranges = ffi.cast("struct iommu_iova_range *", answer.allowed_iovas)
    if answer.num_iovas:
        ranges[0].last = 0xFEEFFFFF


def _resettable(info: Any) -> None:
    info.flags |= lib.VFIO_DEVICE_FLAGS_RESET


def _two_vectors(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
    if name.startswith("VFIO_DEVICE_SET_IRQS"):
        call = ffi.cast("struct vfio_irq_set *", argument)
        wanted = lib.VFIO_IRQ_SET_DATA_NONE | lib.VFIO_IRQ_SET_ACTION_TRIGGER
        if call.flags == wanted and call.count == 1 and call.start == 0 and call.index == lib.VFIO_PCI_MSIX_IRQ_INDEX:
            call.count = 2
            result = make()
            call.count = 1
            return result
    return make()


def _no_report(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
    flags, _data = feature(name, argument)
    if flags and flags & lib.VFIO_DEVICE_FEATURE_MASK == lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
        return -errno.ENOTTY
    return make()


def _always_running(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
    result = make()
    flags, data = feature(name, argument)
    if result >= 0 and flags and is_feature(flags, "MIG_DEVICE_STATE", "GET"):
        ffi.cast("struct vfio_device_feature_mig_state *", data).device_state = lib.VFIO_DEVICE_STATE_RUNNING
    return result


def _two_logs(kernel: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
    flags, _ = feature(name, argument)
    if flags and is_feature(flags, "DMA_LOGGING_START", "SET"):
        for device in kernel.devices.values():
            if device.log is not None and device.log.active:
                return 0
    return make()


def _not_a_gibibyte(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
    flags, data = feature(name, argument)
    if flags and is_feature(flags, "DMA_LOGGING_START", "SET"):
        control = ffi.cast("struct vfio_device_feature_dma_logging_control *", data)
        ranges = ffi.cast("struct vfio_device_feature_dma_logging_range *", control.ranges)
        if control.num_ranges == 1 and ranges[0].length == 1 << 30:
            return -errno.EOPNOTSUPP
    return make()


def _unmap_nothing(_: Faulty, name: str, argument: Any, make: Callable[[], int]) -> int:
    return 0 if name == "IOMMU_IOAS_UNMAP" else make()


def _few_vectors(info: Any) -> None:
    if info.index == lib.VFIO_PCI_MSIX_IRQ_INDEX and info.count > 1:
        info.count -= 1


FAULTS: dict[str, Fault] = {
    "none": lambda _kernel, _name, _argument, make: make(),
    "report_loses_a_bit": _on_report(_lose),
    "report_has_a_bit_too_many": _on_report(_add),
    "report_does_not_clear": _on_report(_keep),
    "map_of_reserved_accepted": _answer("IOMMU_IOAS_MAP", errno.EINVAL),
    "map_over_another_accepted": _answer("IOMMU_IOAS_MAP", errno.EEXIST),
    "reserved_is_reported_usable": _info("IOMMU_IOAS_IOVA_RANGES", "struct iommu_ioas_iova_ranges", _wide_last_range),
    "unmap_does_nothing": _unmap_nothing,
    "bar_too_large": _info("VFIO_DEVICE_GET_REGION_INFO", "struct vfio_region_info", _double_bar),
    "region_too_many": _answer("VFIO_DEVICE_GET_REGION_INFO", errno.EINVAL),
    "vector_too_few": _info("VFIO_DEVICE_GET_IRQ_INFO", "struct vfio_irq_info", _few_vectors),
    "trigger_fires_two": _two_vectors,
    "vectors_too_many_accepted": _answer("VFIO_DEVICE_SET_IRQS", errno.EINVAL),
    "report_is_missing": _no_report,
    "overlapping_log_accepted": _answer("VFIO_DEVICE_FEATURE", errno.EINVAL, feature_name="DMA_LOGGING_START"),
    "second_log_accepted": _two_logs,
    "log_of_a_size_refused": _not_a_gibibyte,
    "state_is_not_kept": _always_running,
    "reset_flag_is_wrong": _info("VFIO_DEVICE_GET_INFO", "struct vfio_device_info", _resettable),
}


def planted() -> Faulty:
    """Return the kernel with the fault that `PLANTED` in the environment names."""
    return Faulty(FAULTS[os.environ["PLANTED"]])
