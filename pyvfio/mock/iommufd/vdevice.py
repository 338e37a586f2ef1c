# SPDX-License-Identifier: MIT
"""Devices of virtual IOMMUs (struct iommufd_vdevice): the virtual id that a guest uses for a device."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.iommufd.bound import BoundDevice
from pyvfio.mock.iommufd.command import Command, command
from pyvfio.mock.iommufd.object import Object
from pyvfio.mock.iommufd.viommu import Viommu
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context


class Vdevice(Object):
    """A device of a virtual IOMMU; it ends when the device is unbound."""

    def __init__(self, viommu: Viommu, device: BoundDevice, virtual_id: int) -> None:
        super().__init__(viommu.ctx)
        self.viommu = viommu
        self.device = device
        self.virtual_id = virtual_id
        viommu.users += 1
        viommu.vdevices[virtual_id] = self
        device.vdevice = self

    def destroyed(self) -> None:
        del self.viommu.vdevices[self.virtual_id]
        self.viommu.drop()
        self.device.vdevice = None


@command(lib.IOMMU_VDEVICE_ALLOC, "struct iommu_vdevice_alloc", "virt_id")
def _alloc(ctx: Context, cmd: Command) -> None:
    """Create a device of a virtual IOMMU (iommufd_vdevice_alloc_ioctl)."""
    viommu = ctx.get(cmd.c.viommu_id, Viommu)
    device = ctx.get(cmd.c.dev_id, BoundDevice)
    if type(device.driver) is not type(viommu.driver):
        raise Errno(errno.EINVAL)
    if device.vdevice is not None or cmd.c.virt_id in viommu.vdevices:
        raise Errno(errno.EEXIST)
    vdevice = Vdevice(viommu, device, cmd.c.virt_id)
    cmd.c.out_vdevice_id = vdevice.id
    try:
        cmd.respond()
    except Errno:
        ctx.remove(vdevice)
        raise
