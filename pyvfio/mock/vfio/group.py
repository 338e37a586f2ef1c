# SPDX-License-Identifier: MIT
"""IOMMU groups, the smallest sets of devices that an IOMMU can isolate, and their files below /dev/vfio."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.file import File, request

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel
    from pyvfio.mock.machine.profile import Reserved
    from pyvfio.mock.vfio.device import Device

#: maximum bytes of a device name, with its NUL: strndup_user(PAGE_SIZE) in the kernel
_NAME_SIZE = 4096


class Group:
    """One IOMMU group.

    :ivar number: the number in /sys/kernel/iommu_groups and /dev/vfio
    :ivar devices: all members, bound to any driver
    :ivar reserved: the reserved regions of the IOMMU
    :ivar emulated: a group that VFIO made for a device without an IOMMU, whose data the kernel copies
        (VFIO_EMULATED_IOMMU)
    :ivar no_iommu: a group for a device whose DMA nothing translates (VFIO_NO_IOMMU); it exists while a VFIO driver is
        bound
    :ivar file: the open file of the group: one at most; None without one
    :ivar users: open device -> the container of its first open, which the group may have left since
    :ivar cdevs: number of devices bound by their cdevs; the group's file cannot be opened meanwhile
    :ivar owner: the owner of the group's DMA: a container or an iommufd
    """

    def __init__(
        self, number: int, reserved: tuple[Reserved, ...] = (), *, emulated: bool = False, no_iommu: bool = False
    ) -> None:
        self.number = number
        self.reserved = reserved
        self.emulated = emulated
        self.no_iommu = no_iommu
        self.devices: list[Device] = []
        self.file: GroupFile | None = None
        self.users: dict[Device, GroupContainer] = {}
        self.cdevs = 0
        self.owner: object | None = None
        self._claims = 0

    def open(self, kernel: Kernel, flags: int) -> int:
        """Open /dev/vfio/N.

        :param kernel: the mock
        :param flags: flags of open(2)
        :raises Errno: EBUSY, the group is open, or one of its cdevs is bound; ENODEV, no device is bound to a VFIO
            driver; EPERM
        """
        kernel.check_raw_io(self)
        if not any(device.vfio for device in self.devices):
            raise Errno(errno.ENODEV)
        if self.cdevs or self.file is not None:
            raise Errno(errno.EBUSY)
        file = GroupFile(kernel, self)
        fd = kernel.install(file)
        self.file = file
        return fd

    @property
    def backed(self) -> bool:
        """Whether the group has an IOMMU."""
        return not self.emulated and not self.no_iommu

    @property
    def node(self) -> str:
        """The name of the group's file below /dev/vfio."""
        return f"noiommu-{self.number}" if self.no_iommu else str(self.number)

    # Ownership of DMA: either the host's drivers, or one user of VFIO.

    @property
    def claimed(self) -> bool:
        """Whether the group's DMA is owned: a driver of the host uses a member, or VFIO or iommufd has claimed it."""
        return self.owner is not None or any(device.driven for device in self.devices)

    def claim(self, owner: object) -> None:
        """Claim DMA ownership; the same owner may claim again, for another device (iommu_group_claim_dma_owner).

        :raises Errno: EPERM, another owner; EINVAL, the firmware requires a permanent 1:1 mapping (require_direct,
            since Linux 6.6)
        """
        if self.claimed and self.owner is not owner:
            raise Errno(errno.EPERM)
        if any(region.type == "direct" for region in self.reserved):
            raise Errno(errno.EINVAL)
        self.owner = owner
        self._claims += 1

    def release(self) -> None:
        """Undo one :meth:`claim`."""
        self._claims -= 1
        if not self._claims:
            self.owner = None


