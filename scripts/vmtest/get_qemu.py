# SPDX-License-Identifier: MIT
"""The command line of scripts/get_qemu."""

from __future__ import annotations

import argparse
import shlex

from vmtest.problems import Missing, Problem, say
from vmtest.qemu import CHOICES, require_qemu


def main() -> int:
    """Get a QEMU, describe it, and return the exit code."""
    parser = argparse.ArgumentParser(description="Get a QEMU, and print its version and command.")
    parser.add_argument(
        "--qemu", metavar="CHOICE", default="system", help=f"{', '.join(CHOICES)}, or another version such as 11.1"
    )
    parser.add_argument("--update", action="store_true", help="look for a newer package even if there is one")
    parser.add_argument("--device", metavar="NAME", help="print the properties of a device, one on a line")
    arguments = parser.parse_args()
    try:
        qemu = require_qemu(arguments.qemu, update=arguments.update)
        if arguments.device:
            print("\n".join(sorted(qemu.device_properties(arguments.device))))
        else:
            print(qemu.version)
            variables = [f"{name}={value}" for name, value in qemu.environment.items()]
            print(shlex.join([*(["env", *variables] if variables else []), *qemu.command]))
    except Problem as problem:
        say(str(problem))
        return 3 if isinstance(problem, Missing) else 1
    return 0
