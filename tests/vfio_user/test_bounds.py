# SPDX-License-Identifier: MIT
"""Time limits of a client: servers that are slow, stop answering, or stop inside a message.

Also a parent's connection in a forked child.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyvfio
from pyvfio import mock, vfio_user
from pyvfio.vfio_user.connection import limit
from pyvfio.vfio_user.protocol import Message
from pyvfio.vfio_user.remote import ADDRESS
from tests.vfio_user.conftest import Adder, Serve

#: Timeout of the clients in seconds, and the time that several timeouts may take on a busy host.
TIMEOUT, SOON = 0.2, 60.0

Client = Callable[..., vfio_user.Client]


@pytest.fixture
def connect() -> Iterator[Client]:
    """A function that connects a client without memory and with a short timeout."""
    made: list[vfio_user.Client] = []

    def start(path: Path, timeout: float = TIMEOUT) -> vfio_user.Client:
        client = vfio_user.Client(path, read=lambda _, size: bytes(size), write=lambda _, __: None, timeout=timeout)
        made.append(client)
        return client

    yield start
    for client in made:
        client.close()


class Slow(Adder):
    """A model whose register 0x40 returns from a read only after `go` is set."""

    def __init__(self, kernel: mock.Kernel, name: str) -> None:
        super().__init__(kernel, name)
        self.asked, self.go = threading.Event(), threading.Event()

    def read(self, bar: int, offset: int, width: int) -> int:
        if offset == 0x40:
            self.asked.set()
            assert self.go.wait(60)
        return super().read(bar, offset, width)


def test_a_slow_server_does_not_stop_other_devices(serve: Serve) -> None:
    served = serve(Slow)
    kernel = vfio_user.RemoteKernel(served.path, timeout=60)
    with pyvfio.open(ADDRESS, kernel=kernel) as device, pyvfio.host.bind("0000:00:03.0", "vfio-pci", kernel=kernel):
        reading = threading.Thread(target=device.regions[0].read32, args=(0x40,))
        reading.start()
        assert served.device.asked.wait(60)
        with pyvfio.open("0000:00:03.0", kernel=kernel) as other:
            assert other.regions[0].read32(0) == 0x010000ED
            other.address_space.alloc(4096)
        assert reading.is_alive()
        served.device.go.set()
        reading.join(60)
        assert not reading.is_alive()


@contextlib.contextmanager
def relay(path: Path, behind: Path, count: int, *, half: bool = False, deaf: bool = False) -> Iterator[None]:
    """Relay a connection from `path` to the server at `behind` for `count` answers, and then stop forwarding.

    :param half: stop in the middle of an answer
    :param deaf: also stop receiving
    """
    ended = threading.Event()

    def carry(client: socket.socket) -> None:
        left = count
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(behind))
            while data := client.recv(1 << 16):
                if not left:
                    if deaf:
                        ended.wait(60)
                    continue
                server.sendall(data)
                answer, fds, _, _ = socket.recv_fds(server, 1 << 16, 16)
                for fd in fds:
                    os.close(fd)
                left -= 1
                client.sendall(answer if left or not half else answer[: len(answer) // 2])

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def run() -> None:
            with contextlib.suppress(OSError):
                carry(listening.accept()[0])

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(60)


def read_for_ever(path: Path) -> None:
    """Open a server's device, and read a register until that fails."""
    kernel = vfio_user.RemoteKernel(path, timeout=TIMEOUT)
    with pyvfio.open(ADDRESS, kernel=kernel) as device:
        while True:
            device.regions[0].read32(0)


def write_for_ever(client: vfio_user.Client) -> None:
    """Send large messages until that fails."""
    while True:
        client.call(vfio_user.Command.REGION_WRITE, bytes(1 << 20))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 12, 17, 20])
def test_a_server_that_stops_answering_is_an_error_in_time(
    serve: Serve, tmp_path: Path, count: int, half: bool
) -> None:
    behind = serve().path
    began = time.monotonic()
    with relay(tmp_path / "relay", behind, count, half=half):
        with pytest.raises(OSError, match=ADDRESS + "|vfio-user") as caught:
            read_for_ever(tmp_path / "relay")
        assert caught.value.errno in (errno.ETIMEDOUT, errno.ENODEV)
    assert time.monotonic() - began < SOON


