"""A tiny fake behind the door: a container, a group and a device that exist in Python only.

Its descriptors are numbers that no process has, so a call that does not go through the kernel object fails with EBADF.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from pyvfio import requests
from pyvfio._abi import ffi, lib
from pyvfio.kernel import PythonKernel

FIRST_FD = 1_000_000
SYSFS = {
    "/sys/bus/platform/devices/fake.0": "/sys/devices/platform/fake.0",
    "/sys/bus/platform/devices/fake.1": "/sys/devices/platform/fake.1",
}
GROUPS = {"fake.0": 7, "fake.1": 8}


class FakeKernel(PythonKernel):
    """type1v2 with one region and one interrupt a device, and DMA logging; `calls` and `closed` record what was asked.

    :ivar answers: (kind, request) -> a function that answers in place of the fake
    """

    name = "fake"

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []
        self.closed: list[str] = []
        self.fds: dict[int, tuple[str, str]] = {}
        self.mapped: dict[int, int] = {}
        self.answers: dict[tuple[str, str], Callable[[int, int], int]] = {}
        self.memory_of_regions = bytearray(8192)
        self.transfer = 1 << 20
        self.logging: dict[int, list[tuple[int, int]]] = {}
        self.dirty: list[int] = []
        self.log_page_size: int | None = None
        self.refuse_log: str | None = None

    # Files.

    def _new(self, kind: str, name: str) -> int:
        fd = FIRST_FD + len(self.fds) + len(self.closed)
        self.fds[fd] = (kind, name)
        return fd

    def open(self, path: str, flags: int = 0) -> int:
        if path == "/dev/vfio/vfio":
            return self._new("container", path)
        if path.startswith("/dev/vfio/") and path[10:].isdigit():
            return self._new("group", path)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def close(self, fd: int) -> None:
        self.closed.append(self.fds.pop(fd)[1])

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        assert self.fds[fd][0] == "device"
        return bytes(self.memory_of_regions[offset : offset + min(size, self.transfer)])

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        assert self.fds[fd][0] == "device"
        part = bytes(data)[: self.transfer]
        self.memory_of_regions[offset : offset + len(part)] = part
        return len(part)

    # sysfs.

    def exists(self, path: str) -> bool:
        path = path.removesuffix("/subsystem")
        return path in SYSFS or path in SYSFS.values() or path.startswith(("/dev/vfio/7", "/dev/vfio/8"))

    def listdir(self, path: str) -> list[str]:
        if path == "/sys/bus":
            return ["platform"]
        raise FileNotFoundError(errno.ENOENT, "not in the fake", path)

    def readlink(self, path: str) -> str:
        if path in SYSFS:
            return f"../../..{SYSFS[path].removeprefix('/sys')}"
        for name, group in GROUPS.items():
            if path == f"/sys/devices/platform/{name}/iommu_group":
                return f"../../../kernel/iommu_groups/{group}"
            if path == f"/sys/devices/platform/{name}/subsystem":
                return "../../../bus/platform"
        raise FileNotFoundError(errno.ENOENT, "not in the fake", path)

    def read_file(self, path: str) -> bytes:
        raise FileNotFoundError(errno.ENOENT, "not in the fake", path)

    # Requests.

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        if fd not in self.fds:
            return -errno.EBADF
        kind, _ = self.fds[fd]
        name = requests.name(kind, request)
        self.calls.append((kind, name))
        if answer := self.answers.get((kind, name)):
            return answer(fd, argument)
        return int(getattr(self, f"_{name}", self._unknown)(fd, argument))

    def _unknown(self, fd: int, argument: int) -> int:
        return -errno.ENOTTY

    def _VFIO_GET_API_VERSION(self, fd: int, argument: int) -> int:
        return 0

    def _VFIO_CHECK_EXTENSION(self, fd: int, argument: int) -> int:
        return int(argument in (lib.VFIO_TYPE1v2_IOMMU, lib.VFIO_TYPE1_IOMMU))

    def _VFIO_SET_IOMMU(self, fd: int, argument: int) -> int:
        return 0

    def _VFIO_GROUP_GET_STATUS(self, fd: int, argument: int) -> int:
        ffi.cast("struct vfio_group_status *", argument).flags = lib.VFIO_GROUP_FLAGS_VIABLE
        return 0

    def _VFIO_GROUP_SET_CONTAINER(self, fd: int, argument: int) -> int:
        return 0

    def _VFIO_GROUP_GET_DEVICE_FD(self, fd: int, argument: int) -> int:
        return self._new("device", ffi.string(ffi.cast("char *", argument)).decode())

    def _VFIO_IOMMU_GET_INFO(self, fd: int, argument: int) -> int:
        info = ffi.cast("struct vfio_iommu_type1_info *", argument)
        info.flags = lib.VFIO_IOMMU_INFO_PGSIZES
        info.iova_pgsizes = 2**64 - 4096
        return 0

    def _VFIO_IOMMU_MAP_DMA(self, fd: int, argument: int) -> int:
        map_ = ffi.cast("struct vfio_iommu_type1_dma_map *", argument)
        if map_.size == 0 or map_.iova % 4096 or map_.size % 4096:
            return -errno.EINVAL
        for iova, size in self.mapped.items():
            if iova < map_.iova + map_.size and map_.iova < iova + size:
                return -errno.EEXIST
        self.mapped[map_.iova] = map_.size
        return 0

    def _VFIO_IOMMU_UNMAP_DMA(self, fd: int, argument: int) -> int:
        unmap = ffi.cast("struct vfio_iommu_type1_dma_unmap *", argument)
        if unmap.flags & lib.VFIO_DMA_UNMAP_FLAG_ALL:
            gone = list(self.mapped)
        else:
            gone = [i for i in self.mapped if unmap.iova <= i < unmap.iova + unmap.size]
        unmap.size = sum(self.mapped.pop(iova) for iova in gone)
        return 0

    def _VFIO_DEVICE_GET_INFO(self, fd: int, argument: int) -> int:
        info = ffi.cast("struct vfio_device_info *", argument)
        info.flags, info.num_regions, info.num_irqs = lib.VFIO_DEVICE_FLAGS_PLATFORM, 1, 1
        return 0

    def _VFIO_DEVICE_GET_REGION_INFO(self, fd: int, argument: int) -> int:
        info = ffi.cast("struct vfio_region_info *", argument)
        info.flags = lib.VFIO_REGION_INFO_FLAG_READ | lib.VFIO_REGION_INFO_FLAG_WRITE
        info.size, info.offset = len(self.memory_of_regions), 0
        return 0

    def _VFIO_DEVICE_GET_IRQ_INFO(self, fd: int, argument: int) -> int:
        info = ffi.cast("struct vfio_irq_info *", argument)
        info.flags, info.count = lib.VFIO_IRQ_INFO_EVENTFD, 4
        return 0

    def _VFIO_DEVICE_FEATURE(self, fd: int, argument: int) -> int:
        feature = ffi.cast("struct vfio_device_feature *", argument)
        number, data = feature.flags & lib.VFIO_DEVICE_FEATURE_MASK, ffi.addressof(feature, "data")
        if feature.flags & lib.VFIO_DEVICE_FEATURE_PROBE:
            return 0
        if number == lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
            if self.fds[fd][1] == self.refuse_log:
                return -errno.EOPNOTSUPP
            control = ffi.cast("struct vfio_device_feature_dma_logging_control *", data)
            ranges = ffi.cast("struct vfio_device_feature_dma_logging_range *", control.ranges)
            self.logging[fd] = [(ranges[i].iova, ranges[i].length) for i in range(control.num_ranges)]
            control.page_size = self.log_page_size or control.page_size
            return 0
        if number == lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
            self.logging.pop(fd, None)
            return 0
        if number == lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
            report = ffi.cast("struct vfio_device_feature_dma_logging_report *", data)
            words = ffi.cast("uint64_t *", report.bitmap)
            for iova in self.dirty:
                if report.iova <= iova < report.iova + report.length:
                    page = (iova - report.iova) // report.page_size
                    words[page // 64] |= 1 << page % 64
            self.dirty = []
            return 0
        return -errno.ENOTTY
