"""A device, by group or by cdev."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from pyvfio import capability, explain
from pyvfio._abi import ffi, lib
from pyvfio.errors import Unsupported
from pyvfio.fd import Fd
from pyvfio.feature import Features
from pyvfio.lifetime import Resource
from pyvfio.region import Regions

if TYPE_CHECKING:
    from pyvfio.dirty import DirtyLog
    from pyvfio.group import Group
    from pyvfio.iova import IovaRange
    from pyvfio.irq import Irqs
    from pyvfio.pci import PciConfig
    from pyvfio.space import AddressSpace


class DeviceInfo(NamedTuple):
    """VFIO_DEVICE_GET_INFO: `struct vfio_device_info` with its capabilities.

    :ivar flags: VFIO_DEVICE_FLAGS_*
    """

    flags: int
    num_regions: int
    num_irqs: int
    capabilities: tuple[capability.Capability, ...]

    @property
    def is_pci(self) -> bool:
        return bool(self.flags & lib.VFIO_DEVICE_FLAGS_PCI)

    @property
    def resettable(self) -> bool:
        """Whether :meth:`Device.reset` can work."""
        return bool(self.flags & lib.VFIO_DEVICE_FLAGS_RESET)


class Device(Resource):
    """An open device. Made by `attach` of an address space, or by :func:`pyvfio.open`.

    Opening it changes nothing that was not asked for; the bus master bit is off, as the kernel leaves it. (With bus
    master off a PCI device can do no DMA: `device.config.bus_master = True`.)

    :ivar address: its name, for PCI "0000:00:03.0"
    :ivar address_space: what its DMA goes through
    :ivar group: the group that it was opened by; None by cdev
    """

    def __init__(self, fd: Fd, address: str, space: AddressSpace, group: Group | None = None) -> None:
        super().__init__(space)
        self._fd = fd
        self.address = address
        self.address_space = space
        self.group = group
        self._owned: AddressSpace | None = None
        #: the log that is running, so that a second start can name it
        self._log: DirtyLog | None = None
        try:
            _ = self.info
        except BaseException:
            self._closed = True
            raise

    def fileno(self) -> int:
        return self._fd.fileno()

    @cached_property
    def info(self) -> DeviceInfo:
        answer, data = capability.ask(self._fd, "VFIO_DEVICE_GET_INFO", "struct vfio_device_info")
        chain: list[capability.Capability] = []
        if answer.flags & lib.VFIO_DEVICE_FLAGS_CAPS:
            chain = capability.chain(data, answer.cap_offset, least=ffi.sizeof(answer[0]))
        return DeviceInfo(answer.flags, answer.num_regions, answer.num_irqs, tuple(chain))

    @cached_property
    def regions(self) -> Regions:
        """Its regions, by index; for PCI 0 to 5 are the BARs."""
        return Regions(self)

    @cached_property
    def irqs(self) -> Irqs:
        """Its interrupts, by index; for PCI also by name: `device.irqs.msi`."""
        from pyvfio.irq import Irqs

        return Irqs(self)

    @cached_property
    def config(self) -> PciConfig:
        """PCI configuration space.

        :raises Unsupported: it is no PCI device
        """
        from pyvfio.pci import PciConfig

        if not self.info.is_pci:
            raise Unsupported(f"{self.address} is no PCI device: it has no configuration space")
        return PciConfig(self)

    @cached_property
    def features(self) -> Features:
        return Features(self)

    def reset(self) -> None:
        """VFIO_DEVICE_RESET: a reset of this function alone.

        :raises Unsupported: the device has no such reset
        :raises OSError: EAGAIN, ENOTTY, EIO as the device's reset method says
        """
        error = self._fd.ioctl(lib.VFIO_DEVICE_RESET)
        if error < 0:
            if not self.info.resettable and not self._fd.closed:
                raise Unsupported(
                    f"{self.address} has no function-level reset "
                    f"(VFIO_DEVICE_RESET: {errno.errorcode.get(-error, -error)})"
                )
            raise explain.failed(self._fd, error, "VFIO_DEVICE_RESET")

    def dirty_log(self, ranges: Iterable[IovaRange], page_size: int = 4096) -> DirtyLog:
        """Have the device log which pages it writes; see :class:`pyvfio.DirtyLog`."""
        from pyvfio.dirty import DirtyLog

        return DirtyLog([self], ranges, page_size)

    def _release(self) -> None:
        self._fd.close()
        if self._owned is not None:
            self._owned.close()

    def __repr__(self) -> str:
        kernel = self._fd.kernel.name
        return (
            f"<Device {self.address} by {self.address_space.mode}"
            f"{'' if kernel == 'linux' else ' on ' + kernel}{' (closed)' if self.closed else ''}>"
        )


