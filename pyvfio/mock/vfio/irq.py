# SPDX-License-Identifier: MIT
"""Interrupts of the mock's devices: VFIO_DEVICE_SET_IRQS and its eventfds."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.eventfd import Eventfd

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel

NONE, BOOL, EVENTFD = lib.VFIO_IRQ_SET_DATA_NONE, lib.VFIO_IRQ_SET_DATA_BOOL, lib.VFIO_IRQ_SET_DATA_EVENTFD
MASK, UNMASK, TRIGGER = lib.VFIO_IRQ_SET_ACTION_MASK, lib.VFIO_IRQ_SET_ACTION_UNMASK, lib.VFIO_IRQ_SET_ACTION_TRIGGER
INTX, MSI, MSIX = lib.VFIO_PCI_INTX_IRQ_INDEX, lib.VFIO_PCI_MSI_IRQ_INDEX, lib.VFIO_PCI_MSIX_IRQ_INDEX
ERR, REQ = lib.VFIO_PCI_ERR_IRQ_INDEX, lib.VFIO_PCI_REQ_IRQ_INDEX

_TYPES = NONE | BOOL | EVENTFD
_ACTIONS = MASK | UNMASK | TRIGGER
_HEADER = ffi.offsetof("struct vfio_irq_set", "data")


class IrqSet(NamedTuple):
    """A `struct vfio_irq_set` that has passed the checks of VFIO's core.

    :ivar data: bytes for BOOL, descriptors for EVENTFD
    """

    index: int  # type: ignore[assignment]  # the kernel's field names replace tuple's methods
    start: int
    count: int  # type: ignore[assignment]  # as `index`
    type: int
    action: int
    data: tuple[int, ...]


def take_set(argument: int, counts: Sequence[int]) -> IrqSet:
    """Copy the caller's `struct vfio_irq_set` in, and check it as vfio_set_irqs_validate_and_prepare() does.

    :param argument: address of the struct
    :param counts: number of vectors of each index
    :raises Errno: EFAULT, EINVAL
    """
    header = caller.take("struct vfio_irq_set", argument, _HEADER)
    if (
        header.argsz < _HEADER
        or header.index >= len(counts)
        or header.count >= 2**32 - 1 - header.start
        or header.flags & ~(_TYPES | _ACTIONS)
    ):
        raise Errno(errno.EINVAL)
    if header.start >= counts[header.index] or header.start + header.count > counts[header.index]:
        raise Errno(errno.EINVAL)
    width = {NONE: 0, BOOL: 1, EVENTFD: 4}.get(header.flags & _TYPES)
    if width is None or header.argsz - _HEADER < header.count * width:
        raise Errno(errno.EINVAL)
    memory = caller.read(argument + _HEADER, header.count * width) if header.count * width else bytearray()
    data = tuple(memory) if width == 1 else tuple(memoryview(memory).cast("i"))
    return IrqSet(header.index, header.start, header.count, header.flags & _TYPES, header.flags & _ACTIONS, data)


class Irqs:
    """The interrupts of one device, by index as in vfio-pci; drivers differ in :meth:`set`.

    :ivar counts: number of vectors of each index
    :ivar masked: INTx is masked
    :ivar asserted: INTx is asserted
    :ivar signalled: number of signals sent to eventfds
    """

    def __init__(self, kernel: Kernel, counts: Sequence[int]) -> None:
        self.kernel = kernel
        self.counts = tuple(counts)
        self.triggers: list[dict[int, Eventfd]] = [{} for _ in self.counts]
        #: number of enabled vectors of each index; 0: disabled
        self.enabled = [0] * len(self.counts)
        self.masked = False
        self.asserted = False
        self.signalled = 0
        self._unmask: Eventfd | None = None

    def flags(self, index: int) -> int:
        """Return VFIO_IRQ_INFO_* of an index."""
        if index == INTX:
            return int(lib.VFIO_IRQ_INFO_EVENTFD | lib.VFIO_IRQ_INFO_MASKABLE | lib.VFIO_IRQ_INFO_AUTOMASKED)
        grows = index == MSIX and self.counts[MSIX]
        return int(lib.VFIO_IRQ_INFO_EVENTFD | (0 if grows else lib.VFIO_IRQ_INFO_NORESIZE))

    def set(self, what: IrqSet) -> int | None:
        """Carry out VFIO_DEVICE_SET_IRQS.

        :returns: None; or the number of available vectors, if there are fewer than requested: nothing has changed then
        :raises Errno: EINVAL, ENOTTY, or that of an eventfd
        """
        if what.action == TRIGGER and what.index <= MSIX:
            return self.set_trigger(what)
        if what.action == TRIGGER:
            self.set_single(what)
        elif what.index == INTX and what.action in (MASK, UNMASK):
            self.set_mask(what)
        else:
            raise Errno(errno.ENOTTY)
        return None

    def set_trigger(self, what: IrqSet) -> int | None:
        """Set, remove or fire triggers of INTx, MSI or MSI-X."""
        raise NotImplementedError

    def set_single(self, what: IrqSet) -> None:
        """Set, remove or fire the error or request interrupt: one eventfd each, independent of other indexes."""
        on = 0 in self.triggers[what.index]
        if what.type == NONE:
            if not on:
                raise Errno(errno.EINVAL)
            if what.count:
                self.fire(what.index, 0)
            else:
                self.disable(what.index)
        elif not what.count:
            raise Errno(errno.EINVAL)
        elif what.type == BOOL:
            if what.data[0]:
                self.fire(what.index, 0)
        elif what.data[0] == -1:
            self.disable(what.index)
        elif what.data[0] < 0:
            raise Errno(errno.EINVAL)
        else:
            self.replace(what.index, 0, Eventfd(what.data[0]))
            self.enabled[what.index] = 1

    def set_mask(self, what: IrqSet) -> None:
        """Mask or unmask INTx."""
        if not self.enabled[INTX] or what.start or what.count != 1:
            raise Errno(errno.EINVAL)
        if what.type == EVENTFD:
            if what.action == MASK:
                raise Errno(errno.ENOTTY)
            self._unmask_by(what.data[0])
        elif what.type == NONE or what.data[0]:
            if what.action == MASK:
                self.masked = True
            else:
                self.unmask()

    def _unmask_by(self, fd: int) -> None:
        if fd < 0:
            self._forget_unmask()
            return
        if self._unmask is not None:
            Eventfd(fd).close()
            raise Errno(errno.EBUSY)
        self._unmask = self.kernel.watcher.watch(fd, self.unmask)

    def _forget_unmask(self) -> None:
        if self._unmask is not None:
            self.kernel.watcher.leave(self._unmask)
            self._unmask = None

    # Actions of the device.

    def interrupt(self, index: int, vector: int = 0) -> None:
        """Raise an interrupt; it is lost if the vector is not enabled. INTx stays asserted until :meth:`deassert`."""
        if index == INTX:
            self.asserted = True
            self.update_intx()
        elif vector < self.enabled[index]:
            self.fire(index, vector)

    def deassert(self) -> None:
        self.asserted = False

    def unmask(self) -> None:
        self.masked = False
        self.update_intx()

    def update_intx(self) -> None:
        """Fire INTx if it is asserted, enabled and not masked; firing masks it."""
        if self.asserted and self.enabled[INTX] and not self.masked:
            self.masked = True
            self.fire(INTX, 0)

    def fire(self, index: int, vector: int) -> None:
        trigger = self.triggers[index].get(vector)
        if trigger is not None:
            trigger.signal()
            self.signalled += 1

    def replace(self, index: int, vector: int, trigger: Eventfd | None) -> None:
        """Replace the trigger of a vector; None removes it."""
        before = self.triggers[index].pop(vector, None)
        if before is not None:
            before.close()
        if trigger is not None:
            self.triggers[index][vector] = trigger

    def disable(self, index: int) -> None:
        if index == INTX:
            self._forget_unmask()
            self.masked = False
        for vector in list(self.triggers[index]):
            self.replace(index, vector, None)
        self.enabled[index] = 0

    def off(self) -> None:
        """Disable all interrupts, at close."""
        for index in range(len(self.counts)):
            self.disable(index)
        self.deassert()
