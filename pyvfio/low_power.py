"""Low power: letting the host put a device to sleep while nobody uses it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import ffi, lib
from pyvfio._core.event import Event
from pyvfio._core.resource import Attempts, Resource

if TYPE_CHECKING:
    from pyvfio.device import Device

_WAKEUP = "struct vfio_device_low_power_entry_with_wakeup"


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
        self._set(lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, None)

    def _set(self, feature: int, value: object) -> None:
        self.device.features.set(feature, value, reasons={errno.EINVAL: "it is in low power already"})

    def _release(self) -> None:
        if not self.device._fd.closed:
            self._set(lib.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, None)

    def _has_gone(self) -> bool:
        return self.device._fd.closed

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
        self._set(lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, value)

    def _release(self) -> None:
        attempts = Attempts()
        attempts.do(super()._release)
        attempts.do(self.wakeup.close)
        attempts.raise_first(f"closing {self!r}")

    def _undo(self) -> None:
        if "wakeup" in self.__dict__:
            self.wakeup.close()
