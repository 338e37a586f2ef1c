# SPDX-License-Identifier: MIT
"""Interrupts by loopback: the kernel signals the eventfds on request (ACTION_TRIGGER), without the device."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pyvfio import Device, Irq
from pyvfio.irq import irq_info

#: the most vectors of a kind that are tested
_MOST = 8


def kinds(device: Device) -> list[Irq]:
    """Return the kinds of interrupt that the device has."""
    return [irq for irq in device.irqs if irq.count]


def test_an_index_beyond_the_last_is_refused(device: Device, refused: Callable[..., Any]) -> None:
    """VFIO_DEVICE_GET_IRQ_INFO answers EINVAL."""
    with refused(errno.EINVAL):
        irq_info(device.file, device.info.num_irqs)


def test_each_vector_signals_its_own_eventfd(device: Device) -> None:
    """One trigger of a vector signals its eventfd once, and no other eventfd."""
    for irq in kinds(device):
        vectors = irq.enable(range(min(irq.count, _MOST)))
        for vector in vectors:
            vector.trigger()
            assert vector.wait(1) == 1, vector
            for other in vectors:
                with pytest.raises(TimeoutError):
                    other.wait(0)
            if irq.info.automasked:
                vector.unmask()
        irq.disable()


def test_interrupts_are_counted(device: Device) -> None:
    """A wait after three triggers returns 3."""
    for irq in kinds(device):
        if irq.info.automasked:
            continue
        (vector,) = irq.enable([0])
        for _ in range(3):
            vector.trigger()
        assert vector.wait(1) == 3, irq
        irq.disable()


def test_all_vectors_can_be_enabled(device: Device, limit: Callable[[str, object], None]) -> None:
    """All vectors of each kind are enabled at once, unless the host cannot allocate them (ENOSPC)."""
    for irq in kinds(device):
        limit(f"{irq.name} vectors", irq.count)
        try:
            assert len(irq.enable_all()) == irq.count
        except OSError as error:
            if error.errno != errno.ENOSPC:  # ENOSPC: the host cannot allocate that many vectors
                raise
        irq.disable()


def test_vectors_beyond_the_last_are_refused(device: Device, refused: Callable[..., Any]) -> None:
    """VFIO_DEVICE_SET_IRQS answers EINVAL."""
    for irq in kinds(device):
        with refused(errno.EINVAL):
            irq.enable(range(irq.count + 1))
        assert irq.vectors == []


@pytest.mark.vfio_require("pci")
def test_one_of_intx_msi_and_msix_at_a_time(device: Device, refused: Callable[..., Any]) -> None:
    """A second kind is refused while the first is enabled."""
    there = [irq for irq in (device.irqs.intx, device.irqs.msi, device.irqs.msix) if irq.count]
    if len(there) < 2:
        pytest.skip("the device has only one kind of them")
    first, second = there[:2]
    first.enable()
    with refused(errno.EINVAL):
        second.enable()
    first.disable()
    second.enable()
    second.disable()


def test_resizing_is_as_the_flags_say(device: Device, refused: Callable[..., Any]) -> None:
    """Vectors can be added while others are enabled if NORESIZE is clear; else that is refused."""
    for irq in kinds(device):
        if irq.count < 2:
            continue
        irq.enable([0])
        if irq.info.resizable:
            assert len(irq.enable(range(2))) == 2
        else:
            with refused(errno.EINVAL):
                irq.enable(range(2))
        irq.disable()


def test_a_vector_triggers_after_mask_and_unmask(device: Device) -> None:
    """A trigger arrives after mask() and unmask(). Silence while masked is not checked: a software trigger passes some masks."""
    for irq in kinds(device):
        if not irq.info.maskable:
            continue
        (vector,) = irq.enable([0])
        vector.mask()
        vector.unmask()
        vector.trigger()
        assert vector.wait(1) >= 1
        irq.disable()


def test_a_trigger_of_a_disabled_interrupt_is_refused(device: Device, refused: Callable[..., Any]) -> None:
    """A trigger of an interrupt that is not enabled is refused."""
    for irq in kinds(device):
        (vector,) = irq.enable([0])
        irq.disable()
        with refused(errno.EINVAL, errno.EBADF):
            vector.trigger()


def test_vectors_can_be_enabled_again(device: Device) -> None:
    """A vector works each time after ten cycles of enable() and disable()."""
    for irq in kinds(device):
        for _ in range(10):
            (vector,) = irq.enable([0])
            vector.trigger()
            assert vector.wait(1) == 1
            irq.disable()
