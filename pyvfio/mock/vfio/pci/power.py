# SPDX-License-Identifier: MIT
"""Low power of vfio-pci: VFIO_DEVICE_FEATURE_LOW_POWER_*."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.eventfd import Eventfd
from pyvfio.mock.vfio.feature import SET

if TYPE_CHECKING:
    from pyvfio.mock.vfio.feature import Feature

_WAKEUP = "struct vfio_device_low_power_entry_with_wakeup"


class LowPower:
    """The low-power state of one device.

    :ivar engaged: the device may suspend while it is not accessed (vdev->pm_runtime_engaged)
    """

    def __init__(self) -> None:
        self.engaged = False
        self._eventfd: Eventfd | None = None

    def feature(self, asked: Feature) -> None:
        """Enter or leave low power.

        :raises Errno: EINVAL, low power is engaged already; or that of the eventfd
        """
        if asked.number == lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP:
            if asked.is_meant(SET, ffi.sizeof(_WAKEUP)):
                fd = asked.take(_WAKEUP).wakeup_eventfd
                if fd < 0:
                    raise Errno(errno.EINVAL)
                self._enter(Eventfd(fd))
        elif asked.is_meant(SET):
            if asked.number == lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY:
                self._enter(None)
            else:
                self.exit()

    def _enter(self, eventfd: Eventfd | None) -> None:
        if self.engaged:
            if eventfd is not None:
                eventfd.close()
            raise Errno(errno.EINVAL)
        self.engaged = True
        self._eventfd = eventfd

    def resume(self) -> None:
        """Handle an access (vfio_pci_core_runtime_resume): with a wakeup eventfd, signal it and leave low power.

        Without one the device may suspend again after the access.
        """
        if self._eventfd is not None:
            self._eventfd.signal()
            self.exit()

    def exit(self) -> None:
        self.engaged = False
        if self._eventfd is not None:
            self._eventfd.close()
            self._eventfd = None
