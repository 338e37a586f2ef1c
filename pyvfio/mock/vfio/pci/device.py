# SPDX-License-Identifier: MIT
"""PCI functions as vfio-pci drives them, and the base class of users' device models."""

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
#: bytes; no PCI Express request crosses a multiple of this
_PAGE = 4096
#: header of each part of a saved state: BAR, offset, size
_PART = struct.Struct("<IQQ")
_MSI_ENABLE, _MSI_SIZE = 0x01, 0x70
_LOW_POWER = (
    lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
    lib.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
    lib.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
)


class PciDevice(PciRegions):
    """A PCI function: the base class of users' device models. The constructor plugs it into the mock's host.

    A subclass describes the function (`function`) and the behaviour of its registers: :meth:`read`, :meth:`write`,
    :meth:`power_on`. It calls :meth:`dma_read`, :meth:`dma_write` and :meth:`interrupt`. All of these run under the
    kernel's lock; a thread of the device model must take `kernel.lock` itself.

    :param kernel: the mock that the function is plugged into
    :param name: the PCI address, unique on this host
    :param function: a description that replaces the class's `function`; None: keep the class's
    :param driver: bind the function to this driver
    :param more: `parent` and `group`
    :param parent: address of the bridge above the function
    :param group: an IOMMU group to join; None: a new group
    :raises ValueError: `name` is not a PCI address, or is in use; or there is no such driver

    :ivar function: the description of the function
    :ivar config: the configuration space
    :ivar era: incremented whenever the BARs become unreachable; `dma_bufs`: the dma-bufs exported from them
    :ivar virtual: the virtual functions; None for a function without SR-IOV
    :ivar physical: of a virtual function, the set that it belongs to; else None
    """

    bus = "pci"
    num_irqs = lib.VFIO_PCI_NUM_IRQS
    #: description of the class's devices; the constructor's argument replaces it for one device
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
        #: whether the function is in D3hot; its configuration space when it entered D3hot
        self._off = False
        self._asleep = b""
        self._decodes = bool(self.config.command & CAP_MEMORY)
        #: whether a reset worked at the open (vdev->reset_works)
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

    # Methods for subclasses.

    def power_on(self) -> None:
        """Clear all registers. Called after a reset, and at the open of a device that can be reset."""
        for index, bar in self.function.all_bars.items():
            self.region_file.clear(index, bar.size)

    def virtual_function(self, name: str, function: Function, index: int) -> PciDevice:
        """Create a virtual function.

        :param name: the PCI address
        :param function: the description of the virtual function
        :param index: from 0 on
        """
        return PciDevice(self.kernel, name, function=function, parent=self.parent)

    def interrupt(self, vector: int = 0) -> None:
        """Send the vector of MSI-X or MSI, whichever is enabled; else assert INTx until :meth:`deassert`."""
        for index in (MSIX, MSI):
            if self.irqs.enabled[index]:
                if self.bus_master:
                    self.irqs.interrupt(index, vector)
                return
        if self.irqs.counts[INTX]:
            self.irqs.interrupt(INTX)

    def deassert(self) -> None:
        """Deassert INTx."""
        self.irqs.deassert()

    # DMA. An access that the IOMMU blocks is recorded in kernel.faults, and the device goes on. Without bus master no
    # request leaves the device, so that the IOMMU sees none: such an access is recorded in
    # kernel.dma_without_bus_master.

    @property
    def bus_master(self) -> bool:
        return bool(self.config.command & CAP_MASTER)

    def dma_read(self, iova: int, size: int) -> bytes:
        """Read memory by DMA: zeros for pages that the IOMMU blocks, and for all without bus master."""
        if not self.bus_master:
            self._not_issued(iova, write=False)
            return bytes(size)
        if self.reach is not None and self.reach.at_once(iova, size):
            with suppress(Errno):  # the IOMMU blocks a page: read page by page below, to record each fault
                return super().dma_read(iova, size)
        return b"".join(self._page_read(at, count) for at, count in _by_pages(iova, size))

    def _page_read(self, iova: int, size: int) -> bytes:
        try:
            return super().dma_read(iova, size)
        except Errno as error:
            self.kernel.faults.append(DmaFault(self.name, iova, False, error.number))
            return bytes(size)

    def dma_write(self, iova: int, data: bytes) -> None:
        """Write memory by DMA; pages that the IOMMU blocks stay unchanged, and all do without bus master."""
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

    # The state that a variant driver migrates. A device model with more state than its registers overrides both
    # methods.

    def save_state(self) -> bytes:
        """Return the contents of the BARs, for a migration."""
        parts = []
        for index, bar in self.function.all_bars.items():
            for offset, data in self.region_file.contents(index, bar.size):
                parts.append(_PART.pack(index, offset, len(data)) + data)
        return b"".join(parts)

    def restore_state(self, state: bytes) -> None:
        """Restore the state that :meth:`save_state` returned."""
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
        # vfio_pci_core_disable clears virq_disabled: the next open does not find INTx masked by the command register.
        self.irqs.virtually_masked = False
        self._restore()

    def reset(self) -> None:
        """VFIO_DEVICE_RESET (vfio_pci_ioctl_reset)."""
        if not self._reset_works:
            raise Errno(errno.EINVAL)
        self.change_power(off=False)
        self.revoke_dma_bufs()
        try:
            self.reset_methods.reset()
        finally:
            self.reinstate_dma_bufs()

    def bus_reset(self) -> None:
        """Carry out a reset, either of this function alone or of its whole bus."""
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
        """Handle a write of Initiate FLR (vfio_exp_config_write, vfio_af_config_write). The bit always reads 0.

        pci_try_reset_function uses the first reset method of the function, which need not be FLR, and the write reports
        no error.
        """
        if self.config.data[offset] & bit:
            self.config.data[offset] &= ~bit
            if self.config.has_function_reset(offset):
                self.revoke_dma_bufs()
                with suppress(Errno):
                    self.reset_methods.reset()
                self.reinstate_dma_bufs()

    def _power_written(self) -> None:
        """Enter D0 or D3hot (vfio_pm_config_write). D1 and D2 are not supported: a write of them changes nothing.

        A physical function with virtual functions enabled stays in D0 (sriov_active). A write of D3hot revokes the
        exported dma-bufs even then; after any write they are reinstated if memory is accessible.
        """
        at = self.config.power_control
        wanted = self.config.data[at] & POWER_STATE
        if wanted == POWER_STATE:
            self.revoke_dma_bufs()
        off = self._off if wanted in (1, 2) else wanted == POWER_STATE
        self.change_power(off=off and not (self.virtual is not None and self.virtual.functions))
        self.reinstate_dma_bufs()

    def change_power(self, *, off: bool) -> None:
        """Enter D3hot or D0 (vfio_pci_set_power_state).

        D0 restores configuration space; the BARs' contents are lost.
        """
        if off and not self._off:
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
        """Correct a write to MSI Message Control (vfio_msi_config_write).

        Only VFIO_DEVICE_SET_IRQS enables MSI, and it sets the limit of Multiple Message Enable. Other bits stay as
        written.
        """
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
            self.revoke_dma_bufs()
        self.reinstate_dma_bufs()

    def _mask_written(self) -> None:
        masked = bool(self.config.command & CAP_INTX_DISABLE)
        if masked != self.irqs.virtually_masked:
            self.irqs.mask_virtually(masked)

    @property
    def sleeps(self) -> bool:
        """Whether the function is in D3hot."""
        return self._off

    @property
    def decodes_memory(self) -> bool:
        """Whether memory BARs are accessible.

        In D3hot they are not. In low power they are, because an access wakes the device.

        This follows the last write to the command register, and not its contents, which the return to D0 may restore
        (__vfio_pci_memory_enabled).
        """
        return self._decodes and not self._off

    def revoke_dma_bufs(self) -> None:
        """Take the BARs away from those that import a dma-buf of them (vfio_pci_dma_buf_move)."""
        self.era += 1

    def reinstate_dma_bufs(self) -> None:
        """Let the exported dma-bufs be imported again if memory is accessible (vfio_pci_dma_buf_move)."""
        if self.decodes_memory:
            for one in self.dma_bufs:
                one.asleep = False

    def allow_d3cold(self, data: bytes) -> None:
        """Handle a write to `d3cold_allowed` in sysfs. The mock's devices never enter D3cold."""
        self.d3cold_allowed = bool(number(data, 64))

    def resume(self) -> None:
        self._low_power.resume()

    # ioctls.

    def feature(self, asked: Feature) -> int | None:
        if asked.number in _LOW_POWER:
            if asked.is_set and not asked.is_probe:
                if asked.number == lib.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT:
                    self.reinstate_dma_bufs()
                else:
                    self.revoke_dma_bufs()
                    for one in self.dma_bufs:
                        one.asleep = True
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

    # Information.

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
    """Split a transfer at page boundaries, which no PCI Express request crosses; yield IOVA and size of each part."""
    end = iova + size
    while iova < end:
        count = min(end - iova, _PAGE - iova % _PAGE)
        yield iova, count
        iova += count
