# SPDX-License-Identifier: MIT
"""IOMMU groups: what a host cannot tell apart, and the files below /dev/vfio that stand for them."""

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

#: The longest device name that is taken, with its end: a page of the real kernel's
_NAME_SIZE = 4096


class Group:
    """One IOMMU group.

    :ivar number: as in /sys/kernel/iommu_groups, and /dev/vfio
    :ivar devices: all members, whatever drives them
    :ivar reserved: the regions that its IOMMU keeps back
    :ivar emulated: its device has no IOMMU behind it, and the group is VFIO's own
    :ivar no_iommu: neither has it, nor does the kernel copy for it: the group is there while a VFIO driver has the device
    :ivar file: the open file of it, of which there is one at most
    :ivar cdevs: how many of its devices are open by files of their own, which keeps the group's from being opened
    :ivar owner: who has its DMA: the group's file or an iommufd
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
        self.cdevs = 0
        self.owner: object | None = None
        self._claims = 0

    def open(self, kernel: Kernel, flags: int) -> int:
        """open(2) of /dev/vfio/N.

        :raises Errno: EBUSY when it or one of its devices is open, ENODEV without a device of VFIO's, EPERM
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
        """Whether an IOMMU is behind it."""
        return not self.emulated and not self.no_iommu

    @property
    def node(self) -> str:
        """Its name in VFIO."""
        return f"noiommu-{self.number}" if self.no_iommu else str(self.number)

    # Who has its DMA: the host's drivers, or one owner of VFIO's.

    @property
    def claimed(self) -> bool:
        """Whether VFIO may not have it: a driver of the host uses a member, or somebody has claimed it."""
        return self.owner is not None or any(device.driven for device in self.devices)

    def claim(self, owner: object) -> None:
        """Make it one owner's; the same owner may claim it again, for another device of it (iommu_group_claim_dma_owner).

        :raises Errno: EPERM; EINVAL, the firmware wants memory mapped one to one for it at all times (since Linux 6.6)
        """
        if self.claimed and self.owner is not owner:
            raise Errno(errno.EPERM)
        if any(region.type == "direct" for region in self.reserved):
            raise Errno(errno.EINVAL)
        self.owner = owner
        self._claims += 1

    def release(self) -> None:
        """Undo one `claim`."""
        self._claims -= 1
        if not self._claims:
            self.owner = None


class GroupContainer(File):
    """A place for groups: a container, or an iommufd that stands in for one."""

    def attach_group(self, group: Group) -> None:
        """VFIO_GROUP_SET_CONTAINER, once it is clear that the group is in none."""
        raise NotImplementedError

    def detach_group(self, group: Group) -> None:
        """The group leaves, by itself or because its file is gone."""
        raise NotImplementedError

    #: whether a group can leave while one of its devices is open
    lets_go = False

    def use(self, device: Device) -> None:
        """A device is opened by its group, for the first time.

        :raises Errno: EINVAL without an IOMMU
        """
        raise NotImplementedError

    def unuse(self, device: Device) -> None:
        """The last file of a device that was opened by its group is gone."""
        raise NotImplementedError


class GroupFile(File):
    """An open /dev/vfio/N.

    :ivar container: what it was put into
    :ivar users: its devices that are open, and what they were opened through: it may have left that since
    """

    kind = "group"

    def __init__(self, kernel: Kernel, group: Group) -> None:
        super().__init__(kernel)
        self.group = group
        self.container: GroupContainer | None = None
        self.users: dict[Device, GroupContainer] = {}

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
        if self.users and not self.container.lets_go:
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
        """A device of it is opened; the first time counts, and holds the group.

        :raises Errno: EINVAL without a container, or with one that has no IOMMU
        """
        if self.container is None:
            raise Errno(errno.EINVAL)
        if not device.files:
            self.container.use(device)
            self.users[device] = self.container
            self.hold()

    def unuse(self, device: Device) -> None:
        """A file of a device is gone; the last time counts."""
        if not device.files:
            self.users.pop(device).unuse(device)
            self.drop()

    def _leave(self) -> None:
        container, self.container = self.container, None
        if container is not None:
            container.detach_group(self.group)
            container.drop()

    def release(self) -> None:
        self._leave()
        self.group.file = None
