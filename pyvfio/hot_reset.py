"""Hot reset: a reset of a bus or slot, with all devices on it."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio._core import explain
from pyvfio.errors import Unsupported

if TYPE_CHECKING:
    from pyvfio.device import Device

_INFO = "struct vfio_pci_hot_reset_info"
_RESET = "struct vfio_pci_hot_reset"


class Dependent(NamedTuple):
    """A device that a hot reset affects, `struct vfio_pci_dependent_device`.

    :ivar address: PCI address
    :ivar id: of its group; or, when :attr:`HotResetInfo.by_id`, in the caller's iommufd (VFIO_PCI_DEVID_NOT_OWNED, VFIO_PCI_DEVID_OWNED)
    """

    address: str
    id: int


class HotResetInfo(NamedTuple):
    """VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: what a hot reset of a device affects.

    :ivar by_id: whether the ids are an iommufd's, since the device was opened by cdev (Linux 6.6)
    :ivar owned: by cdev, whether the caller owns all of them, so that a reset is possible
    """

    devices: tuple[Dependent, ...]
    by_id: bool
    owned: bool


def info(device: Device) -> HotResetInfo:
    """
    :raises Unsupported: the device cannot be reset in this way (it is on the root bus, or it is no PCI device)
    """
    count = 8
    while True:
        memory = ffi.new("char[]", ffi.sizeof(_INFO) + count * ffi.sizeof("struct vfio_pci_dependent_device"))
        answer = ffi.cast(f"{_INFO} *", memory)
        answer.argsz = len(memory)
        error = device._fd.ioctl(lib.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, answer)
        if error == -errno.ENOSPC and answer.count > count:
            count = answer.count  # it says how many there are while it fails
            continue
        if error < 0:
            raise _failed(device, error, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO")
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


def reset(device: Device, groups: Sequence[int]) -> None:
    """VFIO_DEVICE_PCI_HOT_RESET.

    :param groups: descriptors of the groups that own the affected devices; none by cdev
    """
    native = ffi.new("char[]", ffi.sizeof(_RESET) + 4 * len(groups))
    call = ffi.cast(f"{_RESET} *", native)
    call.argsz = len(native)
    call.count = len(groups)
    if groups:
        ffi.cast("int32_t *", call.group_fds)[0 : len(groups)] = list(groups)
    error = device._fd.ioctl(lib.VFIO_DEVICE_PCI_HOT_RESET, call)
    if error < 0:
        raise _failed(device, error, "VFIO_DEVICE_PCI_HOT_RESET")


def _failed(device: Device, error: int, call: str) -> Exception:
    if error in (-errno.ENODEV, -errno.ENOTTY) and not device._fd.closed:
        return Unsupported(
            f"{device.address} cannot be hot reset ({call}: {errno.errorcode[-error]}): it is on a root bus, "
            "its bus has no reset that the kernel trusts, or it is no PCI device"
        )

    def clue() -> tuple[str | None, list[str]]:
        if call == "VFIO_DEVICE_PCI_HOT_RESET" and -error in (errno.EINVAL, errno.EPERM, errno.EBUSY):
            affected = ", ".join(f"{one.address} ({one.id})" for one in info(device).devices)
            return "not all of the affected devices are open here", [
                f"affected, with their group or iommufd id: {affected}; attach a device of each group to the same address space"
            ]
        return None, []

    return explain.failed(device._fd, error, call, "", clue)
