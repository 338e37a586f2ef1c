# SPDX-License-Identifier: MIT
"""Unbind devices from their drivers. They stay without one; `restore` puts them back.

The kernel gives such a device a driver again when it looks for one: when a module is loaded, or the bus is scanned."""

from __future__ import annotations

from argparse import ArgumentParser

from pyvfio import host
from pyvfio.cli import addresses, exit_code
from pyvfio.cli.call import Call
from pyvfio.cli.commands.bind import add_binding_options, print_binding


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser, nargs="+")
    add_binding_options(parser)


def execute(call: Call) -> int:
    """Unbind the devices."""
    given = call.arguments
    found = [addresses.device(call.kernel, one) for one in given.address]
    before = {one.address: one.driver for one in found}
    binding = host.unbind(
        found, allow_in_use=given.allow_in_use, timeout=given.timeout, dry_run=given.dry_run, kernel=call.kernel
    )
    print_binding(call, binding, before)
    return exit_code.DONE
