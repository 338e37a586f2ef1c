# SPDX-License-Identifier: MIT
"""Run the programs of tests/robustness/reproducers.py on old code, which still has the faults: scripts/old_reproducers."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from vmtest.environment import ROOT

PROGRAMS = ROOT / "tests" / "robustness" / "reproducers.py"
#: The last commit that has all of the faults.
OLD = "8f58c83"
#: Time limit of one program, in seconds.
LIMIT = 120


def build(commit: str, folder: Path) -> None:
    """Unpack a commit into a folder and build its extensions there."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "x", "-C", folder], input=archive, check=True)
    # Older commits have no setup.py.
    command = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "build_ext", "--inplace"]
    if (folder / "setup.py").exists():
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def programs() -> ModuleType:
    """Import the programs."""
    spec = importlib.util.spec_from_file_location("reproducers", PROGRAMS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module: ModuleType, which: str, package: Path) -> tuple[str, str]:
    """Run a program on the package in a folder.

    Return its output, and `yes` if the fault shows, `no` if not, or `broken`.
    """
    environment = os.environ | {"PYTHONPATH": str(package)}
    command = [sys.executable, "-W", "ignore", str(PROGRAMS), which]
    try:
        done = subprocess.run(
            command, cwd=package, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return "broken", f"still running after {LIMIT} s"
    lines = (done.stdout or done.stderr).strip().splitlines()
    said = lines[-1].removeprefix(f"{which}: ") if lines else ""
    if done.returncode == module.FAULT:
        return "yes", said
    if done.returncode < 0 and which in module.CRASHES:
        return "yes", f"ended by signal {-done.returncode}"
    if done.returncode == 0:
        return "no", said
    return "broken", said or f"exit code {done.returncode}"


def main(description: str) -> int:
    """Run the command. The exit code is 1 if a fault does not show in the old code, or shows in the current code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default=OLD, help="the old code; default: %(default)s")
    parser.add_argument("programs", nargs="*", metavar="FINDING", help="default: all")
    arguments = parser.parse_args()
    module = programs()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="pyvfio-old-") as folder:
        build(arguments.commit, Path(folder))
        print(f"{'finding':16} {'then':7} {'now':7} what showed at {arguments.commit}")
        for which in arguments.programs or module.PROGRAMS:
            then, said = run(module, which, Path(folder))
            now, _ = run(module, which, ROOT)
            wrong += (then, now) != ("yes", "no")
            print(f"{which:16} {then:7} {now:7} {said[:110]}", flush=True)
    print(f"{len(arguments.programs or module.PROGRAMS)} programs, {wrong} of them not as they should be")
    return 1 if wrong else 0
