# SPDX-License-Identifier: MIT
"""Models of devices that real drivers support: an NVMe disk, and network cards, one of them with virtual functions.

The docstring of each model lists its commands and registers. Each is a subclass of :class:`pyvfio.mock.Device` that
uses only the public methods: registers, DMA, interrupts and reset.
"""

from pyvfio.mock.devices.ethernet.e1000e import E1000e
from pyvfio.mock.devices.ethernet.igb import Igb, IgbVf
from pyvfio.mock.devices.ethernet.wire import Wire
from pyvfio.mock.devices.nvme.controller import Nvme

__all__ = ["E1000e", "Igb", "IgbVf", "Nvme", "Wire"]
