# SPDX-License-Identifier: MIT
"""Interrupts of vfio-mock: as in vfio-pci, except that a request sets either all of its eventfds or none."""

from __future__ import annotations

import errno

from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.eventfd import Eventfd
from pyvfio.mock.vfio.irq import EVENTFD, INTX, MSI, MSIX, NONE, Irqs, IrqSet

#: the register value for no interrupt; other values are index << 16 | vector
NO_IRQ = 0xFFFFFFFF


class MockIrqs(Irqs):
    def raise_(self, name: int) -> None:
        """Raise the interrupt that a register names.

        :raises Errno: EINVAL, there is no such interrupt
        """
        if name == NO_IRQ:
            return
        index, vector = name >> 16, name & 0xFFFF
        if index >= len(self.counts) or vector >= self.counts[index]:
            raise Errno(errno.EINVAL)
        self.interrupt(index, vector)

    def set_trigger(self, what: IrqSet) -> None:
        index, enabled, end = what.index, self.enabled[what.index], what.start + what.count
        if enabled and not what.count and what.type == NONE:
            self.disable(index)
            return
        if any(self.enabled[other] for other in (INTX, MSI, MSIX) if other != index):
            raise Errno(errno.EINVAL)
        if index == INTX and what.count != 1:
            raise Errno(errno.EINVAL)
        if what.type != EVENTFD:
            if not enabled:
                raise Errno(errno.EINVAL)
            for vector in range(what.start, end):
                if what.type == NONE or what.data[vector - what.start]:
                    self.fire(index, vector)
            return
        if not what.count:
            if not enabled:
                raise Errno(errno.EINVAL)
            return
        if enabled and end > enabled and index == MSI:
            raise Errno(errno.EINVAL)
        for vector, trigger in enumerate(_triggers(what.data), what.start):
            self.replace(index, vector, trigger)
        self.enabled[index] = max(enabled, end)
        self.update_intx()


def _triggers(fds: tuple[int, ...]) -> list[Eventfd | None]:
    """Return references to eventfds, or to none of them on an error.

    :raises Errno: a descriptor is not an eventfd
    """
    triggers: list[Eventfd | None] = []
    try:
        triggers.extend(Eventfd(fd) if fd >= 0 else None for fd in fds)
    except Errno:
        for trigger in triggers:
            if trigger is not None:
                trigger.close()
        raise
    return triggers
