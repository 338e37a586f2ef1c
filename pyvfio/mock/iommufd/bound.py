# SPDX-License-Identifier: MIT
"""Devices behind an IOMMU, as objects of an iommufd, and what they are attached to."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.iommufd.access import Access
from pyvfio.mock.iommufd.fault_queue import Fault
from pyvfio.mock.iommufd.hwpt import Hwpt, PagingHwpt
from pyvfio.mock.iommufd.ioas import Ioas
from pyvfio.mock.iommufd.object import Object
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context
    from pyvfio.mock.iommufd.driver import Driver
    from pyvfio.mock.iommufd.vdevice import Vdevice
    from pyvfio.mock.iommufd.viommu import Viommu
    from pyvfio.mock.vfio.device import Device
    from pyvfio.mock.vfio.group import Group


class BoundGroup:
    """An IOMMU group in an iommufd: all of its devices share their page table.

    :ivar attached: PASID, or 0 for DMA without one -> the page table, and the devices that were attached to it
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.devices = 0
        self.attached: dict[int, tuple[Hwpt, list[BoundDevice]]] = {}

    def show(self) -> None:
        """Give all devices of the group the page table that their DMA goes through now."""
        hwpt, _ = self.attached.get(0, (None, None))
        for device in self.group.devices:
            device.space = hwpt.domain if hwpt is not None else None

    def check_pasid(self, hwpt: Hwpt, pasid: int) -> None:
        """:raises Errno: EINVAL, a page table that is not made for PASIDs with one that needs it"""
        if not pasid:
            if not hwpt.pasid_compatible and any(self.attached):
                raise Errno(errno.EINVAL)
            return
        if not hwpt.pasid_compatible:
            raise Errno(errno.EINVAL)
        plain = self.attached.get(0)
        if plain is not None and not plain[0].pasid_compatible:
            raise Errno(errno.EINVAL)


