# SPDX-License-Identifier: MIT
"""Devices behind an IOMMU as objects of an iommufd (struct iommufd_device), and their attachments."""

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
    """An IOMMU group in an iommufd (struct iommufd_group): all of its devices share a page table.

    :ivar attached: PASID, or 0 for DMA without one -> the page table, and the devices attached to it
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.devices = 0
        self.attached: dict[int, tuple[Hwpt, list[BoundDevice]]] = {}

    def show(self) -> None:
        """Route the DMA of all devices of the group through the page table that is attached without a PASID."""
        hwpt, _ = self.attached.get(0, (None, None))
        for device in self.group.devices:
            device.space = hwpt.domain if hwpt is not None else None

    def check_pasid(self, hwpt: Hwpt, pasid: int) -> None:
        """Check the rules for PASIDs: once one is attached, all page tables of the group need IOMMU_HWPT_ALLOC_PASID.

        :raises Errno: EINVAL
        """
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
    """A device behind an IOMMU that is bound to an iommufd."""

    def __init__(self, ctx: Context, device: Device, driver: Driver | None = None) -> None:
        """
        :param driver: the driver of the device's IOMMU; None for the host's. Devices of the selftest have their own,
            and end with the iommufd
        :raises Errno: EPERM, the group has another owner
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
        #: receiver of the device's events: the virtual IOMMU of its page table, and the virtual id of the device when
        #: it was attached
        self.listener: tuple[Viommu, int] | None = None
        # The attachments that vfio tracks: vdev->iommufd_attached, and vdev->pasids.
        self._plain = False
        self._pasids: set[int] = set()
        # The driver that bound the device is a user.
        self.users += 1

    def unbind(self) -> None:
        """End the binding, for the driver (vfio_iommufd_physical_unbind)."""
        for pasid in sorted(self._pasids):
            self.detach(pasid)
        self.detach()
        if self.vdevice is not None:
            # iommufd_device_remove_vdev leaves a tombstone: the id is not reused, so that a stale id never names
            # another object.
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
        """Attach the device to an IOAS or a page table; if it is attached already, replace the page table.

        :returns: the id of the page table
        :raises Errno: ENOENT; ENOSPC, the PASID is too large (ida_alloc_range); EINVAL, the page table does not fit;
            EADDRINUSE, a mapping is in a reserved region; EBUSY, the device is attached with PASID 0 and now without
            one, or the reverse: one attachment for iommufd, but two for vfio
        """
        if pasid is None:
            number = self._attach(number, 0, replace=self._plain)
            self._plain = True
            return number
        if pasid >> 31:
            raise Errno(errno.ENOSPC)
        return self.attach_pasid(number, pasid, replace=pasid in self._pasids)

    def attach_pasid(self, number: int, pasid: int, *, replace: bool) -> int:
        """Attach or replace with a PASID, where the caller tracks which PASIDs are attached."""
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
        """Detach the device; do nothing if vfio has not attached it."""
        if self._plain if pasid is None else pasid in self._pasids:
            self.leave(pasid or 0)
            if pasid is None:
                self._plain = False

    # iommufd's own functions, without vfio's tracking.

    def replace(self, number: int) -> int:
        """Replace the page table (iommufd_device_replace).

        :raises Errno: EINVAL, the device is not attached; or that of :meth:`attach`
        """
        return self._attach(number, 0, replace=True)

    def leave(self, pasid: int) -> None:
        """Detach the device (iommufd_device_detach); do nothing if it is not attached."""
        self._pasids.discard(pasid)
        if self in self.group.attached.get(pasid, (None, []))[1]:
            self.detach_from(pasid).let_go()
            self.drop()

    def _attach_ioas(self, ioas: Ioas, pasid: int, replace: bool) -> int:
        """Attach the device to the IOAS's first automatic page table that accepts it, else to a new one.

        This is iommufd_device_auto_get_domain.
        """
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
        """Attach the device; on an error nothing has changed.

        :raises Errno: EBUSY, EINVAL, EADDRINUSE
        """
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
        """Check that the page table fits the device.

        :raises Errno: EINVAL; ENOENT, the device has no vdevice in the virtual IOMMU of the page table
        """
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
        """Attach all devices of the group to another page table; on an error nothing has changed.

        :raises Errno: EINVAL, EADDRINUSE
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
        """Detach the device from its page table. The caller must drop the user count of the page table."""
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
        """Send the device's events to the virtual IOMMU of its present page table."""
        if pasid:
            return
        hwpt, devices = self.group.attached.get(0, (None, []))
        viommu = hwpt.viommu if hwpt is not None and self in devices else None
        if viommu is None or self.vdevice is None:
            self.listener = None
        elif self.listener is None or self.listener[0] is not viommu:
            self.listener = viommu, self.vdevice.virtual_id

    # Reports that a real device or IOMMU makes; here a test makes them.

    def report_fault(
        self, *addresses: int, pasid: int | None = None, group: int = 1, permissions: int = lib.IOMMU_PGFAULT_PERM_READ
    ) -> None:
        """Report one group of page faults: the device asks for pages that its page table does not map.

        :raises LookupError: the device is attached to no page table with a fault queue
        """
        attached = self.group.attached
        by = pasid or 0
        # A nested page table holds the guest's PASID table: it is attached without a PASID, but its faults have one.
        if by not in attached and 0 in attached and attached[0][0].paging is not attached[0][0]:
            by = 0
        hwpt, _ = attached.get(by, (None, []))
        if hwpt is None or hwpt.fault_queue is None:
            raise LookupError("the device is attached to no page table with a fault queue")
        hwpt.fault_queue.report([Fault(self, by, pasid, group, permissions, address) for address in addresses])

    def report_event(self, type_: int, data: bytes) -> None:
        """Report an event of the device to the guest.

        :raises LookupError: the device is not attached to a page table of a virtual IOMMU, or that has no queue for
            this type
        """
        if self.listener is None:
            raise LookupError("the device is attached to no page table of a virtual IOMMU")
        self.listener[0].event_queues[type_].report(data)


def _forget(hwpt: Hwpt, devices: list[BoundDevice], pasid: int) -> None:
    """Answer the open page faults of devices that have been detached."""
    if hwpt.fault_queue is not None:
        for device in devices:
            hwpt.fault_queue.forget(device, pasid)


def _reserve(device: BoundDevice, hwpt: Hwpt) -> None:
    """Reserve the IOVAs of the group's reserved regions.

    :raises Errno: EADDRINUSE, a mapping is there
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
    """Bind a device to an iommufd: iommufd_device_bind(), or iommufd_access_create() for an emulated one.

    :raises Errno: EPERM, the group has another owner
    """
    return Access(ctx, device) if device.emulated else BoundDevice(ctx, device)
