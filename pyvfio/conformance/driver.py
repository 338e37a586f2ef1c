# SPDX-License-Identifier: MIT
"""Drivers that make a device work: copy memory by DMA, send an interrupt. They are named as MODULE:CLASS, or by an entry point.

A device that was just opened does nothing by itself. Checks that need its DMA or interrupts (dirty pages, reach of mappings) need a driver:
a class that is called with the open device, and has these methods.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, cast

from pyvfio._core import arguments
from pyvfio.iova import IovaRange

if TYPE_CHECKING:
    from pyvfio import Device

GROUP = "pyvfio.drivers"


class Driver(Protocol):
    """The methods that the checks use. A class with only a method `copy`, as :meth:`Copying.copy`, is accepted too.

    :ivar reach: the IOVAs that the device can address
    """

    reach: IovaRange

    def memcpy_start(self, destination: int, source: int, size: int) -> None:
        """Make the device read `size` bytes at an IOVA and write them at another one, and return without waiting for that.

        Addresses and sizes are multiples of 512, for devices that copy whole blocks.
        """

    def memcpy_wait(self, timeout: float) -> None:
        """Wait until the copy has ended.

        :raises OSError: the device reports a failure
        :raises TimeoutError: the copy has not ended within the timeout
        """

    def send_msi(self) -> None:
        """Make the device send an interrupt; vector 0 is enabled."""


class Copying:
    """An adapter for drivers: it also takes a driver that only has a `copy`, which waits for the end.

    :param inner: the driver
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.reach: IovaRange = inner.reach
        #: whether the device reports that a transfer failed
        self.tells: bool = getattr(inner, "tells", True)

    def memcpy_start(self, destination: int, source: int, size: int) -> None:
        """Start a copy; if the driver only has `copy`, make it and wait for its end."""
        start = getattr(self.inner, "memcpy_start", None)
        (start or self.inner.copy)(destination, source, size)

    def memcpy_wait(self, timeout: float) -> None:
        """Wait for the copy, if the driver has a method for that."""
        wait = getattr(self.inner, "memcpy_wait", None)
        if wait is not None:
            wait(timeout)

    def copy(self, destination: int, source: int, size: int, timeout: float = 10.0) -> None:
        """Make a copy and wait for its end."""
        self.memcpy_start(destination, source, size)
        self.memcpy_wait(timeout)

    @property
    def sends_msi(self) -> bool:
        """Whether the driver can make the device send an interrupt."""
        return hasattr(self.inner, "send_msi")

    def send_msi(self) -> None:
        """Make the device send an interrupt."""
        self.inner.send_msi()


def load(name: str) -> Any:
    """Return a driver's class.

    :param name: MODULE:CLASS, found in the working directory too; or the name of an entry point in the group `pyvfio.drivers`
    :raises ValueError: there is no driver of that name
    """
    module, colon, class_ = arguments.string(name, "name").partition(":")
    if not colon:
        found = entry_points(group=GROUP, name=name)
        if not found:
            known = ", ".join(entry.name for entry in entry_points(group=GROUP)) or "none"
            raise ValueError(f"no driver is named {name!r}; write MODULE:CLASS, or one of those installed: {known}")
        return next(iter(found)).load()
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(import_module(module), class_)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the driver {name} cannot be loaded: {error}") from error
    finally:
        sys.path.remove(os.getcwd())


@contextmanager
def driving(name: str, device: Device) -> Iterator[Copying]:
    """Make a driver of a device for the block; a driver that is a context manager is entered and left. See :func:`load`."""
    inner = load(name)(device)
    if hasattr(inner, "__enter__"):
        with cast("AbstractContextManager[Any]", inner) as entered:
            yield Copying(entered)
    else:
        yield Copying(inner)
