# SPDX-License-Identifier: MIT
"""Page tables of IOMMUs as objects of an iommufd (struct iommufd_hw_pagetable)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.iommufd.domain import Domain
from pyvfio.mock.iommufd.ioas import Ioas
from pyvfio.mock.iommufd.object import Object
from pyvfio.mock.iommufd.user_data import UserData
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.bound import BoundDevice
    from pyvfio.mock.iommufd.context import Context
    from pyvfio.mock.iommufd.driver import Driver
    from pyvfio.mock.iommufd.fault_queue import FaultQueue
    from pyvfio.mock.iommufd.viommu import Viommu

_NO_DATA = UserData(lib.IOMMU_HWPT_DATA_NONE, 0, 0)
_NEST, _PASID = lib.IOMMU_HWPT_ALLOC_NEST_PARENT, lib.IOMMU_HWPT_ALLOC_PASID


class Hwpt(Object):
    """A page table.

    :ivar driver: the IOMMU driver
    :ivar domain: the translation of the devices' DMA
    :ivar paging: the page table that the kernel manages: this one, or the parent of a nested one
    :ivar viommu: the virtual IOMMU that it belongs to; None without one
    :ivar fault_queue: the queue of its page faults; None without one
    :ivar pasid_compatible: created with IOMMU_HWPT_ALLOC_PASID
    """

    domain: Domain
    paging: PagingHwpt
    viommu: Viommu | None = None

    def __init__(self, ctx: Context, driver: Driver, flags: int) -> None:
        super().__init__(ctx)
        self.driver = driver
        self.pasid_compatible = bool(flags & _PASID)
        self.fault_queue: FaultQueue | None = None

    def destroyed(self) -> None:
        if self.fault_queue is not None:
            self.fault_queue.drop()

    def let_go(self) -> None:
        """Drop the user count of a device that has been detached."""
        self.drop()


class PagingHwpt(Hwpt):
    """A page table that maps an IOAS (struct iommufd_hwpt_paging).

    :ivar automatic: created by an attachment to the IOAS, and destroyed with the last such attachment (auto_domain)
    :ivar nest_parent: nested page tables can be created on it
    """

    def __init__(
        self,
        ioas: Ioas,
        flags: int,
        device: BoundDevice,
        *,
        data: UserData = _NO_DATA,
        automatic: bool = False,
        pasid: int = 0,
    ) -> None:
        """
        :param data: the caller's data for the driver
        :param automatic: attach the device, with `pasid`, before the page table is filled
        """
        super().__init__(ioas.ctx, device.driver, flags)
        self.ioas = ioas
        self.paging = self
        self.automatic = automatic
        self.nest_parent = bool(flags & _NEST)
        shape, tracks = device.driver.shape(data), bool(flags & lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
        self.domain = Domain(device.driver, shape, ioas.table, ioas.ctx.kernel.profile.page_size, tracks=tracks)
        try:
            if automatic:
                device.attach_to(self, pasid)
            try:
                ioas.table.add_domain(self.domain)
            except Errno:
                if automatic:
                    device.detach_from(pasid)
                raise
        except Errno:
            self.ctx.abort(self)
            raise
        ioas.users += 1
        ioas.hwpts.append(self)

    def let_go(self) -> None:
        super().let_go()
        if self.automatic and self.users == 1:
            self.ctx.remove(self)

    def destroyed(self) -> None:
        self.ioas.hwpts.remove(self)
        self.ioas.table.remove_domain(self.domain)
        super().destroyed()
        self.ioas.drop()
