# SPDX-License-Identifier: MIT
"""Run a program with PYVFIO_TRACE: the requests that it makes through pyvfio are written to a file when it ends.

https://ui.perfetto.dev shows the file; `replay` makes the requests again. The exit code is the program's."""

from __future__ import annotations

import json
import os
import subprocess
from argparse import REMAINDER, ArgumentParser
from pathlib import Path

from pyvfio.cli import exit_code
from pyvfio.cli.call import Call, UsageError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument(
        "-o",
        "--output",
        default="trace.json",
        metavar="FILE",
        help="where the requests are written; %%p in it is the process's number (%(default)s)",
    )
    parser.add_argument("program", metavar="PROGRAM", nargs=REMAINDER, help="the program and its arguments, behind --")


def execute(call: Call) -> int:
    """Run the program."""
    given = call.arguments
    program = given.program[1:] if given.program[:1] == ["--"] else given.program
    if not program:
        raise UsageError("trace: which program? pyvfio trace -- python3 program.py")
    environment = {**os.environ, "PYVFIO_TRACE": os.path.abspath(given.output)}
    if given.kernel:
        environment["PYVFIO_KERNEL"] = given.kernel
    done = subprocess.run(program, env=environment, check=False)
    file = Path(given.output)
    events = len(json.loads(file.read_text())["traceEvents"]) if "%p" not in given.output and file.exists() else None
    if call.out.json:
        call.out.document({"file": given.output, "events": events, "program_exit_code": done.returncode})
    elif events is None and "%p" not in given.output:
        call.out.line(f"no trace: the program did not import pyvfio, or was killed ({given.output} does not exist)")
    else:
        call.out.line(f"{given.output}: {'one file a process' if events is None else f'{events} events'}")
    if done.returncode < 0:
        return exit_code.FAILED
    return done.returncode
