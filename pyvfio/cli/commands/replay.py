# SPDX-License-Identifier: MIT
"""Make the requests of a trace again, on the kernel that --kernel names, and print where its answers differ.

The exit code is 1 if an answer differs."""

from __future__ import annotations

from argparse import ArgumentParser

from pyvfio import tracing
from pyvfio.cli import exit_code
from pyvfio.cli.call import Call, UsageError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("file", metavar="FILE", help="a trace of `pyvfio trace`")
    parser.add_argument(
        "--device", action="append", default=[], metavar="OLD=NEW", help="take NEW for the trace's device OLD"
    )


def execute(call: Call) -> int:
    """Replay the trace."""
    given = call.arguments
    if wrong := [one for one in given.device if "=" not in one]:
        raise UsageError(f"--device {wrong[0]}: write OLD=NEW")
    try:
        events = tracing.load(given.file)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{given.file} is not a trace: {error}") from None
    again = tracing.Replay(call.kernel, dict(one.split("=", 1) for one in given.device))
    differences = [str(one) for one in again.run(events)]
    if call.out.json:
        call.out.document(
            {"made": again.made, "differences": differences, "skipped": [str(one) for one in again.skipped]}
        )
    else:
        for difference in differences:
            call.out.line(difference)
        for line in again.skipped:
            call.out.line(f"skipped: {line}")
        call.out.line(
            f"{again.made} requests made again, {len(differences)} answered otherwise, {len(again.skipped)} skipped"
        )
    return exit_code.FAILED if differences else exit_code.DONE
