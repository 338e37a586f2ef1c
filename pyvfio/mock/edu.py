"""QEMU's edu: a 4 KiB buffer in the device, and an engine that moves bytes between it and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvfio.mock.driver import EDU
from pyvfio.mock.pci import PciDevice

if TYPE_CHECKING:
    from pyvfio.mock.kernel import Kernel


class Edu(PciDevice):
    def __init__(self, kernel: Kernel, name: str, **more: Any) -> None:
        super().__init__(kernel, name, ids=EDU, class_code=0x00FF00, **more)
