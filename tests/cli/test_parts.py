# SPDX-License-Identifier: MIT
"""Parts of the command that a session on a mock kernel does not reach: waiting by poll(2), progress on a terminal, serve."""

from __future__ import annotations

import argparse
import errno
import io
import itertools
import json
import os
import select
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pyvfio as library
from pyvfio import host, mock
from pyvfio.cli import anonymous, describe, manual_page, numbers, opened_device, program
from pyvfio.cli.call import Call
from pyvfio.cli.commands import irq, migrate, serve
from pyvfio.cli.output import Output
from pyvfio.mock.fs.tree import Text
from tests.cli.command import Command

EDU, VF, MOCK = "0000:00:03.0", "0000:41:10.1", "vfio-mock.0"


# Interrupts by poll(2), as on Linux


class Eventfd:
    """A vector that is an eventfd of this process."""

    def __init__(self, count: int) -> None:
        self._fd = os.eventfd(count, os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def wait(self, timeout: float) -> int:
        """Return the count; fail at once if there is none."""
        assert timeout == 0
        try:
            return os.eventfd_read(self._fd)
        except BlockingIOError:
            raise TimeoutError from None

    def close(self) -> None:
        os.close(self._fd)


@pytest.mark.parametrize("polled", [True, False])
@pytest.mark.parametrize("timeout", [None, 0.0, 0.01, 600.0])
def test_vectors_that_fired_are_found_at_once(polled: bool, timeout: float | None) -> None:
    vectors: Any = [Eventfd(count) for count in (0, 2, 1)]
    assert irq._wait(vectors, timeout, polled=polled) == [(vectors[1], 2), (vectors[2], 1)]
    for vector in vectors:
        vector.close()


@pytest.mark.parametrize("polled", [True, False])
@pytest.mark.parametrize("timeout", [0.0, 0.005])
def test_a_wait_without_an_interrupt_ends(polled: bool, timeout: float) -> None:
    vectors: Any = [Eventfd(0)]
    assert irq._wait(vectors, timeout, polled=polled) == []
    vectors[0].close()


def test_a_wait_by_poll_uses_no_processor_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """poll(2) gets the time that is left, in milliseconds, and no limit if there is none."""
    limits: list[float | None] = []

    class Poll:
        def register(self, vector: Any, events: int) -> None:
            assert events == select.POLLIN

        def poll(self, limit: float | None) -> None:
            limits.append(limit)

    now = iter([100.0, 100.5, 102.0])
    monkeypatch.setattr(select, "poll", Poll)
    monkeypatch.setattr("pyvfio.cli.commands.irq.time", SimpleNamespace(monotonic=lambda: next(now)))
    vectors: Any = [Eventfd(0)]
    assert irq._wait(vectors, 2.0, polled=False) == []
    vectors[0].close()
    vectors = [Eventfd(1)]
    irq._wait(vectors, None, polled=False)
    vectors[0].close()
    assert limits == [1500.0, 0.0, None]


# Progress of a migration, on a terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def counted(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, json_wanted: bool = False) -> str:
    """Write three times to a counted file, after 0.4, 0.6 and 1.2 seconds, and return what was printed."""
    clock = iter([10.0, 10.4, 10.6, 11.2])
    monkeypatch.setattr("pyvfio.cli.commands.migrate.time", SimpleNamespace(monotonic=lambda: next(clock)))
    kernel: Any = None
    call = Call(argparse.Namespace(), kernel, Output(json_wanted, stream), argparse.ArgumentParser)
    file = io.BytesIO()
    made = migrate._Counted(call, file)
    assert [made.write(b"12345"), made.write(b"678"), made.write(b"9")] == [5, 3, 1]
    assert (made.bytes, file.getvalue()) == (9, b"123456789")
    return stream.getvalue()


def test_progress_is_printed_at_most_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counted(monkeypatch, Terminal()) == "stop-copy: 8 bytes\nstop-copy: 9 bytes\n"


def test_progress_is_printed_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counted(monkeypatch, io.StringIO()) == ""
    assert counted(monkeypatch, Terminal(), json_wanted=True) == ""


def test_saving_tells_the_phase_before_the_stop(
    kernel: mock.Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases: list[str] = []
    monkeypatch.setattr(migrate._Counted, "progress", lambda _, phase: phases.append(phase))
    assert program.main(["migrate", MOCK, "save", str(tmp_path / "state")], kernel=kernel) == 0
    assert {"pre-copy", "stop-copy"} <= set(phases)
    phases.clear()
    assert program.main(["migrate", MOCK, "save", str(tmp_path / "state"), "--pre-copy", "0"], kernel=kernel) == 0
    assert set(phases) == {"stop-copy"}


def test_a_transfer_tells_how_long_it_took(pyvfio: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(1000.0, 0.125)
    monkeypatch.setattr("pyvfio.cli.commands.migrate.time", SimpleNamespace(monotonic=lambda: next(clock)))
    saved = pyvfio.json("migrate", MOCK, "save", str(tmp_path / "state"))
    assert 0.125 <= saved["stopped_seconds"] < saved["seconds"] < 1000
    loaded = pyvfio.json("migrate", MOCK, "load", str(tmp_path / "state"))
    assert loaded["seconds"] == 0.125


def test_a_save_to_a_full_disk_fails(pyvfio: Command) -> None:
    ran = pyvfio("migrate", MOCK, "save", "/dev/full")
    assert ran.code == 1
    assert "No space left on device" in ran.err
    assert pyvfio.json("migrate", MOCK)["state"] == "RUNNING"


# serve, without a client


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let each server meet two clients, of whose messages it refuses 2; return the servers' paths as they are served."""
    served: list[str] = []

    class Server:
        """A server that only counts."""

        def __init__(self, device: Any, path: str, *, share_memory: bool, observe: Any) -> None:
            self.path, self.refused, self.left = path, 5, 2
            served.append(f"{type(device).__name__} {device.name} {path} {share_memory} {observe is not None}")

        def __enter__(self) -> Server:
            return self

        def __exit__(self, *_: object) -> None:
            served.append(f"closed {self.path}")

        def serve_one(self) -> None:
            if not self.left:
                raise OSError(errno.EBADF, "closed")
            self.left -= 1
            self.refused += 2

    monkeypatch.setattr(serve, "Server", Server)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return served


def test_serve_announces_each_model_and_each_client(pyvfio: Command, clients: list[str], tmp_path: Path) -> None:
    ran = pyvfio("serve", "adder", "/tmp/a b", "edu", "relative")
    assert ran.code == 0
    lines = ran.out.splitlines()
    option = '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/a b"}}'
    assert lines[0] == f"adder: vfio-user:/tmp/a b; in QEMU: -device '{option}'"
    assert lines[1].startswith(f"edu: vfio-user:{os.getcwd()}/relative; in QEMU")
    assert sorted(lines[2:]) == [
        *["adder: the client has gone; 2 of its messages were refused"] * 2,
        *["edu: the client has gone; 2 of its messages were refused"] * 2,
    ]
    assert clients[0].split()[1:] == ["0000:00:0a.0", "/tmp/a", "b", "True", "False"]
    assert clients[1].split()[1:] == ["0000:00:0b.0", "relative", "True", "False"]
    assert clients[2:] == ["closed relative", "closed /tmp/a b"]


def test_serve_once_ends_after_a_client_of_each(pyvfio: Command, clients: list[str], tmp_path: Path) -> None:
    events = [
        json.loads(line)
        for line in pyvfio(
            "serve", "--json", "igb", "/a", "e1000e", "/b", "--once", "--no-shared-memory", "--wire", "--record", str(tmp_path / "r")
        ).out.splitlines()
    ]  # fmt: skip
    assert [(one["event"], one["model"], one["path"]) for one in events[:2]] == [
        ("serving", "igb", "/a"),
        ("serving", "e1000e", "/b"),
    ]
    assert events[0]["qemu"][0] == "-device"
    assert json.loads(events[0]["qemu"][1])["socket"]["path"] == "/a"
    assert sorted((one["event"], one["model"], one["path"], one["refused"]) for one in events[2:]) == [
        ("gone", "e1000e", "/b", 2),
        ("gone", "igb", "/a", 2),
    ]
    assert all(" False True" in one for one in clients[:2])
    assert (tmp_path / "r").exists()


def test_the_storage_belongs_to_nvme_alone(pyvfio: Command, clients: list[str], tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    assert pyvfio("serve", "adder", "/a", "nvme", "/n", "--storage", str(tmp_path / "disk"), "--once").code == 0
    assert clients[0].split()[1:3] == ["0000:00:0a.0", "/a"]
    assert clients[1].startswith("Nvme 0000:00:0b.0 /n")
    assert pyvfio("serve", "adder", "/a", "edu", "/n", "--storage", str(tmp_path / "disk"), "--once").code == 2


def test_two_network_cards_are_wired(pyvfio: Command, clients: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wired: list[Any] = []
    monkeypatch.setattr(
        "pyvfio.cli.commands.serve.devices.Wire", lambda *cards: wired.append([card.name for card in cards])
    )
    assert pyvfio("serve", "igb", "/a", "adder", "/b", "e1000e", "/c", "--wire", "--once").code == 0
    assert wired == [["0000:00:0a.0", "0000:00:0c.0"]]
    assert pyvfio("serve", "igb", "/a", "--once").code == 0
    assert len(wired) == 1


# Standard output that has gone


def descriptors(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Return the numbers of descriptors that are opened, and of those that are closed, from now on."""
    opened: list[int] = []
    closed: list[int] = []
    really_open, really_close = os.open, os.close

    def open_(path: str, flags: int) -> int:
        opened.append(really_open(path, flags))
        return opened[-1]

    def close(number: int) -> None:
        closed.append(number)
        really_close(number)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "close", close)
    return opened, closed


def test_output_that_has_gone_is_dev_null(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stream's descriptor is /dev/null afterwards, and no other descriptor stays open."""
    with (tmp_path / "out").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        opened, closed = descriptors(monkeypatch)
        assert program._output_gone() == 1
        monkeypatch.setattr(sys, "stdout", sys.__stdout__)
        assert len(opened) == 1
        assert closed == opened
        assert os.readlink(f"/proc/self/fd/{stream.fileno()}") == "/dev/null"
        stream.write("lost")
    assert (tmp_path / "out").read_text() == ""


def test_an_errno_is_named_in_the_document_of_an_error(pyvfio: Command, kernel: mock.Kernel) -> None:
    error = pyvfio.json("show", "0000:77:00.0", code=3)["error"]
    assert (error["errno"], error["notes"], error["exit_code"]) == ("ENODEV", [], 3)
    assert pyvfio.json("peek", VF, "bar0", "zz", code=2)["error"]["errno"] is None


def test_warnings_are_printed_as_advice_for_the_shell(
    pyvfio: Command, kernel: mock.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def devices(_: object) -> list[object]:
        warnings.warn("call pyvfio.host.restore()", stacklevel=1)
        return []

    monkeypatch.setattr("pyvfio.cli.commands.list.host.devices", devices)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        ran = pyvfio("list")
    assert (ran.code, ran.out, ran.err) == (3, "no device\n", "pyvfio: call pyvfio restore\n")


# Opening with another driver


def test_bind_to_binds_to_another_driver_for_the_time(pyvfio: Command, kernel: mock.Kernel) -> None:
    ran = pyvfio("peek", EDU, "bar0", "0", "--bind-to", "nothing-vfio-pci")
    assert ran.code == 1
    assert "nothing-vfio-pci" in ran.err
    ran = pyvfio("shell", EDU, "--bind-to", "vfio-pci", "-c", "print(device.address)")
    assert (ran.code, ran.out) == (0, f"{EDU}\n")
    assert host.device(EDU, kernel).driver is None
    # A device that is bound to a VFIO driver stays with it.
    ran = pyvfio("shell", VF, "--bind-to", "vfio-pci", "-c", "print(device.address)")
    assert (ran.code, host.device(VF, kernel).driver) == (0, "mlx5_vfio_pci")


# Numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", None), ("1", 1), ("00", None), ("01", None), ("0x0", None), ("0x1", 1), ("1k", 1 << 10), ("2MiB", 2 << 20), ("3gb", 3 << 30), (" 4 T ", 4 << 40), ("1 Ki", None), ("1b", 1), ("1i", None), ("1p", None), ("-1", None), ("", None), ("0x10K", 16 << 10), ("1.5G", None)],
)  # fmt: skip
def test_sizes(text: str, value: int | None) -> None:
    if value is None:
        with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
            numbers.size(text)
    else:
        assert numbers.size(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("10", 10), ("0x10", 16), ("0b11", 3), ("0o17", 15), ("1_000", 1000), ("1K", 1024), ("0K", None), ("-1", -1), ("", None), ("x", None), ("010", None), ("0x1k", 1024), ("1E", None)],
)  # fmt: skip
def test_numbers(text: str, value: int | None) -> None:
    if value is None:
        with pytest.raises(argparse.ArgumentTypeError):
            numbers.number(text)
    else:
        assert numbers.number(text) == value


@pytest.mark.parametrize(
    ("text", "start", "last"),
    [("0+4K", 0, 4095), ("0x1000-0x1fff", 4096, 8191), ("5-5", 5, 5), ("0", 0, 4095), ("4095", 0, 4095), ("4096", 4096, 8191), ("0xffffffffffffffff", 2**64 - 4096, 2**64 - 1), ("0x1fff", 4096, 8191)],
)  # fmt: skip
def test_ranges(text: str, start: int, last: int) -> None:
    found = numbers.iova_range(text)
    assert (found.start, found.last) == (start, last)


@pytest.mark.parametrize(
    "text", ["", "x", "5-4", "1+0", "0x10000000000000000", "0xffffffffffffffff+2", "1-", "+1", "1~2"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        numbers.iova_range(text)


# The manual page


def test_the_manual_page_of_a_parser() -> None:
    parser = argparse.ArgumentParser(prog="pyvfio", description="One.\n\nTwo-three\n  four.", epilog=".end")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    one = commands.add_parser("do-it", help="does it", prog="pyvfio do-it", epilog="steps:\n  .first\\x")
    one.add_argument("--json", help="print JSON")
    one.add_argument("--count", "-n", metavar="N", type=int, default=4, help="how many (%(default)s)")
    one.add_argument("--on", action="store_true", help="'so")
    one.add_argument("--secret", help=argparse.SUPPRESS)
    one.add_argument("file", metavar="FILE", nargs="?", help="a file")
    lines = manual_page.page(parser).splitlines()
    assert lines[0] == f'.TH PYVFIO 1 "" "pyvfio {library.__version__}" "User Commands"'
    assert lines[lines.index(".SH DESCRIPTION") + 1 : lines.index(".SH OPTIONS")] == [
        "One.", ".PP", "Two\\-three four.", ".PP", "\\&.end", ".PP",
    ]  # fmt: skip
    found = lines[lines.index(".SH COMMANDS") : lines.index(".SH EXIT STATUS")]
    assert found[:3] == [".SH COMMANDS", ".SS pyvfio do\\-it", ".nh"]
    assert found[3].startswith(".B pyvfio do\\-it [\\-h]")
    assert found[4:] == [
        ".hy", ".PP", "does it", ".PP",
        ".TP", "\\fB\\-\\-count, \\-n\\fR \\fIN\\fR", "how many (4)",
        ".TP", "\\fB\\-\\-on\\fR", "\\&'so",
        ".TP", "\\fI[FILE]\\fR", "a file",
        ".PP", ".nf", "steps:", "  .first\\ex", ".fi",
    ]  # fmt: skip
    rest = lines[lines.index(".SH EXIT STATUS") :]
    assert rest[1:4] == [".TP", ".B 0", "Done."]
    assert [line for line in rest if line.startswith(".SH")] == [".SH EXIT STATUS", ".SH ENVIRONMENT", ".SH FILES"]


# Descriptions of devices


def test_lspci_decodes_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """lspci gets the dump on its standard input; if it fails or says nothing, there is no decoded text."""
    program_file = tmp_path / "lspci"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for script, said in (
        ("echo $1 $2 $3; cat", "-F /dev/stdin -vvv\n00:03.0 Device\n00: 01 02\n\n"),
        ("echo", None),
        ("echo text; exit 1", None),
        ("exit 0", None),
    ):
        program_file.write_text(f"#!/bin/sh\n{script}\n")
        program_file.chmod(0o755)
        assert opened_device.lspci(b"\x01\x02", "00:03.0") == said
    program_file.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert opened_device.lspci(b"", "00:03.0") is None


def test_a_dump_has_16_bytes_a_line() -> None:
    assert opened_device.hexdump(bytes(range(18)), 0xF8) == (
        "f8: 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f\n108: 10 11"
    )
    assert opened_device.hexdump(b"") == ""


def test_names_and_nodes_of_a_document() -> None:
    document = {"vendor": None, "device": None, "vendor_name": "V", "device_name": None, "class_name": "C", "group_node": "/dev/vfio/7", "cdev": "/dev/vfio/devices/vfio0"}  # fmt: skip
    assert describe.ids(document) == ""
    assert describe.ids({**document, "vendor": "1234", "device": "11e8"}) == "1234:11e8"
    assert describe.name(document) == "V"
    assert describe.name({**document, "device_name": "D"}) == "V D"
    assert describe.name({**document, "vendor_name": None}) == "C"
    assert describe.name({**document, "vendor_name": None, "class_name": None}) == ""
    assert describe.node(document) == "7 vfio0"
    assert describe.node({**document, "group_node": None}) == "vfio0"
    assert describe.node({**document, "group_node": None, "cdev": None}) == ""


# The report


def test_names_are_replaced_by_the_same_words_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "root")
    monkeypatch.setenv("LOGNAME", "jo")
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    hide = anonymous.Anonymous("box.lab", "tom")
    assert hide("box box.lab tom tomato jo root box") == "name-2 name-1 name-3 tomato jo root name-2"
    assert hide("10.0.0.1 0.0.0.0 10.0.0.2 10.0.0.1") == "ip-1 0.0.0.0 ip-2 ip-1"
    assert hide("52:54:00:12:34:56 AA:BB:CC:DD:EE:FF") == "mac-1 mac-2"
    upper = "83B8F4F2-509F-382F-3C1E-E6BFE0FA1001"
    assert hide([upper, upper.lower()]) == ["uuid-1", "uuid-1"]
    assert hide("/root/x /home/jane/y.z-w/v: /srv") == "/home /home: /srv"
    assert hide({"tom": [1, None, True, {"box": "mounted at /x)"}]}) == {
        "name-3": [1, None, True, {"name-2": "mounted)"}]
    }
    assert hide("process 12 (x y), process 12") == "a process, process 12"


def test_a_report_says_what_the_host_is(pyvfio: Command, kernel: mock.Kernel, tmp_path: Path) -> None:
    kernel.tree.add("/etc/os-release", Text(b'NAME=X\nPRETTY_NAME="A Linux 12"\nno equals\n'))
    kernel.tree.add("/proc/cpuinfo", Text(b"vendor_id : A\nmodel name\t: A processor : 2\nmodel name\t: B\n"))
    kernel.tree.add("/proc/cmdline", Text(b"quiet iommu=pt pcie_acs=x hugepages=4 root=x efi=y noapic vfio\n"))
    found = json.loads(pyvfio("report").out)["host"]
    assert found["distribution"] == "A Linux 12"
    assert found["processor"] == "A processor : 2"
    assert found["command_line"] == ["iommu=pt", "pcie_acs=x", "hugepages=4", "efi=y", "noapic", "vfio"]
    assert found["groups"] == len(kernel.listdir("/sys/kernel/iommu_groups"))
    assert found["nodes"] == ["/dev/vfio/vfio", "/dev/iommu", "/dev/vfio/devices"]
    for path in ("/etc/os-release", "/proc/cpuinfo", "/proc/cmdline"):
        kernel.tree.remove(path)
    found = json.loads(pyvfio("report").out)["host"]
    assert (found["distribution"], found["processor"], found["command_line"]) == (None, None, [])


def test_a_report_includes_a_check_and_a_trace(pyvfio: Command, tmp_path: Path) -> None:
    file, out = tmp_path / "check", tmp_path / "out"
    file.write_text('{"verdict": "failed"}')
    found = json.loads(pyvfio("report", "--check", str(file), "--trace", str(file)).out)
    assert (found["check"], found["trace"]) == ({"verdict": "failed"}, {"verdict": "failed"})
    assert (found["device"], found["opened"]) == (None, None)
    found = json.loads(pyvfio("report", VF).out)
    assert found["device"]["address"] == VF
    assert (found["device"]["doctor"]["findings"], found["opened"]) == ([], None)
    assert pyvfio.json("report", "-o", str(out)) == {"file": str(out)}
    assert pyvfio("report", "-o", str(out)).out == f"{out}: read it before you send it\n"
    assert out.read_text().endswith("}\n")
    file.write_text("{")
    ran = pyvfio("report", "--check", str(file))
    assert (ran.code, f"{file} is no JSON" in ran.err) == (2, True)
    assert pyvfio("report", "--trace", "/nonexistent").code == 1
    ran = pyvfio("report", "--open")
    assert (ran.code, ran.err) == (2, "pyvfio: --open takes an ADDRESS\n")
