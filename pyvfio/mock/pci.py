"""PCI functions of the mock's host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvfio._abi import lib
from pyvfio.mock.device import Device
from pyvfio.mock.sysfs import text

if TYPE_CHECKING:
    from pyvfio.mock.kernel import Kernel
    from pyvfio.mock.tree import Text


class PciDevice(Device):
    """A PCI function."""

    bus = "pci"
    flags = lib.VFIO_DEVICE_FLAGS_PCI
    num_regions = lib.VFIO_PCI_NUM_REGIONS
    num_irqs = lib.VFIO_PCI_NUM_IRQS

    def __init__(
        self, kernel: Kernel, name: str, *, ids: tuple[int, int] = (0, 0), class_code: int = 0xFF0000, **more: Any
    ) -> None:
        self.ids = ids
        self.class_code = class_code
        super().__init__(kernel, name, **more)

    def attributes(self) -> dict[str, Text]:
        return {
            "vendor": text(f"{self.ids[0]:#06x}"),
            "device": text(f"{self.ids[1]:#06x}"),
            "class": text(f"{self.class_code:#08x}"),
            "numa_node": text(-1),
        }
