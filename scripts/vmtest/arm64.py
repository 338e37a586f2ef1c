# SPDX-License-Identifier: MIT
"""The command line of scripts/arm64: a command in the arm64 machine, with pyvfio built there."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from vmtest.arm64_kernel import require_kernel
from vmtest.arm64_machine import Arm64Machine, Arm64Settings
from vmtest.arm64_root import DIRECTORY, require_root
from vmtest.build_kernel import paths_of
from vmtest.cache import lock, new_directory
from vmtest.exit_code import ExitCode, MachineError
from vmtest.modules import MODULES
from vmtest.problems import Problem, say
from vmtest.project_copy import copy_project
from vmtest.qemu import installed
from vmtest.recipe import ARM64_COMPILER, ARM64_VARIABLES, digest
from vmtest.translation import require_check

# What the extensions are built from, besides the compiler and Python, which are in the root.
SOURCES = ("cdefs/*", "scripts/build_abi.py", "setup.py", "pyproject.toml", "pyvfio/__init__.py")
BUILD = ("python3", "setup.py", "-q", "egg_info", "build_ext", "--inplace")
BUILT = ("pyvfio/*.so", "pyvfio.egg-info")
# The kernel's page size, CONFIG_ARM64_64K_PAGES.
PAGE = 1 << 16
MEMORY = "2800M"
# Seconds. The machine is several times slower than one of this machine's architecture.
SILENCE = 180


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="arm64", description="Run a command on arm64 with pages of 64 KiB, under emulation.", allow_abbrev=False
    )
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=1800, help="default: %(default)s")
    parser.add_argument("--append", metavar="PARAMETERS", default="", help="further kernel parameters")
    parser.add_argument("--log", metavar="FILE", type=Path, help="keep the kernel's log there")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the kernel's log on stderr as it comes")
    parser.add_argument("command", metavar="CMD", nargs="+")
    return parser.parse_args(arguments)


def source_key(project: Path, manifest: str) -> str:
    """Return the key of the extensions in the cache.

    :param manifest: the packages in the root
    """
    files = sorted(path for pattern in SOURCES for path in project.glob(pattern) if path.is_file())
    return digest([manifest, BUILD, {str(path.relative_to(project)): path.read_text() for path in files}])


def settings_of(arguments: argparse.Namespace, project: Path) -> Arm64Settings:
    """Find, install or build the machine's requirements.

    :param project: a copy of the project
    :raises Problem: something is missing
    """
    qemu = installed("qemu-system-aarch64", "qemu-system-arm")
    say(f"QEMU {qemu.version}")
    kernel = require_kernel()
    modules = {module.name: module.build(kernel, ARM64_VARIABLES) for module in MODULES}
    if failed := [name for name, path in modules.items() if path is None]:
        raise Problem(f"modules do not build for arm64: {' '.join(failed)}")
    root = require_root()
    pycache = DIRECTORY / "pycache" / root.name
    pycache.mkdir(parents=True, exist_ok=True)
    return Arm64Settings(
        command=arguments.command,
        qemu=qemu,
        kernel=paths_of(kernel, modules),
        check=require_check(DIRECTORY, ARM64_COMPILER, "-static", f"-DPAGE={PAGE}"),
        here=project,
        timeout=arguments.timeout,
        memory=MEMORY,
        cpus=1,
        append=arguments.append,
        log=arguments.log,
        verbose=arguments.verbose,
        silence=SILENCE,
        root=root,
        pycache=pycache,
    )


def run(settings: Arm64Settings) -> int:
    """Run a machine, and return the exit code."""
    with (
        tempfile.TemporaryDirectory(prefix="pyvfio-arm64-") as directory,
        contextlib.closing(Arm64Machine(settings, Path(directory))) as machine,
    ):
        return machine.run()


def provide_extensions(settings: Arm64Settings) -> None:
    """Put the extensions, built for arm64 in the machine itself, into the copy of the project.

    :raises MachineError: they were not built
    """
    project = settings.here
    built = DIRECTORY / "extensions" / source_key(project, (settings.root / "manifest").read_text())
    with lock("arm64-extensions"):
        if not built.exists():
            say("building pyvfio in the machine")
            code = run(replace(settings, command=BUILD, log=None))
            if code:
                raise MachineError(f"the build of pyvfio in the machine ended with {code}", ExitCode.CANNOT_RUN)
            with new_directory(built) as unfinished:
                _copy_built(project, unfinished)
    _copy_built(built, project)


def _copy_built(source: Path, target: Path) -> None:
    for pattern in BUILT:
        for path in source.glob(pattern):
            if path.is_dir():
                shutil.copytree(path, target / path.relative_to(source), dirs_exist_ok=True)
            else:
                (target / path.relative_to(source)).parent.mkdir(exist_ok=True)
                shutil.copy2(path, target / path.relative_to(source))


def _raise_interrupt(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def main() -> int:
    """Run the command line's command in the machine, and return the exit code."""
    arguments = parse_arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_interrupt)
    with tempfile.TemporaryDirectory(prefix="pyvfio-arm64-project-") as directory:
        try:
            settings = settings_of(arguments, copy_project(Path(directory), built=False))
            provide_extensions(settings)
            return run(settings)
        except Problem as problem:
            say(str(problem))
            return problem.code if isinstance(problem, MachineError) else ExitCode.CANNOT_RUN
