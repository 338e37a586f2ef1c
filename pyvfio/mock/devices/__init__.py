# SPDX-License-Identifier: MIT
"""Models of devices that real drivers know: an NVMe disk, and network cards, one of them with virtual functions.

Each says in its docstring which commands and registers it has. They are :class:`pyvfio.mock.Device` and nothing more: registers,
DMA, interrupts and a reset.
"""

from pyvfio.mock.devices.ethernet.e1000e import E1000e
from pyvfio.mock.devices.ethernet.igb import Igb, IgbVf
from pyvfio.mock.devices.ethernet.wire import Wire
from pyvfio.mock.devices.nvme.controller import Nvme

__all__ = ["E1000e", "Igb", "IgbVf", "Nvme", "Wire"]
