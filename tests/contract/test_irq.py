# SPDX-License-Identifier: MIT
"""Interrupts by eventfds, one for each vector: loopback, masks, waits."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from pyvfio import Unsupported
from pyvfio.irq import irq_info

if TYPE_CHECKING:
    from pyvfio import Device
    from pyvfio.irq import Irq

pytestmark = pytest.mark.require("functions")


@pytest.fixture
def irq(device: Device, cell: Any) -> Irq:
    """The device's message-signalled interrupts: MSI-X if it has them, else MSI."""
    numbers = {"msi": 1, "msix": 2}
    kinds = [device.irqs[numbers[name]] for name in ("msix", "msi")]
    return next(kind for kind in kinds if kind.count)


def test_a_triggered_vector_is_counted_once_for_each_time(irq: Irq) -> None:
    (vector,) = irq.enable()
    with pytest.raises(TimeoutError):
        vector.wait(0)
    vector.trigger()
    assert vector.wait(60) == 1
    vector.trigger()
    vector.trigger()
    assert vector.wait(60) == 2
    with pytest.raises(TimeoutError):
        vector.wait(0.01)


def test_vectors_fire_on_their_own(irq: Irq) -> None:
    count = min(irq.count, 3)
    vectors = irq.enable(range(count))
    vectors[-1].trigger()
    assert vectors[-1].wait(60) == 1
    for vector in vectors[:-1]:
        with pytest.raises(TimeoutError):
            vector.wait(0)
    irq.disable()
    irq.disable()
    assert irq.vectors == []
    (again,) = irq.enable()
    again.trigger()
    assert again.wait(60) == 1


def test_a_closed_vector_is_taken_from_the_device(irq: Irq) -> None:
    vectors = irq.enable(range(min(irq.count, 2)))
    number = vectors[0].fileno()
    vectors[0].close()
    assert vectors[0] not in irq.vectors
    with pytest.raises(OSError):
        os.fstat(number)


def test_vectors_beyond_the_last_are_refused(irq: Irq) -> None:
    with pytest.raises(OSError, match=f"there are {irq.count} vectors") as caught:
        irq.enable([irq.count])
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="without gaps"):
        irq.enable([])
    (vector,) = irq.enable()
    vector.trigger()
    assert vector.wait(60) == 1


def test_vectors_that_cannot_be_masked_say_so(irq: Irq) -> None:
    assert not irq.info.maskable
    (vector,) = irq.enable()
    for call in (vector.mask, vector.unmask):
        with pytest.raises(Unsupported, match="cannot be masked"):
            call()


def test_an_interrupt_wakes_an_asyncio_task(irq: Irq) -> None:
    (vector,) = irq.enable()

    async def wait() -> int:
        waiting = asyncio.create_task(vector.wait_async())
        await asyncio.sleep(0)
        vector.trigger()
        async with asyncio.timeout(60):
            return await waiting

    assert asyncio.run(wait()) == 1


@pytest.mark.require("intx", "msi", "level_interrupts")
def test_one_kind_is_on_at_a_time_and_the_note_names_the_other(device: Device) -> None:
    intx, msi = device.irqs[0], device.irqs[1]
    msi.enable()
    with pytest.raises(OSError, match="is enabled; only one") as caught:
        intx.enable()
    assert caught.value.errno == errno.EINVAL
    msi.disable()
    intx.enable()
    intx.disable()


@pytest.mark.require("intx", "level_interrupts")
def test_a_legacy_interrupt_is_masked_and_unmasked(device: Device) -> None:
    intx = device.irqs[0]
    assert intx.info.maskable
    assert intx.info.automasked
    (vector,) = intx.enable()
    vector.mask()
    vector.unmask()
    vector.trigger()
    assert vector.wait(60) >= 1


@pytest.mark.only(device="edu")
def test_edu_raises_its_interrupt(device: Device) -> None:
    bar = device.regions[0]
    device.config.bus_master = True
    (vector,) = device.irqs.msi.enable()
    bar.write32(0x60, 0x2A)  # raise
    assert vector.wait(60) >= 1
    assert bar.read32(0x24) == 0x2A
    bar.write32(0x64, 0x2A)  # acknowledge


@pytest.mark.only(device="edu")
@pytest.mark.require("level_interrupts")
def test_a_level_interrupt_fires_again_when_it_is_unmasked(device: Device) -> None:
    bar = device.regions[0]
    (vector,) = device.irqs.intx.enable()
    bar.write32(0x60, 1)
    assert vector.wait(60) == 1
    with pytest.raises(TimeoutError):
        vector.wait(0.05)
    vector.unmask()
    assert vector.wait(60) == 1
    bar.write32(0x64, 1)
    vector.unmask()
    with pytest.raises(TimeoutError):
        vector.wait(0.05)


@pytest.mark.only(device="vfio-mock")
def test_unmasking_by_eventfd_takes_no_call(device: Device) -> None:
    from pyvfio.vfio_mock import VfioMock

    mock = VfioMock(device)
    (vector,) = device.irqs[0].enable()
    unmask = os.eventfd(0)
    try:
        vector.set_unmask_eventfd(unmask)
        mock["IRQ_RAISE"] = 0
        assert vector.wait(60) == 1
        os.eventfd_write(unmask, 1)
        assert vector.wait(60) == 1
        mock["IRQ_LINE"] = 1
        vector.clear_unmask_eventfd()
    finally:
        os.close(unmask)


@pytest.mark.only(device="vfio-mock")
def test_the_engine_raises_an_interrupt_at_its_end(device: Device) -> None:
    from pyvfio.vfio_mock import VfioMock

    mock = VfioMock(device)
    vectors = device.irqs[2].enable(range(8))
    mapping = device.address_space.alloc(4096)
    mock["DMA_IRQ"] = 2 << 16 | 5
    mock.start("FILL", "RAISE", iova=mapping.iova, length=4096, pattern=7)
    assert vectors[5].wait(60) == 1
    mock.finish()
    assert mapping.buffer.view[:8] == (7).to_bytes(8, "little")


def test_an_interrupt_that_the_device_does_not_have_is_an_error(device: Device) -> None:
    with pytest.raises(OSError, match="VFIO_DEVICE_GET_IRQ_INFO") as caught:
        irq_info(device.file, device.info.num_irqs + 90)
    assert caught.value.errno == errno.EINVAL
