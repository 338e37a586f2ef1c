"""vfio-mock: the device of tests/vfio_mock, register for register."""

from __future__ import annotations

from pyvfio._abi import lib
from pyvfio.mock.device import Device


class VfioMock(Device):
    bus = "platform"
    emulated = True
    flags = lib.VFIO_DEVICE_FLAGS_PLATFORM | lib.VFIO_DEVICE_FLAGS_RESET
    num_regions = 6
    num_irqs = 5
