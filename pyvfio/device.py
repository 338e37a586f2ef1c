# SPDX-License-Identifier: MIT
"""A device, by group or by cdev."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

from pyvfio import hot_reset
from pyvfio._abi import ffi, lib
from pyvfio._buffer import Object
from pyvfio._core import html
from pyvfio._core.arguments import boolean, integer, string, u32, wrong_type
from pyvfio._core.device_file import DeviceFile, DeviceInfo
from pyvfio._core.fd import Fd
from pyvfio._core.flags import names
from pyvfio._core.reasons import LOCKED
from pyvfio._core.request import Reason, Request
from pyvfio._core.resource import Attempts, Resource
from pyvfio._core.vf_token import uuid_of
from pyvfio.dirty.log import DirtyLog
from pyvfio.errors import Closed, RequestError, Unsupported
from pyvfio.feature import Feature, Features
from pyvfio.irq import Irqs
from pyvfio.kernel import resolve
from pyvfio.low_power import LowPower, LowPowerWithWakeup
from pyvfio.migration import Migration
from pyvfio.pci import PciConfig
from pyvfio.region import Regions

if TYPE_CHECKING:
    from uuid import UUID

    from pyvfio.hot_reset import HotResetInfo
    from pyvfio.iommufd.bound import BoundDevice
    from pyvfio.iommufd.hwpt import Hwpt
    from pyvfio.iommufd.ioas import Ioas
    from pyvfio.iommufd.object import IommufdObject
    from pyvfio.iova import RangeLike
    from pyvfio.kernel import Kernel
    from pyvfio.spaces.base import AddressSpace
    from pyvfio.spaces.group import Group

__all__ = ["Device"]

SET_VF_TOKEN = Feature("SET PCI_VF_TOKEN", errnos={errno.EINVAL: "the data is not the 16 bytes of a UUID"})
SET_BUS_MASTER = Feature("SET BUS_MASTER", documented=False)
GET_ZPCI_ERROR = Feature("GET ZPCI_ERROR", documented=False)


class Attached(NamedTuple):
    """The facts about an attach that failed: the address of the device, and whether a PASID was to be attached."""

    address: str
    pasid: bool


def _bad_attach(facts: Attached) -> Reason:
    if facts.pasid:
        return Reason("the PASID is taken, or the device or its IOMMU has no PASIDs")
    return Reason("another device of its group is attached elsewhere, or the IOMMU cannot use that page table")


_NO_OBJECT = "its Iommufd has no such object, or it is of another kind"
ATTACH = Request(
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
    "device",
    "struct vfio_device_attach_iommufd_pt",
    errnos={
        errno.EADDRINUSE: Reason(
            "something is mapped in a region that this device has reserved, or is not aligned for its IOMMU",
            ("attach devices before mapping, or unmap what is in the way; the address space is as it was",),
        ),
        errno.EINVAL: _bad_attach,
        errno.EOPNOTSUPP: "the device's driver or its IOMMU does not support PASIDs",
    },
    otherwise={errno.ENOENT: _NO_OBJECT},
)
DETACH = Request(
    "VFIO_DEVICE_DETACH_IOMMUFD_PT",
    "device",
    "struct vfio_device_detach_iommufd_pt",
    otherwise={errno.ENOENT: _NO_OBJECT},
)


class Reset(NamedTuple):
    """The facts about a reset that failed.

    :ivar address: the address of the device
    :ivar resettable: whether the device has a function-level reset
    """

    address: str
    resettable: bool


def _no_reset(facts: Reset) -> Reason | None:
    if facts.resettable:
        return None
    return Reason(f"{facts.address} has no function-level reset; hot_reset() may work", unsupported=True)


RESET = Request(
    "VFIO_DEVICE_RESET",
    "device",
    otherwise=dict.fromkeys((errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP), _no_reset) | {errno.EAGAIN: LOCKED},
)


class Device(Resource):
    """An open device. Made by `attach` of an address space, or by :func:`pyvfio.open`.

    Opening it does not turn bus mastering on: the kernel leaves it off, and a PCI device does no DMA until the program sets
    `device.config.bus_master = True`.

    :ivar address: its name, for PCI "0000:00:03.0"
    :ivar group: the group that it was opened by; None by cdev
    """

    def __init__(
        self,
        fd: Fd,
        address: str,
        space: AddressSpace | None,
        *,
        group: Group | None = None,
        bound: BoundDevice | None = None,
    ) -> None:
        super().__init__(space if bound is None else bound.iommufd)
        #: the descriptor, for the device's parts. Not part of the API.
        self.file = DeviceFile(fd, address)
        self._fd = fd
        self.address = address
        self._space = space
        self.group = group
        self._bound = bound
        #: PASID, or None for the device itself -> the page table or address space that its DMA goes through
        self._attached: dict[int | None, Hwpt | Ioas] = {}
        self._owned: AddressSpace | None = None
        #: the running dirty log, which the message names when another one is started
        self._log: DirtyLog | None = None
        _ = self.info

    @classmethod
    def taken(cls, address: str, pid: int, number: int, *, kernel: Kernel | str | None = None) -> Self:
        """Duplicate the descriptor of a device that another process has open; pidfd_getfd(2), since Linux 5.6.

        The other process keeps the device open and continues; closing this object closes only the duplicate. The object has no address
        space, since the container or iommufd belongs to the other process. :func:`pyvfio.host.holders_of` finds the process and its
        descriptor.

        :param address: the address of the device
        :param pid: the other process
        :param number: the descriptor there
        :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
        :raises OSError: EPERM, this process may not trace that one; EBADF, it has no such descriptor
        """
        kernel = resolve(kernel)
        address, pid, number = (
            string(address, "address"),
            integer(pid, "pid", 0, 2**31 - 1),
            integer(number, "number", 0, 2**31 - 1),
        )
        name = f"{address} of process {pid}"
        return cls(Fd.take(kernel, "device", name, kernel.take_descriptor, pid, number), address, None)

    def fileno(self) -> int:
        """The descriptor of the device, by group or by cdev."""
        return self._fd.fileno()

    @property
    def address_space(self) -> AddressSpace:
        """The address space that the device's DMA goes through.

        :raises Closed: the device is attached to no address space
        """
        if self._space is None:
            raise Closed(f"{self.address} is attached to no address space: Device.attach() attaches it")
        return self._space

    # Only for devices opened by cdev: the Iommufd's object for the device, and attaching.

    @property
    def bound(self) -> BoundDevice:
        """The object that the Iommufd has for the device.

        :raises Unsupported: the device was opened by group, or another process opened it (:meth:`taken`)
        """
        if self._bound is None and self._space is None:
            raise Unsupported(f"{self.address} was opened by another process, which has its iommufd or container")
        if self._bound is None:
            raise Unsupported(
                f'{self.address} was opened by group, in mode {self.address_space.mode}: no iommufd has it; mode="iommufd" opens it there'
            )
        return self._bound

    def attach(self, to: Ioas | Hwpt, *, pasid: int | None = None) -> None:
        """Attach the device to an address space or a page table, in place of the current one. VFIO_DEVICE_ATTACH_IOMMUFD_PT.

        :param to: an Ioas or a Hwpt of the Iommufd that the device is bound to
        :param pasid: attach only DMA with that PASID; since Linux 6.15
        :raises InvalidRequest: `to` belongs to another Iommufd
        :raises OSError: EADDRINUSE if a mapping overlaps a reserved region of the device or is not aligned for its IOMMU; EINVAL if
            another device of its group is attached elsewhere, or the IOMMU cannot use the page table; EINVAL or EOPNOTSUPP for a
            PASID that the device or the IOMMU does not support
        """
        bound = self.bound
        pasid = None if pasid is None else u32(pasid, "pasid")
        if not hasattr(to, "_id_in"):
            raise wrong_type(to, "to", "a pyvfio.Ioas or a pyvfio.Hwpt")
        number = to._id_in(bound.iommufd)
        if pasid is None:
            native = ATTACH.new(until="pasid", pt_id=number)
        else:
            native = ATTACH.new(pt_id=number, flags=lib.VFIO_DEVICE_ATTACH_PASID, pasid=pasid)
        facts = Attached(self.address, pasid is not None)
        space = to.ioas
        # Registered before the request, so that the address space never misses an attached device; it asks is_attached_to() of each.
        to._attached[id(self)] = weakref.ref(self)
        made = Object()
        try:
            arguments = {"to": to, "pasid": pasid}
            ATTACH.receive(self._fd, native, (ffi.NULL, made), arguments=arguments, facts=lambda _: facts)
        finally:
            # Assignments only: Python runs no signal handler between them, so none can leave the record half made.
            if made.present:
                self._attached[pasid] = to
                if pasid is None:
                    self._space = space

    def detach(self, *, pasid: int | None = None) -> None:
        """Detach the device, which blocks its DMA; no effect if it is not attached. VFIO_DEVICE_DETACH_IOMMUFD_PT.

        :param pasid: detach this PASID alone; None for the device
        """
        _ = self.bound
        pasid = None if pasid is None else u32(pasid, "pasid")
        if pasid is None:
            native = DETACH.new(until="pasid")
        else:
            native = DETACH.new(flags=lib.VFIO_DEVICE_DETACH_PASID, pasid=pasid)
        made = Object()
        try:
            DETACH.receive(self._fd, native, (ffi.NULL, made), arguments={"pasid": pasid})
        finally:
            if made.present:
                if pasid is None:
                    self._space = None
                self._attached.pop(pasid, None)

    def is_attached_to(self, what: IommufdObject) -> bool:
        """Whether the device, or one of its PASIDs, is attached to a page table or address space. Not part of the API.

        :param what: an Ioas or an Hwpt
        """
        return what in self._attached.values()

    def _detach_from(self, what: IommufdObject) -> None:
        for pasid in [pasid for pasid, to in self._attached.items() if to is what]:
            self.detach(pasid=pasid)

    @cached_property
    def info(self) -> DeviceInfo:
        """The kind of device, and the number of its regions and interrupts (VFIO_DEVICE_GET_INFO, struct vfio_device_info). Cached."""
        return self.file.info

    @cached_property
    def regions(self) -> Regions:
        """The regions of the device, by index; for PCI, 0 to 5 are the BARs."""
        return Regions(self)

    @cached_property
    def irqs(self) -> Irqs:
        """The interrupts of the device, by index; for PCI also by name: `device.irqs.msi`."""
        return Irqs(self)

    @cached_property
    def config(self) -> PciConfig:
        """The PCI configuration space.

        :raises Unsupported: the device is not a PCI device
        """
        if not self.info.is_pci:
            raise Unsupported(f"{self.address} is not a PCI device: it has no configuration space")
        return PciConfig(self)

    @cached_property
    def features(self) -> Features:
        """The features of the device: probe, get and set them (VFIO_DEVICE_FEATURE). Since Linux 5.7."""
        return Features(self.file)

    @cached_property
    def migration(self) -> Migration:
        """The migration state and data of the device.

        :raises Unsupported: its driver does not support migration
        """
        return Migration(self)

    # Features of some devices (VFIO_DEVICE_FEATURE).

    def low_power(self) -> LowPower:
        """Let the device sleep until the result or the device is closed. VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY; see :class:`LowPower`.

        :raises Unsupported: its driver has no such feature
        :raises OSError: EINVAL, it is in low power already
        """
        return LowPower(self)

    def low_power_with_wakeup(self) -> LowPowerWithWakeup:
        """Let the device sleep until its first wake-up, which is signalled; see :class:`LowPowerWithWakeup`.

        VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP.

        :raises Unsupported: its driver has no such feature
        :raises OSError: EINVAL, it is in low power already
        """
        return LowPowerWithWakeup(self)

    def set_bus_master(self, on: bool) -> None:
        """Allow or forbid the device to do DMA.

        A PCI device's command register is written, as by `config.bus_master`. On other buses VFIO_DEVICE_FEATURE_BUS_MASTER is set
        (CDX, since Linux 6.7).

        :param on: whether the device may do DMA
        :raises Unsupported: the device's driver does not have the feature
        """
        boolean(on, "on")
        if self.info.is_pci:
            self.config.bus_master = on
            return
        kind = "struct vfio_device_feature_bus_master"
        op = lib.VFIO_DEVICE_FEATURE_SET_MASTER if on else lib.VFIO_DEVICE_FEATURE_CLEAR_MASTER
        SET_BUS_MASTER.exchange(self.file, ffi.new(f"{kind} *", {"op": op}))

    def set_vf_token(self, token: UUID | str | bytes) -> None:
        """Set the UUID that opening a virtual function of this device requires as `vf_token`. VFIO_DEVICE_FEATURE_PCI_VF_TOKEN.

        For a physical function that is bound to vfio-pci, with virtual functions that are bound to vfio-pci. The kernel starts with a
        random UUID, so that no program can open them. While one is open, opening this device requires the UUID too. Since Linux 5.7.

        :param token: a UUID, as an object, text, or 16 bytes
        :raises ValueError: the token is not a UUID
        :raises Unsupported: the device has no virtual functions, or its driver no tokens
        """
        memory = ffi.new("uint8_t[16]", uuid_of(token).bytes)
        SET_VF_TOKEN.exchange(self.file, memory)

    def zpci_error(self) -> bytes | None:
        """Return the pending error record of s390 firmware (`struct zpci_ccdf_err`), or None without a pending error.

        VFIO_DEVICE_FEATURE_ZPCI_ERROR, since Linux 7.3.

        :raises Unsupported: the host is not an s390 machine, or its kernel does not report errors
        """
        number = lib.VFIO_DEVICE_INFO_CAP_ZPCI_BASE
        base = next((cap for cap in self.info.capabilities if cap.id == number), None)
        size = 0
        if base is not None and base.version >= 3:
            size = base.read("struct vfio_device_info_cap_zpci_base").ccdf_err_length
        if not size:
            raise Unsupported(
                f"{self.address} does not report errors of s390 firmware (VFIO_DEVICE_FEATURE_ZPCI_ERROR); other PCI devices have irqs.err"
            )
        error = ffi.new("uint8_t[]", size)
        kind = "struct vfio_device_feature_zpci_err"
        asked = ffi.new(f"{kind} *", {"data": int(ffi.cast("uintptr_t", error))})
        try:
            GET_ZPCI_ERROR.exchange(self.file, asked)
        except RequestError as failure:
            if failure.errno == errno.ENOMSG:
                return None
            raise
        return bytes(ffi.buffer(error))

    def reset(self) -> None:
        """Reset only this function. VFIO_DEVICE_RESET. It ends a migration: the device is RUNNING afterwards.

        :raises Unsupported: the device has no function-level reset
        :raises OSError: the errno of the device's reset method: EAGAIN, ENOTTY, EIO
        """
        RESET.send(self._fd, facts=lambda _: Reset(self.address, self.info.resettable))

    @property
    def hot_reset_info(self) -> HotResetInfo:
        """The devices that :meth:`hot_reset` affects. VFIO_DEVICE_GET_PCI_HOT_RESET_INFO.

        :raises Unsupported: the device cannot be hot reset: it is on a root bus, or is not a PCI device
        """
        return hot_reset.info(self.file)

    def hot_reset(self) -> None:
        """Reset the bus or slot of the device, with all devices on it. VFIO_DEVICE_PCI_HOT_RESET.

        This program must own all of them. If this device was opened by group, their groups must be in its container; if by cdev, they
        must be bound to its Iommufd or to no driver.

        :raises Unsupported: the device cannot be hot reset
        :raises OSError: EINVAL or EPERM if the program does not own one of the devices; a note lists the affected ones
        """
        groups: list[int] = []
        if self._bound is None:
            affected = {one.id for one in hot_reset.info(self.file).devices}
            groups = [g.fileno() for g in getattr(self._space, "groups", ()) if g.number in affected]
        hot_reset.reset(self.file, groups)

    def dirty_log(self, ranges: RangeLike | Iterable[RangeLike], page_size: int = 4096) -> DirtyLog:
        """Have the device log which pages it writes; see :class:`pyvfio.DirtyLog`.

        :param ranges: the IOVAs to log: ranges, mappings, pairs
        :param page_size: bytes for each bit; a device may choose another
        """
        return DirtyLog([self], ranges, page_size)

    def _release(self) -> None:
        attempts = Attempts()
        attempts.do(self._fd.close, lambda: self._fd.closed)
        self._attached.clear()
        if self._owned is not None:
            attempts.do(self._owned.close)
        attempts.raise_first(f"closing {self!r}")

    def _has_gone(self) -> bool:
        return self._fd.closed and (self._owned is None or self._owned.closed)

    def _repr_html_(self) -> str:
        """Return an HTML table of the device."""
        if self.closed:
            return html.table(repr(self), (), ())
        space = self._space
        rows = [
            ("address space", "none" if space is None else f"{space.mode}, {len(space.mappings)} mappings"),
            ("group", "" if self.group is None else self.group.number),
            ("flags", names(self.info.flags, "VFIO_DEVICE_FLAGS_")),
            ("regions", self.info.num_regions),
            ("interrupts", self.info.num_irqs),
        ]
        return html.table(repr(self), ("", ""), rows)

    def __repr__(self) -> str:
        kernel = self._fd.kernel.name
        how = "iommufd" if self._bound else "its descriptor" if self._space is None else self._space.mode
        return (
            f"<Device {self.address} by {how}"
            f"{'' if kernel == 'linux' else ' on ' + kernel}{' (closed)' if self.closed else ''}>"
        )
