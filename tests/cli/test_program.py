# SPDX-License-Identifier: MIT
"""The entry of the program, the shell at a terminal, and trace: signals, closed streams, exit codes."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from pyvfio import mock
from pyvfio.cli import program
from pyvfio.cli.commands import shell
from tests.cli.command import Command
from tests.cli.test_parts import descriptors

EDU, VF = "0000:00:03.0", "0000:41:10.1"


class Process:
    """This process, without its signals: what was asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.handlers: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_IGN}
        self.killed: list[tuple[int, int]] = []
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(signal, "signal", self.handlers.__setitem__)
        monkeypatch.setattr(signal, "getsignal", lambda number: self.handlers[number])
        monkeypatch.setattr(os, "kill", lambda pid, number: self.killed.append((pid, number)))
        monkeypatch.setattr(program, "_complete_streams", lambda: None)

    def run(self, main: Callable[[], int]) -> int | str | None:
        """Run the program with another main(), and return its exit code."""
        self.monkeypatch.setattr(program, "main", main)
        with pytest.raises(SystemExit) as ended:
            program.run_program()
        return ended.value.code


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    """Return this process, with its signals taken over."""
    return Process(monkeypatch)


def raising(error: BaseException) -> Callable[[], int]:
    """Return a main() that raises."""

    def main() -> NoReturn:
        raise error

    return main


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_exit_code_is_that_of_main(process: Process, code: int) -> None:
    assert process.run(lambda: code) == code
    assert process.killed == []


def test_signals_that_would_end_it_are_handled_unless_ignored(process: Process) -> None:
    process.run(lambda: 0)
    assert process.handlers == {signal.SIGTERM: program._interrupt, signal.SIGHUP: signal.SIG_IGN}
    with pytest.raises(KeyboardInterrupt) as raised:
        program._interrupt(signal.SIGTERM, None)
    assert getattr(raised.value, "number", None) == signal.SIGTERM


@pytest.mark.parametrize(
    ("error", "number"),
    [(KeyboardInterrupt(), signal.SIGINT), (program._Interrupted(signal.SIGHUP), signal.SIGHUP)],
)
def test_an_interrupted_program_ends_by_the_signal(process: Process, error: BaseException, number: int) -> None:
    """Only if the signal does not end it, the exit code is 1."""
    assert process.run(raising(error)) == 1
    assert process.killed == [(os.getpid(), number)]
    assert process.handlers[number] == signal.SIG_DFL


def test_a_reader_that_has_gone_is_no_message(process: Process, capsys: pytest.CaptureFixture[str]) -> None:
    assert process.run(raising(BrokenPipeError(errno.EPIPE, "Broken pipe"))) == 1
    assert capsys.readouterr().err == ""


