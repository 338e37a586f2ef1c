# SPDX-License-Identifier: MIT
"""The model of an 82574. test_igb.py tests the features that it shares with the 82576.

The driver is scripts/examples/e1000e.py.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator

import pytest
from examples.e1000e import BUFFER, ETHERTYPE, E1000e

import pyvfio
from pyvfio import Device, Mapping, mock
from pyvfio.mock import devices
from tests.mock.test_igb import OTHER_MAC, Tap, phy, read, write

ADDRESS = "0000:00:0a.0"
PAGE = 4096
CAUSE, MASK_SET, MASK_CLEAR, RECEIVE, TRANSMIT = 0xC0, 0xD0, 0xD8, 0x100, 0x400
RECEIVED, SENT = 1 << 7, 1 << 0


@pytest.fixture
def kernel() -> mock.Kernel:
    return mock.Kernel("intel-48")


@pytest.fixture
def model(kernel: mock.Kernel) -> devices.E1000e:
    return devices.E1000e(kernel, ADDRESS, driver="vfio-pci")


@pytest.fixture
def tap(model: devices.E1000e) -> Tap:
    tap = Tap(model.kernel)
    devices.Wire(model, tap)
    return tap


@pytest.fixture
def device(model: devices.E1000e) -> Iterator[Device]:
    with pyvfio.open(ADDRESS, kernel=model.kernel) as device:
        yield device
    assert model.kernel.faults == []


@pytest.fixture
def card(device: Device, tap: Tap) -> Iterator[E1000e]:
    with E1000e(device, loopback=False) as card:
        yield card


@pytest.fixture
def memory(device: Device) -> Mapping:
    return device.address_space.alloc(1 << 16)


def frame_to(mac: bytes, size: int = 60) -> bytes:
    return (mac + OTHER_MAC + ETHERTYPE.to_bytes(2, "big") + os.urandom(size))[:size]


def test_the_phy_is_a_bm(device: Device) -> None:
    assert phy(device, 2) << 16 | phy(device, 3) & 0xFFF0 == 0x01410CB0


def test_frames_are_scattered_into_legacy_descriptors(card: E1000e, memory: Mapping, tap: Tap) -> None:
    card.offer(memory.iova, memory.iova + PAGE)
    tap.send(frame := frame_to(card.mac, 300))
    found = [struct.unpack_from("<QHHBBH", card._got, 16 * at) for at in range(2)]
    assert found == [(memory.iova, 256, 0, 1, 0, 0), (memory.iova + PAGE, 44, 0, 3, 0, 0)]
    assert memory.buffer.view[:256] == frame[:256]
    assert memory.buffer.view[PAGE : PAGE + 44] == frame[256:]


def test_frames_are_filtered_and_have_their_checksum(device: Device, card: E1000e, memory: Mapping, tap: Tap) -> None:
    card.offer(memory.iova, memory.iova + BUFFER)
    tap.send(frame_to(OTHER_MAC))
    tap.send(b"short")
    write(device, RECEIVE, 0)
    tap.send(frame_to(card.mac))
    assert not any(card._got[8:16])
    write(device, RECEIVE, 1 << 1 | 3 << 16)
    tap.send(frame := frame_to(card.mac))
    assert memory.buffer.view[:64] == frame + zlib.crc32(frame).to_bytes(4, "little")
    assert card.receive() == 64


def test_without_room_a_frame_is_lost_and_counted(device: Device, card: E1000e, memory: Mapping, tap: Tap) -> None:
    card.offer(memory.iova)
    tap.send(frame_to(card.mac, 257))
    assert not any(card._got[8:16])
    assert [read(device, register) for register in (0x4010, 0x4010, 0x4074)] == [1, 0, 0]
    device.config.bus_master = False
    tap.send(frame_to(card.mac))
    device.config.bus_master = True
    assert read(device, 0x4010) == 1


def test_frames_are_gathered_padded_and_reported(device: Device, card: E1000e, memory: Mapping, tap: Tap) -> None:
    memory.buffer.view[:20] = frame = frame_to(OTHER_MAC, 20)
    write(device, TRANSMIT, 0)
    card.send((memory.iova, 14), (memory.iova + 14, 6))
    assert not tap.frames
    write(device, TRANSMIT, 1 << 1 | 1 << 3)
    assert tap.frames == [frame + bytes(40)]
    assert [card._sent[16 * at + 12] & 1 for at in range(2)] == [1, 1]
    assert read(device, 0x4080) == 1
    device.config.bus_master = False
    card.send((memory.iova, 20))
    device.config.bus_master = True
    assert len(tap.frames) == 1
    write(device, 0x3818, read(device, 0x3818))  # the doorbell again
    assert len(tap.frames) == 2


def test_extended_descriptors_are_skipped(device: Device, card: E1000e, memory: Mapping, tap: Tap) -> None:
    struct.pack_into("<QHBBBBH", card._sent, 0, memory.iova, 60, 0, 1 | 8 | 0x20, 0, 0, 0)
    write(device, 0x3818, 1)
    assert not tap.frames
    assert card._sent[12] & 1


@pytest.mark.parametrize("kind", ["intx", "msi", "msix"])
def test_causes_interrupt_by_each_kind(
    model: devices.E1000e, device: Device, card: E1000e, memory: Mapping, tap: Tap, kind: str
) -> None:
    vector = getattr(device.irqs, kind).enable()[0]
    read(device, CAUSE)
    card.offer(*[memory.iova] * 4)
    tap.send(frame_to(card.mac))
    with pytest.raises(TimeoutError):
        vector.wait(0)  # the cause is masked
    write(device, MASK_SET, RECEIVED)
    assert vector.wait(1) == 1
    assert read(device, CAUSE) & RECEIVED
    assert not model.irqs.asserted
    card.send((memory.iova, 60))
    with pytest.raises(TimeoutError):
        vector.wait(0)
    write(device, MASK_CLEAR, RECEIVED)
    assert read(device, MASK_SET) == 0


def test_a_reset_by_a_register_leaves_heads_and_tails(device: Device, card: E1000e, memory: Mapping, tap: Tap) -> None:
    card.send((memory.iova, 60))
    write(device, 0x00, 1 << 26)
    assert [read(device, register) for register in (0x3810, 0x3818, 0x3800, 0x3808)] == [1, 1, 0, 0]
    device.reset()
    assert [read(device, register) for register in (0x3810, 0x3818)] == [0, 0]


def test_the_cards_of_the_host_are_on_one_wire(kernel: mock.Kernel) -> None:
    cards = [kernel.devices[address] for address in ("0000:00:06.0", "0000:00:07.0", "0000:02:00.0")]
    assert [type(card) for card in cards] == [devices.E1000e, devices.Igb, devices.E1000e]
    (wire,) = {card.wire for card in cards if isinstance(card, devices.E1000e | devices.Igb)}
    assert wire is not None
    assert list(map(id, wire.ports)) == list(map(id, cards))
    assert len({card.mac for card in cards if isinstance(card, devices.E1000e | devices.Igb)}) == 3