class BoundDevice(Object):
    """A device that an iommufd has."""

    def __init__(self, ctx: Context, device: Device, driver: Driver | None = None) -> None:
        """
        :param driver: that of its IOMMU, if it is not the host's: a device of the selftest, which goes with the iommufd
        :raises Errno: EPERM, somebody else has its group
        """
        if driver is None:
            ctx.kernel.check_isolated("iommufd")
        device.group.claim(ctx)
        super().__init__(ctx)
        self._keeps = driver is None
        if self._keeps:
            ctx.hold()
        self.device = device
        self.group = ctx.groups.setdefault(device.group.number, BoundGroup(device.group))
        self.group.devices += 1
        self.driver = driver or ctx.driver
        self.cache = self.driver.cache()
        self.vdevice: Vdevice | None = None
        #: the virtual IOMMU of the page table that it is attached to, and what it was called there when it came
        self.listener: tuple[Viommu, int] | None = None
        # What the driver of the device believes: attached without a PASID, and with these.
        self._plain = False
        self._pasids: set[int] = set()
        # The driver that bound it.
        self.users += 1

    def unbind(self) -> None:
        """The driver lets go."""
        for pasid in sorted(self._pasids):
            self.detach(pasid)
        self.detach()
        if self.vdevice is not None:
            # Its number is not given again: whoever has it must not find another object there.
            self.ctx.remove(self.vdevice, tombstone=True)
        self.drop()
        self.ctx.remove(self)

    def destroyed(self) -> None:
        self.device.group.release()
        self.group.devices -= 1
        if not self.group.devices:
            del self.ctx.groups[self.device.group.number]
        if self._keeps:
            self.ctx.drop()

    # Attaching.

    def attach(self, number: int, pasid: int | None = None) -> int:
        """Attach it to an IOAS or a page table, or to another one: the number of the page table.

        :raises Errno: ENOENT; ENOSPC, no PASID is so large; EINVAL, it does not fit; EADDRINUSE, a mapping is in the way; EBUSY, it is
            attached by way of PASID 0, or without one, which is the same, and the driver does not know
        """
        if pasid is None:
            number = self._attach(number, 0, replace=self._plain)
            self._plain = True
            return number
        if pasid >> 31:
            raise Errno(errno.ENOSPC)
        return self.attach_pasid(number, pasid, replace=pasid in self._pasids)

    def attach_pasid(self, number: int, pasid: int, *, replace: bool) -> int:
        """As `attach`, by somebody who keeps account of PASIDs."""
        number = self._attach(number, pasid, replace=replace)
        self._pasids.add(pasid)
        return number

    def _attach(self, number: int, pasid: int, *, replace: bool) -> int:
        object_ = self.ctx.get(number)
        if isinstance(object_, Ioas):
            number = self._attach_ioas(object_, pasid, replace)
        elif isinstance(object_, Hwpt):
            self._change(object_, pasid, replace)
        else:
            raise Errno(errno.EINVAL)
        if not replace:
            self.users += 1
        return number

    def detach(self, pasid: int | None = None) -> None:
        """Nothing happens if it is not attached."""
        if self._plain if pasid is None else pasid in self._pasids:
            self.leave(pasid or 0)
            if pasid is None:
                self._plain = False

    # The same by somebody who keeps no account.

    def replace(self, number: int) -> int:
        """:raises Errno: EINVAL, it is attached to nothing; as `attach`"""
        return self._attach(number, 0, replace=True)

    def leave(self, pasid: int) -> None:
        """Detach it; nothing happens if it is not attached."""
        self._pasids.discard(pasid)
        if self in self.group.attached.get(pasid, (None, []))[1]:
            self.detach_from(pasid).let_go()
            self.drop()

    def _attach_ioas(self, ioas: Ioas, pasid: int, replace: bool) -> int:
        """Attach it to a page table that the kernel made by itself, of those that fit the first, else to a new one."""
        for hwpt in ioas.hwpts:
            if not hwpt.automatic:
                continue
            try:
                self._change(hwpt, pasid, replace)
            except Errno as error:
                if error.number != errno.EINVAL:
                    raise
                continue
            return hwpt.id
        hwpt = PagingHwpt(ioas, 0, self, automatic=not replace, pasid=pasid)
        if replace:
            try:
                self._change(hwpt, pasid, replace)
            except Errno:
                self.ctx.remove(hwpt)
                raise
            hwpt.automatic = True
        return hwpt.id

    def _change(self, hwpt: Hwpt, pasid: int, replace: bool) -> None:
        if replace:
            self._replace_by(hwpt, pasid)
        else:
            self.attach_to(hwpt, pasid)

    def attach_to(self, hwpt: Hwpt, pasid: int) -> None:
        """:raises Errno: EBUSY, EINVAL, EADDRINUSE; nothing has changed then"""
        current, devices = self.group.attached.get(pasid, (None, []))
        if self in devices:
            raise Errno(errno.EBUSY)
        if current is not None and current is not hwpt:
            raise Errno(errno.EINVAL)
        table = hwpt.paging.ioas.table
        if not pasid:
            _reserve(self, hwpt)
        if current is None:
            try:
                self._check_attach(hwpt, pasid)
                self._check_pasid_range(pasid)
            except Errno:
                if not pasid:
                    table.unreserve(self)
                raise
            self.group.attached[pasid] = hwpt, devices
        devices.append(self)
        hwpt.users += 1
        self.group.show()
        self._follow(pasid)

    def _check_attach(self, hwpt: Hwpt, pasid: int) -> None:
        """:raises Errno: EINVAL; ENOENT, the device is not in the virtual IOMMU that the page table is of"""
        self.group.check_pasid(hwpt, pasid)
        if type(hwpt.driver) is not type(self.driver):
            raise Errno(errno.EINVAL)
        self.driver.check_attach(hwpt, self)
        viommu = hwpt.viommu
        if viommu is not None and (self.vdevice is None or self.vdevice.viommu is not viommu):
            raise Errno(errno.ENOENT)

    def _check_pasid_range(self, pasid: int) -> None:
        if 0 < self.driver.max_pasids <= pasid:
            raise Errno(errno.EINVAL)

    def _replace_by(self, hwpt: Hwpt, pasid: int) -> None:
        """Attach all devices of the group to another page table.

        :raises Errno: EINVAL, EADDRINUSE; nothing has changed then
        """
        old, devices = self.group.attached.get(pasid, (None, []))
        if old is None or self not in devices:
            raise Errno(errno.EINVAL)
        if hwpt is old:
            return
        ioas, old_ioas = hwpt.paging.ioas, old.paging.ioas
        moves = not pasid and ioas is not old_ioas
        if moves:
            done: list[BoundDevice] = []
            try:
                for device in devices:
                    _reserve(device, hwpt)
                    done.append(device)
                self._check_attach(hwpt, pasid)
            except Errno:
                for device in done:
                    ioas.table.unreserve(device)
                raise
            for device in devices:
                old_ioas.table.unreserve(device)
        else:
            self._check_attach(hwpt, pasid)
        self.group.attached[pasid] = hwpt, devices
        hwpt.users += len(devices)
        old.users -= len(devices) - 1
        self.group.show()
        for device in devices:
            device._follow(pasid)
        _forget(old, devices, pasid)
        old.let_go()

    def detach_from(self, pasid: int) -> Hwpt:
        """Take it off its page table, which still has it as a user."""
        hwpt, devices = self.group.attached[pasid]
        devices.remove(self)
        if not devices:
            _forget(hwpt, [self], pasid)
            del self.group.attached[pasid]
        if not pasid:
            hwpt.paging.ioas.table.unreserve(self)
        self.group.show()
        self._follow(pasid)
        return hwpt

    def _follow(self, pasid: int) -> None:
        """Its events go to the virtual IOMMU of its page table from now on."""
        if pasid:
            return
        hwpt, devices = self.group.attached.get(0, (None, []))
        viommu = hwpt.viommu if hwpt is not None and self in devices else None
        if viommu is None or self.vdevice is None:
            self.listener = None
        elif self.listener is None or self.listener[0] is not viommu:
            self.listener = viommu, self.vdevice.virtual_id

    # What the device, or the IOMMU for it, has to say. Here it is a test that says so.

    def report_fault(
        self, *addresses: int, pasid: int | None = None, group: int = 1, permissions: int = lib.IOMMU_PGFAULT_PERM_READ
    ) -> None:
        """The device asks for pages that its page table does not show: one group of page faults.

        :raises LookupError: nobody is there to hear it
        """
        attached = self.group.attached
        by = pasid or 0
        # A guest's page table has the guest's PASIDs in it.
        if by not in attached and 0 in attached and attached[0][0].paging is not attached[0][0]:
            by = 0
        hwpt, _ = attached.get(by, (None, []))
        if hwpt is None or hwpt.fault_queue is None:
            raise LookupError("the device is attached to no page table with a fault queue")
        hwpt.fault_queue.report([Fault(self, by, pasid, group, permissions, address) for address in addresses])

    def report_event(self, type_: int, data: bytes) -> None:
        """The IOMMU has something to tell the guest about the device.

        :raises LookupError: the device is attached to no virtual IOMMU's page table, or that has no queue for this type
        """
        if self.listener is None:
            raise LookupError("the device is attached to no page table of a virtual IOMMU")
        self.listener[0].event_queues[type_].report(data)


def _forget(hwpt: Hwpt, devices: list[BoundDevice], pasid: int) -> None:
    """Devices are attached to it no more: the kernel answers their page faults."""
    if hwpt.fault_queue is not None:
        for device in devices:
            hwpt.fault_queue.forget(device, pasid)


def _reserve(device: BoundDevice, hwpt: Hwpt) -> None:
    """Keep the regions that the IOMMU keeps back from mappings.

    :raises Errno: EADDRINUSE
    """
    table = hwpt.paging.ioas.table
    try:
        for region in device.group.group.reserved:
            if region.type != "direct-relaxable":
                table.reserve(region.start, region.last, device)
    except Errno:
        table.unreserve(device)
        raise


def bind(ctx: Context, device: Device) -> BoundDevice | Access:
    """Give a device to an iommufd: iommufd_device_bind(), or iommufd_access_create() for an emulated one.

    :raises Errno: EPERM, another owner has its group
    """
    return Access(ctx, device) if device.emulated else BoundDevice(ctx, device)
