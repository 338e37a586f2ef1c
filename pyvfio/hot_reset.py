# SPDX-License-Identifier: MIT
"""Hot reset: a reset of a bus or slot, with all devices on it."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio._core.device_file import DeviceFile
from pyvfio._core.reasons import LOCKED
from pyvfio._core.request import Reason, Request
from pyvfio.errors import BadReply, RequestError

__all__ = ["Dependent", "HotResetInfo"]


class ResetFacts(NamedTuple):
    """The address of a device that could not be reset, and the devices that its reset would affect: empty if they are unknown."""

    address: str
    affected: tuple[Dependent, ...] = ()


def _no_hot_reset(facts: ResetFacts) -> Reason:
    return Reason(
        f"{facts.address} cannot be hot reset: it is on a root bus, its bus has no reset that the kernel trusts, or it is not a "
        "PCI device",
        unsupported=True,
    )


def _not_owned(facts: ResetFacts) -> Reason | None:
    if not facts.affected:
        return None
    affected = ", ".join(f"{one.address} ({one.id})" for one in facts.affected)
    return Reason(
        "not all of the affected devices are open here",
        (
            f"affected, with their group or iommufd id: {affected}; attach a device of each group to the same address space",
        ),
    )


_NONE = {errno.ENODEV: _no_hot_reset, errno.ENOTTY: _no_hot_reset}
GET_INFO = Request(
    "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
    "device",
    "struct vfio_pci_hot_reset_info",
    otherwise={**_NONE, errno.ENOSPC: None},
)
HOT_RESET = Request(
    "VFIO_DEVICE_PCI_HOT_RESET",
    "device",
    "struct vfio_pci_hot_reset",
    otherwise={**_NONE, **dict.fromkeys((errno.EINVAL, errno.EPERM, errno.EBUSY), _not_owned), errno.EAGAIN: LOCKED},
)


class Dependent(NamedTuple):
    """A device that a hot reset affects, `struct vfio_pci_dependent_device`.

    :ivar address: PCI address
    :ivar id: the number of its group; if :attr:`HotResetInfo.by_id`, its device id in the caller's iommufd, VFIO_PCI_DEVID_OWNED or
        VFIO_PCI_DEVID_NOT_OWNED
    """

    address: str
    id: int


class HotResetInfo(NamedTuple):
    """The devices that a hot reset affects. VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, `struct vfio_pci_hot_reset_info`.

    :ivar by_id: whether the ids are an iommufd's, since the device was opened by cdev (Linux 6.6)
    :ivar owned: for a device opened by cdev: whether the caller owns all of the devices, so that a reset is possible
    """

    devices: tuple[Dependent, ...]
    by_id: bool
    owned: bool


#: the number of functions that a PCI domain can have
_MOST = 1 << 16


def _plausible(count: int, most: int, file: DeviceFile) -> int:
    """Return the number of devices that the kernel reported, after checking that so many are possible."""
    if count > most:
        raise BadReply(
            f"{file.address}: VFIO_DEVICE_GET_PCI_HOT_RESET_INFO reported {count} devices where {most} are possible"
        )
    return count


def info(file: DeviceFile) -> HotResetInfo:
    """Ask which devices a hot reset affects.

    :raises BadReply: the kernel reported more devices than it was given room for, or than there can be
    :raises Unsupported: the device cannot be hot reset: it is on a root bus, or it is not a PCI device
    """
    count = 8
    while True:
        answer = GET_INFO.new(count * ffi.sizeof("struct vfio_pci_dependent_device"))
        try:
            GET_INFO.send(file.fd, answer, facts=lambda _: ResetFacts(file.address))
        except RequestError as error:
            if error.errno != errno.ENOSPC or answer.count <= count:
                raise
            count = _plausible(answer.count, _MOST, file)  # with ENOSPC the kernel writes the number of devices
            continue
        _plausible(answer.count, count, file)
        found = []
        for index in range(answer.count):
            one = answer.devices[index]
            address = f"{one.segment:04x}:{one.bus:02x}:{one.devfn >> 3:02x}.{one.devfn & 7}"
            found.append(Dependent(address, one.group_id))
        return HotResetInfo(
            tuple(found),
            bool(answer.flags & lib.VFIO_PCI_HOT_RESET_FLAG_DEV_ID),
            bool(answer.flags & lib.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED),
        )


def reset(file: DeviceFile, groups: Sequence[int]) -> None:
    """Reset the bus or slot of a device with all devices on it. VFIO_DEVICE_PCI_HOT_RESET.

    :param groups: descriptors of the groups that own the affected devices; empty for a device opened by cdev
    """
    call = HOT_RESET.new(4 * len(groups), count=len(groups))
    if groups:
        ffi.cast("int32_t *", call.group_fds)[0 : len(groups)] = list(groups)
    HOT_RESET.send(file.fd, call, facts=lambda _: ResetFacts(file.address, info(file).devices))
