# SPDX-License-Identifier: MIT
"""The vfio-mock driver for the suite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio import Device
from pyvfio.vfio_mock import VfioMock


class Driver(VfioMock):
    tells = True
    many = 1000


@contextmanager
def driver(device: Device) -> Iterator[Driver]:
    mock = Driver(device)
    yield mock
    if not device.closed:
        mock.stop()


logger = driver
