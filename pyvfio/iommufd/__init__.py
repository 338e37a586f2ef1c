# SPDX-License-Identifier: MIT
"""iommufd, `/dev/iommu`: address spaces, page tables and virtual IOMMUs as objects of one file. Since Linux 6.2.

The objects form a tree: an :class:`Iommufd` has :class:`Ioas`\\ es, these have :class:`Hwpt`\\ s, and so on. `close()` closes
the objects made from this one first. `destroy()` does not, and the kernel refuses it while such objects exist.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvfio.iommufd.bound import BoundDevice as BoundDevice
    from pyvfio.iommufd.bound import HwInfo as HwInfo
    from pyvfio.iommufd.event_queue import Event as Event
    from pyvfio.iommufd.event_queue import EventQueue as EventQueue
    from pyvfio.iommufd.fault_queue import Fault as Fault
    from pyvfio.iommufd.fault_queue import FaultQueue as FaultQueue
    from pyvfio.iommufd.hw_queue import HwQueue as HwQueue
    from pyvfio.iommufd.hwpt import Hwpt as Hwpt
    from pyvfio.iommufd.ioas import Ioas as Ioas
    from pyvfio.iommufd.iommufd import Iommufd as Iommufd
    from pyvfio.iommufd.vdevice import Vdevice as Vdevice
    from pyvfio.iommufd.viommu import Viommu as Viommu

_HOMES = {
    "BoundDevice": "bound",
    "Event": "event_queue",
    "EventQueue": "event_queue",
    "Fault": "fault_queue",
    "FaultQueue": "fault_queue",
    "HwInfo": "bound",
    "HwQueue": "hw_queue",
    "Hwpt": "hwpt",
    "Ioas": "ioas",
    "Iommufd": "iommufd",
    "Vdevice": "vdevice",
    "Viommu": "viommu",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
