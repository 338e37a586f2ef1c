"""The devices of the mock's host, and what an open one answers."""

from __future__ import annotations

import errno
import os
from threading import Condition
from typing import TYPE_CHECKING, ClassVar

from pyvfio._abi import ffi, lib
from pyvfio.mock import caller
from pyvfio.mock.cdev import Cdev
from pyvfio.mock.errno import Errno
from pyvfio.mock.file import request

if TYPE_CHECKING:
    from pyvfio.mock.group import Group, GroupFile
    from pyvfio.mock.kernel import Kernel
    from pyvfio.mock.space import Space
    from pyvfio.mock.tree import Text


class Device:
    """One device of the mock's host, whoever drives it.

    :ivar name: its address on PCI, its name on another bus
    :ivar bus: `pci`, `platform`
    :ivar emulated: no IOMMU is behind it: the kernel copies for it, and under iommufd it is an access
    :ivar driver: the name of the driver that it is bound to, or None
    :ivar override: its `driver_override`
    :ivar group: its IOMMU group
    :ivar space: what its DMA goes through; None while it is attached to nothing
    :ivar files: the open files of it that may use it, all of one owner
    """

    bus: ClassVar[str] = "pci"
    emulated: ClassVar[bool] = False
    ids: tuple[int, int] = (0, 0)
    #: VFIO_DEVICE_GET_INFO
    flags: int = 0
    num_regions: int = 0
    num_irqs: int = 0

    def __init__(self, kernel: Kernel, name: str, *, group: Group | None = None, parent: str | None = None) -> None:
        self.kernel = kernel
        self.name = name
        self.path = self._place(parent)
        self.driver: str | None = None
        self.override: str | None = None
        self.space: Space | None = None
        self.files: list[DeviceFile] = []
        self._closed = Condition(kernel.lock)
        self.group = group or kernel.host.new_group(emulated=self.emulated)
        self.group.devices.append(self)
        kernel.host.plug(self)

    def _place(self, parent: str | None) -> str:
        if self.bus != "pci":
            return f"/sys/devices/{self.bus}/{self.name}"
        if parent is not None:
            return f"{self.kernel.devices[parent].path}/{self.name}"
        return f"/sys/devices/pci{self.name[:7]}/{self.name}"

    def attributes(self) -> dict[str, Text]:
        """What sysfs shows of it, besides links."""
        return {}

    def open_cdev(self, flags: int) -> int:
        """open(2) of its own file below /dev/vfio/devices."""
        return self.kernel.install(DeviceFile(self.kernel, self, by_group=False))

    @property
    def vfio(self) -> bool:
        """Whether a VFIO driver has it."""
        return self.kernel.host.is_vfio(self)

    @property
    def driven(self) -> bool:
        """Whether a driver has it that does DMA for the host."""
        driver = self.kernel.host.driver_of(self)
        return driver is not None and not driver.vfio and not driver.harmless

    def match(self, name: bytes) -> bool:
        """Whether VFIO_GROUP_GET_DEVICE_FD means this one.

        :raises Errno: it does, with options that the driver refuses
        """
        return name == self.name.encode()

    def dma_unmap(self, iova: int, size: int) -> None:
        """Mappings go away: pages that are pinned there are to be let go of (see :meth:`Space.pin`)."""

    # Opening and closing, by the first and the last of its files.

    def open_by_group(self, group: GroupFile) -> int:
        """VFIO_GROUP_GET_DEVICE_FD: a descriptor of it.

        :raises Errno: EINVAL without a container, or with one that has no IOMMU; what `start` raises
        """
        file = DeviceFile(self.kernel, self, by_group=True)
        fd = self.kernel.install(file)
        try:
            group.use(self)
            file.group = group
            file.grant()
        except Errno:
            self.kernel.close(fd)
            raise
        return fd

    def start(self) -> None:
        """The first of its files may use it now.

        :raises Errno: the driver's open failed
        """

    def end(self) -> None:
        """The last of its files has gone."""

    def wait_closed(self) -> None:
        """Wait until it is not open any more, as unbinding from a VFIO driver does."""
        while self.files:
            self._closed.wait()

    def closed(self, file: DeviceFile) -> None:
        self.files.remove(file)
        if not self.files:
            self.end()
            self._closed.notify_all()


class DeviceFile(Cdev):
    """An open VFIO device: by its group's GET_DEVICE_FD, or by its own file below /dev/vfio/devices.

    Who opens it by group, or binds it to an iommufd, calls :meth:`grant` once the device is attached to what it then goes through.

    :ivar by_group: opened by its group, so usable at once; a cdev must be bound to an iommufd first
    :ivar group: the group's file that it was opened by
    :ivar granted: it may be used
    """

    kind = "device"

    def __init__(self, kernel: Kernel, device: Device, *, by_group: bool) -> None:
        super().__init__(kernel, device)
        self.by_group = by_group
        self.group: GroupFile | None = None
        self.granted = False

    def grant(self) -> None:
        """From now on it may be used (vfio_df_open).

        :raises Errno: EINVAL by cdev when the device is in use, what the device's driver answers
        """
        if self.device.files and not self.by_group:
            raise Errno(errno.EINVAL)
        if not self.device.files:
            self.device.start()
        self.device.files.append(self)
        self.granted = True

    def release(self) -> None:
        if self.granted:
            self.granted = False
            self.device.closed(self)
        self.unbind()
        if self.group is not None:
            self.group.unuse(self.device)

    def descriptor(self) -> int:
        return os.memfd_create("pyvfio-mock-device", os.MFD_CLOEXEC)

    def ioctl(self, number: int, argument: int) -> int:
        if number != lib.VFIO_DEVICE_BIND_IOMMUFD and not self.granted:
            raise Errno(errno.EINVAL)
        return super().ioctl(number, argument)

    @request(lib.VFIO_DEVICE_GET_INFO)
    def _get_info(self, argument: int) -> None:
        least = ffi.offsetof("struct vfio_device_info", "num_irqs") + 4
        info = caller.take("struct vfio_device_info", argument, least)
        if info.argsz < least:
            raise Errno(errno.EINVAL)
        info.flags = self.device.flags
        info.num_regions = self.device.num_regions
        info.num_irqs = self.device.num_irqs
        caller.give(argument, info, min(info.argsz, ffi.sizeof(info[0])))
