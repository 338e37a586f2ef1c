# SPDX-License-Identifier: MIT
"""Low power: allow the host to put an idle device to sleep."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import ffi
from pyvfio._buffer import Object
from pyvfio._core.event import Event
from pyvfio._core.resource import Attempts, Resource
from pyvfio.feature import Feature, no_feature

if TYPE_CHECKING:
    from pyvfio.device import Device

__all__ = ["LowPower", "LowPowerWithWakeup"]

_WAKEUP = "struct vfio_device_low_power_entry_with_wakeup"


_ALREADY = {errno.EINVAL: "the device is in low power already: close the object that put it there"}
ENTRY = Feature("SET LOW_POWER_ENTRY", errnos={**_ALREADY, errno.ENOTTY: no_feature})
ENTRY_WITH_WAKEUP = Feature("SET LOW_POWER_ENTRY_WITH_WAKEUP", errnos={errno.ENOTTY: no_feature}, otherwise=_ALREADY)
EXIT = Feature("SET LOW_POWER_EXIT")


class LowPower(Resource):
    """A device that may sleep until this object is closed. VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY and _EXIT, since Linux 6.1.

    The host decides whether and how deeply the device sleeps, and does not report it. Calls continue to work: the kernel wakes the
    device for each of them. An access to a mapped region meanwhile causes SIGBUS in this process.

    :raises Unsupported: the device's driver has no such feature
    :raises OSError: EINVAL, the device is in low power already
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.device = device
        #: present once the kernel has granted low power
        self._entered = Object()
        self._enter()

    def _enter(self) -> None:
        ENTRY.receive(self.device.file, None, (None, self._entered))

    def _undo(self) -> None:
        if "_entered" in self.__dict__ and self._entered.present:
            self._release()

    def _release(self) -> None:
        if not self.device.file.closed:
            EXIT.exchange(self.device.file)

    def _has_gone(self) -> bool:
        return self.device.file.closed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.device.address}{' (closed)' if self.closed else ''}>"


class LowPowerWithWakeup(LowPower):
    """A device that may sleep until its first wake-up, which is signalled. VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP.

    The first wake-up, by a call of this process or by the device itself (PME), ends low power and signals :attr:`wakeup`. A device
    that did not fall asleep signals nothing. Closing this object ends low power too.

    :ivar wakeup: the eventfd, with `wait`, `wait_async` and `fileno`
    """

    def _enter(self) -> None:
        self.wakeup = Event(self.device, self.device.file.kernel, f"{self.device.address} wakeup")
        value = ffi.new(f"{_WAKEUP} *", {"wakeup_eventfd": self.wakeup.fileno()})
        ENTRY_WITH_WAKEUP.receive(self.device.file, value, (None, self._entered))

    def _release(self) -> None:
        attempts = Attempts()
        attempts.do(super()._release)
        attempts.do(self.wakeup.close)
        attempts.raise_first(f"closing {self!r}")

    def _undo(self) -> None:
        super()._undo()
        if "wakeup" in self.__dict__:
            self.wakeup.close()
