# SPDX-License-Identifier: MIT
"""Put a device through the conformance checks: what it says of itself, its regions, interrupts, IOVAs, features, log, migration.

By default no register is written. But each check opens and closes the device, which resets the function where it can be reset.
A device that is not bound to a VFIO driver is bound for the checks and restored. The exit code is 1 if a check fails, or, with
--compare, if something got worse. The verdict is "conformant" only if nothing was left out that the device has."""

from __future__ import annotations

import errno
import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from pyvfio import host
from pyvfio.cli import addresses, exit_code
from pyvfio.cli.call import Call, UsageError
from pyvfio.cli.output import Output
from pyvfio.conformance import runner
from pyvfio.conformance.driver import load
from pyvfio.conformance.runner import Results
from pyvfio.errors import Error

#: findings that do not keep the checks from running: they bind the device
_BOUND_FOR_THE_CHECKS = ("not-bound", "kernel-driver")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser)
    parser.add_argument("--write", action="store_true", help="write registers of configuration space, and restore them")
    parser.add_argument("--destructive", action="store_true", help="reset the device and migrate it")
    parser.add_argument(
        "--dma-faults",
        action="store_true",
        help="make the device write where it may not; a host with strict error handling may not survive that",
    )
    parser.add_argument("--driver", metavar="MODULE:CLASS", help="a driver that makes the device do DMA")
    parser.add_argument("--mode", help="of the address space; default: iommufd where the host has it, else type1v2")
    parser.add_argument(
        "--only", action="append", default=[], choices=runner.GROUPS, help="only this group; may be repeated"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write the JSON document there too")
    parser.add_argument("--junit", metavar="FILE", help="write the results there as JUnit XML")
    parser.add_argument("--ktap", metavar="FILE", help="write the results there in the Kernel Test Anything Protocol")
    parser.add_argument("--compare", metavar="OLD", help="say what changed since this JSON document")
    parser.add_argument("-v", "--verbose", action="store_true", help="list each check, not only those that failed")


def execute(call: Call) -> int:
    """Run the checks."""
    given = call.arguments
    old = _old(given.compare)
    if given.driver:
        load(given.driver)
    found = addresses.device(call.kernel, given.address)
    obstacles = [one for one in host.examine(found, call.kernel) if one.id not in _BOUND_FOR_THE_CHECKS]
    if obstacles:
        raise Error(errno.EPERM, f"{found.address} cannot be checked: {obstacles[0]}")
    results = runner.run(
        found.address,
        call.kernel,
        groups=given.only,
        write=given.write,
        destructive=given.destructive,
        dma_faults=given.dma_faults,
        driver=given.driver,
        mode=given.mode,
        junit=given.junit,
    )
    document = _document(call, results)
    changes = None if old is None else runner.compared(old, document)
    document["changes"] = changes
    if given.output:
        Path(given.output).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if given.ktap:
        Path(given.ktap).write_text(runner.ktap(results), encoding="utf-8")
    if call.out.json:
        call.out.document(document)
    else:
        _print(call.out, document, verbose=given.verbose)
    return exit_code.FAILED if results.verdict == "failed" else exit_code.DONE


def _old(file: str | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        old: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(old.get("checks"), list):
            raise ValueError("it has no checks")
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{file} is not a document of `pyvfio check`: {error}") from None
    return old


def _document(call: Call, results: Results) -> dict[str, Any]:
    given = call.arguments
    return {
        "verdict": results.verdict,
        "about": results.about,
        "options": {name: getattr(given, name) for name in ("write", "destructive", "dma_faults", "driver", "mode")},
        "limits": {
            name: value if isinstance(value, int | float) else str(value) for name, value in results.limits.items()
        },
        "kernel_options": runner.kernel_options(call.kernel),
        "checks": [one._asdict() for one in results.checks],
    }


def _print(out: Output, document: dict[str, Any], *, verbose: bool) -> None:
    out.fields((name, value) for name, value in document["about"].items())
    out.line()
    checks = document["checks"]
    groups = dict.fromkeys(one["group"] for one in checks)
    rows = []
    for group in groups:
        counts = {
            outcome: sum(one["group"] == group and one["outcome"] == outcome for one in checks)
            for outcome in ("passed", "failed", "skipped")
        }
        reasons = dict.fromkeys(
            one["reason"] for one in checks if one["group"] == group and one["outcome"] == "skipped"
        )
        rows.append((group, counts["passed"], counts["failed"], counts["skipped"], "; ".join(reasons)))
    out.table(("GROUP", "PASSED", "FAILED", "SKIPPED", "SKIPPED BECAUSE"), rows)
    for one in checks:
        if one["outcome"] == "failed" or verbose:
            out.line()
            out.line(f"{one['outcome']}: {one['group']}: {one['name']} ({one['seconds']:.3f} s)")
            for line in one["reason"].splitlines()[:6]:
                out.line(f"    {line}")
    if document["limits"]:
        out.line()
        out.table(("FOUND", "VALUE"), list(document["limits"].items()))
    if document["changes"] is not None:
        out.line()
        out.line(f"{len(document['changes'])} changes:" if document["changes"] else "no change")
        for line in document["changes"]:
            out.line(f"  {line}")
    out.line()
    words = {
        "failed": "FAILED",
        "passed": "passed what was run; something was left out, so this is not yet conformant",
        "conformant": "conformant",
    }
    out.line(words[document["verdict"]])
