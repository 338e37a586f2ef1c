"""Low power: letting the host put a device to sleep while nobody uses it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import ffi
from pyvfio._core.event import Event
from pyvfio._core.resource import Attempts, Resource
from pyvfio.feature import Feature, no_feature

if TYPE_CHECKING:
    from pyvfio.device import Device

_WAKEUP = "struct vfio_device_low_power_entry_with_wakeup"


_ALREADY = {errno.EINVAL: "the device is in low power already: close the object that put it there"}
ENTRY = Feature("SET LOW_POWER_ENTRY", errnos={**_ALREADY, errno.ENOTTY: no_feature})
ENTRY_WITH_WAKEUP = Feature("SET LOW_POWER_ENTRY_WITH_WAKEUP", errnos={errno.ENOTTY: no_feature}, otherwise=_ALREADY)
EXIT = Feature("SET LOW_POWER_EXIT")


class LowPower(Resource):
    """VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: a device that may sleep, until this is closed (LOW_POWER_EXIT). Since Linux 6.1.

    Whether and how deeply it sleeps is the host's affair, and does not show. Calls go on working: the kernel wakes the device for each, and lets
    it sleep again. Mapped regions cannot be reached meanwhile; touching one raises SIGBUS in this process.

    :raises Unsupported: the device's driver has no such feature
    :raises OSError: EINVAL, the device is in low power already
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.device = device
        self._enter()

    def _enter(self) -> None:
        ENTRY.exchange(self.device.file)

    def _release(self) -> None:
        if not self.device.file.closed:
            EXIT.exchange(self.device.file)

    def _has_gone(self) -> bool:
        return self.device.file.closed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.device.address}{' (closed)' if self.closed else ''}>"


class LowPowerWithWakeup(LowPower):
    """VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: a device that sleeps once, and tells when it is woken.

    The first that wakes it, a call of this process or the device itself (PME), ends low power and signals :attr:`wakeup`. A device that had not
    fallen asleep signals nothing. Closing this ends low power too.

    :ivar wakeup: the eventfd, with `wait`, `wait_async` and `fileno`
    """

    def _enter(self) -> None:
        self.wakeup = Event(self.device, "wakeup")
        value = ffi.new(f"{_WAKEUP} *", {"wakeup_eventfd": self.wakeup.fileno()})
        ENTRY_WITH_WAKEUP.exchange(self.device.file, value)

    def _release(self) -> None:
        attempts = Attempts()
        attempts.do(super()._release)
        attempts.do(self.wakeup.close)
        attempts.raise_first(f"closing {self!r}")

    def _undo(self) -> None:
        if "wakeup" in self.__dict__:
            self.wakeup.close()
