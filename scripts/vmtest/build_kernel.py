# SPDX-License-Identifier: MIT
"""The command line of scripts/build_kernel."""

from __future__ import annotations

import argparse
import enum
import json
from collections.abc import Mapping
from pathlib import Path

from vmtest.kernel import Wanted, finished_kernel, require_kernel
from vmtest.modules import MODULES
from vmtest.problems import Missing, Problem, say


class ExitCode(enum.IntEnum):
    """Exit codes. argparse uses 2 for wrong arguments."""

    DONE = 0
    FAILED = 1
    MISSING = 3
    NOT_BUILT = 4
    NO_MODULE = 5


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Build a test kernel and the modules of the tests.")
    parser.add_argument(
        "--kernel", metavar="VERSION", help="such as 7.3, 6.12 or 6.1; without it the newest; `debug` is --debug"
    )
    parser.add_argument("--debug", action="store_true", help="with lockdep, KASAN and kmemleak")
    parser.add_argument("--update", action="store_true", help="look for a newer package even if a kernel is built")
    parser.add_argument(
        "--print-dir", action="store_true", help="build nothing; print where the kernel is, if it is built"
    )
    parser.add_argument("--json", action="store_true", help="print all paths as one JSON object instead")
    return parser.parse_args(arguments)


def wanted_kernel(arguments: argparse.Namespace) -> Wanted:
    """Return the kernel that the arguments ask for."""
    wanted = Wanted.named(arguments.kernel)
    return Wanted(wanted.version, debug=wanted.debug or arguments.debug)


def paths_of(kernel: Path, modules: Mapping[str, Path | None]) -> dict[str, str | None]:
    """Return the paths that --json prints. The value is None for files that this kernel does not have.

    :param modules: paths of the modules of tests/ by name; None for a module that does not build
    """

    def path_of(name: str) -> str | None:
        return str(kernel / name) if (kernel / name).exists() else None

    return {
        "kernel": str(kernel),
        "release": (kernel / "release").read_text().strip(),
        "initramfs": path_of("initramfs"),
        "headers": path_of("include"),
        "mtty_module": path_of("modules/mtty.ko"),
        "mdev_module": path_of("modules/mdev.ko"),
    } | {name: None if path is None else str(path) for name, path in modules.items()}


def main() -> int:
    """Find or build the kernel of the command line, and return the exit code."""
    arguments = parse_arguments()
    wanted = wanted_kernel(arguments)
    if arguments.print_dir:
        if (found := finished_kernel(wanted)) is None:
            return ExitCode.NOT_BUILT
        print(found)
        return ExitCode.DONE
    try:
        kernel = require_kernel(wanted, update=arguments.update)
        modules = {module.name: module.build(kernel) for module in MODULES}
    except Problem as problem:
        say(str(problem))
        return ExitCode.MISSING if isinstance(problem, Missing) else ExitCode.FAILED
    print(json.dumps(paths_of(kernel, modules)) if arguments.json else kernel)
    return ExitCode.NO_MODULE if None in modules.values() else ExitCode.DONE
