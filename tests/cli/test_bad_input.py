# SPDX-License-Identifier: MIT
"""Bad input for every subcommand: unknown devices, no permission, no VFIO, a closed pipe, Ctrl-C, 40 columns."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyvfio as library
from pyvfio import host, mock
from pyvfio.cli import program
from pyvfio.host import examination
from tests.cli.command import Command

EDU, VF = "0000:00:03.0", "0000:41:10.1"

#: Each subcommand that takes a device, with the arguments behind the address.
WITH_DEVICE = {
    "show": (),
    "doctor": (),
    "bind": (),
    "restore": (),
    "unbind": (),
    "run": ("-c", "print"),
    "shell": ("-c", ""),
    "peek": ("bar0", "0"),
    "poke": ("bar0", "0", "0"),
    "dump": ("bar0",),
    "config": ("COMMAND",),
    "iova": (),
    "reset": (),
    "irq": ("msix", "--trigger", "1", "--count", "1"),
    "dirty": ("--intervals", "1", "--interval", "0"),
    "migrate": (),
    "sriov": (),
    "report": (),
}
#: The subcommands that open the device.
OPENING = {
    **{
        name: WITH_DEVICE[name]
        for name in ("run", "shell", "peek", "poke", "dump", "config", "reset", "irq", "dirty", "migrate")
    },
    "show": ("--open",),
    "iova": ("--open",),
    "report": ("--open",),
}
WITHOUT_DEVICE = {"list": (), "qemu-log": ("/nonexistent",), "trace": (), "replay": ("/nonexistent",), "serve": ()}


def test_every_subcommand_is_in_a_table() -> None:
    assert {*WITH_DEVICE, *WITHOUT_DEVICE, "unbind", "check", "completion", "manual"} >= set(program.COMMANDS)


@pytest.mark.parametrize("name", WITH_DEVICE)
def test_an_unknown_address_exits_with_3(pyvfio: Command, name: str) -> None:
    ran = pyvfio(name, "0000:77:00.0", *WITH_DEVICE[name])
    assert ran.code == 3, ran
    assert "no device 0000:77:00.0" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("name", WITH_DEVICE)
@pytest.mark.parametrize("address", ["../../etc", "", "a/b", ".", "x\n"])
def test_a_name_that_cannot_be_a_device_is_wrong_usage(pyvfio: Command, name: str, address: str) -> None:
    assert pyvfio(name, address, *WITH_DEVICE[name]).code == 2


@pytest.mark.parametrize("name", sorted(program.COMMANDS))
def test_an_unknown_option_is_wrong_usage(pyvfio: Command, name: str) -> None:
    ran = pyvfio(name, "--no-such-option")
    assert ran.code == 2


@pytest.mark.parametrize("name", sorted(program.COMMANDS))
def test_every_subcommand_has_help(pyvfio: Command, name: str) -> None:
    ran = pyvfio(name, "--help")
    assert ran.code == 0
    assert f"usage: pyvfio {name}" in ran.out


def test_an_unknown_subcommand_is_wrong_usage(pyvfio: Command) -> None:
    assert pyvfio("nothing").code == 2
    assert pyvfio().code == 2


def test_an_unknown_kernel_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--kernel", "mock:nothing", "list"]) == 2
    assert "no profile is named 'nothing'" in capsys.readouterr().err


# Registers


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("peek", "bar0", "0.x"), 2, "the width is .b, .w, .l or .q"),
        (("peek", "bar0", "1"), 1, "not a multiple of the width"),
        (("peek", "bar0", "0x100000"), 1, "lie outside"),
        (("peek", "bar0", "0", "0x100000"), 1, "lie outside"),
        (("peek", "bar0", "0", "0"), 2, "a count is 1 or more, not 0"),
        (("peek", "bar0", "-4"), 2, ""),
        (("peek", "bar1", "0"), 1, ""),
        (("peek", "nothing", "0"), 2, "is not a region"),
        (("poke", "bar0", "0", "0x100000000"), 2, "does not fit 32 bits"),
        (("poke", "bar0", "2", "0"), 1, "not a multiple of the width"),
        (("poke", "bar0", "0.q", "0"), 1, "64 bits"),
        (("dump", "bar0", "0x100000", "4"), 1, ""),
        (("dump", "bar0", "0", "zz"), 2, "is not a size"),
        (("config", "1000.l"), 1, ""),
        (("config", "05.w"), 2, "not a multiple of its width"),
        (("iova", "0x1000-0x10"), 2, ""),
        (("iova", "0x1000to0x2000"), 2, "is not a range"),
        (("dirty", "--size", "0"), 2, "is not a size"),
        (("dirty", "--interval", "-1"), 2, ""),
        (("irq", "nothing"), 2, "is not an interrupt"),
        (("irq", "msix", "--vectors", "17"), 1, "16 vectors"),
        (("irq", "msix", "--vectors", "-1"), 2, ""),
        (("irq", "msi"), 1, "the device has none"),
    ],
)
def test_bad_registers_ranges_and_vectors(pyvfio: Command, arguments: tuple[str, ...], code: int, says: str) -> None:
    ran = pyvfio(arguments[0], VF, *arguments[1:])
    assert (ran.code, says in ran.err) == (code, True), ran
    assert "Traceback" not in ran.err


# No permission, no VFIO


@pytest.mark.parametrize("name", OPENING)
def test_no_permission_is_told(
    pyvfio: Command, kernel: mock.Kernel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(path: str, *_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(kernel, "open", refuse)
    ran = pyvfio(name, VF, *OPENING[name])
    assert ran.code == 1, ran
    assert "Permission denied" in ran.err or "may open it" in ran.err


@pytest.mark.parametrize("name", OPENING)
def test_a_device_that_is_not_bound_is_told_with_the_command(pyvfio: Command, name: str) -> None:
    ran = pyvfio(name, EDU, *OPENING[name])
    assert ran.code == 1, ran
    assert f"pyvfio bind {EDU}" in ran.err


@pytest.mark.parametrize("name", OPENING)
def test_without_vfio_the_reason_is_told(pyvfio: Command, kernel: mock.Kernel, name: str) -> None:
    for path in ("/dev/vfio", "/dev/iommu"):
        kernel.tree.remove(path)
    ran = pyvfio(name, VF, *OPENING[name])
    assert ran.code == 1, ran
    assert "/dev/vfio" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("name", OPENING)
def test_the_json_of_a_failure_fits_its_schema(pyvfio: Command, name: str) -> None:
    error = pyvfio.json(name, EDU, *OPENING[name], code=1)["error"]
    assert error["exit_code"] == 1
    assert EDU in error["message"]


@pytest.mark.parametrize("name", OPENING)
def test_a_second_user_is_named(pyvfio: Command, kernel: mock.Kernel, name: str) -> None:
    with library.open(VF, kernel=kernel):
        ran = pyvfio(name, VF, *OPENING[name])
    assert ran.code == 1, ran
    assert "this process" in ran.err


# Ctrl-C


@pytest.mark.parametrize("name", [name for name in OPENING if name not in ("irq", "dirty")])
def test_an_interrupt_puts_the_device_back(
    pyvfio: Command, kernel: mock.Kernel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The interrupt comes at the first request on the open device. The device is restored, and nothing stays open."""

    def interrupt(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyvfio.device.Device.__init__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pyvfio(name, EDU, *OPENING[name], "--bind")
    monkeypatch.undo()
    assert host.device(EDU, kernel).driver is None
    assert [file for file in kernel.files.values() if file.kind in ("device", "group")] == []
    assert host.bindings(kernel) == []


@pytest.mark.parametrize("name", ["irq", "dirty"])
def test_an_interrupt_ends_a_live_command(
    pyvfio: Command, kernel: mock.Kernel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def interrupt(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    arguments = ("msi",) if name == "irq" else ()
    assert pyvfio(name, EDU, *arguments, "--bind").code == 0
    monkeypatch.undo()
    assert host.device(EDU, kernel).driver is None


def started(*arguments: str) -> subprocess.Popen[str]:
    """Start the command as a program on a mock kernel."""
    return subprocess.Popen(
        [sys.executable, "-m", "pyvfio", "--kernel", "mock:mlx5", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_program_by_that_signal(number: signal.Signals) -> None:
    """Clean-up code runs before that: the device is closed."""
    code = "import time\ntry:\n print('ready', flush=True); time.sleep(60)\nfinally:\n print('closed', flush=True)"
    program = started("shell", VF, "-c", code)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(number)
    out, err = program.communicate(timeout=120)
    assert (program.returncode, out) == (-number, "closed\n"), err
    assert "Traceback" not in err


# A closed pipe


@pytest.mark.parametrize(
    "arguments", [("list",), ("list", "--json"), ("show", VF), ("doctor",), ("run", VF, "-c", "dump bar0 0 64K")]
)
def test_a_closed_pipe_ends_the_program_quietly(arguments: tuple[str, ...]) -> None:
    program = started(*arguments)
    assert program.stdout is not None
    program.stdout.close()
    assert program.stderr is not None
    err = program.stderr.read()
    program.stderr.close()
    assert program.stdin is not None
    program.stdin.close()
    assert program.wait(120) in (0, 1)
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_trap(closed: str) -> None:
    """If standard streams are closed, a device must not get their descriptor numbers."""
    code = "import os; os.write(9, str(sorted(map(int, os.listdir('/proc/self/fd')))).encode())"
    shell = f'exec "$0" -m pyvfio --kernel mock:mlx5 shell {VF} -c "$1" {closed} 9>"$2"'
    with tempfile.NamedTemporaryFile() as told:
        done = subprocess.run(["sh", "-c", shell, sys.executable, code, told.name], check=False)
        assert done.returncode == 0
        assert told.read().startswith(b"[0, 1, 2, ")


@pytest.mark.parametrize(
    ("words", "code"), [("list", 1), ("--json list", 1), ("show --help", 1), ("--json show nothing", 3)]
)
def test_a_full_disk_is_an_error(words: str, code: int) -> None:
    """Since Python 3.13.5, a stream keeps data that could not be written, and tries again at each flush."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pyvfio", "--kernel", "mock:mlx5", *words.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    # Only the first error is reported, and only once.
    said = [line.startswith("pyvfio: No space left") for line in done.stderr.splitlines()]
    assert sum(said) == (1 if code == 1 else 0)


def test_any_locale_can_print_any_name() -> None:
    """Characters that the locale's encoding does not have are escaped."""
    done = subprocess.run(
        [sys.executable, "-m", "pyvfio", "--kernel", "mock:mlx5", "shell", VF, "-c", "print('\u00b5')"],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.stdout == b"\\xb5\n"


@pytest.mark.parametrize("arguments", [("peek",), ("list", "--group", "x"), ("nothing",)])
def test_wrong_usage_with_json_is_a_document_too(pyvfio: Command, arguments: tuple[str, ...]) -> None:
    error = pyvfio.json(*arguments, code=2)["error"]
    assert error["exit_code"] == 2
    assert error["message"]
    assert "usage: pyvfio" in pyvfio(*arguments).err


def test_python_m_pyvfio_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "pyvfio", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pyvfio ")


def test_the_environment_names_the_kernel(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyvfio", "list", "--state", "vfio"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYVFIO_KERNEL": "mock:mlx5"},
    )
    assert VF in done.stdout


# 40 columns


@pytest.mark.parametrize("name", sorted(WITH_DEVICE))
def test_every_subcommand_works_at_40_columns(pyvfio: Command, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No line is wider, except words that cannot be broken, dumps, JSON and output of other programs."""
    monkeypatch.setenv("COLUMNS", "40")
    ran = pyvfio(name, VF, *WITH_DEVICE[name])
    assert "Traceback" not in ran.err
    if name in ("report", "dump"):
        return
    assert [line for line in ran.out.splitlines() if len(line) > 40 and " " in line.strip()] == []


def on_a_terminal(columns: int, **environment: str) -> str:
    """Return the output of `list` on a terminal of a given width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 25, columns, 0, 0))
    before = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")}
    program = subprocess.Popen(
        [sys.executable, "-m", "pyvfio", "--kernel", "mock:mlx5", "list"],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={**before, "TERM": "xterm", **environment},
    )
    os.close(theirs)
    printed = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while data := os.read(ours, 65536):
            printed += data
    os.close(ours)
    assert program.wait(120) == 0
    return printed.decode()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
@pytest.mark.parametrize("columns", [40, 200])
def test_no_colour_is_printed_where_none_is_wanted(columns: int, environment: dict[str, str]) -> None:
    printed = on_a_terminal(columns, **environment)
    assert "\x1b" not in printed
    assert VF in printed
    assert max(len(line) for line in printed.splitlines()) <= columns


def test_a_terminal_gets_colours_in_its_width() -> None:
    printed = on_a_terminal(160)
    assert "\x1b[" in printed
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed)
    assert VF in plain
    assert max(len(line) for line in plain.splitlines()) <= 160


def test_needs_of_doctor_are_listed(pyvfio: Command) -> None:
    out = pyvfio("doctor", "--help").out
    assert all(name in out for name in examination.NEEDS)


# Unplugged


@pytest.mark.parametrize("step", ["peek bar0 0", "poke bar0 4 1", "dump config", "config COMMAND", "poll bar0 0 0 1"])
def test_a_device_that_is_unplugged_meanwhile_is_an_error(
    pyvfio: Command, kernel: mock.Kernel, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Between two steps of a script the device stops answering: pread and pwrite fail."""

    def lines() -> Iterator[str]:
        yield "peek bar0 0\n"
        kernel.failures.fail(errno.EIO, call="pread")
        kernel.failures.fail(errno.EIO, call="pwrite")
        yield f"{step}\n"
        yield "print never\n"

    monkeypatch.setattr("sys.stdin", lines())
    ran = pyvfio("run", VF)
    assert ran.code == 1, ran
    assert "never" not in ran.out
    assert f"stdin:2: {step}" in ran.err
    assert "Traceback" not in ran.err
