# SPDX-License-Identifier: MIT
"""PCI functions of the mock's host, as vfio-pci drives them, and the base class of users' models."""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pyvfio._abi import ffi, lib
from pyvfio._core import arguments
from pyvfio._core.weak import WeakTable
from pyvfio.mock.host import pci_sysfs
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.file import request
from pyvfio.mock.machine.parameter import number
from pyvfio.mock.vfio.dma_fault import DmaFault
from pyvfio.mock.vfio.feature import SET
from pyvfio.mock.vfio.irq import INTX, MSI, MSIX
from pyvfio.mock.vfio.pci import dma_buf, hot_reset
from pyvfio.mock.vfio.pci.config import CAP_INTX_DISABLE, CAP_MASTER, CAP_MEMORY, COMMAND, POWER_STATE, Config
from pyvfio.mock.vfio.pci.function import Function
from pyvfio.mock.vfio.pci.ioeventfd import Ioeventfds
from pyvfio.mock.vfio.pci.irq import PciIrqs
from pyvfio.mock.vfio.pci.migration import PciMigration
from pyvfio.mock.vfio.pci.power import LowPower
from pyvfio.mock.vfio.pci.region import PciRegions
from pyvfio.mock.vfio.pci.reset_methods import ResetMethods
from pyvfio.mock.vfio.pci.sriov import VirtualFunctions

if TYPE_CHECKING:
    from pyvfio.mock.fs.tree import Text
    from pyvfio.mock.machine.kernel import Kernel
    from pyvfio.mock.vfio.feature import Feature

_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
#: no request of a device on PCI crosses a boundary of this
_PAGE = 4096
#: of a saved state: BAR, offset, size
_PART = struct.Struct("<IQQ")
_MSI_ENABLE, _MSI_SIZE = 0x01, 0x70
_LOW_POWER = (
    lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
    lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
    lib.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
)


