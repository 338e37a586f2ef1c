# SPDX-License-Identifier: MIT
"""Drive an Intel 82576 network card (igb): frames in loopback, by its physical function and by a virtual one.

    scripts/vm --qemu newest -- .venv/bin/python scripts/examples/igb.py [--vf] [ADDRESS]

With `--vf` it also creates a virtual function (SR-IOV), opens it with the VF token, and sends frames between the two
functions. Each has an address space of its own, so the card copies memory from one address space to the other.

The registers and descriptors are those of the 82576 datasheet. Frames are gathered from pieces of memory and scattered
into buffers, so a card in loopback also copies memory: what it sends from one place arrives in another. QEMU has the
card since release 8.0; it knows the advanced descriptors only.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

import pyvfio
from pyvfio import Device, IovaRange

VENDOR, DEVICE = 0x8086, 0x10C9

# Registers of the physical function
CONTROL, STATUS, PHY, CAUSES, MASK = 0x0000, 0x0008, 0x0020, 0x1500, 0x150C
RECEIVE, TRANSMIT = 0x0100, 0x0400
ADDRESS_LOW, ADDRESS_HIGH = 0x5400, 0x5404  # 8 bytes for each MAC address
MULTIPLE_QUEUES, LOOPBACK_SWITCH = 0x5818, 0x3500
MAY_RECEIVE, MAY_TRANSMIT = 0x0C8C, 0x0C90  # a bit for each pool
POOL_OPTIONS = 0x5AD0  # 4 bytes for each pool
INTERRUPT_MODE = 0x1514
# Registers that a virtual function has too, for its own vectors and queues
VECTOR_UNMASK, VECTOR_MASK, VECTOR_AUTO_CLEAR, VECTORS = 0x1524, 0x1528, 0x152C, 0x1700

# Registers of each ring
BASE_LOW, BASE_HIGH, LENGTH, BUFFERS, HEAD, TAIL, QUEUE = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x18, 0x28

RESET, SET_LINK_UP, LINK_UP = 1 << 26, 1 << 6, 1 << 1
FULL_DUPLEX, GIGABIT, FORCE_SPEED, FORCE_DUPLEX = 1 << 0, 2 << 8, 1 << 11, 1 << 12
# PHY: write the value NEGOTIATE to register 0 of PHY 1. It makes the PHY negotiate the link, up to 1 Gbit/s.
WRITE_PHY, PHY_READY, NEGOTIATE = 1 << 26 | 1 << 21, 1 << 28, 0x1340
RECEIVE_ON, MAC_LOOPBACK, BUFFERS_OF_256, STRIP_CHECKSUM = 1 << 1, 1 << 6, 3 << 16, 1 << 26
TRANSMIT_ON, PAD_SHORT = 1 << 1, 1 << 3
QUEUE_ON = 1 << 25
ONE_BUFFER = 1 << 25  # BUFFERS: advanced descriptors with one buffer each
BY_POOL = 3  # MULTIPLE_QUEUES: the destination address selects the pool, and the pool the queue
SWITCH_ON, TO_ITSELF = 1 << 31, 1 << 16  # LOOPBACK_SWITCH: on; a pool may send to itself
VALID, POOL = 1 << 31, 1 << 18  # ADDRESS_HIGH
UNTAGGED, STRIP_IN_POOL = 1 << 24, 1 << 31  # POOL_OPTIONS
MULTIPLE_VECTORS, NOT_SHARED, NO_LEVEL = 1 << 4, 1 << 0, 1 << 31  # INTERRUPT_MODE
VECTOR_VALID = 1 << 7  # VECTORS: vector 0, for the receive queue

#: A transmit descriptor: IOVA, length and command, size of the whole frame
SENT = struct.Struct("<QII")
DATA, END_OF_FRAME, ADD_CHECKSUM, REPORT, ADVANCED = 3 << 20, 1 << 24, 1 << 25, 1 << 27, 1 << 29
WHOLE_SIZE = 14  # bit number at which the frame's size starts
#: A receive descriptor as it is given to the card: IOVA, IOVA of a header (unused)
OFFERED = struct.Struct("<QQ")
DONE, END = 1 << 0, 1 << 1

PAGE = 4096
ENTRIES = PAGE // 16
BUFFER = 256
ETHERTYPE = 0x88B5  # for local experiments
OWN_POOL = 7  # pool of the physical function when it shares the card; virtual function n has pool n
#: Timeout in seconds.
LIMIT = 2
TOKEN = uuid.UUID("5c0b1f9e-7f0c-4c7b-9d3e-2b8a54a8d1c6")


def written_back(ring: memoryview, entry: int) -> tuple[int, int]:
    """Return the length and the status of a receive descriptor that the card wrote back.

    The second word of 8 bytes has both: status, length, VLAN tag. It is read with one load: with a load for each field,
    the card could write between the two, and the old length would meet the new status.

    :param ring: the descriptors as words of 64 bits
    """
    word = int(ring[2 * entry + 1])
    return word >> 32 & 0xFFFF, word & 0xFFFFFFFF


class Queues:
    """A transmit ring and a receive ring, and their memory; the base class for both kinds of function.

    :param receive_ring: the offset of the receive ring's registers
    :param transmit_ring: the offset of the transmit ring's registers
    :param interrupt: wait for MSI-X vector 0 instead of polling
    :ivar reach: the IOVAs that the card can address
    :ivar mac: the MAC address, 6 bytes
    """

    # A descriptor with address 0 has no buffer: the card skips it.
    reach = IovaRange(0x1000, 2**64 - 1)
    mac = bytes(6)

    def __init__(self, device: Device, receive_ring: int, transmit_ring: int, *, interrupt: bool) -> None:
        self.device = device
        bar = device.regions[0]
        # Use loads and stores if the BAR can be mapped, else a system call for each access.
        self.registers = bar.mmap() if bar.mmappable else bar
        self.vector = device.irqs.msix.enable()[0] if interrupt else None
        self._receive_ring, self._transmit_ring = receive_ring, transmit_ring
        # One page each: the transmit ring, the receive ring, and a header to send and to receive.
        self.memory = device.address_space.alloc(3 * PAGE)
        self._tail = self._at = self._next = 0  # which entry to offer, to send and to receive next
        self._sent, self._received, self._header = (self.memory.buffer.view[n * PAGE :][:PAGE] for n in range(3))
        self._written_back = self._received.cast("Q")

    def __enter__(self) -> Self:
        self.device.config.bus_master = True
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.device.closed:
            self.stop()
            self.device.config.bus_master = False
            self.memory.unmap()

    def start(self) -> None:
        """Begin with empty rings."""
        raise NotImplementedError

    def stop(self) -> None:
        """Disable the rings and the interrupt."""
        self.registers.write32(VECTOR_MASK, 1)
        for ring in self._receive_ring, self._transmit_ring:
            self.registers.write32(ring + QUEUE, 0)

    def offer(self, *iovas: int) -> None:
        """Give the card buffers of 256 bytes each. Frames fill them in this order."""
        for iova in iovas:
            OFFERED.pack_into(self._received, 16 * self._tail, iova, 0)
            self._tail = (self._tail + 1) % ENTRIES
        self.registers.write32(self._receive_ring + TAIL, self._tail)

    def send(self, *pieces: tuple[int, int]) -> None:
        """Send one frame, gathered from pieces of memory, each an IOVA and a size."""
        whole = sum(size for _, size in pieces) << WHOLE_SIZE
        for index, (iova, size) in enumerate(pieces, 1):
            command = DATA | ADVANCED | ADD_CHECKSUM | REPORT | (END_OF_FRAME if index == len(pieces) else 0)
            SENT.pack_into(self._sent, 16 * self._at, iova, size | command, whole)
            self._at = (self._at + 1) % ENTRIES
        self.registers.write32(self._transmit_ring + TAIL, self._at)

    def receive(self) -> int:
        """Wait for a frame and return its size.

        :raises TimeoutError: no frame arrived. The card has been restarted and has none of the offered buffers any
            more.
        """
        size = 0
        limit = time.monotonic() + LIMIT
        while True:
            length, status = written_back(self._written_back, self._next)
            if status & DONE:
                size += length
                self._next = (self._next + 1) % ENTRIES
                if status & END:
                    # Do not read the frame before the status that announces it.
                    pyvfio.barrier()
                    return size
            elif time.monotonic() > limit:
                self.start()
                raise TimeoutError(errno.ETIMEDOUT, f"{self.device.address}: no frame within {LIMIT} seconds")
            elif self.vector is not None:
                with suppress(TimeoutError):
                    self.vector.wait(LIMIT)

    def copy(self, destination: int, source: int, size: int) -> None:
        """Copy memory by IOVAs, in loopback frames: a header of 256 bytes, then up to 1024 bytes of data."""
        header = self.memory.iova + 2 * PAGE
        self._header[:14] = self.mac + self.mac + ETHERTYPE.to_bytes(2, "big")
        for at in range(0, size, 1024):
            count = min(1024, size - at)
            self.offer(header + BUFFER, *range(destination + at, destination + at + count, BUFFER))
            self.send((header, BUFFER), (source + at, count))
            self.receive()

    def _start_rings(self) -> None:
        self._tail = self._at = self._next = 0
        write = self.registers.write32
        for ring, iova in (self._transmit_ring, self.memory.iova), (self._receive_ring, self.memory.iova + PAGE):
            write(ring + BASE_LOW, iova & 0xFFFFFFFF)
            write(ring + BASE_HIGH, iova >> 32)
            write(ring + LENGTH, PAGE)
            write(ring + HEAD, 0)
            write(ring + TAIL, 0)
        # A buffer size of 0 in BUFFERS: the size in RECEIVE applies.
        write(self._receive_ring + BUFFERS, ONE_BUFFER)
        for ring in self._transmit_ring, self._receive_ring:
            write(ring + QUEUE, QUEUE_ON)
            self._wait_for(ring + QUEUE, QUEUE_ON, "queue")

    def _unmask(self, queue: int) -> None:
        """Make the receive queue raise vector 0, and the card clear its cause automatically."""
        if self.vector is not None:
            # VECTORS has 4 bytes for each of the queues 0 to 7.
            self.registers.write32(VECTORS + 4 * queue, VECTOR_VALID)
            self.registers.write32(VECTOR_AUTO_CLEAR, 1)
            self.registers.write32(VECTOR_UNMASK, 1)

    def _wait_for(self, register: int, bit: int, name: str) -> None:
        limit = time.monotonic() + LIMIT
        while not self.registers.read32(register) & bit:
            if time.monotonic() > limit:
                raise TimeoutError(errno.ETIMEDOUT, f"{self.device.address}: no {name} within {LIMIT} seconds")
            time.sleep(0.005)


class Igb(Queues):
    """A driver for the physical function.

    Use it in a `with` statement, which resets the card at the beginning and at the end.

    :param loopback: the card receives what it sends; nothing goes over the wire
    :param shared: the card switches frames between its functions, and :meth:`admit` lets virtual functions take part:
        at most 7, because QEMU's card uses the address space of virtual function n for the queues n and n + 8
    :param interrupt: wait for MSI-X vector 0 instead of polling
    """

    def __init__(self, device: Device, *, loopback: bool = True, shared: bool = False, interrupt: bool = False) -> None:
        self._queue = OWN_POOL if shared else 0
        super().__init__(device, 0xC000 + 0x40 * self._queue, 0xE000 + 0x40 * self._queue, interrupt=interrupt)
        self._loopback = MAC_LOOPBACK if loopback and not shared else 0
        self._shared = shared
        #: the MAC address of each pool that may send and receive
        self._admitted: dict[int, bytes] = {}

    def start(self) -> None:
        """Reset the card and begin with empty rings."""
        self._reset()
        read, write = self.registers.read32, self.registers.write32
        forced = GIGABIT | FORCE_SPEED | FORCE_DUPLEX if self._loopback else 0
        write(CONTROL, read(CONTROL) | SET_LINK_UP | FULL_DUPLEX | forced)
        # A real card negotiates by itself after a reset. QEMU's card needs this write.
        write(PHY, WRITE_PHY | NEGOTIATE)
        self._wait_for(PHY, PHY_READY, "answer of the PHY")
        self._wait_for(STATUS, LINK_UP, "link")
        self.mac = (read(ADDRESS_HIGH) << 32 | read(ADDRESS_LOW)).to_bytes(8, "little")[:6]
        if self._shared:
            write(MULTIPLE_QUEUES, BY_POOL)
            write(LOOPBACK_SWITCH, SWITCH_ON | 0xFF * TO_ITSELF)
            # The reset cleared the other functions' entries: write them again. Entry 0 is the card's own MAC address.
            for number, mac in {**self._admitted, OWN_POOL: self.mac}.items():
                self.admit(number, mac)
        write(RECEIVE, RECEIVE_ON | self._loopback | BUFFERS_OF_256 | STRIP_CHECKSUM)
        write(TRANSMIT, TRANSMIT_ON | PAD_SHORT)
        write(INTERRUPT_MODE, MULTIPLE_VECTORS | NOT_SHARED | NO_LEVEL)
        self._unmask(self._queue)
        self._start_rings()

    def stop(self) -> None:
        """Reset the card."""
        self._reset()

    def admit(self, number: int, mac: bytes) -> None:
        """Let a virtual function send and receive with its own MAC address.

        A reset of the virtual function revokes this. Opening the function through VFIO resets it too.
        """
        read, write = self.registers.read32, self.registers.write32
        self._admitted[number] = mac
        entry = 0 if number == OWN_POOL else 8 * (1 + number)
        write(ADDRESS_LOW + entry, int.from_bytes(mac[:4], "little"))
        write(ADDRESS_HIGH + entry, int.from_bytes(mac[4:], "little") | VALID | POOL << number)
        write(POOL_OPTIONS + 4 * number, UNTAGGED | STRIP_IN_POOL)
        for register in MAY_RECEIVE, MAY_TRANSMIT:
            write(register, read(register) | 1 << number)

    def _reset(self) -> None:
        write = self.registers.write32
        for register in MASK, VECTOR_MASK:
            write(register, 0xFFFFFFFF)
        write(RECEIVE, 0)
        write(TRANSMIT, 0)
        write(CONTROL, self.registers.read32(CONTROL) | RESET)
        time.sleep(0.001)  # the datasheet requires a delay between a reset and the next access
        for register in MASK, VECTOR_MASK:
            write(register, 0xFFFFFFFF)
        self.registers.read32(CAUSES)  # reading the causes acknowledges them


class IgbVf(Queues):
    """A driver for a virtual function. Use it in a `with` statement, inside that of an :class:`Igb` with `shared=True`.

    :param card: the physical function
    :param number: the number of the virtual function, from 0 on
    """

    def __init__(self, device: Device, card: Igb, number: int, *, interrupt: bool = False) -> None:
        super().__init__(device, 0x2800, 0x3800, interrupt=interrupt)
        self._card, self._number = card, number
        # A locally administered address that is derived from the card's.
        self.mac = bytes([card.mac[0] | 2, *card.mac[1:5], card.mac[5] ^ 0x80 ^ number])

    def start(self) -> None:
        """Begin with empty rings."""
        self.stop()
        self._card.admit(self._number, self.mac)
        self._wait_for(STATUS, LINK_UP, "link")
        self._unmask(0)
        self._start_rings()


def exchange(sender: Queues, receiver: Queues) -> None:
    """Send a frame from one function to another or to itself, and print the frame's size and whether it arrived intact."""
    out, in_ = sender.device.address_space.alloc(PAGE), receiver.device.address_space.alloc(PAGE)
    frame = receiver.mac + sender.mac + ETHERTYPE.to_bytes(2, "big") + b"from one address space to another " * 40
    out.buffer.view[: len(frame)] = frame
    receiver.offer(*range(in_.iova, in_.iova + len(frame), BUFFER))
    sender.send((out.iova, 14), (out.iova + 14, len(frame) - 14))
    size = receiver.receive()
    equal = in_.buffer.view[:size] == frame
    print(f"{sender.mac.hex(':')} at {sender.device.address} sent {len(frame)} bytes, gathered from 2 pieces,")
    print(f"{receiver.mac.hex(':')} at {receiver.device.address} received {size}, ", end="")
    print(f"scattered into {-(-size // BUFFER)} buffers: {'equal' if equal else 'DIFFERENT'}")


