# SPDX-License-Identifier: MIT
"""The command line of scripts/vm."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from vmtest.exit_code import ExitCode, MachineError
from vmtest.iommus import IOMMUS
from vmtest.machine import Machine, Settings
from vmtest.problems import Problem, say
from vmtest.qemu import CHOICES, require_qemu
from vmtest.translation import require_check

BUILD_KERNEL = Path(__file__).resolve().parents[1] / "build_kernel"
MISSING, NO_MODULE = 3, 5  # exit codes of build_kernel


def require_kernel(version: str | None) -> dict[str, Any]:
    """Run `scripts/build_kernel --json`, which builds the kernel if necessary, and return its output."""
    command = [sys.executable, str(BUILD_KERNEL), "--json"]
    if version:
        command += ["--kernel", version]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode == NO_MODULE:
        say("a module of tests/ does not build; the machine goes without it")
    elif built.returncode:
        raise MachineError("no kernel", ExitCode.CANNOT_RUN if built.returncode == MISSING else ExitCode.MACHINE_FAILED)
    paths: dict[str, Any] = json.loads(built.stdout)
    return paths


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Run a command on a real kernel with /dev/vfio, in a virtual machine.")
    parser.add_argument("--iommu", choices=IOMMUS, default="intel", help="the emulated IOMMU (default: %(default)s)")
    parser.add_argument(
        "--kernel",
        metavar="VERSION",
        help="such as 7.3, 6.12 or 6.1; `debug` is the newest with debugging; without it the newest",
    )
    parser.add_argument(
        "--qemu", metavar="|".join(CHOICES),
        help="the installed QEMU, or another that is taken from Debian's packages (default: system; with --device newest)",
    )  # fmt: skip
    parser.add_argument(
        "--device", metavar="vfio-user:PATH", action="append", default=[],
        help="a device of the server that listens there (`pyvfio serve MODEL PATH`), at an address of its own; several are allowed",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=600, help="default: %(default)s; from power-on"
    )
    parser.add_argument(
        "--silence", metavar="SECONDS", type=float, default=60,
        help="without a sign of life of the guest, after which it is stalled (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--memory", metavar="SIZE", default="2800M", help="of the guest (default: %(default)s)")
    parser.add_argument("--cpus", metavar="NUMBER", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--frozen", metavar="DIR", type=Path, action="append", default=[],
        help="a part of the current directory that nobody changes meanwhile, CMD neither: read-only, and faster",
    )  # fmt: skip
    parser.add_argument("--append", metavar="PARAMETERS", default="", help="further kernel parameters")
    parser.add_argument("--log", metavar="FILE", type=Path, help="keep the kernel's log there")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the kernel's log on stderr as it comes")
    parser.add_argument("command", metavar="CMD", nargs="+")
    return parser.parse_args(arguments)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Check the arguments, and find or install the machine's requirements.

    :raises MachineError: an argument is wrong, or something is missing
    """
    here = Path.cwd()
    if here == Path("/"):
        raise MachineError(
            "the current directory becomes writable in the guest; change to one that is not /", ExitCode.USAGE
        )
    for path in arguments.frozen:
        if not (path.is_dir() and path.absolute().is_relative_to(here)):
            raise MachineError(f"--frozen {path}: not a directory below the current one", ExitCode.USAGE)
    sockets = [_socket(name) for name in arguments.device]
    qemu = require_qemu(arguments.qemu or ("newest" if sockets else "system"))
    say(f"QEMU {qemu.version}")
    return Settings(
        command=arguments.command,
        qemu=qemu,
        kernel=require_kernel(arguments.kernel),
        check=require_check(),
        here=here,
        iommu=arguments.iommu,
        timeout=arguments.timeout,
        memory=arguments.memory,
        cpus=arguments.cpus,
        frozen=[path.absolute() for path in arguments.frozen],
        append=arguments.append,
        log=arguments.log,
        verbose=arguments.verbose,
        silence=arguments.silence,
        sockets=sockets,
    )


def _socket(name: str) -> Path:
    """Return the path of the socket in a `--device` option.

    :raises MachineError: the option is not `vfio-user:PATH`, or the path is not a socket
    """
    kind, _, path = name.partition(":")
    if kind != "vfio-user" or not path:
        raise MachineError(f"--device {name}: write vfio-user:PATH", ExitCode.USAGE)
    if not Path(path).is_socket():
        raise MachineError(f"--device {name}: no server is there; start `pyvfio serve MODEL {path}`", ExitCode.USAGE)
    return Path(path).absolute()


def _exit_code(problem: Problem) -> ExitCode:
    return problem.code if isinstance(problem, MachineError) else ExitCode.CANNOT_RUN


def _raise_interrupt(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def main() -> int:
    """Run the command line's command in a machine, and return the exit code."""
    arguments = parse_arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_interrupt)
    try:
        settings = settings_of(arguments)
    except Problem as problem:
        say(str(problem))
        return _exit_code(problem)
    with tempfile.TemporaryDirectory(prefix="pyvfio-vm-") as directory:
        try:
            with contextlib.closing(Machine(settings, Path(directory))) as machine:
                return machine.run()
        except BrokenPipeError:
            return 128 + signal.SIGPIPE
        except Problem as problem:
            say(str(problem))
            return _exit_code(problem)
