# SPDX-License-Identifier: MIT
"""Two cards on one wire: Linux pings through its igb driver on the first, and pyvfio answers on the second, which is bound to vfio-pci."""

from __future__ import annotations

import os
import socket
import struct
import threading
from pathlib import Path

from examples.igb import BUFFER, Igb

import pyvfio
from tests.vfio_user_guest.programs.guest import LIMIT, address_of, run, step, wait_until

OWN, OTHER = "10.0.0.1", "10.0.0.2"
ECHO_REQUEST = 8
BUFFERS = 64
PINGS = 50
#: The MTU of the interface of Linux's driver.
MTU = 1500


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


class Responder:
    """A responder that answers pings on a card."""

    def __init__(self, card: Igb) -> None:
        self.card = card
        self.answered = self.wrong = 0
        self.ended = False
        self._received = card.device.address_space.alloc(BUFFERS * BUFFER)
        self._sent = card.device.address_space.alloc(4096)
        self._next = 0
        card.offer(*(self._iova(number) for number in range(BUFFERS - 1)))

    def _iova(self, number: int) -> int:
        return self._received.iova + number % BUFFERS * BUFFER

    def serve(self) -> None:
        """Receive frames and answer them, until `ended` is set. The card waits for a frame for at most two seconds."""
        while not self.ended:
            try:
                size = self.card.receive()
            except TimeoutError:
                # The card was restarted, and has lost its buffers.
                self._next = 0
                self.card.offer(*(self._iova(number) for number in range(BUFFERS - 1)))
                continue
            self._answer(self._take(size))

    def _take(self, size: int) -> bytes:
        """Return a frame, and offer its buffers to the card again."""
        count = -(-size // BUFFER)
        view = self._received.buffer.view
        parts = []
        for number in range(self._next, self._next + count):
            at = number % BUFFERS * BUFFER
            parts.append(bytes(view[at : at + BUFFER]))
        self.card.offer(*(self._iova(number + BUFFERS - 1) for number in range(self._next, self._next + count)))
        self._next += count
        return b"".join(parts)[:size]

    def _answer(self, frame: bytes) -> None:
        if frame[12:14] != b"\x08\0" or frame[23] != socket.IPPROTO_ICMP or frame[30:34] != socket.inet_aton(OTHER):
            return
        header, packet = frame[14:34], frame[34 : 14 + int.from_bytes(frame[16:18], "big")]
        if packet[0] != ECHO_REQUEST:
            return
        if checksum(header) or checksum(packet):
            self.wrong += 1
            return
        answer = b"\0\0\0\0" + packet[4:]
        answer = answer[:2] + checksum(answer).to_bytes(2, "big") + answer[4:]
        head = header[:12] + header[16:20] + header[12:16]
        whole = frame[6:12] + frame[:6] + frame[12:14] + head + answer
        self._sent.buffer.view[: len(whole)] = whole
        self.card.send((self._sent.iova, 14), (self._sent.iova + 14, len(whole) - 14))
        self.answered += 1


def ping(interface: str) -> None:
    """Send pings of many sizes through an interface, and require the answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        raw.settimeout(LIMIT)
        for number in range(PINGS):
            packet = struct.pack(">BBHHH", ECHO_REQUEST, 0, 0, 77, number) + os.urandom(
                8 + number * (MTU - 60) // PINGS
            )
            packet = packet[:2] + checksum(packet).to_bytes(2, "big") + packet[4:]
            raw.sendto(packet, (OTHER, 0))
            while True:
                answer = raw.recv(4096)[20:]
                if answer[0] == 0 and answer[4:8] == packet[4:8]:
                    break
            assert answer[8:] == packet[8:]


def main() -> None:
    first, second = address_of("first"), address_of("second")
    with (
        pyvfio.host.bind(second, "vfio-pci"),
        pyvfio.open(second) as device,
        Igb(device, loopback=False, interrupt=True) as card,
    ):
        interfaces = Path(f"/sys/bus/pci/devices/{first}/net")
        wait_until(lambda: interfaces.is_dir() and any(interfaces.iterdir()), "an interface of Linux's igb")
        interface = next(interfaces.iterdir()).name
        assert (interfaces / interface / "address").read_text().strip() != card.mac.hex(":")
        run("ip", "address", "add", f"{OWN}/24", "dev", interface)
        run("ip", "link", "set", interface, "up")
        run("ip", "neighbour", "add", OTHER, "lladdr", card.mac.hex(":"), "dev", interface)
        carrier = interfaces / interface / "carrier"
        with step("the link"):
            wait_until(lambda: carrier.read_text().strip() == "1", "a carrier")
        responder = Responder(card)
        thread = threading.Thread(target=responder.serve)
        thread.start()
        try:
            with step(f"{PINGS} pings"):
                ping(interface)
        finally:
            responder.ended = True
            thread.join()
        assert (responder.answered, responder.wrong) == (PINGS, 0)


if __name__ == "__main__":
    main()
