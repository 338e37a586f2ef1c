# SPDX-License-Identifier: MIT
"""Mutated messages against a server, and mutated answers against a client: `python -m tests.vfio_user.mutate COUNT [SEED]`.

The server and the client get COUNT / 2 messages each. They may answer with errors and end connections. Afterwards they
must work as before, with no descriptor left, and without growth of memory.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import resource
import select
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pyvfio import mock, vfio_user
from tests.vfio_user.conftest import HEADER, VERSION, Adder

PAGE = 4096
#: Permitted growth of memory in a run, in KiB: caches of the interpreter, buffers.
GROWTH = 32 << 10
#: Number of messages before the first measurement.
WARM_UP = 2000

GOOD = [
    (1, VERSION), (2, struct.pack("=IIQQQ", 32, 3, 0, 0x10000, PAGE)), (3, struct.pack("=IIQQ", 24, 0, 0x10000, PAGE)),
    (4, struct.pack("=IIII", 16, 0, 0, 0)), (5, struct.pack("=IIIIQQ", 32, 0, 2, 0, 0, 0)), (7, struct.pack("=IIII", 16, 0, 1, 0)),
    (8, struct.pack("=IIIII", 20, 0x24, 1, 0, 1)), (9, struct.pack("=QII", 0, 0, 4)), (10, struct.pack("=QII", 8, 0, 4) + b"\1\0\0\0"),
    (10, struct.pack("=QII", 4, 7, 2) + b"\6\0"), (13, b""), (15, struct.pack("=QQII8s", 1, 0, 0, 4, b"")),
    (16, struct.pack("=IIQIIQQ", 40, 0x20006, 4096, 1, 0, 0, PAGE)), (16, struct.pack("=II", 16, 0x10002)), (17, struct.pack("=II", 16, 8)),
    (18, struct.pack("=II", 12, 4) + b"data"), (11, struct.pack("=QQ", 0, 4)), (12, struct.pack("=QQ", 0, 4) + b"data"),
]  # fmt: skip


def mutated(message: bytes, choose: random.Random) -> bytes:
    """Return a message with some bytes changed, cut, or with bytes behind it.

    Most keep a correct size, so that the connection continues.
    """
    changed = bytearray(message)
    for _ in range(choose.choice((0, 1, 1, 2, 4))):
        # Leave out the header's size: a wrong size ends the connection, and is tried in one of eight messages below.
        at = choose.choice([n for n in range(len(changed)) if not 4 <= n < 8])
        changed[at] = choose.choice((0, 1, 0xFF, 0x80, changed[at] ^ 1 << choose.randrange(8), choose.getrandbits(8)))
    how = choose.randrange(40)
    if how == 0:
        changed[4:8] = struct.pack(
            "=I", choose.choice((0, 8, 15, 17, 4096, 1 << 20, 1 << 24, 2**32 - 1, choose.getrandbits(32)))
        )
    elif how == 1:
        del changed[choose.randrange(len(changed)) :]
    elif how < 6:
        changed = changed[: 16 + choose.randrange(max(len(changed) - 15, 1))]
        changed[4:8] = struct.pack("=I", len(changed))
    elif how < 10:
        changed += choose.randbytes(choose.randrange(64))
        changed[4:8] = struct.pack("=I", len(changed))
    return bytes(changed)


def descriptors() -> int:
    """Return the number of this process's descriptors."""
    return len(os.listdir("/proc/self/fd"))


