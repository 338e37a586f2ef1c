# SPDX-License-Identifier: MIT
"""The drivers of scripts/examples with the mock's models of their devices."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from examples.e1000e import E1000e
from examples.nvme import Nvme, exercise

import pyvfio
from pyvfio import Device, mock
from pyvfio.mock import devices

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
ADDRESS = "0000:00:0a.0"
PAGE = 4096
BLOCK, BLOCKS = 512, 4096
MAC = bytes.fromhex("525400123456")
pytestmark = pytest.mark.vfio(profile="amd")


# --- nvme ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(kernel: mock.Kernel) -> Iterator[Device]:
    devices.Nvme(kernel, ADDRESS, size=BLOCK * BLOCKS, serial="x" * 20, driver="vfio-pci")
    with pyvfio.open(ADDRESS, kernel=kernel) as device:
        yield device


@pytest.mark.parametrize("interrupt", [False, True], ids=["polling", "by MSI-X"])
def test_nvme_reads_what_was_written(kernel: mock.Kernel, disk: Device, interrupt: bool) -> None:
    with Nvme(disk) as nvme:
        assert nvme.controller() == ("x" * 20, "QEMU NVMe Ctrl", "pyvfio", 1, 1 << 19)
        namespace = nvme.namespace(1, disk.irqs.msix.enable([1])[0] if interrupt else None)
        assert (namespace.blocks, namespace.block_size) == (BLOCKS, BLOCK)
        assert 100 < exercise(namespace, disk, 300, area=1 << 18, most=64) < 200
        assert namespace.queue.interrupts == (304 if interrupt else 0)
        with pytest.raises(OSError, match="queue 1, opcode 2: status 0x4080"):
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
        assert isinstance(device, devices.Nvme)
        assert device.storage[7 * BLOCK : 7 * BLOCK + size] == data
        mapping.buffer.view[:] = bytes(mapping.size)
        namespace.read(7, mapping.iova + offset, blocks)
    assert mapping.buffer.view[offset : offset + size] == data
    assert not any(mapping.buffer.view[:offset])
    assert not any(mapping.buffer.view[offset + size :])
    assert kernel.faults == []


# --- e1000e -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def card(kernel: mock.Kernel) -> Iterator[Device]:
    devices.E1000e(kernel, ADDRESS, mac=MAC, driver="vfio-pci")
    with pyvfio.open(ADDRESS, kernel=kernel) as device:
        yield device


@pytest.mark.parametrize("interrupt", [False, True], ids=["looking", "by MSI"])
def test_e1000e_copies_by_frames_to_itself(kernel: mock.Kernel, card: Device, interrupt: bool) -> None:
    mapping = card.address_space.alloc(1 << 18)
    view = mapping.buffer.view
    for size in (1 << 17, 5000, 1):
        view[:size] = os.urandom(size)
        # Start must reset the rings: they are where the previous use left them.
        with E1000e(card, interrupt=interrupt) as nic:
            assert nic.mac == MAC
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


# --- descriptors --------------------------------------------------------------------------------------------------------

# A program that repeatedly writes a descriptor of 256 bytes and clears it, each time with one store, as a card does.
CARD = """
import mmap, sys
word = memoryview(mmap.mmap(int(sys.argv[1]), 16)).cast("Q")
print("ready", flush=True)
while True:
    word[1] = int(sys.argv[2])
    word[1] = 0