class GroupContainer(File):
    """A file that groups can be added to: a container, or an iommufd in its place."""

    def attach_group(self, group: Group) -> None:
        """Add a group that is in no container, for VFIO_GROUP_SET_CONTAINER."""
        raise NotImplementedError

    def detach_group(self, group: Group) -> None:
        """Remove a group, for VFIO_GROUP_UNSET_CONTAINER or because its file was closed."""
        raise NotImplementedError

    #: whether a group can be removed, or its file be closed, while one of its devices is open
    lets_go = False

    def use(self, device: Device) -> None:
        """Set up the DMA of a device, at its first open by its group.

        :raises Errno: EINVAL, no IOMMU is set
        """
        raise NotImplementedError

    def unuse(self, device: Device) -> None:
        """Undo :meth:`use`, when the last file of the device is closed."""
        raise NotImplementedError


class GroupFile(File):
    """An open /dev/vfio/N.

    :ivar container: the container or iommufd that the group is in; None without one
    """

    kind = "group"

    def __init__(self, kernel: Kernel, group: Group) -> None:
        super().__init__(kernel)
        self.group = group
        self.container: GroupContainer | None = None

    @request(lib.VFIO_GROUP_GET_STATUS)
    def _get_status(self, argument: int) -> None:
        """Return whether the group is viable and in a container (vfio_group_ioctl_get_status)."""
        status = caller.take("struct vfio_group_status", argument)
        if status.argsz < ffi.sizeof("struct vfio_group_status"):
            raise Errno(errno.EINVAL)
        status.flags = 0
        if self.container is not None:
            status.flags = lib.VFIO_GROUP_FLAGS_CONTAINER_SET | lib.VFIO_GROUP_FLAGS_VIABLE
        elif not self.group.claimed:
            status.flags = lib.VFIO_GROUP_FLAGS_VIABLE
        caller.give(argument, status)

    @request(lib.VFIO_GROUP_SET_CONTAINER)
    def _set_container(self, argument: int) -> None:
        """Put the group into a container or an iommufd (vfio_group_ioctl_set_container)."""
        fd = int.from_bytes(caller.read(argument, 4), "little", signed=True)
        file = self.kernel.file(fd)
        if self.container is not None:
            raise Errno(errno.EINVAL)
        if not isinstance(file, GroupContainer):
            raise Errno(errno.EBADFD)
        file.attach_group(self.group)
        self.container = file
        file.hold()

    @request(lib.VFIO_GROUP_UNSET_CONTAINER)
    def _unset_container(self, argument: int) -> None:
        """Take the group out of its container (vfio_group_ioctl_unset_container)."""
        if self.container is None:
            raise Errno(errno.EINVAL)
        if not self.container.lets_go and self.container in self.group.users.values():
            raise Errno(errno.EBUSY)
        self._leave()

    @request(lib.VFIO_GROUP_GET_DEVICE_FD)
    def _get_device_fd(self, argument: int) -> int:
        """Open a device of the group (vfio_group_ioctl_get_device_fd)."""
        name = caller.string(argument, _NAME_SIZE)
        for device in self.group.devices:
            if device.vfio and device.match(name):
                return device.open_by_group(self)
        raise Errno(errno.ENODEV)

    def use(self, device: Device) -> None:
        """Note that a device is opened. The first open sets up its DMA.

        In a container, an open device also keeps this file in use (vfio_group_use_container); in an iommufd it does
        not, so that the group's file can be closed and opened anew meanwhile.

        :raises Errno: EINVAL, no container, or one without an IOMMU
        """
        if self.container is None:
            raise Errno(errno.EINVAL)
        if not device.files:
            self.container.use(device)
            self.group.users[device] = self.container
            if not self.container.lets_go:
                self.hold()

    def unuse(self, device: Device) -> None:
        """Note that a file of a device is closed; the last one undoes :meth:`use`."""
        if not device.files:
            container = self.group.users.pop(device)
            container.unuse(device)
            if not container.lets_go:
                self.drop()

    def _leave(self) -> None:
        container, self.container = self.container, None
        if container is not None:
            container.detach_group(self.group)
            container.drop()

    def release(self) -> None:
        self._leave()
        self.group.file = None
