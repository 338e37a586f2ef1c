# SPDX-License-Identifier: MIT
"""Open a device once and make many steps with it, one a line, of a script or of standard input.

The first step that fails ends the script, with exit code 1; the device is closed in any case. A # begins a comment."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from pyvfio.cli import addresses, exit_code, session, steps
from pyvfio.cli.call import Call, UsageError

EPILOG = f"""steps:
{steps.described()}

A REGION is bar0 to bar5, rom, config, its number, or @NAME for memory. W is the width: b, w, l (the default) or q, for
8, 16, 32 or 64 bits. Numbers are decimal, or hexadecimal with 0x; K, M and G are powers of 1024; $NAME+0x10 is a sum,
and $? is what was read last.

example:
  alloc buffer 4K
  poke bar0 0x80.q $buffer          # the IOVA
  master on
  poke bar0 0x98 1:0x1              # set one bit
  poll bar0 0x98 0:0x1 2            # at most two seconds
  dump @buffer 0 64"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.epilog = EPILOG
    addresses.add_address(parser)
    parser.add_argument("script", metavar="SCRIPT", nargs="?", help="a file; - or nothing for standard input")
    parser.add_argument(
        "-c", "--step", action="append", metavar="LINE", help="a step, in place of a script; may be repeated"
    )
    session.add_options(parser)


def execute(call: Call) -> int:
    """Run the script."""
    if call.arguments.step and call.arguments.script:
        raise UsageError("a script and -c were given: one of them")
    lines = _lines(call)
    with session.opened(call) as device:
        made = steps.Session(device)
        for place, number, line in lines:
            try:
                done = made.run(line)
            except OSError as error:
                error.add_note(f"{place}:{number}: {line.strip()}")
                raise
            except (UsageError, ValueError, TypeError) as error:
                raise UsageError(f"{place}:{number}: {error}") from None
            if done is None:
                continue
            if call.out.json:
                call.out.event({"line": number, **done.document})
            elif done.text:
                call.out.raw(done.text)
                call.out.stream.flush()
    return exit_code.DONE


def _lines(call: Call) -> Iterator[tuple[str, int, str]]:
    """Yield each line with its file and line number. The file is opened before the device."""
    given = call.arguments
    if given.step:
        return iter([("-c", number, line) for number, line in enumerate(given.step, 1)])
    if given.script in (None, "-"):
        return (("stdin", number, line) for number, line in enumerate(sys.stdin, 1))
    text = Path(given.script).read_text(encoding="utf-8")
    return iter([(given.script, number, line) for number, line in enumerate(text.splitlines(), 1)])
