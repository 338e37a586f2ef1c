# SPDX-License-Identifier: MIT
"""Run the kernel's selftests inside the machine, one program after the other, each with its output in a file.

    .venv/bin/python scripts/vmtest/selftests_guest.py PROGRAMS RESULTS PROGRAM[@ADDRESS]...

PROGRAMS is the directory of the programs; the output goes to RESULTS/PROGRAM[@DEVICE].ktap, its last line the exit code.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from pyvfio import host

SECONDS = 3600
"""For one program; emulation is slow."""
SRIOV = Path("/sys/module/vfio_pci/parameters/enable_sriov")
"""Without it vfio-pci makes no virtual functions (ENOENT)."""


def run(program: Path, address: str, out: Path) -> None:
    """Run a program; a device is given by the variable that the selftests' library reads."""
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
    """Run every program that is named."""
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
