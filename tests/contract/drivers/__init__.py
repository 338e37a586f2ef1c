# SPDX-License-Identifier: MIT
"""Small drivers that make a device copy memory, for the `dma` fixture: those of scripts/examples, and vfio-mock's."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from typing import Protocol, cast

from pyvfio import Device, IovaRange


class Dma(Protocol):
    """What the suite asks of a device.

    :ivar reach: the IOVAs that the device can address
    :ivar tells: whether the device says that a transfer failed; one that does not has then simply done nothing
    """

    reach: IovaRange
    tells: bool

    def copy(self, destination: int, source: int, size: int) -> None:
        """Have the device read `size` bytes at an IOVA and write them at another one.

        :raises OSError: the device says that it failed
        """


def driver_for(device_name: str, device: Device) -> AbstractContextManager[Dma]:
    """The driver of that device, set up; it leaves the device quiet."""
    module = import_module(f"tests.contract.drivers.{device_name.replace('-', '_')}")
    return cast("AbstractContextManager[Dma]", module.driver(device))
