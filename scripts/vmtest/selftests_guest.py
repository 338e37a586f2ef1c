# SPDX-License-Identifier: MIT
"""Run the kernel's selftests inside the machine, one program after the other, and write the output of each to a file.

    .venv/bin/python scripts/vmtest/selftests_guest.py PROGRAMS RESULTS PROGRAM[@ADDRESS]...

PROGRAMS is the directory of the programs. The output goes to RESULTS/PROGRAM[@ADDRESS].ktap; its last line is the exit
code.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from pyvfio import host

SECONDS = 3600
"""Time limit of one program; emulation is slow."""
SRIOV = Path("/sys/module/vfio_pci/parameters/enable_sriov")
"""vfio-pci's module parameter. Without it vfio-pci creates no virtual functions (ENOENT)."""


def run(program: Path, address: str, out: Path) -> None:
    """Run a program. The selftests' library reads the device's address from VFIO_SELFTESTS_BDF."""
    environment = os.environ | ({"VFIO_SELFTESTS_BDF": address} if address else {})
    with out.open("w") as output:
        try:
            code = subprocess.run(
                [program], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, timeout=SECONDS,
                check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = -1
        output.seek(0, os.SEEK_END)
        output.write(f"# exit code {code}\n")


def main(arguments: list[str]) -> int:
    """Run every program of the command line."""
    programs, results, *names = arguments
    SRIOV.write_text("Y")
    for name in names:
        program, _, address = name.partition("@")
        with contextlib.ExitStack() as stack:
            if address:
                stack.enter_context(host.bind(address, "vfio-pci"))
            print(name, flush=True)
            run(Path(programs, program), address, Path(results, f"{name}.ktap"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
