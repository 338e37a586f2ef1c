# SPDX-License-Identifier: MIT
"""serve: models by name, of a module, with a disk's blocks in a file; what it refuses, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pyvfio as library
from pyvfio.vfio_user import recording
from tests.cli.command import Command, validate

OWN = """
from pyvfio import mock
from pyvfio.mock import devices

class Counter(mock.Device):
    function = mock.Function((0x1234, 0xC0DE), bars={0: mock.Bar(4096)})
    count = 0

    def read(self, bar, offset, width):
        self.count += 1
        return self.count

def card(kernel, address):
    return devices.Igb(kernel, address)

def nothing(kernel, address):
    return 5

number = 5
"""


class Running(NamedTuple):
    """A `pyvfio serve` in a process of its own."""

    process: subprocess.Popen[str]
    events: list[Any]

    def next_event(self) -> Any:
        assert self.process.stdout is not None
        event = json.loads(self.process.stdout.readline())
        validate(event, "serve")
        return event


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, models: int = 1) -> Iterator[Running]:
    """Run `pyvfio serve` in a folder until its models are served; end it afterwards."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "pyvfio", "serve", "--json", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            running = Running(process, [])
            for _ in range(models):
                running.events.append(running.next_event())
            yield running
        finally:
            process.kill()


def test_a_model_is_served_and_opened(tmp_path: Path) -> None:
    with serving(tmp_path, "adder", "socket", "--once") as running:
        (event,) = running.events
        assert event["path"] == str(tmp_path / "socket")
        assert json.loads(event["qemu"][1])["socket"]["path"] == event["path"]
        with library.open(f"vfio-user:{tmp_path}/socket") as device:
            mapping = device.address_space.alloc(4096)
            mapping.buffer.view[:24] = b"".join(n.to_bytes(8, "little") for n in (1, 2, 3))
            device.config.bus_master = True
            (vector,) = device.irqs.msi.enable()
            device.regions[0].write32(0x00, mapping.iova)
            device.regions[0].write32(0x08, 3)
            vector.wait(timeout=60)
            assert device.regions[0].read32(0x10) == 6
        gone = running.next_event()
        assert (gone["event"], gone["model"]) == ("gone", "adder")
        assert running.process.wait(120) == 0
    assert not (tmp_path / "socket").exists()


def test_models_of_a_module_of_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with serving(tmp_path, "own:Counter", "counter", "own:card", "card", models=2):
        with library.open(f"vfio-user:{tmp_path}/counter") as device:
            assert [device.regions[0].read32(0) for _ in range(3)] == [1, 2, 3]
        with library.open(f"vfio-user:{tmp_path}/card") as device:
            assert device.config.read16(2) == 0x10C9


def test_a_file_is_the_storage_of_nvme_and_messages_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    with serving(tmp_path, "nvme", "nvme", "--storage", "disk", "--record", "messages", "--once") as running:
        with library.open(f"vfio-user:{tmp_path}/nvme") as device:
            assert device.regions[0].read32(0x08) == 0x10400
        assert running.process.wait(120) == 0
    with (tmp_path / "messages").open() as file:
        messages = list(recording.load(file))
    assert (messages[0].sent, messages[0].data[2]) == (False, 1)  # VERSION, from the client
    assert (messages[1].sent, messages[1].data[2]) == (True, 1)


def test_sigterm_ends_it_and_removes_the_socket(tmp_path: Path) -> None:
    with serving(tmp_path, "edu", "edu") as running, library.open(f"vfio-user:{tmp_path}/edu") as device:
        assert device.regions[0].read32(0) == 0x010000ED
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(120) == -signal.SIGTERM
    assert not (tmp_path / "edu").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing", "s"), "no model is named 'nothing'; known: adder"),
        (("adder", "s", "edu"), "edu: the path of its socket is missing"),
        (("no_such_module:Class", "s"), "cannot be loaded"),
        (("own:Nothing", "s"), "cannot be loaded"),
        (("own:number", "s"), "neither a class nor a function"),
        (("own:nothing", "s"), "not a device"),
        (("igb", "s", "--wire"), "two models of network cards"),
        (("adder", "s", "--storage", "disk"), "none of the models is nvme"),
    ],
)
def test_wrong_arguments_are_wrong_usage(
    pyvfio: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], says: str
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = pyvfio("serve", *arguments)
    assert ran.code == 2, ran
    assert says in ran.err
    assert not (tmp_path / "s").exists()


def test_a_path_that_is_no_socket_or_served_fails(pyvfio: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    ran = pyvfio("serve", "adder", str(tmp_path / "file"))
    assert ran.code == 1
    assert (tmp_path / "file").read_text() == "kept"
    assert pyvfio("serve", "adder", "/nonexistent/socket").code == 1
    assert pyvfio("serve", "nvme", str(tmp_path / "s"), "--storage", "/nonexistent").code == 1
