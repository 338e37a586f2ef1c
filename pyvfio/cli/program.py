# SPDX-License-Identifier: MIT
"""The entry of the command: it selects the subcommand, parses the arguments and reports errors."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from pyvfio import __version__
from pyvfio.cli import exit_code
from pyvfio.cli.call import Call, NothingFound, UsageError
from pyvfio.cli.output import Output
from pyvfio.cli.words import for_shell
from pyvfio.errors import Error
from pyvfio.kernel import Kernel, resolve

#: subcommand -> its line of help. The module of the same name, with `_` for `-`, has the rest.
COMMANDS = {
    "list": "list the devices that VFIO serves or could serve",
    "show": "show a device: state, driver, group, IOMMU, nodes, reserved regions",
    "doctor": "say whether a device, or this host, can be used, why not, and what to do",
    "bind": "bind devices to a driver, vfio-pci unless another is named; they stay bound",
    "unbind": "unbind devices from their drivers",
    "restore": "bind devices to the drivers that they had before `bind`",
    "run": "open a device once and make many steps with it: peek, poke, poll, alloc, wait, ...",
    "shell": "open a device and start Python with it",
    "peek": "read registers of a region",
    "poke": "write a register of a region; with a mask, some of its bits",
    "dump": "print bytes of a region",
    "config": "read and write configuration space by setpci's names",
    "iova": "say whether IOVAs may be mapped for a device, and if not why",
    "qemu-log": "say whether a device takes what QEMU asked it to log, and what would do",
    "reset": "reset a function, or its bus or slot",
    "irq": "print interrupts as they come",
    "dirty": "print the pages that a device writes, per interval",
    "migrate": "show the migration states of a device, save its state, or load one",
    "sriov": "show, create or remove virtual functions",
    "trace": "run a program and write its requests to a file",
    "replay": "make the requests of a trace again, and print what is answered otherwise",
    "check": "put a device through the conformance checks",
    "serve": "serve device models by vfio-user, for QEMU or for another process",
    "report": "write one anonymised file for a bug report",
    "completion": "print the completions of a shell",
    "manual": "print the manual page",
}

DESCRIPTION = """Drive devices through the Linux VFIO and iommufd interfaces.

Opening a device resets the function where it can be reset, and turns bus master off; closing it does so again. So
two commands in a row do not see each other's registers: `run` and `shell` make several steps with the device open."""
EPILOG = """An ADDRESS is a PCI address (0000:41:10.1, 41:10.1, or 10.1 on bus 0), a VFIO device (vfio0), or the name of a
device on another bus. Exit codes: 0 done; 1 refused, failed, or something was found wrong; 2 wrong usage; 3 no such device
or nothing found."""


class _Interrupted(KeyboardInterrupt):
    """A signal that ends the program. Open devices are closed, and devices that were bound for the command are restored."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class _WrongUsage(SystemExit):
    """The arguments are wrong; the parser has printed the reason on standard error."""

    def __init__(self, message: str) -> None:
        super().__init__(exit_code.USAGE)
        self.message = message


class _Parser(argparse.ArgumentParser):
    """A parser whose optional positional arguments may stand behind options: `run ADDRESS --bind SCRIPT`."""

    _nested = False

    def error(self, message: str) -> NoReturn:
        """Report wrong arguments."""
        try:
            super().error(message)
        except SystemExit:
            raise _WrongUsage(message) from None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as :meth:`parse_known_intermixed_args` does, where that is possible."""
        rest = any(action.nargs in (argparse.REMAINDER, argparse.PARSER) for action in self._actions)
        if self._nested or rest:
            return super().parse_known_args(args, namespace)
        self._nested = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._nested = False


