# SPDX-License-Identifier: MIT
"""Print bytes of a region of a device. The kernel chooses the width of each access.

A device that answers accesses of one width alone, as QEMU's edu, shows ff at other widths: `peek REGION 0x0.l 16` reads
16 registers of 32 bits.

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
    parser.add_argument(
        "offset", metavar="OFFSET", nargs="?", default="0", help="bytes from the start of the region (0)"
    )
    parser.add_argument("size", metavar="SIZE", nargs="?", help="default: to the end, at most 256 bytes")
    session.add_options(parser)


def execute(call: Call) -> int:
    """Print the bytes."""
    given = call.arguments
    return make(call, "dump", [given.region, given.offset, *([given.size] if given.size else [])])
