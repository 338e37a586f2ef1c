# SPDX-License-Identifier: MIT
"""The methods by which the kernel resets a PCI function, and the choice among them (`reset_method` in sysfs)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.vfio.pci.device import PciDevice

#: method names in the kernel's order of preference (pci_reset_fn_methods)
_KNOWN = ("device_specific", "acpi", "flr", "af_flr", "pm", "bus", "cxl_bus")


class ResetMethods:
    """The reset methods of one function, found when it is plugged in (pci_init_reset_methods).

    :ivar names: the methods to try, in order
    """

    def __init__(self, device: PciDevice) -> None:
        self._device = device
        self.names = self._found()

    def __str__(self) -> str:
        return " ".join(self.names)

    def _found(self) -> list[str]:
        has_bus = self._device.parent is not None and self._is_alone()
        return [*self._device.function.reset_methods, *(["bus"] if has_bus else [])]

    def _is_alone(self) -> bool:
        """Whether the function is the only one on its bus."""
        device = self._device
        return not any(
            one is not device and getattr(one, "parent", None) == device.parent
            for one in device.kernel.devices.values()
        )

    def choose(self, data: bytes) -> None:
        """Handle a write to `reset_method` (reset_method_store).

        :param data: method names in the order to try them, nothing, or `default`
        :raises Errno: EINVAL, an unknown method, or one that the function does not have
        """
        asked = data.decode(errors="replace").split()
        if asked == ["default"]:
            self.names = self._found()
            return
        if not set(asked) <= set(_KNOWN) & set(self._found()):
            raise Errno(errno.EINVAL)
        self.names = asked

    @property
    def work(self) -> bool:
        """Whether a reset would succeed now."""
        return any(self._works(name) for name in self.names)

    def _works(self, name: str) -> bool:
        return name != "bus" or (self._is_alone() and self._device.function.bus_resets)

    def reset(self) -> None:
        """Reset the function by the first method that works (pci_try_reset_function).

        :raises Errno: ENOTTY, no method works
        """
        if not self.work:
            raise Errno(errno.ENOTTY)
        self._device.bus_reset()
