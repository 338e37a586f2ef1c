# SPDX-License-Identifier: MIT
"""The requirements of the tests on the host: Debian packages, and pyvfio in `.venv`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from vmtest.apt import install
from vmtest.problems import Missing

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"

#: The build requirements of pyvfio. Installed once, because pip's build isolation would download them each time.
BUILD_TOOLS = ("setuptools>=66.1", "cffi>=1.15.1", "wheel")

_WHOLE = """
import ensurepip, os, sys, sysconfig, venv
sys.exit(sys.version_info < (3, 11) or not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))
"""
_USABLE = "import pip, sys; sys.exit(sys.version_info < (3, 11))"


class NotInstalled(Exception):
    """pyvfio and the tools of its tests could not be installed."""


def base_python() -> str | None:
    """Return a Python that can make a virtual environment and build extensions; None if there is none.

    Debian's own Python is preferred: it is built with profile-guided optimisation, which makes it a third faster.
    """
    return next((python for python in ("/usr/bin/python3", sys.executable) if _succeeds(python, _WHOLE)), None)


def _succeeds(python: str | Path, script: str) -> bool:
    try:
        return subprocess.run([python, "-c", script], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def missing_packages(*, machines: bool) -> list[str]:
    """Return the Debian packages that are needed and not installed.

    :param machines: virtual machines will be started
    """
    missing = []
    if shutil.which("gcc") is None:
        missing += ["gcc", "libc6-dev"]
    if base_python() is None:
        missing += ["python3-venv", "python3-dev"]
    if machines and shutil.which("qemu-system-x86_64") is None:
        missing.append("qemu-system-x86")
    return missing


def install_packages(packages: list[str]) -> None:
    """Install Debian packages, or print the command to run as root."""
    try:
        install(*packages)
    except Missing as missing:
        print(missing, flush=True)


def make_venv() -> None:
    """Install pyvfio from this directory, and the tools of its tests, into `.venv`.

    :raises NotInstalled: pip failed; the text is pip's output
    """
    if not _succeeds(PYTHON, _USABLE):
        shutil.rmtree(VENV, ignore_errors=True)
        _run([base_python() or sys.executable, "-m", "venv", VENV])
    pip: list[str | Path] = [PYTHON, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    _run([*pip, *BUILD_TOOLS])
    _run([*pip, "--no-build-isolation", "-e", ".[test]"])
    # Compile the package here: in an emulated machine, compiling is fifteen times slower.
    _run([PYTHON, "-m", "compileall", "-q", "pyvfio", "scripts", "tests/contract"])


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise NotInstalled(f"{' '.join(map(str, command))} returned {done.returncode}:\n{done.stdout}")
