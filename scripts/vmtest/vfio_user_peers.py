# SPDX-License-Identifier: MIT
"""Test pyvfio.vfio_user against libvfio-user's samples: scripts/vfio_user_peers."""

from __future__ import annotations

import argparse
import contextlib
import errno
import mmap
import os
import select
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyvfio
from pyvfio import mock, vfio_user
from pyvfio._abi import lib
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.profile import LogLimits
from pyvfio.mock.vfio.log import Log
from pyvfio.mock.vfio.region import MMAP, Area, Region
from pyvfio.vfio_user.recording import Recorder
from pyvfio.vfio_user.remote import ADDRESS

PAGE = 4096
#: Timeout in seconds. libvfio-user's client waits for a timer of ten seconds to expire.
LIMIT = 60.0
SCRIPT = Path(__file__).resolve().parents[1] / "vfio_user_peers"


class _Stream:
    """Migration data: the time in BAR0, then the contents of BAR1."""

    def __init__(self, device: Sample) -> None:
        self._device = device
        self._data = device.written.to_bytes(8, "little") + bytes(device.memory(1))
        self._received = b""

    def read(self, size: int) -> bytes:
        part, self._data = self._data[:size], self._data[size:]
        return part

    def write(self, data: bytes) -> int:
        self._received += data
        return len(data)

    def load(self) -> None:
        """Load the received data into the device."""
        self._device.written = int.from_bytes(self._received[:8], "little")
        memory = self._received[8:][: self._device.region(1).size]
        self._device.memory(1)[: len(memory)] = memory


class _Migration:
    """Migration states. Every state can be set directly, without intermediate states, as samples/client does."""

    flags = lib.VFIO_MIGRATION_STOP_COPY | lib.VFIO_MIGRATION_PRE_COPY

    def __init__(self, device: Sample) -> None:
        self._device = device
        self._state: int = lib.VFIO_DEVICE_STATE_RUNNING
        self._stream: _Stream | None = None

    def get_state(self) -> int:
        return self._state

    def set_state(self, wanted: int) -> _Stream | None:
        if self._state == lib.VFIO_DEVICE_STATE_RESUMING and self._stream is not None:
            self._stream.load()
        self._state = wanted
        states = (lib.VFIO_DEVICE_STATE_PRE_COPY, lib.VFIO_DEVICE_STATE_STOP_COPY, lib.VFIO_DEVICE_STATE_RESUMING)
        self._stream = _Stream(self._device) if wanted in states else None
        self._device.arm(running=wanted == lib.VFIO_DEVICE_STATE_RUNNING)
        return self._stream

    def close(self) -> None:
        self._stream = None


