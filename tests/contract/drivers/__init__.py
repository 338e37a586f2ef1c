# SPDX-License-Identifier: MIT
"""Small drivers for the suite's devices.

The fixture `dma` uses the drivers of scripts/examples and that of vfio-mock; `logger` uses those of devices that log
their DMA.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib import import_module
from types import ModuleType
from typing import Protocol, cast

from pyvfio import Device, IovaRange


class Dma(Protocol):
    """The interface of a driver for the fixture `dma`.

    :ivar reach: the IOVAs that the device can address
    :ivar tells: whether the device reports failed transfers. If it does not, a failed transfer simply has no effect
    """

    reach: IovaRange
    tells: bool

    def copy(self, destination: int, source: int, size: int) -> None:
        """Make the device read `size` bytes at one IOVA and write them to another.

        :raises OSError: the device reports a failure
        """


class Logger(Protocol):
    """The interface of a driver for the fixture `logger`: its device logs the pages that it writes.

    Limits and counters have the names of vfio-mock's registers: `logger["LOG_PAGE_MIN"] = 0x4000`.

    :ivar device: the open device
    :ivar reach: the IOVAs that the device can address
    :ivar many: the number of pages that the device can write within seconds
    """

    device: Device
    reach: IovaRange
    many: int

    def __getitem__(self, name: str, /) -> int: ...

    def __setitem__(self, name: str, value: int, /) -> None: ...

    def touch(self, iova: int, size: int) -> None:
        """Make the device write something to every page of a range."""

    def touch_each(self, iovas: Iterable[int]) -> None:
        """Make the device write 8 bytes at each of these IOVAs."""

    def fail(self, call: str, nth: int = 1, error: int = errno.EIO) -> None:
        """Make the n-th next call of a kind fail: `fail("LOG_START", error=errno.ENOMEM)`."""


def driver_for(device_name: str, device: Device) -> AbstractContextManager[Dma]:
    """Return the driver for a device. As a context manager it sets the device up, and stops its DMA at the end."""
    return cast("AbstractContextManager[Dma]", _module(device_name).driver(device))


def logger_for(device_name: str, device: Device) -> AbstractContextManager[Logger]:
    """Return the driver for a device that logs its DMA; a context manager as for :func:`driver_for`."""
    return cast("AbstractContextManager[Logger]", _module(device_name).logger(device))


def _module(device_name: str) -> ModuleType:
    return import_module(f"tests.contract.drivers.{device_name.replace('-', '_')}")
