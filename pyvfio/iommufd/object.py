"""What all objects of an iommufd have: an id, a parent, and an end."""

from __future__ import annotations

import errno
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
from pyvfio._core import explain
from pyvfio._core.fd import Fd
from pyvfio._core.resource import Attempts, Resource
from pyvfio.errors import Closed, InvalidRequest

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.iommufd.iommufd import Iommufd


def call(fd: Fd, request: str, struct_: str, **fields: Any) -> Any:
    """One request whose struct starts with its own size: the struct as the kernel left it.

    :raises OSError: as the request does; ENOTTY and EOPNOTSUPP are the kernel's or the IOMMU's lack of it
    """
    native = ffi.new(f"{struct_} *", {"size": ffi.sizeof(struct_), **fields})
    error = fd.ioctl(getattr(lib, request), native)
    if error < 0:
        arguments = ", ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        raise explain.iommufd_failed(fd, error, request, arguments)
    return native


def _shown(value: Any) -> str:
    return hex(value) if isinstance(value, int) and value > 9 else str(value)


def address(data: Any) -> int:
    """The address of C data, as the u64 that iommufd's structs want."""
    return int(ffi.cast("uintptr_t", data))


class IommufdObject(Resource):
    """An object of an iommufd.

    :ivar iommufd: the file that it lives in
    :ivar id: its number there
    """

    _fd: Fd
    _held_by_parents = True

    def __init__(self, iommufd: Iommufd, id_: int, *parents: Resource) -> None:
        super().__init__(None)
        self.iommufd = iommufd
        self._fd = iommufd._fd
        self._id = id_
        #: devices whose DMA goes through it
        self._attached: dict[int, weakref.ref[Device]] = {}
        for parent in parents or (iommufd,):
            self._live_under(parent)

    @property
    def id(self) -> int:
        """
        :raises Closed: it has been destroyed: the kernel may have given its number to another object
        """
        if self._closed:
            raise Closed(f"{self!r} has been destroyed")
        self._fd.check_open()
        return self._id

    def _id_in(self, iommufd: Iommufd) -> int:
        """The id, for a request to that file.

        :raises InvalidRequest: it lives in another one, where the same number means something else
        """
        if self.iommufd is not iommufd:
            raise InvalidRequest(f"{self!r} is an object of {self.iommufd!r}, not of {iommufd!r}")
        return self.id

    def destroy(self) -> None:
        """IOMMU_DESTROY of this object alone; `close()` ends what was made from it first.

        :raises OSError: EBUSY while something is made from it, or a device is attached to it; the object stays usable
        """
        number = self.id
        try:
            call(self._fd, "IOMMU_DESTROY", "struct iommu_destroy", id=number)
        except OSError as error:
            if error.errno == errno.EBUSY:
                for line in self._in_the_way():
                    error.add_note(line)
            raise
        self._gone()

    def _in_the_way(self) -> list[str]:
        alive = [child for reference in self._children.values() if (child := reference()) is not None]
        return [f"{child!r} is still there and needs it" for child in alive if not child.closed] + [
            f"{device!r} is attached to it" for device in self._devices()
        ]

    def _devices(self) -> list[Device]:
        devices = [reference() for reference in self._attached.values()]
        return [device for device in devices if device is not None and not device.closed]

    def _gone(self) -> None:
        """It has been destroyed in the kernel; nothing is left to release."""
        self._closed = True
        self._part()

    def _release(self) -> None:
        if self._has_gone():
            return
        attempts = Attempts()
        for device in self._devices():
            attempts.do(partial(device._detach_from, self))
        attempts.do(self._destroy)
        attempts.raise_first(f"closing {self!r}")

    def _destroy(self) -> None:
        try:
            call(self._fd, "IOMMU_DESTROY", "struct iommu_destroy", id=self._id)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def _has_gone(self) -> bool:
        return self.iommufd._gone_as_a_whole

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id} of {self._fd.name}{' (destroyed)' if self._closed else ''}>"
