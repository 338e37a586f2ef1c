# SPDX-License-Identifier: MIT
"""Device cdevs: binding to an iommufd, and attaching to its address spaces (device_cdev.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
from pyvfio.mock.iommufd.bound import bind
from pyvfio.mock.iommufd.command import check_zero, end_of
from pyvfio.mock.iommufd.compat import Iommufd
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.file import File, request

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.access import Access
    from pyvfio.mock.iommufd.bound import BoundDevice
    from pyvfio.mock.machine.kernel import Kernel
    from pyvfio.mock.vfio.device import Device


class Cdev(File):
    """The iommufd part of an open device.

    :ivar bound: the device as an object of the iommufd that it is bound to; None if it is not bound, or was opened by
        its group
    """

    def __init__(self, kernel: Kernel, device: Device) -> None:
        super().__init__(kernel)
        self.device = device
        self.bound: BoundDevice | Access | None = None

    by_group: bool
    granted: bool

    def grant(self) -> None:
        raise NotImplementedError

    @request(lib.VFIO_DEVICE_BIND_IOMMUFD)
    def _bind(self, argument: int) -> None:
        """Bind the device to an iommufd (vfio_df_ioctl_bind_iommufd)."""
        struct = "struct vfio_device_bind_iommufd"
        size = ffi.sizeof(struct)
        user_size = int.from_bytes(caller.read(argument, 4), "little")
        if user_size < end_of(struct, "out_devid"):
            raise Errno(errno.EINVAL)
        if user_size > size:
            check_zero(argument + size, user_size - size)
        bind_ = caller.take(struct, argument, min(user_size, size))
        if bind_.iommufd < 0 or bind_.flags & ~lib.VFIO_DEVICE_BIND_FLAG_TOKEN or self.by_group:
            raise Errno(errno.EINVAL)
        group = self.device.group
        if group.file is not None:
            raise Errno(errno.EBUSY)
        if self.granted:
            raise Errno(errno.EINVAL)
        self._check_token(bind_)
        iommufd = self.kernel.file(bind_.iommufd)
        if not isinstance(iommufd, Iommufd):
            raise Errno(errno.EBADFD)
        if self.device.files:
            raise Errno(errno.EINVAL)
        bound = bind(iommufd, self.device)
        try:
            self.grant()
        except Errno:
            bound.unbind()
            raise
        self.bound = bound
        group.cdevs += 1
        iommufd.hold()
        self._iommufd = iommufd
        try:
            caller.write(argument + ffi.offsetof(struct, "out_devid"), bound.id.to_bytes(4, "little"))
        except Errno:
            self.release()
            raise

    def _check_token(self, bind_: Any) -> None:
        """Check the VF token that VFIO_DEVICE_BIND_IOMMUFD gives.

        :raises Errno: EACCES, EINVAL, EFAULT
        """
        raise NotImplementedError

    def unbind(self) -> None:
        """Unbind from the iommufd, after the driver has closed the device, or if it refused to open it."""
        if self.bound is not None:
            bound, self.bound = self.bound, None
            bound.unbind()
            self.device.group.cdevs -= 1
            self._iommufd.drop()

    # Attaching.

    @request(lib.VFIO_DEVICE_ATTACH_IOMMUFD_PT)
    def _attach(self, argument: int) -> None:
        """Attach the device to an address space or a page table (vfio_df_ioctl_attach_pt)."""
        struct = "struct vfio_device_attach_iommufd_pt"
        attach = self._with_pasid(struct, argument, "pt_id", lib.VFIO_DEVICE_ATTACH_PASID)
        assert self.bound is not None, "what is granted and not opened by group is bound"
        pasid = attach.pasid if attach.flags & lib.VFIO_DEVICE_ATTACH_PASID else None
        number = self.bound.attach(attach.pt_id, pasid)
        try:
            caller.write(argument + ffi.offsetof(struct, "pt_id"), number.to_bytes(4, "little"))
        except Errno:
            self.bound.detach()
            raise

    @request(lib.VFIO_DEVICE_DETACH_IOMMUFD_PT)
    def _detach(self, argument: int) -> None:
        """Detach the device (vfio_df_ioctl_detach_pt)."""
        struct = "struct vfio_device_detach_iommufd_pt"
        detach = self._with_pasid(struct, argument, "flags", lib.VFIO_DEVICE_DETACH_PASID)
        assert self.bound is not None
        self.bound.detach(detach.pasid if detach.flags & lib.VFIO_DEVICE_DETACH_PASID else None)

    def _with_pasid(self, struct: str, argument: int, last: str, flag: int) -> Any:
        """Copy the struct in, including the PASID if the flag is set."""
        if self.by_group:
            raise Errno(errno.ENOTTY)
        least = end_of(struct, last)
        native = caller.take(struct, argument, least)
        if native.argsz < least or native.flags & ~flag:
            raise Errno(errno.EINVAL)
        if native.flags & flag:
            if self.device.emulated:
                raise Errno(errno.EOPNOTSUPP)
            least = end_of(struct, "pasid")
            if native.argsz < least:
                raise Errno(errno.EINVAL)
            native = caller.take(struct, argument, least)
        return native