def parser(only: str | None = None) -> _Parser:
    """Return the parser of the command.

    :param only: the subcommand whose arguments are wanted; None for all of them (completion, the manual page)
    """
    top = _Parser(
        prog="pyvfio",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"pyvfio {__version__}")
    _add_common(top, None)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, line in COMMANDS.items():
        if only not in (None, name):
            commands.add_parser(name, help=line, add_help=False)
            continue
        command = _module(name)
        own = commands.add_parser(
            name,
            help=line,
            description=(command.__doc__ or line).strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add_common(own, argparse.SUPPRESS)
        command.add_arguments(own)
    return top


def _add_common(to: argparse.ArgumentParser, default: Any) -> None:
    """Add the options of every subcommand, which may stand before and after its name."""
    options = to.add_argument_group("options of every command") if default else to
    options.add_argument(
        "--kernel",
        metavar="NAME",
        default=default,
        help="linux, or mock:PROFILE for a kernel in this process (intel-39, amd, mlx5, ...); default: $PYVFIO_KERNEL, else linux",
    )
    options.add_argument("--json", action="store_true", default=default or False, help="print JSON")


def _module(name: str) -> Any:
    """Load the module of a subcommand."""
    return import_module(f"pyvfio.cli.commands.{name.replace('-', '_')}")


def main(arguments: Sequence[str] | None = None, *, kernel: Kernel | None = None) -> int:
    """Run the command and return its exit code.

    :param arguments: without the program's name; None for those of this process
    :param kernel: the kernel to use in place of the one that `--kernel` names
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    only = next((one for one in given if one in COMMANDS), "")
    try:
        parsed = parser(only).parse_args(given)
    except _WrongUsage as wrong:
        if "--json" in given:
            _document_error(Output(), wrong.message, None, [], exit_code.USAGE)
        return exit_code.USAGE
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else exit_code.USAGE
    out = Output(parsed.json)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn  # type: ignore[assignment]  # it takes fewer arguments by name
            if kernel is None:
                kernel = resolve(parsed.kernel)
            code: int = _module(parsed.command).execute(Call(parsed, kernel, out, parser))
            out.stream.flush()
            return code
    except BrokenPipeError as error:
        if isinstance(error, Error):
            return _failed(error, out, exit_code.FAILED)
        return _output_gone()
    except (UsageError, ValueError, TypeError) as error:
        if isinstance(error, Error):
            return _failed(error, out, exit_code.FAILED)
        return _failed(error, out, exit_code.USAGE)
    except NothingFound as error:
        return _failed(error, out, exit_code.NOTHING)
    except OSError as error:
        return _failed(error, out, exit_code.FAILED)


def _failed(error: Exception, out: Output, code: int) -> int:
    """Report an error on standard error, and with `--json` as a document too."""
    text = str(error) if not isinstance(error, OSError) or error.strerror is None else str(error.strerror)
    if isinstance(error, OSError) and error.filename is not None and not isinstance(error, Error):
        text = f"{os.fsdecode(error.filename)}: {text}"
    text = for_shell(text)
    notes = [for_shell(note) for note in getattr(error, "__notes__", ())]
    print(f"pyvfio: {text}", file=sys.stderr)
    for note in notes:
        print(f"  {note}", file=sys.stderr)
    if out.json:
        number = getattr(error, "errno", None)
        _document_error(out, text, errno.errorcode.get(number) if number else None, notes, code)
    return code


def _document_error(out: Output, text: str, name: str | None, notes: list[str], code: int) -> None:
    try:
        out.document({"error": {"message": text, "errno": name, "notes": notes, "exit_code": code}})
        out.stream.flush()
    except OSError:
        _output_gone()


def _output_gone() -> int:
    """Point standard output to /dev/null, so that Python's own flush at the end does not fail as well."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass  # standard output is not a file of the process
    return exit_code.FAILED


def _warn(message: Warning | str, *_: object) -> None:
    print(f"pyvfio: {for_shell(str(message))}", file=sys.stderr)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise _Interrupted(number)


def _complete_streams() -> None:
    """Make output streams that accept any text, even if the shell has closed them, and with any locale."""
    # Otherwise the first device that is opened would get the number of a closed stream.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_program() -> NoReturn:
    """Run the command as a program: SIGTERM and SIGHUP end it as Ctrl-C does, with everything closed and restored."""
    _complete_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)
    code = exit_code.DONE
    try:
        code = main()
        sys.stdout.flush()
    except OSError as error:
        # Report nothing if the reader has gone (EPIPE), or if main() has failed and reported that already.
        if code == exit_code.DONE and not isinstance(error, BrokenPipeError):
            _failed(error, Output(False), exit_code.FAILED)
        code = _output_gone()
    except KeyboardInterrupt as interrupted:
        number = getattr(interrupted, "number", signal.SIGINT)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        code = exit_code.FAILED
    sys.exit(code)
