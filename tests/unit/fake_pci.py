"""The fake of fake.py as a PCI device: configuration space, a BAR that can be mapped, vectors with eventfds."""

from __future__ import annotations

import mmap
import os

from pyvfio._abi import ffi, lib
from tests.unit.fake import FakeKernel

CONFIG_AT = 1 << 40


class FakePciKernel(FakeKernel):
    """
    :ivar config: configuration space
    :ivar bar: BAR0's memory
    :ivar eventfds: (index, vector) -> the eventfd that was set for it
    """

    def __init__(self) -> None:
        super().__init__()
        self.config = bytearray(4096)
        self.bar = mmap.mmap(-1, mmap.PAGESIZE)
        self.eventfds: dict[tuple[int, int], int] = {}

    def close(self, fd: int) -> None:
        if fd in self.fds:
            super().close(fd)
        else:
            os.close(fd)  # an eventfd

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return bytes(self.config[offset - CONFIG_AT :][:size])

    def mmap(self, fd: int, size: int, *, offset: int, prot: int) -> mmap.mmap:
        return self.bar

    def _VFIO_DEVICE_GET_INFO(self, fd: int, argument: int) -> int:
        info = ffi.cast("struct vfio_device_info *", argument)
        info.flags, info.num_regions, info.num_irqs = lib.VFIO_DEVICE_FLAGS_PCI, 9, 5
        return 0

    def _VFIO_DEVICE_GET_REGION_INFO(self, fd: int, argument: int) -> int:
        info = ffi.cast("struct vfio_region_info *", argument)
        if info.index == lib.VFIO_PCI_BAR0_REGION_INDEX:
            info.size = len(self.bar)
            info.flags = (
                lib.VFIO_REGION_INFO_FLAG_READ | lib.VFIO_REGION_INFO_FLAG_WRITE | lib.VFIO_REGION_INFO_FLAG_MMAP
            )
        elif info.index == lib.VFIO_PCI_CONFIG_REGION_INDEX:
            info.size, info.offset = len(self.config), CONFIG_AT
            info.flags = lib.VFIO_REGION_INFO_FLAG_READ
        return 0

    def _VFIO_DEVICE_SET_IRQS(self, fd: int, argument: int) -> int:
        set_ = ffi.cast("struct vfio_irq_set *", argument)
        if set_.flags & lib.VFIO_IRQ_SET_DATA_EVENTFD:
            numbers = ffi.cast("int32_t *", set_.data)
            for vector in range(set_.count):
                self.eventfds[set_.index, set_.start + vector] = numbers[vector]
        elif set_.count == 0:
            self.eventfds.clear()
        else:
            os.eventfd_write(self.eventfds[set_.index, set_.start], 1)
        return 0
