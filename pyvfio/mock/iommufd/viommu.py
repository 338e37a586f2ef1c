# SPDX-License-Identifier: MIT
"""Virtual IOMMUs (struct iommufd_viommu): the part of an IOMMU that is passed to a guest."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.iommufd.bound import BoundDevice
from pyvfio.mock.iommufd.command import Command, command
from pyvfio.mock.iommufd.hwpt import PagingHwpt
from pyvfio.mock.iommufd.object import Object
from pyvfio.mock.iommufd.shared import Part
from pyvfio.mock.iommufd.user_data import UserData
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context
    from pyvfio.mock.iommufd.driver import Driver
    from pyvfio.mock.iommufd.event_queue import EventQueue
    from pyvfio.mock.iommufd.hw_queue import HwQueue
    from pyvfio.mock.iommufd.vdevice import Vdevice


class Viommu(Object):
    """A virtual IOMMU.

    :ivar driver: the IOMMU driver
    :ivar parent: the parent of the guest's nested page tables
    :ivar part: the mappable registers; None without
    :ivar vdevices: virtual id -> device
    :ivar event_queues: type -> event queue
    :ivar hw_queues: index -> hardware queue
    """

    def __init__(self, parent: PagingHwpt, driver: Driver) -> None:
        super().__init__(parent.ctx)
        self.driver = driver
        self.parent = parent
        parent.users += 1
        self.part: Part | None = None
        self.vdevices: dict[int, Vdevice] = {}
        self.event_queues: dict[int, EventQueue] = {}
        self.hw_queues: dict[int, HwQueue] = {}

    @property
    def busy(self) -> bool:
        return super().busy or (self.part is not None and self.part.mapped)

    def destroyed(self) -> None:
        if self.part is not None:
            self.ctx.shared.remove(self.part)
        self.parent.drop()


@command(lib.IOMMU_VIOMMU_ALLOC, "struct iommu_viommu_alloc", "out_viommu_id")
def _alloc(ctx: Context, cmd: Command) -> None:
    """Create a virtual IOMMU (iommufd_viommu_alloc_ioctl)."""
    c = cmd.c
    if c.flags or c.type == lib.IOMMU_VIOMMU_TYPE_DEFAULT:
        raise Errno(errno.EOPNOTSUPP)
    driver = ctx.get(c.dev_id, BoundDevice).driver
    driver.viommu(c.type)
    parent = ctx.get(c.hwpt_id, PagingHwpt)
    if not parent.nest_parent:
        raise Errno(errno.EINVAL)
    viommu = Viommu(parent, driver)
    try:
        driver.init_viommu(viommu, UserData(c.type, c.data_uptr, c.data_len))
        c.out_viommu_id = viommu.id
        cmd.respond()
    except Errno:
        ctx.remove(viommu)
        raise
