# SPDX-License-Identifier: MIT
"""Show the virtual functions of a physical function, create COUNT of them, or remove them all (0).

They can only be removed all at once. By default the kernel looks for no drivers for new ones, so that they can be bound."""

from __future__ import annotations

from argparse import ArgumentParser

from pyvfio import host
from pyvfio.cli import addresses, describe, exit_code
from pyvfio.cli.call import Call
from pyvfio.errors import Unsupported


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser)
    parser.add_argument("count", metavar="COUNT", nargs="?", type=int, help="how many; 0 removes them")
    parser.add_argument("--probe", action="store_true", help="let the kernel look for drivers for them")
    parser.add_argument(
        "--allow-in-use", action="append", default=[], metavar="NAME", help="a use that may break when they are removed"
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="to wait for the driver (%(default)s)"
    )


def execute(call: Call) -> int:
    """Show, create or remove virtual functions."""
    given = call.arguments
    found = addresses.device(call.kernel, given.address)
    if found.total_vfs is None:
        raise Unsupported(f"{found.address} has no SR-IOV capability, so it cannot have virtual functions")
    if given.count == 0:
        host.remove_vfs(found.address, allow_in_use=given.allow_in_use, timeout=given.timeout, kernel=call.kernel)
    elif given.count is not None:
        host.create_vfs(found.address, given.count, probe=given.probe, timeout=given.timeout, kernel=call.kernel)
    found = host.device(found.address, call.kernel)
    functions = [host.device(name, call.kernel) for name in found.virtual_functions]
    documents = [
        {"address": one.address, "state": describe.state(one), "driver": one.driver, "group": one.group}
        for one in functions
    ]
    if call.out.json:
        call.out.document({"address": found.address, "total_vfs": found.total_vfs, "virtual_functions": documents})
        return exit_code.DONE
    call.out.line(f"{found.address}: {len(functions)} of {found.total_vfs} virtual functions")
    if documents:
        call.out.table(
            ("ADDRESS", "STATE", "DRIVER", "GROUP"),
            [
                (one["address"], one["state"], one["driver"] or "-", "-" if one["group"] is None else one["group"])
                for one in documents
            ],
        )
    return exit_code.DONE
