# SPDX-License-Identifier: MIT
"""Say whether a device, or this host, can be used through VFIO, why not, and what to do, in the order to do it.

Each finding has an id, the evidence that it was recognised by, and a cure. Nothing is changed; the device's own node is
opened for a moment, which does not reset the device. Hints do not keep the device from being used. The exit code is 0
if nothing keeps the device, or the host, from being used."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from pyvfio import host
from pyvfio.cli import addresses, describe, exit_code
from pyvfio.cli.call import Call
from pyvfio.cli.numbers import size
from pyvfio.cli.output import Output
from pyvfio.host.examination import NEEDS, Examination, diagnose, diagnose_host


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser, nargs="?")
    parser.add_argument(
        "--guest-memory",
        type=size,
        metavar="SIZE",
        help="also ask whether a guest with so much memory fits the address space and the limits: 64G, 1T, ...",
    )
    parser.add_argument(
        "--need", action="append", default=[], choices=NEEDS, help="what else has to work; may be repeated"
    )


def execute(call: Call) -> int:
    """Examine the device or the host."""
    given = call.arguments
    if given.address is None:
        examined = diagnose_host(call.kernel, guest_memory=given.guest_memory, need=given.need)
        subject = "this host"
    else:
        found = addresses.device(call.kernel, given.address)
        examined = diagnose(found, call.kernel, guest_memory=given.guest_memory, need=given.need)
        subject = found.address
    document = _document(subject, examined)
    if call.out.json:
        call.out.document(document)
    else:
        _print(call.out, document)
        if given.address is None:
            _print_devices(call)
    return exit_code.DONE if document["usable"] else exit_code.FAILED


def _document(subject: str, examined: Examination) -> dict[str, Any]:
    return {
        "subject": subject,
        "usable": not examined.findings and not examined.unknown,
        "findings": [describe.finding_document(one) for one in examined.findings],
        "hints": [describe.finding_document(one) for one in examined.hints],
        "unknown": list(examined.unknown),
        "facts": examined.facts,
    }


def _print(out: Output, document: dict[str, Any]) -> None:
    for number, one in enumerate(document["findings"], 1):
        _print_finding(out, f"{number}. ", one)
    for line in document["unknown"]:
        out.line(f"unknown: {line}")
    if document["hints"]:
        out.line("hints:")
    for one in document["hints"]:
        _print_finding(out, "- ", one)
    subject = document["subject"]
    if document["usable"]:
        out.line(f"{subject} can be used through VFIO: nothing was found that keeps it from that")
    elif document["findings"]:
        out.line(f"{subject} cannot be used yet: {len(document['findings'])} found, in the order to deal with them")
    else:
        out.line(f"{subject}: it is not known whether it can be used")


def _print_finding(out: Output, mark: str, one: dict[str, Any]) -> None:
    out.line(f"{mark}[{one['id']}] {one['reason']}")
    for evidence in one["evidence"]:
        out.line(f"   evidence: {evidence}")
    if one["cure"]:
        out.line(f"   what to do: {one['cure']}")


def _print_devices(call: Call) -> None:
    """List the devices with what keeps each from being used."""
    rows = []
    for found in host.devices(call.kernel):
        finding = found.finding
        rows.append((found.address, describe.state(found), "-" if finding is None else finding.id))
    if rows:
        call.out.line()
        call.out.table(("DEVICE", "STATE", "FIRST OBSTACLE"), rows)
