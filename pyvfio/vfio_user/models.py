# SPDX-License-Identifier: MIT
"""Device models by name, as `pyvfio serve` takes them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from pyvfio import mock
from pyvfio.mock import devices
from pyvfio.mock.devices.edu import Edu

#: makes a device of a kernel, at an address
Factory = Callable[[mock.Kernel, str], Any]


class Adder(mock.Device):
    """A device that adds: the example of the documentation.

    Register 0x00 holds an IOVA. A write of a count to 0x08 starts the device: it adds that many 64-bit words from the IOVA on, puts the sum
    into 0x10 and sends an MSI.
    """

    function = mock.Function((0x1234, 0xADD0), bars={0: mock.Bar(4096)}, msi=1)

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        """Store the register, and add if it is the count."""
        super().write(bar, offset, width, value)
        if offset == 0x08:
            words = memoryview(self.dma_read(self.read(0, 0x00, 8), 8 * value)).cast("Q")
            super().write(0, 0x10, 8, sum(words) % 2**64)
            self.interrupt()


#: models by name
NAMES: dict[str, type[mock.Device]] = {
    "adder": Adder,
    "e1000e": devices.E1000e,
    "edu": Edu,
    "igb": devices.Igb,
    "nvme": devices.Nvme,
}


def named(name: str) -> Factory:
    """Return the class or function that makes devices of a model.

    :param name: one of :data:`NAMES`; or `MODULE:NAME`, a class of :class:`pyvfio.mock.Device`, or a function that takes a kernel and an
        address and returns a device
    :raises ValueError: there is no such model
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in NAMES:
            raise ValueError(f"no model is named {name!r}; known: {', '.join(NAMES)}; your own is MODULE:CLASS")
        return NAMES[name]
    try:
        factory: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the model {name!r} cannot be loaded: {error}") from error
    if not callable(factory):
        raise ValueError(f"the model {name!r} is a {type(factory).__name__}, neither a class nor a function")
    return factory  # type: ignore[no-any-return]  # make() checks the device that it returns


def make(factory: Factory, kernel: mock.Kernel, address: str) -> Any:
    """Make a device, and check that it can be served.

    :raises ValueError: the factory did not return a device of the kernel
    """
    device = factory(kernel, address)
    if not hasattr(device, "pread") or getattr(device, "kernel", None) is not kernel:
        raise ValueError(
            f"the model made {device!r}, not a device (pyvfio.mock.Device) of the kernel that it was given"
        )
    return device
