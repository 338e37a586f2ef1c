"""A group: the devices that an IOMMU cannot tell apart, as `/dev/vfio/N`."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from pyvfio import host
from pyvfio import kernel as _kernel
from pyvfio._abi import ffi, lib
from pyvfio._core import explain
from pyvfio._core.fd import Fd
from pyvfio._core.resource import Resource
from pyvfio.errors import NotViable
from pyvfio.kernel import Kernel

if TYPE_CHECKING:
    from pyvfio.spaces.container import Container


class Group(Resource):
    """An open group. Only one open at a time is allowed by the kernel, whoever has it.

    :param number: the IOMMU group's number
    :param no_iommu: it is a group that VFIO made for a device without an IOMMU, `/dev/vfio/noiommu-N`
    :ivar number: the same
    :raises OSError: ENOENT when none of the group's devices is bound to a VFIO driver, EBUSY when it is open elsewhere,
        EACCES, EPERM
    """

    def __init__(
        self, number: int, *, no_iommu: bool = False, kernel: Kernel | str | None = None, parent: Resource | None = None
    ) -> None:
        super().__init__(parent)
        self.number = number
        kernel = _kernel.resolve(kernel)
        path = f"/dev/vfio/{'noiommu-' if no_iommu else ''}{number}"
        self._container: Container | None = None
        try:
            self._fd = Fd.open(kernel, path, "group")
        except OSError as error:
            raise self._not_opened(kernel, path, error) from None

    def _not_opened(self, kernel: Kernel, path: str, error: OSError) -> OSError:
        number = error.errno or errno.EIO
        reason = None
        if number == errno.ENOENT:
            if not kernel.exists("/dev/vfio/vfio") and not kernel.exists("/dev/vfio"):
                reason = "this kernel has no VFIO, or its modules (vfio, vfio-pci) are not loaded"
            else:
                reason = f"no device of group {self.number} is bound to a VFIO driver such as vfio-pci"
        elif number == errno.EBUSY:
            reason = "the group is open already, in this process or another: a group can be opened only once"
        elif number in (errno.EACCES, errno.EPERM):
            reason = "root, or the owner of the file, may open it"
            if "noiommu" in path:
                reason = "it takes CAP_SYS_RAWIO"
        notes = []
        if number == errno.ENOENT:
            with suppress(OSError):
                notes.append(
                    f"the group's devices and their drivers: {_listed(host.group_members(self.number, kernel))}"
                )
        return explain.os_error(number, f"open {path}", "", reason, notes)

    @property
    def flags(self) -> int:
        """VFIO_GROUP_GET_STATUS: `struct vfio_group_status.flags`."""
        status = ffi.new("struct vfio_group_status *", {"argsz": ffi.sizeof("struct vfio_group_status")})
        error = self._fd.ioctl(lib.VFIO_GROUP_GET_STATUS, status)
        if error < 0:
            raise explain.failed(self._fd, error, "VFIO_GROUP_GET_STATUS")
        return int(status.flags)

    @property
    def viable(self) -> bool:
        """Whether every device of the group is free for VFIO, by the kernel's own word (bridges without a driver are)."""
        return bool(self.flags & lib.VFIO_GROUP_FLAGS_VIABLE)

    @property
    def members(self) -> dict[str, str | None]:
        """Address -> driver, or None where none is bound, of every device in the group."""
        return host.group_members(self.number, self._fd.kernel)

    def fileno(self) -> int:
        """The descriptor of /dev/vfio/N."""
        return self._fd.fileno()

    def set_container(self, container: Container) -> None:
        """VFIO_GROUP_SET_CONTAINER.

        :raises NotViable: a member is bound to a driver that is not VFIO's
        :raises OSError: EINVAL when it has a container already; EINVAL or EPERM when the IOMMUs do not agree
        """
        if not self.viable:
            members = self.members
            raise NotViable(
                f"group {self.number} is not viable: every device in it must be bound to a VFIO driver or to none; "
                f"its devices and their drivers: {_listed(members)}",
                self.number,
                members,
            )
        number = ffi.new("int32_t *", container.fileno())
        error = self._fd.ioctl(lib.VFIO_GROUP_SET_CONTAINER, number)
        if error < 0:

            def clue() -> tuple[str | None, list[str]]:
                if self._container is not None:
                    return "the group is in a container already", []
                if -error == errno.EINVAL:
                    return None, [
                        "a group has one container at a time, and all groups of a container the same kind of IOMMU"
                    ]
                return None, []

            raise explain.failed(self._fd, error, "VFIO_GROUP_SET_CONTAINER", f"container={container._fd.name}", clue)
        self._container = container

    def unset_container(self) -> None:
        """VFIO_GROUP_UNSET_CONTAINER. The last group to leave a container takes its IOMMU, and all mappings, along.

        :raises OSError: EBUSY while a device of the group is open, EINVAL without a container
        """
        error = self._fd.ioctl(lib.VFIO_GROUP_UNSET_CONTAINER)
        if error < 0:
            raise explain.failed(
                self._fd,
                error,
                "VFIO_GROUP_UNSET_CONTAINER",
                "",
                lambda: ("a device of the group is still open" if -error == errno.EBUSY else None, []),
            )
        self._container = None

    def device_fd(self, name: str) -> Fd:
        """VFIO_GROUP_GET_DEVICE_FD: a descriptor of a device, by its name in the group.

        :param name: the device's address, with ` vf_token=UUID` behind it where its driver wants one
        :raises OSError: ENODEV when it is not in the group or not bound to a VFIO driver; EINVAL without a container;
            EACCES for a token that is wrong or missing, EINVAL for one that nobody wants
        """
        text = ffi.new("char[]", os.fsencode(name))
        number = self._fd.ioctl(lib.VFIO_GROUP_GET_DEVICE_FD, text)
        if number < 0:

            def clue() -> tuple[str | None, list[str]]:
                notes = [f"the group's devices and their drivers: {_listed(self.members)}"]
                if -number == errno.ENODEV:
                    return f"{name} is not in group {self.number}, or not bound to a VFIO driver", notes
                if -number == errno.EINVAL and self._container is None:
                    return "the group is in no container", []
                if (refused := explain.token_refused(number, given="vf_token=" in name)) is not None:
                    return refused, []
                if -number == errno.EINVAL:
                    return "the group's container has no IOMMU type set", []
                return None, notes

            raise explain.failed(self._fd, number, "VFIO_GROUP_GET_DEVICE_FD", repr(name), clue)
        try:
            return Fd(self._fd.kernel, number, "device", name)
        except BaseException:
            self._fd.kernel.close(number)
            raise

    def _release(self) -> None:
        self._fd.close()

    def _has_gone(self) -> bool:
        return self._fd.closed

    def _undo(self) -> None:
        if "_fd" in self.__dict__:
            self._fd.close()

    def __repr__(self) -> str:
        return f"<Group {self.number}{' (closed)' if self.closed else ''}>"


def _listed(members: dict[str, str | None]) -> str:
    return ", ".join(f"{name} ({driver or 'no driver'})" for name, driver in members.items()) or "none to be seen"
