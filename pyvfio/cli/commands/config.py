# SPDX-License-Identifier: MIT
"""Read and write registers of configuration space, by setpci's names: COMMAND, CAP_EXP+8.w, ECAP_AER+4.l, 04.w.

Values are hexadecimal. VFIO virtualises some registers, and drops writes to others without an error.

Opening the device resets the function where it can be reset, and closing it does so again. `run` makes several steps with the device open."""

from __future__ import annotations

from argparse import ArgumentParser

from pyvfio.cli import addresses, session
from pyvfio.cli.call import Call
from pyvfio.cli.one_step import make


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser)
    parser.add_argument("register", metavar="NAME[=VALUE[:MASK]]", nargs="+", help="the registers, in this order")
    session.add_options(parser)


def execute(call: Call) -> int:
    """Read and write the registers."""
    given = call.arguments
    return make(call, "config", given.register)
