# SPDX-License-Identifier: MIT
"""List the devices that VFIO serves or could serve, from sysfs alone. No device is opened."""

from __future__ import annotations

from argparse import ArgumentParser

from pyvfio import host
from pyvfio.cli import describe, exit_code
from pyvfio.cli.call import Call

_STATES = ("vfio", "kernel", "unbound")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument(
        "--state",
        choices=_STATES,
        help="only devices bound to a VFIO driver, to a driver of the kernel's own, or to none",
    )
    parser.add_argument("--bus", help="only devices on this bus: pci, platform, mdev, ...")
    parser.add_argument("--driver", help="only devices that are bound to this driver")
    parser.add_argument("--id", metavar="VENDOR[:DEVICE]", help="only PCI devices with these ids, hexadecimal")
    parser.add_argument(
        "--class", dest="class_", metavar="CLASS", help="only PCI classes that begin so, for example 02"
    )
    parser.add_argument("--group", type=int, metavar="NUMBER", help="only devices of this IOMMU group")


def execute(call: Call) -> int:
    """List the devices."""
    given = call.arguments
    uses = host.uses(call.kernel)
    documents = []
    for found in host.devices(call.kernel):
        if (
            (given.state and describe.state(found) != given.state)
            or (given.bus and found.bus != given.bus)
            or (given.driver and found.driver != given.driver)
            or (given.group is not None and found.group != given.group)
        ):
            continue
        holders = host.holders_of(found.nodes, call.kernel) if found.vfio is not None else []
        document = describe.device_document(found, uses, [str(holder) for holder in holders])
        if given.id and not _has_id(describe.ids(document), given.id):
            continue
        if given.class_ and not (document["class"] or "").startswith(given.class_.lower().removeprefix("0x")):
            continue
        documents.append(document)
    if call.out.json:
        call.out.document({"devices": documents})
    elif documents:
        call.out.table(
            ("ADDRESS", "ID", "STATE", "DRIVER", "GROUP", "NODES", "IN USE BY", "NAME"),
            [
                (
                    one["address"],
                    describe.ids(one),
                    one["state"],
                    one["driver"] or "-",
                    "-" if one["group"] is None else one["group"],
                    describe.node(one),
                    "; ".join(one["uses"] + one["holders"]),
                    describe.name(one),
                )
                for one in documents
            ],
        )
    else:
        call.out.line("no device")
    return exit_code.DONE if documents else exit_code.NOTHING


def _has_id(ids: str, wanted: str) -> bool:
    vendor, _, device = wanted.lower().partition(":")
    return ids.startswith(f"{vendor.removeprefix('0x'):0>4}:") and (
        not device or ids.endswith(f":{device.removeprefix('0x'):0>4}")
    )
