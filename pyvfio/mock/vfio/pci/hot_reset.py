# SPDX-License-Identifier: MIT
"""Hot reset of vfio-pci: a reset of the bus, with all devices on it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.group import GroupFile

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context
    from pyvfio.mock.vfio.pci.device import PciDevice

_INFO, _RESET = "struct vfio_pci_hot_reset_info", "struct vfio_pci_hot_reset"
_DEPENDENT = "struct vfio_pci_dependent_device"
_BY_ID, _OWNED_ALL = lib.VFIO_PCI_HOT_RESET_FLAG_DEV_ID, lib.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED
_OWNED, _NOT_OWNED = lib.VFIO_PCI_DEVID_OWNED, lib.VFIO_PCI_DEVID_NOT_OWNED


def info(device: PciDevice, argument: int) -> None:
    """Report the devices that a hot reset affects: VFIO_DEVICE_GET_PCI_HOT_RESET_INFO.

    :raises Errno: EINVAL; ENODEV, on a root bus; ENOSPC, the buffer is too small: `count` is set
    """
    size, each = ffi.sizeof(_INFO), ffi.sizeof(_DEPENDENT)
    header = caller.take(_INFO, argument, size)
    if header.argsz < size:
        raise Errno(errno.EINVAL)
    header.flags = 0
    affected = _affected(device)
    header.count = len(affected)
    if len(affected) > (header.argsz - size) // each:
        caller.give(argument, header, size)
        raise Errno(errno.ENOSPC)
    context = _context(device)
    if context is not None:
        header.flags = _BY_ID | _OWNED_ALL
    entries = ffi.new(f"{_DEPENDENT}[]", len(affected))
    for entry, one in zip(entries, affected, strict=True):
        segment, bus, slot, function = (int(part, 16) for part in one.name.replace(".", ":").split(":"))
        entry.segment, entry.bus, entry.devfn = segment, bus, slot << 3 | function
        entry.group_id = one.group.number if context is None else _id(one, context)
        if context is not None and entry.group_id == _NOT_OWNED:
            header.flags &= ~_OWNED_ALL
    caller.write(argument + size, ffi.buffer(entries))
    caller.give(argument, header, size)


def reset(device: PciDevice, argument: int) -> None:
    """Reset the bus: VFIO_DEVICE_PCI_HOT_RESET.

    :raises Errno: EINVAL, also if the caller does not own every device of the bus; ENODEV, on a root bus; EBADF
    """
    size = ffi.sizeof(_RESET)
    header = caller.take(_RESET, argument, size)
    if header.argsz < size or header.flags:
        raise Errno(errno.EINVAL)
    context = _context(device)
    # A device opened by its group needs group descriptors; one bound to an iommufd must not give any.
    if bool(header.count) == (context is not None):
        raise Errno(errno.EINVAL)
    affected = _affected(device)
    if context is not None:
        _reset(affected, lambda one: _id(one, context) != _NOT_OWNED)
        return
    if header.count > len(affected):
        raise Errno(errno.EINVAL)
    fds = memoryview(caller.read(argument + size, 4 * header.count)).cast("i")
    groups = []
    for fd in fds:
        file = device.kernel.file(fd)
        if not isinstance(file, GroupFile):
            raise Errno(errno.EINVAL)
        groups.append(file.group)
    _reset(affected, lambda one: one.group in groups)


def _reset(affected: list[PciDevice], is_owned: Callable[[PciDevice], bool]) -> None:
    if not all(one.vfio for one in affected) or not all(is_owned(one) for one in affected):
        raise Errno(errno.EINVAL)
    for one in affected:
        one.revoke_dma_bufs()
        one.change_power(off=False)
    try:
        if not all(one.function.bus_resets for one in affected):
            raise Errno(errno.ENOTTY)
        for one in affected:
            one.bus_reset()
    finally:
        for one in affected:
            if one.files:
                one.reinstate_dma_bufs()


def _affected(device: PciDevice) -> list[PciDevice]:
    """Return the devices on the bus, sorted by address.

    :raises Errno: ENODEV, on a root bus, which cannot be reset
    """
    if device.parent is None:
        raise Errno(errno.ENODEV)
    on_bus = (one for one in device.kernel.devices.values() if getattr(one, "parent", None) == device.parent)
    return sorted(on_bus, key=lambda one: one.name)  # type: ignore[arg-type]  # only a PciDevice has a parent


def _context(device: PciDevice) -> Context | None:
    """Return the iommufd that the device is bound to; None if it was opened by its group."""
    bound = device.files[0].bound if device.files else None
    return None if bound is None else bound.ctx


def _id(device: PciDevice, context: Context) -> int:
    """Return the devid of a device for an iommufd (vfio_iommufd_get_dev_id)."""
    bound = device.files[0].bound if device.files else None
    if bound is not None and bound.ctx is context:
        return bound.id
    # iommufd_ctx_has_group: no other iommufd can own a device of a group that this one claims.
    has_group = device.vfio and device.group.owner is context
    return int(_OWNED if has_group else _NOT_OWNED)