class Full(io.StringIO):
    """An output without space for anything."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("code", "says"), [(0, "pyvfio: No space left on device\n"), (1, ""), (3, "")])
def test_output_that_is_lost_at_the_end_is_told_once(
    process: Process, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, says: str
) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    assert process.run(lambda: code) == 1
    assert capsys.readouterr().err == says


def test_streams_that_are_missing_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, closed = descriptors(monkeypatch)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    program._complete_streams()
    made: list[Any] = [sys.stdout, sys.stderr]
    assert [(one.fileno(), one.encoding, one.errors, one.buffer.closefd) for one in made if one is not None] == [
        (1, "utf-8", "backslashreplace", False),
        (2, "utf-8", "backslashreplace", False),
    ]
    assert len(opened) == 1
    assert closed == opened


def test_streams_that_are_there_escape_what_they_cannot_print(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    err = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    program._complete_streams()
    assert sys.stdout is out
    assert sys.stderr is err
    assert out.errors == "backslashreplace"


def test_arguments_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch, kernel: mock.Kernel) -> None:
    monkeypatch.setattr(sys, "argv", ["pyvfio", "show", "0000:77:00.0"])
    assert program.main(kernel=kernel) == 3


def test_only_the_subcommand_that_is_named_gets_its_arguments() -> None:
    def named(only: str | None) -> list[str]:
        commands: Any = program.parser(only)._subparsers
        return [name for name, one in commands._group_actions[0].choices.items() if len(one._actions) > 0]

    assert named(None) == list(program.COMMANDS)
    assert named("list") == ["list"]
    assert named("") == []


# The shell


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_shell_at_a_terminal_is_interactive(pyvfio: Command, edu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []
    edited: list[Any] = []
    readline = SimpleNamespace(set_completer=edited.append, parse_and_bind=edited.append)
    monkeypatch.setitem(sys.modules, "readline", readline)
    monkeypatch.setattr(sys, "stdin", Keyboard())
    monkeypatch.setattr("code.interact", lambda **options: begun.append(options))
    assert pyvfio("shell", EDU).code == 0
    (options,) = begun
    names = options["local"]
    assert options["exitmsg"] == ""
    assert edited[-2]("bar", 0) == "bar0"  # rlcompleter sets one of its own when it is imported first
    assert edited[-1] == "tab: complete"
    assert options["banner"].splitlines()[1] == (
        "names: pyvfio, device, regions, irqs, space, step, config, bar0; bus master is off; Ctrl-D closes the device"
    )
    assert names["__name__"] == "__main__"
    assert names["bar0"].name == "BAR0"
    assert names["device"].closed


def test_the_shell_of_a_device_on_another_bus_has_no_configuration_space(
    pyvfio: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        pyvfio("shell", "vfio-mock.0", "-c", "print('config' in globals(), 'bar0' in globals())").out == "False False\n"
    )
    assert pyvfio("shell", VF, "-c", "print('config' in globals(), 'bar0' in globals(), 'bar1' in globals())").out == (
        "True True False\n"
    )


def test_a_step_of_the_shell_prints_and_returns(pyvfio: Command, edu: str) -> None:
    code = "print(step('peek bar0 0')['values'], step(''), step('master on'))"
    assert pyvfio("shell", EDU, "-c", code).out == ("0x010000ed\n['0x010000ed'] None {'step': 'master', 'on': True}\n")


def test_the_shell_works_without_readline(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []
    monkeypatch.setitem(sys.modules, "readline", None)
    monkeypatch.setattr("code.interact", lambda **options: begun.append(options))
    device: Any = "a device"
    shell._interact(device, {"x": 1, "__name__": "__main__"})
    assert begun[0]["banner"].startswith("'a device'\nnames: x; ")


# trace and replay


def test_trace_runs_the_program_with_the_file_and_the_kernel(
    pyvfio: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "import os; print(os.environ['PYVFIO_TRACE'], os.environ.get('PYVFIO_KERNEL'))"
    write = f"{code}; open('seen', 'w').write(os.environ['PYVFIO_TRACE'] + str(os.environ.get('PYVFIO_KERNEL')))"
    assert pyvfio("trace", sys.executable, "-c", write).code == 0
    assert Path("seen").read_text() == f"{tmp_path}/trace.jsonNone"
    ran = pyvfio("--kernel", "mock:amd", "trace", "-o", "t.%p", "--", sys.executable, "-c", write)
    assert (ran.code, ran.out) == (0, "t.%p: one file a process\n")
    assert Path("seen").read_text() == f"{tmp_path}/t.%pmock:amd"
    document = pyvfio.json("trace", "-o", "t.%p", "--", sys.executable, "-c", "pass")
    assert document == {"file": "t.%p", "events": None, "program_exit_code": 0}


def test_trace_counts_the_events_of_its_file(pyvfio: Command, tmp_path: Path) -> None:
    file = tmp_path / "t"
    code = f"import json; json.dump({{'traceEvents': [1, 2]}}, open({str(file)!r}, 'w'))"
    assert pyvfio("trace", "-o", str(file), "--", sys.executable, "-c", code).out == f"{file}: 2 events\n"


def test_trace_of_a_program_that_was_killed_fails(pyvfio: Command, tmp_path: Path) -> None:
    code = "import os; os.kill(os.getpid(), 9)"
    document = pyvfio.json("trace", "-o", str(tmp_path / "t"), "--", sys.executable, "-c", code, code=1)
    assert document["program_exit_code"] == -9


def test_replay_takes_another_device(pyvfio: Command, kernel: mock.Kernel, tmp_path: Path) -> None:
    from pyvfio.tracing import trace

    file = tmp_path / "t"
    with trace(file):
        pyvfio("migrate", "vfio-mock.0")
    same = pyvfio("replay", str(file))
    made = json.loads(pyvfio("replay", "--json", str(file)).out)
    assert made["differences"] == []
    assert same.out.splitlines()[-1] == (
        f"{made['made']} requests made again, 0 answered otherwise, {len(made['skipped'])} skipped"
    )
    assert [line for line in same.out.splitlines() if line.startswith("skipped: ")] == [
        f"skipped: {line}" for line in made["skipped"]
    ]
    assert pyvfio("replay", str(file), "--device", "vfio-mock.0=vfio-mock.1").code == 0
    ran = pyvfio("replay", str(file), "--device", "vfio-mock.0=vfio-mock.9")
    assert ran.code == 0
    assert "skipped: open /dev/vfio/devices/vfio1: [Errno 19] no device vfio-mock.9" in ran.out
    ran = pyvfio("replay", str(file), "--device", "vfio-mock.0=vfio-mock.1", "--device", "x")
    assert (ran.code, ran.err) == (2, "pyvfio: --device x: write OLD=NEW\n")