class PciDevice(PciRegions):
    """A PCI function: the base class of users' models, which is on the host as soon as it is made.

    A subclass says what it is (`function`), and what its registers do: :meth:`read`, :meth:`write`, :meth:`power_on`. It has
    :meth:`dma_read`, :meth:`dma_write`, :meth:`interrupt`. All of these run under the kernel's lock; a thread of the device's own
    takes `kernel.lock` itself.

    :param kernel: the mock that it is plugged into
    :param name: its address; no other device of the host may have it
    :param function: what it is; None for the class's own
    :param driver: bind it to this driver
    :param more: `parent` and `group`
    :param parent: address of a bridge that it is behind
    :param group: the group of another device, to share it; None for one of its own
    :raises ValueError: `name` is no address, or taken; there is no such driver

    :ivar function: what it is
    :ivar config: its configuration space
    :ivar era: counts how often its BARs have gone away; `dma_bufs`: what of them is exported
    :ivar virtual: its virtual functions, if it can have any
    :ivar physical: those that it is one of
    """

    bus = "pci"
    num_irqs = lib.VFIO_PCI_NUM_IRQS
    #: what a class of devices is; an instance may be given another
    function: ClassVar[Function] = Function((0, 0))

    irqs: PciIrqs

    def __init__(
        self, kernel: Kernel, name: str, *, function: Function | None = None, driver: str | None = None, **more: Any
    ) -> None:
        if not hasattr(kernel, "host"):
            raise arguments.wrong_type(kernel, "kernel", "a pyvfio.mock.Kernel")
        if driver is not None:
            arguments.string(driver, "driver")
        if function is not None:
            arguments.instance(function, "function", Function)
        if not _ADDRESS.fullmatch(arguments.string(name, "name")):
            raise ValueError(f"name must be the address of a PCI function, such as 0000:00:0a.0, not {name!r}")
        found = None if driver is None else kernel.host.named_driver(self.bus, driver)
        if function is not None:
            self.function = function  # type: ignore[misc]  # an attribute of the class, which an argument replaces
        self.ids = self.function.ids
        self.config = Config(
            self.function,
            {
                index: kernel.host.place(bar.size, wide=bar.wide, ports=bar.ports)
                for index, bar in self.function.all_bars.items()
            },
        )
        self.config.on_write(COMMAND, 1, self._decoding_written)
        self.config.on_write(COMMAND, 2, self._mask_written)
        if self.config.msi_control:
            self.config.on_write(self.config.msi_control, 1, self._msi_written)
        if self.config.power_control:
            self.config.on_write(self.config.power_control, 1, self._power_written)
        for offset, bit in self.config.reset_bits.items():
            self.config.on_write(offset, 1, partial(self._reset_written, offset, bit))
        counts = (int(self.function.intx), self.function.msi, self.function.msix, 1, 1)
        self.irqs = PciIrqs(kernel, counts)
        self.config.interrupt_asserted = lambda: self.irqs.asserted
        self.config.msix_enabled = lambda: bool(self.irqs.enabled[MSIX])
        self._ioeventfds = Ioeventfds(self)
        self._low_power = LowPower()
        self.dma_bufs: WeakTable[dma_buf.DmaBuf, None] = WeakTable()
        self.era = 0
        #: it is in D3hot; its configuration space when that began
        self._off = False
        self._asleep = b""
        self._decodes = bool(self.config.command & CAP_MEMORY)
        #: whether a reset worked when it was opened
        self._reset_works = False
        self.virtual = VirtualFunctions(self) if self.function.virtual else None
        self.physical: VirtualFunctions | None = None
        self.d3cold_allowed = self.function.power_management
        self.parent = more.get("parent")
        self.kernel = kernel
        self.reset_methods = ResetMethods(self)
        super().__init__(kernel, name, **more)
        if found is not None:
            kernel.host.bind(self, found)

    # What a subclass gives.

    def power_on(self) -> None:
        """After a reset, and at the open of a device that can be reset: nothing is as it was. Registers are zeros."""
        for index, bar in self.function.all_bars.items():
            self.region_file.clear(index, bar.size)

    def virtual_function(self, name: str, function: Function, index: int) -> PciDevice:
        """Make the virtual function of that index, from 0 on, at an address.

        :param name: the address
        :param function: what it is
        :param index: from 0 on
        """
        return PciDevice(self.kernel, name, function=function, parent=self.parent)

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

    # Its DMA. What the IOMMU does not let through is counted, and the device goes on. Without bus master no request leaves the device,
    # so that the IOMMU sees none: such accesses are counted apart.

    @property
    def bus_master(self) -> bool:
        return bool(self.config.command & CAP_MASTER)

    def dma_read(self, iova: int, size: int) -> bytes:
        """The contents of memory there; zeros in pages where the IOMMU lets nothing through, or without bus master."""
        if not self.bus_master:
            self._not_issued(iova, write=False)
            return bytes(size)
        if self.reach is not None and self.reach.at_once(iova, size):
            with suppress(Errno):  # it may not be read: each page is counted below
                return super().dma_read(iova, size)
        return b"".join(self._page_read(at, count) for at, count in _by_pages(iova, size))

    def _page_read(self, iova: int, size: int) -> bytes:
        try:
            return super().dma_read(iova, size)
        except Errno as error:
            self.kernel.faults.append(DmaFault(self.name, iova, False, error.number))
            return bytes(size)

    def dma_write(self, iova: int, data: bytes) -> None:
        """Write to memory; pages stay as they are where the IOMMU lets nothing through, and all without bus master."""
        if not self.bus_master:
            self._not_issued(iova, write=True)
            return
        if self.reach is not None and self.reach.at_once(iova, len(data)):
            with suppress(Errno):
                super().dma_write(iova, data)
                return
        for at, count in _by_pages(iova, len(data)):
            self._page_write(at, data[at - iova : at - iova + count])

    def _page_write(self, iova: int, data: bytes) -> None:
        try:
            super().dma_write(iova, data)
        except Errno as error:
            self.kernel.faults.append(DmaFault(self.name, iova, True, error.number))

    def _not_issued(self, iova: int, *, write: bool) -> None:
        self.kernel.dma_without_bus_master.append(DmaFault(self.name, iova, write, 0))

    # What a driver that migrates it puts into a stream. A model with state of its own has it here.

    def save_state(self) -> bytes:
        """The contents of its registers and memory."""
        parts = []
        for index, bar in self.function.all_bars.items():
            for offset, data in self.region_file.contents(index, bar.size):
                parts.append(_PART.pack(index, offset, len(data)) + data)
        return b"".join(parts)

    def restore_state(self, state: bytes) -> None:
        """Take over what :meth:`save_state` gave."""
        self.power_on()
        while state:
            index, offset, size = _PART.unpack_from(state)
            self.region_file.write(index, offset, state[_PART.size : _PART.size + size])
            state = state[_PART.size + size :]

    # Opening and resetting.

    def open(self) -> None:
        self._restore()
        self._reset_works = self.reset_methods.work
        if self._reset_works:
            self.irqs.deassert()
            self.power_on()

    def close(self) -> None:
        super().close()
        if self._reset_works:
            self.irqs.deassert()
        self._ioeventfds.clear()
        self._low_power.exit()
        # The next one to open it does not find INTx masked by the command register (vfio_pci_core_disable).
        self.irqs.virtually_masked = False
        self._restore()

    def reset(self) -> None:
        """VFIO_DEVICE_RESET (vfio_pci_ioctl_reset)."""
        if not self._reset_works:
            raise Errno(errno.EINVAL)
        self.change_power(off=False)
        self.reset_methods.reset()

    def bus_reset(self) -> None:
        """A reset, of this function alone or of all on its bus."""
        self.era += 1
        self._set_power(off=False)
        self.irqs.deassert()
        self.power_on()
        if isinstance(self.migration, PciMigration):
            self.migration.restart()

    def _restore(self) -> None:
        self.era += 1
        self._set_power(off=False)
        self.config.reset()
        self._decodes = bool(self.config.command & CAP_MEMORY)

    def _reset_written(self, offset: int, bit: int) -> None:
        """A function-level reset by configuration space (vfio_exp_config_write, vfio_af_config_write): the bit reads 0.

        The kernel takes the first method that it has for the function, which need not be this one, and no error is reported if there is none.
        """
        if self.config.data[offset] & bit:
            self.config.data[offset] &= ~bit
            if self.config.has_function_reset(offset):
                with suppress(Errno):
                    self.reset_methods.reset()

    def _power_written(self) -> None:
        """D0 and D3hot; D1 and D2 it does not have (vfio_pm_config_write)."""
        at = self.config.power_control
        wanted = self.config.data[at] & POWER_STATE
        self.change_power(off=self._off if wanted in (1, 2) else wanted == POWER_STATE)

    def change_power(self, *, off: bool) -> None:
        """Put it into D3hot, or D0 (vfio_pci_set_power_state): the registers come back, what the device held otherwise does not."""
        if off and not self._off:
            self.era += 1
            self._asleep = bytes(self.config.data)
        elif self._off and not off and not self.function.no_soft_reset:
            self.config.wake(self._asleep)
            self.power_on()
        self._set_power(off=off)

    def _set_power(self, *, off: bool) -> None:
        self._off = self.irqs.sleeps = off
        if at := self.config.power_control:
            self.config.data[at] = self.config.data[at] & ~POWER_STATE | POWER_STATE * off

    def _msi_written(self) -> None:
        """MSI is switched by the ioctl alone, and has as many vectors as that allows; other bits are the program's own."""
        control = self.config.data[self.config.msi_control]
        if not self.irqs.enabled[MSI]:
            control &= ~_MSI_ENABLE
        most = max(self.irqs.enabled[MSI] * 2 - 1, 1).bit_length() - 1
        if control >> 4 & 7 > most:
            control = control & ~_MSI_SIZE | most << 4
        self.config.data[self.config.msi_control] = control

    def _decoding_written(self) -> None:
        self._decodes = bool(self.config.command & CAP_MEMORY)
        if not self._decodes:
            self.era += 1
        else:
            self._let_sleep(False)

    def _mask_written(self) -> None:
        masked = bool(self.config.command & CAP_INTX_DISABLE)
        if masked != self.irqs.virtually_masked:
            self.irqs.mask_virtually(masked)

    @property
    def sleeps(self) -> bool:
        """Whether it is in D3hot, by its power management."""
        return self._off

    @property
    def decodes_memory(self) -> bool:
        """Whether it answers at its BARs, also in low power: who reads it wakes it. In D3hot it does not.

        By what was written to the command register, and not by what it holds, which waking up may restore (__vfio_pci_memory_enabled).
        """
        return self._decodes and not self._off

    def _let_sleep(self, sleeps: bool) -> None:
        """It goes into low power, if only somebody wants it to, or leaves it."""
        self.era += sleeps
        for one in self.dma_bufs:
            one.asleep = sleeps

    def allow_d3cold(self, data: bytes) -> None:
        """A write to sysfs: whether it may lose its power. Here it never does."""
        self.d3cold_allowed = bool(number(data, 64))

    def resume(self) -> None:
        self._low_power.resume()

    # Its requests.

    def feature(self, asked: Feature) -> int | None:
        if asked.number in _LOW_POWER:
            if asked.is_set and not asked.is_probe:
                self._let_sleep(asked.number != lib.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT)
            self._low_power.feature(asked)
        elif asked.number == lib.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN and self.virtual is not None:
            if asked.is_meant(SET, 16):
                self.virtual.set_token(bytes(caller.read(asked.address, 16)))
        elif asked.number == lib.VFIO_DEVICE_FEATURE_DMA_BUF:
            driver = self.kernel.host.driver_of(self)
            if driver is None or not driver.exports:
                raise Errno(errno.EOPNOTSUPP)
            return dma_buf.export(self, asked)
        else:
            return super().feature(asked)
        return None

    def check_token(self, given: bytes | None) -> None:
        if self.physical is not None:
            self.physical.check_virtual(given)
        elif self.virtual is not None:
            self.virtual.check_physical(given)
        else:
            super().check_token(given)

    @request(lib.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO)
    def _hot_reset_info(self, argument: int) -> None:
        """Return the devices that a reset of the bus affects (vfio_pci_ioctl_get_pci_hot_reset_info)."""
        hot_reset.info(self, argument)

    @request(lib.VFIO_DEVICE_PCI_HOT_RESET)
    def _hot_reset(self, argument: int) -> None:
        """Reset the bus (vfio_pci_ioctl_pci_hot_reset)."""
        hot_reset.reset(self, argument)

    @request(lib.VFIO_DEVICE_IOEVENTFD)
    def _ioeventfd(self, argument: int) -> None:
        """Let an eventfd write a register, or stop that (vfio_pci_ioctl_ioeventfd)."""
        self._ioeventfds.request(argument)

    # What it tells.

    @property
    def flags(self) -> int:  # type: ignore[override]  # an attribute in the base
        return int(lib.VFIO_DEVICE_FLAGS_PCI | (lib.VFIO_DEVICE_FLAGS_RESET if self._reset_works else 0))

    def info_size(self, argsz: int) -> int:
        return min(argsz, int(ffi.sizeof("struct vfio_device_info")))

    def attributes(self) -> dict[str, Text]:
        return {**pci_sysfs.attributes(self), **(self.virtual.attributes() if self.virtual is not None else {})}

    def properties(self) -> dict[str, str]:
        return {**super().properties(), **pci_sysfs.properties(self)}


def _by_pages(iova: int, size: int) -> Iterator[tuple[int, int]]:
    """IOVA and size of the parts of a transfer: no request of a device crosses a page."""
    end = iova + size
    while iova < end:
        count = min(end - iova, _PAGE - iova % _PAGE)
        yield iova, count
        iova += count
