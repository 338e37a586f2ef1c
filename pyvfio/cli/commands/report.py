# SPDX-License-Identifier: MIT
"""Write one file for a bug report: host, IOMMU, devices, what doctor says, and a device, a check and a trace if they are given.

Names of the host, users, processes and mount points, UUIDs, MAC and IP addresses and serial numbers are replaced. Read it before
you send it."""

from __future__ import annotations

import json
import platform
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from pyvfio import __version__, host
from pyvfio.cli import addresses, describe, exit_code, opened_device, session
from pyvfio.cli.anonymous import Anonymous, without_serial
from pyvfio.cli.call import Call, UsageError
from pyvfio.host.sysfs import attribute, entries
from pyvfio.kernel import Kernel

#: prefixes of the words of the kernel's command line that the report includes
_WORDS = (
    "intel_iommu", "amd_iommu", "iommu", "vfio", "intremap", "pci", "module_blacklist", "modprobe.blacklist", "hugepages",
    "default_hugepagesz", "hugepagesz", "efi=", "noapic", "x2apic", "nox2apic",
)  # fmt: skip


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser, nargs="?")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    parser.add_argument("--open", action="store_true", help=f"open the device too. {session.OPENING}")
    parser.add_argument("--check", metavar="FILE", help="include the JSON of `pyvfio check`")
    parser.add_argument("--trace", metavar="FILE", help="include the file of `pyvfio trace`")
    session.add_options(parser)


def execute(call: Call) -> int:
    """Write the report."""
    given = call.arguments
    if given.open and given.address is None:
        raise UsageError("--open takes an ADDRESS")
    kernel = call.kernel
    uses = host.uses(kernel)
    document: dict[str, Any] = {
        "pyvfio": __version__,
        "python": platform.python_version(),
        "host": _host(kernel),
        "doctor": _doctor(host.diagnose_host(kernel)),
        "devices": [describe.device_document(one, uses, []) for one in host.devices(kernel)],
        "device": None,
        "opened": None,
        "check": _json(given.check),
        "trace": _json(given.trace),
    }
    if given.address is not None:
        found = addresses.device(kernel, given.address)
        holders = [str(one) for one in host.holders_of(found.nodes, kernel)]
        document["device"] = {
            **describe.device_document(found, uses, holders),
            "doctor": _doctor(host.diagnose(found, kernel)),
        }
        if given.open:
            with session.opened(call) as device:
                opened = opened_device.document(device)
            if opened["config"] is not None:
                opened["config"] = without_serial(opened["config"], opened["capabilities"])
            document["opened"] = opened
    text = json.dumps(Anonymous()(document), indent=2)
    if given.output is None:
        call.out.raw(text)
        return exit_code.DONE
    Path(given.output).write_text(f"{text}\n", encoding="utf-8")
    if call.out.json:
        call.out.document({"file": given.output})
    else:
        call.out.line(f"{given.output}: read it before you send it")
    return exit_code.DONE


def _host(kernel: Kernel) -> dict[str, Any]:
    words = (attribute(kernel, "/proc/cmdline") or "").split()
    release = dict(
        line.split("=", 1) for line in (attribute(kernel, "/etc/os-release") or "").splitlines() if "=" in line
    )
    model = next(
        (
            line.partition(":")[2].strip()
            for line in (attribute(kernel, "/proc/cpuinfo") or "").splitlines()
            if line.startswith("model name")
        ),
        None,
    )
    return {
        "kernel": kernel.name,
        "release": attribute(kernel, "/proc/sys/kernel/osrelease"),
        "distribution": release.get("PRETTY_NAME", "").strip('"') or None,
        "machine": platform.machine(),
        "processor": model,
        "command_line": [word for word in words if word.startswith(_WORDS)],
        "iommus": entries(kernel, "/sys/class/iommu"),
        "groups": len(entries(kernel, "/sys/kernel/iommu_groups")),
        "modules": [name for name in entries(kernel, "/sys/module") if "vfio" in name or "iommu" in name],
        "nodes": [path for path in ("/dev/vfio/vfio", "/dev/iommu", "/dev/vfio/devices") if kernel.exists(path)],
    }


def _doctor(examined: host.Examination) -> dict[str, Any]:
    return {
        "findings": [describe.finding_document(one) for one in examined.findings],
        "hints": [one.id for one in examined.hints],
        "unknown": list(examined.unknown),
        "facts": examined.facts,
    }


def _json(file: str | None) -> Any:
    if file is None:
        return None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is no JSON: {error}") from None
