# SPDX-License-Identifier: MIT
"""Reset a device: the function alone, or with --hot its bus or slot with all devices on it.

All devices that a hot reset affects have to be owned here; --list names them, and resets nothing."""

from __future__ import annotations

from argparse import ArgumentParser

from pyvfio.cli import addresses, exit_code, session
from pyvfio.cli.call import Call


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser)
    parser.add_argument("--hot", action="store_true", help="reset the bus or slot")
    parser.add_argument("--list", action="store_true", help="list what a hot reset affects; reset nothing")
    session.add_options(parser)


def execute(call: Call) -> int:
    """Reset the device."""
    given = call.arguments
    hot = given.hot or given.list
    with session.opened(call) as device:
        affected = [one.address for one in device.hot_reset_info.devices] if hot else [device.address]
        if not given.list:
            device.hot_reset() if hot else device.reset()
        document = {
            "address": device.address,
            "kind": "hot" if hot else "function",
            "affected": affected,
            "done": not given.list,
        }
    if call.out.json:
        call.out.document(document)
    elif given.list:
        call.out.line(f"a hot reset of {document['address']} affects {', '.join(affected)}")
    else:
        call.out.line(f"{', '.join(affected)}: reset")
    return exit_code.DONE
