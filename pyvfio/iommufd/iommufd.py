"""The file itself, `/dev/iommu`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Self

from pyvfio import host
from pyvfio import kernel as _kernel
from pyvfio._abi import ffi, lib
from pyvfio._core import explain
from pyvfio._core.fd import Fd
from pyvfio._core.resource import Resource
from pyvfio._core.vf_token import uuid_of
from pyvfio.device import Device
from pyvfio.errors import NO_IOMMUFD, Unsupported
from pyvfio.host.nodes import find
from pyvfio.iommufd.bound import BoundDevice
from pyvfio.iommufd.fault_queue import FaultQueue
from pyvfio.iommufd.ioas import Ioas
from pyvfio.iommufd.object import address, call
from pyvfio.kernel import Kernel
from pyvfio.spaces.no_iommu import admit

if TYPE_CHECKING:
    from uuid import UUID

    from pyvfio.spaces.container import Container


class Iommufd(Resource):
    """An open `/dev/iommu`: a private set of objects. Closing it ends them all, devices first.

    :raises OSError: ENOENT when the kernel has no iommufd (before Linux 6.2, or built without), EACCES
    """

    def __init__(self, *, kernel: Kernel | str | None = None) -> None:
        super().__init__(None)
        self._container: Container | None = None
        self._fd = open_iommu(_kernel.resolve(kernel))

    def _undo(self) -> None:
        if "_fd" in self.__dict__:
            self._fd.close()

    @classmethod
    def _of(cls, container: Container) -> Self:
        """The one that stands in for a container, which keeps the descriptor."""
        self = cls.__new__(cls)
        super().__init__(self, container)
        self._fd = container._fd
        self._container = container
        self._register()
        return self

    def fileno(self) -> int:
        """The descriptor of /dev/iommu."""
        return self._fd.fileno()

    # What is made in it.

    def ioas(self) -> Ioas:
        """IOMMU_IOAS_ALLOC: a new, empty address space."""
        native = call(self._fd, "IOMMU_IOAS_ALLOC", "struct iommu_ioas_alloc")
        return Ioas(self, native.out_ioas_id)

    def fault_queue(self) -> FaultQueue:
        """IOMMU_FAULT_QUEUE_ALLOC: a queue that page tables can report I/O page faults to. Since Linux 6.11."""
        native = call(self._fd, "IOMMU_FAULT_QUEUE_ALLOC", "struct iommu_fault_alloc")
        fd = Fd(self._fd.kernel, native.out_fault_fd, "fault", f"fault queue {native.out_fault_id}")
        return FaultQueue(self, native.out_fault_id, fd)

    def bind(self, where: str, *, vf_token: UUID | str | bytes | None = None, no_iommu: bool = False) -> Device:
        """Open a device by its cdev and bind it to this file. VFIO_DEVICE_BIND_IOMMUFD, since Linux 6.6.

        Until it is attached to an address space it can do no DMA; see :meth:`Device.attach`.

        :param where: its address, "0000:00:03.0", or its name on another bus
        :param vf_token: see :meth:`Device.set_vf_token`; since Linux 6.18
        :param no_iommu: open it though no IOMMU stands between it and all memory; since Linux 7.3
        :raises InvalidRequest: it has no IOMMU, and `no_iommu` does not say that this is known
        :raises Unsupported: the device has no cdev: it is not bound to a VFIO driver, or the kernel has none
        :raises OSError: EINVAL it is bound already, here or elsewhere, or wants no vf_token; EACCES it wants another one; EBUSY it is
            open through its group's file; EPERM another program or driver owns a device of its group, or the IOMMU cannot isolate
            interrupts and that has not been allowed
        """
        self._fd.check_open()
        uuid = None if vf_token is None else uuid_of(vf_token)
        found = find(where, self._fd.kernel)
        if found.cdev is None:
            raise Unsupported(
                host.device(where, self._fd.kernel).advice
                or f"{found.address} has no file under /dev/vfio/devices: this kernel opens devices by group only"
            )
        admit(found, allowed=no_iommu)
        try:
            fd = Fd.open(self._fd.kernel, found.cdev, "device")
        except OSError as error:
            reason = None
            if error.errno in (errno.EACCES, errno.EPERM):
                reason = "it takes CAP_SYS_RAWIO" if found.no_iommu else "root, or the owner of the file, may open it"
            raise explain.os_error(error.errno or errno.EIO, f"open {found.cdev}", found.address, reason) from None
        fd.name = found.address
        try:
            number = _bind(self, fd, uuid)
            return Device(fd, found.address, None, bound=BoundDevice(self, number, found.address))
        except BaseException:
            fd.close()
            raise

    # Options of the whole file.

    @property
    def rlimit_mode(self) -> bool:
        """IOMMU_OPTION_RLIMIT_MODE: whether locked memory is counted by process as VFIO's type1 does (True), or by user.

        :raises OSError: setting it EBUSY while an object exists, EPERM without CAP_SYS_RESOURCE
        """
        return bool(self._option(lib.IOMMU_OPTION_RLIMIT_MODE, lib.IOMMU_OPTION_OP_GET, 0, 0))

    @rlimit_mode.setter
    def rlimit_mode(self, by_process: bool) -> None:
        self._option(lib.IOMMU_OPTION_RLIMIT_MODE, lib.IOMMU_OPTION_OP_SET, 0, int(by_process))

    def _option(self, option: int, op: int, object_: int, value: int) -> int:
        native = call(
            self._fd, "IOMMU_OPTION", "struct iommu_option", option_id=option, op=op, object_id=object_, val64=value
        )
        return int(native.val64)

    # The address space that VFIO's old requests mean, when this file stands in for a container.

    @property
    def vfio_ioas_id(self) -> int:
        """IOMMU_VFIO_IOAS with GET: the id of the compatibility address space.

        :raises OSError: ENODEV when there is none
        """
        native = call(self._fd, "IOMMU_VFIO_IOAS", "struct iommu_vfio_ioas", op=lib.IOMMU_VFIO_IOAS_GET)
        return int(native.ioas_id)

    def set_vfio_ioas(self, ioas: Ioas) -> None:
        """IOMMU_VFIO_IOAS with SET: let the old requests work on `ioas`."""
        call(
            self._fd,
            "IOMMU_VFIO_IOAS",
            "struct iommu_vfio_ioas",
            op=lib.IOMMU_VFIO_IOAS_SET,
            ioas_id=ioas._id_in(self),
        )

    def clear_vfio_ioas(self) -> None:
        """IOMMU_VFIO_IOAS with CLEAR: let the old requests work on nothing. The address space stays."""
        call(self._fd, "IOMMU_VFIO_IOAS", "struct iommu_vfio_ioas", op=lib.IOMMU_VFIO_IOAS_CLEAR)

    def change_process(self) -> None:
        """IOMMU_IOAS_CHANGE_PROCESS: charge the locked memory to the calling process, after the file was handed over. Since Linux 6.14.

        :raises OSError: EINVAL unless every mapping is of a file (:meth:`Ioas.map_file`)
        """
        call(self._fd, "IOMMU_IOAS_CHANGE_PROCESS", "struct iommu_ioas_change_process")

    def _release(self) -> None:
        if self._container is None:
            self._fd.close()

    def _has_gone(self) -> bool:
        return self._fd.closed

    @property
    def _gone_as_a_whole(self) -> bool:
        """Whether its objects went with the descriptor, at once and in the right order."""
        return self._fd.closed or (self._closed and self._container is None)

    def __repr__(self) -> str:
        kernel = self._fd.kernel.name
        return f"<Iommufd{'' if kernel == 'linux' else ' on ' + kernel}{' (closed)' if self.closed else ''}>"


def open_iommu(kernel: Kernel) -> Fd:
    """
    :raises OSError: see :class:`Iommufd`
    """
    try:
        return Fd.open(kernel, "/dev/iommu", "iommufd")
    except OSError as error:
        reason = None
        if error.errno == errno.ENOENT:
            reason = NO_IOMMUFD
        elif error.errno in (errno.EACCES, errno.EPERM):
            reason = "root, or the owner of the file, may open it"
        raise explain.os_error(error.errno or errno.EIO, "open /dev/iommu", "", reason) from None


def _bind(iommufd: Iommufd, fd: Fd, vf_token: UUID | None) -> int:
    native = ffi.new(
        "struct vfio_device_bind_iommufd *",
        {"argsz": ffi.sizeof("struct vfio_device_bind_iommufd"), "iommufd": iommufd.fileno()},
    )
    if vf_token is not None:
        given = ffi.new("uint8_t[16]", vf_token.bytes)
        native.flags = lib.VFIO_DEVICE_BIND_FLAG_TOKEN
        native.token_uuid_ptr = address(given)
    else:
        # Kernels that do not know tokens take the shorter struct only as such.
        native.argsz = ffi.offsetof("struct vfio_device_bind_iommufd", "token_uuid_ptr")
    error = fd.ioctl(lib.VFIO_DEVICE_BIND_IOMMUFD, native)
    if error < 0:
        raise explain.bind_failed(fd, error, token=vf_token is not None)
    return int(native.out_devid)
