"""The devices of the mock's host, and what an open one answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pyvfio.mock.file import File

if TYPE_CHECKING:
    from pyvfio.mock.group import Group
    from pyvfio.mock.kernel import Kernel
    from pyvfio.mock.space import Space


class Device:
    """One device of the mock's host, whoever drives it.

    :ivar name: its address on PCI, its name on another bus
    :ivar bus: `pci`, `platform`
    :ivar emulated: no IOMMU is behind it: the kernel copies for it, and under iommufd it is an access
    :ivar driver: the name of the driver that it is bound to, or None
    :ivar group: its IOMMU group
    :ivar space: what its DMA goes through; None while it is attached to nothing
    :ivar files: the open files of it, all of one owner
    """

    bus: ClassVar[str] = "pci"
    emulated: ClassVar[bool] = False

    def __init__(self, kernel: Kernel, name: str, group: Group, driver: str | None = None) -> None:
        self.kernel = kernel
        self.name = name
        self.group = group
        self.driver = driver
        self.space: Space | None = None
        self.files: list[DeviceFile] = []
        group.devices.append(self)


class DeviceFile(File):
    """An open VFIO device: by its group's GET_DEVICE_FD, or by its own file below /dev/vfio/devices.

    :ivar by_group: opened by its group, so usable at once; a cdev must be bound to an iommufd first
    """

    kind = "device"

    def __init__(self, kernel: Kernel, device: Device, *, by_group: bool) -> None:
        super().__init__(kernel)
        self.device = device
        self.by_group = by_group
