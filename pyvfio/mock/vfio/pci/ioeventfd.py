# SPDX-License-Identifier: MIT
"""VFIO_DEVICE_IOEVENTFD of vfio-pci: register writes that an eventfd triggers."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import ffi
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.eventfd import Eventfd
from pyvfio.mock.vfio.region import OFFSET_MASK, OFFSET_SHIFT

if TYPE_CHECKING:
    from pyvfio.mock.vfio.pci.device import PciDevice

_STRUCT = "struct vfio_device_ioeventfd"
_MOST = 1000
_LAST_BAR = 5


class Ioeventfds:
    """The ioeventfds of one device, by BAR, offset, width and value."""

    def __init__(self, device: PciDevice) -> None:
        self._device = device
        self._set: dict[tuple[int, int, int, int], Eventfd] = {}

    def request(self, argument: int) -> None:
        """Add or remove an ioeventfd (vfio_pci_ioeventfd).

        :raises Errno: EINVAL; EEXIST, the same one exists; ENODEV, the one to remove does not exist; ENOSPC; or that of
            the eventfd
        """
        asked = caller.take(_STRUCT, argument, ffi.offsetof(_STRUCT, "fd") + 4)
        width = asked.flags
        if asked.argsz < ffi.offsetof(_STRUCT, "fd") + 4 or width not in (1, 2, 4, 8) or asked.fd < -1:
            raise Errno(errno.EINVAL)
        bar, offset = asked.offset >> OFFSET_SHIFT, asked.offset & OFFSET_MASK
        if bar > _LAST_BAR or offset + width > self._device.region(bar).size or self._device.hides(bar, offset, width):
            raise Errno(errno.EINVAL)
        key = (bar, offset, width, asked.data)
        if key in self._set:
            if asked.fd != -1:
                raise Errno(errno.EEXIST)
            self._device.kernel.watcher.leave(self._set.pop(key))
            return
        if asked.fd < 0:
            raise Errno(errno.ENODEV)
        if len(self._set) >= _MOST:
            raise Errno(errno.ENOSPC)

        def store() -> None:
            if self._device.decodes_memory:
                self._device.store(bar, offset, width, key[3] & (1 << 8 * width) - 1)

        self._set[key] = self._device.kernel.watcher.watch(asked.fd, store)

    def clear(self) -> None:
        """Remove all ioeventfds, at close."""
        for eventfd in self._set.values():
            self._device.kernel.watcher.leave(eventfd)
        self._set.clear()