class Sample(mock.Device):
    """A model of the device that libvfio-user's samples/client expects.

    BAR0 takes a time in seconds since 1970. At that time the device interrupts by INTx, writes and reads the client's
    second DMA mapping directly, and the first by messages. BAR1 is memory; its first and third page can be mapped.
    """

    function = mock.Function(
        (0xDEAD, 0xBEEF),
        subsystem=(0xCAFE, 0xBABE),
        bars={0: mock.Bar(16), 1: mock.Bar(4 * PAGE, memory=True)},
        intx=True,
        resets=True,
    )

    def __init__(self, kernel: mock.Kernel, name: str) -> None:
        super().__init__(kernel, name)
        self.written = 0
        self._timer: threading.Timer | None = None
        self.migration: Any = _Migration(self)
        self.log = Log(LogLimits(log2_size_max=64))

    def power_on(self) -> None:
        """Do nothing: a reset keeps the whole state."""

    @property
    def bus_master(self) -> bool:
        """Always True: samples/client sets no bit of the command register."""
        return True

    def region(self, index: int) -> Region:
        region = super().region(index)
        if index != 1:
            return region
        return Region(region.size, region.flags | MMAP, (Area(0, PAGE), Area(2 * PAGE, PAGE)))

    def read(self, bar: int, offset: int, width: int) -> int:
        if bar == 0:
            return int(time.time() - self.written) % int(256**width)
        return super().read(bar, offset, width)

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        if bar == 0:
            self.written = value
            self.arm(running=self.migration.get_state() == lib.VFIO_DEVICE_STATE_RUNNING)
        else:
            super().write(bar, offset, width, value)

    def arm(self, *, running: bool) -> None:
        """Start the timer if the device is running and a time was written; otherwise stop it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if running and self.written:
            self._timer = threading.Timer(max(self.written - time.time(), 0), self._expired)
            self._timer.daemon = True
            self._timer.start()

    def _expired(self) -> None:
        with self.kernel.lock, contextlib.suppress(Errno):
            self.interrupt()
            space: Any = self.space
            if space is None:
                return
            (by_messages, _), (direct, _), *_ = space.writable()
            data = b"".join(bytes([letter]) * 1024 for letter in b"ABCD")
            self.dma_write(direct, data)
            assert self.dma_read(direct, len(data)) == data
            space.messages.write(by_messages, data)
            assert space.messages.read(by_messages, len(data)) == data


# --- libvfio-user's server, pyvfio's client -----------------------------------------------------------------------------


@contextlib.contextmanager
def running(*command: str | Path, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a sample, wait for its socket, and end it after the block.

    :raises AssertionError: the sample ended by itself; the text has its output
    """
    with subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            limit = time.monotonic() + LIMIT
            while not path.exists():
                if server.poll() is not None:
                    assert server.stdout is not None
                    raise AssertionError(f"it ended by itself: {server.stdout.read().strip()}")
                assert time.monotonic() < limit, "it does not listen"
                time.sleep(0.01)
            try:
                yield server
            except OSError as error:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(1)
                    assert server.stdout is not None
                    raise AssertionError(f"it ended by itself: {server.stdout.read().strip()}") from error
                raise
        finally:
            server.kill()


def check_gpio(folder: Path, scratch: Path, _: Recorder | None) -> None:
    """Test samples/gpio-pci-idio-16 with pyvfio.open: configuration space, pins, a DMA mapping, INTx."""
    path = scratch / "gpio"
    with running(folder / "gpio-pci-idio-16", path, path=path):
        for _again in range(2):  # after one client the server accepts the next
            with pyvfio.open(ADDRESS, kernel=vfio_user.RemoteKernel(path)) as device:
                assert (device.config.read16(0), device.config.read16(2)) == (0x494F, 0x0DC8)
                assert device.regions[2].size == 0x100
                assert device.regions[2].read8(0x1) in range(256)
                device.regions[2].write8(0x0, 0xFF)
                device.address_space.alloc(PAGE)
                (vector,) = device.irqs.intx.enable()
                del vector
                assert device.irqs.intx.count == 1


def check_null(folder: Path, scratch: Path, _: Recorder | None) -> None:
    """Test samples/null, a device without regions, interrupts, reset and DMA."""
    path = scratch / "null"
    with (
        running(folder / "null", path, path=path),
        pyvfio.open(ADDRESS, kernel=vfio_user.RemoteKernel(path)) as device,
    ):
        assert [region.size for region in device.regions][:7] == [0] * 7
        assert device.config.read16(0) == device.config.read16(0)
        assert [irq.count for irq in (device.irqs.intx, device.irqs.msi, device.irqs.msix)] == [0, 0, 0]


