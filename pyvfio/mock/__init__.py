# SPDX-License-Identifier: MIT
"""The mock: a kernel in this process, written in Python, for everything that takes `kernel=`.

It decodes the bytes that the real ioctl would get, behaves like the real kernel, and returns the same errno and bytes.
Drivers, scripts and notebooks run on it unchanged: `pyvfio.open("vfio-mock.0", kernel=pyvfio.mock.Kernel("amd"))`, or
`PYVFIO_KERNEL=mock:amd` in the environment.
"""

from pyvfio.mock.machine.failures import Failures
from pyvfio.mock.machine.kernel import Kernel
from pyvfio.mock.machine.profile import LogLimits, Profile, Reserved
from pyvfio.mock.vfio.dma_fault import DmaFault
from pyvfio.mock.vfio.pci.device import PciDevice as Device
from pyvfio.mock.vfio.pci.function import Bar, Function

__all__ = ["Bar", "Device", "DmaFault", "Failures", "Function", "Kernel", "LogLimits", "Profile", "Reserved"]
