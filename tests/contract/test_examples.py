# SPDX-License-Identifier: MIT
"""The drivers of scripts/examples work in every cell with their device."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio
from pyvfio.spaces.opening import Mode
from tests.contract import guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmtest.matrix import Cell

    from pyvfio import Device
    from pyvfio.spaces.base import AddressSpace

pytestmark = pytest.mark.require("functions")

PAGE = 4096


def random_memory(space: AddressSpace, size: int) -> tuple[memoryview, int]:
    """Map memory with random contents, and return a view of it and its IOVA."""
    mapping = space.alloc(size)
    mapping.buffer.view[:size] = os.urandom(size)
    return mapping.buffer.view, mapping.iova


# --- by hand ------------------------------------------------------------------------------------------------------------


@pytest.mark.require("linux")
@pytest.mark.only(iommu="intel", mode="iommufd", device=["edu", "nvme", "e1000e", "igb"], kernel="newest")
def test_an_example_finds_its_device_and_shows_it_at_work(
    address: str, cell: Cell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{cell.device}.py", *(["--vf"] if cell.device == "igb" else [])])
    bind = pyvfio.host.bind

    def bind_others(where: str, driver: str) -> contextlib.AbstractContextManager[object]:
        # The cell's device is already bound.
        return contextlib.nullcontext() if where == address else bind(where, driver)

    monkeypatch.setattr(pyvfio.host, "bind", bind_others)
    import_module(f"examples.{cell.device}").main()
    printed = capsys.readouterr().out
    assert address in printed
    assert "DIFFERENT" not in printed
    assert "NOT" not in printed


@pytest.mark.require("linux")
@pytest.mark.only(iommu="intel", mode="iommufd", device="vfio-mock", kernel="newest")
class TestWithTheModule:
    """Examples that load the module vfio_mock themselves, with the memory size that they need."""

    @pytest.fixture(autouse=True)
    def unloaded(self) -> Iterator[None]:
        if Path("/sys/module/vfio_mock").exists():
            subprocess.run(["rmmod", "vfio_mock"], check=True)
        try:
            yield
        finally:
            subprocess.run(["rmmod", "vfio_mock"], check=True)
            guest.load_driver(guest.MOCK)

    def test_migrate_finds_equal_contents(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["migrate.py", "4"])
        import_module("examples.migrate").main()
        printed = capsys.readouterr().out
        print(printed, end="")
        assert "A device with 4 MiB of memory" in printed
        assert "Contents were equal both times" in printed

    def test_dirty_pages_are_told_by_the_log(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        # dirty_pages.py imports edu.py from its own folder, which is on the path when it runs as a program.
        monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts" / "examples"))
        import_module("examples.dirty_pages").main()
        printed = capsys.readouterr().out
        for line in ("by DMA: equal", "not usable for DMA here", "dirty: 4 pages", "read again: 0 pages"):
            assert line in printed


# --- edu ----------------------------------------------------------------------------------------------------------------


@pytest.mark.only(device="edu")
@pytest.mark.parametrize("interrupt", [False, True], ids=["looking", "by MSI"])
def test_edu_computes_and_moves_bytes(device: Device, interrupt: bool) -> None:
    from examples.edu import Edu

    view, iova = random_memory(device.address_space, 2 * PAGE)
    with Edu(device, interrupt=interrupt) as edu:
        assert edu.version == (1, 0)
        assert edu.is_alive()
        assert edu.factorial(12) == 479001600
        before = bytes(view)
        edu.copy(iova + PAGE + 4, iova + 8, 2500)
        assert view[PAGE + 4 : PAGE + 2504] == before[8:2508]
        assert view[: PAGE + 4] == before[: PAGE + 4]
        assert view[PAGE + 2504 :] == before[PAGE + 2504 :]
    assert not device.config.bus_master


@pytest.mark.only(device="edu")
def test_edu_works_through_the_kernel_as_through_its_mapped_bar(device: Device) -> None:
    from examples.edu import Edu

    view, iova = random_memory(device.address_space, PAGE)
    edu = Edu(device, interrupt=True)
    edu.registers = device.regions[0]
    with edu:
        assert edu.is_alive()
        assert edu.factorial(5) == 120
        edu.copy(iova + 2048, iova, 1024)
        edu.raise_interrupt(0x2A)
        assert edu.interrupted() == 0x2A
    assert view[2048:3072] == view[:1024]


# --- nvme ---------------------------------------------------------------------------------------------------------------


@pytest.mark.only(device="nvme")
def test_nvme_says_what_it_is(device: Device) -> None:
    from examples.nvme import Nvme

    with Nvme(device) as nvme:
        controller = nvme.controller()
        disk = nvme.namespace()
    assert controller.serial == "pyvfio0"
    assert controller.model == "QEMU NVMe Ctrl"
    assert disk.blocks * disk.block_size == 64 << 20
    assert not device.config.bus_master


@pytest.mark.only(device="nvme")
@pytest.mark.parametrize("interrupt", [False, True], ids=["polling", "by MSI-X"])
def test_nvme_reads_what_was_written(device: Device, interrupt: bool) -> None:
    from examples.nvme import Nvme, exercise

    mapped = device.address_space.mapped_ranges
    with Nvme(device) as nvme:
        disk = nvme.namespace(1, device.irqs.msix.enable([1])[0] if interrupt else None)
        writes = exercise(disk, device, 500, area=1 << 18)
        assert 200 < writes < 300
        # One interrupt for each command: 4 that write zeros, and 500 random ones.
        assert disk.queue.interrupts == (504 if interrupt else 0)
    assert device.address_space.mapped_ranges == mapped


@pytest.mark.only(device="nvme")
@pytest.mark.parametrize("pages", [1, 2, 3, 16], ids=["one page", "two", "a list", "a longer list"])
def test_nvme_finds_its_data_page_by_page(device: Device, pages: int) -> None:
    from examples.nvme import Nvme

    size = pages * PAGE - 512
    view, iova = random_memory(device.address_space, size)
    back = device.address_space.alloc(size + PAGE)
    with Nvme(device) as nvme:
        disk = nvme.namespace()
        disk.write(100, iova, size // 512)
        # Read to another offset within a page, so that the PRP list is different.
        disk.read(100, back.iova + 1024, size // 512)
    assert back.buffer.view[1024 : 1024 + size] == view[:size]
    assert not any(back.buffer.view[:1024])
    assert not any(back.buffer.view[1024 + size :])


@pytest.mark.only(device="nvme")
def test_nvme_tells_of_a_command_that_failed_and_goes_on(device: Device) -> None:
    from examples.nvme import Nvme

    _, iova = random_memory(device.address_space, PAGE)
    with Nvme(device) as nvme:
        disk = nvme.namespace()
        with pytest.raises(OSError, match="opcode 2: status"):
            disk.read(disk.blocks, iova)
        disk.read(disk.blocks - 1, iova)


# --- network cards: e1000e and igb ----------------------------------------------------------------------------------------


def card_driver(name: str) -> Any:
    """Return the driver's class for e1000e or igb."""
    return getattr(import_module(f"examples.{name}"), name.capitalize())


