# SPDX-License-Identifier: MIT
"""The devices of the mock's host, and the drivers that serve them."""

from __future__ import annotations

import errno
import mmap
from threading import Condition
from typing import TYPE_CHECKING, ClassVar

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.file import Handlers, request
from pyvfio.mock.vfio import feature
from pyvfio.mock.vfio.irq import REQ, Irqs, take_set
from pyvfio.mock.vfio.pci import token
from pyvfio.mock.vfio.region import Region, RegionFile

if TYPE_CHECKING:
    from pyvfio.mock.fs.tree import Text
    from pyvfio.mock.machine.kernel import Kernel
    from pyvfio.mock.vfio.device_file import DeviceFile
    from pyvfio.mock.vfio.group import Group, GroupFile
    from pyvfio.mock.vfio.log import Log
    from pyvfio.mock.vfio.migration import Migration
    from pyvfio.mock.vfio.space import Space

#: seconds between two signals of the request interrupt while an unbinding waits
_REQUEST_PERIOD = 10


class Device(Handlers):
    """One device of the mock's host, bound to any driver; while a VFIO driver is bound, also that driver.

    :class:`DeviceFile` handles the ioctls of VFIO's core; this class handles those of the driver.

    :ivar name: the PCI address, or the name on another bus
    :ivar bus: `pci`, `platform`
    :ivar emulated: there is no IOMMU: the kernel copies the device's data, and iommufd treats the device as an access
    :ivar driver: the name of the bound driver; None without one
    :ivar override: `driver_override` in sysfs
    :ivar group: the IOMMU group
    :ivar parent: the name of the bridge above the device; None without one
    :ivar space: the address space of its DMA; None while it is not attached
    :ivar files: the open files that have been granted access, all of one owner
    :ivar region_file: the memory of the regions that programs can map
    :ivar irqs: the interrupts
    :ivar log: the DMA log; None without DMA logging. `migration`: the migration state; None without migration
    """

    bus: ClassVar[str] = "pci"
    emulated: ClassVar[bool] = False
    ids: tuple[int, int] = (0, 0)
    #: VFIO_DEVICE_GET_INFO
    flags: int = 0
    num_regions: int = 0
    num_irqs: int = 0

    irqs: Irqs
    log: Log | None = None
    migration: Migration | None = None

    def __init__(self, kernel: Kernel, name: str, *, group: Group | None = None, parent: str | None = None) -> None:
        if name in kernel.devices:
            raise ValueError(f"{kernel!r} has a device {name} already")
        self.kernel = kernel
        self.name = name
        self.parent = parent
        self.path = self._place()
        self.driver: str | None = None
        self.override: str | None = None
        self.space: Space | None = None
        self.files: list[DeviceFile] = []
        self._closed = Condition(kernel.lock)
        self.region_file = RegionFile(name)
        # Without an IOMMU each device gets a group of its own.
        self.group = (None if kernel.physical else group) or kernel.host.new_group(emulated=self.emulated)
        self.group.devices.append(self)
        kernel.host.plug(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} of {self.kernel!r}>"

    # sysfs.

    def _place(self) -> str:
        if self.bus != "pci":
            return f"/sys/devices/{self.bus}/{self.name}"
        if self.parent is not None:
            return f"{self.kernel.devices[self.parent].path}/{self.name}"
        return f"/sys/devices/pci{self.name[:7]}/{self.name}"

    def attributes(self) -> dict[str, Text]:
        """Return the device's files in sysfs, without the links."""
        return {}

    def properties(self) -> dict[str, str]:
        """Return the variables of the device's uevents."""
        return {} if self.driver is None else {"DRIVER": self.driver}

    @property
    def vfio(self) -> bool:
        """Whether the device is bound to a VFIO driver."""
        driver = self.kernel.host.driver_of(self)
        return driver is not None and driver.vfio

    @property
    def driven(self) -> bool:
        """Whether the device is bound to a driver that does DMA for the host, so that VFIO cannot use its group."""
        driver = self.kernel.host.driver_of(self)
        return driver is not None and not driver.vfio and not driver.harmless

    # Opening and closing.

    def match(self, name: bytes) -> bool:
        """Whether the argument of VFIO_GROUP_GET_DEVICE_FD names this device.

        :param name: the device's name, followed by `vf_token=UUID` or nothing
        :raises Errno: EINVAL, other words; or that of :meth:`check_token`
        """
        words = token.words(name, self.name)
        if words is None:
            return False
        self.check_token(token.token(words))
        return True

    def check_token(self, given: bytes | None) -> None:
        """Check the VF token (a UUID) of a program that opens the device; None: it gave none.

        :raises Errno: EINVAL, the device takes no token; EACCES, it is not the right one
        """
        if given is not None:
            raise Errno(errno.EINVAL)

    def open(self) -> None:
        """Open the device in the driver, for the first file that is granted access.

        :raises Errno: the driver refuses
        """

    def close(self) -> None:
        """Close the device in the driver, after the last file has been closed."""
        self.irqs.off()
        if self.log is not None:
            self.log.off()
        if self.migration is not None:
            self.migration.close()

    def open_cdev(self, flags: int) -> int:
        """Open the device's cdev below /dev/vfio/devices.

        :param flags: flags of open(2)
        :raises Errno: EPERM
        """
        from pyvfio.mock.vfio.device_file import DeviceFile

        self.kernel.check_raw_io(self.group)
        return self.kernel.install(DeviceFile(self.kernel, self, by_group=False))

    def open_by_group(self, group: GroupFile) -> int:
        """Return a descriptor for VFIO_GROUP_GET_DEVICE_FD.

        :raises Errno: EINVAL, no container, or one without an IOMMU; or that of :meth:`open`
        """
        from pyvfio.mock.vfio.device_file import DeviceFile

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

    def leave(self, file: DeviceFile) -> None:
        """Remove a closed file; after the last one, close the device."""
        self.files.remove(file)
        if not self.files:
            self.close()
            self._closed.notify_all()

    def wait_closed(self) -> None:
        """Wait until the device is closed, and signal the request interrupt meanwhile (vfio_unregister_group_dev)."""
        while self.files:
            self.irqs.interrupt(REQ)
            self._closed.wait(_REQUEST_PERIOD)

    # DMA.

    @property
    def reach(self) -> Space | None:
        """The address space of the device's DMA; without an IOMMU, physical memory, independent of any attachment."""
        return self.kernel.physical if self.group.no_iommu else self.space

    def dma_read(self, iova: int, size: int) -> bytes:
        """Read memory by DMA.

        :raises Errno: the range is not mapped, or not for reading
        """
        if self.reach is None:
            raise Errno(errno.ENOENT)
        return self.reach.read(iova, size)

    def dma_write(self, iova: int, data: bytes) -> None:
        """Write memory by DMA, and record the pages in the log.

        :raises Errno: the range is not mapped, or not for writing
        """
        if self.reach is None:
            raise Errno(errno.ENOENT)
        self.reach.write(iova, data)
        if self.log is not None:
            self.log.mark(iova, len(data))

    def dma_unmap(self, iova: int, size: int) -> None:
        """Unpin the pages of a range that is being unmapped (the driver's dma_unmap)."""

    def before_report(self) -> None:
        """Called before a report of the DMA log."""

    # Regions.

    @property
    def decodes_memory(self) -> bool:
        """Whether the regions are accessible."""
        return True

    def region(self, index: int) -> Region:
        """Return the description of a region.

        :raises Errno: EINVAL, there is no such region
        """
        raise Errno(errno.EINVAL)

    def pread(self, size: int, position: int) -> bytes:
        raise Errno(errno.EINVAL)

    def pwrite(self, data: bytes, position: int) -> int:
        raise Errno(errno.EINVAL)

    def traps(self, index: int) -> bool:
        """Whether a region is mappable but consists of registers: there is no memory, the model handles each access."""
        return False

    def check_mmap(self, index: int, offset: int, size: int) -> None:
        """Check that a part of a region can be mapped.

        :raises Errno: EINVAL
        """
        if not self.region(index).may_map(offset, size):
            raise Errno(errno.EINVAL)

    def mapped(self, index: int, memory: mmap.mmap) -> None:
        """Called after a program has mapped a part of a region."""

    def memory(self, index: int) -> mmap.mmap:
        """Return the memory of a region, which programs map too."""
        return self.region_file.memory(index, self.region(index).size)

    # ioctls.

    def feature(self, asked: feature.Feature) -> int | None:
        """Handle a VFIO_DEVICE_FEATURE that VFIO's core does not handle.

        :raises Errno: ENOTTY, the driver does not have it
        """
        raise Errno(errno.ENOTTY)

    def resume(self) -> None:
        """Called before each access, to wake a suspended device."""

    def check_call(self, kind: str) -> None:
        """Called first by the ioctls below, so that a subclass can make one fail.

        :param kind: the ioctl, such as `GET_INFO`
        :raises Errno: the error of this call
        """

    @request(lib.VFIO_DEVICE_GET_INFO)
    def _get_info(self, argument: int) -> None:
        """Return flags and numbers of regions and interrupts (vfio_pci_ioctl_get_info)."""
        self.check_call("GET_INFO")
        size = ffi.offsetof("struct vfio_device_info", "cap_offset")
        info = caller.take("struct vfio_device_info", argument, size)
        if info.argsz < size:
            raise Errno(errno.EINVAL)
        self.fill_info(info)
        caller.give(argument, info, self.info_size(info.argsz))

    def fill_info(self, info: object) -> None:
        answer = ffi.cast("struct vfio_device_info *", info)
        answer.flags = self.flags
        answer.num_regions = self.num_regions
        answer.num_irqs = self.num_irqs

    def info_size(self, argsz: int) -> int:
        """Return the number of bytes that VFIO_DEVICE_GET_INFO copies out."""
        return ffi.offsetof("struct vfio_device_info", "cap_offset")

    @request(lib.VFIO_DEVICE_GET_IRQ_INFO)
    def _get_irq_info(self, argument: int) -> None:
        """Return flags and count of an interrupt index (vfio_pci_ioctl_get_irq_info)."""
        self.check_call("IRQ_INFO")
        info = caller.take("struct vfio_irq_info", argument)
        if info.argsz < ffi.sizeof("struct vfio_irq_info") or info.index >= len(self.irqs.counts):
            raise Errno(errno.EINVAL)
        info.flags = self.irqs.flags(info.index)
        info.count = self.irqs.counts[info.index]
        caller.give(argument, info)

    @request(lib.VFIO_DEVICE_SET_IRQS)
    def _set_irqs(self, argument: int) -> int | None:
        """Enable, disable, mask or raise interrupts (vfio_pci_ioctl_set_irqs)."""
        self.check_call("SET_IRQS")
        return self.irqs.set(take_set(argument, self.irqs.counts))

    @request(lib.VFIO_DEVICE_RESET)
    def _reset(self, argument: int) -> None:
        """Reset the device (vfio_pci_ioctl_reset)."""
        self.check_call("RESET")
        self.reset()

    def reset(self) -> None:
        """Reset the device.

        :raises Errno: EINVAL, the device has no reset
        """
        raise Errno(errno.EINVAL)
