"""IOMMU groups: what a host cannot tell apart, and the files below /dev/vfio that stand for them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.mock.errno import Errno
from pyvfio.mock.file import File

if TYPE_CHECKING:
    from pyvfio.mock.device import Device
    from pyvfio.mock.kernel import Kernel


class Group:
    """One IOMMU group.

    :ivar number: as in /sys/kernel/iommu_groups, and /dev/vfio
    :ivar devices: all members, whatever drives them
    :ivar file: the open file of it, of which there is one at most
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.devices: list[Device] = []
        self.file: GroupFile | None = None

    def open(self, kernel: Kernel, flags: int) -> int:
        """open(2) of /dev/vfio/N.

        :raises Errno: EBUSY, it is open, or a device of it by cdev
        """
        if self.file is not None or any(device.files for device in self.devices):
            raise Errno(errno.EBUSY)
        file = GroupFile(kernel, self)
        fd = kernel.install(file)
        self.file = file
        return fd


class GroupFile(File):
    """An open /dev/vfio/N."""

    kind = "group"

    def __init__(self, kernel: Kernel, group: Group) -> None:
        super().__init__(kernel)
        self.group = group

    def release(self) -> None:
        self.group.file = None
