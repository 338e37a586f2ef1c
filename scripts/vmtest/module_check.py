# SPDX-License-Identifier: MIT
"""Check the kernel modules in tests/ statically: with sparse, and with checkpatch from the kernel's source.

sparse finds mixed-up user and kernel pointers, numbers of the wrong byte order, and symbols that should be static.
It runs as part of a build against the kernel's tree. checkpatch runs with --strict on each file.
"""

from __future__ import annotations

import argparse
import enum
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from vmtest.apt import install
from vmtest.kernel import Wanted, finished_kernel, require_kernel
from vmtest.modules import MODULES, Module
from vmtest.problems import Missing, Problem, say

# The kernels, besides the newest, for which the modules must build.
OLDER = ("6.12", "6.1")
SPARSE = f"sparse -include {Path(__file__).resolve().with_name('sparse.h')}"

# Types of checkpatch messages that are ignored, and the reasons.
IGNORED = {
    "LINUX_VERSION_CODE": "the module is built for all kernels from 6.1 on",
    "CONSTANT_COMPARISON": "it takes KERNEL_VERSION() for a constant on the wrong side",
    "ALLOC_WITH_SIZEOF": "kzalloc_obj() came with 7.0",
    "MACRO_ARG_REUSE": "the argument is the name of a member, which has no side effects",
}
# The same for one file only.
IGNORED_IN = {
    "vfio_mock_regs.h": {"LONG_LINE_COMMENT": "a table: each register and what it means on one line"},
}


class ExitCode(enum.IntEnum):
    """Exit codes. argparse uses 2 for wrong arguments."""

    CLEAN = 0
    FINDINGS = 1
    MISSING = 3


def ignored_in(name: str) -> list[str]:
    """Return the types of checkpatch messages that are ignored in a file."""
    return sorted(IGNORED | IGNORED_IN.get(name, {}))


def sparse_findings(output: str) -> list[str]:
    """Return the messages of sparse and of the compiler in make's output."""
    return [line for line in output.splitlines() if re.search(r":\d+:\d+: (?:warning|error):", line)]


def check_sparse(module: Module, kernel: Path) -> list[str]:
    """Return sparse's messages about a module that is built for a finished kernel."""
    with tempfile.TemporaryDirectory(prefix="pyvfio-module-") as directory:
        module.write_sources(Path(directory))
        # C=2 runs the checker on every file.
        make = ["make", "-C", str(kernel / "tree"), f"M={directory}", "C=2", f"CHECK={SPARSE}", "modules"]
        result = subprocess.run(make, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        # An older kernel names the files by their full path.
        output = (result.stdout + result.stderr).replace(f"{directory}/", "")
    if "CHECK " not in result.stdout:
        raise Problem(f"make did not run sparse:\n{output}")
    if result.returncode:
        raise Problem(f"{module.name} does not build:\n{output}")
    # Messages about the kernel's own headers are not about the module.
    return [finding for finding in sparse_findings(output) if finding.partition(":")[0] in module.sources()]


def check_checkpatch(module: Module, kernel: Path) -> list[str]:
    """Return checkpatch's messages about each source file of a module."""
    script = kernel / "tree" / "scripts" / "checkpatch.pl"
    if not script.exists():
        raise Problem(f"{script} is missing: only a kernel that was built from source has it")
    findings = []
    for name in sorted(module.sources().keys() - {Path(name).name for name in module.shared}):
        command = ["perl", str(script), "--no-tree", "--strict", "--terse", "--show-types", "--no-summary"]
        command += ["--ignore", ",".join(ignored_in(name)), "--file", name]
        result = subprocess.run(command, cwd=module.directory, capture_output=True, text=True, check=False)
        lines = result.stdout.splitlines()
        if result.returncode and not lines:
            raise Problem(f"checkpatch failed on {name}: {result.stderr.strip()}")
        findings += lines
    return findings


def kernels_to_build_for(name: str | None) -> list[Path]:
    """Return the kernel with a name; without a name the newest, and those of OLDER that are built already."""
    kernels = [require_kernel(Wanted.named(name))]
    if name is None:
        kernels += [kernel for version in OLDER if (kernel := finished_kernel(Wanted(version)))]
    return kernels


def main() -> int:
    """Check the modules, print the findings, and return the exit code."""
    parser = argparse.ArgumentParser(description="Check the kernel modules with sparse and checkpatch.")
    parser.add_argument(
        "--kernel", metavar="VERSION", help="build for this kernel; without it for the newest and all that are there"
    )
    arguments = parser.parse_args()
    findings = []
    try:
        install("sparse", "perl")
        kernels = kernels_to_build_for(arguments.kernel)
        for module in MODULES:
            for kernel in kernels:
                release = (kernel / "release").read_text().strip()
                findings += [f"{module.name} for {release}: {finding}" for finding in check_sparse(module, kernel)]
            findings += [f"{module.name}: {finding}" for finding in check_checkpatch(module, kernels[0])]
    except Problem as problem:
        say(str(problem))
        return ExitCode.MISSING if isinstance(problem, Missing) else ExitCode.FINDINGS
    files = sum(len(module.sources()) for module in MODULES)
    for finding in findings:
        print(finding)
    if findings:
        print(f"{len(findings)} findings in {files} files", file=sys.stderr)
        return ExitCode.FINDINGS
    releases = ", ".join((kernel / "release").read_text().strip() for kernel in kernels)
    say(f"{files} files are clean: checkpatch, and sparse for {releases}")
    return ExitCode.CLEAN
