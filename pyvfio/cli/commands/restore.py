# SPDX-License-Identifier: MIT
"""Bind devices to the drivers that they had before `bind`.

Without an ADDRESS: all devices that `bind`, and programs that have ended, left bound. A device that a running program keeps
bound is left alone, and so is one that was bound to something else since."""

from __future__ import annotations

from argparse import ArgumentParser

from pyvfio import host
from pyvfio.cli import addresses, exit_code
from pyvfio.cli.call import Call


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser, nargs="*")
    parser.add_argument("--list", action="store_true", help="list what would be restored; change nothing")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="to wait for a process to close it (%(default)s)"
    )


def _is_as_before(call: Call, entry: host.JournalEntry) -> bool:
    try:
        found = host.device(entry.address, call.kernel)
    except OSError:
        return False
    return (found.driver, found.driver_override) == (entry.previous_driver, entry.previous_override)


def execute(call: Call) -> int:
    """Restore the devices, or list them."""
    given = call.arguments
    wanted = [addresses.device(call.kernel, one).address for one in given.address]
    entries = {entry.address: entry for entry in host.bindings(call.kernel) if not wanted or entry.address in wanted}
    restored: list[str] = []
    if not given.list:
        for address in wanted or (None,):
            restored += host.restore(address, timeout=given.timeout, kernel=call.kernel)
        kept = {entry.address for entry in host.bindings(call.kernel)}
        # Count devices whose program was killed before its first write: they are unchanged, and only lose their entry in the journal.
        restored += [one for one in entries if one not in {*kept, *restored} and _is_as_before(call, entries[one])]
        for address in restored:
            host.revoke(address, call.kernel)
    documents = [
        {
            "address": entry.address,
            "driver": entry.driver,
            "previous_driver": entry.previous_driver,
            "pid": entry.pid,
            "restored": entry.address in restored,
        }
        for entry in entries.values()
    ]
    if call.out.json:
        call.out.document({"bindings": documents})
    else:
        for one in documents:
            previous = one["previous_driver"] or "no driver"
            now = "no driver" if one["driver"] == host.NO_DRIVER else one["driver"]
            if given.list:
                call.out.line(f"{one['address']}: {now}, was {previous} (bound by process {one['pid']})")
            elif one["restored"]:
                call.out.line(f"{one['address']}: {now} -> {previous}")
            else:
                call.out.line(
                    f"{one['address']}: left alone: process {one['pid']} keeps it bound, or it was bound to something else"
                )
        if not documents:
            call.out.line("nothing to restore")
    if wanted and not documents:
        return exit_code.NOTHING
    return exit_code.DONE if given.list or len(restored) == len(documents) else exit_code.FAILED
