# SPDX-License-Identifier: MIT
"""Say which ranges of DMA logging QEMU asked a device for, whether the device takes them, and what would do.

Run QEMU with -trace 'vfio_device_dirty_tracking*' -D FILE and start a migration once. Without --open the answer is computed
from known limits; with it the device is asked. The exit code is 1 if what QEMU asked for is refused."""

from __future__ import annotations

import errno
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from pyvfio.cli import exit_code, session
from pyvfio.cli.call import Call, NothingFound, UsageError
from pyvfio.cli.output import address
from pyvfio.guest import limits, planning, qemu
from pyvfio.iova import IovaRange

#: the strategies that are tried, most like QEMU's first
_STRATEGIES = ("split_32_64", "split_32_64_pci", "coalesced:3", "exact")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("file", metavar="FILE", help="QEMU's log; - for standard input")
    parser.add_argument("--limits", choices=sorted(limits.NAMED), default="mlx5", help="a device's (%(default)s)")
    parser.add_argument(
        "--max-ranges", type=int, metavar="NUMBER", help="with mlx5: the ranges that its firmware takes"
    )
    parser.add_argument(
        "--max-space", type=int, metavar="BITS", help="with mlx5: log2 of the bytes that its firmware takes"
    )
    parser.add_argument("--open", dest="address", metavar="ADDRESS", help=f"ask this device. {session.OPENING}")
    session.add_options(parser)


def execute(call: Call) -> int:
    """Explain the log."""
    given = call.arguments
    text = sys.stdin.read() if given.file == "-" else Path(given.file).read_text(encoding="utf-8", errors="replace")
    if "vfio_device_dirty_tracking_" not in text:
        raise NothingFound(
            errno.ENODATA,
            f"{given.file} has no line of dirty tracking: run QEMU with -trace 'vfio_device_dirty_tracking*'",
        )
    asked = qemu.read_start(text)
    device = _limits(call)
    fit = planning.fit(asked, device)
    document: dict[str, Any] = {
        "limits": device.name,
        "asked": [_document(one) for one in asked],
        "accepted": fit.accepted,
        "explanation": fit.explain(),
        "best": None if fit.best is None else [_document(one) for one in fit.best],
        "strategies": _strategies(text, device),
    }
    if given.address is not None:
        document["device"] = _ask(call, asked)
    if call.out.json:
        call.out.document(document)
    else:
        _print(call, document)
    accepted = document["device"]["accepted"] if "device" in document else fit.accepted
    return exit_code.DONE if accepted else exit_code.FAILED


def _limits(call: Call) -> limits.Limits:
    given = call.arguments
    fields = {"max_num_range": given.max_ranges, "log_max_addr_space": given.max_space}
    fields = {name: value for name, value in fields.items() if value is not None}
    if not fields:
        return limits.NAMED[given.limits]
    if given.limits != "mlx5":
        raise UsageError("--max-ranges and --max-space are for --limits mlx5")
    return limits.mlx5(**fields)


def _strategies(text: str, device: limits.Limits) -> list[dict[str, Any]]:
    """Return the results of other strategies for the same guest's sections; an empty list if the log has no sections."""
    if "vfio_device_dirty_tracking_update" not in text:
        return []
    sections = qemu.read_sections(text)
    found = []
    for name in _STRATEGIES:
        plan = planning.plan(sections, name)
        fit = plan.fit(device)
        found.append(
            {
                "name": name,
                "accepted": fit.accepted,
                "ranges": [_document(one) for one in plan.ranges],
                "explanation": fit.explain(),
            }
        )
    return found


def _ask(call: Call, asked: list[IovaRange]) -> dict[str, Any]:
    """Start the log on the device itself."""
    with session.opened(call) as device:
        try:
            with device.dirty_log(asked) as log:
                return {"address": device.address, "accepted": True, "page_size": log.page_size, "reason": None}
        except OSError as error:
            return {"address": device.address, "accepted": False, "page_size": None, "reason": str(error)}


def _document(range_: IovaRange) -> dict[str, str | None]:
    return {"start": address(range_.start), "last": address(range_.last)}


def _print(call: Call, document: dict[str, Any]) -> None:
    out = call.out
    out.line(f"QEMU asked for {len(document['asked'])} ranges:")
    for one in document["asked"]:
        out.line(f"  {one['start']}-{one['last']}")
    out.line(document["explanation"])
    if not document["accepted"] and document["best"]:
        out.line("these would do:")
        for one in document["best"]:
            out.line(f"  {one['start']}-{one['last']}")
    if document["strategies"]:
        out.line()
        rows = [(one["name"], "yes" if one["accepted"] else "no", one["explanation"]) for one in document["strategies"]]
        out.table(("COMBINED BY", "ACCEPTED", ""), rows)
    if (device := document.get("device")) is not None:
        out.line()
        said = (
            f"takes them, with pages of {device['page_size']} bytes"
            if device["accepted"]
            else f"refuses: {device['reason']}"
        )
        out.line(f"{device['address']} {said}")
