# SPDX-License-Identifier: MIT
"""The models of an 82576 network card and of a wire.

The driver is scripts/examples/igb.py; the other end of the wire is a tap.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator

import pytest
from examples.igb import BUFFER, ETHERTYPE, OWN_POOL, Igb, IgbVf, Queues

import pyvfio
from pyvfio import Device, DmaBuffer, Mapping, host, mock
from pyvfio.mock import devices

PHYSICAL = "0000:00:07.0"
PAGE = 4096
TOKEN = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")
ENABLE_SRIOV = "/sys/module/vfio_pci/parameters/enable_sriov"

CONTROL, STATUS, EEPROM, EEPROM_READ, CONTROL_MORE, PHY = 0x00, 0x08, 0x10, 0x14, 0x18, 0x20
RECEIVE, TRANSMIT, SEMAPHORE, MULTICAST, VLANS = 0x100, 0x400, 0x5B50, 0x5200, 0x5600
CAUSE, CAUSE_SET, MASK_SET, MASK_CLEAR, AUTO_MASK, MODE = 0x1500, 0x1504, 0x1508, 0x150C, 0x1510, 0x1514
VECTOR_CAUSE, VECTOR_SET, VECTOR_UNMASK, VECTOR_MASK = 0x1580, 0x1520, 0x1524, 0x1528
VECTOR_AUTO_CLEAR, VECTOR_AUTO_MASK, VECTORS, OTHER_VECTOR = 0x152C, 0x1530, 0x1700, 0x1740
LINK_UP, LINK_CHANGED = 1 << 1, 1 << 2
OTHER_MAC = b"\x52\x54\x00\x00\x00\x01"
GROUP = b"\x01\x00\x5e\x00\x00\xfb"
EVERYBODY = b"\xff" * 6


class Tap:
    """An end of a wire that stores the frames it receives."""

    def __init__(self, kernel: mock.Kernel) -> None:
        self.kernel = kernel
        self.wire: devices.Wire | None = None
        self.frames: list[bytes] = []
        self.filled = threading.Event()

    def receive(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.filled.set()

    def send(self, frame: bytes) -> None:
        assert self.wire is not None
        self.wire.carry(self, frame)


@pytest.fixture
def kernel() -> mock.Kernel:
    return mock.Kernel("intel-48")


@pytest.fixture
def model(kernel: mock.Kernel) -> devices.Igb:
    model = kernel.devices[PHYSICAL]
    assert isinstance(model, devices.Igb)
    return model


@pytest.fixture
def device(kernel: mock.Kernel) -> Iterator[Device]:
    with host.bind(PHYSICAL, "vfio-pci", kernel=kernel), pyvfio.open(PHYSICAL, kernel=kernel) as device:
        yield device
    assert kernel.faults == []


@pytest.fixture
def tap(model: devices.Igb) -> Tap:
    tap = Tap(model.kernel)
    assert model.wire is not None
    model.wire.disconnect()
    devices.Wire(model, tap)
    return tap


@pytest.fixture
def card(device: Device, tap: Tap) -> Iterator[Igb]:
    with Igb(device, loopback=False) as card:
        yield card


@pytest.fixture
def memory(device: Device) -> Mapping:
    return device.address_space.alloc(1 << 16)


def read(device: Device, register: int) -> int:
    return device.regions[0].read32(register)


def write(device: Device, register: int, value: int) -> None:
    device.regions[0].write32(register, value)


def frame_to(mac: bytes, size: int = 60, tag: int | None = None) -> bytes:
    vlan = b"" if tag is None else b"\x81\x00" + tag.to_bytes(2, "big")
    return (mac + OTHER_MAC + vlan + ETHERTYPE.to_bytes(2, "big") + os.urandom(size))[:size]


def received(card: Igb) -> int | None:
    """Return the size of the received frame; None if there is none."""
    _, status, length, _ = struct.unpack_from("<QIHH", card._received, 16 * card._next)
    return int(length) if status & 1 else None


# --- registers ------------------------------------------------------------------------------------------------------------


def phy(device: Device, register: int, value: int | None = None, address: int = 1) -> int:
    operation = 2 << 26 if value is None else 1 << 26 | value
    write(device, PHY, operation | address << 21 | register << 16)
    result = read(device, PHY)
    assert result & 1 << 28
    assert bool(result & 1 << 30) == (address != 1)
    return result & 0xFFFF


def test_the_phy_is_an_igp_with_a_link(device: Device) -> None:
    assert phy(device, 2) << 16 | phy(device, 3) & 0xFFF0 == 0x02A80390
    assert phy(device, 1) & 0x24 == 0x24  # negotiation complete, link up
    assert phy(device, 17) == 0xC200
    phy(device, 31, 0x11B1)  # another page
    assert phy(device, 17) == 0
    phy(device, 17, 0x1234)
    assert phy(device, 17) == 0x1234
    assert phy(device, 1) & 4  # the register is the same in each page
    phy(device, 31, 0)
    assert phy(device, 17) == 0xC200
    phy(device, 1, address=2)


def test_the_link_follows_the_phys_power(device: Device) -> None:
    assert not read(device, STATUS) & LINK_UP
    write(device, CONTROL, read(device, CONTROL) | 1 << 6)
    assert read(device, STATUS) & LINK_UP
    assert read(device, CAUSE) == LINK_CHANGED
    assert read(device, CAUSE) == 0
    phy(device, 0, 0x1940)
    assert not read(device, STATUS) & LINK_UP
    assert not phy(device, 1) & 4
    assert read(device, CAUSE) == LINK_CHANGED
    phy(device, 0, 0x1340)  # power up, and start a negotiation
    assert read(device, STATUS) & LINK_UP
    assert phy(device, 0) == 0x1140
    assert read(device, CAUSE) == LINK_CHANGED
    write(device, CONTROL, read(device, CONTROL) | 1 << 31)
    assert read(device, CAUSE) == LINK_CHANGED


def test_the_non_volatile_memory_has_the_mac_and_a_checksum(model: devices.Igb, device: Device) -> None:
    words = []
    for address in range(64):
        write(device, EEPROM_READ, address << 2 | 1)
        value = read(device, EEPROM_READ)
        assert value & 2
        words.append(value >> 16)
    assert struct.pack("<3H", *words[:3]) == model.mac
    assert sum(words) & 0xFFFF == 0xBABA
    assert (words[0x0D], words[0x0E]) == (0x10C9, 0x8086)
    write(device, EEPROM_READ, 64 << 2 | 1)
    assert read(device, EEPROM_READ) >> 16 == 0xFFFF
    assert (read(device, 0x5404) << 32 | read(device, 0x5400)).to_bytes(8, "little")[:6] == model.mac


def test_what_is_shared_is_granted(device: Device) -> None:
    assert read(device, EEPROM) == 0x1300
    write(device, EEPROM, 1 << 6)
    assert read(device, EEPROM) == 0x13C0
    write(device, SEMAPHORE, 0)
    assert [read(device, SEMAPHORE) for _ in range(2)] == [0, 1]
    write(device, CONTROL, 1 << 2)
    assert not read(device, STATUS) & 1 << 19  # STATUS: bus mastering is disabled


def test_a_reset_sets_registers_back_and_leaves_the_phy(device: Device) -> None:
    phy(device, 9, 0x0200)
    for register in RECEIVE, 0x5408, 0xC028, 0x2808, 0x3810, VECTORS, VECTOR_UNMASK:
        write(device, register, 0x80)
    write(device, CONTROL, 1 << 26)
    assert read(device, CONTROL) == 0x201
    for register in RECEIVE, 0x5408, 0xC028, 0x2808, 0x3810, VECTORS, VECTOR_UNMASK:
        assert read(device, register) == 0
    assert phy(device, 9) == 0x0200
    device.reset()
    assert phy(device, 9) == 0x0300


def test_registers_have_older_addresses_and_other_widths(device: Device) -> None:
    write(device, 0xD0, 0x84)
    assert (read(device, MASK_SET), read(device, MASK_CLEAR), read(device, 0xD8)) == (0x84,) * 3
    write(device, 0xD8, 0x80)
    assert read(device, MASK_SET) == 4
    write(device, 0xC040, 0x12345680)  # the base of queue 1's ring
    assert read(device, 0x2900) == 0x12345680
    assert device.regions[0].read16(0x2902) == 0x1234
    device.regions[0].write(0xE000, (0x1_2345_6780).to_bytes(8, "little"))
    assert (read(device, 0x3800), read(device, 0x3804)) == (0x23456780, 1)
    assert int.from_bytes(device.regions[0].read(0xE000, 8), "little") == 0x1_2345_6780


def test_the_other_bars_hold_what_is_written(device: Device) -> None:
    for index in 1, 3:
        device.regions[index].write32(0x3F00, 0x12345678)
        assert device.regions[index].read32(0x3F00) == 0x12345678
    assert read(device, 0x3F00) == 0


# --- interrupts -----------------------------------------------------------------------------------------------------------


def test_vectors_are_masked_and_cleared(device: Device) -> None:
    device.config.bus_master = True
    vectors = device.irqs.msix.enable_all()
    write(device, MODE, 1 << 4)
    write(device, VECTOR_SET, 0b100)
    assert read(device, VECTOR_CAUSE) == 0b100
    with pytest.raises(TimeoutError):
        vectors[2].wait(0)
    write(device, VECTOR_UNMASK, 0b110)  # pending interrupts are sent
    assert vectors[2].wait(1) == 1
    write(device, VECTOR_SET, 0b100)  # the vector is pending already
    with pytest.raises(TimeoutError):
        vectors[2].wait(0)
    write(device, VECTOR_CAUSE, 0b100)
    write(device, VECTOR_AUTO_CLEAR, 0b110)
    write(device, VECTOR_AUTO_MASK, 0b010)
    for _ in range(2):
        write(device, VECTOR_SET, 0b110)
    assert (vectors[1].wait(1), vectors[2].wait(1)) == (1, 2)
    assert (read(device, VECTOR_UNMASK), read(device, VECTOR_CAUSE)) == (0b100, 0b010)


def test_other_causes_have_a_vector_of_their_own(device: Device) -> None:
    device.config.bus_master = True
    vectors = device.irqs.msix.enable_all()
    write(device, MODE, 1 << 4)
    write(device, OTHER_VECTOR, 0x83 << 8)
    write(device, VECTOR_AUTO_CLEAR, 1 << 3)
    write(device, VECTOR_UNMASK, 1 << 3)
    write(device, CAUSE_SET, LINK_CHANGED)
    with pytest.raises(TimeoutError):
        vectors[3].wait(0)
    write(device, MASK_SET, LINK_CHANGED)
    assert vectors[3].wait(1) == 1
    assert read(device, CAUSE) == LINK_CHANGED | 1 << 31


def test_each_queue_has_bytes_for_its_vectors(device: Device, card: Igb, memory: Mapping, tap: Tap) -> None:
    vectors = device.irqs.msix.enable_all()
    write(device, VECTORS, 0x8485)
    write(device, VECTOR_AUTO_CLEAR, 0xFF)
    write(device, VECTOR_UNMASK, 0xFF)
    card.offer(memory.iova)
    tap.send(frame_to(card.mac))
    assert vectors[5].wait(1) == 1
    card.send((memory.iova, 60))
    assert vectors[4].wait(1) == 1


def test_intx_stays_until_its_causes_are_read(model: devices.Igb, device: Device, card: Igb, tap: Tap) -> None:
    write(device, MODE, 0)
    (vector,) = device.irqs.intx.enable()
    write(device, MASK_SET, 1 << 7)
    card.offer(card.memory.iova + 2 * PAGE)
    tap.send(frame_to(card.mac))
    vector.wait(1)
    assert model.irqs.asserted
    assert read(device, CAUSE) & (1 << 31 | 1 << 7) == 1 << 31 | 1 << 7
    assert not model.irqs.asserted
    write(device, CONTROL_MORE, 1 << 27)
    write(device, AUTO_MASK, 1 << 7)
    write(device, CAUSE_SET, 1 << 7)
    assert model.irqs.asserted
    assert read(device, CAUSE) & 1 << 7
    assert read(device, MASK_SET) == 0  # masked by the read


def test_msi_is_sent_for_each_cause(device: Device) -> None:
    device.config.bus_master = True
    (vector,) = device.irqs.msi.enable()
    write(device, MASK_SET, LINK_CHANGED | 1)
    for bits in LINK_CHANGED, 1, 8:
        write(device, CAUSE_SET, bits)
    assert vector.wait(1) == 2
    write(device, CAUSE, 0xFFFFFFFF)
    assert read(device, CAUSE) == 0


# --- receiving ------------------------------------------------------------------------------------------------------------

ON, ALL_UNICAST, ALL_MULTICAST, LONG, BROADCAST, FILTER_VLANS = 1 << 1, 1 << 3, 1 << 4, 1 << 5, 1 << 15, 1 << 18
STRIP = 1 << 26
OF_256 = 3 << 16


@pytest.mark.parametrize(
    ("control", "mac", "size", "tag", "accepted"),
    [
        (0, None, 60, None, True),
        (0, OTHER_MAC, 60, None, False),
        (ALL_UNICAST, OTHER_MAC, 60, None, True),
        (0, EVERYBODY, 60, None, False),
        (BROADCAST, EVERYBODY, 60, None, True),
        (0, GROUP, 60, None, False),
        (ALL_MULTICAST, GROUP, 60, None, True),
        (0, None, 1514, None, True),
        (0, None, 1515, None, False),
        (0, None, 1518, 5, True),
        (LONG, None, 1600, None, True),
        (FILTER_VLANS, None, 60, None, True),
        (FILTER_VLANS, None, 60, 5, False),
        (FILTER_VLANS, None, 60, 0x2007, True),
    ],
)
def test_frames_are_filtered(
    device: Device, card: Igb, memory: Mapping, tap: Tap, control: int, mac: bytes | None, size: int,
    tag: int | None, accepted: bool,
) -> None:  # fmt: skip
    write(device, RECEIVE, ON | STRIP | OF_256 | control)
    write(device, 0x5004, 1600)  # the largest, where long frames are accepted
    write(device, VLANS, 1 << 7)
    card.offer(*range(memory.iova, memory.iova + 8 * BUFFER, BUFFER))
    frame = frame_to(card.mac if mac is None else mac, size, tag)
    tap.send(frame)
    if accepted:
        assert card.receive() == size
        assert memory.buffer.view[:size] == frame
    else:
        assert received(card) is None


def test_groups_are_found_by_hash_and_by_address(device: Device, card: Igb, memory: Mapping, tap: Tap) -> None:
    card.offer(*range(memory.iova, memory.iova + 4 * BUFFER, BUFFER))
    value = (GROUP[5] << 8 | GROUP[4]) >> 4 & 0xFFF
    write(device, MULTICAST + 4 * (value >> 5), 1 << (value & 31))
    tap.send(frame_to(GROUP))
    assert card.receive() == 60
    write(device, MULTICAST + 4 * (value >> 5), 0)
    write(device, 0x5408, int.from_bytes(GROUP[:4], "little"))
    write(device, 0x540C, 1 << 31 | int.from_bytes(GROUP[4:], "little"))
    tap.send(frame_to(GROUP))
    assert card.receive() == 60
    # The last 8 of the 24 MAC addresses are in another place.
    write(device, 0x54E0 + 8 * 7, int.from_bytes(OTHER_MAC[:4], "little"))
    write(device, 0x54E4 + 8 * 7, 1 << 31 | int.from_bytes(OTHER_MAC[4:], "little"))
    tap.send(frame_to(OTHER_MAC))
    assert card.receive() == 60


def test_a_checksum_is_stored_unless_it_is_stripped(device: Device, card: Igb, memory: Mapping, tap: Tap) -> None:
    write(device, RECEIVE, ON | OF_256)
    card.offer(memory.iova)
    tap.send(frame := frame_to(card.mac))
    assert card.receive() == 64
    assert memory.buffer.view[:64] == frame + zlib.crc32(frame).to_bytes(4, "little")


def test_tags_are_stripped_and_told(device: Device, card: Igb, memory: Mapping, tap: Tap) -> None:
    write(device, CONTROL, read(device, CONTROL) | 1 << 30)
    card.offer(memory.iova)
    tap.send(frame := frame_to(card.mac, 64, tag=0x6005))
    assert memory.buffer.view[:60] == frame[:12] + frame[16:]
    _, status, length, tag = struct.unpack_from("<QIHH", card._received)
    assert (status, length, tag) == (1 | 2 | 8, 60, 0x6005)


def test_buffers_have_the_size_of_their_queue(device: Device, card: Igb, memory: Mapping, tap: Tap) -> None:
    write(device, 0xC00C, 1 << 25 | 1)  # 1 KiB each
    card.offer(memory.iova, memory.iova + PAGE)
    tap.send(frame := frame_to(card.mac, 1100))
    assert card.receive() == 1100
    assert memory.buffer.view[:1024] == frame[:1024]
    assert memory.buffer.view[PAGE : PAGE + 76] == frame[1024:]


def test_legacy_descriptors_are_written_back(device: Device, card: Igb, memory: Mapping, tap: Tap) -> None:
    write(device, 0xC00C, 0)
    card.offer(memory.iova, memory.iova + BUFFER)
    tap.send(frame_to(card.mac, 300))
    found = [struct.unpack_from("<QHHBBH", card._received, 16 * at) for at in range(2)]
    assert found == [(memory.iova, 256, 0, 1, 0, 0), (memory.iova + BUFFER, 44, 0, 3, 0, 0)]


def test_without_room_a_frame_is_lost_and_counted(device: Device, card: Igb, memory: Mapping, tap: Tap) -> None:
    card.offer(memory.iova)
    tap.send(frame_to(card.mac, 300))
    assert received(card) is None
    assert [read(device, 0x4010) for _ in range(2)] == [1, 0]
    tap.send(frame_to(card.mac, 200))
    assert card.receive() == 200
    assert [read(device, register) for register in (0x4074, 0x40D0, 0x4010)] == [1, 1, 0]


def test_a_card_that_is_off_or_down_receives_nothing(device: Device, card: Igb, memory: Mapping, tap: Tap) -> None:
    card.offer(memory.iova)
    write(device, RECEIVE, 0)
    tap.send(frame_to(card.mac))
    write(device, RECEIVE, ON | STRIP | OF_256)
    phy(device, 0, 0x0940)
    tap.send(frame_to(card.mac))
    device.config.bus_master = False
    phy(device, 0, 0x1340)
    tap.send(frame_to(card.mac))
    device.config.bus_master = True
    assert received(card) is None


# --- sending --------------------------------------------------------------------------------------------------------------

TCP_FLAGS = 13
CONTEXT, END, REPORT, ADVANCED, TAG, SEGMENT = 2 << 20, 1 << 24, 1 << 27, 1 << 29, 1 << 30, 1 << 31
DATA = 3 << 20


def descriptors(card: Igb, *found: bytes) -> None:
    """Put descriptors into the ring, and write the tail register."""
    for one in found:
        card._sent[16 * card._at : 16 * card._at + 16] = one
        card._at += 1
    write(card.device, 0xE018, card._at)


def summed(data: bytes) -> int:
    """Return the Internet checksum of data. It is 0 if the data contains its correct checksum."""
    data += bytes(len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return total ^ 0xFFFF


def pseudo(addresses: bytes, protocol: int, length: int) -> bytes:
    return addresses + struct.pack(">BBH", 0, protocol, length)


def headers(protocol: int, l4: bytes, size: int, *, partial_length: int) -> bytes:
    """Return the headers Ethernet, IPv4 and `l4`.

    The checksum field of `l4` has the sum of the pseudo header with that length.
    """
    addresses = b"\x0a\0\0\x01\x0a\0\0\x02"
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(l4) + size, 7, 0, 64, protocol, 0) + addresses
    at = 16 if protocol == 6 else 6
    partial = summed(pseudo(addresses, protocol, partial_length)) ^ 0xFFFF
    l4 = l4[:at] + partial.to_bytes(2, "big") + l4[at + 2 :]
    return OTHER_MAC * 2 + b"\x08\0" + ip + l4


def context(ip: int, l4: int, protocol: int, segment: int = 0, vlan: int = 0, index: int = 0) -> bytes:
    kind = CONTEXT | ADVANCED | 1 << 10 | protocol << 11
    return struct.pack("<4I", ip | 14 << 9 | vlan << 16, 0, kind, index << 4 | l4 << 8 | segment << 16)


def checked(frame: bytes) -> bytes:
    """Check both checksums and the lengths of an IPv4 frame, and return TCP or UDP with its data."""
    ip = frame[14:34]
    assert summed(ip) == 0
    assert int.from_bytes(ip[2:4], "big") == len(frame) - 14
    l4 = frame[34:]
    assert summed(pseudo(ip[12:20], ip[9], len(l4)) + l4) == 0
    return l4


@pytest.mark.parametrize("size", [31, 1000])
@pytest.mark.parametrize(("protocol", "kind", "header"), [(6, 1, 20), (17, 0, 8)], ids=["TCP", "UDP"])
def test_checksums_are_inserted(
    card: Igb, memory: Mapping, tap: Tap, protocol: int, kind: int, header: int, size: int
) -> None:
    data = os.urandom(size)
    l4 = bytearray(os.urandom(header))
    if protocol == 17:
        l4[4:6] = (8 + size).to_bytes(2, "big")
    frame = headers(protocol, bytes(l4), size, partial_length=header + size) + data
    memory.buffer.view[: len(frame)] = frame
    whole = struct.pack("<QII", memory.iova, len(frame) | DATA | ADVANCED | END | REPORT, 3 << 8 | len(frame) << 14)
    descriptors(card, context(20, header, kind), whole)
    (sent,) = tap.frames
    assert checked(sent)[header:] == data
    assert card._sent[28] & 1  # done


def test_a_large_packet_is_cut_into_segments(card: Igb, memory: Mapping, tap: Tap) -> None:
    data = os.urandom(3300)
    tcp = bytearray(struct.pack(">HHIIBBHHH", 1, 2, 0xFFFFFF00, 5, 5 << 4, 0x80 | 8 | 1, 100, 0, 0))
    frame = headers(6, bytes(tcp), len(data), partial_length=0) + data
    memory.buffer.view[: len(frame)] = frame
    command = DATA | ADVANCED | SEGMENT
    descriptors(
        card,
        context(20, 20, 1, segment=1448, index=1),
        struct.pack("<QII", memory.iova, 54 | command, 3 << 8 | 1 << 4 | len(data) << 14),
        struct.pack("<QII", memory.iova + 54, len(data) | command | END | REPORT, 0),  # as Linux's driver does
    )
    parts = [checked(sent) for sent in tap.frames]
    assert b"".join(part[20:] for part in parts) == data
    assert [len(part) - 20 for part in parts] == [1448, 1448, 404]
    sequences = [int.from_bytes(part[4:8], "big") for part in parts]
    assert sequences == [0xFFFFFF00, 0xFFFFFF00 + 1448 & 0xFFFFFFFF, 0xFFFFFF00 + 2896 & 0xFFFFFFFF]
    assert [part[TCP_FLAGS] for part in parts] == [0x80, 0, 8 | 1]
    assert [int.from_bytes(sent[18:20], "big") for sent in tap.frames] == [7, 8, 9]


def test_a_tag_is_inserted(card: Igb, memory: Mapping, tap: Tap) -> None:
    memory.buffer.view[:60] = frame = frame_to(OTHER_MAC)
    whole = struct.pack("<QII", memory.iova, 60 | DATA | ADVANCED | END | TAG, 60 << 14)
    descriptors(card, context(0, 0, 0, vlan=0x2005), whole)
    assert tap.frames == [frame[:12] + b"\x81\x00\x20\x05" + frame[12:]]


def test_short_frames_are_padded_and_counted(device: Device, card: Igb, memory: Mapping, tap: Tap) -> None:
    memory.buffer.view[:20] = frame = frame_to(OTHER_MAC, 20)
    card.send((memory.iova, 20))
    assert tap.frames == [frame + bytes(40)]
    assert card._sent[12:17] == b"\1\0\5\0\0"  # done bit and size are written; the next descriptor is unchanged
    assert [read(device, 0x4080) for _ in range(2)] == [1, 0]


def test_what_was_queued_is_sent_when_the_card_is_enabled(device: Device, card: Igb, memory: Mapping, tap: Tap) -> None:
    memory.buffer.view[:60] = frame_to(OTHER_MAC)
    write(device, TRANSMIT, 0)
    card.send((memory.iova, 60))
    assert not tap.frames
    write(device, TRANSMIT, 2)
    assert len(tap.frames) == 1
    device.config.bus_master = False
    card.send((memory.iova, 60))
    device.config.bus_master = True
    assert len(tap.frames) == 1
    card.send((memory.iova, 60))  # the doorbell again
    assert len(tap.frames) == 3


# --- pools and virtual functions ------------------------------------------------------------------------------------------


@pytest.fixture
def virtual(kernel: mock.Kernel) -> Iterator[list[str]]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(host.bind(PHYSICAL, "vfio-pci", kernel=kernel))
        kernel.write_file(ENABLE_SRIOV, b"Y")
        functions = host.create_vfs(PHYSICAL, OWN_POOL, probe=False, kernel=kernel)
        for function in functions:
            stack.enter_context(host.bind(function.address, "vfio-pci", kernel=kernel))
        yield [function.address for function in functions]
        host.remove_vfs(PHYSICAL, kernel=kernel)


Opened = Callable[..., Device]


@pytest.fixture
def opened(kernel: mock.Kernel) -> Iterator[Opened]:
    with contextlib.ExitStack() as stack:
        yield lambda address: stack.enter_context(pyvfio.open(address, vf_token=TOKEN, kernel=kernel))


@pytest.fixture
def shared(virtual: list[str], opened: Opened, tap: Tap) -> Iterator[Igb]:
    with Igb(opened(PHYSICAL), shared=True) as card:
        yield card


def pass_a_frame(sender: Queues, receiver: Queues, iova: int = 0x10_0000) -> None:
    """Send a frame from an IOVA of one address space to the same IOVA of another."""
    out = sender.device.address_space.map(DmaBuffer(PAGE), iova)
    in_ = receiver.device.address_space.map(DmaBuffer(PAGE), iova)
    out.buffer.view[:1024] = frame = (receiver.mac + frame_to(sender.mac, 1024))[:1024]
    receiver.offer(*range(iova, iova + 1024, BUFFER))
    sender.send((iova, 1024))
    assert receiver.receive() == 1024
    assert in_.buffer.view[:1024] == frame
    out.unmap()
    in_.unmap()


@pytest.mark.parametrize("interrupt", [False, True], ids=["polling", "by MSI-X"])
def test_functions_of_one_card_translate_an_iova_differently(
    shared: Igb, virtual: list[str], opened: Opened, interrupt: bool
) -> None:
    assert read(shared.device, STATUS) >> 14 & 15 == OWN_POOL
    with IgbVf(opened(virtual[1]), shared, 1, interrupt=interrupt) as function:
        pass_a_frame(shared, function)
        pass_a_frame(function, shared)


def test_seven_virtual_functions_copy_and_pass_frames(shared: Igb, virtual: list[str], opened: Opened) -> None:
    with contextlib.ExitStack() as stack:
        functions = [
            stack.enter_context(IgbVf(opened(address), shared, number)) for number, address in enumerate(virtual)
        ]
        for one, other in zip(functions, [*functions[1:], functions[0]], strict=True):
            pass_a_frame(one, other)
            memory = one.device.address_space.map(DmaBuffer(2 * PAGE), 0x10_0000)
            memory.buffer.view[:PAGE] = os.urandom(PAGE)
            one.copy(memory.iova + PAGE, memory.iova, PAGE)
            assert memory.buffer.view[:PAGE] == memory.buffer.view[PAGE:]
            memory.unmap()


def test_a_virtual_function_reaches_its_own_mappings_alone(
    kernel: mock.Kernel, shared: Igb, virtual: list[str], opened: Opened
) -> None:
    with IgbVf(opened(virtual[0]), shared, 0) as function:
        own = function.device.address_space.map(DmaBuffer(2 * PAGE), 0x10_0000)
        others = shared.device.address_space.map(DmaBuffer(PAGE), 0x20_0000)
        own.buffer.view[:] = os.urandom(2 * PAGE)
        others.buffer.view[:] = secret = os.urandom(PAGE)
        function.copy(others.iova, own.iova, 1024)
        assert others.buffer.view == secret
        assert {(fault.device, fault.iova & -PAGE, fault.write) for fault in kernel.faults} == {
            (virtual[0], others.iova, True)
        }


def test_a_reset_of_a_virtual_function_turns_it_off(shared: Igb, virtual: list[str], opened: Opened) -> None:
    device = opened(virtual[2])
    with IgbVf(device, shared, 2) as function:
        assert read(shared.device, 0x0C8C) & 1 << 2
        device.reset()
        assert not read(shared.device, 0x0C8C) & 1 << 2
        assert read(shared.device, 0x0C88) & 1 << 2
        write(shared.device, 0x0C88, 1 << 2)
        assert not read(shared.device, 0x0C88) & 1 << 2
        assert device.regions[0].read32(0x2828) == 0
        device.config.bus_master = True
        function.start()
        pass_a_frame(function, shared)
        for register, held in ((0x2900, 0x12345600), (0x2A00, 0x12345678), (0x3A00, 0x12345678), (0x2940, 0x12345678)):
            write(device, register, 0x12345678)  # a virtual function has registers for two queues, and none behind them
            assert read(device, register) == held
        write(device, 0, 1 << 26)  # a reset by a register
        assert not read(shared.device, 0x0C8C) & 1 << 2


def test_pools_choose_by_their_options(shared: Igb, virtual: list[str], opened: Opened, tap: Tap) -> None:
    with IgbVf(opened(virtual[0]), shared, 0) as function:
        memory = function.device.address_space.alloc(PAGE)
        function.offer(*range(memory.iova, memory.iova + PAGE, BUFFER))
        options = read(shared.device, 0x5AD0)

        def arrives(frame: bytes) -> bool:
            _, status, _, _ = struct.unpack_from("<QIHH", function._received, 16 * function._next)
            assert not status & 1
            tap.send(frame)
            _, status, _, _ = struct.unpack_from("<QIHH", function._received, 16 * function._next)
            function._next += status & 1
            return bool(status & 1)

        write(shared.device, 0x581C, 1 << 29)  # no default pool
        assert arrives(frame_to(function.mac))
        assert not arrives(frame_to(OTHER_MAC))
        assert not arrives(frame_to(EVERYBODY))
        write(shared.device, 0x5AD0, options | 1 << 27)
        assert arrives(frame_to(EVERYBODY))
        assert not arrives(frame_to(GROUP))
        write(shared.device, 0x5AD0, options | 1 << 28)
        assert arrives(frame_to(GROUP))
        write(shared.device, 0x5AD0, options & ~(1 << 24))  # no frames without a tag
        assert not arrives(frame_to(function.mac))
        assert arrives(frame_to(function.mac, tag=5))
        write(shared.device, 0x5AD0, options)
        write(shared.device, 0x581C, 0)  # the default pool is 0
        assert arrives(frame_to(OTHER_MAC))


def test_a_pool_sends_over_the_wire_and_to_itself_if_it_may(
    shared: Igb, virtual: list[str], opened: Opened, tap: Tap
) -> None:
    with IgbVf(opened(virtual[0]), shared, 0) as function:
        memory = function.device.address_space.alloc(PAGE)
        function.offer(memory.iova + 1024)
        memory.buffer.view[:60] = frame_to(OTHER_MAC)
        function.send((memory.iova, 60))
        assert len(tap.frames) == 1
        memory.buffer.view[:60] = frame_to(function.mac)
        write(shared.device, 0x3500, 1 << 31)
        function.send((memory.iova, 60))
        assert not function._received[8] & 1
        write(shared.device, 0x3500, 1 << 31 | 1 << 16)
        function.send((memory.iova, 60))
        assert function._received[8] & 1
        assert len(tap.frames) == 1
        write(shared.device, 0x0C90, 0)  # no pool may send
        memory.buffer.view[:60] = frame_to(OTHER_MAC)
        function.send((memory.iova, 60))
        assert len(tap.frames) == 1


# --- the wire -------------------------------------------------------------------------------------------------------------


def pair(one: mock.Kernel, other: mock.Kernel) -> tuple[devices.Igb, devices.Igb]:
    return (
        devices.Igb(one, "0000:00:0a.0", driver="vfio-pci"),
        devices.Igb(other, "0000:00:0b.0", driver="vfio-pci", mac=OTHER_MAC),
    )


@pytest.mark.parametrize("same", [True, False], ids=["one kernel", "two kernels"])
def test_two_cards_exchange_frames(same: bool) -> None:
    one = mock.Kernel("amd")
    other = one if same else mock.Kernel("intel-48")
    devices.Wire(*pair(one, other))
    with (
        pyvfio.open("0000:00:0a.0", kernel=one) as first,
        pyvfio.open("0000:00:0b.0", kernel=other) as second,
        Igb(first, loopback=False) as left,
        Igb(second, loopback=False, interrupt=True) as right,
    ):
        assert right.mac == OTHER_MAC
        for _ in range(3):
            pass_a_frame(left, right)
            pass_a_frame(right, left)
    assert one.faults == other.faults == []


def test_a_wire_reaches_all_but_the_sender(kernel: mock.Kernel) -> None:
    taps = [Tap(kernel) for _ in range(3)]
    wire = devices.Wire(*taps)
    with pytest.raises(ValueError, match="connected already"):
        devices.Wire(Tap(kernel), taps[1])
    taps[0].send(b"frame")
    assert [tap.frames for tap in taps] == [[], [b"frame"], [b"frame"]]
    wire.disconnect()
    assert taps[0].wire is None
    devices.Wire(*taps)


def test_a_frame_of_another_kernel_comes_under_that_kernels_lock() -> None:
    """Otherwise two cards that send to each other at the same time would deadlock."""
    one, other = Tap(mock.Kernel()), Tap(mock.Kernel())
    wire = devices.Wire(one, other)
    with other.kernel.lock:
        one.send(b"first")
        time.sleep(0.05)
        assert not other.frames
    assert other.filled.wait(60)
    thread = wire._thread
    assert thread is not None
    wire.disconnect()
    del wire
    thread.join(60)
    assert not thread.is_alive()


def test_a_mac_of_another_size_is_refused(kernel: mock.Kernel) -> None:
    with pytest.raises(ValueError, match="must have 6 bytes"):
        devices.Igb(kernel, "0000:00:0a.0", mac=b"12345")
    assert "0000:00:0a.0" not in kernel.devices
