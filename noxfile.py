# SPDX-License-Identifier: MIT
"""Host checks as nox sessions: the suites of tests/matrix.toml, each in an environment that is filled from a folder of wheels.

    nox -s wheels                   download the tools, build pyvfio's wheel: into .wheels; this alone needs a network
    nox                             every suite that the quick lane has
    nox -s unit-3.12 mock-3.12      the unit and mock tests on Python 3.12

Arguments behind `--` go to pytest. The unit, mock, vector, robustness and differential tests run on the wheel, in a copy of the
project without the source of the package; the other suites run in the checkout. Who packages pyvfio needs no nox: `pytest` alone
runs the same tests on what is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

from vmtest.lanes import Lane, Suite
from vmtest.matrix import Matrix
from vmtest.pythons import PYTHONS, find_python

WHEELS = ROOT / ".wheels"
#: what the suites need that run on a wheel
TOOLS = ("hypothesis", "numpy", "pytest", "pytest-timeout")
#: suites that run on a wheel, with every Python
ON_EVERY_PYTHON = ("unit", "mock")
ON_A_WHEEL = (*ON_EVERY_PYTHON, "vectors", "robustness", "differential")
HERE = "{}.{}".format(*sys.version_info)

SUITES = Matrix().suites
nox.needs_version = ">=2024.4"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = os.environ.get("PYVFIO_REQUIRE") == "kernel"
nox.options.sessions = [
    f"{suite.name}-{version}"
    for suite in SUITES
    if suite.lane is Lane.QUICK
    for version in (PYTHONS if suite.name in ON_EVERY_PYTHON else (HERE,))
]

# nox looks for pythonX.Y on PATH; pyenv has each in a folder of its own, behind those that are on PATH.
os.environ["PATH"] = os.pathsep.join(
    (os.environ["PATH"], *(str(found.parent) for version in PYTHONS if (found := find_python(version))))
)


@nox.session(python=list(PYTHONS))
def wheels(session: nox.Session) -> None:
    """Download the tools that one Python needs, and build pyvfio's wheel if that is not there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tools = TOOLS if session.python != HERE else project["optional-dependencies"]["test"]
    pip = ("python", "-m", "pip", "--disable-pip-version-check", "-q")
    session.run(*pip, "download", "--only-binary", ":all:", "-d", str(WHEELS), *project["dependencies"], *tools)
    if session.python == HERE:
        for old in WHEELS.glob("pyvfio-*.whl"):
            old.unlink()
        session.run(*pip, "wheel", "--no-deps", "-w", str(WHEELS), str(ROOT))


def run_suite(session: nox.Session, suite: Suite) -> None:
    """Install from .wheels and run one suite."""
    if not list(WHEELS.glob("pyvfio-*.whl")):
        session.error("pyvfio's wheel is missing: run `nox -s wheels`")
    extra = "pyvfio" if suite.name in ON_A_WHEEL else "pyvfio[test]"
    tools = TOOLS if suite.name in ON_A_WHEEL else ()
    session.install("--no-index", "--find-links", str(WHEELS), extra, *tools)
    if suite.name in ON_A_WHEEL:
        session.chdir(copy_without_source(Path(session.create_tmp())))
    for command in suite.commands:
        session.run(*command)
    if suite.pytest:
        session.run("python", "-m", "pytest", "-q", *suite.pytest, *session.posargs)


def copy_without_source(folder: Path) -> Path:
    """Copy the project into a folder, but for the package, so that only the installed one can be imported."""
    copy = folder / "project"
    shutil.rmtree(copy, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if not name.startswith("pyvfio/") and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


def declare(suite: Suite) -> None:
    """Make a session of a suite."""

    def run(session: nox.Session) -> None:
        run_suite(session, suite)

    run.__doc__ = f"Run {' '.join(suite.pytest or suite.commands[0])}: {suite.minutes:g} minutes, lane {suite.lane}."
    nox.session(name=suite.name, python=list(PYTHONS) if suite.name in ON_EVERY_PYTHON else [HERE])(run)


for one in SUITES:
    declare(one)
