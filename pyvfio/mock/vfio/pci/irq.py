# SPDX-License-Identifier: MIT
"""Interrupts of vfio-pci (vfio_pci_intrs.c)."""

from __future__ import annotations

import errno

from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.eventfd import Eventfd
from pyvfio.mock.vfio.irq import BOOL, EVENTFD, INTX, MSI, MSIX, NONE, Irqs, IrqSet


class PciIrqs(Irqs):
    """The interrupts of a PCI function.

    Only one of INTx, MSI and MSI-X can be enabled at a time. More vectors can be added to enabled MSI-X, but not to
    enabled MSI. A failed request removes the triggers of all its vectors up to the one that failed
    (vfio_msi_set_block).
    """

    #: Interrupt Disable is set in the command register (vdev->virq_disabled)
    virtually_masked = False
    #: the device is in D3hot, where pci_alloc_irq_vectors fails
    sleeps = False

    def mask_virtually(self, on: bool) -> None:
        """Mask or unmask INTx after a write to Interrupt Disable (vfio_basic_config_write)."""
        self.virtually_masked = on
        if self.enabled[INTX]:
            self.masked = on or self.masked
            if not on:
                self.unmask()

    def unmask(self) -> None:
        if not self.virtually_masked:
            super().unmask()

    def off(self) -> None:
        """Disable all interrupts at close. INTx stays asserted until the device deasserts it or is reset."""
        for index in range(len(self.counts)):
            self.disable(index)

    def set_trigger(self, what: IrqSet) -> int | None:
        index, on = what.index, self.enabled[what.index] > 0
        if on and not what.count and what.type == NONE:
            self.disable(index)
            return None
        if any(self.enabled[other] for other in (INTX, MSI, MSIX) if other != index):
            raise Errno(errno.EINVAL)
        if index == INTX and (what.start or what.count != 1):
            raise Errno(errno.EINVAL)
        if what.type != EVENTFD:
            if not on:
                raise Errno(errno.EINVAL)
            for vector in range(what.start, what.start + what.count):
                if index == INTX and self.virtually_masked:
                    return None
                if what.type == NONE or (what.type == BOOL and what.data[vector - what.start]):
                    self.fire(index, vector)
        elif index == INTX:
            self._set_intx(what.data[0])
        else:
            return self._set_vectors(what, on)
        return None

    def _set_intx(self, fd: int) -> None:
        # INTx can be enabled without an eventfd: vfio_pci_set_intx_trigger accepts -1.
        self.replace(INTX, 0, Eventfd(fd) if fd >= 0 else None)
        if not self.enabled[INTX]:
            self.enabled[INTX] = 1
            self.masked = self.virtually_masked
        self.update_intx()

    def _set_vectors(self, what: IrqSet, on: bool) -> int | None:
        most = self.kernel.profile.vectors
        if not on:
            if not what.start + what.count:
                raise Errno(errno.ERANGE)
            if self.sleeps:
                raise Errno(errno.EINVAL)
            if most is not None and what.start + what.count > most:
                # vfio_msi_enable returns the number of available vectors, as pci_alloc_irq_vectors does.
                if not most:
                    raise Errno(errno.ENOSPC)
                return most
            self.enabled[what.index] = what.start + what.count
        vector = what.start
        try:
            for vector, fd in enumerate(what.data, what.start):
                self.replace(what.index, vector, None)
                if fd < 0:
                    continue
                if vector >= self.enabled[what.index]:
                    if what.index == MSI:
                        raise Errno(errno.EINVAL)
                    if most is not None and vector >= most:
                        raise Errno(errno.ENOSPC)
                    self.enabled[MSIX] = vector + 1
                self.replace(what.index, vector, Eventfd(fd))
        except Errno:
            for done in range(what.start, vector + 1):
                self.replace(what.index, done, None)
            if not on:
                self.disable(what.index)
            raise
        return None
