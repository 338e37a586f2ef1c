# SPDX-License-Identifier: MIT
"""Build the kernel modules of tests/, each once for each kernel and each state of its sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vmtest.cache import CACHE, lock, new_directory
from vmtest.problems import say
from vmtest.recipe import digest

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Module:
    """A kernel module. Its sources are in the folder of tests/ that has its name.

    :ivar variable: the environment variable that gives the path of the built module inside a machine
    :ivar shared: headers from another module's folder that the module includes
    """

    name: str
    variable: str
    shared: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """The folder of the sources."""
        return PROJECT / "tests" / self.name

    def sources(self) -> dict[str, str]:
        """Return the contents of the sources by path, without files that a build left in the folder."""
        own = {
            str(path.relative_to(self.directory)): path.read_text()
            for path in sorted(self.directory.rglob("*"))
            if (path.suffix in (".c", ".h") or path.name in ("Kbuild", "Makefile")) and not path.name.endswith(".mod.c")
        }
        return own | {Path(name).name: (PROJECT / "tests" / name).read_text() for name in self.shared}

    def write_sources(self, directory: Path) -> None:
        """Write the sources to a directory in which make may create files."""
        write(self.sources(), directory)

    def build(self, kernel: Path, variables: Mapping[str, str] | None = None) -> Path | None:
        """Return the module built for a finished kernel, or None if it does not build; then make's output goes to stderr.

        :param variables: variables of make, for a kernel of another architecture
        """
        contents = self.sources()
        directory = CACHE / "modules" / f"{self.name}-{digest([kernel.name, contents])}"
        if not directory.exists():
            with lock("modules"), tempfile.TemporaryDirectory(prefix="pyvfio-module-") as temporary:
                # Look again: another process may have built the module while this one waited.
                if not directory.exists():
                    write(contents, Path(temporary))
                    make = ["make", "-C", str(kernel / "tree"), f"M={temporary}", "KCFLAGS=-Werror", "modules"]
                    make += [f"{name}={value}" for name, value in (variables or {}).items()]
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
                        say(f"{self.directory.relative_to(PROJECT)} does not build for {kernel.name}")
                        return None
                    with new_directory(directory) as unfinished:
                        for module in Path(temporary).rglob("*.ko"):
                            shutil.copy(module, unfinished)
        return next(directory.glob("*.ko"))


def write(contents: dict[str, str], directory: Path) -> None:
    """Write files below a directory; the keys are their paths."""
    for name, text in contents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MODULES = (
    Module("vfio_mock", "PYVFIO_MOCK_MODULE"),
    Module("edu_vfio_pci", "PYVFIO_EDU_MODULE", ("vfio_mock/compat.h", "vfio_mock/ranges.h")),
)
