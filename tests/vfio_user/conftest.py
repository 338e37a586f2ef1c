# SPDX-License-Identifier: MIT
"""Fixtures: servers of device models, each in a thread, and a client that sends single messages."""

from __future__ import annotations

import array
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyvfio import mock
from pyvfio.vfio_user import Server

HEADER = struct.Struct("=HHIII")
VERSION = struct.pack("=HH", 0, 1) + b'{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":4096}}\0'


class Adder(mock.Device):
    """A model that adds 64-bit words.

    Register 0x00: an IOVA; 0x08: the number of words, which starts it; 0x10: the sum.
    """

    function = mock.Function(
        (0x1234, 0xADD0), bars={0: mock.Bar(4096), 2: mock.Bar(1 << 16, memory=True)}, msi=1, intx=True, resets=True
    )

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        super().write(bar, offset, width, value)
        if (bar, offset) == (0, 0x08):
            words = memoryview(self.dma_read(self.read(0, 0x00, 8), 8 * (value & 0xFF))).cast("Q")
            total = sum(words) % 2**64
            super().write(0, 0x10, 8, total)
            self.dma_write(self.read(0, 0x18, 8), total.to_bytes(8, "little"))
            self.interrupt()


class Answer(NamedTuple):
    """A message that a server sent."""

    id: int
    command: int
    flags: int
    error: int
    body: bytes
    fds: list[int]


class Peer:
    """A client that sends single messages, including invalid ones."""

    def __init__(self, path: Path, *, version: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self._number = 0
        if version:
            assert not self.ask(1, VERSION).error

    def send(
        self, command: int, body: bytes = b"", fds: Sequence[int] = (), *, flags: int = 0, size: int | None = None
    ) -> int:
        self._number += 1
        header = HEADER.pack(self._number, command, 16 + len(body) if size is None else size, flags, 0)
        socket.send_fds(self.socket, [header + body], list(fds))
        return self._number

    def receive(self) -> Answer | None:
        fds: list[int] = []
        header = self._read(16, fds)
        if header is None:
            return None
        number, command, size, flags, error = HEADER.unpack(header)
        body = self._read(size - 16, fds) if size > 16 else b""
        assert body is not None
        return Answer(number, command, flags, error, body, fds)

    def _read(self, size: int, fds: list[int]) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                part, ancillary, _, _ = self.socket.recvmsg(size - len(data), 256)
            except ConnectionResetError:
                return None
            for _, _, content in ancillary:
                numbers = array.array("i")
                numbers.frombytes(content)
                fds += numbers
            if not part:
                return None
            data += part
        return data

    def ask(self, command: int, body: bytes = b"", fds: Sequence[int] = (), **more: Any) -> Answer:
        number = self.send(command, body, fds, **more)
        answer = self.receive()
        assert answer is not None
        assert (answer.id, answer.command, answer.flags & 0xF) == (number, command, 1)
        assert bool(answer.flags & 0x20) == bool(answer.error)
        return answer

    def answer(self, to: Answer, body: bytes = b"", *, error: int = 0) -> None:
        self.socket.sendall(HEADER.pack(to.id, to.command, 16 + len(body), 0x21 if error else 1, error) + body)

    def read(self, region: int, offset: int, size: int) -> bytes:
        return self.ask(9, struct.pack("=QII", offset, region, size)).body[16:]

    def write(self, region: int, offset: int, data: bytes, *, flags: int = 0) -> None:
        body = struct.pack("=QII", offset, region, len(data)) + data
        if flags:
            self.send(10, body, flags=flags)
        else:
            assert not self.ask(10, body).error

    def close(self) -> None:
        self.socket.close()


class Served(NamedTuple):
    """A server in a thread."""

    server: Server
    path: Path
    kernel: mock.Kernel
    device: Any


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers, and end them after the test."""
    running: list[tuple[Served, threading.Thread]] = []

    def start(model: type[mock.Device] = Adder, **options: Any) -> Served:
        kernel = mock.Kernel("intel-57")
        device = model(kernel, f"0000:00:{10 + len(running):02x}.0")
        path = tmp_path / f"device{len(running)}"
        server = Server(device, path, **options)

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.serve_one()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        served = Served(server, path, kernel, device)
        running.append((served, thread))
        return served

    yield start
    for served, thread in running:
        served.server.close()
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def peer(serve: Serve) -> Iterator[Peer]:
    """A client of an Adder that sends single messages."""
    made = Peer(serve().path)
    yield made
    made.close()
