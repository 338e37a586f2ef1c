# SPDX-License-Identifier: MIT
"""Drivers that make a device work: copy memory by DMA, send an interrupt. As MODULE:CLASS, or by an entry point.

A freshly opened device does no work. What needs DMA or interrupts of the device's own (dirty pages, reach of mappings) takes a driver:
a class that is called with the open device, with these methods.
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
    """The methods that the checks use. A class that has :meth:`copy` alone will do.

    :ivar reach: the IOVAs that the device can address
    """

    reach: IovaRange

    def memcpy_start(self, destination: int, source: int, size: int) -> None:
        """Have the device read `size` bytes at an IOVA and write them at another one; return while it works.

        Addresses and sizes are multiples of 512, for devices that copy whole blocks.
        """

    def memcpy_wait(self, timeout: float) -> None:
        """Wait until it has ended.

        :raises OSError: the device says that it failed
        :raises TimeoutError: it has not ended within the timeout
        """

    def send_msi(self) -> None:
        """Have the device send an interrupt; vector 0 is enabled."""


class Copying:
    """A driver with :meth:`copy`, which waits, as a :class:`Driver`.

    :param inner: the driver
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.reach: IovaRange = inner.reach
        #: whether the device says that a transfer failed
        self.tells: bool = getattr(inner, "tells", True)

    def memcpy_start(self, destination: int, source: int, size: int) -> None:
        """Make the copy; it has ended when this returns, unless the driver can start one."""
        start = getattr(self.inner, "memcpy_start", None)
        (start or self.inner.copy)(destination, source, size)

    def memcpy_wait(self, timeout: float) -> None:
        """Wait for the copy, where the driver has a wait."""
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
        """Have the device send an interrupt."""
        self.inner.send_msi()


def load(name: str) -> Any:
    """Return a driver's class.

    :param name: MODULE:CLASS, found in the working directory too; or the name of an entry point in the group `pyvfio.drivers`
    :raises ValueError: there is none of that name
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
    """Start a driver, and end it; see :func:`load`."""
    inner = load(name)(device)
    if hasattr(inner, "__enter__"):
        with cast("AbstractContextManager[Any]", inner) as entered:
            yield Copying(entered)
    else:
        yield Copying(inner)
