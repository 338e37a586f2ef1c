# SPDX-License-Identifier: MIT
"""Drive an Intel 82574 network card (e1000e): send frames to itself in loopback, or over a wire to another card.

    scripts/vm --iommu amd -- .venv/bin/python scripts/examples/e1000e.py [ADDRESS [ADDRESS]]

With the addresses of two cards that are linked, the first sends to the second. Registers and descriptors are those of
the 82574's datasheet. Frames are gathered from pieces of memory and scattered into buffers, so a card in loopback also
copies memory: a frame sent from one place arrives at another.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import time
from contextlib import ExitStack, suppress
from typing import Self

import pyvfio
from pyvfio import Device, IovaRange

VENDOR, DEVICE = 0x8086, 0x10D3

CONTROL, STATUS, CAUSES, UNMASK, MASK = 0x0000, 0x0008, 0x00C0, 0x00D0, 0x00D8
RECEIVE, RECEIVE_RING, TRANSMIT, TRANSMIT_RING = 0x0100, 0x2800, 0x0400, 0x3800
BASE_LOW, BASE_HIGH, LENGTH, HEAD, TAIL = 0x00, 0x04, 0x08, 0x10, 0x18  # of each ring
ADDRESS_LOW, ADDRESS_HIGH = 0x5400, 0x5404

LINK_UP, SET_LINK_UP, RESET = 1 << 1, 1 << 6, 1 << 26
RECEIVED = 1 << 7  # a cause of interrupts
# Bits of RECEIVE. STRIP_CHECKSUM: do not store the checksum behind the frame.
RECEIVE_ON, LOOPBACK, BUFFERS_OF_256, STRIP_CHECKSUM = 1 << 1, 1 << 6, 3 << 16, 1 << 26
TRANSMIT_ON, PAD_SHORT = 1 << 1, 1 << 3

#: A transmit descriptor: IOVA, length, checksum offset, command, status, checksum start, special
SENT = struct.Struct("<QHBBBBH")
END_OF_FRAME, ADD_CHECKSUM, REPORT = 1 << 0, 1 << 1, 1 << 3
#: A receive descriptor: IOVA, length, checksum, status, errors, special
GOT = struct.Struct("<QHHBBH")
DONE, END = 1 << 0, 1 << 1

PAGE = 4096
ENTRIES = PAGE // 16
BUFFER = 256
ETHERTYPE = 0x88B5  # for local experiments
#: Timeout in seconds.
LIMIT = 2


def written_back(ring: memoryview, entry: int) -> tuple[int, int]:
    """Return the length and the status of a receive descriptor that the card wrote back.

    The second word of 8 bytes has both. It is read with one load: with a load for each field, the card could write the
    descriptor between the two, and the old length would meet the new status.

    :param ring: the descriptors as words of 64 bits
    """
    word = int(ring[2 * entry + 1])
    return word & 0xFFFF, word >> 32 & 0xFF


class E1000e:
    """A driver for the card. Use it in a `with` statement, which resets the card at the beginning and at the end.

    :param loopback: the card receives what it sends; nothing goes over the wire
    :param interrupt: wait for MSI interrupts instead of polling
    :ivar reach: the IOVAs that the card can address
    """

    # A descriptor with address 0 has no buffer: the card skips it.
    reach = IovaRange(0x1000, 2**64 - 1)

    def __init__(self, device: Device, *, loopback: bool = True, interrupt: bool = False) -> None:
        self.device = device
        bar = device.regions[0]
        # Use loads and stores if the BAR can be mapped, else a system call for each access.
        self.registers = bar.mmap() if bar.mmappable else bar
        self.vector = device.irqs.msi.enable()[0] if interrupt else None
        self._loopback = LOOPBACK if loopback else 0
        # One page each: the transmit ring, the receive ring, and a header to send and to receive.
        self.memory = device.address_space.alloc(3 * PAGE)
        self._sent, self._got, self._header = (self.memory.buffer.view[n * PAGE : (n + 1) * PAGE] for n in range(3))
        self._written_back = self._got.cast("Q")

    def __enter__(self) -> Self:
        self.device.config.bus_master = True
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.device.closed:
            self._reset()
            self.device.config.bus_master = False
            self.memory.unmap()

    def start(self) -> None:
        """Reset the card and begin with empty rings."""
        self._reset()
        self._tail = self._at = self._next = 0
        write = self.registers.write32
        write(CONTROL, self.registers.read32(CONTROL) | SET_LINK_UP)
        for ring, iova in (TRANSMIT_RING, self.memory.iova), (RECEIVE_RING, self.memory.iova + PAGE):
            write(ring + BASE_LOW, iova & 0xFFFFFFFF)
            write(ring + BASE_HIGH, iova >> 32)
            write(ring + LENGTH, PAGE)
            # A reset of QEMU's card does not clear the head and tail registers.
            write(ring + HEAD, 0)
            write(ring + TAIL, 0)
        write(RECEIVE, RECEIVE_ON | self._loopback | BUFFERS_OF_256 | STRIP_CHECKSUM)
        write(TRANSMIT, TRANSMIT_ON | PAD_SHORT)
        if self.vector is not None:
            write(UNMASK, RECEIVED)
        self._wait_for_link()
        low, high = self.registers.read32(ADDRESS_LOW), self.registers.read32(ADDRESS_HIGH)
        self.mac = (high << 32 | low).to_bytes(8, "little")[:6]

    def offer(self, *iovas: int) -> None:
        """Give the card buffers of 256 bytes each. Frames fill them in this order."""
        for iova in iovas:
            GOT.pack_into(self._got, 16 * self._tail, iova, 0, 0, 0, 0, 0)
            self._tail = (self._tail + 1) % ENTRIES
        self.registers.write32(RECEIVE_RING + TAIL, self._tail)

    def send(self, *pieces: tuple[int, int]) -> None:
        """Send one frame, gathered from pieces of memory, each an IOVA and a size."""
        for index, (iova, size) in enumerate(pieces, 1):
            command = ADD_CHECKSUM | REPORT | (END_OF_FRAME if index == len(pieces) else 0)
            SENT.pack_into(self._sent, 16 * self._at, iova, size, 0, command, 0, 0, 0)
            self._at = (self._at + 1) % ENTRIES
        self.registers.write32(TRANSMIT_RING + TAIL, self._at)

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
                self.registers.read32(CAUSES)  # reading the causes acknowledges them

    def copy(self, destination: int, source: int, size: int) -> None:
        """Copy memory by IOVAs, in loopback frames: a header of 256 bytes, then up to 1024 bytes of data."""
        header = self.memory.iova + 2 * PAGE
        self._header[:14] = self.mac + self.mac + ETHERTYPE.to_bytes(2, "big")
        for at in range(0, size, 1024):
            count = min(1024, size - at)
            self.offer(header + BUFFER, *range(destination + at, destination + at + count, BUFFER))
            self.send((header, BUFFER), (source + at, count))
            self.receive()

    def _reset(self) -> None:
        self.registers.write32(MASK, 0xFFFFFFFF)
        self.registers.write32(RECEIVE, 0)
        self.registers.write32(TRANSMIT, 0)
        self.registers.write32(CONTROL, self.registers.read32(CONTROL) | RESET)
        time.sleep(0.001)  # the datasheet requires a delay between a reset and the next access
        self.registers.write32(MASK, 0xFFFFFFFF)
        self.registers.read32(CAUSES)

    def _wait_for_link(self) -> None:
        limit = time.monotonic() + LIMIT
        while not self.registers.read32(STATUS) & LINK_UP:
            if time.monotonic() > limit:
                raise TimeoutError(errno.ETIMEDOUT, f"{self.device.address}: no link within {LIMIT} seconds")
            time.sleep(0.005)


def main() -> None:
    found = (d.address for d in pyvfio.host.devices() if (d.vendor, d.device) == (VENDOR, DEVICE))
    addresses = sys.argv[1:] or [next(found)]
    with ExitStack() as stack:
        cards = []
        for address in addresses:
            stack.enter_context(pyvfio.host.bind(address, "vfio-pci"))
            device = stack.enter_context(pyvfio.open(address))
            cards.append(stack.enter_context(E1000e(device, loopback=len(addresses) == 1, interrupt=True)))
        sender, receiver = cards[0], cards[-1]
        out, in_ = sender.device.address_space.alloc(PAGE), receiver.device.address_space.alloc(PAGE)
        frame = (
            receiver.mac + sender.mac + ETHERTYPE.to_bytes(2, "big") + b"written by one device, read by the other" * 30
        )
        out.buffer.view[: len(frame)] = frame
        receiver.offer(*range(in_.iova, in_.iova + len(frame), BUFFER))
        sender.send((out.iova, 14), (out.iova + 14, len(frame) - 14))
        size = receiver.receive()
        print(f"{sender.mac.hex(':')} at {sender.device.address} sent {len(frame)} bytes, gathered from 2 pieces,")
        print(f"{receiver.mac.hex(':')} at {receiver.device.address} received {size}, ", end="")
        print(
            f"scattered into {-(-size // BUFFER)} buffers: {'equal' if in_.buffer.view[:size] == frame else 'DIFFERENT'}"
        )
        if sender is receiver:
            mapping = sender.device.address_space.alloc(1 << 17)
            view = mapping.buffer.view
            view[: 1 << 16] = os.urandom(1 << 16)
            begun = time.monotonic()
            sender.copy(mapping.iova + (1 << 16), mapping.iova, 1 << 16)
            same = "equal" if view[: 1 << 16] == view[1 << 16 :] else "DIFFERENT"
            print(f"64 KiB copied in frames to itself: {same}, {time.monotonic() - begun:.2f} s")


if __name__ == "__main__":
    main()
