# SPDX-License-Identifier: MIT
"""Objects of an iommufd: each has an id and a parent, and can be destroyed."""

from __future__ import annotations

import errno
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi
from pyvfio._buffer import Object
from pyvfio._core.fd import Fd
from pyvfio._core.request import Arguments, Reason, Request
from pyvfio._core.resource import Attempts, Resource
from pyvfio.errors import Closed, InvalidRequest

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.iommufd.iommufd import Iommufd


#: errno -> reason, for every request of iommufd that does not document a reason of its own
IOMMUFD = {
    errno.EOPNOTSUPP: "this IOMMU or this kernel does not support it",
    errno.ENOTTY: "this kernel does not know the request",
    errno.ENOENT: "there is no such object, it is of another kind, or nothing is mapped there",
    errno.EBUSY: "something still uses the object",
    errno.EADDRINUSE: "a mapped or allowed range lies in a region that the device has reserved, or is not aligned for its IOMMU",
}


def _in_use(users: tuple[str, ...]) -> Reason:
    return Reason("something still uses the object", users)


DESTROY = Request("IOMMU_DESTROY", "iommufd", "struct iommu_destroy", errnos={errno.EBUSY: _in_use}, otherwise=IOMMUFD)


def address(data: Any) -> int:
    """Return the address of C data as the u64 that iommufd's structs take."""
    return int(ffi.cast("uintptr_t", data))


class IommufdObject(Resource):
    """An object of an iommufd.

    :ivar iommufd: the file that it belongs to
    :ivar id: its object id in that file
    """

    _fd: Fd
    _held_by_parents = True

    def __init__(self, iommufd: Iommufd, *parents: Resource) -> None:
        super().__init__(None)
        self.iommufd = iommufd
        self._fd = iommufd.descriptor
        #: the kernel's object: made by the request of :meth:`_allocate`, ended by IOMMU_DESTROY
        self._object = Object()
        #: devices that are attached to it, or have been
        self._attached: dict[int, weakref.ref[Device]] = {}
        for parent in parents or (iommufd,):
            self._live_under(parent)

    def _allocate(self, request: Request, native: Any, arguments: Arguments, **places: Fd | Object) -> None:
        """Make the request that allocates the object. If the constructor fails afterwards, :meth:`_undo` destroys it.

        :param places: field of the request's struct -> the owner of the descriptor or id that the kernel writes there
        """
        received = [(ffi.addressof(native[0], field), owner) for field, owner in places.items()]
        request.receive(self._fd, native, *received, arguments=arguments)

    def _undo(self) -> None:
        if "_object" in self.__dict__:
            self._destroy()

    @property
    def gone(self) -> bool:
        """Whether the kernel's object is gone: it was destroyed, or its iommufd is closed. Not part of the API."""
        return self._object.gone or self.iommufd._gone_as_a_whole

    @property
    def _id(self) -> int:
        return self._object.id

    @property
    def id(self) -> int:
        """The object's id in its iommufd.

        :raises Closed: the object has been destroyed; the kernel may have reused its id for another one
        """
        if self._closed or self._object.gone:
            raise Closed(f"{self!r} has been destroyed")
        self._fd.check_open()
        return self._id

    def _id_in(self, iommufd: Iommufd) -> int:
        """Return the id for a request to an iommufd.

        :raises InvalidRequest: the object belongs to another iommufd, where the same id means another object
        """
        if self.iommufd is not iommufd:
            raise InvalidRequest(
                f"{self!r} belongs to {self.iommufd!r}, not to {iommufd!r}; use objects of one Iommufd"
            )
        return self.id

    def destroy(self) -> None:
        """Destroy this object alone. IOMMU_DESTROY.

        `close()` closes the objects made from it first.

        :raises OSError: EBUSY while another object uses it or a device is attached to it; the object stays usable
        """
        self._end(self.id)
        self._mark_destroyed()

    def _end(self, number: int) -> None:
        request = DESTROY.new(id=number)
        DESTROY.end(self._fd, request, self._object, {"id": number}, lambda _: tuple(self._users()))

    def _users(self) -> list[str]:
        return [f"{child!r} uses it: close {child!r} first" for child in self._children if not child.closed] + [
            f"{device!r} is attached to it: detach or close the device first" for device in self._devices()
        ]

    def _devices(self) -> list[Device]:
        devices = [reference() for reference in self._attached.values()]
        return [
            device for device in devices if device is not None and not device.closed and device.is_attached_to(self)
        ]

    def _mark_destroyed(self) -> None:
        """Record that the kernel has destroyed the object, so that nothing is left to release."""
        self._closed = True
        self._detach_from_parents()

    def _release(self) -> None:
        if self.gone:
            return
        attempts = Attempts()
        for device in self._devices():
            attempts.do(partial(device._detach_from, self))
        attempts.do(self._destroy)
        attempts.raise_first(f"closing {self!r}")

    def _destroy(self) -> None:
        if not self._object.present:
            return
        try:
            self._end(self._id)
        except OSError:
            if not self._object.gone:
                raise

    def _has_gone(self) -> bool:
        return self.gone

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id} of {self._fd.name}{' (destroyed)' if self._closed else ''}>"
