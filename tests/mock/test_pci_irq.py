# SPDX-License-Identifier: MIT
"""Interrupts of PCI functions on the mock, with vfio-pci's rules."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyvfio
from pyvfio import Device, mock
from pyvfio._abi import lib

EVENTFD, NONE, TRIGGER, MASK = (
    lib.VFIO_IRQ_SET_DATA_EVENTFD,
    lib.VFIO_IRQ_SET_DATA_NONE,
    lib.VFIO_IRQ_SET_ACTION_TRIGGER,
    lib.VFIO_IRQ_SET_ACTION_MASK,
)


class Card(mock.Device):
    function = mock.Function((0x1234, 2), bars={0: mock.Bar(4096)}, msi=4, msix=8, intx=True, express=True)


@pytest.fixture
def device() -> Iterator[Device]:
    kernel = mock.Kernel()
    Card(kernel, "0000:00:0a.0", driver="vfio-pci")
    with pyvfio.open("0000:00:0a.0", kernel=kernel) as device:
        yield device


@pytest.fixture
def events() -> Iterator[list[int]]:
    events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
    yield events
    for event in events:
        os.close(event)


def count(event: int) -> int:
    try:
        return os.eventfd_read(event)
    except BlockingIOError:
        return 0


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def test_its_kinds_are_counted(device: Device) -> None:
    assert [irq.count for irq in device.irqs] == [1, 4, 8, 1, 1]
    assert [irq.info.resizable for irq in device.irqs] == [True, False, True, False, False]


def test_one_kind_is_on_at_a_time(device: Device) -> None:
    device.irqs.msi.enable()
    for other in (device.irqs.intx, device.irqs.msix):
        with refused(errno.EINVAL):
            other.enable()
    device.irqs.err.enable()
    device.irqs.msi.disable()
    device.irqs.intx.enable()


def test_msi_cannot_grow_and_msix_can(device: Device, events: list[int]) -> None:
    device.irqs.msi._set(EVENTFD | TRIGGER, 0, 2, events[:2])
    with refused(errno.EINVAL):
        device.irqs.msi._set(EVENTFD | TRIGGER, 2, 1, events[2:])
    device.irqs.msi._set(NONE | TRIGGER, 0, 0)
    device.irqs.msix._set(EVENTFD | TRIGGER, 0, 1, events[:1])
    device.irqs.msix._set(EVENTFD | TRIGGER, 7, 1, events[2:])
    device.irqs.msix._set(NONE | TRIGGER, 0, 8)
    assert [count(event) for event in events] == [1, 0, 1]


def test_a_failure_takes_the_vectors_up_to_it(device: Device, events: list[int]) -> None:
    device.irqs.msix._set(EVENTFD | TRIGGER, 0, 3, events)
    with refused(errno.EINVAL):
        device.irqs.msix._set(EVENTFD | TRIGGER, 0, 2, [events[0], 0])
    device.irqs.msix._set(NONE | TRIGGER, 0, 3)
    assert [count(event) for event in events] == [0, 0, 1]


def test_a_failure_to_begin_leaves_it_off(device: Device, events: list[int]) -> None:
    with refused(errno.EBADF):
        device.irqs.msix._set(EVENTFD | TRIGGER, 0, 2, [events[0], 9999])
    with refused(errno.EINVAL):
        device.irqs.msix._set(NONE | TRIGGER, 0, 1)
    device.irqs.msi.enable()


def test_eventfds_for_no_vectors_are_out_of_range(device: Device) -> None:
    with refused(errno.ERANGE):
        device.irqs.msi._set(EVENTFD | TRIGGER, 0, 0)


def test_msi_has_no_mask(device: Device) -> None:
    device.irqs.msi.enable()
    with refused(errno.ENOTTY):
        device.irqs.msi._set(NONE | MASK, 0, 1)


def test_the_request_interrupt_is_set_taken_away_and_looped_back(device: Device, events: list[int]) -> None:
    request = device.irqs.req
    with refused(errno.EINVAL):
        request._set(NONE | TRIGGER, 0, 1)
    request._set(EVENTFD | TRIGGER, 0, 1, events[:1])
    request._set(NONE | TRIGGER, 0, 1)
    assert count(events[0]) == 1
    request._set(EVENTFD | TRIGGER, 0, 1, [-1])
    with refused(errno.EINVAL):
        request._set(NONE | TRIGGER, 0, 1)
    with refused(errno.EINVAL):
        request._set(EVENTFD | TRIGGER, 0, 1, [-2])


def test_an_interrupt_goes_where_it_is_on(device: Device, events: list[int]) -> None:
    card = device._fd.kernel.devices["0000:00:0a.0"]  # type: ignore[attr-defined]
    device.config.bus_master = True
    device.irqs.msix._set(EVENTFD | TRIGGER, 0, 3, events)
    card.interrupt(1)
    card.interrupt(5)
    assert [count(event) for event in events] == [0, 1, 0]


def test_closing_lets_go_of_eventfds(device: Device, events: list[int]) -> None:
    def holders(event: int) -> int:
        """Count the descriptors of an eventfd by its count, which they share.

        Others come and go with threads of other kernels.
        """
        os.eventfd_write(event, 0x5A5A5A)
        found = 0
        for path in Path("/proc/self/fdinfo").iterdir():
            with contextlib.suppress(OSError):
                found += "5a5a5a" in path.read_text().split()
        os.eventfd_read(event)
        return found

    device.irqs.msix._set(EVENTFD | TRIGGER, 0, 3, events)
    assert [holders(event) for event in events] == [2, 2, 2]
    device.irqs.msix._set(NONE | TRIGGER, 0, 0)
    assert [holders(event) for event in events] == [1, 1, 1]


def test_intx_is_not_masked_by_the_command_of_an_earlier_user() -> None:
    """vfio_pci_core_disable clears it. This was found on a machine with AMD's IOMMU."""
    kernel = mock.Kernel()
    card = Card(kernel, "0000:00:0a.0", driver="vfio-pci")
    with pyvfio.open("0000:00:0a.0", kernel=kernel) as device:
        device.config.command |= 1 << 10
    with pyvfio.open("0000:00:0a.0", kernel=kernel) as device:
        (vector,) = device.irqs.intx.enable()
        card.interrupt()
        assert vector.wait(timeout=60) == 1
