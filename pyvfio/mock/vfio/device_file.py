# SPDX-License-Identifier: MIT
"""An open device: the part of VFIO's core (vfio_main.c)."""

from __future__ import annotations

import errno
from mmap import mmap
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.file import request
from pyvfio.mock.vfio import feature
from pyvfio.mock.vfio.cdev import Cdev
from pyvfio.mock.vfio.region import OFFSET_MASK, OFFSET_SHIFT, give_info

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel
    from pyvfio.mock.vfio.device import Device
    from pyvfio.mock.vfio.group import GroupFile


class DeviceFile(Cdev):
    """An open VFIO device (struct vfio_device_file), by VFIO_GROUP_GET_DEVICE_FD or by its cdev.

    VFIO_GROUP_GET_DEVICE_FD and VFIO_DEVICE_BIND_IOMMUFD call :meth:`grant` after they have set up the device's DMA.

    :ivar by_group: opened by its group, so usable at once; a cdev must be bound to an iommufd first
    :ivar group: the group file that it was opened by; None for a cdev
    :ivar granted: access has been granted (access_granted)
    """

    kind = "device"

    def __init__(self, kernel: Kernel, device: Device, *, by_group: bool) -> None:
        super().__init__(kernel, device)
        self.by_group = by_group
        self.target = "anon_inode:[vfio-device]" if by_group else None
        self.group: GroupFile | None = None
        self.granted = False

    def grant(self) -> None:
        """Grant access to the device; the first file opens it in the driver (vfio_df_open).

        :raises Errno: the driver's error
        """
        if not self.device.files:
            self.device.open()
        self.device.files.append(self)
        self.granted = True

    def release(self) -> None:
        if self.granted:
            self.granted = False
            self.device.leave(self)
        self.unbind()
        if self.group is not None:
            self.group.unuse(self.device)

    def fdinfo(self) -> bytes:
        return f"vfio-device-syspath: {self.device.path}\n".encode()

    def descriptor(self) -> int:
        return self.device.region_file.open()

    def ioctl(self, number: int, argument: int) -> int:
        if number == lib.VFIO_DEVICE_BIND_IOMMUFD:
            return super().ioctl(number, argument)
        self._check_granted()
        self.device.resume()
        if number in self.handlers:
            return super().ioctl(number, argument)
        return self.device.ioctl(number, argument)

    def _check_granted(self) -> None:
        if not self.granted:
            raise Errno(errno.EINVAL)

    def _check_token(self, bind_: Any) -> None:
        token = None
        if bind_.flags & lib.VFIO_DEVICE_BIND_FLAG_TOKEN:
            token = bytes(caller.read(bind_.token_uuid_ptr, 16))
        self.device.check_token(token)

    @request(lib.VFIO_DEVICE_FEATURE)
    def _feature(self, argument: int) -> int:
        """Probe, get or set a feature (vfio_ioctl_device_feature)."""
        return feature.answer(self.device, argument)

    @request(lib.VFIO_DEVICE_GET_REGION_INFO)
    def _get_region_info(self, argument: int) -> None:
        """Return size, flags and capabilities of a region (vfio_get_region_info)."""
        info = caller.take("struct vfio_region_info", argument)
        if info.argsz < ffi.sizeof("struct vfio_region_info"):
            raise Errno(errno.EINVAL)
        self.device.check_call("REGION_INFO")
        give_info(argument, info, self.device.region(info.index))

    def pread(self, size: int, offset: int) -> bytes:
        self._check_granted()
        self.device.resume()
        return self.device.pread(size, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        self._check_granted()
        self.device.resume()
        return self.device.pwrite(data, offset)

    def mapped(self, memory: mmap, offset: int) -> None:
        self.device.mapped(offset >> OFFSET_SHIFT, memory)

    def traps(self, offset: int) -> bool:
        """Whether the region at an offset consists of registers, which memory cannot represent."""
        return self.device.traps(offset >> OFFSET_SHIFT)

    def check_mmap(self, size: int, offset: int, prot: int) -> None:
        self._check_granted()
        page = self.kernel.profile.page_size
        size = -(-size // page) * page
        self.device.check_mmap(offset >> OFFSET_SHIFT, offset & OFFSET_MASK, size)