def memory() -> int:
    """Return the memory of this process in KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 10


def settle(wanted: int) -> int:
    """Wait until threads have closed their descriptors (at most 30 s), and return the number of descriptors."""
    limit = time.monotonic() + 30
    # Only the last count is returned: a thread that is still at work opens further ones for a moment.
    while (count := descriptors()) > wanted and time.monotonic() < limit:
        gc.collect()
        time.sleep(0.01)
    return count


def settle_session(server: vfio_user.Server) -> None:
    """Wait (at most 30 s) until the server has served what it was sent, and has seen the end of the connection."""
    limit = time.monotonic() + 30
    while server._session is not None:
        assert time.monotonic() < limit
        time.sleep(0.01)


def check(what: str, fds: int, kib: int) -> None:
    """Compare the numbers of descriptors and the memory with earlier values.

    :raises AssertionError: they grew
    """
    left, grown = settle(fds) - fds, memory() - kib
    print(f"{what}: {left} descriptors left, memory grew by {grown} KiB", flush=True)
    assert left <= 0
    assert grown < GROWTH


class Sender:
    """A client that sends invalid messages, and reads all answers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.connections = 0
        self._socket: socket.socket | None = None

    def send(self, message: bytes, fds: list[int]) -> None:
        """Send a message, over a new connection if the last one has ended."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(str(self._path))
            self._socket.sendall(HEADER.pack(0, 1, 16 + len(VERSION), 0, 0) + VERSION)
            self.connections += 1
        try:
            socket.send_fds(self._socket, [message], fds)
            while select.select([self._socket], [], [], 0)[0]:
                data, received, _, _ = socket.recv_fds(self._socket, 1 << 16, 64)
                for fd in received:
                    os.close(fd)
                if not data:
                    raise ConnectionResetError
        except (ConnectionError, BrokenPipeError):
            self.end()

    def end(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def attack_server(count: int, choose: random.Random) -> None:
    """Send mutated messages to a server."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        server = vfio_user.Server(Adder(mock.Kernel("intel-57"), "0000:00:0a.0"), Path(folder, "socket"))
        stack.callback(server.close)  # which ends its thread
        thread = threading.Thread(target=_serve, args=(server,))
        thread.start()
        eventfd, shared = os.eventfd(0), os.memfd_create("guest")
        os.truncate(shared, 1 << 20)
        stack.callback(os.close, eventfd)
        stack.callback(os.close, shared)
        sender = Sender(server.path)
        fds = kib = 0
        for number in range(count):
            if number == min(WARM_UP, count // 2):
                sender.end()
                settle_session(server)
                fds, kib = descriptors(), memory()
            command, body = choose.choice(GOOD)
            message = HEADER.pack(choose.getrandbits(16), command, 16 + len(body), 0, 0) + body
            given = {2: [shared], 8: [eventfd]}.get(command, []) * choose.choice((0, 1, 1, 1, 2, 17))
            sender.send(mutated(message, choose), given)
        sender.end()
        settle_session(server)
        check(f"server: {count} messages, {sender.connections} connections", fds, kib)
        client = vfio_user.Client(server.path, read=_no_read, write=_no_write)
        assert client.region_read(7, 0, 2) == b"\x34\x12"
        client.close()
        server.close()
        thread.join(60)
        assert not thread.is_alive()


def _serve(server: vfio_user.Server) -> None:
    with contextlib.suppress(OSError):
        while True:
            server.serve_one()


def _no_read(_: int, size: int) -> bytes:
    return bytes(size)


def _no_write(_: int, __: bytes) -> None:
    pass


#: Calls of a client, each with the body of a right answer.
ASKED: list[tuple[Callable[[vfio_user.Client], object], bytes]] = [
    (lambda client: client.info(), struct.pack("=IIII", 16, 3, 9, 5)),
    (lambda client: client.region_info(0), struct.pack("=IIIIQQ", 32, 3, 0, 0, 4096, 0)),
    (lambda client: client.irq_info(1), struct.pack("=IIII", 16, 9, 1, 1)),
    (lambda client: client.set_irqs(0x21, 1, 0, 0), b""),
    (lambda client: client.region_read(0, 0, 4), struct.pack("=QII", 0, 0, 4) + b"data"),
    (lambda client: client.region_write(0, 0, b"data"), struct.pack("=QII", 0, 0, 4)),
    (lambda client: client.dma_map(0, PAGE, 3), b""),
    (lambda client: client.dma_unmap(0, PAGE), struct.pack("=IIQQ", 24, 0, 0, PAGE)),
    (lambda client: client.reset(), b""),
    (lambda client: client.feature(0x10001, room=8), struct.pack("=IIQ", 16, 0x10001, 1)),
    (lambda client: client.migration_read(4), struct.pack("=II", 12, 4) + b"data"),
    (lambda client: client.migration_write(b"data"), b""),
]


class Liar:
    """A server with mutated answers.

    Each is followed by a right one, so that the client does not have to wait for its timeout.
    """

    def __init__(self, path: Path, choose: random.Random) -> None:
        self._choose = choose
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self.answer = b""
        self.said = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listening.accept()
                with connected, contextlib.suppress(ConnectionError):
                    self._lie(connected)

    def _lie(self, connected: socket.socket) -> None:
        while data := connected.recv(1 << 16):
            if len(data) < 16:
                return
            number, command, _, flags, _ = HEADER.unpack_from(data)
            if flags & 1:
                continue  # an answer to a DMA_READ, into which an answer was mutated
            body = VERSION if command == 1 else self.answer
            right = HEADER.pack(number, command, 16 + len(body), 1, 0) + body
            self.said += 1
            if command == 1 and self._choose.randrange(4):
                connected.sendall(right)
                continue
            fds = [self._listening.fileno()] * self._choose.choice((0, 0, 0, 0, 1, 2, 17))
            socket.send_fds(connected, [mutated(right, self._choose)], fds)
            connected.sendall(right)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(60)


def attack_client(count: int, choose: random.Random) -> None:
    """Answer a client with mutated messages."""
    with tempfile.TemporaryDirectory() as folder:
        liar = Liar(Path(folder, "socket"), choose)
        client: vfio_user.Client | None = None
        fds = kib = clients = 0
        measured = False
        while liar.said < count:
            if not measured and liar.said >= min(WARM_UP, count // 2):
                measured = True
                fds, kib = descriptors(), memory()
            try:
                if client is None or client.gone:
                    clients += 1
                    client = vfio_user.Client(Path(folder, "socket"), read=_no_read, write=_no_write, timeout=0.02)
                call, liar.answer = choose.choice(ASKED)
                call(client)
            except OSError:
                if client is not None and choose.randrange(2):
                    client.close()
        if client is not None:
            client.close()
        liar.close()
        check(f"client: {liar.said} answers, {clients} connections", fds, kib)


def main(count: int, seed: int) -> None:
    """Attack both sides."""
    attack_server(count // 2, random.Random(seed))
    attack_client(count // 2, random.Random(seed))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
