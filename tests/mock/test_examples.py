# SPDX-License-Identifier: MIT
"""The drivers of scripts/examples, on devices made for the mock: as much of them as the drivers ask for."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from examples.e1000e import E1000e
from examples.nvme import Nvme, exercise

import pyvfio
from pyvfio import Device, mock

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
ADDRESS = "0000:00:0a.0"
PAGE = 4096
BLOCK, BLOCKS = 512, 4096
pytestmark = pytest.mark.vfio(profile="amd")


class NvmeDevice(mock.Device):
    """Every command is done when its doorbell is rung; IDENTIFY says what the driver looks at."""

    function = mock.Function((0x1234, 0x0010), 0x010802, bars={0: mock.Bar(8192), 4: mock.Bar(4096)}, msix=4)

    def __init__(self, kernel: mock.Kernel, name: str, **more: Any) -> None:
        super().__init__(kernel, name, **more)
        self.disk = bytearray(BLOCK * BLOCKS)
        self._start()

    def _start(self) -> None:
        # Number -> IOVA of the submissions, where to read next; IOVA of the completions, where to write next, phase, vector.
        self.submissions: dict[int, list[int]] = {}
        self.completions: dict[int, list[int]] = {}
        self.entries: dict[int, int] = {}

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        super().write(bar, offset, width, value)
        if offset == 0x14:
            self._start()
            super().write(0, 0x1C, 4, value & 1)
            if value & 1:
                self.submissions[0] = [self.read(0, 0x28, 8), 0]
                self.completions[0] = [self.read(0, 0x30, 8), 0, 1, 0]
                self.entries[0] = (self.read(0, 0x24, 4) & 0xFFF) + 1
        elif offset >= 0x1000 and offset & 4 == 0:
            self._work_off(offset - 0x1000 >> 3, value)

    def _work_off(self, number: int, tail: int) -> None:
        queue = self.submissions[number]
        while queue[1] != tail:
            command = struct.unpack("<IIQQQQ6I", self.dma_read(queue[0] + 64 * queue[1], 64))
            queue[1] = (queue[1] + 1) % self.entries[number]
            status = self._do(number, command[0] & 0xFF, command[1], command[4], command[5], command[6:])
            done = self.completions[number]
            entry = struct.pack("<IIHHHH", 0, 0, queue[1], number, command[0] >> 16, status << 1 | done[2])
            self.dma_write(done[0] + 16 * done[1], entry)
            done[1] = (done[1] + 1) % self.entries[number]
            done[2] ^= done[1] == 0
            if done[3] >= 0:
                self.interrupt(done[3])

    def _do(self, queue: int, opcode: int, namespace: int, first: int, second: int, words: tuple[int, ...]) -> int:
        if queue == 0 and opcode == 6:
            data = bytearray(PAGE)
            if words[0] == 1:
                data[4:24], data[24:64], data[64:72] = b"x" * 20, b"A disk".ljust(40), b"1".ljust(8)
                data[77], data[516] = 5, 1
            else:
                data[:8], data[26], data[134] = BLOCKS.to_bytes(8, "little"), 1, 9
            self.dma_write(first, bytes(data))
        elif queue == 0 and opcode == 5:
            number = words[0] & 0xFFFF
            self.completions[number] = [first, 0, 1, words[1] >> 16 if words[1] & 2 else -1]
            self.entries[number] = (words[0] >> 16) + 1
        elif queue == 0 and opcode == 1:
            self.submissions[words[0] & 0xFFFF] = [first, 0]
        elif opcode in (1, 2):
            block, count = words[0] | words[1] << 32, (words[2] & 0xFFFF) + 1
            if block + count > BLOCKS:
                return 0x80
            for at, iova, size in self._pieces(first, second, count * BLOCK):
                there = slice(block * BLOCK + at, block * BLOCK + at + size)
                if opcode == 1:
                    self.disk[there] = self.dma_read(iova, size)
                else:
                    self.dma_write(iova, bytes(self.disk[there]))
        else:
            return 1
        return 0

    def _pieces(self, first: int, second: int, size: int) -> Iterator[tuple[int, int, int]]:
        """(offset, IOVA, size) of each piece of the data, page by page as PRP entries have it."""
        at = min(size, PAGE - first % PAGE)
        yield 0, first, at
        rest = -(-(size - at) // PAGE)
        pages = [second][:rest] if rest < 2 else struct.unpack(f"<{rest}Q", self.dma_read(second, 8 * rest))
        for page in pages:
            yield at, page, min(PAGE, size - at)
            at += PAGE


class NetworkCard(mock.Device):
    """As QEMU 7.2's: a reset leaves the heads of the rings where they are; sent with loopback, a frame is received at once."""

    function = mock.Function((0x8086, 0x10D3), 0x020000, bars={0: mock.Bar(1 << 17)}, msi=1)
    mac = bytes.fromhex("525400123456")

    def __init__(self, kernel: mock.Kernel, name: str, **more: Any) -> None:
        super().__init__(kernel, name, **more)
        self.frame = b""
        super().write(0, 0x0008, 4, 2)
        super().write(0, 0x5400, 4, int.from_bytes(self.mac[:4], "little"))
        super().write(0, 0x5404, 4, 1 << 31 | int.from_bytes(self.mac[4:], "little"))

    def read(self, bar: int, offset: int, width: int) -> int:
        value = super().read(bar, offset, width)
        if offset == 0x00C0:
            super().write(bar, offset, width, 0)
        return value

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        if offset == 0x00D8:
            value, offset = self.read(0, 0x00D0, 4) & ~value, 0x00D0
        super().write(bar, offset, width, value & ~(1 << 26) if offset == 0 else value)
        if offset == 0x3818 and self.read(0, 0x0400, 4) & 2:
            while (head := self.read(0, 0x3810, 4)) != value:
                self._send(self.read(0, 0x3800, 8) + 16 * head)
                super().write(0, 0x3810, 4, (head + 1) % (self.read(0, 0x3808, 4) // 16))

    def _send(self, descriptor: int) -> None:
        iova, length, _, command, _, _, _ = struct.unpack("<QHBBBBH", self.dma_read(descriptor, 16))
        self.frame += self.dma_read(iova, length)
        if command & 1:
            frame, self.frame = self.frame, b""
            control = self.read(0, 0x0100, 4)
            if control & 0x42 == 0x42 and control >> 16 & 3 == 3 and frame[:6] == self.mac:
                self._receive(frame)

    def _receive(self, frame: bytes) -> None:
        base, entries, tail = self.read(0, 0x2800, 8), self.read(0, 0x2808, 4) // 16, self.read(0, 0x2818, 4)
        head = self.read(0, 0x2810, 4)
        if (tail - head) % entries * 256 < len(frame):
            return
        for at in range(0, len(frame), 256):
            piece = frame[at : at + 256]
            (iova,) = struct.unpack("<Q", self.dma_read(base + 16 * head, 8))
            self.dma_write(iova, piece)
            status = 1 | (2 if at + 256 >= len(frame) else 0)
            self.dma_write(base + 16 * head + 8, struct.pack("<HHBBH", len(piece), 0, status, 0, 0))
            head = (head + 1) % entries
        super().write(0, 0x2810, 4, head)
        super().write(0, 0x00C0, 4, 1 << 7)
        if self.read(0, 0x00D0, 4) & 1 << 7:
            self.interrupt()


# --- nvme ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(kernel: mock.Kernel) -> Iterator[Device]:
    NvmeDevice(kernel, ADDRESS, driver="vfio-pci")
    with pyvfio.open(ADDRESS, kernel=kernel) as device:
        yield device


@pytest.mark.parametrize("interrupt", [False, True], ids=["polling", "by MSI-X"])
def test_nvme_reads_what_was_written(kernel: mock.Kernel, disk: Device, interrupt: bool) -> None:
    with Nvme(disk) as nvme:
        assert nvme.controller() == ("x" * 20, "A disk", "1", 1, 1 << 17)
        namespace = nvme.namespace(1, disk.irqs.msix.enable([1])[0] if interrupt else None)
        assert (namespace.blocks, namespace.block_size) == (BLOCKS, BLOCK)
        assert 100 < exercise(namespace, disk, 300, area=1 << 18, most=64) < 200
        assert namespace.queue.interrupts == (304 if interrupt else 0)
        with pytest.raises(OSError, match="queue 1, opcode 2: status 0x80"):
            namespace.read(BLOCKS, 0x10000)
    assert kernel.faults == []
    assert disk.address_space.mappings == []
    assert not disk.config.bus_master


@pytest.mark.parametrize(
    ("offset", "blocks"), [(0, 1), (3584, 1), (3584, 2), (512, 8), (512, 15), (512, 16), (4, 16), (0, 17), (2048, 256)]
)
def test_nvme_names_its_data_page_by_page(kernel: mock.Kernel, disk: Device, offset: int, blocks: int) -> None:
    size = blocks * BLOCK
    mapping = disk.address_space.alloc(size + PAGE)
    mapping.buffer.view[offset : offset + size] = data = os.urandom(size)
    with Nvme(disk) as nvme:
        namespace = nvme.namespace()
        namespace.write(7, mapping.iova + offset, blocks)
        device = kernel.devices[ADDRESS]
        assert isinstance(device, NvmeDevice)
        assert device.disk[7 * BLOCK : 7 * BLOCK + size] == data
        mapping.buffer.view[:] = bytes(mapping.size)
        namespace.read(7, mapping.iova + offset, blocks)
    assert mapping.buffer.view[offset : offset + size] == data
    assert not any(mapping.buffer.view[:offset])
    assert not any(mapping.buffer.view[offset + size :])
    assert kernel.faults == []


# --- e1000e -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def card(kernel: mock.Kernel) -> Iterator[Device]:
    NetworkCard(kernel, ADDRESS, driver="vfio-pci")
    with pyvfio.open(ADDRESS, kernel=kernel) as device:
        yield device


@pytest.mark.parametrize("interrupt", [False, True], ids=["looking", "by MSI"])
def test_e1000e_copies_by_frames_to_itself(kernel: mock.Kernel, card: Device, interrupt: bool) -> None:
    mapping = card.address_space.alloc(1 << 18)
    view = mapping.buffer.view
    for size in (1 << 17, 5000, 1):
        view[:size] = os.urandom(size)
        # A start finds the rings where the one before left them.
        with E1000e(card, interrupt=interrupt) as nic:
            assert nic.mac == NetworkCard.mac
            nic.copy(mapping.iova + (1 << 17), mapping.iova, size)
        assert view[1 << 17 : (1 << 17) + size] == view[:size]
        card.irqs.msi.disable()
    assert kernel.faults == []
    assert card.address_space.mappings == [mapping]
    assert not card.config.bus_master


def test_e1000e_says_when_no_frame_comes_and_goes_on(card: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    from examples import e1000e

    monkeypatch.setattr(e1000e, "LIMIT", 0.05)
    mapping = card.address_space.alloc(2 * PAGE)
    view = mapping.buffer.view
    with E1000e(card) as nic:
        nic.offer(mapping.iova)
        with pytest.raises(TimeoutError, match="no frame within"):
            nic.receive()
        view[:PAGE] = os.urandom(PAGE)
        nic.copy(mapping.iova + PAGE, mapping.iova, PAGE)
        assert view[PAGE:] == view[:PAGE]


# --- by hand ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("edu", ["edu 1.0, alive", "12! = 479001600", "by DMA in", "by MSI, with status 0x2a"]),
        (
            "dirty_pages",
            [
                "edu copied 0x100000 to 0x105000 by DMA: equal",
                "AMD HyperTransport hole",
                "dirty: 4 pages",
                "read again: 0 pages",
            ],
        ),
    ],
)
def test_an_example_needs_nothing_but_the_kernels_name(name: str, lines: list[str]) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(
        command, env=os.environ | {"PYVFIO_KERNEL": "mock:amd"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in lines if line not in done.stdout] == []
    assert "DIFFERENT" not in done.stdout


@pytest.fixture
def by_hand(
    kernel: mock.Kernel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What an example prints when it is run on this kernel with these arguments."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr("pyvfio.kernel._default", kernel)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        import_module(f"examples.{name}").main()
        return capsys.readouterr().out

    return run


def test_nvme_by_hand(kernel: mock.Kernel, by_hand: Callable[..., str]) -> None:
    NvmeDevice(kernel, ADDRESS)
    polling, told = by_hand("nvme", ADDRESS).splitlines()[1:]
    assert "4096 blocks of 512 bytes, by polling: 1000 random transfers" in polling
    assert " 0 interrupts" in polling
    assert "1016 interrupts" in told
    assert kernel.faults == []
    assert pyvfio.host.device(ADDRESS, kernel).driver is None


def test_e1000e_by_hand(kernel: mock.Kernel, by_hand: Callable[..., str]) -> None:
    NetworkCard(kernel, ADDRESS)
    printed = by_hand("e1000e", ADDRESS)
    assert "52:54:00:12:34:56 at 0000:00:0a.0 sent" in printed
    assert "64 KiB copied in frames to itself: equal" in printed
    assert "DIFFERENT" not in printed
    assert kernel.faults == []


def test_migrate_by_hand(by_hand: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    from examples import migrate

    # The devices are there, and have 1 MiB.
    monkeypatch.setenv("PYVFIO_MOCK_MODULE", "vfio_mock.ko")
    monkeypatch.setattr(subprocess, "run", lambda command, check: None)
    monkeypatch.setattr(migrate, "BUSY", 1 << 18)
    printed = by_hand("migrate", "1")
    assert "stands still" in printed
    assert "Contents were equal both times" in printed
