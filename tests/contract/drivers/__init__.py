# SPDX-License-Identifier: MIT
"""Small drivers of the suite's devices: for the `dma` fixture those of scripts/examples and vfio-mock's, for `logger` those that log."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib import import_module
from types import ModuleType
from typing import Protocol, cast

from pyvfio import Device, IovaRange


class Dma(Protocol):
    """The interface of a driver for the suite.

    :ivar reach: the IOVAs that the device can address
    :ivar tells: whether the device says that a transfer failed; one that does not has then simply done nothing
    """

    reach: IovaRange
    tells: bool

    def copy(self, destination: int, source: int, size: int) -> None:
        """Have the device read `size` bytes at an IOVA and write them at another one.

        :raises OSError: the device says that it failed
        """


class Logger(Protocol):
    """The interface of a driver whose device logs the pages that it writes.

    Limits and counters are read and written by the names of vfio-mock's registers: `logger["LOG_PAGE_MIN"] = 0x4000`.

    :ivar device: the open device
    :ivar reach: the IOVAs that the device can address
    :ivar many: how many pages it can write within seconds
    """

    device: Device
    reach: IovaRange
    many: int

    def __getitem__(self, name: str, /) -> int: ...

    def __setitem__(self, name: str, value: int, /) -> None: ...

    def touch(self, iova: int, size: int) -> None:
        """Have the device write something to every page of a range."""

    def touch_each(self, iovas: Iterable[int]) -> None:
        """Have the device write 8 bytes at each of these IOVAs."""

    def fail(self, call: str, nth: int = 1, error: int = errno.EIO) -> None:
        """Make the n-th call of a kind from now on fail: `fail("LOG_START", error=errno.ENOMEM)`."""


def driver_for(device_name: str, device: Device) -> AbstractContextManager[Dma]:
    """The driver of that device, set up; it leaves the device quiet."""
    return cast("AbstractContextManager[Dma]", _module(device_name).driver(device))


def logger_for(device_name: str, device: Device) -> AbstractContextManager[Logger]:
    """The driver of a device that logs; it leaves the device quiet."""
    return cast("AbstractContextManager[Logger]", _module(device_name).logger(device))


def _module(device_name: str) -> ModuleType:
    return import_module(f"tests.contract.drivers.{device_name.replace('-', '_')}")
