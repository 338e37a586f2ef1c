# SPDX-License-Identifier: MIT
"""An open /dev/iommu: its objects, and the dispatch of its ioctls."""

from __future__ import annotations

import errno
from heapq import heappop, heappush
from mmap import PROT_EXEC, mmap
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pyvfio._abi import lib
from pyvfio.mock.iommufd.command import REQUESTS, Command, command
from pyvfio.mock.iommufd.drivers import DRIVERS
from pyvfio.mock.iommufd.shared import Shared
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.group import GroupContainer

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.bound import BoundGroup
    from pyvfio.mock.iommufd.ioas import Ioas
    from pyvfio.mock.iommufd.object import Object
    from pyvfio.mock.machine.file import File
    from pyvfio.mock.machine.kernel import Kernel

_O = TypeVar("_O", bound="Object")
#: _IOC_NR of IOMMU_TEST_CMD, the last entry of iommufd_ioctl_ops; larger numbers go to iommufd_vfio_ioctl
_LAST_NR = 0xA0


class Context(GroupContainer):
    """The objects of an open /dev/iommu (struct iommufd_ctx).

    :ivar objects: id -> object; None for a tombstone: the id of a vdevice whose device was unbound, which is not reused
    :ivar driver: the driver of the host's IOMMU; devices of the selftest have another
    :ivar shared: the memory that the descriptor can map
    :ivar groups: number of an IOMMU group -> its attachments
    :ivar vfio_ioas: the IOAS that the container ioctls use
    :ivar account_by_process: IOMMU_OPTION_RLIMIT_MODE
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.objects: dict[int, Object | None] = {}
        self._free: list[int] = []
        self.driver = DRIVERS[kernel.profile.iommu](kernel.profile)
        self.shared = Shared(kernel.profile.page_size)
        self.groups: dict[int, BoundGroup] = {}
        self.vfio_ioas: Ioas | None = None
        self.account_by_process = False

    def ioctl(self, number: int, argument: int) -> int:
        request = REQUESTS.get(number)
        if request is not None:
            request(self, argument)
            return 0
        if not lib.IOMMUFD_CMD_BASE <= number & 0xFF <= _LAST_NR:
            return super().ioctl(number, argument)
        caller.read(argument, 4)
        raise Errno(errno.ENOTTY)

    def descriptor(self) -> int:
        return self.shared.descriptor()

    def check_mmap(self, size: int, offset: int, prot: int) -> None:
        if prot & PROT_EXEC:
            raise Errno(errno.EPERM)
        self.shared.find(offset, size)

    def mapped(self, memory: mmap, offset: int) -> None:
        self.shared.find(offset, len(memory)).keep(memory)

    def compat_ioas(self) -> Ioas:
        """Return the IOAS that the container ioctls use.

        :raises Errno: ENODEV, it does not exist
        """
        if self.vfio_ioas is None:
            raise Errno(errno.ENODEV)
        return self.vfio_ioas

    # Objects.

    def add(self, object_: Object) -> int:
        """Add an object; return its id, the lowest free number."""
        number = heappop(self._free) if self._free else len(self.objects) + 1
        self.objects[number] = object_
        return number

    @overload
    def get(self, number: int) -> Object: ...
    @overload
    def get(self, number: int, kind: type[_O]) -> _O: ...
    def get(self, number: int, kind: Any = None) -> Any:
        """Return an object by its id.

        :raises Errno: ENOENT, there is no such object, or it is of another kind
        """
        object_ = self.objects.get(number)
        if object_ is None or (kind is not None and not isinstance(object_, kind)):
            raise Errno(errno.ENOENT)
        return object_

    def remove(self, object_: Object, *, tombstone: bool = False) -> None:
        """Destroy an object.

        :param tombstone: keep the id from being reused
        :raises Errno: EBUSY, the object is in use
        """
        if object_.busy:
            raise Errno(errno.EBUSY)
        if tombstone:
            self.objects[object_.id] = None
        else:
            self.abort(object_)
        if self.vfio_ioas is object_:
            self.vfio_ioas = None
        object_.destroyed()

    def abort(self, object_: Object) -> None:
        """Free the id of an object."""
        del self.objects[object_.id]
        heappush(self._free, object_.id)

    def install(self, file: File) -> int:
        """Return a descriptor for a new file.

        :raises Errno: EMFILE
        """
        try:
            return self.kernel.install(file)
        except Errno:
            file.drop()
            raise

    def release(self) -> None:
        """Destroy all objects: repeatedly those without users, until none is left (iommufd_fops_release)."""
        while self.objects:
            for number in sorted(self.objects):
                # The destruction of an object may destroy others.
                if number not in self.objects:
                    continue
                object_ = self.objects[number]
                if object_ is None or object_.users == 1:
                    del self.objects[number]
                if object_ is not None and object_.users == 1:
                    object_.destroyed()
        self.shared.close()


@command(lib.IOMMU_DESTROY, "struct iommu_destroy", "id")
def _destroy(ctx: Context, cmd: Command) -> None:
    """Destroy an object (iommufd_destroy)."""
    ctx.remove(ctx.get(cmd.c.id))
