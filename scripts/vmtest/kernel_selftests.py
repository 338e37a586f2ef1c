# SPDX-License-Identifier: MIT
"""Run the kernel's own selftests of VFIO and iommufd: build them from the source of the machine's kernel, run them, and judge the output.

Programs are kept in ~/.cache/pyvfio/selftests/KEY. The key depends on the source package, the compiler and this file's
recipe.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vmtest import ktap
from vmtest.apt import install
from vmtest.cache import CACHE, lock, new_directory
from vmtest.environment import ROOT
from vmtest.kernel import Wanted, find_package, require_kernel, source_package
from vmtest.problems import Missing, Problem, say

PACKAGES = ("gcc", "libc6-dev", "make", "uuid-dev", "libcap-dev", "xz-utils", "dpkg-dev")
TARGETS = ("vfio", "iommu")
# The sources of the selftests. Their uapi headers are those that the kernel's build exported.
SOURCES = (
    "tools/testing/selftests/vfio/*", "tools/testing/selftests/iommu/*", "tools/testing/selftests/*.mk", "tools/testing/selftests/*.h",
    "tools/testing/selftests/kselftest/*", "tools/include/*", "tools/arch/x86/include/*", "tools/scripts/*", "scripts/subarch.include",
    "drivers/net/ethernet/intel/igb/*.h", "drivers/dma/ioat/*.h", "drivers/dma/idxd/*.h", "include/linux/*.h", "drivers/iommu/iommufd/*.h",
)  # fmt: skip
PATIENCE = 40
"""Factor for the selftests' time limits, which are 30 s or one or two minutes for each test."""
IGB, EDU = "0000:00:07.0", "0000:00:03.0"
NAMES = {IGB: "igb", EDU: "edu"}
GUEST = "scripts/vmtest/selftests_guest.py"


class Run(NamedTuple):
    """A run of one program, with its device if it needs one."""

    program: str
    device: str = ""
    may_skip: Mapping[str, str] = {}
    """Tests that cannot run on this device: name and reason."""

    @property
    def name(self) -> str:
        """Name of the output file."""
        return f"{self.program}@{self.device}" if self.device else self.program


RUNS = (
    Run("iommufd", may_skip={"iommufd_viommu.no_viommu.*": "the tests' variant without a virtual IOMMU"}),
    Run("iommufd_fail_nth"),
    Run("vfio_dma_mapping_test", IGB),
    Run("vfio_dma_mapping_mmio_test", IGB),
    Run("vfio_iommufd_setup_test", IGB),
    Run("vfio_pci_device_test", IGB),
    Run("vfio_pci_device_init_perf_test", IGB),
    Run("vfio_pci_driver_test", IGB),
    Run("vfio_pci_sriov_uapi_test", IGB),
    Run("vfio_dma_mapping_test", EDU),
    Run("vfio_dma_mapping_mmio_test", EDU),
    Run("vfio_iommufd_setup_test", EDU),
    Run(
        "vfio_pci_device_test",
        EDU,
        {"vfio_pci_device_test.reset": "edu has no reset", "vfio_pci_irq_test.msix.*": "edu has MSI, not MSI-X"},
    ),
)


def require_programs(version: str | None = None) -> Path:
    """Return the directory of the programs. They are built if necessary.

    :param version: version of the kernel; None for the newest
    :raises Missing: packages for the build are missing, and the user is not root
    :raises Problem: the programs do not build
    """
    kernel = require_kernel(Wanted(version))
    recipe = json.loads((kernel / "recipe.json").read_text())
    made_of = [recipe["source"], recipe["compiler"], SOURCES, TARGETS, PATIENCE]
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    directory = CACHE / "selftests" / key
    if not directory.exists():
        install(*PACKAGES)
        with lock("selftests"):
            if not directory.exists():
                with new_directory(directory) as unfinished:
                    _build(recipe["source"], kernel, unfinished)
    return directory


