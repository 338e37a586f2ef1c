# SPDX-License-Identifier: MIT
"""A vfio-user server's device in pyvfio: the mock provides groups, modes and errors, the server registers and interrupts."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from examples.edu import Edu

import pyvfio
from pyvfio import mock, vfio_user
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.region import Region
from pyvfio.region import Area
from pyvfio.spaces.opening import Mode
from pyvfio.vfio_user.remote import ADDRESS, RemoteKernel
from tests.vfio_user.conftest import Adder, Peer, Serve

MODES: list[Mode] = ["type1", "type1v2", "iommufd-type1", "iommufd-type1v2", "iommufd"]

SERVER = """
import sys
from pyvfio import vfio_user
from tests.vfio_user.conftest import Adder
vfio_user.serve(Adder, sys.argv[1], ready=lambda: print("ready", flush=True))
"""


def add(device: pyvfio.Device, mapping: pyvfio.Mapping, values: list[int]) -> int:
    bar = device.regions[0]
    mapping.buffer.view[: 8 * len(values)] = struct.pack(f"<{len(values)}Q", *values)
    bar.write32(0x00, mapping.iova)
    bar.write32(0x18, mapping.iova + 0x800)
    bar.write32(0x08, len(values))
    return bar.read32(0x10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("share", [True, False])
def test_a_remote_device_is_driven_in_every_mode(serve: Serve, mode: Mode, share: bool) -> None:
    path = serve(share_memory=share).path
    with pyvfio.open(f"vfio-user:{path}", mode=mode) as device:
        mapping = device.address_space.alloc(4096)
        device.config.bus_master = True
        (vector,) = device.irqs.msi.enable()
        device.regions[0].write32(0x00, mapping.iova)
        device.regions[0].write32(0x18, mapping.iova + 0x800)
        mapping.buffer.view[:24] = struct.pack("<3Q", 1, 2, 3)
        device.regions[0].write32(0x08, 3)
        vector.wait(timeout=60)
        assert device.regions[0].read32(0x10) == 6
        assert struct.unpack_from("<Q", mapping.buffer.view, 0x800) == (6,)
        assert device.info.resettable
        device.reset()
        assert device.regions[0].read32(0x10) == 0


class Eager(Adder):
    """A model that accesses memory while its client asks for its regions, as a model with its own thread may do."""

    def region(self, index: int) -> Region:
        if self.space is not None:
            with pytest.raises(Errno) as refused:
                self.space.read(0x5000, 8)
            assert refused.value.number == errno.ENOENT
        return super().region(index)


def test_dma_before_the_device_is_plugged_in_is_refused(serve: Serve) -> None:
    with pyvfio.open(f"vfio-user:{serve(Eager, share_memory=False).path}") as device:
        assert device.config.read16(0) == 0x1234


def test_what_is_not_mapped_is_refused_and_counted(serve: Serve) -> None:
    kernel = vfio_user.RemoteKernel(serve().path)
    with pyvfio.open(ADDRESS, kernel=kernel) as device:
        device.config.bus_master = True
        (vector,) = device.irqs.msi.enable()
        device.regions[0].write32(0x00, 0x5000)
        device.regions[0].write32(0x18, 0x6000)
        device.regions[0].write32(0x08, 1)
        vector.wait(timeout=60)
    assert [(fault.iova, fault.write) for fault in kernel.faults] == [(0x5000, False), (0x6000, True)]


def test_a_program_that_does_not_know_runs_on_it(serve: Serve) -> None:
    program = "import pyvfio\nwith pyvfio.open('0000:00:0a.0') as d: print(hex(d.config.read16(2)))"
    environment = {**os.environ, "PYVFIO_KERNEL": f"vfio-user:{serve().path}"}
    printed = subprocess.check_output(
        [sys.executable, "-c", program], env=environment, text=True, stderr=subprocess.DEVNULL
    )
    assert printed == "0xadd0\n"


def test_another_client_can_come_when_the_device_is_closed(serve: Serve) -> None:
    path = serve().path
    for _ in range(3):
        with pyvfio.open(f"vfio-user:{path}") as device:
            assert device.config.read16(0) == 0x1234


def test_a_kernel_that_is_dropped_ends_its_connection(serve: Serve) -> None:
    """This happens when a signal handler raises while the device is opened.

    The server accepts only one client at a time.
    """
    path = serve().path
    before = set(threading.enumerate())  # threads of earlier clients may be about to end
    dropped = RemoteKernel(path)
    (thread,) = (one for one in set(threading.enumerate()) - before if one.name == "pyvfio.vfio_user: client")
    gone = weakref.ref(dropped)
    del dropped
    limit = time.monotonic() + 60
    while thread.is_alive() or gone() is not None:
        gc.collect()
        assert time.monotonic() < limit
    with pyvfio.open(f"vfio-user:{path}") as device:
        assert device.config.read16(0) == 0x1234


def test_registers_and_mapped_bars(serve: Serve) -> None:
    with pyvfio.open(f"vfio-user:{serve().path}") as device:
        assert [region.size for region in device.regions][:3] == [4096, 0, 1 << 16]
        with device.regions[2].mmap() as mapped:
            mapped.write32(0x200, 0x12345678)
            assert device.regions[2].read32(0x200) == mapped.read32(0x200) == 0x12345678
            with pytest.raises(pyvfio.InvalidRequest, match="no view"):
                _ = mapped.view
        device.regions[2].write(0x100, b"0123456789")
        assert device.regions[2].read(0x100, 10) == b"0123456789"
        with pytest.raises(pyvfio.InvalidRequest, match="outside"):
            device.regions[0].read32(4096)


@pytest.mark.parametrize("path", ["", "/nonexistent/socket"])
def test_a_server_that_is_not_there_is_an_error(path: str) -> None:
    with pytest.raises((OSError, ValueError), match="vfio-user"):
        pyvfio.open(f"vfio-user:{path}")


def test_an_eventfd_stores_in_a_remote_register(serve: Serve) -> None:
    with pyvfio.open(f"vfio-user:{serve().path}") as device:
        eventfd = os.eventfd(0)
        device.regions[0].add_ioeventfd(eventfd, 0x40, 4, 0x1234)
        os.eventfd_write(eventfd, 1)
        limit = time.monotonic() + 30
        while device.regions[0].read32(0x40) != 0x1234:
            assert time.monotonic() < limit
        device.regions[0].remove_ioeventfd(0x40, 4, 0x1234)
        os.close(eventfd)


def test_bus_master_is_off_when_the_device_is_opened(serve: Serve) -> None:
    path = serve().path
    for _ in range(2):
        with pyvfio.open(f"vfio-user:{path}") as device:
            assert not device.config.bus_master
            device.config.bus_master = True


def test_a_server_that_is_killed_is_enodev_and_closing_works(tmp_path: Path) -> None:
    path = tmp_path / "adder"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", SERVER, str(path)], stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        # If a call waited for an answer, it would end with ETIMEDOUT after longer than a test may take.
        device = pyvfio.open(ADDRESS, kernel=RemoteKernel(path, timeout=1000))
        device.config.bus_master = True
        mapping = device.address_space.alloc(4096)
        assert add(device, mapping, [1, 2, 3]) in (0, 6)
        server.kill()
        server.wait()
        with pytest.raises(OSError) as caught:
            device.regions[0].read32(0)
        assert caught.value.errno == errno.ENODEV
        device.close()


def test_a_server_that_does_not_answer_is_a_timeout(tmp_path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "mute"))
    listening.listen()
    accepted: list[socket.socket] = []
    thread = threading.Thread(target=lambda: accepted.append(listening.accept()[0]))
    thread.start()
    with pytest.raises(OSError) as caught:
        vfio_user.Client(tmp_path / "mute", read=lambda _, size: bytes(size), write=lambda _, __: None, timeout=0.1)
    assert caught.value.errno == errno.ETIMEDOUT
    thread.join()
    for each in (listening, *accepted):
        each.close()


def test_a_driver_of_the_examples_runs_unchanged(tmp_path: Path) -> None:
    kernel = mock.Kernel("intel-57")
    server = vfio_user.Server(kernel.devices["0000:00:03.0"], tmp_path / "edu", share_memory=False)

    def run() -> None:
        with contextlib.suppress(OSError):
            server.serve_one()

    thread = threading.Thread(target=run)
    thread.start()
    with pyvfio.open(f"vfio-user:{tmp_path / 'edu'}") as device:
        mapping = device.address_space.alloc(1 << 16, 0x100000)
        mapping.buffer.view[:6000] = os.urandom(6000)
        with Edu(device) as edu:
            assert edu.factorial(5) == 120
            edu.copy(mapping.iova + 0x8000, mapping.iova, 4096)
        assert mapping.buffer.view[0x8000:0x9000] == mapping.buffer.view[:0x1000]
    thread.join(60)
    server.close()


def test_the_model_may_be_a_class(tmp_path: Path) -> None:
    with vfio_user.Server(Adder, tmp_path / "adder") as server:
        assert isinstance(server.model, Adder)


def test_closing_does_not_connect_to_a_server_that_was_restarted(serve: Serve) -> None:
    served = serve()
    # If a call waited for the other client to end, it would wait longer than a test may take.
    device = pyvfio.open(ADDRESS, kernel=RemoteKernel(served.path, timeout=1000))
    served.server._session.connection.close()  # type: ignore[union-attr]  # as a server that ends does
    with pytest.raises(OSError) as caught:
        device.config.read16(0)
    assert caught.value.errno == errno.ENODEV
    other = Peer(served.path)  # the one client that is served now
    with pytest.raises(OSError, match=r"(?i)reset"):
        device.reset()
    device.close()
    other.close()


@pytest.mark.parametrize(
    ("command", "at", "state", "reachable"),
    [(2, 0x40, 0, True), (0, 0x40, 0, False), (2, 0x40, 3, False), (2, 0xF8, 3, False), (2, 0xFC, 3, True)],
    ids=["on", "memory off", "D3hot", "D3hot, last capability", "truncated capability"],
)
def test_a_dma_buf_follows_the_servers_command_register_and_power_state(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, command: int, at: int, state: int, reachable: bool
) -> None:
    with pyvfio.open(f"vfio-user:{serve().path}", mode="iommufd") as device:
        exported = device.regions[0].dma_buf([Area(0, 4096)])
        config = bytearray(256)
        config[4], config[6], config[0x34], config[at] = command, 0x10, at, 1
        if at + 4 < 256:
            config[at + 4] = state
        monkeypatch.setattr(vfio_user.Client, "region_read", lambda *_: bytes(config))
        device.config.write16(4, command)
        try:
            device.address_space.map_file(exported.fileno(), 0, 4096, 0x100_0000).unmap()
            found = True
        except pyvfio.RequestError:
            found = False
    assert found == reachable
