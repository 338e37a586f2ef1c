# SPDX-License-Identifier: MIT
"""Recorded sessions, byte for byte and with their descriptors, are replayed with pyvfio's server and with its client."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from vmtest.vfio_user_peers import Sample

from pyvfio import mock, vfio_user
from pyvfio.vfio_user.models import Adder
from tests.vfio_user import conftest

VECTORS = Path(__file__).parent / "vectors"
VERSION, DMA_MAP, SET_IRQS = 1, 2, 8


class Line(NamedTuple):
    """A message of a session."""

    by_server: bool
    fds: int
    data: bytes

    @property
    def command(self) -> int:
        return int(struct.unpack_from("<H", self.data, 2)[0])


def load(name: str) -> list[Line]:
    """Read a session."""
    lines = [line.split() for line in (VECTORS / name).read_text().splitlines() if not line.startswith("#")]
    return [Line(who == "S", int(fds), bytes.fromhex(data)) for who, fds, data in lines]


def receive(connected: socket.socket) -> Line:
    """Receive a message, and close its descriptors."""
    connected.settimeout(60)
    data, fds = b"", 0
    while len(data) < 16 or len(data) < struct.unpack_from("<I", data, 4)[0]:
        wanted = 16 if len(data) < 16 else struct.unpack_from("<I", data, 4)[0]
        part, ancillary, _, _ = connected.recvmsg(wanted - len(data), 256)
        assert part, "the connection ended"
        for _, _, content in ancillary:
            numbers = array.array("i")
            numbers.frombytes(content)
            fds += len(numbers)
            for fd in numbers:
                os.close(fd)
        data += part
    return Line(False, fds, data)


def check_equal(seen: Line, wanted: Line, at: int) -> None:
    """Compare a message with the recorded one. Of VERSION, compare only the recorded capabilities."""
    assert seen.fds == wanted.fds, f"message {at}: descriptors"
    if wanted.command != VERSION:
        assert seen.data.hex() == wanted.data.hex(), f"message {at}"
        return
    assert (seen.data[:4], seen.data[8:20]) == (wanted.data[:4], wanted.data[8:20])
    said, was = (json.loads(data[20:-1])["capabilities"] for data in (seen.data, wanted.data))
    assert {name: said.get(name) for name in was} == was


@contextlib.contextmanager
def memory_of(lines: list[Line]) -> Iterator[int]:
    """Yield the descriptor of a file that is large enough for the mappings of a session."""
    maps = [struct.unpack_from("<QQQ", line.data, 24) for line in lines if line.command == DMA_MAP and line.fds]
    fd = os.memfd_create("guest")
    os.truncate(fd, max((offset + size for offset, _, size in maps), default=0))
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("name", "model", "share"),
    [
        ("specification.txt", conftest.Adder, True),
        ("qemu-11.1.3.txt", Adder, False),
        ("libvfio-user-client.txt", Sample, True),
    ],
)
def test_our_server_answers_as_it_did(tmp_path: Path, name: str, model: type[mock.Device], share: bool) -> None:
    lines = load(name)
    assert len(lines) > 30
    server = vfio_user.Server(model, tmp_path / "socket", share_memory=share)
    thread = threading.Thread(target=server.serve_one)
    thread.start()
    with socket.socket(socket.AF_UNIX) as client, memory_of(lines) as memory:
        client.connect(str(tmp_path / "socket"))
        eventfd = os.eventfd(0)
        for at, line in enumerate(lines):
            if line.by_server:
                check_equal(receive(client), line, at)
            else:
                fds = [eventfd if line.command == SET_IRQS else memory] * line.fds
                socket.send_fds(client, [line.data], fds)
        os.close(eventfd)
    thread.join(60)
    assert not thread.is_alive()
    assert server.refused == sum(line.by_server and line.data[8] == 0x21 for line in lines)
    server.close()


def play(listening: socket.socket, lines: list[Line], wrong: list[str]) -> None:
    """Play the server of a session, and compare the client's messages with the recorded ones."""
    try:
        with listening.accept()[0] as connected:
            early: list[Line] = []
            for at, line in enumerate(lines):
                if line.by_server:
                    fds = [listening.fileno()] * line.fds
                    socket.send_fds(connected, [line.data], fds)
                    continue
                # The client answers DMA in another thread, so the answer may come before or after its next request.
                while not any(one.command == line.command for one in early):
                    early.append(receive(connected))
                seen = next(one for one in early if one.command == line.command)
                early.remove(seen)
                check_equal(seen, line, at)
    except (AssertionError, OSError) as error:
        wrong.append(str(error))


def test_our_client_asks_as_the_specification_says(tmp_path: Path) -> None:
    lines = load("specification.txt")
    wrong: list[str] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        thread = threading.Thread(target=play, args=(listening, lines, wrong))
        thread.start()
        client = vfio_user.Client(
            tmp_path / "socket", read=lambda _, __: struct.pack("<QQ", 40, 2), write=lambda _, __: None, timeout=60
        )
        fd = os.memfd_create("memory")
        try:
            call_everything(client, fd)
        finally:
            client.close()
            os.close(fd)
            thread.join(60)
    assert wrong == []


def call_everything(client: vfio_user.Client, fd: int) -> None:
    """Make the calls of the specification's session in order, and check the results."""
    assert client.info() == (3, 9, 5)
    assert client.region_info(0) == (3, 4096)
    assert client.region_info(2) == (7, 1 << 16)
    assert client.irq_info(1) == (9, 1)
    client.set_irqs(0x24, 1, 0, 1, fds=[fd])
    client.dma_map(0x100000, 0x2000, 3, 0x1000, fd)
    client.dma_map(0x800000, 0x1000, 1)
    client.region_write(7, 4, b"\x06\x00")
    client.region_write(0, 0x20, b"\x78\x56\x34\x12")
    assert client.region_read(0, 0x20, 4) == b"\x78\x56\x34\x12"
    client.region_write(0, 0x00, struct.pack("<Q", 0x800000))
    client.region_write(0, 0x18, struct.pack("<Q", 0x100000))
    client.region_write(0, 0x08, struct.pack("<I", 2))
    assert client.region_read(0, 0x10, 8) == struct.pack("<Q", 42)
    with pytest.raises(OSError, match="REGION_READ") as caught:
        client.region_read(0, 4096, 4)
    assert caught.value.errno == 22
    client.dma_unmap(0x100000, 0x2000)
    client.reset()
    with pytest.raises(OSError, match="DEVICE_FEATURE") as caught:
        client.feature(0x10001)
    assert caught.value.errno == 25
