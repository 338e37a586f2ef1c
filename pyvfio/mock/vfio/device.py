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
    """One device of the mock's host, whoever drives it; and, while a VFIO driver has it, that driver.

    What VFIO's core does for all drivers is :class:`DeviceFile`'s; the driver's requests are handlers here.

    :ivar name: its address on PCI, its name on another bus
    :ivar bus: `pci`, `platform`
    :ivar emulated: no IOMMU is behind it: the kernel copies for it, and under iommufd it is an access
    :ivar driver: the name of the driver that it is bound to, or None
    :ivar override: its `driver_override`
    :ivar group: its IOMMU group
    :ivar parent: the name of the bridge that it is behind, or None
    :ivar space: what its DMA goes through; None while it is attached to nothing
    :ivar files: the open files of it that may use it, all of one owner
    :ivar region_file: the memory that programs map of its regions
    :ivar irqs: its interrupts
    :ivar log: its log of DMA, if it has one; so `migration`
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
        # What has no IOMMU shares no group.
        self.group = (None if kernel.physical else group) or kernel.host.new_group(emulated=self.emulated)
        self.group.devices.append(self)
        kernel.host.plug(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} of {self.kernel!r}>"

    # What the host shows of it.

    def _place(self) -> str:
        if self.bus != "pci":
            return f"/sys/devices/{self.bus}/{self.name}"
        if self.parent is not None:
            return f"{self.kernel.devices[self.parent].path}/{self.name}"
        return f"/sys/devices/pci{self.name[:7]}/{self.name}"

    def attributes(self) -> dict[str, Text]:
        """Its files in sysfs, besides links."""
        return {}

    def properties(self) -> dict[str, str]:
        """The variables of its uevents."""
        return {} if self.driver is None else {"DRIVER": self.driver}

    @property
    def vfio(self) -> bool:
        """Whether it is bound to a VFIO driver."""
        driver = self.kernel.host.driver_of(self)
        return driver is not None and driver.vfio

    @property
    def driven(self) -> bool:
        """Whether it is bound to a driver that does DMA for the host, which keeps its group from VFIO."""
        driver = self.kernel.host.driver_of(self)
        return driver is not None and not driver.vfio and not driver.harmless

    # Opening and closing, by the first and the last of its files.

    def match(self, name: bytes) -> bool:
        """Whether VFIO_GROUP_GET_DEVICE_FD means this one: the name, and words behind it, of which `vf_token=UUID` is known.

        :raises Errno: EINVAL, other words; as :meth:`check_token`
        """
        words = token.words(name, self.name)
        if words is None:
            return False
        self.check_token(token.token(words))
        return True

    def check_token(self, given: bytes | None) -> None:
        """Whether somebody with that token (a UUID), or none, may open it.

        :raises Errno: EINVAL, it wants none; EACCES, it wants another
        """
        if given is not None:
            raise Errno(errno.EINVAL)

    def open(self) -> None:
        """The first of its files may use it now.

        :raises Errno: the driver refuses
        """

    def close(self) -> None:
        """The last of its files has gone."""
        self.irqs.off()
        if self.log is not None:
            self.log.off()
        if self.migration is not None:
            self.migration.close()

    def open_cdev(self, flags: int) -> int:
        """open(2) of its own file below /dev/vfio/devices.

        :raises Errno: EPERM
        """
        from pyvfio.mock.vfio.device_file import DeviceFile

        self.kernel.check_raw_io(self.group)
        return self.kernel.install(DeviceFile(self.kernel, self, by_group=False))

    def open_by_group(self, group: GroupFile) -> int:
        """VFIO_GROUP_GET_DEVICE_FD: a descriptor of it.

        :raises Errno: EINVAL without a container, or with one that has no IOMMU; what `open` raises
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
        """One of its files is no more."""
        self.files.remove(file)
        if not self.files:
            self.close()
            self._closed.notify_all()

    def wait_closed(self) -> None:
        """Wait until it is not open any more, as unbinding from a VFIO driver does; the owner is asked by interrupt."""
        while self.files:
            self.irqs.interrupt(REQ)
            self._closed.wait(_REQUEST_PERIOD)

    # Its DMA.

    @property
    def reach(self) -> Space | None:
        """The translation that its DMA goes through: without an IOMMU all memory, whatever it is attached to."""
        return self.kernel.physical if self.group.no_iommu else self.space

    def dma_read(self, iova: int, size: int) -> bytes:
        """The contents of memory there.

        :raises Errno: nothing is mapped there, or not for reading
        """
        if self.reach is None:
            raise Errno(errno.ENOENT)
        return self.reach.read(iova, size)

    def dma_write(self, iova: int, data: bytes) -> None:
        """Write to memory; what was written is logged.

        :raises Errno: nothing is mapped there, or not for writing
        """
        if self.reach is None:
            raise Errno(errno.ENOENT)
        self.reach.write(iova, data)
        if self.log is not None:
            self.log.mark(iova, len(data))

    def dma_unmap(self, iova: int, size: int) -> None:
        """Mappings go away: pages that are pinned there are to be let go of."""

    def before_report(self) -> None:
        """A report of its log is about to be answered."""

    # Its regions.

    @property
    def decodes_memory(self) -> bool:
        """Whether it answers at its regions."""
        return True

    def region(self, index: int) -> Region:
        """
        :raises Errno: EINVAL, it has none of that index
        """
        raise Errno(errno.EINVAL)

    def pread(self, size: int, position: int) -> bytes:
        raise Errno(errno.EINVAL)

    def pwrite(self, data: bytes, position: int) -> int:
        raise Errno(errno.EINVAL)

    def traps(self, index: int) -> bool:
        """Whether a region has registers that a program may map: each access is one of the model's, and there is no memory."""
        return False

    def check_mmap(self, index: int, offset: int, size: int) -> None:
        """
        :raises Errno: EINVAL, that part of the region cannot be mapped
        """
        if not self.region(index).may_map(offset, size):
            raise Errno(errno.EINVAL)

    def mapped(self, index: int, memory: mmap.mmap) -> None:
        """A program has mapped a part of a region."""

    def memory(self, index: int) -> mmap.mmap:
        """The memory of a region, which is also what a program maps."""
        return self.region_file.memory(index, self.region(index).size)

    # Its requests.

    def feature(self, asked: feature.Feature) -> int | None:
        """A VFIO_DEVICE_FEATURE that VFIO's core does not know.

        :raises Errno: ENOTTY, it does not have it
        """
        raise Errno(errno.ENOTTY)

    def resume(self) -> None:
        """Called before it is used in any way: it may be asleep."""

    def check_call(self, kind: str) -> None:
        """Called first by the requests below.

        :raises Errno: this one is to fail
        """

    @request(lib.VFIO_DEVICE_GET_INFO)
    def _get_info(self, argument: int) -> None:
        """Return what the device is (vfio_pci_ioctl_get_info)."""
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
        """Return the bytes of the answer to VFIO_DEVICE_GET_INFO that are copied out."""
        return ffi.offsetof("struct vfio_device_info", "cap_offset")

    @request(lib.VFIO_DEVICE_GET_IRQ_INFO)
    def _get_irq_info(self, argument: int) -> None:
        """Return what an interrupt is (vfio_pci_ioctl_get_irq_info)."""
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
        """
        :raises Errno: EINVAL, it has none
        """
        raise Errno(errno.EINVAL)