def test_a_server_that_accepts_nobody_is_an_error_in_time(tmp_path: Path, connect: Client) -> None:
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(tmp_path / "full"))
        listening.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:  # until the listening socket's queue is full
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(tmp_path / "full"))
        with pytest.raises(OSError, match="full") as caught:
            connect(tmp_path / "full")
        assert caught.value.errno == errno.ETIMEDOUT


def test_a_server_that_does_not_receive_is_an_error_in_time(serve: Serve, tmp_path: Path, connect: Client) -> None:
    behind = serve().path
    with relay(tmp_path / "relay", behind, 1, deaf=True):
        # Use a long timeout for the negotiation of the version, which may be slow on a busy host.
        client = connect(tmp_path / "relay", timeout=60)
        client._timeout = client._connection._timeout = TIMEOUT
        limit(client._connection._socket, TIMEOUT)
        began = time.monotonic()
        with pytest.raises(OSError, match="vfio-user") as caught:
            write_for_ever(client)
        client.close()
        assert caught.value.errno in (errno.ETIMEDOUT, errno.ENODEV)
        assert time.monotonic() - began < SOON


def test_a_message_that_drips_is_an_error_in_time(tmp_path: Path, connect: Client) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "drip"))
        listening.listen()

        def drip() -> None:
            with contextlib.suppress(OSError), listening.accept()[0] as client:
                while True:
                    client.sendall(b"\x01")
                    time.sleep(TIMEOUT / 10)

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(OSError, match="VERSION"):
            connect(tmp_path / "drip")
        thread.join(60)
        assert not thread.is_alive()


def test_a_forked_child_sends_nothing_and_the_parent_goes_on(serve: Serve) -> None:
    received: list[Message] = []

    def observe(sent: bool, message: Message) -> None:
        if not sent:
            received.append(message)

    served = serve(observe=observe)
    kernel = vfio_user.RemoteKernel(served.path)
    with pyvfio.open(ADDRESS, kernel=kernel) as device:
        remote = kernel.devices[ADDRESS]
        assert isinstance(remote, vfio_user.RemoteDevice)
        client = remote._live()
        device.regions[0].write32(0x20, 7)
        before = len(received)
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                code = count_calls_that_do_not_raise(device, client)
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(received) == before
        assert device.regions[0].read32(0x20) == 7
    with pyvfio.open(f"vfio-user:{served.path}") as again:  # the server saw the end of the first connection
        assert again.config.read16(0) == 0x1234


def count_calls_that_do_not_raise(device: pyvfio.Device, client: vfio_user.Client) -> int:
    """Make every call in a forked child, close, and return the number of calls that do not raise."""
    count = 0
    for call in (
        client.info,
        lambda: client.region_info(0),
        lambda: client.irq_info(0),
        lambda: client.set_irqs(0x21, 0, 0, 0),
        lambda: client.region_read(0, 0, 4),
        lambda: client.region_write(0, 0, b"1234"),
        lambda: client.dma_map(0, 4096, 3),
        lambda: client.dma_unmap(0, 4096),
        client.reset,
        lambda: client.feature(0),
        lambda: client.migration_read(1),
        lambda: client.migration_write(b"1"),
        lambda: device.regions[0].read32(0),
        device.reset,
    ):
        try:
            call()
        except pyvfio.Error:
            continue
        count += 1
    client.close()
    device.close()
    return count


def test_a_servers_forked_child_leaves_socket_and_client(serve: Serve) -> None:
    served = serve()
    with pyvfio.open(f"vfio-user:{served.path}") as device:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                served.server.close()
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert served.path.exists()
        assert device.config.read16(0) == 0x1234


def test_opening_by_a_kernel_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvfio.spaces.opening.resolve", lambda _: mock.Kernel("amd"))
    with pytest.raises(pyvfio.InvalidRequest, match="no device of that name"):
        pyvfio.open("vfio-user:somewhere")