"""


@pytest.mark.parametrize(("driver", "written"), [("e1000e", 3 << 32 | 256), ("igb", 256 << 32 | 3)])
def test_length_and_status_of_a_descriptor_are_of_one_moment(driver: str, written: int) -> None:
    written_back = import_module(f"examples.{driver}").written_back
    fd = os.memfd_create("ring")
    try:
        os.ftruncate(fd, 16)
        ring = memoryview(mmap.mmap(fd, 16)).cast("Q")
        command = [sys.executable, "-c", CARD, str(fd), str(written)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[fd]) as card:
            try:
                assert card.stdout is not None
                assert card.stdout.readline() == b"ready\n"
                seen = {written_back(ring, 0) for _ in range(100_000)}
            finally:
                card.kill()
    finally:
        os.close(fd)
    assert seen <= {(0, 0), (256, 3)}


# --- by hand ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (
            "migrate",
            ["A device with 1 MiB of memory, whose engine writes to 0.25 MiB", "Contents were equal both times"],
        ),
        (
            "e1000e",
            [
                "at 0000:00:06.0 received 1214, scattered into 5 buffers: equal",
                "64 KiB copied in frames to itself: equal",
            ],
        ),
        ("e1000e 0000:00:06.0 0000:02:00.0", ["at 0000:02:00.0 received 1214, scattered into 5 buffers: equal"]),
        (
            "igb",
            [
                "at 0000:00:07.0 received 1374, scattered into 6 buffers: equal",
                "64 KiB copied by 0000:00:07.0 in frames to itself: equal",
            ],
        ),
        (
            "igb --vf",
            [
                "at 0000:00:07.0 received 1374, scattered into 6 buffers: equal",
                "at 0000:00:17.0 received 1374, scattered into 6 buffers: equal",
                "64 KiB copied by 0000:00:17.0 in frames to itself: equal",
            ],
        ),
        (
            "nvme",
            [
                "Controller(serial='pyvfio0', model='QEMU NVMe Ctrl'",
                "131072 blocks of 512 bytes, by polling: 1000 random transfers",
                "as they should be; 1016 interrupts",
            ],
        ),
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
def test_an_example_needs_nothing_but_the_kernels_name(command: str, lines: list[str]) -> None:
    name, *options = command.split()
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *options],
        env={**os.environ, "PYVFIO_KERNEL": "mock:amd", "PYVFIO_MOCK_MODULE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in lines if line not in done.stdout] == []
    assert "DIFFERENT" not in done.stdout


@pytest.fixture
def by_hand(
    kernel: mock.Kernel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run an example on a kernel with arguments, and return its output."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr("pyvfio.kernel._default", kernel)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        import_module(f"examples.{name}").main()
        return capsys.readouterr().out

    return run


def test_nvme_by_hand(kernel: mock.Kernel, by_hand: Callable[..., str]) -> None:
    devices.Nvme(kernel, ADDRESS, size=BLOCK * BLOCKS)
    polling, told = by_hand("nvme", ADDRESS).splitlines()[1:]
    assert "4096 blocks of 512 bytes, by polling: 1000 random transfers" in polling
    assert " 0 interrupts" in polling
    assert "1016 interrupts" in told
    assert kernel.faults == []
    assert pyvfio.host.device(ADDRESS, kernel).driver is None


def test_e1000e_by_hand(kernel: mock.Kernel, by_hand: Callable[..., str]) -> None:
    devices.E1000e(kernel, ADDRESS, mac=MAC)
    printed = by_hand("e1000e", ADDRESS)
    assert "52:54:00:12:34:56 at 0000:00:0a.0 sent" in printed
    assert "64 KiB copied in frames to itself: equal" in printed
    assert "DIFFERENT" not in printed
    assert kernel.faults == []


def test_migrate_by_hand(by_hand: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    # The mock's devices exist already, and have 1 MiB.
    loaded: list[list[str]] = []
    monkeypatch.setenv("PYVFIO_MOCK_MODULE", "vfio_mock.ko")
    monkeypatch.setattr(subprocess, "run", lambda command, check: loaded.append(command))
    printed = by_hand("migrate", "1")
    assert loaded == [["insmod", "vfio_mock.ko", "memory=1048576"]]
    assert "stands still" in printed
    assert "Contents were equal both times" in printed


def test_migrate_says_how_much_memory_there_is(
    by_hand: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PYVFIO_MOCK_MODULE", raising=False)
    with pytest.raises(SystemExit):
        by_hand("migrate", "64")
    assert "vfio-mock.0 has 1 MiB of memory" in capsys.readouterr().err