def copy_64_kib(card: Queues) -> None:
    """Copy 64 KiB of memory in loopback frames, and print the time it took."""
    mapping = card.device.address_space.alloc(1 << 17)
    view = mapping.buffer.view
    view[: 1 << 16] = os.urandom(1 << 16)
    begun = time.monotonic()
    card.copy(mapping.iova + (1 << 16), mapping.iova, 1 << 16)
    equal = view[: 1 << 16] == view[1 << 16 :]
    took = time.monotonic() - begun
    print(
        f"64 KiB copied by {card.device.address} in frames to itself: {'equal' if equal else 'DIFFERENT'}, {took:.2f} s"
    )


@contextmanager
def virtual_function(physical: str) -> Iterator[str]:
    """Create one virtual function of an open physical function and bind it to vfio-pci. Yield its address."""
    kernel, parameter = pyvfio.kernel.default(), "/sys/module/vfio_pci/parameters/enable_sriov"
    before = kernel.read_file(parameter)
    kernel.write_file(parameter, b"Y")
    try:
        (created,) = pyvfio.host.create_vfs(physical, 1, probe=False)
        try:
            with pyvfio.host.bind(created.address, "vfio-pci"):
                yield created.address
        finally:
            pyvfio.host.remove_vfs(physical)
    finally:
        kernel.write_file(parameter, before)


def main() -> None:
    options = [word for word in sys.argv[1:] if word == "--vf"]
    found = (d.address for d in pyvfio.host.devices() if (d.vendor, d.device) == (VENDOR, DEVICE))
    address = next((word for word in sys.argv[1:] if word not in options), None) or next(found)
    with pyvfio.host.bind(address, "vfio-pci"):
        with pyvfio.open(address) as device, Igb(device, interrupt=True) as card:
            exchange(card, card)
            copy_64_kib(card)
        if not options:
            return
        # Opening the virtual function requires the VF token that was set when the physical function was opened.
        with (
            pyvfio.open(address, vf_token=TOKEN) as device,
            Igb(device, shared=True, interrupt=True) as card,
            virtual_function(address) as virtual,
            pyvfio.open(virtual, vf_token=TOKEN) as second,
            IgbVf(second, card, 0, interrupt=True) as function,
        ):
            exchange(card, function)
            exchange(function, card)
            copy_64_kib(function)


if __name__ == "__main__":
    main()
