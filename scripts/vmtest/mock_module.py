# SPDX-License-Identifier: MIT
"""The kernel module of tests/vfio_mock: built once for each kernel and each state of its sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vmtest.cache import CACHE, lock, new_directory
from vmtest.problems import say
from vmtest.recipe import digest

PROJECT = Path(__file__).resolve().parents[2]
SOURCES = PROJECT / "tests" / "vfio_mock"


def sources() -> dict[str, str]:
    """Return the contents of the module's sources by their path; without what a build left there."""
    return {
        str(path.relative_to(SOURCES)): path.read_text()
        for path in sorted(SOURCES.rglob("*"))
        if (path.suffix in (".c", ".h") or path.name in ("Kbuild", "Makefile")) and not path.name.endswith(".mod.c")
    }


def write_sources(contents: dict[str, str], directory: Path) -> None:
    """Write the sources to a directory, where make may leave its files."""
    for name, text in contents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def build_mock(kernel: Path) -> Path | None:
    """Return the module for a finished kernel, or None if it does not build. What make says goes to stderr then."""
    contents = sources()
    directory = CACHE / "mock" / digest([kernel.name, contents])
    if not directory.exists():
        with lock("mock"), tempfile.TemporaryDirectory(prefix="pyvfio-mock-") as temporary:
            # Another process may have built it while this one waited.
            if not directory.exists():
                write_sources(contents, Path(temporary))
                make = ["make", "-C", str(kernel / "tree"), f"M={temporary}", "KCFLAGS=-Werror", "modules"]
                result = subprocess.run(
                    make,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                if result.returncode:
                    sys.stderr.write(result.stdout)
                    say(f"{SOURCES.relative_to(PROJECT)} does not build for {kernel.name}")
                    return None
                with new_directory(directory) as unfinished:
                    for module in Path(temporary).rglob("*.ko"):
                        shutil.copy(module, unfinished)
    return next(directory.glob("*.ko"))