@pytest.mark.only(device=["e1000e", "igb"])
@pytest.mark.parametrize("interrupt", [False, True], ids=["polling", "by interrupt"])
def test_a_card_receives_what_it_sends_to_itself(device: Device, cell: Cell, interrupt: bool) -> None:
    view, iova = random_memory(device.address_space, 1400)
    back = device.address_space.alloc(2 * PAGE)
    with card_driver(cell.device)(device, interrupt=interrupt) as card:
        # More frames than the rings have entries, so that the rings wrap.
        for size in (60, 255, 256, 257, 1024, 1400) * 20:
            view[:6] = card.mac
            view[12:14] = b"\x88\xb5"
            back.buffer.view[:] = bytes(2 * PAGE)
            buffers = -(-size // 256)
            # Offer the buffers in reverse order of their addresses, so that a wrong order is detected.
            places = [back.iova + 512 * index for index in reversed(range(buffers))]
            card.offer(*places)
            card.send((iova, 20), (iova + 20, size - 20))
            assert card.receive() == size
            for index, place in enumerate(places):
                at, count = place - back.iova, min(256, size - 256 * index)
                assert back.buffer.view[at : at + count] == view[256 * index :][:count]
                assert not any(back.buffer.view[at + count : at + 512])


def check_the_wire(sender: Any, receiver: Any) -> None:
    """Send a frame from one card to another."""
    view, iova = random_memory(sender.device.address_space, 1024)
    there = receiver.device.address_space.alloc(PAGE)
    view[:14] = receiver.mac + sender.mac + b"\x88\xb5"
    receiver.offer(*range(there.iova, there.iova + 1024, 256))
    sender.send((iova, 1024))
    assert receiver.receive() == 1024
    assert there.buffer.view[:1024] == view[:1024]


# The second card is below a root port. Under QEMU 7.2's amd-iommu, DMA from there does not reach memory.
@pytest.mark.require("wire")
@pytest.mark.only(device="e1000e", iommu=["intel", "virtio"])
def test_e1000e_sends_over_the_wire_to_another(
    device: Device, mode: Mode, other: Callable[..., str], kernel: Any
) -> None:
    e1000e = card_driver("e1000e")
    with (
        pyvfio.open(other("0000:02:00.0"), mode=mode, kernel=kernel) as second,
        e1000e(device, loopback=False) as sender,
        e1000e(second, loopback=False) as receiver,
    ):
        check_the_wire(sender, receiver)


@pytest.mark.require("wire")
@pytest.mark.only(device="igb")
def test_igb_and_e1000e_send_over_the_wire_to_each_other(
    device: Device, mode: Mode, other: Callable[..., str], kernel: Any
) -> None:
    with (
        pyvfio.open(other("e1000e"), mode=mode, kernel=kernel) as second,
        card_driver("igb")(device, loopback=False) as igb,
        card_driver("e1000e")(second, loopback=False) as e1000e,
    ):
        check_the_wire(igb, e1000e)
        check_the_wire(e1000e, igb)


@pytest.mark.only(device=["e1000e", "igb"])
def test_a_card_without_a_frame_times_out_and_goes_on(device: Device, cell: Cell) -> None:
    view, iova = random_memory(device.address_space, 2 * PAGE)
    with card_driver(cell.device)(device) as card:
        card.offer(iova)
        with pytest.raises(TimeoutError, match="no frame"):
            card.receive()
        card.copy(iova + PAGE, iova, PAGE)
    assert view[PAGE:] == view[:PAGE]
