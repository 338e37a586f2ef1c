# SPDX-License-Identifier: MIT
"""VFIO_DEVICE_FEATURE: the features that VFIO's core handles, and the dispatch of the others to the driver."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.log import LARGEST, Log, LoggedRange

if TYPE_CHECKING:
    from pyvfio.mock.vfio.device import Device
    from pyvfio.mock.vfio.migration import Migration

GET, SET, PROBE = lib.VFIO_DEVICE_FEATURE_GET, lib.VFIO_DEVICE_FEATURE_SET, lib.VFIO_DEVICE_FEATURE_PROBE
_MASK = lib.VFIO_DEVICE_FEATURE_MASK
_HEADER = ffi.sizeof("struct vfio_device_feature")
_RANGE = "struct vfio_device_feature_dma_logging_range"


class Feature:
    """One call of VFIO_DEVICE_FEATURE.

    :ivar flags: the feature and the operations
    :ivar address: address of the data, in the caller's memory
    :ivar size: size of the caller's data
    """

    def __init__(self, flags: int, address: int, size: int) -> None:
        self.flags = flags
        self.address = address
        self.size = size

    @property
    def number(self) -> int:
        return self.flags & _MASK

    @property
    def is_set(self) -> bool:
        return bool(self.flags & SET)

    @property
    def is_probe(self) -> bool:
        return bool(self.flags & PROBE)

    def is_meant(self, operations: int, least: int = 0) -> bool:
        """Whether to carry out the operation: False for a probe (vfio_check_feature).

        :param operations: the supported operations: GET, SET, or both
        :param least: minimum size of the data
        :raises Errno: EINVAL, an unsupported operation, none, or too little data
        """
        if self.flags & (GET | SET) & ~operations:
            raise Errno(errno.EINVAL)
        if self.flags & PROBE:
            return False
        if not self.flags & (GET | SET) or self.size < least:
            raise Errno(errno.EINVAL)
        return True

    def take(self, struct: str) -> Any:
        return caller.take(struct, self.address)

    def give(self, value: Any) -> None:
        caller.give(self.address, value)


def answer(device: Device, argument: int) -> int:
    """Handle VFIO_DEVICE_FEATURE (vfio_ioctl_device_feature).

    :raises Errno: ENOTTY, the device does not have the feature; or the feature's own error
    """
    header = caller.take("struct vfio_device_feature", argument, _HEADER)
    if header.argsz < _HEADER or header.flags & ~(_MASK | GET | SET | PROBE):
        raise Errno(errno.EINVAL)
    if header.flags & SET and header.flags & GET and not header.flags & PROBE:
        raise Errno(errno.EINVAL)
    feature = Feature(header.flags, argument + _HEADER, header.argsz - _HEADER)
    own = _CORE.get(feature.number)
    return (device.feature(feature) if own is None else own(device, feature)) or 0


# DMA logging. It depends on the bound driver: vfio-pci has none.


def _log(device: Device) -> Log:
    driver = device.kernel.host.driver_of(device)
    if device.log is None or driver is None or not driver.logs:
        raise Errno(errno.ENOTTY)
    return device.log


def _log_start(device: Device, feature: Feature) -> None:
    kind = "struct vfio_device_feature_dma_logging_control"
    log = _log(device)
    if not feature.is_meant(SET, ffi.sizeof(kind)):
        return
    control = feature.take(kind)
    if not control.num_ranges:
        raise Errno(errno.EINVAL)
    if control.num_ranges > device.kernel.profile.page_size // ffi.sizeof(_RANGE):
        raise Errno(errno.E2BIG)
    ranges = _ranges(control.ranges, control.num_ranges, control.page_size)
    control.page_size = log.start(ranges, control.page_size)
    try:
        feature.give(control)
    except Errno:
        log.stop()
        raise


def _ranges(address: int, count: int, page_size: int) -> list[LoggedRange]:
    """Read the ranges to log, and return them sorted. The last address of an empty range is its start - 1."""
    ranges: list[LoggedRange] = []
    for index in range(count):
        _add_range(ranges, bytes(caller.read(address + index * 16, 16)), page_size)
    return sorted(ranges)


def ranges_of(data: bytes, page_size: int) -> list[LoggedRange]:
    """Return the ranges in `data`, sorted: for vfio-user, whose messages carry them.

    :raises Errno: EINVAL, EOVERFLOW
    """
    ranges: list[LoggedRange] = []
    for at in range(0, len(data), 16):
        _add_range(ranges, data[at : at + 16], page_size)
    return sorted(ranges)


def _add_range(ranges: list[LoggedRange], data: bytes, page_size: int) -> None:
    mask = (page_size - 1) & LARGEST  # the kernel's u64 arithmetic: for page_size 0 all bits are set
    start, length = int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")
    if start & mask or length & mask:
        raise Errno(errno.EINVAL)
    if start + length > LARGEST:
        raise Errno(errno.EOVERFLOW)
    new = LoggedRange(start, (start + length - 1) & LARGEST)
    if any(one.start <= new.last and new.start <= one.last for one in ranges):
        raise Errno(errno.EINVAL)
    ranges.append(new)


def _log_stop(device: Device, feature: Feature) -> None:
    log = _log(device)
    if feature.is_meant(SET):
        log.stop()


def _log_report(device: Device, feature: Feature) -> None:
    kind = "struct vfio_device_feature_dma_logging_report"
    log = _log(device)
    if not feature.is_meant(GET, ffi.sizeof(kind)):
        return
    report = feature.take(kind)
    if report.page_size < 4096 or report.page_size & (report.page_size - 1):
        raise Errno(errno.EINVAL)
    if report.iova + report.length > LARGEST:
        raise Errno(errno.EOVERFLOW)
    device.before_report()
    log.report(report.iova, report.length, report.page_size, report.bitmap)


# Migration.


def _migration(device: Device) -> Migration:
    driver = device.kernel.host.driver_of(device)
    if device.migration is None or driver is None or not driver.migrates:
        raise Errno(errno.ENOTTY)
    return device.migration


def _migration_flags(device: Device, feature: Feature) -> None:
    flags = _migration(device).flags
    if feature.is_meant(GET, ffi.sizeof("struct vfio_device_feature_migration")):
        feature.give(ffi.new("struct vfio_device_feature_migration *", {"flags": flags}))


def _migration_state(device: Device, feature: Feature) -> None:
    kind = "struct vfio_device_feature_mig_state"
    migration = _migration(device)
    if not feature.is_meant(GET | SET, ffi.sizeof(kind)):
        return
    state = feature.take(kind)
    failure = None
    if feature.is_set:
        try:
            file = migration.set_state(state.device_state)
        except Errno as error:
            failure, file = error, None
        if file is not None:
            # If no descriptor is free, the ioctl fails although the state has changed; the caller's struct stays as it
            # was.
            fd = state.data_fd = device.kernel.install(file)
            try:
                feature.give(state)
            except Errno:
                device.kernel.close(fd)
                raise
            return
    else:
        state.device_state = migration.get_state()
    # Without a new descriptor, and also on a failure, data_fd is -1.
    state.data_fd = -1
    feature.give(state)
    if failure is not None:
        raise failure


def _migration_size(device: Device, feature: Feature) -> None:
    kind = "struct vfio_device_feature_mig_data_size"
    migration = _migration(device)
    if feature.is_meant(GET, ffi.sizeof(kind)):
        feature.give(ffi.new(f"{kind} *", {"stop_copy_length": migration.data_size()}))


def _precopy_info(device: Device, feature: Feature) -> None:
    try:
        migration = _migration(device)
    except Errno:
        raise Errno(errno.EINVAL) from None
    if not migration.flags & lib.VFIO_MIGRATION_PRE_COPY:
        raise Errno(errno.EINVAL)
    if feature.is_meant(SET):
        migration.second_info = True


_CORE: dict[int, Callable[[Device, Feature], int | None]] = {
    lib.VFIO_DEVICE_FEATURE_MIGRATION: _migration_flags,
    lib.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: _migration_state,
    lib.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: _migration_size,
    lib.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: _precopy_info,
    lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_START: _log_start,
    lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: _log_stop,
    lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: _log_report,
}
