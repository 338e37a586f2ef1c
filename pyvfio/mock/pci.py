"""PCI functions of the mock's host, in the hands of vfio-pci; and the base of one's own."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, ClassVar

from pyvfio._abi import ffi, lib
from pyvfio.mock import caller, dma_buf, hot_reset
from pyvfio.mock.config import BAR0, CAP_INTX_DISABLE, CAP_MASTER, CAP_MEMORY, COMMAND, Bar, Config, Function
from pyvfio.mock.device import Device, DmaFault
from pyvfio.mock.errno import Errno
from pyvfio.mock.feature import SET
from pyvfio.mock.file import request
from pyvfio.mock.ioeventfd import Ioeventfds
from pyvfio.mock.irq import INTX, MSI, MSIX
from pyvfio.mock.pci_irq import PciIrqs
from pyvfio.mock.power import LowPower
from pyvfio.mock.region import MMAP, OFFSET_MASK, OFFSET_SHIFT, READ, WRITE, Region
from pyvfio.mock.sriov import VirtualFunctions
from pyvfio.mock.sysfs import text

if TYPE_CHECKING:
    from pyvfio.mock.feature import Feature
    from pyvfio.mock.kernel import Kernel
    from pyvfio.mock.tree import Text

CONFIG, VGA = lib.VFIO_PCI_CONFIG_REGION_INDEX, lib.VFIO_PCI_VGA_REGION_INDEX
_BARS = range(6)
_LOW_POWER = (
    lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
    lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
    lib.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
)


class PciDevice(Device):
    """A PCI function: the base of one's own, which is on the host as soon as it is made.

    A subclass says what it is (`function`), and what its registers do: :meth:`read`, :meth:`write`, :meth:`power_on`. It has
    :meth:`dma_read`, :meth:`dma_write`, :meth:`interrupt`. All of these run under the kernel's lock; a thread of the device's own
    takes `kernel.lock` itself.

    :param name: its address; no other device of the host may have it
    :param driver: bind it to this driver
    :param parent: address of a bridge that it is behind
    :param group: the group of another device, to share it; None for one of its own
    :ivar function: what it is
    :ivar config: its configuration space
    :ivar era: counts how often its BARs have gone away
    :ivar virtual: its virtual functions, if it can have any
    :ivar physical: those that it is one of
    """

    bus = "pci"
    num_regions = lib.VFIO_PCI_NUM_REGIONS
    num_irqs = lib.VFIO_PCI_NUM_IRQS
    #: what a class of devices is; an instance may be given another
    function: ClassVar[Function] = Function((0, 0))

    irqs: PciIrqs

    def __init__(
        self, kernel: Kernel, name: str, *, function: Function | None = None, driver: str | None = None, **more: Any
    ) -> None:
        if function is not None:
            self.function = function  # type: ignore[misc]
        self.ids = self.function.ids
        self.config = Config(self.function, 0xE0000000)
        self.config.on_write(COMMAND, 2, self._command_written)
        counts = (int(self.function.intx), self.function.msi, self.function.msix, int(self.function.express), 1)
        self.irqs = PciIrqs(kernel, counts)
        self._ioeventfds = Ioeventfds(self)
        self._low_power = LowPower()
        self.era = 0
        self.virtual = VirtualFunctions(self) if self.function.virtual else None
        self.physical: VirtualFunctions | None = None
        super().__init__(kernel, name, **more)
        if driver is not None:
            kernel.host.bind(self, kernel.host.drivers[self.bus, driver])

    # What a subclass gives.

    def power_on(self) -> None:
        """After a reset, and at the open of a device that can be reset: nothing is as it was. Registers are zeros."""
        for index in self.function.bars:
            memory = self.memory(index)
            memory[:] = bytes(len(memory))

    def read(self, bar: int, offset: int, width: int) -> int:
        """The value of a register; `width` is 1, 2, 4 or 8 bytes, and `offset` a multiple of it. What was written, if a subclass
        does not say otherwise."""
        return int.from_bytes(self.memory(bar)[offset : offset + width], "little")

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        """A register is written: it holds the value, if a subclass does not say otherwise."""
        self.memory(bar)[offset : offset + width] = value.to_bytes(width, "little")

    def interrupt(self, vector: int = 0) -> None:
        """Send an interrupt: the vector of MSI-X or MSI, whichever is on, else INTx, until :meth:`deassert`."""
        for index in (MSIX, MSI):
            if self.irqs.enabled[index]:
                if self.bus_master:
                    self.irqs.interrupt(index, vector)
                return
        if self.irqs.counts[INTX]:
            self.irqs.interrupt(INTX)

    def deassert(self) -> None:
        """INTx's reason is gone."""
        self.irqs.deassert()

    # Its DMA. What the IOMMU does not let through is counted, and the device goes on.

    @property
    def bus_master(self) -> bool:
        return bool(self.config.command & CAP_MASTER)

    def dma_read(self, iova: int, size: int) -> bytes:
        """What is in memory there; zeros where the IOMMU lets nothing through, or without bus master."""
        if not self.bus_master:
            return bytes(size)
        try:
            return super().dma_read(iova, size)
        except Errno as error:
            self.kernel.faults.append(DmaFault(self.name, iova, False, error.number))
            return bytes(size)

    def dma_write(self, iova: int, data: bytes) -> None:
        """Write to memory; nothing is written where the IOMMU lets nothing through, or without bus master."""
        if not self.bus_master:
            return
        try:
            super().dma_write(iova, data)
        except Errno as error:
            self.kernel.faults.append(DmaFault(self.name, iova, True, error.number))

    # Opening and resetting.

    def open(self) -> None:
        self._restore()
        if self.function.resets:
            self.power_on()

    def close(self) -> None:
        super().close()
        self._ioeventfds.clear()
        self._low_power.exit()
        self._restore()
        self.config.command = 0

    def reset(self) -> None:
        if not self.function.resets:
            raise Errno(errno.EINVAL)
        self.bus_reset()

    def bus_reset(self) -> None:
        """A reset, of this function alone or of all on its bus."""
        command = self.config.command
        self._restore()
        self.power_on()
        # The kernel puts back what of it a reset loses, but for the bus master.
        self.config.command = command & ~CAP_MASTER

    def _restore(self) -> None:
        self.era += 1
        self.config.reset()
        # vfio-pci enables the device; the bus master stays off.
        self.config.command = CAP_MEMORY if self.function.bars else 0

    def _command_written(self) -> None:
        if not self.config.command & CAP_MEMORY:
            self.era += 1
        masked = bool(self.config.command & CAP_INTX_DISABLE)
        if masked != self.irqs.virtually_masked:
            self.irqs.virtually_masked = masked
            if self.irqs.enabled[INTX]:
                self.irqs.masked = masked
                self.irqs.update_intx()

    # Regions.

    def region(self, index: int) -> Region:
        if index in self.function.bars:
            bar = self.function.bars[index]
            return Region(bar.size, READ | WRITE | (MMAP if bar.memory else 0))
        if index == CONFIG:
            return Region(self.config.size, READ | WRITE)
        if index == VGA or index >= self.num_regions:
            raise Errno(errno.EINVAL)
        return Region()

    def pread(self, size: int, position: int) -> bytes:
        if not size:
            return b""
        index, offset, size = self._located(position, size)
        return self.config.read(offset, size) if index == CONFIG else self.bar_read(index, offset, size)

    def bar_read(self, index: int, offset: int, size: int) -> bytes:
        """What a processor or another device reads of a BAR."""
        parts = []
        for at, width in self._accesses(index, offset, size):
            hidden = self.hides(index, at, width)
            parts.append(b"\xff" * width if hidden else self.read(index, at, width).to_bytes(width, "little"))
        return b"".join(parts)

    def pwrite(self, data: bytes, position: int) -> int:
        if not data:
            return 0
        index, offset, size = self._located(position, len(data))
        if index == CONFIG:
            self.config.write(offset, data[:size])
        else:
            self.bar_write(index, offset, data[:size])
        return size

    def bar_write(self, index: int, offset: int, data: bytes) -> None:
        """A processor or another device writes a BAR."""
        for at, width in self._accesses(index, offset, len(data)):
            if not self.hides(index, at, width):
                self.write(index, at, width, int.from_bytes(data[at - offset : at - offset + width], "little"))

    def _located(self, position: int, size: int) -> tuple[int, int, int]:
        """Region, offset, and how much of it a transfer moves.

        :raises Errno: EINVAL, nothing is there; EIO, the device does not decode memory
        """
        index, offset = position >> OFFSET_SHIFT, position & OFFSET_MASK
        if index >= self.num_regions or offset >= self.region(index).size:
            raise Errno(errno.EINVAL)
        if index in _BARS and not self.decodes_memory:
            raise Errno(errno.EIO)
        return index, offset, min(size, self.region(index).size - offset)

    def _accesses(self, bar: int, offset: int, size: int) -> list[tuple[int, int]]:
        """Offset and width of the accesses that a transfer is made of: as wide as they can be."""
        accesses, end = [], offset + size
        table = 16 * self.function.msix if bar == self.config.msix_bar else 0
        while offset < end:
            # What is hidden is no access at all.
            stop = min(end, table) if offset < table else end
            width = next(width for width in (8, 4, 2, 1) if not offset % width and offset + width <= stop)
            accesses.append((offset, width))
            offset += width
        return accesses

    @property
    def decodes_memory(self) -> bool:
        """Whether it answers at its BARs."""
        return bool(self.config.command & CAP_MEMORY) and not self._low_power.engaged

    def hides(self, bar: int, offset: int, size: int) -> bool:
        """Whether a part of a BAR touches the MSI-X table, which vfio-pci keeps to itself."""
        table = 16 * self.function.msix
        return bool(table) and bar == self.config.msix_bar and offset < table and size > 0

    def resume(self) -> None:
        self._low_power.resume()

    # Its requests.

    def feature(self, asked: Feature) -> int | None:
        if asked.number in _LOW_POWER:
            self._low_power.feature(asked)
            self.era += self._low_power.engaged
        elif asked.number == lib.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN and self.virtual is not None:
            if asked.is_meant(SET, 16):
                self.virtual.set_token(bytes(caller.read(asked.address, 16)))
        elif asked.number == lib.VFIO_DEVICE_FEATURE_DMA_BUF:
            return dma_buf.export(self, asked)
        else:
            return super().feature(asked)
        return None

    def check_token(self, token: bytes | None) -> None:
        if self.physical is not None:
            self.physical.check_virtual(token)
        elif self.virtual is not None:
            self.virtual.check_physical(token)
        else:
            super().check_token(token)

    @request(lib.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO)
    def _hot_reset_info(self, argument: int) -> None:
        hot_reset.info(self, argument)

    @request(lib.VFIO_DEVICE_PCI_HOT_RESET)
    def _hot_reset(self, argument: int) -> None:
        hot_reset.reset(self, argument)

    @request(lib.VFIO_DEVICE_IOEVENTFD)
    def _ioeventfd(self, argument: int) -> None:
        self._ioeventfds.request(argument)

    # What it tells.

    @property
    def flags(self) -> int:  # type: ignore[override]
        return int(lib.VFIO_DEVICE_FLAGS_PCI | (lib.VFIO_DEVICE_FLAGS_RESET if self.function.resets else 0))

    def info_size(self, argsz: int) -> int:
        return min(argsz, int(ffi.sizeof("struct vfio_device_info")))

    def attributes(self) -> dict[str, Text]:
        return {
            "vendor": text(f"{self.ids[0]:#06x}"),
            "device": text(f"{self.ids[1]:#06x}"),
            "class": text(f"{self.function.class_code:#08x}"),
            "numa_node": text(-1),
            **(self.virtual.attributes() if self.virtual is not None else {}),
        }


__all__ = ["BAR0", "Bar", "Function", "PciDevice"]
