# SPDX-License-Identifier: MIT
"""Write a register of a device; with a mask, some of its bits: then it is read first.

Opening the device resets the function where it can be reset, and closing it does so again. `run` makes several steps with the device open."""

from __future__ import annotations

from argparse import ArgumentParser

from pyvfio.cli import addresses, session
from pyvfio.cli.call import Call
from pyvfio.cli.one_step import make


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser)
    parser.add_argument("region", metavar="REGION", help="bar0 to bar5, rom, config, or a number")
    parser.add_argument("offset", metavar="OFFSET[.W]", help="W: b, w, l (the default) or q, for 8, 16, 32 or 64 bits")
    parser.add_argument("value", metavar="VALUE[:MASK]", help="the value, and the bits of it that are written")
    session.add_options(parser)


def execute(call: Call) -> int:
    """Write the register."""
    given = call.arguments
    return make(call, "poke", [given.region, given.offset, given.value])