def check_server(folder: Path, scratch: Path, _: Recorder | None) -> None:
    """Test samples/server: device information, configuration space, reset, a timer's interrupt, DMA directly and by messages, an error."""
    path = scratch / "server"
    with running(folder / "server", "-v", path, path=path):
        memory = mmap.mmap(-1, 2 * PAGE)
        asked: list[int] = []

        def read(iova: int, size: int) -> bytes:
            return memory[iova : iova + size]

        def write(iova: int, data: bytes) -> None:
            asked.append(iova)
            memory[iova : iova + len(data)] = data

        client = vfio_user.Client(path, read=read, write=write)
        fd = os.memfd_create("guest")
        eventfd = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            os.truncate(fd, 2 * PAGE)
            flags, regions, irqs = client.info()
            assert (flags & lib.VFIO_DEVICE_FLAGS_PCI, regions, irqs) == (lib.VFIO_DEVICE_FLAGS_PCI, 9, 5)
            assert client.region_read(7, 0, 4) == bytes.fromhex("addeefbe")
            client.reset()
            for page in range(2):
                client.dma_map(page * PAGE, PAGE, 3, page * PAGE, fd)
            client.set_irqs(lib.VFIO_IRQ_SET_DATA_EVENTFD | lib.VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, 1, fds=[eventfd])
            client.region_write(0, 0, (int(time.time()) + 1).to_bytes(8, "little"))
            assert select.select([eventfd], [], [], LIMIT)[0], "no interrupt"
            limit = time.monotonic() + LIMIT
            while len(asked) < 4 or memory[3 * 1024 : PAGE] != b"D" * 1024:
                assert time.monotonic() < limit, f"no DMA by messages: {asked}"
                time.sleep(0.01)
            with mmap.mmap(fd, 2 * PAGE) as shared:
                assert shared[PAGE : PAGE + 1024] == b"A" * 1024
            error = 0
            try:
                client.region_read(0xDEADBEEF, 0, 4)
            except OSError as caught:
                error = caught.errno or 0
            assert error == errno.EINVAL
        finally:
            client.close()
            os.close(fd)
            os.close(eventfd)


# --- libvfio-user's client, pyvfio's server -----------------------------------------------------------------------------


def check_client(folder: Path, scratch: Path, recorder: Recorder | None) -> None:
    """Test samples/client.

    It starts `server` beside itself as the target of its migration: here a script that runs pyvfio's server.
    """
    path = scratch / "sample"
    (scratch / "client").symlink_to((folder / "client").resolve())
    program = scratch / "server"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(SCRIPT))} --serve "$2"\n')
    program.chmod(0o755)
    server = vfio_user.Server(Sample, path, observe=recorder)

    def serve() -> None:
        with contextlib.suppress(OSError):
            server.serve_one()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        done = subprocess.run(
            [str(scratch / "client"), str(path)], capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert done.returncode == 0, f"it returned {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"
    finally:
        server.close()
        thread.join()


def serve_migrated(path: str) -> int:
    """Serve samples/client as the target of its migration, and return the exit code of the client.

    samples/client forks, and its parent process becomes this program. So the client is this process's child.
    """
    with vfio_user.Server(Sample, path) as server:
        server.serve_one()
    _, status = os.wait()
    return os.waitstatus_to_exitcode(status)


#: The check for each sample.
CHECKS: dict[str, Callable[[Path, Path, Recorder | None], None]] = {
    "gpio-pci-idio-16": check_gpio,
    "null": check_null,
    "server": check_server,
    "client": check_client,
}


def _there(folder: Path) -> list[str]:
    return [name for name in CHECKS if os.path.isfile(folder / name) and os.access(folder / name, os.X_OK)]


def _samples(folder: Path) -> Path:
    """Return the folder with the samples: the given one, or that of a build in it."""
    places = [folder, folder / "samples", *sorted(folder.glob("build/*/samples"))]
    return next((place for place in places if _there(place)), folder)


def main(arguments: list[str] | None = None) -> int:
    """Test with the samples in the command line's folder, and return the exit code."""
    parser = argparse.ArgumentParser(description="Try pyvfio's vfio-user with libvfio-user's samples, both ways.")
    parser.add_argument("--record", metavar="DIR", type=Path, help="write all messages there")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    given = parser.parse_args(arguments)
    if given.serve:
        return serve_migrated(str(given.folder))
    folder = _samples(given.folder)
    there = _there(folder)
    if not there:
        print(f"{given.folder}: none of the samples is there: {', '.join(CHECKS)}", file=sys.stderr)
        return 3
    failed = 0
    for name in there:
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyvfio-peers-")))
            recorder = None
            if given.record:
                given.record.mkdir(parents=True, exist_ok=True)
                recorder = Recorder(stack.enter_context((given.record / f"{name}.json").open("w")))
            try:
                CHECKS[name](folder, scratch, recorder)
            except (OSError, AssertionError, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"{name}: FAILED: {error}")
            else:
                print(f"{name}: agrees")
    return 1 if failed else 0
