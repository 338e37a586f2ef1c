"""IOMMU groups: what a host cannot tell apart, and the files below /dev/vfio that stand for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


class GroupFile(File):
    """An open /dev/vfio/N."""

    kind = "group"

    def __init__(self, kernel: Kernel, group: Group) -> None:
        super().__init__(kernel)
        self.group = group