def _build(source: Mapping[str, str], kernel: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pyvfio-selftests-") as scratch:
        tree = _sources(source, Path(scratch))
        say(f"building the selftests {' and '.join(TARGETS)} of {tree.name}")
        for target in TARGETS:
            output = Path(scratch, target)
            output.mkdir()
            built = subprocess.run(
                ["make", "-s", f"-j{os.cpu_count()}", "-C", tree / "tools/testing/selftests" / target,
                 f"KHDR_INCLUDES=-isystem {kernel / 'include'}", f"OUTPUT={output}"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            programs = [path for path in output.iterdir() if path.is_file() and not path.suffix]
            if built.returncode or not programs:
                raise Problem(f"the selftests of {target} do not build:\n{built.stdout[-4000:]}")
            for path in programs:
                path.rename(out / path.name)


def patient(harness: str) -> str:
    """Return kselftest_harness.h with longer time limits: a second on a real processor can be a minute in emulation.

    A test that reaches its limit leaves a process that keeps the device open, so that all following tests fail.

    :raises Problem: the header does not have the expected line
    """
    limit = "t->timeout * 1000"
    if limit not in harness:
        raise Problem(f"kselftest_harness.h does not wait for {limit!r} ms: change patient() in kernel_selftests.py")
    return harness.replace(limit, f"{limit} * {PATIENCE}")


def _sources(source: Mapping[str, str], directory: Path) -> Path:
    """Unpack the files to compile, and return the kernel's tree.

    :param source: the source package, from a kernel's recipe.json
    """
    deb = next((CACHE / "apt").glob(f"{source['package']}_{source['package_version']}_*.deb"), None)
    if deb is None:
        with tempfile.TemporaryDirectory(prefix="pyvfio-apt-") as lists:
            deb = source_package(*find_package(Wanted(source["kernel"]), Path(lists)))
    unpack = 'dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards \'./usr/src/*.tar.xz\' | xz -dc -T0 | tar -C "$2" -x --wildcards "${@:3}"'
    patterns = [f"linux-source-*/{pattern}" for pattern in SOURCES]
    # Ignore the exit code: some patterns match nothing in some releases. The check below, or make, reports files that
    # are missing.
    subprocess.run(["bash", "-c", unpack, "bash", deb, directory, *patterns], stderr=subprocess.DEVNULL, check=False)
    tree = next(directory.glob("linux-source-*"), None)
    if tree is None or not all((tree / "tools/testing/selftests" / target / "Makefile").exists() for target in TARGETS):
        raise Problem(f"{deb} has no selftests of {' or '.join(TARGETS)}")
    harness = tree / "tools/testing/selftests/kselftest_harness.h"
    harness.write_text(patient(harness.read_text()))
    return tree


def judge(run: Run, text: str) -> tuple[Counter[str], list[str]]:
    """Return the number of tests by outcome of one program's output, and its problems."""
    report = ktap.read(text)
    return report.counts, ktap.check(report, run.may_skip)


def summary(counts: Mapping[str, int]) -> str:
    """Return the counts as text."""
    order = (ktap.PASSED, ktap.FAILED, ktap.SKIPPED, ktap.EXPECTED)
    return ", ".join(
        f"{counts.get(outcome, 0)} {outcome}" for outcome in order if counts.get(outcome) or outcome != ktap.EXPECTED
    )


def main(description: str) -> int:
    """Build, run and judge the selftests. Return 1 if a test failed, or skipped itself without being listed in RUNS."""
    parser = argparse.ArgumentParser(
        description=description.partition("\n")[0], epilog=description.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="such as vfio_pci_driver_test (default: all)")
    parser.add_argument("--kernel", metavar="VERSION", help="as scripts/vm takes it (default: the newest)")
    parser.add_argument("--qemu", default="newest", help="as scripts/vm takes it; igb came with 8.0 (default: newest)")
    parser.add_argument("--timeout", type=int, default=3600, help="of the machine, seconds (default: 3600)")
    arguments = parser.parse_args()
    runs = [run for run in RUNS if not arguments.programs or run.program in arguments.programs]
    if not runs:
        parser.error(f"no such program; there are {', '.join(dict.fromkeys(run.program for run in RUNS))}")
    try:
        programs = require_programs(arguments.kernel)
    except Problem as problem:
        say(str(problem))
        return 3 if isinstance(problem, Missing) else 1
    results = ROOT / ".results" / "selftests"
    results.mkdir(parents=True, exist_ok=True)
    for run in runs:
        (results / f"{run.name}.ktap").unlink(missing_ok=True)
    command = [sys.executable, "scripts/vm", "--qemu", arguments.qemu, "--timeout", str(arguments.timeout)]
    command += ["--kernel", arguments.kernel] if arguments.kernel else []
    command += ["--", sys.executable, GUEST, str(programs), str(results), *(run.name for run in runs)]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return _report(runs, results) or code


def _report(runs: list[Run], results: Path) -> int:
    total: Counter[str] = Counter()
    bad = 0
    for run in runs:
        file = results / f"{run.name}.ktap"
        counts, problems = judge(run, file.read_text(errors="replace") if file.exists() else "")
        total += counts
        bad += len(problems)
        print(f"{run.program:<32} {NAMES.get(run.device, ''):<4} {summary(counts)}")
        print("".join(f"    {problem}\n" for problem in problems), end="")
    print(f"{len(runs)} programs: {summary(total)}; the KTAP is in {results}")
    return 1 if bad else 0
