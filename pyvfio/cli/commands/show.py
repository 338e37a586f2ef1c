# SPDX-License-Identifier: MIT
"""Show a device: state, driver, group and its members, IOMMU, nodes, reserved regions, power, reset methods, virtual functions.

All of it is read from sysfs, and the device is left alone. With --open also what VFIO says of it: regions, interrupts,
features, usable IOVAs, and the configuration space, which lspci decodes if it is installed."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from pyvfio import host
from pyvfio.cli import addresses, describe, exit_code, opened_device, session
from pyvfio.cli.call import Call, UsageError
from pyvfio.cli.output import address
from pyvfio.host import HostDevice
from pyvfio.host.sysfs import attribute, entries, link_name
from pyvfio.kernel import Kernel


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser)
    parser.add_argument("--tree", action="store_true", help="show the bridges above it, and what shares them")
    parser.add_argument("--open", action="store_true", help=f"open the device too. {session.OPENING}")
    parser.add_argument(
        "--pid",
        type=int,
        metavar="PID",
        help="show the device as --open does, through the descriptor of a program that has it open; nothing is reset",
    )
    session.add_options(parser)


def execute(call: Call) -> int:
    """Show the device."""
    found = _named(call.kernel, addresses.device(call.kernel, call.arguments.address))
    if call.arguments.open and call.arguments.pid is not None:
        raise UsageError("--open and --pid were given: one of them")
    document = _document(call.kernel, found)
    if call.arguments.tree:
        document["tree"] = _tree(call.kernel, found)
    if call.arguments.open:
        with session.opened(call) as device:
            document["opened"] = opened_device.document(device)
    elif call.arguments.pid is not None:
        with session.taken(call, found) as device:
            document["opened"] = opened_device.document(device)
    if call.out.json:
        call.out.document(document)
        return exit_code.DONE
    _print(call, document)
    if "opened" in document:
        call.out.line()
        opened_device.show(call.out, document["opened"], name=found.address)
    return exit_code.DONE


def _named(kernel: Kernel, found: HostDevice) -> HostDevice:
    """Return a device with its names in the hardware database, which only host.devices() looks up."""
    return next((one for one in host.devices(kernel) if one.path == found.path), found)


def _document(kernel: Kernel, found: HostDevice) -> dict[str, Any]:
    holders = [str(holder) for holder in host.holders_of(found.nodes, kernel)]
    document = describe.device_document(found, host.uses(kernel), holders)
    document |= _power(kernel, found)
    document["reset_methods"] = _words(kernel, f"{found.path}/reset_method")
    document["path"] = found.path
    document["numa_node"] = found.numa_node
    document["iommu_group"] = None
    document["reserved_regions"] = []
    if found.group is not None:
        facts = host.group(found.group, kernel)
        document["iommu_group"] = {
            "number": facts.number,
            "type": facts.type,
            "members": facts.members,
            "in_the_way": facts.in_the_way,
        }
        document["reserved_regions"] = [
            {"start": address(one.range.start), "last": address(one.range.last), "type": one.type}
            for one in facts.reserved_regions
        ]
    finding = found.finding
    document["finding"] = None if finding is None else describe.finding_document(finding)
    return document


def _power(kernel: Kernel, found: HostDevice) -> dict[str, Any]:
    speed, width = (attribute(kernel, f"{found.path}/current_link_{word}") for word in ("speed", "width"))
    return {
        "power_state": attribute(kernel, f"{found.path}/power_state"),
        "runtime_status": attribute(kernel, f"{found.path}/power/runtime_status"),
        "d3cold_allowed": {"0": False, "1": True}.get(attribute(kernel, f"{found.path}/d3cold_allowed") or ""),
        "link": f"{speed} x{width}" if speed and width and width != "0" else None,
    }


def _words(kernel: Kernel, path: str) -> list[str]:
    return (attribute(kernel, path) or "").split()


def _tree(kernel: Kernel, found: HostDevice) -> list[dict[str, Any]]:
    """Return the PCI functions from the root to the device, and its functions' neighbours, each with its depth."""
    parts = found.path.split("/")[3:]
    lines: list[dict[str, Any]] = []
    for depth, part in enumerate(parts[:-1]):
        path = "/sys/devices/" + "/".join(parts[: depth + 1])
        lines.append({"depth": depth, "address": part, **_what(kernel, path)})
    above = found.path.rpartition("/")[0]
    for name in entries(kernel, above):
        path = f"{above}/{name}"
        if link_name(kernel, f"{path}/subsystem") == found.bus:
            lines.append({"depth": len(parts) - 1, "address": name, **_what(kernel, path)})
    return lines


def _what(kernel: Kernel, path: str) -> dict[str, Any]:
    group = link_name(kernel, f"{path}/iommu_group")
    vendor, device = (attribute(kernel, f"{path}/{word}") for word in ("vendor", "device"))
    return {
        "driver": link_name(kernel, f"{path}/driver"),
        "group": None if group is None else int(group),
        "id": f"{vendor[2:]}:{device[2:]}" if vendor and device else None,
    }


def _print(call: Call, document: dict[str, Any]) -> None:
    out = call.out
    group = document["iommu_group"]
    regions = [f"{one['start']}-{one['last']} {one['type']}" for one in document["reserved_regions"]]
    mates = [
        f"{name} ({driver or 'no driver'})"
        for name, driver in (group or {"members": {}})["members"].items()
        if name != document["address"]
    ]
    total = document["total_vfs"]
    vfs = document["virtual_functions"]
    out.fields(
        (
            ("address", document["address"]),
            ("id", describe.ids(document)),
            ("name", describe.name(document)),
            ("class", document["class"]),
            ("state", document["state"]),
            ("driver", document["driver"] or "none"),
            ("driver override", document["driver_override"]),
            ("in use by", "; ".join(document["uses"])),
            ("open in", "; ".join(document["holders"])),
            ("IOMMU", document["iommu"] or ("none" if group is None else "none of its own")),
            (
                "group",
                "none"
                if group is None
                else f"{group['number']}" + (f", type {group['type']}" if group["type"] else ""),
            ),
            ("group members", ", ".join(mates)),
            ("group node", document["group_node"]),
            ("device node", document["cdev"]),
            ("reserved", ", ".join(regions)),
            ("NUMA node", document["numa_node"]),
            ("power", document["power_state"]),
            ("runtime power", document["runtime_status"]),
            ("D3cold allowed", {True: "yes", False: "no", None: None}[document["d3cold_allowed"]]),
            ("link", document["link"]),
            ("reset methods", " ".join(document["reset_methods"]) or ("none" if document["bus"] == "pci" else None)),
            ("physical function", document["physical_function"]),
            (
                "virtual functions",
                None if total is None else f"{len(vfs)} of {total}" + (f": {', '.join(vfs)}" if vfs else ""),
            ),
        )
    )
    for line in document.get("tree", ()):
        more = [line["id"], line["driver"], None if line["group"] is None else f"group {line['group']}"]
        mark = " <-" if line["address"] == document["address"] else ""
        out.line(f"{'  ' * line['depth']}{line['address']}  {', '.join(one for one in more if one)}{mark}".rstrip())
    # With --bind the device was bound meanwhile, and the finding is from before that.
    if (finding := document["finding"]) is not None and "opened" not in document:
        out.line()
        out.line(f"not usable yet: {finding['reason']}")
        if finding["cure"]:
            out.line(f"what to do: {finding['cure']}")
