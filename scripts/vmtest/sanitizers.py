# SPDX-License-Identifier: MIT
"""Run tests on extensions that are built with AddressSanitizer and UndefinedBehaviorSanitizer: scripts/sanitizers."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from vmtest.problems import say
from vmtest.project_copy import copy_project

FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
SUITES = ("tests/unit", "tests/vectors", "tests/mock")
#: Test files that run no C code of the package, or compile it themselves.
WITHOUT = ("test_vmtest_*", "test_native.py", "test_house.py", "test_language.py", "test_matrix.py", "test_runner.py")
#: A message that is no finding: some tests request more memory than any machine has, and expect a refusal.
EXPECTED = "WARNING: AddressSanitizer failed to allocate"


def build(copy: Path) -> None:
    """Build the extensions in place."""
    environment = os.environ | {"CFLAGS": f"-g -O1 -fno-omit-frame-pointer {FLAGS}", "LDFLAGS": FLAGS}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=copy, env=environment, check=True, stdout=subprocess.DEVNULL)


def environment(copy: Path, reports: Path) -> dict[str, str]:
    """Return the environment of tests: it preloads the sanitizers and makes them write reports to files."""
    names = ("libasan.so", "libubsan.so")
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in names
    ]
    return os.environ | {
        "PYTHONPATH": str(copy),
        # Let the sanitizer see each allocation, instead of the arenas of Python's own allocator.
        "PYTHONMALLOC": "malloc",
        "LD_PRELOAD": " ".join(libraries),
        # detect_leaks=0: Python does not free all memory before it exits. allocator_may_return_null=1: some tests
        # expect an allocation to fail.
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:abort_on_error=1:log_path={reports}/report",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={reports}/report",
    }


def findings(reports: Path) -> Iterator[str]:
    """Yield the sanitizers' reports from all processes."""
    for file in sorted(reports.iterdir()):
        lines = [line for line in file.read_text(errors="replace").splitlines() if EXPECTED not in line]
        if any(lines):
            yield "\n".join(lines)


def run(arguments: Sequence[str]) -> int:
    """Build in a copy, run the tests there, and print the findings.

    Return 1 if a test failed or a sanitizer reported something.
    """
    with tempfile.TemporaryDirectory(prefix="pyvfio-sanitizers-") as scratch:
        copy, reports = Path(scratch) / "project", Path(scratch) / "reports"
        reports.mkdir()
        copy_project(copy, built=False)
        build(copy)
        options = ["-q", "-m", "not slow", "-p", "no:cacheprovider", *(f"--ignore-glob=*/{name}" for name in WITHOUT)]
        command = [sys.executable, "-m", "pytest", *options, *arguments]
        code = subprocess.run(command, cwd=copy, env=environment(copy, reports), check=False).returncode
        found = list(findings(reports))
    print(*found, sep="\n\n")
    say(f"pytest returned {code}; reports of the sanitizers: {len(found)}")
    return 1 if code or found else 0


def main(description: str) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "given", nargs=argparse.REMAINDER, metavar="ARGUMENT", help=f"of pytest; default: {' '.join(SUITES)}"
    )
    return run(parser.parse_args().given or SUITES)
