# SPDX-License-Identifier: MIT
"""The open file of a device, on which its regions, interrupts, features and logs make their requests."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio._core import capability
from pyvfio._core.fd import Fd
from pyvfio._core.flags import names
from pyvfio._core.request import Request
from pyvfio.kernel import Kernel

GET_INFO = Request("VFIO_DEVICE_GET_INFO", "device", "struct vfio_device_info")


class DeviceInfo(NamedTuple):
    """The properties of a device. VFIO_DEVICE_GET_INFO, `struct vfio_device_info` with its capabilities.

    :ivar flags: VFIO_DEVICE_FLAGS_*
    """

    flags: int
    num_regions: int
    num_irqs: int
    capabilities: tuple[capability.Capability, ...]

    def __repr__(self) -> str:
        flags = names(self.flags, "VFIO_DEVICE_FLAGS_")
        return f"DeviceInfo(flags={flags}, num_regions={self.num_regions}, num_irqs={self.num_irqs}, capabilities={self.capabilities})"

    @property
    def is_pci(self) -> bool:
        """Whether it is a PCI device (VFIO_DEVICE_FLAGS_PCI): its regions are BARs, and it has a configuration space."""
        return bool(self.flags & lib.VFIO_DEVICE_FLAGS_PCI)

    @property
    def resettable(self) -> bool:
        """Whether :meth:`Device.reset` can work."""
        return bool(self.flags & lib.VFIO_DEVICE_FLAGS_RESET)


class DeviceFile:
    """The descriptor of a device, its address, and its VFIO_DEVICE_GET_INFO.

    :class:`pyvfio.Device` makes one, and its parts hold it.

    :ivar fd: the descriptor
    :ivar address: the device's name, for PCI "0000:00:03.0"
    """

    def __init__(self, fd: Fd, address: str) -> None:
        self.fd = fd
        self.address = address

    @property
    def kernel(self) -> Kernel:
        """The kernel that the descriptor belongs to."""
        return self.fd.kernel

    @property
    def closed(self) -> bool:
        """Whether the descriptor is closed: by this process, or because this is a forked child."""
        return self.fd.closed

    @cached_property
    def info(self) -> DeviceInfo:
        """The answer of VFIO_DEVICE_GET_INFO; cached."""
        answer, data = capability.ask(self.fd, GET_INFO)
        chain: list[capability.Capability] = []
        if answer.flags & lib.VFIO_DEVICE_FLAGS_CAPS:
            chain = capability.chain(data, answer.cap_offset, least=ffi.sizeof(answer[0]))
        return DeviceInfo(answer.flags, answer.num_regions, answer.num_irqs, tuple(chain))
